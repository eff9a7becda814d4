//! What a client is answered: a member's response passed on, a page of our own, or what an
//! `ErrorDocument` puts in the place of either.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, Version, header};

use super::{Answered, Failure, Reply, add_via, cookie, forward, switch};
use crate::{
    config::spec::policy::ErrorDocument,
    proxy::{
        body::ReplyBody,
        client::Asked,
        exchange::Exchange,
        fields::{self, Direction, Present},
        page::{self, Detail},
        path,
        policy::{self, Ruling},
        pool::Upstream,
        reason::Reason,
        reverse,
    },
};

/// Answers with the page of an error, or what `ErrorDocument` has for it. `failed`: what failed
/// here, or a member's response that is not to be passed on.
pub(super) async fn instead(
    mut exchange: Box<Exchange>,
    failed: Result<Failure, Response<()>>,
    asked: Option<&Asked>,
    target: Option<&Uri>,
    wishes: Wishes,
) -> Response<Reply> {
    let status = match &failed {
        Ok(failure) => failure.status,
        Err(response) => response.status(),
    };
    let mut page = match policy::error_document(&exchange, status) {
        Some(ErrorDocument::Text(text)) => Some(page::text(status, text)),
        Some(ErrorDocument::Url(url)) => HeaderValue::try_from(url)
            .ok()
            .map(|place| page::elsewhere(StatusCode::FOUND, place)),
        Some(ErrorDocument::Path(path)) => {
            let first = exchange.ruling.take();
            let reason = match &failed {
                Ok(failure) => Some(failure.reason.unwrap_or(Reason::of_status(status.as_u16()))),
                Err(_) => None,
            };
            match document(&mut exchange, first, &path, asked).await {
                Some((response, upstream)) => {
                    if let Some(reason) = reason {
                        exchange.fail(reason);
                    }
                    return relay(exchange, response, upstream, asked, target, wishes);
                }
                None => None,
            }
        }
        Some(ErrorDocument::Default) | None => None,
    };
    let mut wishes = wishes;
    match &failed {
        Ok(failure) => {
            let by_status = Reason::of_status(status.as_u16());
            exchange.fail(failure.reason.unwrap_or(by_status));
            wishes.close |= page::closes(status);
            page.get_or_insert_with(|| page::error(status, failure.detail));
        }
        Err(response) => {
            let page = page.get_or_insert_with(|| page::error(status, Detail::Plain));
            // Without it nobody could log in.
            let asks = status == StatusCode::UNAUTHORIZED;
            for value in response
                .headers()
                .get_all(header::WWW_AUTHENTICATE)
                .iter()
                .filter(|_| asks)
            {
                page.headers_mut()
                    .append(header::WWW_AUTHENTICATE, value.clone());
            }
        }
    }
    let page = page.unwrap_or_else(|| page::error(status, Detail::Plain));
    own(exchange, page, wishes)
}

/// What a path of this server answers in place of an error's page; `None`: it fails as well.
async fn document(
    exchange: &mut Exchange,
    first: Option<Box<Ruling>>,
    path: &str,
    asked: Option<&Asked>,
) -> Option<Answered> {
    exchange.ruling = first;
    let mut parts = policy::subrequest(exchange, path)?;
    let first = exchange.ruling.take();
    let outcome = match policy::rule(exchange, &mut parts).await {
        Ok(()) => {
            let said = fields::strip(&mut parts.headers, Direction::Request);
            forward(exchange, &mut parts, said, None, asked).await.ok()
        }
        Err(_) => None,
    };
    if outcome.is_none() {
        exchange.ruling = first;
    }
    outcome
}

/// What the client said about its connection.
#[derive(Clone, Copy)]
pub(super) struct Wishes {
    pub(super) keep_alive: bool,
    pub(super) close: bool,
}

