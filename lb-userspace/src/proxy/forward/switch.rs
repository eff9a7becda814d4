//! Upgrades: what is asked of a member, what its 101 has to look like, and the answer that turns a
//! connection into a tunnel (apache.md 6.6). The tunnel itself is in `client/tunnel.rs`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version, header};
use http_body::{Body, Frame, SizeHint};

use crate::proxy::{
    body::{BodyError, ReplyBody},
    client::Tunnel,
    exchange::Exchange,
    fields::{self, Direction},
    pool::Upstream,
};

/// What hyper sends to a client behind a head.
pub(crate) enum Reply {
    /// A body.
    Body(ReplyBody),
    /// Nothing: the connection is a tunnel from here on.
    Switched,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Body(body) => Pin::new(body).poll_frame(cx),
            Self::Switched => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Body(body) => body.is_end_stream(),
            Self::Switched => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Body(body) => body.size_hint(),
            Self::Switched => SizeHint::with_exact(0),
        }
    }
}

/// Asks for a protocol, or for none, in the fields of a request; its Connection field is written
/// with the head.
pub(super) fn ask(fields: &mut HeaderMap, protocol: Option<&HeaderValue>) {
    match protocol {
        Some(protocol) => fields.insert(header::UPGRADE, protocol.clone()),
        None => fields.remove(header::UPGRADE),
    };
}

/// Whether a 101 switches to what was asked for, and to nothing else.
pub(super) fn is_agreed(fields: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut named = fields.get_all(header::UPGRADE).iter();
    let (Some(named), None) = (named.next(), named.next()) else {
        return false;
    };
    named
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(asked.as_bytes())
}

/// Passes a member's 101 on: the connection is a tunnel once hyper has let go of it.
pub(super) fn tunnel(
    mut exchange: Box<Exchange>,
    response: Response<()>,
    upstream: Box<Upstream>,
) -> Response<Reply> {
    exchange.first_byte();
    let (mut parts, ()) = response.into_parts();
    parts.version = Version::HTTP_11;
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    fields::strip(&mut parts.headers, Direction::Response);
    // It has no body (RFC 9110 section 8.6).
    parts.headers.remove(header::CONTENT_LENGTH);
    let connection = HeaderValue::from_static("Upgrade");
    parts.headers.insert(header::CONNECTION, connection);
    let mut is_websocket = false;
    if let Some(protocol) = protocol {
        is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
        parts.headers.insert(header::UPGRADE, protocol);
    }
    super::cookie::set(&exchange, &mut parts.headers);
    exchange.closes = true;
    exchange.answer(parts.status, &parts.headers);
    let client_timeout = exchange.host_spec().timeout;
    let timeout = client_timeout.max(exchange.member_timeout());
    let client = std::rc::Rc::clone(&exchange.client);
    let made = Tunnel::new(exchange, upstream, timeout, is_websocket);
    client.switch(Box::new(made));
    Response::from_parts(parts, Reply::Switched)
}
