//! Sending a steered packet to its member: time to live, size, next hop, outer headers.
//!
//! Outer headers follow RFC 2003 and 2473 (IP in IP), RFC 6040 (ECN: copied out), RFC 6864 (an
//! outer IPv4 header that forbids fragmentation needs no identification: 0). The inner packet stays
//! as it came but for its time to live, which ends loops.

#![expect(
    clippy::many_single_char_names,
    reason = "the bytes of header fields, side by side"
)]

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    addr::Address,
    checksum,
    forward::{Forward, Hop, Link, dscp, mode},
    frame::{Edit, Frame},
    member::MemberHead,
    nat::NatEntry,
    parse::Headers,
    service::proto,
    steer::SteerTables,
    verdict::Reason,
};

/// What sending asks: next hops, and connections whose addresses are rewritten.
pub trait SendTables: SteerTables {
    /// `HOPS`, copied.
    fn hop(&self, member: u16) -> Option<Hop>;
    /// Where frames for a member go, if that need not be asked anew in this beat.
    #[inline(always)]
    fn fresh_link(&self, member: u16, beat: u32) -> Option<Link> {
        let hop = self.hop(member)?;
        let link = known(&hop);
        let is_fresh = hop.given.to[7] != 0 || hop.asked == u64::from(beat) + 1;
        (link.is_set() && is_fresh).then_some(link)
    }
    /// Asks the kernel's routes and neighbours for the way to `to`, and notes what they say in the
    /// member's hop, `beat` included. Where they know nothing, what was learned before stays, if
    /// there is a route.
    fn ask_route(&self, member: u16, to: &Address, beat: u32);
    /// Whether a source may send encapsulated packets: `DECAP4` and `DECAP6`.
    fn may_encapsulate(&self, version: u8, source: &Address) -> bool;
    /// Whether the kernel would not send a packet for this address on to another host.
    fn is_local(&self, address: &Address) -> bool;
    /// Interface that the packet came in by.
    fn ingress(&self) -> u32;
    /// Entries of `NAT` less one.
    fn nat_mask(&self) -> u32;
    /// An entry of `NAT`, copied.
    fn nat(&self, index: u32) -> Option<NatEntry>;
    /// Puts `new` in place of `old` in an entry's value word; whether `old` still stood there.
    fn replace_nat(&self, index: u32, old: u64, new: u64) -> bool;
    /// Writes an entry but for its value: only by who has put `State::FILLING` there.
    fn fill_nat(&self, index: u32, entry: &NatEntry);
    /// Sets bits of [`crate::nat::seen`].
    fn mark_nat(&self, index: u32, seen: u8);
}

/// Largest IP packet where nobody says otherwise.
pub const DEFAULT_MTU: u32 = 1500;
/// Time to live of the headers that we make.
pub const TTL: u8 = 64;

/// A header of `N` bytes less than which an IP packet is refused.
const V4: usize = Ipv4Hdr::LEN;
const V6: usize = Ipv6Hdr::LEN;
const GUE: usize = UdpHdr::LEN;

/// Bytes that the way to a member adds to a packet.
#[inline(always)]
#[must_use]
pub const fn overhead(forward: &Forward, is_v4: bool) -> usize {
    let ip = if is_v4 { V4 } else { V6 };
    match forward.mode {
        mode::IPIP => ip,
        mode::GUE => ip + GUE,
        _ => 0,
    }
}

/// Largest IP packet that may go out by `link`, bytes.
#[inline(always)]
#[must_use]
pub const fn mtu(forward: &Forward, link: &Link) -> u32 {
    if forward.mtu != 0 {
        forward.mtu as u32
    } else if link.mtu != 0 {
        link.mtu
    } else {
        DEFAULT_MTU
    }
}

/// Where frames for a member go; `None`: nobody knows.
#[inline(always)]
pub fn link<T: SendTables>(tables: &T, member: u16, to: &Address) -> Option<Link> {
    let mut hop = tables.hop(member)?;
    let beat = tables.beat();
    if hop.given.to[7] == 0 && hop.asked != u64::from(beat) + 1 {
        tables.ask_route(member, to, beat);
        hop = tables.hop(member)?;
    }
    Some(known(&hop)).filter(Link::is_usable)
}

/// Whether a frame may leave by a link: into a VLAN with that VLAN's tag (IEEE 802.1Q), which it has
/// brought along, and no other. Tags are neither put on nor changed here.
#[inline(always)]
pub fn may_leave<F: Frame + ?Sized>(frame: &F, headers: &Headers, link: &Link) -> bool {
    if !link.is_tagged() {
        return true;
    }
    headers.l3 == EthHdr::LEN + 4
        && frame.read::<4>(12).is_some_and(|[a, b, c, d]| {
            [a, b] == [0x81, 0] && [c & 0x0f, d] == [link.from[6], link.from[7]]
        })
}

