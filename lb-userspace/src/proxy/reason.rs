//! Why a request failed: one code for each, under which it is counted, and which its lines in
//! access log and error log carry. docs/reasons.md lists them for operators.
//!
//! A status that a member sent is no failure of the proxy's, whatever it is.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal;)*) => {
        /// Why a request failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in logs, metrics and docs/reasons.md.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// The head, the Host value or the target is malformed.
    BadRequest = "bad_request";
    /// CONNECT, TRACE.
    MethodRefused = "method_refused";
    /// The head was begun and not finished in time.
    HeaderTimeout = "header_timeout";
    /// Longer than a limit allows.
    TooLarge = "too_large";
    /// An expectation other than 100-continue.
    BadExpectation = "bad_expectation";
    /// A transfer coding besides chunked.
    BadCoding = "bad_coding";
    /// Not HTTP/1.x.
    BadVersion = "bad_version";
    /// Nothing of the virtual host takes the path.
    NoRoute = "no_route";
    /// Require, or Order with Allow and Deny, refuses the client.
    AccessDenied = "access_denied";
    /// A Redirect with a status that is none of a redirect.
    Redirected = "redirected";
    /// Max-Forwards has reached zero.
    Loop = "loop";
    /// The client broke off its body, or sent a malformed one.
    BadBody = "bad_body";
    /// The client stopped sending its body.
    BodyTimeout = "body_timeout";
    /// No member is usable.
    NoMember = "no_member";
    /// The session's member is not usable and `nofailover` forbids another.
    RouteDown = "route_down";
    /// The member's name has no address.
    Unresolved = "unresolved";
    /// The kernel refused the connection, or its answer did.
    ConnectFailed = "connect_failed";
    /// `connectiontimeout` passed.
    ConnectTimeout = "connect_timeout";
    /// `max` connections are open and `acquire` passed.
    PoolExhausted = "pool_exhausted";
    /// This host had no descriptor, port or memory for a connection to a member.
    NoResources = "no_resources";
    /// No TLS with the member: the handshake failed or was not done in time.
    MemberTls = "member_tls";
    /// The member's certificate was not accepted.
    MemberCertificate = "member_certificate";
    /// The member did not take the request in time.
    SendTimeout = "send_timeout";
    /// No response head in time.
    ResponseTimeout = "response_timeout";
    /// The member closed the connection without a byte of response.
    NoResponse = "no_response";
    /// What came is no response that may be passed on.
    BadResponse = "bad_response";
    /// The response broke off before its end.
    Truncated = "truncated";
    /// The response stopped coming.
    ResponseBodyTimeout = "response_body_timeout";
    /// The client left before the response's end.
    ClientGone = "client_gone";
    /// Nothing came through a tunnel for as long as its timeout allows.
    TunnelIdle = "tunnel_idle";
    /// The client did not take the response for as long as `H2StreamTimeout` allows.
    ClientStalled = "client_stalled";
    /// The HTTP/2 connection was closed for what it flooded the proxy with.
    Http2Flood = "http2_flood";
    /// Any other answer of the proxy's own with an error status.
    Other = "other";
}

impl Reason {
    /// What an error page's status says where nothing better is known.
    pub const fn of_status(status: u16) -> Self {
        match status {
            400 => Self::BadRequest,
            403 => Self::AccessDenied,
            404 => Self::NoRoute,
            405 => Self::MethodRefused,
            408 => Self::BodyTimeout,
            413 | 414 | 431 => Self::TooLarge,
            417 => Self::BadExpectation,
            501 => Self::BadCoding,
            502 => Self::BadResponse,
            503 => Self::NoMember,
            504 => Self::SendTimeout,
            505 => Self::BadVersion,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::telemetry::counters::MAX_REASONS;

    /// One row per reason, in order: ``| `name` | meaning |`` below the heading "Requests".
    #[test]
    fn docs_list_every_reason() {
        let page = include_str!("../../../docs/reasons.md");
        let (_, part) = page.split_once("\n## Requests\n").expect("the heading");
        let docs: Vec<&str> = part
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .map(|(name, _)| name)
            .collect();
        let code: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(docs, code);
    }

    /// Ids in a text.
    fn ids(text: &str) -> impl Iterator<Item = &str> {
        let found = text.match_indices("AH").map(|(at, _)| &text[at..]);
        let ids = found.filter_map(|text| text.get(..7));
        ids.filter(|id| id[2..].bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Ids in the code of a directory, without tests and comments.
    fn ids_in_sources(dir: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            if path.is_dir() && name != Some("tests") {
                ids_in_sources(&path, into);
            } else if name != Some("tests.rs") && path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let code = text
                    .split("#[cfg(test)]\nmod tests {")
                    .next()
                    .unwrap_or_default();
                let code = code.lines();
                let code = code.filter(|line| !line.trim_start().starts_with("//"));
                into.extend(code.flat_map(ids).map(str::to_owned));
            }
        }
    }

    #[test]
    fn docs_list_every_message_id() {
        let page = include_str!("../../../docs/reasons.md");
        let (_, part) = page.split_once("\n## Message ids\n").expect("the heading");
        let (tables, never) = part.split_once("never written").expect("the last sentence");
        let rows = tables.lines().filter_map(|line| line.strip_prefix("| AH"));
        let rows = rows.filter_map(|row| row.split_once(" |"));
        let docs: Vec<String> = rows
            .flat_map(|(cell, _)| {
                ids(&format!("AH{cell}"))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut code = BTreeSet::new();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        ids_in_sources(&sources, &mut code);
        assert!(code.len() > 40, "{code:?}");
        assert_eq!(docs.iter().cloned().collect::<BTreeSet<_>>(), code);
        assert_eq!(docs.len(), code.len(), "one row each");
        assert!(ids(never).count() > 0 && ids(never).all(|id| !code.contains(id)));
    }

    #[test]
    fn every_reason_has_a_counter() {
        assert!(Reason::ALL.len() <= MAX_REASONS);
        let numbers = Reason::ALL.iter().map(|reason| *reason as usize);
        assert!(numbers.eq(0..Reason::ALL.len()));
    }
}
