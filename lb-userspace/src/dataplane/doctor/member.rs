//! A member that packets are steered to: it holds the VIP, and tells nobody on the link.

use std::{fs, net::IpAddr};

use super::{Check, Verdict, check};
use crate::dataplane::netlink::{self, Link};

/// Looks at this host as a member that shares these VIPs.
pub fn examine_member(vips: &[IpAddr]) -> Vec<Check> {
    let links = netlink::links().unwrap_or_default();
    let addresses = netlink::local_addresses().unwrap_or_default();
    let mut checks: Vec<Check> = (vips.iter())
        .map(|vip| {
            let on: Vec<&Link> = (addresses.iter().filter(|(_, ip)| ip == vip))
                .filter_map(|(index, _)| links.iter().find(|link| link.index == *index))
                .collect();
            holder(*vip, &on)
        })
        .collect();
    if vips.iter().any(IpAddr::is_ipv4) {
        let asked = links
            .iter()
            .filter(|link| link.up && link.name != "lo" && !is_tunnel(link));
        for link in asked {
            for (setting, least, what) in [
                (
                    "arp_ignore",
                    1,
                    "it answers ARP for addresses of other interfaces, the VIP on lo too",
                ),
                (
                    "arp_announce",
                    2,
                    "it may name the VIP as its own when it asks by ARP",
                ),
            ] {
                let is = strictest(&link.name, setting);
                checks.push(arp(&link.name, setting, is, least, what));
            }
        }
    }
    checks.push(tunnels(&links));
    checks
}

/// Where the VIP is.
fn holder(vip: IpAddr, on: &[&Link]) -> Check {
    const WHY: &str = "steered packets are still for the VIP: a member that does not hold it drops them, \
                       one that holds it on the link takes them from the balancer";
    let name = format!("VIP {vip}");
    let bits = if vip.is_ipv4() { 32 } else { 128 };
    let add = format!("ip address add {vip}/{bits} dev lo");
    let quiet = |link: &&&Link| link.name == "lo" || link.kind.as_deref() == Some("dummy");
    match (on.first(), on.iter().find(|link| !quiet(link))) {
        (None, _) => check(&name, Verdict::Fail, "not on this host", WHY).fix(add),
        (Some(_), Some(loud)) => {
            let found = format!("on {}, which answers for it on its link", loud.name);
            check(&name, Verdict::Fail, found, WHY).fix(format!(
                "ip address del {vip}/{bits} dev {}; {add}",
                loud.name
            ))
        }
        (Some(link), None) => check(&name, Verdict::Ok, format!("on {}", link.name), WHY),
    }
}

fn arp(link: &str, setting: &str, is: u32, least: u32, what: &'static str) -> Check {
    let name = format!("{link}: {setting}");
    let verdict = if is >= least {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    let found = is.to_string();
    check(&name, verdict, found, what).fix(format!("sysctl -w net.ipv4.conf.all.{setting}={least}"))
}

fn is_tunnel(link: &Link) -> bool {
    let kinds = ["ipip", "sit", "ip6tnl"];
    link.kind
        .as_deref()
        .is_some_and(|kind| kinds.contains(&kind))
}

/// Where encapsulated packets are unwrapped by the kernel.
fn tunnels(links: &[Link]) -> Check {
    const WHY: &str = "with ipip and gue the member unwraps what comes; dsr needs none of it";
    let ends: Vec<&Link> = links
        .iter()
        .filter(|link| link.up && is_tunnel(link))
        .collect();
    let strict: Vec<&str> = (ends.iter())
        .filter(|link| strictest(&link.name, "rp_filter") == 1)
        .map(|link| link.name.as_str())
        .collect();
    let shown: Vec<&str> = ends.iter().map(|link| link.name.as_str()).collect();
    let (verdict, found) = match (shown.is_empty(), strict.is_empty()) {
        (true, _) => (
            Verdict::Ok,
            "none is up: dsr reaches this member, ipip and gue only by SteerDecap".to_owned(),
        ),
        (false, true) => (Verdict::Ok, shown.join(", ")),
        (false, false) => (
            Verdict::Fail,
            format!("{}: rp_filter=1 drops what it unwraps", strict.join(", ")),
        ),
    };
    let fix: Vec<String> = (strict.iter())
        .map(|name| format!(" net.ipv4.conf.{name}.rp_filter=0"))
        .collect();
    check("tunnel's end", verdict, found, WHY).fix(format!(
        "sysctl -w net.ipv4.conf.all.rp_filter=0{}",
        fix.concat()
    ))
}

/// A setting of `net.ipv4.conf` as it holds on an interface: the greater of its own and that of all.
pub(super) fn strictest(interface: &str, setting: &str) -> u32 {
    let read = |of: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/{setting}"));
        text.ok()?.trim().parse().ok()
    };
    // A name with a dot is a directory all the same; none of them holds a slash.
    let own: Option<u32> = read(interface);
    own.unwrap_or(0).max(read("all").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Option<&str>) -> Link {
        Link {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            up: true,
            ..Link::default()
        }
    }

    #[test]
    fn vip_belongs_on_the_loopback_of_a_member_and_nowhere_else() {
        let vip = "203.0.113.10".parse().expect("address");
        let (lo, dummy, eth0) = (
            link("lo", None),
            link("vips", Some("dummy")),
            link("eth0", None),
        );
        assert_eq!(holder(vip, &[&lo]).verdict, Verdict::Ok);
        assert_eq!(holder(vip, &[&dummy]).verdict, Verdict::Ok);
        let none = holder(vip, &[]);
        assert_eq!(none.verdict, Verdict::Fail);
        assert_eq!(none.fix, "ip address add 203.0.113.10/32 dev lo");
        let loud = holder(vip, &[&lo, &eth0]);
        assert_eq!(loud.verdict, Verdict::Fail);
        assert!(
            loud.fix
                .starts_with("ip address del 203.0.113.10/32 dev eth0"),
            "{loud:?}"
        );
    }

    #[test]
    fn arp_settings_are_as_strict_as_they_must_be() {
        for (is, verdict) in [(0, Verdict::Fail), (1, Verdict::Ok), (2, Verdict::Ok)] {
            assert_eq!(arp("eth0", "arp_ignore", is, 1, "").verdict, verdict);
        }
        let weak = arp("eth0", "arp_announce", 1, 2, "");
        assert_eq!(weak.fix, "sysctl -w net.ipv4.conf.all.arp_announce=2");
    }
}
