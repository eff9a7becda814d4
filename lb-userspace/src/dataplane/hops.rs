//! Next hops to members, as the kernel's routes and neighbours have them. The packet path asks the
//! kernel itself; here the kernel is told to keep the neighbours known, and what it knows is written
//! down for the time when it does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::{forward::Link as Hop, member::MemberId};

use super::{
    Desired, Facts,
    netlink::{self, Link, Neighbour, Route, Way},
    store::Store,
};
use crate::config::spec::Forward;

/// What is known of the ways to the members that are steered to.
#[derive(Debug, Default)]
pub(super) struct Hops {
    members: Vec<(MemberId, IpAddr)>,
    routes: HashMap<IpAddr, Route>,
    /// Neighbours that the kernel keeps known because we asked.
    managed: BTreeSet<(u32, IpAddr)>,
    links: HashMap<u32, Link>,
    /// Names of the interfaces that the program runs on.
    ours: BTreeSet<String>,
    /// Members without a way, that was said of.
    lost: BTreeSet<IpAddr>,
    /// The kernel does not manage neighbours (before Linux 5.17).
    unmanaged: bool,
}

/// Members that are steered to, each once.
fn steered(desired: &Desired) -> BTreeSet<IpAddr> {
    let steers = desired.spec.sluice.steers.iter();
    steers
        .filter_map(|steer| desired.addresses.get(steer.balancer))
        .flatten()
        .map(std::net::SocketAddr::ip)
        .filter(|ip| !ip.is_unspecified())
        .collect()
}

/// What the host says of the ways to members, for making the services.
pub(super) fn facts(desired: &Desired) -> Facts {
    let mut facts = Facts {
        ephemeral: ephemeral(),
        ..Facts::default()
    };
    if desired.spec.sluice.steers.is_empty() {
        return facts;
    }
    let addresses = netlink::local_addresses().unwrap_or_default();
    facts.local = addresses.into_iter().map(|(_, ip)| ip).collect();
    let links = links();
    for ip in steered(desired) {
        let Ok(Some(route)) = netlink::route_to(ip) else {
            continue;
        };
        if let Some(source) = route.source {
            facts.sources.insert(ip, source);
        }
        if let Some(link) = links.get(&route.interface) {
            facts.mtus.insert(ip, link.mtu);
        }
    }
    facts
}

/// `net.ipv4.ip_local_port_range` of this network namespace.
fn ephemeral() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => (32768, 60999),
    }
}

/// Interfaces that the program is to run on.
fn ours(desired: &Desired) -> BTreeSet<String> {
    let interfaces = desired.spec.sluice.interfaces.iter();
    interfaces.map(|interface| interface.name.clone()).collect()
}

/// What is wrong with the way to what is behind an interface; `None`: nothing.
pub(super) fn tagged_notice(name: &str, way: Way) -> Option<String> {
    match way {
        Way::Out => None,
        Way::Tagged { vlan, .. } => Some(format!(
            "behind {name}: packets that come with the tag of VLAN {vlan} are steered to it, all others \
             for it are dropped as not_forwarded, for tags are neither put on nor changed"
        )),
        Way::Closed => Some(format!(
            "behind {name}, whose frames bear several tags, or those of 802.1ad: packets for it are \
             dropped as not_forwarded"
        )),
    }
}

fn links() -> HashMap<u32, Link> {
    let links = netlink::links().unwrap_or_default();
    links.into_iter().map(|link| (link.index, link)).collect()
}

