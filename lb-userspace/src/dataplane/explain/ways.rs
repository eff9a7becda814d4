//! What comes after the election: the way to the member; and packets that are no client's: members'
//! answers under `nat`, encapsulated ones.

use std::net::IpAddr;

use lb_common::{
    addr::Address,
    forward::{Forward, mode},
    member::MemberId,
    nat::{NatEntry, seen},
    parse::Headers,
    service::proto,
    verdict::Reason,
};

use super::Maps;

/// Whether a packet can be sent to a member, as far as the maps say: what more there is to say, and the
/// reason for which it is dropped.
pub(super) fn sent(
    maps: &Maps<'_>,
    headers: &Headers,
    forward: &Forward,
    member: u16,
) -> (String, Option<Reason>) {
    let head = maps.members.get(usize::from(member)).copied();
    let is_v4 = |address: [u8; 16]| Address(address).as_v4().is_some();
    let is_other = head.is_some_and(|head| is_v4(head.address) != (headers.version == 4));
    if forward.mode == mode::NAT && forward.nat_ports == 0 {
        let said = "nat: no address to come from, for there is no route to the members yet";
        return (said.to_owned(), Some(Reason::NOT_FORWARDED));
    }
    if forward.mode == mode::NAT && is_other {
        let said = "nat: the member is of the other address family";
        return (said.to_owned(), Some(Reason::NOT_FORWARDED));
    }
    let Some(hop) = maps.store.l4.hop_in_use(MemberId(u32::from(member))) else {
        let said = "next hop: not known to the maps; the kernel's routes are asked at the next packet, \
                    which is dropped as no_neighbour if they know none either";
        return (said.to_owned(), None);
    };
    let mac: Vec<String> = hop.to[..6].iter().map(|b| format!("{b:02x}")).collect();
    let vlan = if hop.is_tagged() {
        let vlan = u16::from_be_bytes([hop.from[6], hop.from[7]]);
        format!(
            ", for frames with the tag of VLAN {vlan} alone: others are dropped as not_forwarded"
        )
    } else {
        String::new()
    };
    (format!("next hop: {}{vlan}", mac.join(":")), None)
}

/// The connection of `nat` that a member's packet to an address of ours answers.
pub(super) fn answered(maps: &Maps<'_>, headers: &Headers) -> Option<NatEntry> {
    let is_udp = headers.proto == proto::UDP;
    maps.store.l4.connections().find(|is| {
        let entry = lb_common::flow_table::Entry(is.value);
        let head = maps.members.get(usize::from(entry.member()));
        let forward = maps.forwards.get(usize::from(is.service));
        head.zip(forward).is_some_and(|(head, forward)| {
            is.our_port == headers.destination_port.0
                && (is.seen & seen::UDP != 0) == is_udp
                && head.incarnation as u8 == entry.incarnation()
                && head.port == headers.source_port.0
                && Address(head.address).words() == headers.source.words()
                && forward.source(headers.version == 4).words() == headers.destination.words()
        })
    })
}

/// What is said of a connection that was found so.
pub(super) fn client_of(is: &NatEntry) -> String {
    let client =
        std::net::SocketAddr::new(IpAddr::from(is.client), u16::from_be_bytes(is.client_port));
    let service = std::net::SocketAddr::new(
        IpAddr::from(is.destination),
        u16::from_be_bytes(is.service_port),
    );
    format!("nat: an answer to {client}, as from {service}")
}
