//! From a request's target to the path that a member is asked for: decoding, normalising, prefix
//! rules and re-encoding (apache.md 3.1). Pure.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    config::spec::{Mapping, Route, Slashes, Target},
    pattern,
};

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A broken escape, a way out of the root, not absolute: 400.
    #[error("AH10244: invalid URI path")]
    Invalid,
    /// `%2F` or `%00`: 404.
    #[error("AH00026: found %2f (encoded '/') in URI, or %00")]
    Encoded,
}

impl PathError {
    /// Status that answers it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Encoded => 404,
        }
    }
}

/// Decodes a path and takes out `.`, `..` and runs of `/`. The result begins with `/`.
///
/// Unreserved characters are decoded before dot segments are looked for, as RFC 3986 section 6.2
/// has it, so `%2e%2e` is `..`. `%2F` is what `slashes` says, `%00` is refused.
///
/// What a decoded `%2F` makes of dots beside it is no way up: such a path is invalid, where httpd
/// would pass it on.
pub fn decode(raw: &[u8], slashes: Slashes) -> Result<Cow<'_, [u8]>, PathError> {
    if raw.first() != Some(&b'/') {
        return Err(PathError::Invalid);
    }
    let plain = !raw.contains(&b'%')
        && !raw
            .windows(2)
            .any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'));
    if plain {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out: Vec<u8> = Vec::with_capacity(raw.len());
    let mut encoded = false;
    let mut at = 0;
    while at < raw.len() {
        let mut byte = raw[at];
        at += 1;
        if byte == b'%' {
            let digits = raw.get(at..at + 2).ok_or(PathError::Invalid)?;
            byte = hex(digits[0])? << 4 | hex(digits[1])?;
            at += 2;
            if byte == b'/' && slashes == Slashes::Kept {
                out.extend_from_slice(&raw[at - 3..at]);
                continue;
            }
            if byte == b'/' {
                // No byte of a path is 0 otherwise. What it is shows once dots were looked at: with
                // its segment it may be gone by then.
                byte = 0;
            } else if byte == 0 {
                // Reported after the rest was looked at: a path that is invalid too is a 400.
                encoded = true;
                byte = b'_';
            }
        } else if byte == b'/' {
            end_segment(&mut out)?;
            if out.last() != Some(&b'/') {
                out.push(b'/');
            }
            continue;
        }
        out.push(byte);
    }
    end_segment(&mut out)?;
    let has_slash = out.contains(&0);
    if encoded || (has_slash && slashes == Slashes::Refused) {
        return Err(PathError::Encoded);
    }
    if has_slash {
        for byte in &mut out {
            if *byte == 0 {
                *byte = b'/';
            }
        }
        let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
        if out.split(|&byte| byte == b'/').any(is_dots) {
            return Err(PathError::Invalid);
        }
    }
    Ok(Cow::Owned(out))
}

/// As [`decode`], but that all that need not be encoded alone is decoded: what `mapping=` compares.
/// What cannot be decoded is refused here too, a `%2F` is not.
fn normalize(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    // Dots and slashes as `decode` has them; an escape that stays is in no segment's way.
    decode(raw, Slashes::Kept)?;
    let mut out: Vec<u8> = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let byte = raw[at];
        at += 1;
        if byte == b'%' {
            let digits = raw.get(at..at + 2).ok_or(PathError::Invalid)?;
            let decoded = hex(digits[0])? << 4 | hex(digits[1])?;
            if decoded.is_ascii_alphanumeric() || matches!(decoded, b'-' | b'.' | b'_' | b'~') {
                out.push(decoded);
            } else {
                out.extend_from_slice(&raw[at - 1..at + 2]);
            }
            at += 2;
        } else if byte == b'/' {
            end_segment(&mut out)?;
            if out.last() != Some(&b'/') {
                out.push(b'/');
            }
        } else {
            out.push(byte);
        }
    }
    end_segment(&mut out)?;
    Ok(out)
}

/// As [`decode`] for a path that one of these routes may take: what a route with `mapping=` takes
/// need not be decoded, and is the result as it was received.
pub fn decode_for<'a>(
    routes: &[Route],
    raw: &'a [u8],
    slashes: Slashes,
) -> Result<Cow<'a, [u8]>, PathError> {
    decode(raw, slashes).or_else(|error| match mapped(routes, raw) {
        Some(_) => Ok(Cow::Borrowed(raw)),
        None => Err(error),
    })
}

