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

/// A network as `Require ip` and `-ipmatch` take it: an address, an address with a length from 1 or
/// a netmask (bits beyond are dropped), or the first bytes of an IPv4 address (`10.1` is
/// `10.1.0.0/16`). `None`: none of these, or a netmask with holes, which httpd would take.
pub fn subnet(text: &str) -> Option<Prefix> {
    if let Some((address, mask)) = text.split_once('/') {
        let address = native(address)?;
        let len = match mask.parse::<Ipv4Addr>() {
            Ok(mask) if address.is_ipv4() => {
                let len = mask.to_bits().leading_ones();
                (mask.to_bits().count_ones() == len).then_some(len)?
            }
            _ if mask.bytes().all(|byte| byte.is_ascii_digit()) => mask.parse().ok()?,
            _ => return None,
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        if !(1..=most).contains(&len) {
            return None;
        }
        return Some(Prefix::new(address, u8::try_from(len).ok()?));
    }
    if let Some(address) = native(text) {
        return Some(Prefix::new(address, 128));
    }
    let bytes = text.strip_suffix('.').unwrap_or(text).split('.');
    let mut octets = [0; 4];
    let mut count = 0;
    for byte in bytes {
        let is_number = !byte.is_empty() && byte.bytes().all(|digit| digit.is_ascii_digit());
        *octets.get_mut(usize::from(count))? = is_number.then(|| byte.parse().ok())??;
        count += 1;
    }
    Some(Prefix::new(octets.into(), count * 8))
}

/// An address; one of IPv4 in IPv6's clothes is none.
fn native(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    (address.to_canonical() == address).then_some(address)
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
    fn networks_of_access_control_are_read_as_in_httpd() {
        for (text, shown) in [
            ("10.1", "10.1.0.0/16"),
            ("10", "10.0.0.0/8"),
            ("10.1.", "10.1.0.0/16"),
            ("10.1.2.3.", "10.1.2.3/32"),
            ("010.1", "10.1.0.0/16"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/08", "10.0.0.0/8"),
            ("10.1.2.3/255.255.0.0", "10.1.0.0/16"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
        ] {
            let found = subnet(text).map(|prefix| prefix.to_string());
            assert_eq!(found.as_deref(), Some(shown), "{text}");
        }
        for text in [
            "",
            ".",
            "x",
            "300",
            "1..2",
            ".1",
            "1.2.3.4.5",
            "1.2.3.4/",
            "1.2.3.4/33",
            "::1/129",
            "10.1/16",
            "0.0.0.0/0",
            "::/0",
            "1.2.3.4/+8",
            "1.2.3.4/255.0",
            "::ffff:1.2.3.4",
            "1.2.3.4/255.0.255.0",
        ] {
            assert_eq!(subnet(text), None, "{text}");
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
