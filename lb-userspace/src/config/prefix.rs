//! [`Prefix`] as text: `192.0.2.0/24`, `2001:db8::/32`, or an address alone.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use super::spec::Prefix;

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is no IP address.
    #[error("'{0}' is not an IP address")]
    Address(String),
    /// The part after the slash is no length of this family.
    #[error("'/{got}' is not a prefix length from 0 to {max}")]
    Length {
        /// What stands there.
        got: String,
        /// 32 or 128.
        max: u8,
    },
    /// Bits beyond the length are set: probably a slip, so it is refused.
    #[error("{given} has bits beyond its length; its network is {network}")]
    HostBits {
        /// What was given.
        given: String,
        /// The same with those bits cleared.
        network: Prefix,
    },
}

/// Parses a prefix, as [`Prefix::from_str`].
pub fn parse(text: &str) -> Result<Prefix, PrefixError> {
    text.parse()
}

/// A network as `Require ip` and `-ipmatch` take it: an address, an address with a length or a
/// netmask (bits beyond are dropped), or the first bytes of an IPv4 address (`10.1` is
/// `10.1.0.0/16`). `None`: none of these.
pub fn subnet(text: &str) -> Option<Prefix> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let bytes = address.trim_end_matches('.').split('.').count();
    let parsed = address.parse::<IpAddr>();
    let Some(mask) = mask else {
        if let Ok(address) = parsed {
            return Some(Prefix::new(address, 128));
        }
        let digits = address.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !digits || bytes > 3 {
            return None;
        }
        let full = address.trim_end_matches('.').to_owned() + &".0".repeat(4 - bytes);
        let len = u8::try_from(bytes * 8).ok()?;
        return Some(Prefix::new(full.parse().ok()?, len));
    };
    let address = parsed.ok()?;
    let len = match mask.parse::<Ipv4Addr>() {
        Ok(mask) if address.is_ipv4() => {
            let len = mask.to_bits().leading_ones();
            // A mask with holes is no network.
            (mask.to_bits().count_ones() == len).then_some(len)?
        }
        _ => {
            let most = if address.is_ipv4() { 32 } else { 128 };
            mask.parse().ok().filter(|len| *len <= most)?
        }
    };
    Some(Prefix::new(address, u8::try_from(len).ok()?))
}

impl Prefix {
    /// A prefix with the bits beyond `len` cleared; `len` is cut to the family's.
    pub fn new(address: IpAddr, len: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let len = len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Self {
                    network: IpAddr::V4((address.to_bits() & mask).into()),
                    len,
                }
            }
            IpAddr::V6(address) => {
                let len = len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Self {
                    network: IpAddr::V6((address.to_bits() & mask).into()),
                    len,
                }
            }
        }
    }

    /// Whether an address is in it. Families are not mixed.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && Self::new(address, self.len) == *self
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| PrefixError::Address(address.to_owned()))?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => max,
            Some(len) => len
                .parse()
                .ok()
                .filter(|n| *n <= max && !len.starts_with('+'))
                .ok_or_else(|| PrefixError::Length {
                    got: len.to_owned(),
                    max,
                })?,
        };
        let prefix = Self::new(address, len);
        if prefix.network != address {
            return Err(PrefixError::HostBits {
                given: text.to_owned(),
                network: prefix,
            });
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(parse(text).map(|p| p.to_string()).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (text, why) in [
            ("x", "'x' is not an IP address"),
            ("10.0.0.0/33", "'/33' is not a prefix length from 0 to 32"),
            ("10.0.0.0/", "'/' is not a prefix length from 0 to 32"),
            ("10.0.0.0/+8", "'/+8' is not a prefix length from 0 to 32"),
            ("::/129", "'/129' is not a prefix length from 0 to 128"),
            (
                "10.1.0.0/8",
                "10.1.0.0/8 has bits beyond its length; its network is 10.0.0.0/8",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.to_string(), why);
        }
    }

    #[test]
    fn a_prefix_contains_its_own_family_alone() {
        let ten = Prefix::new("10.1.2.3".parse().expect("an address"), 8);
        assert!(ten.contains("10.255.0.1".parse().expect("an address")));
        assert!(!ten.contains("11.0.0.1".parse().expect("an address")));
        let all = parse("::/0").expect("a prefix");
        assert!(!all.contains("10.0.0.1".parse().expect("an address")));
    }
}
