//! The common packet's short way: an untagged IPv4 packet without options, whole, TCP or UDP.
//!
//! [`hurry`] decides and does in one pass, with the headers in registers, what [`crate::journey`] and
//! [`crate::detour`] would decide and do: it passes what is no service's or a local service's, and
//! sends what is in the middle of a flow that `FLOWS4` knows. Of all else, and in every doubt, it
//! keeps its hands off: `None`, and nothing done. What it does it does as they do, which its tests
//! hold it to.

use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{
    addr::Address,
    checksum,
    flow_table::{Flow4Key, State},
    forward::{Forward, Link, hash_kind, mode},
    frame::{Edit, PlainHdr},
    guard,
    journey::{List, Outcome, is_gue, is_range_possible, way_on},
    parse::tcp,
    send::{self, SendTables, TTL},
    service::{flag, kind, proto},
    settings::{Settings, gate},
    steer, track,
    verdict::{Reason, Verdict},
};

/// See the module. `None`: take the long way.
#[inline(always)]
pub fn hurry<F, T>(frame: &mut F, settings: &Settings, tables: &T) -> Option<Outcome>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let gates = settings.gates;
    if gates & (gate::CAPTURE | gate::LOG) != 0 {
        return None;
    }
    let head = frame.header::<PlainHdr, _>(0)?;
    // Little-endian everywhere, so that a byte is where it is on every host.
    let [begin, middle, times] = [head.begin, head.middle, head.times].map(u32::from_le);
    // IPv4, a header of 20 bytes; no fragment (RFC 791: "more fragments" and 13 bits of offset).
    if u16::from_be(head.ether_type) != 0x0800 || begin & 0xff != 0x45 || middle & 0xff3f_0000 != 0
    {
        return None;
    }
    let proto = (times >> 8) as u8;
    let is_tcp = proto == proto::TCP;
    if !is_tcp && proto != proto::UDP {
        return None;
    }
    let len = usize::from(((begin >> 16) as u16).swap_bytes());
    let bytes = frame.len();
    if EthHdr::LEN + len > bytes {
        return None;
    }
    let (source, destination) = (head.from, head.to);
    if gates & (gate::GUARD | gate::DENY4) == gate::GUARD | gate::DENY4
        && tables.covers(List::Deny, 4, &Address::from_v4(source.to_ne_bytes()))
    {
        return None;
    }
    let passed = |service, reason| Some(outcome(service, 0, reason, bytes, 0));

    let (port, seed) = (head.destination_port, settings.service_seed);
    let words = Address::words_v4(destination);
    let Some(way) = way_on(words, port, proto, seed, tables) else {
        if is_range_possible(settings, words, proto)
            || is_range_possible(settings, [0; 2], proto)
            || way_on([0; 2], port, proto, seed, tables).is_some()
            || gates & gate::STEER != 0 && is_gue(proto, port.to_ne_bytes())
        {
            return None;
        }
        return passed(0, Reason::NOT_A_SERVICE);
    };
    let (service, is_local) = (way.id, way.kind == kind::LOCAL);
    if way.flags & (flag::WIDE | flag::LIMITED) != 0 || !is_local && way.kind != kind::FORWARDED {
        return None;
    }
    if is_local && gates & gate::GUARD == 0 {
        return passed(service, Reason::GUARD_OFF);
    }

    // What `guard::malformed` would not let through goes there.
    let words = [
        begin,
        middle,
        times,
        u32::from_le(source),
        u32::from_le(destination),
    ];
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    if checksum::fold(sum) != 0xffff || guard::is_bad_source4(source, destination) {
        return None;
    }
    let (least, long, flags) = if is_tcp {
        let [offset, flags] = frame.read::<2>(EthHdr::LEN + Ipv4Hdr::LEN + 12)?;
        if head.source_port == 0 || !guard::is_valid_flags(flags) {
            return None;
        }
        (20, usize::from(offset >> 4) * 4, flags)
    } else {
        let long = usize::from(u16::from_be(head.udp_len));
        (8, long, tcp::ACK)
    };
    if long < least || long + Ipv4Hdr::LEN > len {
        return None;
    }
    if is_local {
        return passed(service, Reason::LOCAL);
    }

    // From here on what is in the middle of a connection.
    if flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0 {
        return None;
    }
    let key = Flow4Key {
        source,
        port: head.source_port,
        service,
    };
    let place = key.place(settings.flow_seed, tables.mask4());
    let (_, entry) = track::find(&tables.set4(place.first)?, &key, place.tag);
    let beat = tables.beat();
    // Seen in this beat, and nothing new about it.
    if entry.state() <= State::NEW && entry.state() != State::CLOSING || entry.age(beat) != 0 {
        return None;
    }
    let member = entry.member();
    let keeper = tables.member(member)?;
    if !steer::keeps(keeper, entry.incarnation()) {
        return None;
    }
    let member_address = Address(keeper.address).as_v4()?;
    let forward = tables.forward(service)?;
    let link = tables.fresh_link(member, beat)?;
    let is_plain = forward.mode == mode::DSR;
    let overhead = if is_plain { 0 } else { Ipv4Hdr::LEN };
    // What is too large, or too old, is answered or dropped by who has the room for it.
    if forward.mode > mode::IPIP
        || forward.hash == hash_kind::QUIC
        || times & 0xff <= 1
        || len + overhead > send::mtu(forward, &link) as usize
    {
        return None;
    }

    // The word loses one (the time to live is its lowest byte), so the checksum gains one.
    let check = checksum::plus_one((times >> 16) as u16);
    let lower = (times & 0xffff).wrapping_sub(1) | u32::from(check) << 16;
    let written = frame.write(EthHdr::LEN + 8, lower.to_le_bytes());
    let written = written.and_then(|()| {
        if is_plain {
            relink(frame, &link)
        } else {
            wrap(
                frame,
                forward,
                &link,
                (begin >> 8) as u8,
                len,
                member_address,
            )
        }
    });
    let reason = if written.is_some() {
        tables.count_member(member, bytes as u64, Reason::STEERED);
        Reason::STEERED
    } else {
        Reason::NOT_REWRITTEN
    };
    let ifindex = if written.is_some() { link.ifindex } else { 0 };
    Some(outcome(service, member, reason, bytes, ifindex))
}

