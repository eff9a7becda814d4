//! Prefixes of the four tries: keys, order, and how a person writes them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    abi::map,
    deny::{PrefixEntry, origin},
};

use crate::config::spec::Prefix;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum List {
    Deny,
    Allow,
    /// Who may send encapsulated packets.
    Decap,
}

/// One entry's place: the list, and a prefix with its host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PrefixKey {
    pub(super) list: List,
    pub(super) network: IpAddr,
    pub(super) len: u8,
}

impl PrefixKey {
    pub(super) fn deny(prefix: Prefix) -> Self {
        Self::of(List::Deny, prefix)
    }

    pub(super) fn allow(prefix: Prefix) -> Self {
        Self::of(List::Allow, prefix)
    }

    pub(super) fn decap(prefix: Prefix) -> Self {
        Self::of(List::Decap, prefix)
    }

    /// Clears the host bits, so that one prefix has one key.
    fn of(list: List, prefix: Prefix) -> Self {
        let (network, len) = match prefix.network {
            IpAddr::V4(ip) => {
                let len = prefix.len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                (IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask)), len)
            }
            IpAddr::V6(ip) => {
                let len = prefix.len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                (IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask)), len)
            }
        };
        Self { list, network, len }
    }

    /// Whether an address of its family is in it.
    pub(super) fn covers(&self, ip: IpAddr) -> bool {
        let prefix = Prefix {
            network: self.network,
            len: self.len,
        };
        prefix.contains(ip)
    }

    /// The map that holds it.
    pub(super) const fn map(&self) -> &'static str {
        match (self.list, self.network) {
            (List::Deny, IpAddr::V4(_)) => map::DENY4,
            (List::Deny, IpAddr::V6(_)) => map::DENY6,
            (List::Allow, IpAddr::V4(_)) => map::ALLOW4,
            (List::Allow, IpAddr::V6(_)) => map::ALLOW6,
            (List::Decap, IpAddr::V4(_)) => map::DECAP4,
            (List::Decap, IpAddr::V6(_)) => map::DECAP6,
        }
    }

    /// An entry for it, told its own length as the packet path needs it.
    pub(super) fn entry(&self, by: u32, expires: u64) -> PrefixEntry {
        PrefixEntry {
            expires,
            origin: by,
            prefix: u32::from(self.len),
        }
    }

    /// The configuration's entry.
    pub(super) fn of_file(&self) -> PrefixEntry {
        self.entry(origin::FILE, 0)
    }
}

impl fmt::Display for PrefixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(network: &str, len: u8) -> String {
        let network = network.parse().expect("address");
        PrefixKey::deny(Prefix { network, len }).to_string()
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(key("192.0.2.77", 24), "192.0.2.0/24");
        assert_eq!(key("192.0.2.77", 32), "192.0.2.77/32");
        assert_eq!(key("192.0.2.77", 0), "0.0.0.0/0");
        assert_eq!(key("2001:db8::1", 32), "2001:db8::/32");
        assert_eq!(key("2001:db8::1", 0), "::/0");
        assert_eq!(key("2001:db8::1", 128), "2001:db8::1/128");
    }
}
