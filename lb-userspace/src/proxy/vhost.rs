//! Which virtual host serves a request (apache.md 1.5). Pure.
//!
//! Two steps, as in httpd: the local address of the connection narrows the hosts down to a set
//! (once per connection), the name in the request picks one of the set.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use crate::config::spec::{Host, HostAddress};

/// The hosts that a local address leads to, in configuration order, as indexes into `Spec::hosts`;
/// the first is the default. `[0]`, the main server, where no virtual host is for the address.
pub fn candidates(hosts: &[Host], local: SocketAddr) -> Vec<usize> {
    let ip = local.ip().to_canonical();
    let best = hosts
        .iter()
        .filter_map(|host| rank(host, ip, local.port()))
        .max();
    match best {
        None => vec![0],
        Some(best) => hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| {
                host.addresses
                    .iter()
                    .any(|address| rank_of(address, ip, local.port()) == Some(best))
            })
            .map(|(index, _)| index)
            .collect(),
    }
}

/// How exactly a host is meant for an address; larger is more exact.
fn rank(host: &Host, ip: IpAddr, port: u16) -> Option<u8> {
    host.addresses
        .iter()
        .filter_map(|address| rank_of(address, ip, port))
        .max()
}

fn rank_of(address: &HostAddress, ip: IpAddr, port: u16) -> Option<u8> {
    let ip = match address.ip {
        Some(own) if own.to_canonical() == ip => 2,
        Some(_) => return None,
        None => 0,
    };
    let port = match address.port {
        Some(own) if own == port => 1,
        Some(_) => return None,
        None => 0,
    };
    Some(ip + port)
}

/// The host of the set that a name selects: names and aliases are compared host by host, so an
/// alias of an earlier host beats a later one's `ServerName`. `name` as [`normalise`] leaves it.
pub fn select(hosts: &[Host], candidates: &[usize], name: Option<&str>) -> usize {
    let default = candidates.first().copied().unwrap_or(0);
    // One candidate serves every name: the common case needs no comparison.
    let (Some(name), true) = (name, candidates.len() > 1) else {
        return default;
    };
    candidates
        .iter()
        .copied()
        .find(|&index| is_named(&hosts[index], name))
        .unwrap_or(default)
}

/// The names of all hosts, so that one among thousands is found as quickly as one of two. Gives what
/// [`select`] gives.
#[derive(Debug, Default)]
pub struct Names {
    /// Hosts with this name, as `ServerName` or alias without wildcards, in configuration order.
    exact: HashMap<String, Vec<usize>>,
    /// Hosts with a wildcard alias, likewise.
    wild: Vec<usize>,
}

impl Names {
    /// Of these hosts.
    pub fn new(hosts: &[Host]) -> Self {
        let mut names = Self::default();
        for (index, host) in hosts.iter().enumerate() {
            let is_wild = |alias: &&String| alias.contains(['*', '?']);
            if host.aliases.iter().any(|alias| is_wild(&alias)) {
                names.wild.push(index);
            }
            let aliases = host.aliases.iter().filter(|alias| !is_wild(alias));
            for name in host.server_name.iter().chain(aliases) {
                let known = names.exact.entry(name.clone()).or_default();
                if known.last() != Some(&index) {
                    known.push(index);
                }
            }
        }
        names
    }

    /// As [`select`]; `hosts` are those this was made of, `candidates` in configuration order.
    pub fn select(&self, hosts: &[Host], candidates: &[usize], name: Option<&str>) -> usize {
        let default = candidates.first().copied().unwrap_or(0);
        let (Some(name), true) = (name, candidates.len() > 1) else {
            return default;
        };
        let is_candidate = |index: &usize| candidates.binary_search(index).is_ok();
        let exact = self.exact.get(name).into_iter().flatten().copied();
        let exact = exact.into_iter().find(is_candidate);
        // An alias of an earlier host beats a later one's name.
        let end = exact.unwrap_or(usize::MAX);
        let mut earlier = self.wild.iter().copied().take_while(|index| *index < end);
        earlier
            .find(|index| is_candidate(index) && is_named(&hosts[*index], name))
            .or(exact)
            .unwrap_or(default)
    }
}

/// The port that a Host field names.
pub fn port(value: &[u8]) -> Option<u16> {
    let (_, port) = std::str::from_utf8(value).ok()?.rsplit_once(':')?;
    port.parse().ok()
}

/// Whether a lower-case name is one of a virtual host's.
pub fn is_named(host: &Host, name: &str) -> bool {
    host.server_name.as_deref() == Some(name)
        || host.aliases.iter().any(|alias| matches(alias, name))
}

/// Whether a lower-case name leads to `host` because it is one of its names, not for want of another
/// host: what `StrictHostCheck` asks. As in httpd the address of a virtual host is a name where there
/// are several.
pub fn is_asked_for(hosts: &[Host], candidates: &[usize], host: usize, name: &str) -> bool {
    let is_address = || {
        let name = name.trim_matches(['[', ']']);
        let Ok(asked) = name.parse::<IpAddr>() else {
            return false;
        };
        let mut hosts = candidates.iter().map(|index| &hosts[*index]);
        hosts.any(|host| {
            let mut addresses = host.addresses.iter();
            addresses.any(|address| address.ip == Some(asked))
        })
    };
    is_named(&hosts[host], name) || (candidates.len() > 1 && is_address())
}

/// Whether a `ServerAlias` pattern (`*`: any run, `?`: one character) matches the whole name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                // The last star takes one character more.
                Some((star, from)) => {
                    p = star;
                    n = from + 1;
                    retry = Some((star, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A Host value that httpd refuses: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AH00550: client sent invalid Host value")]
pub struct BadHost;

/// The name in a Host value or in an absolute target's authority: lower case, without port and
/// trailing dot. `None` for an empty value.
pub fn normalise(value: &[u8]) -> Result<Option<String>, BadHost> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| BadHost)?;
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or(BadHost)?;
            inside.parse::<std::net::Ipv6Addr>().map_err(|_| BadHost)?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or(BadHost)?),
            };
            (&text[..inside.len() + 2], port)
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if let Some(port) = port
        && !(port.is_empty()
            || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()))
    {
        return Err(BadHost);
    }
    if name.contains("..") {
        return Err(BadHost);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'[' | b']' | b':')
    };
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(BadHost);
    }
    Ok(Some(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests;
