//! What `deny add` refuses without `--force`: prefixes that would cut the operator off, or the
//! host from what it needs. Deciding is pure; [`Protected::of_host`] reads the route tables.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::config::spec::Prefix;

/// Addresses that are not denied by accident.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    entries: Vec<(IpAddr, What)>,
}

/// Why an address is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The caller's SSH client.
    Caller,
    /// A next hop of a default route.
    Gateway,
    /// A member of a balancer: its answers would be dropped.
    Member(String),
    /// An address that the proxy listens on.
    Listener,
    /// 127.0.0.1 or ::1.
    Loopback,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("the address your SSH session comes from"),
            Self::Gateway => f.write_str("this host's default gateway"),
            Self::Member(url) => write!(f, "the member {url}, whose answers would be dropped"),
            Self::Listener => f.write_str("an address that sluice listens on"),
            Self::Loopback => f.write_str("this host itself"),
        }
    }
}

impl Protected {
    /// Loopback and the default gateways of this network namespace.
    pub fn of_host() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mut this = Self::default();
        this.add(Ipv4Addr::LOCALHOST.into(), What::Loopback);
        this.add(Ipv6Addr::LOCALHOST.into(), What::Loopback);
        for gateway in gateways4(&read("/proc/self/net/route")) {
            this.add(gateway.into(), What::Gateway);
        }
        for gateway in gateways6(&read("/proc/self/net/ipv6_route")) {
            this.add(gateway.into(), What::Gateway);
        }
        this
    }

    /// Protects one more; wildcards and IPv4-mapped forms are taken for what they mean.
    pub fn add(&mut self, ip: IpAddr, what: What) {
        let ip = ip.to_canonical();
        if !ip.is_unspecified() {
            self.entries.push((ip, what));
        }
    }

    /// Why `prefix` must not be denied, if it must not: the first protected address inside it.
    pub fn refusal(&self, prefix: Prefix) -> Option<String> {
        let (ip, what) = self.entries.iter().find(|(ip, _)| prefix.contains(*ip))?;
        Some(format!(
            "{prefix} contains {ip}, {what}; --force denies it all the same"
        ))
    }
}

/// Next hops of default routes in `/proc/net/route`: destination and mask zero, native-order hex.
fn gateways4(table: &str) -> Vec<Ipv4Addr> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
            let (destination, gateway, mask) = (word(1)?, word(2)?, word(7)?);
            (destination == 0 && mask == 0 && gateway != 0)
                .then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
        })
        .collect()
}

/// Next hops of default routes in `/proc/net/ipv6_route`.
fn gateways6(table: &str) -> Vec<Ipv6Addr> {
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let word = |index: usize| u128::from_str_radix(fields.get(index)?, 16).ok();
            let (destination, len, gateway) = (word(0)?, word(1)?, word(4)?);
            (destination == 0 && len == 0 && gateway != 0).then(|| Ipv6Addr::from(gateway))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("prefix")
    }

    #[test]
    fn nothing_that_the_operator_stands_on_is_denied() {
        let mut protected = Protected::default();
        protected.add("192.0.2.7".parse().expect("ip"), What::Caller);
        protected.add("::ffff:198.51.100.1".parse().expect("ip"), What::Gateway);
        protected.add("::".parse().expect("ip"), What::Listener);
        protected.add(
            "2001:db8::1".parse().expect("ip"),
            What::Member("http://m".into()),
        );
        for refused in [
            "192.0.2.7",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "198.51.100.0/30",
            "2001:db8::/32",
            "::/0",
        ] {
            assert!(protected.refusal(prefix(refused)).is_some(), "{refused}");
        }
        for allowed in ["192.0.2.8", "192.0.3.0/24", "2001:db9::/32", "::2/128"] {
            assert_eq!(protected.refusal(prefix(allowed)), None, "{allowed}");
        }
        let why = protected.refusal(prefix("192.0.2.0/24")).expect("refused");
        assert!(
            why.contains("192.0.2.7, the address your SSH session"),
            "{why}"
        );
    }

    #[test]
    fn default_routes_are_read_from_proc() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
                  eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        let expected = u32::from_str_radix("010200C0", 16)
            .expect("hex")
            .to_ne_bytes();
        assert_eq!(gateways4(v4), [Ipv4Addr::from(expected)]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 0 0 0 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 0 0 0 lo\n"
        );
        assert_eq!(gateways6(&v6), ["fe80::1".parse::<Ipv6Addr>().expect("ip")]);
    }
}
