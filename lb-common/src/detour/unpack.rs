//! Encapsulated packets on a member's side.

use network_types::eth::EtherType;

use super::{Detoured, Detours};
use crate::{
    addr::{Address, Be16},
    checksum,
    forward::{Link, mode},
    frame::Edit,
    journey::Decision,
    parse::{Headers, Reach},
    send::{self, SendTables},
    service::{kind, proto},
    verdict::Reason,
};

/// Takes the outer header off a packet from a source that may send such, and hands it to the stack.
/// All others are the stack's as they are: the host may have tunnels of its own.
#[inline(always)]
pub fn unpack<F, T>(frame: &mut F, headers: &Headers, decision: &Decision, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    if let Some(service) = looped(frame, headers, tables) {
        return Detoured {
            service,
            ..Detoured::end(0, Reason::LOOPED)
        };
    }
    if decision.service == 0
        || headers.is_fragment
        || !tables.may_encapsulate(headers.version, &headers.source)
    {
        return Detoured::end(0, Reason::NOT_A_SERVICE);
    }
    let reason = match unwrap(frame, headers, tables) {
        Some(()) => Reason::UNPACKED,
        None => Reason::BAD_INNER,
    };
    Detoured::end(0, reason)
}

/// The service whose packet this is, in the outer header that we put around it: some router sent it
/// back, or its member's address is ours. The stack would send it on, and it would come again.
#[inline(always)]
fn looped<F, T>(frame: &F, headers: &Headers, tables: &T) -> Option<u16>
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    if headers.is_fragment {
        return None;
    }
    let is_udp = headers.proto == proto::UDP;
    let at = headers.l4 + if is_udp { 8 } else { 0 };
    let mut inner = Headers::default();
    let [first] = frame.read::<1>(at)?;
    let l4 = if first >> 4 == 4 {
        let ip = frame.read::<20>(at)?;
        if (ip[6] & 0x1f) | ip[7] != 0 {
            return None;
        }
        inner.version = 4;
        inner.proto = ip[9];
        inner.destination = Address::from_v4([ip[16], ip[17], ip[18], ip[19]]);
        at + usize::from(first & 15) * 4
    } else {
        inner.version = 6;
        [inner.proto] = frame.read::<1>(at + 6)?;
        inner.destination = Address::from_v6(frame.read::<16>(at + 24)?);
        at + 40
    };
    let [_, _, a, b] = frame.read::<4>(l4)?;
    inner.destination_port = Be16([a, b]);
    inner.reach = Reach::Ports;
    let found = tables.find_service(&inner);
    let forward = tables.forward(found.id)?;
    let from = forward.source(headers.version == 4);
    let wanted = if is_udp { mode::GUE } else { mode::IPIP };
    let is_ours = found.id != 0
        && found.kind == kind::FORWARDED
        && forward.mode == wanted
        && from.words() == headers.source.words();
    is_ours.then_some(found.id)
}

/// `None`: the inner packet is none, or for nobody here.
#[inline(always)]
fn unwrap<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Option<()>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let l3 = headers.l3;
    let at = if headers.proto == proto::UDP {
        headers.l4 + 8
    } else {
        headers.l4
    };
    let outer = frame.read::<2>(l3)?;
    let outer_tos = if headers.version == 4 {
        outer[1]
    } else {
        (outer[0] << 4) | (outer[1] >> 4)
    };
    let first = frame.read::<20>(at)?;
    let version = first[0] >> 4;
    let is_right = match headers.proto {
        proto::IPIP => version == 4,
        proto::IPV6 => version == 6,
        _ => version == 4 || version == 6,
    };
    if !is_right || headers.end > frame.total_len() {
        return None;
    }
    let (len, to, inner) = if version == 4 {
        let f = first;
        if f[0] & 15 < 5 {
            return None;
        }
        (
            u16::from_be_bytes([f[2], f[3]]) as usize,
            Address::from_v4([f[16], f[17], f[18], f[19]]),
            f[1],
        )
    } else {
        (
            u16::from_be_bytes([first[4], first[5]]) as usize + 40,
            Address::from_v6(frame.read::<16>(at + 24)?),
            (first[0] << 4) | (first[1] >> 4),
        )
    };
    // The outer packet holds the inner one, and the inner one is for this host.
    if len < 20 || at + len > headers.end || !tables.is_local(&to) {
        return None;
    }
    let tos = unpacked_tos(outer_tos, inner)?;
    let macs = frame.read::<12>(0)?;
    let tags = frame.read::<8>(12)?;
    frame.pull(at - l3)?;
    let link = Link::new(
        [macs[0], macs[1], macs[2], macs[3], macs[4], macs[5]],
        [macs[6], macs[7], macs[8], macs[9], macs[10], macs[11]],
        0,
        0,
    );
    let ether_type = if version == 4 {
        EtherType::Ipv4
    } else {
        EtherType::Ipv6
    };
    send::link_header(frame, l3, &link, tags, ether_type as u16)?;
    if tos == inner {
        return Some(());
    }
    if version == 4 {
        let check = frame.read::<2>(l3 + 10)?;
        let word = |tos| u64::from(u16::from_ne_bytes([first[0], tos]));
        frame.write(l3 + 10, checksum::update(check, word(inner), word(tos)))?;
        frame.write(l3 + 1, [tos])
    } else {
        frame.write(l3, [0x60 | (tos >> 4), (tos << 4) | (first[1] & 15)])
    }
}

/// The inner traffic class after what the way of the tunnel made of the outer one (RFC 6040 section
/// 4.2). `None`: congestion was marked on a packet whose sender does not know the mark.
#[inline(always)]
const fn unpacked_tos(outer: u8, inner: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (0, 3) => None,
        (1 | 2, 3) => Some(inner | 3),
        (2, 1) => Some(inner & !3 | 1),
        _ => Some(inner),
    }
}