/// What to tell the operator of ways that cannot be taken.
pub(super) fn notices(desired: &Desired) -> Vec<String> {
    let mut notices = Vec::new();
    let mut said = BTreeSet::new();
    let (links, ours) = (links(), ours(desired));
    for steer in &desired.spec.sluice.steers {
        let balancer = &desired.spec.balancers[steer.balancer];
        let addresses = desired.addresses.get(steer.balancer).into_iter().flatten();
        for (member, address) in balancer.members.iter().zip(addresses) {
            let ip = address.ip();
            if ip.is_unspecified() || !said.insert((ip, steer.forward == Forward::Dsr)) {
                continue;
            }
            let url = &member.url;
            match netlink::route_to(ip) {
                Ok(Some(route)) if route.local => notices.push(format!(
                    "member {url}: {ip} is this host's own address; steered packets do not come back \
                     to it"
                )),
                Ok(Some(route)) if route.gateway.is_some() && steer.forward == Forward::Dsr => {
                    notices.push(format!(
                        "member {url}: {ip} is behind a router, and forward=dsr reaches the link \
                         alone; use forward=ipip or forward=gue"
                    ));
                }
                Ok(Some(route)) => {
                    let link = links.get(&route.interface);
                    let way = link.map(|link| link.way(|of| links.get(&of), |of| ours.contains(of)));
                    let name = link.map_or("", |link| &link.name);
                    let notice = way.and_then(|way| tagged_notice(name, way));
                    notices.extend(notice.map(|notice| format!("member {url}: {ip} is {notice}")));
                }
                Ok(None) => notices.push(format!(
                    "member {url}: there is no route to {ip}; packets for it are dropped until there \
                     is"
                )),
                _ => {}
            }
        }
    }
    notices
}

/// No frame's: ids have twelve bits.
const NO_VLAN: u16 = 0xffff;

/// What to write down for a member, by the way to it, the neighbour there if it is known, and what was
/// written before; `None`: nothing new.
fn hop_for(way: Way, hop: Option<Hop>, was: Hop) -> Option<Hop> {
    match (way, hop) {
        (Way::Out, Some(hop)) => Some(hop),
        (Way::Tagged { trunk, vlan }, Some(hop)) => {
            let ifindex = trunk;
            Some(Hop { ifindex, ..hop }.in_vlan(vlan))
        }
        // Routes know nothing of frames' tags: they are not asked.
        (Way::Tagged { trunk, vlan }, None) => {
            let same = Hop {
                ifindex: trunk,
                ..was
            }
            .in_vlan(vlan)
                == was;
            (!same).then(Hop::withheld)
        }
        (Way::Closed, _) => Some(Hop::default().in_vlan(NO_VLAN)),
        // The last one stays, but for one into a VLAN.
        (Way::Out, None) => (was.to[7] != 0).then(Hop::default),
    }
}

fn give(store: &Store, id: MemberId, hop: &Hop) {
    if store.l4.given(id) != *hop {
        store.l4.give_hop(id, hop);
    }
}

impl Hops {
    /// The members to look after from now on; returns those of before.
    pub(super) fn turn_to(
        &mut self,
        desired: &Desired,
        ids: &[Vec<MemberId>],
    ) -> Vec<(MemberId, IpAddr)> {
        let steered: BTreeSet<usize> = (desired.spec.sluice.steers.iter())
            .map(|steer| steer.balancer)
            .collect();
        let members = steered
            .into_iter()
            .filter_map(|index| Some((desired.addresses.get(index)?, ids.get(index)?)))
            .flat_map(|(addresses, ids)| ids.iter().zip(addresses))
            .map(|(id, address)| (*id, address.ip()))
            .filter(|(_, ip)| !ip.is_unspecified())
            .collect();
        self.lost.clear();
        self.ours = ours(desired);
        std::mem::replace(&mut self.members, members)
    }

    /// After a publish that was taken back.
    pub(super) fn turn_back(&mut self, members: Vec<(MemberId, IpAddr)>) {
        self.members = members;
        self.look_at_routes();
    }

    /// Asks for routes and interfaces anew: after a change of either.
    pub(super) fn look_at_routes(&mut self) {
        self.links = links();
        let ips: BTreeSet<IpAddr> = self.members.iter().map(|(_, ip)| *ip).collect();
        let before = std::mem::take(&mut self.routes);
        self.routes = ips
            .into_iter()
            .filter_map(|ip| {
                // That nobody could be asked says nothing of the route.
                let found = netlink::route_to(ip).unwrap_or_else(|_| before.get(&ip).copied());
                Some((ip, found?))
            })
            .collect();
    }

