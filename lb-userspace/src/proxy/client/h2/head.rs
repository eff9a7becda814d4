//! What the gate is for HTTP/1: rules for a request's head that the protocol library does not have
//! (RFC 9113 sections 8.2 and 8.3; apache.md 3.19). Pure.
//!
//! The library resets what is malformed as such: pseudo fields twice, missing or late, names that
//! are not lower case, `Connection` and its like, a Content-Length that the DATA frames belie.

use http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts};

use crate::proxy::gate::{Limits, Refusal};

/// Makes the head one as HTTP/1.1 has it: target in origin form, Host, one Cookie. On a refusal as
/// far as it came.
pub(crate) fn admit(parts: &mut Parts, limits: &Limits) -> Result<(), Refusal> {
    let bad = Refusal::Malformed;
    let authority = to_origin_form(&mut parts.uri)?;
    let target = parts
        .uri
        .path_and_query()
        .map_or(1, |path| path.as_str().len());
    // As the request line would be.
    if parts.method.as_str().len() + target + " / HTTP/2.0".len() - 1 > limits.line {
        return Err(Refusal::LineTooLong);
    }
    let seen = Seen::of(&parts.headers);
    seen.check_sizes(limits)?;
    if seen.hosts > 1 {
        return Err(bad("repeated Host"));
    }
    match (&authority, seen.host) {
        (Some(authority), Some(host))
            if !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(bad(":authority and Host differ"));
        }
        (None, Some(host)) if host.is_empty() => return Err(bad("empty Host")),
        (None, None) => return Err(bad("neither :authority nor Host")),
        _ => {}
    }
    if seen.lengths > 1 {
        return Err(bad("repeated Content-Length"));
    }
    let (crumbs, expects) = (seen.crumbs, seen.expects);
    if let Some(authority) = authority {
        parts.headers.insert(header::HOST, authority);
    }
    // The body is awaited without it: hyper sends no 100 over HTTP/2.
    if expects
        && let Some(expectation) = parts.headers.remove(header::EXPECT)
        && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::Expectation);
    }
    if crumbs > 1 {
        join_cookies(&mut parts.headers, limits)?;
    }
    // Last, so that a malformed request is 400 whatever its method.
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    Ok(())
}

/// Takes scheme and authority out of the target.
fn to_origin_form(uri: &mut Uri) -> Result<Option<HeaderValue>, Refusal> {
    let authority = match uri.authority() {
        None => None,
        Some(authority) if authority.as_str().contains('@') => {
            return Err(Refusal::Malformed("user name in :authority"));
        }
        Some(authority) => Some(
            HeaderValue::from_str(authority.as_str())
                .map_err(|_| Refusal::Malformed(":authority is no field value"))?,
        ),
    };
    // CONNECT has an authority alone, and is refused.
    let path = uri.path_and_query().cloned();
    *uri = path.map_or_else(Uri::default, Uri::from);
    Ok(authority)
}

/// What one look at all fields tells.
#[derive(Default)]
struct Seen<'a> {
    /// Fields.
    count: usize,
    /// Bytes of the longest, name and value.
    longest: usize,
    hosts: usize,
    /// The last Host.
    host: Option<&'a HeaderValue>,
    lengths: usize,
    crumbs: usize,
    expects: bool,
}

impl<'a> Seen<'a> {
    fn of(fields: &'a HeaderMap) -> Self {
        let mut seen = Self {
            count: fields.len(),
            ..Self::default()
        };
        for (name, value) in fields {
            let length = name.as_str().len();
            seen.longest = seen.longest.max(length + value.len());
            match length {
                4 if *name == header::HOST => {
                    seen.hosts += 1;
                    seen.host = Some(value);
                }
                6 if *name == header::COOKIE => seen.crumbs += 1,
                6 if *name == header::EXPECT => seen.expects = true,
                14 if *name == header::CONTENT_LENGTH => seen.lengths += 1,
                _ => {}
            }
        }
        seen
    }