/// A request that a route with `mapping=` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Index of the route.
    pub route: usize,
    /// Index into the configuration's balancers.
    pub balancer: usize,
    /// What the member is asked for.
    pub path: Vec<u8>,
    /// What sections see.
    pub seen: Vec<u8>,
}

/// What routes with `mapping=` make of a path as it was received. They come first, and one with `!`
/// ends the search among them alone.
pub fn mapped(routes: &[Route], raw: &[u8]) -> Option<Mapped> {
    let is_mapped = |route: &&Route| route.mapping != Mapping::Decoded;
    routes.first().filter(is_mapped)?;
    let uri = normalize(raw).ok()?;
    for (index, route) in routes.iter().take_while(is_mapped).enumerate() {
        let captures = (route.pattern.as_ref()).map(|pattern| pattern.captures(&uri));
        let (tail, seen) = match (&captures, route.mapping) {
            (Some(None), _) => continue,
            (Some(Some(_)), _) => (0, uri.clone()),
            (None, Mapping::Servlet) => match servlet(&uri, route.path.as_bytes()) {
                Some(found) => found,
                None => continue,
            },
            (None, _) => match match_prefix(&uri, route.path.as_bytes()) {
                Some(matched) => (matched, uri.clone()),
                None => continue,
            },
        };
        let Target::Balancer { balancer, path } = &route.target else {
            return None;
        };
        let mut whole = match &captures {
            Some(Some(captures)) => pattern::substitute(path.as_bytes(), &uri, captures),
            _ => path.as_bytes().to_vec(),
        };
        if captures.is_none() || whole == path.as_bytes() {
            whole.extend_from_slice(&uri[tail..]);
        }
        return Some(Mapped {
            route: index,
            balancer: *balancer,
            path: absolute(whole),
            seen,
        });
    }
    None
}

/// A segment of a path whose parameters are left out.
struct Segment {
    /// Where it begins in the path.
    start: usize,
    /// Where its parameters do.
    parameters: Option<usize>,
    name: Vec<u8>,
}

/// How much of a path a prefix matches when parameters of segments are left out, as a servlet
/// container has it, and the path without them. `None`: it does not match, or leads above the root.
fn servlet(uri: &[u8], prefix: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (seen, segments) = without_parameters(uri)?;
    let is_open = prefix.last() == Some(&b'/');
    let wanted: Vec<&[u8]> = (prefix.split(|&byte| byte == b'/'))
        .filter(|name| !name.is_empty())
        .collect();
    let count = wanted.len();
    let is_here = prefix.first() == Some(&b'/')
        && count <= segments.len()
        && wanted
            .iter()
            .zip(&segments)
            .all(|(name, segment)| segment.name == *name)
        && (!is_open || count < segments.len() || seen.last() == Some(&b'/'));
    if !is_here {
        return None;
    }
    let mut end = uri.len();
    if let Some(next) = segments.get(count) {
        let last = count.checked_sub(1).filter(|_| !is_open);
        end = last
            .and_then(|last| segments[last].parameters)
            .unwrap_or(next.start);
    }
    if !is_open && uri[end - 1] == b'/' {
        end -= 1;
    }
    Some((end, seen))
}

/// A path without parameters, dot segments that they hid and double slashes, and its segments.
fn without_parameters(uri: &[u8]) -> Option<(Vec<u8>, Vec<Segment>)> {
    if uri.first() != Some(&b'/') {
        return None;
    }
    let mut seen = vec![b'/'];
    let mut segments: Vec<Segment> = Vec::new();
    // Where the segment to come begins, with what was left out of it.
    let mut first = Some(1);
    let mut at = 1;
    let ends = |at: usize| matches!(uri.get(at), None | Some(b'/' | b';'));
    while let Some(&byte) = uri.get(at) {
        let begins = seen.last() == Some(&b'/');
        if byte == b';' {
            if let Some(segment) = segments.last_mut().filter(|_| !begins) {
                segment.parameters.get_or_insert(at);
            }
            let rest = uri[at..].iter().position(|&byte| byte == b'/');
            at = rest.map_or(uri.len(), |rest| at + rest);
            continue;
        }
        if begins && byte == b'/' {
            at += 1;
            continue;
        }
        if begins && byte == b'.' && ends(at + 1) {
            at += 1 + usize::from(uri.get(at + 1) == Some(&b'/'));
            continue;
        }
        if begins && uri[at..].starts_with(b"..") && ends(at + 2) {
            segments.pop()?;
            seen.pop();
            let parent = seen.iter().rposition(|&byte| byte == b'/')?;
            seen.truncate(parent + 1);
            at += 2 + usize::from(uri.get(at + 2) == Some(&b'/'));
            first = None;
            continue;
        }
        if begins {
            let skipped =
                first.map(|from| from + uri[from..].iter().take_while(|&&b| b == b'/').count());
            segments.push(Segment {
                start: skipped.unwrap_or(at),
                parameters: None,
                name: Vec::new(),
            });
        }
        seen.push(byte);
        at += 1;
        if byte == b'/' {
            first = Some(at);
        } else if let Some(segment) = segments.last_mut() {
            segment.name.push(byte);
        }
    }
    Some((seen, segments))
}

