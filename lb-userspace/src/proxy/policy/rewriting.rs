//! mod_rewrite's rules, carried out where httpd does it: after SetEnvIf, before ProxyPass. The rules
//! are [`crate::rewrite`]'s.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, uri::PathAndQuery};
use tracing::error;

use super::{LOG, Ruling, Scene, Stop};
use crate::{
    config::spec::{Host, Spec},
    proxy::{path, reason::Reason},
    rewrite::{self, Cookie, Outcome},
};

/// A member that a `[P]` rule sends a request to.
#[derive(Debug)]
pub(crate) struct Proxied {
    /// Index into the Spec's balancers.
    pub(crate) balancer: usize,
    /// Encoded, from the first slash.
    pub(crate) path: Vec<u8>,
}

/// What is to be done with a request after its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// ProxyPass is asked.
    Route,
    /// It is not: a rule said where the request goes.
    Done,
}

impl Ruling {
    /// Applies the server's rules, where the engine is on.
    pub(super) fn rewrite(
        &mut self,
        scene: &dyn Scene,
        spec: &Spec,
        host: &Host,
        fields: &HeaderMap,
    ) -> Result<Then, Stop> {
        let Some(own) = self.layers[..self.servers].last() else {
            return Ok(Then::Route);
        };
        let rules = &spec.policies[*own].rewriting.rules;
        let engine = |policy: usize| spec.policies[policy].rewriting.engine;
        let sections = host.locations.iter().rev();
        let is_on = sections
            .filter(|section| engine(section.policy).is_some())
            .find(|section| section.matcher.matches_path(&self.path))
            .and_then(|section| engine(section.policy))
            .or_else(|| {
                self.layers[..self.servers]
                    .iter()
                    .rev()
                    .find_map(|at| engine(*at))
            });
        if is_on != Some(true) || rules.is_empty() {
            return Ok(Then::Route);
        }
        let asker = self.asker(scene, fields);
        let query = self.query.clone();
        let applied = rewrite::apply(
            rules,
            &asker,
            &self.environment,
            &self.path,
            query.as_deref(),
        );
        self.cookies = applied
            .cookies
            .iter()
            .filter_map(|cookie| set_cookie(cookie, self.begun))
            .collect();
        match applied.outcome {
            Outcome::Declined => Ok(Then::Route),
            Outcome::Passed { path, query } => {
                self.path = path;
                self.rewritten = true;
                self.requery(query);
                Ok(Then::Route)
            }
            Outcome::Local => Ok(Then::Done),
            Outcome::Proxied {
                balancer,
                path,
                query,
                raw,
            } => {
                let path = if raw {
                    path
                } else {
                    path::encode(&path).into_owned()
                };
                self.proxied = Some(Proxied { balancer, path });
                self.requery(query);
                Ok(Then::Done)
            }
            Outcome::Redirected { status, place } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
                match HeaderValue::from_bytes(&place) {
                    Ok(place) => Err(Stop::Send(status, place)),
                    // What no field can hold is no place to send anybody.
                    Err(_) => Err(Stop::Fail(StatusCode::FORBIDDEN, Reason::Redirected)),
                }
            }
            Outcome::Failed { status, cause } => {
                let reason = Reason::of_status(status);
                if let Some(cause) = cause {
                    error!(
                        target: LOG,
                        reason = reason.name(),
                        "[client {}] {cause}: {}", scene.peer(), self.target.path()
                    );
                }
                let status =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(Stop::Fail(status, reason))
            }
        }
    }

    /// The request has this query from here on.
    fn requery(&mut self, query: Option<Vec<u8>>) {
        self.requeried = self.query != query;
        self.query = query;
    }

    /// The target with the query that rules gave it.
    pub(super) fn requeried(&self, target: &Uri) -> Result<Option<Uri>, Stop> {
        if !self.requeried {
            return Ok(None);
        }
        let mut text = target.path().as_bytes().to_vec();
        if let Some(query) = &self.query {
            text.push(b'?');
            text.extend_from_slice(query);
        }
        let mut parts = target.clone().into_parts();
        let refused = || Stop::Fail(StatusCode::FORBIDDEN, Reason::BadRequest);
        let path = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| refused())?;
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map(Some).map_err(|_| refused())
    }
}

/// The field that sets a cookie; `None`: something in it no field can hold.
fn set_cookie(cookie: &Cookie, now: SystemTime) -> Option<HeaderValue> {
    let mut text = cookie.name.clone();
    text.push(b'=');
    text.extend_from_slice(&cookie.value);
    text.extend_from_slice(b"; path=");
    text.extend_from_slice(&cookie.path);
    text.extend_from_slice(b"; domain=");
    text.extend_from_slice(&cookie.domain);
    if cookie.minutes != 0 {
        let span = Duration::from_secs(cookie.minutes.unsigned_abs().saturating_mul(60));
        let end = if cookie.minutes > 0 {
            now.checked_add(span)
        } else {
            now.checked_sub(span)
        };
        let end = jiff::Timestamp::try_from(end?).ok()?;
        let end = end.strftime("; expires=%a, %d-%b-%Y %H:%M:%S GMT");
        text.extend_from_slice(end.to_string().as_bytes());
    }
    if cookie.secure {
        text.extend_from_slice(b"; secure");
    }
    if cookie.http_only {
        text.extend_from_slice(b"; HttpOnly");
    }
    if let Some(same_site) = &cookie.same_site {
        text.extend_from_slice(b"; SameSite=");
        text.extend_from_slice(same_site);
    }
    HeaderValue::from_bytes(&text).ok()
}