/// Passes a member's response on.
pub(super) fn relay(
    mut exchange: Box<Exchange>,
    response: Response<()>,
    upstream: Box<Upstream>,
    asked: Option<&Asked>,
    target: Option<&Uri>,
    wishes: Wishes,
) -> Response<Reply> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch::tunnel(exchange, response, upstream);
    }
    exchange.first_byte();
    let (mut parts, ()) = response.into_parts();
    parts.version = Version::HTTP_11;
    let said = fields::strip(&mut parts.headers, Direction::Response);
    if matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let host = exchange.host();
    if let Some(target) = target.filter(|_| said.present.has(Present::PLACE)) {
        // It was decoded before it was routed.
        let slashes = exchange.host_spec().encoded_slashes;
        let routes = &exchange.host_spec().routes;
        let path = path::decode_for(routes, target.path().as_bytes(), slashes).unwrap_or_default();
        let origin = policy::Canonically::of(&exchange, asked).origin();
        let rules = policy::reverses(&exchange, &host.reverses);
        reverse::rewrite_fields(&rules, &path, &mut parts.headers, &origin);
    }
    cookie::set(&exchange, &mut parts.headers);
    add_via(&exchange, &mut parts.headers, asked, Direction::Response);
    let mut wishes = wishes;
    let mut has_server = said.present.has(Present::SERVER);
    if policy::edit_response(&exchange, parts.status, &mut parts.headers) {
        let edited = fields::strip(&mut parts.headers, Direction::Response);
        wishes.close |= edited.close;
        has_server = edited.present.has(Present::SERVER);
    }
    if !has_server {
        parts.headers.insert(header::SERVER, page::SERVER);
    }
    keep_or_close(&mut exchange, &mut parts.headers, wishes);
    exchange.answer(parts.status, &parts.headers);
    let timeout = exchange.member_timeout();
    let body = ReplyBody::member(upstream, timeout, exchange);
    Response::from_parts(parts, Reply::Body(body))
}

pub(super) fn error_page(
    mut exchange: Box<Exchange>,
    failure: &Failure,
    wishes: Wishes,
) -> Response<Reply> {
    let by_status = Reason::of_status(failure.status.as_u16());
    exchange.fail(failure.reason.unwrap_or(by_status));
    let page = page::error(failure.status, failure.detail);
    let wishes = Wishes {
        close: wishes.close || page::closes(failure.status),
        ..wishes
    };
    own(exchange, page, wishes)
}

/// An answer of our own.
pub(super) fn own(
    mut exchange: Box<Exchange>,
    response: Response<Bytes>,
    wishes: Wishes,
) -> Response<Reply> {
    let (mut parts, mut body) = response.into_parts();
    let mut wishes = wishes;
    if exchange.ruling.is_some() {
        policy::edit_own(&exchange, parts.status, &mut parts.headers);
        wishes.close |= fields::strip(&mut parts.headers, Direction::Response).close;
    }
    parts.headers.insert(header::SERVER, page::SERVER);
    if exchange
        .stream
        .as_ref()
        .is_some_and(|stream| stream.is_head_only())
    {
        // hyper minds this over HTTP/1 alone.
        let length = HeaderValue::from(std::mem::take(&mut body).len());
        parts.headers.insert(header::CONTENT_LENGTH, length);
    }
    keep_or_close(&mut exchange, &mut parts.headers, wishes);
    exchange.answer(parts.status, &parts.headers);
    Response::from_parts(parts, Reply::Body(ReplyBody::page(body, exchange)))
}

/// Decides whether the connection stays, and says so as httpd does: the count of
/// `MaxKeepAliveRequests` N lets N + 1 requests through, and only a client that asked for
/// keep-alive by name is told about it (apache.md 3.19).
fn keep_or_close(exchange: &mut Exchange, headers: &mut HeaderMap, wishes: Wishes) {
    if exchange.stream.is_some() {
        // A connection of HTTP/2 outlives its requests; mod_http2 minds neither `KeepAlive` nor
        // `MaxKeepAliveRequests`.
        return;
    }
    let host = exchange.host_spec();
    let left = match host.max_keep_alive_requests {
        0 => None,
        max => Some(max.saturating_sub(exchange.client.keepalives())),
    };
    let stays =
        host.keep_alive && !wishes.close && left != Some(0) && !exchange.shard.is_draining();
    let timeout = host.keep_alive_timeout.as_secs();
    exchange.closes = !stays;
    if !stays {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if wishes.keep_alive {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Keep-Alive"));
        let value = match left {
            Some(left) => format!("timeout={timeout}, max={left}"),
            None => format!("timeout={timeout}"),
        };
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(fields::KEEP_ALIVE, value);
        }
    }
}