    /// Number and length of fields; crumbs of a cookie are one field.
    fn check_sizes(&self, limits: &Limits) -> Result<(), Refusal> {
        let count = self.count - self.crumbs.saturating_sub(1);
        if limits.fields != 0 && count > limits.fields {
            return Err(Refusal::Fields(
                "AH10181: number of request headers exceeds LimitRequestFields",
            ));
        }
        if self.count > 0 && self.longest + ": ".len() > limits.field {
            return Err(Refusal::Fields(
                "AH10180: request header exceeds LimitRequestFieldSize",
            ));
        }
        Ok(())
    }
}

/// One Cookie field of all crumbs (RFC 9113 section 8.2.3): HTTP/1.1 has no other.
fn join_cookies(fields: &mut HeaderMap, limits: &Limits) -> Result<(), Refusal> {
    let mut joined = Vec::new();
    for crumb in fields.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if "cookie: ".len() + joined.len() > limits.field {
        return Err(Refusal::Fields(
            "AH10180: joined cookies exceed LimitRequestFieldSize",
        ));
    }
    let joined = HeaderValue::from_bytes(&joined).map_err(|_| Refusal::Malformed("cookie"))?;
    fields.insert(header::COOKIE, joined);
    Ok(())
}

/// Bytes of a head as HTTP/1.1 would send it without its first line: HTTP/2 packs fields, and what
/// they take depends on the requests before.
pub(super) fn field_bytes(fields: &HeaderMap) -> u64 {
    let all = fields.iter();
    all.map(|(name, value)| (name.as_str().len() + value.len() + ": \r\n".len()) as u64)
        .sum::<u64>()
        + 2
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const LIMITS: Limits = Limits {
        line: 40,
        fields: 4,
        field: 31,
    };

    fn admitted(uri: &str, method: &str, fields: &[(&str, &str)]) -> Result<Parts, Refusal> {
        let mut request = Request::builder().uri(uri).method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).expect("request").into_parts().0;
        admit(&mut parts, &LIMITS).map(|()| parts)
    }

    fn status(uri: &str, method: &str, fields: &[(&str, &str)]) -> u16 {
        admitted(uri, method, fields).expect_err("refused").status()
    }

    #[test]
    fn head_becomes_one_of_http_1() {
        let fields = [
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("expect", "100-Continue"),
        ];
        let parts = admitted("https://H.test:8/p?q", "GET", &fields).expect("admitted");
        assert_eq!(parts.uri, "/p?q");
        assert_eq!(parts.headers["host"], "H.test:8");
        let cookies: Vec<_> = parts.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert!(!parts.headers.contains_key("expect"));
        let parts = admitted("/p", "GET", &[("host", "h")]).expect("Host alone will do");
        assert_eq!(parts.headers["host"], "h");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!(status("https://a/", "GET", &[("host", "b")]), 400);
        assert_eq!(status("https://u@a/", "GET", &[]), 400);
        assert_eq!(status("/", "GET", &[]), 400);
        assert_eq!(status("/", "GET", &[("host", "a"), ("host", "a")]), 400);
        assert_eq!(status("/", "GET", &[("host", "")]), 400);
        let lengths = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(status("https://a/", "POST", &lengths), 400);
        assert_eq!(status("https://a/", "POST", &[("expect", "x")]), 417);
        assert_eq!(status("https://a/", "TRACE", &[]), 405);
        assert_eq!(status("a:443", "CONNECT", &[]), 405);
    }

    #[test]
    fn limits_are_those_of_the_directives() {
        // "GET " and " HTTP/2.0" and 27 bytes are 40.
        let path = "x".repeat(26);
        assert!(admitted(&format!("https://a/{path}"), "GET", &[]).is_ok());
        assert_eq!(status(&format!("https://a/{path}x"), "GET", &[]), 414);
        let value = "v".repeat(28);
        assert!(admitted("https://a/", "GET", &[("x", &value)]).is_ok());
        assert_eq!(status("https://a/", "GET", &[("xx", &value)]), 431);
        let five = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")];
        assert!(admitted("https://a/", "GET", &five[..4]).is_ok());
        assert_eq!(status("https://a/", "GET", &five), 431);
        let crumb = ("cookie", "a=1");
        assert!(
            admitted("https://a/", "GET", &[crumb; 5]).is_ok(),
            "crumbs are one field"
        );
        assert_eq!(status("https://a/", "GET", &[crumb; 6]), 431);
    }
}
