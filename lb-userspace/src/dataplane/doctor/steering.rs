//! A balancer that steers: who owns the VIPs, whether the members can be reached as `forward=` wants
//! it, and whether packets fit on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::{Check, Verdict, check};
use crate::{
    config::spec::{Forward, Member, Spec, Steer},
    dataplane::{
        desired::shown,
        hops,
        netlink::{self, Link, Neighbour, Route},
    },
};

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(50);

/// Looks at what a configuration steers; nothing where it does not.
pub fn examine_steering(spec: &Spec) -> Vec<Check> {
    let sluice = &spec.sluice;
    if sluice.steers.is_empty() {
        return Vec::new();
    }
    let xdp: Vec<&str> = (sluice.interfaces.iter().map(|i| i.name.as_str())).collect();
    let mut members: BTreeMap<&str, Result<IpAddr, String>> = BTreeMap::new();
    for steer in &sluice.steers {
        for member in &spec.balancers[steer.balancer].members {
            members
                .entry(&member.url)
                .or_insert_with(|| address(member));
        }
    }
    let vips: BTreeSet<IpAddr> = sluice.steers.iter().filter_map(|s| s.address).collect();
    let ips = members.values().flatten().chain(&vips).copied();
    let host = Host::look(ips);
    let mut checks = vec![forwarding()];
    for vip in vips {
        let shared = sluice
            .steers
            .iter()
            .any(|s| s.address == Some(vip) && s.forward != Forward::Nat);
        checks.push(owner(vip, &xdp, &host, &members));
        if shared {
            checks.push(of_members(vip));
        }
    }
    let mut said = BTreeSet::new();
    for steer in &sluice.steers {
        let of = &spec.balancers[steer.balancer].members;
        for member in of {
            if said.insert((&member.url, steer.forward == Forward::Dsr)) {
                let ip = &members[member.url.as_str()];
                checks.push(way(steer, member, ip, &xdp, &host));
            }
        }
        checks.extend(room(
            steer,
            of.iter()
                .filter_map(|m| members[m.url.as_str()].as_ref().ok()),
            &xdp,
            &host,
        ));
    }
    for is_v4 in [true, false] {
        let of_family = members
            .values()
            .flatten()
            .filter(|ip| ip.is_ipv4() == is_v4);
        let next: BTreeSet<(u32, IpAddr)> = of_family.filter_map(|ip| host.next(*ip)).collect();
        let family = if is_v4 { "ipv4" } else { "ipv6" };
        let limit = fs::read_to_string(format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"));
        let limit = limit.ok().and_then(|text| text.trim().parse().ok());
        checks.extend(limit.and_then(|limit| table(family, next.len(), limit)));
    }
    checks
}

/// Whether the kernel's table of neighbours has room for so many next hops; nothing where there is
/// room enough. The limit is of the whole host, and others have neighbours, too.
fn table(family: &str, next_hops: usize, limit: usize) -> Option<Check> {
    if next_hops * 4 <= limit * 3 {
        return None;
    }
    let name = format!("neighbours of {family}");
    let found = format!("{next_hops} next hops to members, and room for {limit} (gc_thresh3)");
    let why = "the MAC address of each next hop must be known: packets for one that finds no place are \
               dropped as no_neighbour";
    let verdict = if next_hops > limit {
        Verdict::Fail
    } else {
        Verdict::Warn
    };
    let [first, second, third] = [1, 2, 4].map(|times| next_hops * times);
    Some(check(&name, verdict, found, why).fix(format!(
        "sysctl -w net.{family}.neigh.default.gc_thresh3={third} \
         net.{family}.neigh.default.gc_thresh2={second} net.{family}.neigh.default.gc_thresh1={first}"
    )))
}

/// As a start resolves it, IPv4 first.
fn address(member: &Member) -> Result<IpAddr, String> {
    let found: Vec<SocketAddr> = (member.host.as_str(), member.port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .collect();
    let four = found.iter().find(|address| address.is_ipv4());
    (four.or(found.first()))
        .map(SocketAddr::ip)
        .ok_or_else(|| "the name has no address".to_owned())
}

/// What the kernel says of this host and of the ways out of it.
#[derive(Debug, Default)]
struct Host {
    links: BTreeMap<u32, Link>,
    /// Addresses with their interfaces.
    addresses: Vec<(u32, IpAddr)>,
    routes: BTreeMap<IpAddr, Route>,
    neighbours: Vec<Neighbour>,
    /// `arp_ignore`, the strictest that holds on an interface.
    arp_ignore: BTreeMap<String, u32>,
}

impl Host {
    /// Asks for all that has to do with these addresses, their neighbours included.
    fn look(ips: impl Iterator<Item = IpAddr>) -> Self {
        let links = netlink::links().unwrap_or_default();
        let routes: BTreeMap<IpAddr, Route> = ips
            .filter_map(|ip| Some((ip, netlink::route_to(ip).ok().flatten()?)))
            .collect();
        let next: BTreeSet<(u32, IpAddr)> = (routes.iter())
            .filter(|(_, route)| !route.local)
            .map(|(ip, route)| (route.interface, route.gateway.unwrap_or(*ip)))
            .collect();
        let arp_ignore = (links.iter())
            .map(|link| {
                (
                    link.name.clone(),
                    super::member::strictest(&link.name, "arp_ignore"),
                )
            })
            .collect();
        Self {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: netlink::local_addresses().unwrap_or_default(),
            routes,
            neighbours: neighbours(&next),
            arp_ignore,
        }
    }

    fn name(&self, index: u32) -> String {
        let link = self.links.get(&index);
        link.map_or_else(|| index.to_string(), |link| link.name.clone())
    }

    /// The next hop to an address of another host.
    fn next(&self, ip: IpAddr) -> Option<(u32, IpAddr)> {
        let route = self.routes.get(&ip).filter(|route| !route.local)?;
        Some((route.interface, route.gateway.unwrap_or(ip)))
    }

    /// The neighbour at the end of the way to an address, if it has answered.
    fn neighbour(&self, ip: IpAddr) -> Option<&Neighbour> {
        let next = self.next(ip)?;
        (self.neighbours.iter())
            .find(|n| (n.interface, n.address) == next && n.is_known() && n.mac != [0; 6])
    }
}

/// The neighbours, after those wanted were asked for and had time to answer.
fn neighbours(wanted: &BTreeSet<(u32, IpAddr)>) -> Vec<Neighbour> {
    let is_known = |all: &[Neighbour], next: &(u32, IpAddr)| {
        all.iter()
            .any(|n| (n.interface, n.address) == *next && n.is_known())
    };
    let mut all = netlink::neighbours().unwrap_or_default();
    let asked: Vec<_> = (wanted.iter())
        .filter(|next| !is_known(&all, next))
        // Without the right to ask, what the kernel knows must do.
        .filter(|next| netlink::release(next.0, next.1).is_ok())
        .collect();
    let end = Instant::now() + PATIENCE;
    while asked.iter().any(|next| !is_known(&all, next)) && Instant::now() < end {
        std::thread::sleep(LOOK);
        all = netlink::neighbours().unwrap_or_default();
    }
    all
}

fn mac(mac: [u8; 6]) -> String {
    let bytes: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    bytes.join(":")
}

/// `/32` or `/128`.
const fn bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Nothing that sluice needs.
fn forwarding() -> Check {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    let found = if text.trim() == "1" {
        "on; steering does not need it, and packets that are no service's are routed by this host"
    } else {
        "off, and not needed: next hops are written down by the daemon"
    };
    let why = "steered packets never reach the host's stack; with it on they ask the kernel's routes \
               themselves and follow them while no daemon runs, too";
    check("ip_forward", Verdict::Ok, found, why)
}

/// Who gets the packets for a VIP.
fn owner(
    vip: IpAddr,
    xdp: &[&str],
    host: &Host,
    members: &BTreeMap<&str, Result<IpAddr, String>>,
) -> Check {
    const WHY: &str = "packets for the VIP must come to this host: it holds the address, or a router has \
                       a route to it by this host";
    let name = format!("VIP {vip}");
    let first = xdp.first().copied().unwrap_or("eth0");
    let add = format!("ip address add {vip}/{} dev {first}", bits(vip));
    let held = host.addresses.iter().find(|(_, ip)| *ip == vip);
    if let Some((index, _)) = held {
        return here(vip, &host.name(*index), xdp, host);
    }
    let route = host.routes.get(&vip);
    let on_link = route.filter(|route| route.gateway.is_none() && !route.local);
    let Some(route) = on_link else {
        let by = (host.addresses.iter())
            .find(|(index, ip)| host.name(*index) == first && ip.is_ipv4() == vip.is_ipv4());
        let by = by.map_or_else(
            || format!("an address of {first}"),
            |(_, ip)| ip.to_string(),
        );
        let found = format!("not on this host: the router before it must have a route by {by}");
        return check(&name, Verdict::Ok, found, WHY);
    };
    let link = host.name(route.interface);
    let Some(holder) = host.neighbour(vip) else {
        let found = format!("on the link of {link}, and nobody answers for it");
        return check(&name, Verdict::Fail, found, WHY).fix(add);
    };
    let member = members.iter().find(|(_, ip)| {
        let ip = ip.as_ref().ok();
        ip.and_then(|ip| host.neighbour(*ip))
            .is_some_and(|n| n.mac == holder.mac && n.interface == holder.interface)
    });
    let mac = mac(holder.mac);
    match member {
        Some((url, _)) => check(
            &name,
            Verdict::Fail,
            format!("member {url} ({mac} on {link}) answers for it: packets pass this host by"),
            WHY,
        )
        .fix(format!(
            "on that member: ip address del {vip}/{b} dev {link}; ip address add {vip}/{b} dev lo{}; and \
             here: {add}",
            if vip.is_ipv4() {
                "; sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
            } else {
                ""
            },
            b = bits(vip)
        )),
        None => check(
            &name,
            Verdict::Warn,
            format!("{mac} on {link} answers for it, which is not this host: a standby's is so"),
            WHY,
        )
        .fix(format!("if this is the active balancer: {add}")),
    }
}

/// Of a VIP that this host holds.
fn here(vip: IpAddr, on: &str, xdp: &[&str], host: &Host) -> Check {
    const WHY: &str = "whoever asks the link for the VIP must be answered by this host, or a router must \
                       have a route to it";
    let name = format!("VIP {vip}");
    let first = xdp.first().copied().unwrap_or("eth0");
    let fix = format!(
        "ip address add {vip}/{} dev {first}; or leave it to a router's route",
        bits(vip)
    );
    if xdp.contains(&on) {
        let asked = if vip.is_ipv4() {
            "ARP"
        } else {
            "neighbour solicitations"
        };
        let found = format!("on {on}, which answers {asked} for it");
        return check(&name, Verdict::Ok, found, WHY);
    }
    let kind = host.links.values().find(|link| link.name == on);
    let virtual_one = on == "lo" || kind.is_some_and(|l| l.kind.as_deref() == Some("dummy"));
    if !virtual_one {
        let found =
            format!("on {on}, which is no XDPInterface: what comes in there is not steered");
        return check(&name, Verdict::Fail, found, WHY).fix(format!(
            "XDPInterface {on}; or: ip address add {vip}/{} dev {first}",
            bits(vip)
        ));
    }
    let silent: Vec<&str> = (xdp.iter().copied())
        .filter(|name| host.arp_ignore.get(*name).is_some_and(|ignore| *ignore > 0))
        .collect();
    match (vip, silent[..].first()) {
        (IpAddr::V6(_), _) => check(
            &name,
            Verdict::Warn,
            format!("on {on}: IPv6 answers for addresses of the asked interface alone"),
            WHY,
        )
        .fix(fix),
        (IpAddr::V4(_), Some(silent)) => check(
            &name,
            Verdict::Warn,
            format!("on {on}, and {silent} has arp_ignore set: nobody answers ARP for it"),
            WHY,
        )
        .fix(fix),
        (IpAddr::V4(_), None) => {
            let found = format!("on {on}; every interface answers ARP for it");
            check(&name, Verdict::Ok, found, WHY)
        }
    }
}

/// What members must have, which cannot be seen from here.
fn of_members(vip: IpAddr) -> Check {
    let more = if vip.is_ipv4() {
        ", with arp_ignore=1 and arp_announce=2"
    } else {
        ""
    };
    check(
        &format!("VIP {vip}: members"),
        Verdict::Ok,
        format!("on lo of each{more}: `sluice doctor --member {vip}` there looks"),
        "with dsr, ipip and gue members take packets for the VIP as their own, and answer as it; only \
         the balancer may answer who asks the link for it",
    )
}

/// The way to one member.
fn way(
    steer: &Steer,
    member: &Member,
    ip: &Result<IpAddr, String>,
    xdp: &[&str],
    host: &Host,
) -> Check {
    const WHY: &str =
        "steered packets go out by this host's routes, to the MAC address of the next hop";
    let name = format!("way to {}", member.url);
    let ip = match ip {
        Ok(ip) => *ip,
        Err(error) => {
            let found = format!("{} resolves to nothing: {error}", member.host);
            return check(&name, Verdict::Fail, found, WHY)
                .fix("write its address, or mend the name");
        }
    };
    let Some(route) = host.routes.get(&ip) else {
        let found = format!("no route to {ip}");
        return check(&name, Verdict::Fail, found, WHY).fix(format!("ip route add {ip} via ..."));
    };
    if route.local {
        let found = format!("{ip} is this host's own address");
        return check(&name, Verdict::Fail, found, WHY)
            .fix("members are other hosts: what serves here is reached by ProxyPass");
    }
    let link = host.name(route.interface);
    if let (Some(gateway), Forward::Dsr) = (route.gateway, steer.forward) {
        let found = format!("behind router {gateway}, and forward=dsr reaches the link alone");
        return check(&name, Verdict::Fail, found, WHY).fix("forward=ipip or forward=gue");
    }
    if host
        .links
        .get(&route.interface)
        .is_some_and(|link| !link.running)
    {
        let found = format!("by {link}, which is down or has no carrier");
        return check(&name, Verdict::Fail, found, WHY).fix(format!("ip link set {link} up"));
    }
    let of = host.links.get(&route.interface);
    let tagged = of.and_then(|of| {
        let way = of.way(|of| host.links.get(&of), |name| xdp.contains(&name));
        hops::tagged_notice(&link, way)
    });
    if let Some(found) = tagged {
        return check(&name, Verdict::Warn, found, WHY).fix(format!(
            "let clients' packets come by that VLAN, or XDPInterface {link}, or reach the member untagged"
        ));
    }
    let by = route
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    match host.neighbour(ip) {
        Some(neighbour) => {
            let found = format!("{} on {link}{by}", mac(neighbour.mac));
            check(&name, Verdict::Ok, found, WHY)
        }
        None => check(
            &name,
            Verdict::Warn,
            format!("{} on {link} does not answer", route.gateway.unwrap_or(ip)),
            WHY,
        )
        .fix("is it up, and on this link? Packets for it are dropped as no_neighbour meanwhile"),
    }
}

/// Whether a client's largest packet fits once it is wrapped.
fn room<'a>(
    steer: &Steer,
    members: impl Iterator<Item = &'a IpAddr>,
    xdp: &[&str],
    host: &Host,
) -> Option<Check> {
    let clients = (host.links.values())
        .filter(|link| xdp.contains(&link.name.as_str()))
        .map(|link| link.mtu)
        .max()?;
    let tightest = members
        .filter_map(|ip| {
            let link = host.links.get(&host.routes.get(ip)?.interface)?;
            Some((link, wrapping(steer.forward, *ip)?))
        })
        .min_by_key(|(link, more)| i64::from(link.mtu) - i64::from(*more))?;
    let (
        Link {
            name: link, mtu, ..
        },
        more,
    ) = tightest;
    let name = format!("{}: MTU", shown(steer));
    let fits = clients + more <= *mtu;
    let verdict = if fits { Verdict::Ok } else { Verdict::Warn };
    let found = format!("clients' {clients} and {more} bytes of outer headers, of {mtu} on {link}");
    let why = "a packet that does not fit once it is wrapped is not sent on: its sender is told to send \
               smaller ones (ICMP), which fails where ICMP is filtered";
    Some(check(&name, verdict, found, why).fix(format!(
        "ip link set {link} mtu {}, at the members and on the switches between, too",
        clients + more
    )))
}

/// Bytes that go before a packet; `None`: nothing does.
const fn wrapping(forward: Forward, member: IpAddr) -> Option<u32> {
    let outer = if member.is_ipv4() { 20 } else { 40 };
    match forward {
        Forward::Dsr | Forward::Nat => None,
        Forward::IpIp => Some(outer),
        Forward::Gue => Some(outer + 8),
    }
}

#[cfg(test)]
mod tests;