/// What a hop says: what was learned, else what was given; unset if nobody knows.
#[inline(always)]
#[must_use]
pub const fn known(hop: &Hop) -> Link {
    if hop.learned.is_set() && hop.given.to[7] == 0 {
        // Routes say nothing of sizes.
        Link {
            mtu: hop.given.mtu,
            ..hop.learned
        }
    } else {
        hop.given
    }
}

/// Rewrites the frame for its member. Returns the interface to send it from, 0 for the one it came
/// in by. `Err`: the reason to drop it, or what is to be answered ([`Reason::TOO_BIG`]).
#[inline(always)]
pub fn send<F, T>(
    frame: &mut F,
    headers: &Headers,
    forward: &Forward,
    member: u16,
    head: &MemberHead,
    tables: &T,
) -> Result<u32, Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let to = Address(head.address);
    let link = link(tables, member, &to).ok_or(Reason::NO_NEIGHBOUR)?;
    if !may_leave(frame, headers, &link) {
        return Err(Reason::NOT_FORWARDED);
    }
    let to_v4 = to.as_v4();
    let len = headers.end.wrapping_sub(headers.l3);
    let overhead = overhead(forward, to_v4.is_some());
    if len + overhead > mtu(forward, &link) as usize {
        return Err(Reason::TOO_BIG);
    }
    let inner = lower_ttl(frame, headers)?;
    if forward.mode == mode::DSR {
        frame.write(0, macs(&link)).ok_or(Reason::NOT_REWRITTEN)?;
        return Ok(link.ifindex);
    }
    let tags = frame.read::<8>(12).ok_or(Reason::NOT_REWRITTEN)?;
    let outer = Outer::of(headers, forward, inner, len);
    let written = match to_v4 {
        Some(to) => wrap_v4(frame, headers.l3, &outer, forward.source4, to),
        None => wrap_v6(frame, headers.l3, &outer, forward.source6, to.0),
    };
    let ether_type = if to_v4.is_some() {
        EtherType::Ipv4
    } else {
        EtherType::Ipv6
    };
    written
        .and_then(|()| link_header(frame, headers.l3, &link, tags, ether_type as u16))
        .ok_or(Reason::NOT_REWRITTEN)?;
    Ok(link.ifindex)
}

/// An outer header's TOS or traffic class.
#[inline(always)]
pub(crate) const fn outer_tos(forward: &Forward, inner: u8) -> u8 {
    if forward.dscp == dscp::COPY {
        inner
    } else {
        (forward.dscp << 2) | (inner & 3)
    }
}

/// Takes one from the packet's time to live; returns its traffic class (TOS).
#[inline(always)]
pub fn lower_ttl<F: Edit + ?Sized>(frame: &mut F, headers: &Headers) -> Result<u8, Reason> {
    let at = headers.l3;
    if headers.version == 4 {
        let [ttl, proto, a, b] = frame.read::<4>(at + 8).ok_or(Reason::NOT_REWRITTEN)?;
        if ttl <= 1 {
            return Err(Reason::TTL_EXPIRED);
        }
        let [_, tos] = frame.read::<2>(at).ok_or(Reason::NOT_REWRITTEN)?;
        let word = |ttl| u64::from(u16::from_ne_bytes([ttl, proto]));
        let [a, b] = checksum::update([a, b], word(ttl), word(ttl - 1));
        frame
            .write(at + 8, [ttl - 1, proto, a, b])
            .ok_or(Reason::NOT_REWRITTEN)?;
        Ok(tos)
    } else {
        let [limit] = frame.read::<1>(at + 7).ok_or(Reason::NOT_REWRITTEN)?;
        if limit <= 1 {
            return Err(Reason::TTL_EXPIRED);
        }
        let [a, b] = frame.read::<2>(at).ok_or(Reason::NOT_REWRITTEN)?;
        frame
            .write(at + 7, [limit - 1])
            .ok_or(Reason::NOT_REWRITTEN)?;
        Ok((a << 4) | (b >> 4))
    }
}

/// Destination and source MAC as they stand in a frame.
#[inline(always)]
#[must_use]
pub const fn macs(link: &Link) -> [u8; 12] {
    let (a, b) = (link.to, link.from);
    [
        a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1], b[2], b[3], b[4], b[5],
    ]
}