#[inline(always)]
const fn outcome(service: u16, member: u16, reason: Reason, bytes: usize, ifindex: u32) -> Outcome {
    Outcome {
        verdict: Verdict {
            service,
            member,
            reason,
            bytes: bytes as u64,
        },
        ifindex,
    }
}

/// Both MACs, the first word and the rest.
#[inline(always)]
const fn macs(link: &Link) -> (u64, u32) {
    let (to, from) = (u64::from_le_bytes(link.to), u64::from_le_bytes(link.from));
    (to & 0xffff_ffff_ffff | from << 48, (from >> 16) as u32)
}

#[inline(always)]
fn relink<F: Edit + ?Sized>(frame: &mut F, link: &Link) -> Option<()> {
    let (first, rest) = macs(link);
    frame.write_words(0, [first])?;
    frame.write(8, rest.to_le_bytes())
}

/// The outer header of [`send`], with the link layer's in front, word by word.
#[inline(always)]
fn wrap<F: Edit + ?Sized>(
    frame: &mut F,
    forward: &Forward,
    link: &Link,
    inner_tos: u8,
    len: usize,
    to: [u8; 4],
) -> Option<()> {
    frame.push(Ipv4Hdr::LEN)?;
    let tos = send::outer_tos(forward, inner_tos);
    let long = u16::from_le_bytes(((len + Ipv4Hdr::LEN) as u16).to_be_bytes());
    let (from, to) = (u32::from_le_bytes(forward.source4), u32::from_le_bytes(to));
    let begin = 0x45 | u64::from(tos) << 8;
    // "Don't fragment"; time to live and protocol.
    let (middle, times) = (0x40_0000, u64::from(TTL) | u64::from(proto::IPIP) << 8);
    let sum = begin + (u64::from(long) << 16) + middle + times + u64::from(from) + u64::from(to);
    let check = !checksum::fold(sum);
    let (first, rest) = macs(link);
    frame.write_words(
        0,
        [
            first,
            u64::from(rest) | 0x0008 << 32 | begin << 48,
            u64::from(long) | middle << 16 | times << 48,
            u64::from(check) | u64::from(from) << 16 | u64::from(to) << 48,
        ],
    )?;
    frame.write(32, ((to >> 16) as u16).to_le_bytes())
}

#[cfg(test)]
mod tests;
