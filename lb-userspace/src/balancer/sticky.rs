//! Sticky sessions: the route that a request carries, and the member it leads to (apache.md 5.4).

use lb_common::member::MemberState;

use super::Balancer;
use crate::config::spec::Sticky;

/// What a request says about its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The route. An empty one leads to no member, and the variables say that there was one.
    pub route: Vec<u8>,
    /// Found in the URL, not in a cookie.
    pub in_url: bool,
}

/// Finds the session of a request. `url` is the proxied path with its query; `cookies` are the
/// values of the Cookie fields. The URL beats the cookie even when it holds no route.
pub fn session<'a>(
    sticky: &Sticky,
    url: &[u8],
    cookies: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Session> {
    let (value, in_url) = match url_parameter(url, sticky.path.as_bytes(), sticky.scolonpathdelim) {
        Some(value) => (value, true),
        None => (value_of(cookies, &sticky.cookie)?, false),
    };
    let route = match sticky.separator {
        None => value,
        Some(separator) => {
            let mut bytes = [0; 4];
            let separator = separator.encode_utf8(&mut bytes).as_bytes();
            &value[find(value, separator)? + separator.len()..]
        }
    };
    Some(Session {
        route: route.to_vec(),
        in_url,
    })
}

/// Value of `name=` anywhere in the URL. No boundary is asked for before the name, as in httpd.
fn url_parameter<'a>(url: &'a [u8], name: &[u8], semicolon_ends: bool) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    let ends = |byte: &u8| matches!(byte, b'?' | b'&') || (semicolon_ends && *byte == b';');
    let mut from = 0;
    while let Some(at) = find(&url[from..], name) {
        let rest = &url[from + at + name.len()..];
        from += at + 1;
        if let Some((b'=', value)) = rest.split_first()
            && !value.is_empty()
        {
            // httpd cuts with strtok, which skips separators in front of the value.
            let start = value.iter().position(|byte| !ends(byte))?;
            let value = &value[start..];
            let end = value.iter().position(ends).unwrap_or(value.len());
            return Some(&value[..end]);
        }
    }
    None
}

/// Value of the first cookie of a name in the values of Cookie fields.
pub fn value_of<'a>(cookies: impl IntoIterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    cookies
        .into_iter()
        .find_map(|cookie| cookie_value(cookie, name.as_bytes()))
}

/// Value of a cookie. Quotes are kept; `,` ends a value as `;` does.
fn cookie_value<'a>(cookies: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    let mut from = 0;
    while let Some(at) = find(&cookies[from..], name) {
        let start = from + at;
        from = start + 1;
        let bounded = start == 0
            || matches!(cookies[start - 1], b';' | b',')
            || cookies[start - 1].is_ascii_whitespace();
        if !bounded {
            continue;
        }
        let rest = cookies[start + name.len()..].trim_ascii_start();
        if let Some((b'=', value)) = rest.split_first()
            && !value.is_empty()
        {
            let end = value
                .iter()
                .position(|byte| matches!(byte, b';' | b','))
                .unwrap_or(value.len());
            return Some(&value[..end]);
        }
    }
    None
}

/// The Set-Cookie value that keeps a client with the member of `route` (`stickycookie`). `path`: the
/// proxied path, `/` where it cannot stand in the field; `secure`: the client came over TLS.
pub fn cookie(sticky: &Sticky, route: &str, path: &str, secure: bool) -> String {
    let name = &sticky.cookie;
    let separator = sticky.separator.map(String::from).unwrap_or_default();
    let fits = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b';');
    let path = if fits { path } else { "/" };
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={separator}{route}; Path={path}; HttpOnly; SameSite=Lax{secure}")
}

/// Whether a Set-Cookie value is for the cookie of this name (RFC 6265 section 5.2).
pub fn is_for_cookie(value: &[u8], name: &str) -> bool {
    let pair = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let known = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    pair.contains(&b'=') && known.trim_ascii() == name.as_bytes()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    memchr::memchr_iter(first, haystack).find(|at| haystack[*at..].starts_with(needle))
}

impl Balancer {
    /// The member of a route: ordinary ones first, hot standbys after them. A member that drains
    /// (N) is taken, which is what lets its sessions finish. One that is unusable hands over to the
    /// member its `redirect` names.
    pub(super) fn find_route(&self, route: &[u8], now_ns: u64) -> Option<usize> {
        self.find_route_within(route, now_ns, self.members.len())
    }

    fn find_route_within(&self, route: &[u8], now_ns: u64, redirects: usize) -> Option<usize> {
        for standbys in [false, true] {
            for (member, known) in self.members.iter().enumerate() {
                if known.route.is_empty()
                    || known.route.as_bytes() != route
                    || self.state(member).has(MemberState::STANDBY) != standbys
                {
                    continue;
                }
                if self.is_usable(member) || self.becomes_usable(member, now_ns) {
                    return Some(member);
                }
                // Bounded by the number of members: redirects may form a circle.
                if !known.redirect.is_empty() && redirects > 0 {
                    let other =
                        self.find_route_within(known.redirect.as_bytes(), now_ns, redirects - 1);
                    if other.is_some() {
                        return other;
                    }
                }
            }
        }
        None
    }

    fn becomes_usable(&self, member: usize, now_ns: u64) -> bool {
        self.retry_if_due(member, now_ns) && self.is_usable(member)
    }

    pub(super) fn knows_route(&self, route: &[u8]) -> bool {
        self.members
            .iter()
            .any(|member| !member.route.is_empty() && member.route.as_bytes() == route)
    }
}

#[cfg(test)]
mod tests;