/// Takes out the segment at the end of `out` if it is `.` or `..`, leaving the slash before it.
fn end_segment(out: &mut Vec<u8>) -> Result<(), PathError> {
    let start = out
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    match &out[start..] {
        b"." => out.truncate(start),
        b".." => {
            if start <= 1 {
                return Err(PathError::Invalid);
            }
            let parent = out[..start - 1]
                .iter()
                .rposition(|&byte| byte == b'/')
                .map_or(0, |at| at + 1);
            out.truncate(parent);
        }
        _ => {}
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, PathError> {
    char::from(digit)
        .to_digit(16)
        .map(|value| value as u8)
        .ok_or(PathError::Invalid)
}

/// Length of the part of `uri` that `prefix` matches, `None` if it does not. A run of slashes
/// matches any run; a prefix without a slash at its end stops at a segment's boundary only.
pub fn match_prefix(uri: &[u8], prefix: &[u8]) -> Option<usize> {
    let (mut u, mut p) = (0, 0);
    while p < prefix.len() {
        if prefix[p] == b'/' {
            if uri.get(u) != Some(&b'/') {
                return None;
            }
            while prefix.get(p) == Some(&b'/') {
                p += 1;
            }
            while uri.get(u) == Some(&b'/') {
                u += 1;
            }
        } else if uri.get(u) == Some(&prefix[p]) {
            u += 1;
            p += 1;
        } else {
            return None;
        }
    }
    let bounded = prefix.last().is_none_or(|&last| last == b'/')
        || uri.get(u).is_none_or(|&next| next == b'/');
    bounded.then_some(u)
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed<'a> {
    /// No route matched, or one with `!`.
    Local,
    /// To a balancer.
    Balancer {
        /// Index into the configuration's balancers.
        balancer: usize,
        /// Encoded path, without the member's own, beginning with `/`.
        path: Cow<'a, [u8]>,
    },
}

/// Finds the first route without `mapping=` that matches: its index. `decoded` is what [`decode`] made of the path.
pub fn find(routes: &[Route], decoded: &[u8]) -> Option<usize> {
    routes.iter().position(|route| match &route.pattern {
        _ if route.mapping != Mapping::Decoded => false,
        None => match_prefix(decoded, route.path.as_bytes()).is_some(),
        Some(pattern) => pattern.is_match(decoded),
    })
}

/// Routes by the first segment of their paths: a request is compared with those of its own segment
/// and with those that are for any. Gives what [`find`] gives.
#[derive(Debug, Default)]
pub struct Index {
    /// In configuration order.
    by_segment: HashMap<Vec<u8>, Vec<usize>>,
    /// Patterns, `/`, and what does not begin with a slash; likewise.
    any: Vec<usize>,
}

impl Index {
    /// Of these routes.
    pub fn new(routes: &[Route]) -> Self {
        let mut index = Self::default();
        for (at, route) in routes.iter().enumerate() {
            let segment = match route.pattern {
                None => segment(route.path.as_bytes()),
                Some(_) => None,
            };
            match segment {
                Some(segment) => {
                    let of_segment = index.by_segment.entry(segment.to_owned()).or_default();
                    of_segment.push(at);
                }
                None => index.any.push(at),
            }
        }
        index
    }

    /// As [`find`]; `routes` are those this was made of.
    pub fn find(&self, routes: &[Route], decoded: &[u8]) -> Option<usize> {
        let of_segment = segment(decoded).and_then(|segment| self.by_segment.get(segment));
        let matches = |at: &&usize| find(&routes[**at..=**at], decoded).is_some();
        let own = of_segment.into_iter().flatten().find(matches).copied();
        // Only who comes before it can win.
        let end = own.unwrap_or(usize::MAX);
        let mut earlier = self.any.iter().take_while(|at| **at < end);
        earlier.find(matches).copied().or(own)
    }
}

/// What stands between the slashes that a path begins with and the next one; `None` where nothing
/// does.
fn segment(path: &[u8]) -> Option<&[u8]> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let start = path.iter().position(|byte| *byte != b'/')?;
    let rest = &path[start..];
    let end = rest.iter().position(|byte| *byte == b'/');
    Some(&rest[..end.unwrap_or(rest.len())])
}

/// Where a request goes by the first route that matches. `raw` is the path as received, `decoded`
/// what [`decode`] made of it, going by the same `slashes`.
pub fn route<'a>(
    index: &Index,
    routes: &[Route],
    raw: &'a [u8],
    decoded: &'a [u8],
    slashes: Slashes,
) -> Routed<'a> {
    if let Some(Mapped { balancer, path, .. }) = mapped(routes, raw) {
        let path = Cow::Owned(path);
        return Routed::Balancer { balancer, path };
    }
    match index.find(routes, decoded) {
        Some(found) => follow(&routes[found], raw, decoded, slashes),
        None => Routed::Local,
    }
}