/// What goes around a packet.
struct Outer {
    tos: u8,
    proto: u8,
    /// Bytes of the inner packet.
    len: usize,
    gue: Option<[u8; GUE]>,
    /// 20 bits for the flow label (RFC 6438).
    entropy: u32,
}

impl Outer {
    #[inline(always)]
    fn of(headers: &Headers, forward: &Forward, inner_tos: u8, len: usize) -> Self {
        let is_gue = forward.mode == mode::GUE;
        Self {
            tos: outer_tos(forward, inner_tos),
            proto: if is_gue {
                proto::UDP
            } else if headers.version == 4 {
                proto::IPIP
            } else {
                proto::IPV6
            },
            len,
            gue: is_gue.then(|| gue_header(headers, forward, len)),
            entropy: entropy(headers),
        }
    }
}

/// Some bits of the flow, for whoever spreads tunnels over paths and queues by ports and labels.
#[inline(always)]
fn entropy(headers: &Headers) -> u32 {
    let [_, low] = headers.source.words();
    let (a, b) = (headers.source_port.0, headers.destination_port.0);
    let ports = u32::from_ne_bytes([a[0], a[1], b[0], b[1]]);
    let h = ((low >> 32) as u32 ^ low as u32 ^ ports).wrapping_mul(0x9E37_79B1);
    h >> 12
}

/// UDP from a port of the dynamic range that is the flow's, without a checksum (RFC 6935: what is
/// inside has its own).
#[inline(always)]
fn gue_header(headers: &Headers, forward: &Forward, len: usize) -> [u8; GUE] {
    let [a, b] = (0xc000 | (entropy(headers) as u16 & 0x3fff)).to_be_bytes();
    let [c, d] = forward.gue_port;
    let [e, f] = ((len + GUE) as u16).to_be_bytes();
    [a, b, c, d, e, f, 0, 0]
}

#[inline(always)]
fn wrap_v4<F: Edit + ?Sized>(
    frame: &mut F,
    l3: usize,
    outer: &Outer,
    from: [u8; 4],
    to: [u8; 4],
) -> Option<()> {
    let mut len = outer.len + V4;
    if let Some(udp) = outer.gue {
        len += GUE;
        frame.push(V4 + GUE)?;
        frame.write(l3 + V4, udp)?;
    } else {
        frame.push(V4)?;
    }
    let [a, b] = (len as u16).to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, outer.tos, a, b]),
        // Identification 0, "don't fragment".
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([TTL, outer.proto, 0, 0]),
        u32::from_ne_bytes(from),
        u32::from_ne_bytes(to),
    ];
    let mut sum = 0;
    for word in words {
        sum += u64::from(word);
    }
    let [c, d] = checksum::complete(sum);
    let (s, t) = (from, to);
    frame.write(
        l3,
        [
            0x45,
            outer.tos,
            a,
            b,
            0,
            0,
            0x40,
            0,
            TTL,
            outer.proto,
            c,
            d,
            s[0],
            s[1],
            s[2],
            s[3],
            t[0],
            t[1],
            t[2],
            t[3],
        ],
    )
}

#[inline(always)]
fn wrap_v6<F: Edit + ?Sized>(
    frame: &mut F,
    l3: usize,
    outer: &Outer,
    from: [u8; 16],
    to: [u8; 16],
) -> Option<()> {
    let mut len = outer.len;
    if let Some(udp) = outer.gue {
        len += GUE;
        frame.push(V6 + GUE)?;
        frame.write(l3 + V6, udp)?;
    } else {
        frame.push(V6)?;
    }
    let first = 6 << 28 | u32::from(outer.tos) << 20 | (outer.entropy & 0xf_ffff);
    let [a, b, c, d] = first.to_be_bytes();
    let [e, f] = (len as u16).to_be_bytes();
    frame.write(l3, [a, b, c, d, e, f, outer.proto, TTL])?;
    frame.write(l3 + 8, from)?;
    frame.write(l3 + 24, to)
}

/// The link-layer header in front of a new outer header: MACs, the tags that were there, the type.
#[inline(always)]
pub fn link_header<F: Edit + ?Sized>(
    frame: &mut F,
    l3: usize,
    link: &Link,
    tags: [u8; 8],
    ether_type: u16,
) -> Option<()> {
    frame.write(0, macs(link))?;
    let [x, y] = ether_type.to_ne_bytes();
    let t = tags;
    // Each tag is type and control word; the type of what follows the last is the outer header's.
    if l3 == EthHdr::LEN {
        frame.write(12, [x, y])
    } else if l3 == EthHdr::LEN + 4 {
        frame.write(12, [t[0], t[1], t[2], t[3], x, y])
    } else {
        frame.write(12, [t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], x, y])
    }
}