    /// Looks at the neighbours, has the kernel keep them, and writes down those that it knows.
    pub(super) fn look_at_neighbours(&mut self, store: &Store) {
        if self.members.is_empty() && self.managed.is_empty() {
            return;
        }
        let Ok(all) = netlink::neighbours() else {
            return;
        };
        let known: BTreeMap<(u32, IpAddr), &Neighbour> = all
            .iter()
            .map(|neighbour| ((neighbour.interface, neighbour.address), neighbour))
            .collect();
        let mut wanted = BTreeSet::new();
        for (id, ip) in &self.members {
            let Some(route) = self.routes.get(ip).filter(|route| !route.local) else {
                if self.lost.insert(*ip) {
                    tracing::warn!("there is no way to member {ip}");
                }
                // Nor one that was: the packet path would go on to use it.
                give(store, *id, &Hop::default());
                continue;
            };
            self.lost.remove(ip);
            let next = (route.interface, route.gateway.unwrap_or(*ip));
            let neighbour = known.get(&next);
            if !neighbour.is_some_and(|neighbour| neighbour.is_fixed()) {
                wanted.insert(next);
            }
            let Some(link) = self.links.get(&route.interface) else {
                continue;
            };
            let way = link.way(|of| self.links.get(&of), |name| self.ours.contains(name));
            let is_known =
                |neighbour: &&&Neighbour| neighbour.is_known() && neighbour.mac != [0; 6];
            let neighbour = neighbour.filter(is_known);
            let hop = neighbour.map(|n| Hop::new(n.mac, link.mac, link.index, link.mtu));
            if let Some(hop) = hop_for(way, hop, store.l4.given(*id)) {
                give(store, *id, &hop);
            }
        }
        self.manage(&wanted, &known);
    }

    fn manage(
        &mut self,
        wanted: &BTreeSet<(u32, IpAddr)>,
        known: &BTreeMap<(u32, IpAddr), &Neighbour>,
    ) {
        for next in wanted {
            let kept = known.get(next).is_some_and(|neighbour| neighbour.managed);
            if kept || self.unmanaged {
                continue;
            }
            match netlink::manage(next.0, next.1) {
                Ok(()) => {
                    self.managed.insert(*next);
                }
                // The interface is on its way out, or down: there will be news.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN)) => {}
                Err(error) => {
                    tracing::warn!(
                        "the kernel does not keep neighbours known by itself ({error}): a member that \
                         was silent for long may cost its first packet"
                    );
                    self.unmanaged = true;
                }
            }
        }
        let gone: Vec<_> = self.managed.difference(wanted).copied().collect();
        for next in gone {
            self.managed.remove(&next);
            // Gone already is as good.
            let _ = netlink::release(next.0, next.1);
        }
    }

    /// Has the packet path ask for every next hop at its next packet.
    pub(super) fn ask_anew(&self, store: &Store) {
        for (id, _) in &self.members {
            store.l4.ask_anew(*id);
        }
    }

    /// Leaves the kernel's neighbours as they were found.
    pub(super) fn release(&mut self) {
        for (interface, ip) in std::mem::take(&mut self.managed) {
            let _ = netlink::release(interface, ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn way_into_a_vlan_is_the_trunks_and_never_the_routes() {
        let hop = Hop::new([2, 0, 0, 0, 0, 21], [2, 0, 0, 0, 0, 1], 9, 1500);
        let none = Hop::default();
        let tagged = |vlan| Way::Tagged { trunk: 2, vlan };
        let in_seven = hop_for(tagged(7), Some(hop), none).expect("known");
        assert!(in_seven.is_usable() && in_seven.is_tagged() && !in_seven.is_set());
        assert_eq!((in_seven.ifindex, in_seven.mtu), (2, 1500));
        assert_eq!(in_seven.from[6..], [0, 7]);
        // While nobody answers the last one stays, of that VLAN alone; else nothing is sent.
        assert_eq!(hop_for(tagged(7), None, in_seven), None);
        for was in [none, hop, in_seven] {
            let given = hop_for(tagged(8), None, was).expect("another");
            assert!(!given.is_usable() && given.to[7] != 0, "{given:?}");
        }
        let closed = hop_for(Way::Closed, Some(hop), hop).expect("closed");
        assert!(closed.is_tagged() && closed.from[6] > 0x0f);
        // Out of it again.
        assert_eq!(hop_for(Way::Out, Some(hop), in_seven), Some(hop));
        assert_eq!(hop_for(Way::Out, None, in_seven), Some(none));
        assert_eq!(hop_for(Way::Out, None, hop), None);
    }
}
