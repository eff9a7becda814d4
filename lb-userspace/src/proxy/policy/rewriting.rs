//! mod_rewrite's rules, carried out where httpd does it: the server's after SetEnvIf, before ProxyPass;
//! those of sections after access. The rules are [`crate::rewrite`]'s.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, uri::PathAndQuery};
use tracing::error;

use super::{LOG, Ruling, Scene, Stop};
use crate::{
    config::spec::{Host, Spec},
    proxy::{path, reason::Reason},
    rewrite::{self, Applied, Cookie, Directory, Options, Outcome, Rule},
};

/// A member that a `[P]` rule sends a request to, or a ProxyPass with `mapping=` or `interpolate`.
#[derive(Debug)]
pub(crate) struct Proxied {
    /// Index into the Spec's balancers.
    pub(crate) balancer: usize,
    /// Encoded, from the first slash.
    pub(crate) path: Vec<u8>,
    /// Index of the ProxyPass; `None`: a rule.
    pub(crate) route: Option<usize>,
}

/// What is to be done with a request after its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// ProxyPass is asked.
    Route,
    /// It is not: a rule said where the request goes.
    Done,
    /// Everything is asked again: a rule of a section gave the request another path.
    Anew,
}

/// What the sections that are for a request say of rewriting.
struct Merged<'s> {
    directory: &'s str,
    rules: Cow<'s, [Rule]>,
    base: Option<&'s str>,
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
        if is_on != Some(true) || rules.is_empty() || self.ended {
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
        self.finish(scene, host, applied)
    }

    /// Applies the rules of the last section that is for the request and has any, where the engine is
    /// on.
    pub(super) fn rewrite_within(
        &mut self,
        scene: &dyn Scene,
        spec: &Spec,
        fields: &HeaderMap,
    ) -> Result<Then, Stop> {
        let Some(section) = self.section(spec) else {
            return Ok(Then::Route);
        };
        let host = scene.host_spec();
        let query = self.query.clone();
        let (mut origin, mut path) = (None, self.path.to_vec());
        if let Some((balancer, onward)) = self.destination(host) {
            let mut whole = b"proxy:".to_vec();
            whole.extend_from_slice(&super::destination::origin(spec, balancer));
            path = [&whole[..], &rewrite::unescape(&onward)].concat();
            origin = Some(whole);
        }
        let directory = Directory {
            path: section.directory,
            base: section.base,
            proxied: origin.as_deref(),
        };
        let applied = rewrite::apply_within(
            directory,
            &section.rules,
            &self.asker(scene, fields),
            &self.environment,
            &path,
            query.as_deref(),
        );
        self.finish(scene, host, applied)
    }

    /// What sections say of rewriting, merged as httpd merges them.
    fn section<'s>(&self, spec: &'s Spec) -> Option<Merged<'s>> {
        if self.ended {
            return None;
        }
        let mut engine = None;
        let mut options = Options::default();
        let mut merged: Option<Merged<'s>> = None;
        for policy in self.policies(spec) {
            let said = &policy.rewriting;
            engine = said.engine.or(engine);
            let above = options;
            options = said.options.unwrap_or(options);
            let Some(directory) = &said.directory else {
                continue;
            };
            let (rules, base) = match merged {
                Some(before) => (before.rules, before.base.filter(|_| options.merge_base)),
                None => (Cow::default(), None),
            };
            merged = Some(Merged {
                directory,
                rules: options.combine(above, &said.rules, &rules),
                base: said.base.as_deref().or(base),
            });
        }
        merged.filter(|merged| engine == Some(true) && !merged.rules.is_empty())
    }

    fn finish(&mut self, scene: &dyn Scene, host: &Host, applied: Applied) -> Result<Then, Stop> {
        if !applied.cookies.is_empty() {
            let begun = self.begun();
            let cookies = applied.cookies.iter();
            let cookies = cookies.filter_map(|cookie| set_cookie(cookie, begun));
            self.cookies.extend(cookies);
        }
        self.handler = applied.handler.or(self.handler);
        self.ended |= applied.ended;
        match applied.outcome {
            Outcome::Declined => Ok(Then::Route),
            Outcome::Passed { path, query } => {
                self.path = path.into();
                self.rewritten = true;
                self.requery(query);
                Ok(Then::Route)
            }
            Outcome::Local => Ok(Then::Done),
            Outcome::Anew { path, query } => {
                // As in httpd: what begins anew is a target, and decoded once more.
                if let Err(error) = self.take_path(host, &path) {
                    let status = StatusCode::from_u16(error.status());
                    let status = status.unwrap_or(StatusCode::BAD_REQUEST);
                    return Err(Stop::Fail(status, Reason::BadRequest));
                }
                self.rewritten = true;
                self.requery(query);
                Ok(Then::Anew)
            }
            Outcome::Onward { path, query, raw } => {
                if let Some((balancer, _)) = self.destination(host) {
                    self.proxy(host, balancer, path, raw);
                }
                self.requery(query);
                Ok(Then::Done)
            }
            Outcome::Proxied {
                balancer,
                path,
                query,
                raw,
            } => {
                self.proxy(host, balancer, path, raw);
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

    fn proxy(&mut self, host: &Host, balancer: usize, path: Vec<u8>, raw: bool) {
        let path = if raw {
            path
        } else {
            path::encode(&path, host.encoded_slashes).into_owned()
        };
        self.proxied = Some(Proxied {
            balancer,
            path,
            route: None,
        });
    }

    /// The request has this query from here on.
    fn requery(&mut self, query: Option<Vec<u8>>) {
        self.requeried |= self.query != query;
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
