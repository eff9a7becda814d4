//! What is sent to a member: fields, framing, target.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header, request::Parts};
use hyper::body::Incoming;
use tracing::{error, info};

use super::{Attempt, Failure, LOG};
use crate::{
    config::spec::Via,
    proxy::{
        body::{BodyError, Expectation, Go, Held, Progress, RequestBody, Stall},
        client::Asked,
        exchange::Exchange,
        fields::{self, Direction, Present},
        plan::Destination,
        policy,
        reason::Reason,
    },
};

/// What is sent to a member, kept so that it can be sent to another.
pub(super) struct Outgoing<'a> {
    /// Head, in its place: it is large.
    pub(super) parts: &'a mut Parts,
    /// What the client asked for: members differ in what they put before its path.
    pub(super) asked_for: Uri,
    /// Body, until it went out.
    pub(super) body: RequestBody,
    /// How far it is.
    pub(super) progress: Rc<Progress>,
    /// The Host field as the client wrote it, with `ProxyPreserveHost`.
    pub(super) preserved_host: Option<HeaderValue>,
    /// What the client wants to switch to; `None` with a body.
    pub(super) upgrade: Option<HeaderValue>,
    /// Set by the member's 100.
    go: Option<Rc<Go>>,
    /// The client asked for it itself.
    expects: bool,
}

impl<'a> Outgoing<'a> {
    /// Reads the body as far as it is read before a member is chosen, and frames it.
    pub(super) async fn new(
        exchange: &Exchange,
        parts: &'a mut Parts,
        said: fields::Connection,
        body: Option<Incoming>,
    ) -> Result<Self, Attempt> {
        let present = said.present;
        let mut go = None;
        let body = body.filter(|body| !http_body::Body::is_end_stream(body));
        let expects = present.has(Present::EXPECT);
        let forwards = expects && policy::forwards_expect(exchange);
        if expects && (body.is_none() || !forwards) {
            parts.headers.remove(header::EXPECT);
        }
        let (body, progress) = match body {
            None => (RequestBody::Empty, Rc::clone(&exchange.shard.no_upload)),
            Some(body) if forwards => {
                let given = Rc::new(Go::default());
                go = Some(Rc::clone(&given));
                RequestBody::expected(body, Expectation::new(given, exchange.shard.wheel.alarm()))
            }
            Some(body) => {
                let stream = exchange.stream.as_ref();
                let stall = stream.map(|stream| Stall::new(stream.upload_alarm()));
                // Boxed: most requests have no body, and need no room for this.
                Box::pin(RequestBody::prefetch(body, stall))
                    .await
                    .map_err(|error| upload_failed(exchange, &error))?
            }
        };
        // Framed anew: what is sent is what was decoded.
        match &body {
            RequestBody::Empty => {
                if present.has(Present::CONTENT_LENGTH)
                    && let Some(length) = parts.headers.remove(header::CONTENT_LENGTH)
                    && length.as_bytes() == b"0"
                {
                    parts.headers.insert(header::CONTENT_LENGTH, length);
                }
            }
            RequestBody::Whole(bytes) => {
                let length = HeaderValue::from(bytes.len());
                parts.headers.insert(header::CONTENT_LENGTH, length);
            }
            RequestBody::Streamed(_) | RequestBody::Held(_) => {
                if let Some(length) = http_body::Body::size_hint(&body).exact() {
                    let length = HeaderValue::from(length);
                    parts.headers.insert(header::CONTENT_LENGTH, length);
                } else {
                    parts.headers.remove(header::CONTENT_LENGTH);
                    let chunked = HeaderValue::from_static("chunked");
                    parts.headers.insert(header::TRANSFER_ENCODING, chunked);
                }
            }
        }
        let preserved_host = policy::preserves_host(exchange)
            .then(|| parts.headers.get(header::HOST).cloned())
            .flatten();
        let may_switch = parts.version == Version::HTTP_11 && matches!(body, RequestBody::Empty);
        parts.version = Version::HTTP_11;
        Ok(Self {
            upgrade: said.upgrade.filter(|_| may_switch),
            asked_for: std::mem::take(&mut parts.uri),
            parts,
            body,
            progress,
            preserved_host,
            expects: go.is_some(),
            go,
        })
    }

    /// Whom to tell of the member's 100.
    pub(super) fn goes(&self) -> [Option<Rc<Go>>; 2] {
        let own = match &self.body {
            RequestBody::Held(held) => Some(held.go()),
            _ => None,
        };
        [own, self.go.clone()]
    }

