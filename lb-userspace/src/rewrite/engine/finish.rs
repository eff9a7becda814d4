//! What becomes of a request when its rules are through.

use super::{Changed, Directory, Outcome, Request, Run, escape, failed, scheme};

const NO_PATH: &str = "RewriteRule: the result is no path";
const BROKEN: &str = "AH10415: To be forwarded path contains control characters or spaces";
const ELSEWHERE: &str =
    "RewriteRule: the result is a proxy: URL with another host than the request was going to";
pub(super) const CONTROLS: &str =
    "AH10410: Rewritten query string contains control characters or spaces";

impl<R: Request> Run<'_, R> {
    /// Whether the query holds what no request line may, and nobody is going to escape it.
    pub(super) fn query_is_broken(&self, changed: Changed) -> bool {
        let escapes = self.to.is_none() && scheme(&self.uri).is_some() && changed != Changed::Raw;
        let plain = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        changed != Changed::No
            && !escapes
            && self
                .query
                .as_ref()
                .is_some_and(|query| !query.iter().all(plain))
    }

    pub(super) fn finish(&mut self, changed: Changed, asked: Option<&[u8]>) -> Outcome {
        if changed == Changed::No {
            return Outcome::Declined;
        }
        if self.query_is_broken(changed) {
            return failed(403, CONTROLS);
        }
        let raw = changed == Changed::Raw;
        if let Some(balancer) = self.to {
            return self.proxied(balancer, raw);
        }
        let uri = std::mem::take(&mut self.uri);
        let query = self.query.take();
        if changed == Changed::Passed {
            if uri.first() == Some(&b'/') {
                return Outcome::Passed { path: uri, query };
            }
            return failed(400, "RewriteRule: [PT] with a URL");
        }
        let Some(scheme) = scheme(&uri) else {
            return if uri.first() == Some(&b'/') {
                Outcome::Local
            } else {
                failed(400, NO_PATH)
            };
        };
        self.redirected(uri, scheme.len, query, asked, raw)
    }

    /// To a member that a `[P]` rule names.
    fn proxied(&mut self, balancer: usize, raw: bool) -> Outcome {
        let path = std::mem::take(&mut self.uri);
        if raw && is_broken(&path) {
            return failed(403, BROKEN);
        }
        Outcome::Proxied {
            balancer,
            path,
            query: self.query.take(),
            raw,
        }
    }

    /// What became of a request by a section's rules.
    pub(super) fn finish_within(
        &mut self,
        directory: Directory<'_>,
        changed: Changed,
        path: &[u8],
        asked: Option<&[u8]>,
    ) -> Outcome {
        if changed == Changed::No {
            return Outcome::Declined;
        }
        if self.query_is_broken(changed) {
            return failed(403, CONTROLS);
        }
        let raw = changed == Changed::Raw;
        if let Some(balancer) = self.to {
            return self.proxied(balancer, raw);
        }
        let mut uri = std::mem::take(&mut self.uri);
        let query = self.query.take();
        if uri.starts_with(b"proxy:") {
            // Where it goes is for ProxyPass to say, and what of it may be a request's is the path.
            let rest = (directory.proxied).and_then(|host| uri.strip_prefix(host));
            return match rest {
                Some(rest) if rest.first() == Some(&b'/') && !(raw && is_broken(rest)) => {
                    Outcome::Onward {
                        path: rest.to_vec(),
                        query,
                        raw,
                    }
                }
                Some(_) => failed(403, BROKEN),
                None => failed(500, ELSEWHERE),
            };
        }
        if let Some(scheme) = scheme(&uri) {
            let host = &uri[scheme.len..];
            if let Some(base) = directory.base
                && let Some(slash) = host.iter().position(|&byte| byte == b'/')
            {
                let start = scheme.len + slash + 1;
                let own = directory.path.strip_prefix('/').unwrap_or(directory.path);
                let rest = based(&uri[start..], own, base.strip_prefix('/').unwrap_or(base));
                uri.splice(start.., rest);
            }
            return self.redirected(uri, scheme.len, query, asked, raw);
        }
        if uri.first() != Some(&b'/') {
            return failed(400, NO_PATH);
        }
        if uri == path {
            // It would begin anew for ever.
            return Outcome::Declined;
        }
        let path = match directory.base {
            Some(base) => based(&uri, directory.path, base),
            None => uri,
        };
        Outcome::Anew { path, query }
    }

    /// To a URL elsewhere.
    fn redirected(
        &self,
        uri: Vec<u8>,
        scheme: usize,
        query: Option<Vec<u8>>,
        asked: Option<&[u8]>,
        raw: bool,
    ) -> Outcome {
        let mut place = if raw { uri } else { escape::url(&uri, scheme) };
        if let Some(query) = query {
            place.push(b'?');
            if raw || asked == Some(&query[..]) {
                place.extend(query);
            } else {
                place.extend(escape::path(&query));
            }
        }
        let status = match self.status {
            status @ 300..=399 => status,
            _ => 302,
        };
        Outcome::Redirected { status, place }
    }
}

/// A path with `RewriteBase` in the place of its section's, where it is within that.
fn based(path: &[u8], directory: &str, base: &str) -> Vec<u8> {
    let directory = directory.strip_suffix('/').unwrap_or(directory);
    let rest = path.strip_prefix(directory.as_bytes());
    let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b"/")) else {
        return path.to_vec();
    };
    let mut whole = base.as_bytes().to_vec();
    if !whole.is_empty() && !whole.ends_with(b"/") {
        whole.push(b'/');
    }
    whole.extend_from_slice(rest);
    whole
}

/// Whether a path that is sent as it is would break a request line.
fn is_broken(path: &[u8]) -> bool {
    path.iter().any(|&byte| byte <= b' ' || byte == 0x7f)
}