/// Where a request goes by a route that matches it.
pub fn follow<'a>(route: &Route, raw: &'a [u8], decoded: &'a [u8], slashes: Slashes) -> Routed<'a> {
    let Target::Balancer { balancer, path } = &route.target else {
        return Routed::Local;
    };
    let balancer = *balancer;
    if let Some(pattern) = &route.pattern {
        let Some(captures) = pattern.captures(decoded) else {
            return Routed::Local;
        };
        let mut whole = pattern::substitute(path.as_bytes(), decoded, &captures);
        // As in httpd: a target without groups has all of the path behind it.
        if whole == path.as_bytes() {
            whole.extend_from_slice(decoded);
        }
        let path = Cow::Owned(encode(&absolute(whole), slashes).into_owned());
        return Routed::Balancer { balancer, path };
    }
    let Some(matched) = match_prefix(decoded, route.path.as_bytes()) else {
        return Routed::Local;
    };
    // As httpd (AH01136): the raw tail counts only where the raw path matches as long a part. What
    // it holds, `..` included, is then the member's to judge.
    let prefix = route.path.as_bytes();
    let raw_tail =
        (route.nocanon && match_prefix(raw, prefix) == Some(matched)).then(|| &raw[matched..]);
    let path = if let Some(tail) = raw_tail {
        let mut whole = encode(path.as_bytes(), slashes).into_owned();
        whole.extend_from_slice(tail);
        Cow::Owned(absolute(whole))
    } else if path == "/" && decoded[..matched] == *b"/" {
        encode(decoded, slashes)
    } else {
        let tail = &decoded[matched..];
        let mut whole = Vec::with_capacity(path.len() + tail.len() + 1);
        whole.extend_from_slice(path.as_bytes());
        whole.extend_from_slice(tail);
        Cow::Owned(encode(&absolute(whole), slashes).into_owned())
    };
    Routed::Balancer { balancer, path }
}

/// `balancer://x` and `balancer://x/` lead to the same paths.
fn absolute(mut path: Vec<u8>) -> Vec<u8> {
    if path.first() != Some(&b'/') {
        path.insert(0, b'/');
    }
    path
}

/// Encodes what httpd encodes in a proxied path: everything but letters, digits and
/// `~$-_.+!*'(),;:@&=/`, and a `%2F` that is to be kept.
pub fn encode(path: &[u8], slashes: Slashes) -> Cow<'_, [u8]> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let keep = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'~' | b'$' | b'-' | b'_' | b'.' | b'+' | b'!' | b'*' | b'\'' | b'(' | b')' | b','
            )
            || matches!(byte, b';' | b':' | b'@' | b'&' | b'=' | b'/')
    };
    if path.iter().all(|&byte| keep(byte)) {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(path.len() + 16);
    for (at, &byte) in path.iter().enumerate() {
        let is_kept_slash = || {
            slashes == Slashes::Kept
                && matches!(path.get(at + 1..at + 3), Some([b'2', b'F' | b'f']))
        };
        if keep(byte) || (byte == b'%' && is_kept_slash()) {
            out.push(byte);
        } else {
            out.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