    /// Keeps the body back until the member wants it (`ping`); `None`: there is none. Until
    /// [`Outgoing::let_go`] the request is one that asks for it.
    pub(super) fn hold(&mut self) -> Option<Rc<Held>> {
        if let RequestBody::Held(held) = &self.body {
            return Some(Rc::clone(held));
        }
        if http_body::Body::is_end_stream(&self.body) {
            return None;
        }
        let body = std::mem::replace(&mut self.body, RequestBody::Empty);
        let held = Rc::new(Held::new(body, &self.progress));
        self.body = RequestBody::Held(Rc::clone(&held));
        let expect = HeaderValue::from_static("100-continue");
        self.parts.headers.insert(header::EXPECT, expect);
        Some(held)
    }

    /// Takes a body back that the member did not want.
    pub(super) fn let_go(&mut self) {
        if let RequestBody::Held(held) = &self.body
            && let Some(body) = held.release()
        {
            self.body = body;
            if !self.expects {
                self.parts.headers.remove(header::EXPECT);
            }
        }
    }
}

pub(super) fn upload_failed(exchange: &Exchange, error: &BodyError) -> Attempt {
    let peer = exchange.client.peer;
    let timed_out = error.is_timeout();
    let reason = if timed_out {
        Reason::BodyTimeout
    } else {
        Reason::BadBody
    };
    if timed_out {
        info!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] AH01382: Request body read timeout"
        );
    }
    error!(
        target: LOG,
        reason = reason.name(),
        "[client {peer}] AH01095: prefetch request body failed: {error}"
    );
    let failure = Failure::plain(if timed_out {
        StatusCode::REQUEST_TIMEOUT
    } else {
        StatusCode::BAD_REQUEST
    });
    Attempt::Failed(failure.because(reason))
}

/// X-Forwarded-*, and the client's Host value where an absolute target gave another.
pub(super) fn add_fields(exchange: &Exchange, parts: &mut Parts, asked: Option<&Asked>) {
    let headers = &mut parts.headers;
    if let Some(asked) = asked
        && parts.uri.authority().is_some()
    {
        headers.insert(header::HOST, asked.value.clone());
    }
    add_via(exchange, headers, asked, Direction::Request);
    if !policy::adds_fields(exchange) {
        return;
    }
    let address = exchange.client.forwarded_for();
    fields::append(headers, fields::FORWARDED_FOR, address);
    // RequestHeader may have changed it.
    let edited = exchange.ruling.as_ref();
    let edited = edited.map(|_| headers.get(header::HOST).cloned());
    if let Some(host) = edited.unwrap_or_else(|| asked.map(|asked| asked.value.clone())) {
        fields::append(headers, fields::FORWARDED_HOST, &host);
    }
    let server = &exchange.host().forwarded_server;
    fields::append(headers, fields::FORWARDED_SERVER, server);
}

/// `ProxyVia`, for requests and for responses (RFC 9110 section 7.6.3). As httpd: the virtual host's
/// name with the port that the client asked for, in responses in a field of its own.
pub(super) fn add_via(
    exchange: &Exchange,
    headers: &mut HeaderMap,
    asked: Option<&Asked>,
    direction: Direction,
) {
    let host = exchange.host_spec();
    let comment = match host.via {
        Via::Block if direction == Direction::Request => {
            return drop(headers.remove(header::VIA));
        }
        // Measured of Block: a member's own passes.
        Via::Off | Via::Block => return,
        Via::On => "",
        Via::Full => " (sluice)",
    };
    let name = &exchange.host().name;
    let version = match (&exchange.stream, exchange.unframed) {
        (Some(_), _) => "2.0",
        (None, true) => "1.0",
        (None, false) => "1.1",
    };
    let port = policy::Canonically::of(exchange, asked).colon_port();
    if let Ok(value) = HeaderValue::try_from(format!("{version} {name}{port}{comment}")) {
        match direction {
            Direction::Request => fields::append(headers, header::VIA, &value),
            Direction::Response => drop(headers.append(header::VIA, value)),
        }
    }
}

/// The member's path, then the route's; the query as it came.
pub(super) fn target(
    member: &Destination,
    path: Option<&[u8]>,
    asked: &Uri,
) -> Result<Uri, Attempt> {
    if path.is_none() && member.path.is_empty() {
        return Ok(asked.clone());
    }
    let mut target = member.path.clone().into_bytes();
    target.extend_from_slice(path.unwrap_or_else(|| asked.path().as_bytes()));
    if let Some(query) = asked.query() {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    Uri::from_maybe_shared(Bytes::from(target)).map_err(|_| {
        Attempt::Failed(Failure::proxy(
            StatusCode::BAD_REQUEST,
            "URI cannot be parsed",
        ))
    })
}
