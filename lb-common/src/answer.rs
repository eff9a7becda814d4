//! Answers of our own, made of the frame that asked: ICMP errors, resets, echo replies.
//!
//! Each is sent back by where the packet came from, from the address that it was sent to, and spends
//! one of this beat's answers.

#![expect(
    clippy::many_single_char_names,
    reason = "the bytes of header fields, side by side"
)]

use core::hint::black_box;

use crate::{
    checksum,
    frame::Edit,
    parse::{Headers, tcp},
    send::TTL,
    service::proto,
};

/// Most bytes of the packet that an ICMP error quotes: what fits into 576 bytes, the least that
/// every IPv4 host takes (RFC 1122 section 3.3.3).
pub const MAX_QUOTE: usize = 512;
/// ICMP's own header.
const ICMP: usize = 8;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// Type 3 code 4 (RFC 1191), ICMPv6 type 2: the largest packet that fits, bytes.
    TooBig(u16),
    /// Type 3 code 3, ICMPv6 type 1 code 4.
    PortUnreachable,
}

/// Turns the frame into an ICMP error about it. `None`: it cannot be.
#[inline(always)]
pub fn error<F: Edit + ?Sized>(frame: &mut F, headers: &Headers, problem: Problem) -> Option<()> {
    let l3 = headers.l3;
    let is_v4 = headers.version == 4;
    let ip = if is_v4 { 20 } else { 40 };
    // Whole words of what the datagram has, all of it in the first buffer.
    let there = headers.end.min(frame.len()).checked_sub(l3)?;
    let quote = there.min(MAX_QUOTE) & !3;
    if quote < 28 {
        return None;
    }
    let macs = frame.read::<12>(0)?;
    let tags = frame.read::<10>(12)?;
    frame.push(ip + ICMP)?;
    frame.resize(l3 + ip + ICMP + quote)?;
    link_header(frame, l3, macs, tags)?;

    let word = match (problem, is_v4) {
        (Problem::TooBig(mtu), true) => {
            let [a, b] = mtu.to_be_bytes();
            [3, 4, 0, 0, 0, 0, a, b]
        }
        (Problem::TooBig(mtu), false) => {
            let [a, b] = mtu.to_be_bytes();
            [2, 0, 0, 0, 0, 0, a, b]
        }
        (Problem::PortUnreachable, true) => [3, 3, 0, 0, 0, 0, 0, 0],
        (Problem::PortUnreachable, false) => [1, 4, 0, 0, 0, 0, 0, 0],
    };
    let len = ICMP + quote;
    let mut sum = checksum::sum(&word);
    let mut off = l3 + ip + ICMP;
    for _ in 0..black_box(MAX_QUOTE / 4) {
        if off >= l3 + ip + len {
            break;
        }
        sum += u64::from(u32::from_ne_bytes(frame.read::<4>(off)?));
        off += 4;
    }
    let icmp = if is_v4 { proto::ICMP } else { proto::ICMPV6 };
    if is_v4 {
        ip_header_v4(frame, headers, icmp, len)?;
    } else {
        ip_header_v6(frame, headers, icmp, len)?;
        sum += pseudo_v6(headers, icmp, len);
    }
    let [c, d] = checksum::complete(sum);
    let w = word;
    frame.write(l3 + ip, [w[0], w[1], c, d, w[4], w[5], w[6], w[7]])
}

/// Turns the frame into the reset that a closed port sends (RFC 9293 section 3.5.2). `None`: it
/// asks for none, or cannot be.
#[inline(always)]
pub fn reset<F: Edit + ?Sized>(frame: &mut F, headers: &Headers) -> Option<()> {
    if headers.tcp_flags & tcp::RST != 0 || headers.is_fragment {
        return None;
    }
    let l3 = headers.l3;
    let is_v4 = headers.version == 4;
    let ip = if is_v4 { 20 } else { 40 };
    let was = frame.read::<20>(headers.l4)?;
    let macs = frame.read::<12>(0)?;
    let tags = frame.read::<10>(12)?;
    let word = |at: usize| u32::from_be_bytes([was[at], was[at + 1], was[at + 2], was[at + 3]]);
    let (seq, ack, flags) = if headers.tcp_flags & tcp::ACK != 0 {
        (word(8), 0, tcp::RST)
    } else {
        let data = headers
            .end
            .wrapping_sub(headers.l4)
            .wrapping_sub(headers.transport_len) as u32;
        let mut next = word(4).wrapping_add(data);
        if headers.tcp_flags & tcp::SYN != 0 {
            next = next.wrapping_add(1);
        }
        if headers.tcp_flags & tcp::FIN != 0 {
            next = next.wrapping_add(1);
        }
        (0, next, tcp::RST | tcp::ACK)
    };
    frame.resize(l3 + ip + 20)?;
    link_header(frame, l3, macs, tags)?;
    let (s, t) = (headers.destination_port.0, headers.source_port.0);
    let (q, a) = (seq.to_be_bytes(), ack.to_be_bytes());
    let mut tcp = [
        s[0], s[1], t[0], t[1], q[0], q[1], q[2], q[3], a[0], a[1], a[2], a[3], 0x50, flags, 0, 0,
        0, 0, 0, 0,
    ];
    let mut sum = checksum::sum(&tcp);
    if is_v4 {
        ip_header_v4(frame, headers, proto::TCP, 20)?;
        sum += pseudo_v4(headers, proto::TCP, 20);
    } else {
        ip_header_v6(frame, headers, proto::TCP, 20)?;
        sum += pseudo_v6(headers, proto::TCP, 20);
    }
    [tcp[16], tcp[17]] = checksum::complete(sum);
    frame.write(l3 + ip, tcp)
}

/// Turns an echo request into its reply. `None`: it cannot be.
#[inline(always)]
pub fn echo<F: Edit + ?Sized>(frame: &mut F, headers: &Headers) -> Option<()> {
    let (l3, l4) = (headers.l3, headers.l4);
    let macs = frame.read::<12>(0)?;
    let [kind, code, a, b] = frame.read::<4>(l4)?;
    let (reply, ttl_at) = if headers.version == 4 {
        (0, l3 + 8)
    } else {
        (129, l3 + 7)
    };
    let word = |kind| u64::from(u16::from_ne_bytes([kind, code]));
    let [c, d] = checksum::update([a, b], word(kind), word(reply));
    if headers.version == 4 {
        let [ttl, proto, a, b] = frame.read::<4>(ttl_at)?;
        let word = |ttl| u64::from(u16::from_ne_bytes([ttl, proto]));
        let [a, b] = checksum::update([a, b], word(ttl), word(TTL));
        let (s, t) = (frame.read::<4>(l3 + 12)?, frame.read::<4>(l3 + 16)?);
        frame.write(ttl_at, [TTL, proto, a, b])?;
        frame.write(l3 + 12, t)?;
        frame.write(l3 + 16, s)?;
    } else {
        frame.write(ttl_at, [TTL])?;
        frame.write(l3 + 8, headers.destination.0)?;
        frame.write(l3 + 24, headers.source.0)?;
    }
    frame.write(l4, [reply, code, c, d])?;
    let m = macs;
    frame.write(
        0,
        [
            m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5],
        ],
    )
}

/// The link-layer header as it came, the other way round. `tags`: what followed the MACs.
#[inline(always)]
fn link_header<F: Edit + ?Sized>(
    frame: &mut F,
    l3: usize,
    macs: [u8; 12],
    tags: [u8; 10],
) -> Option<()> {
    let m = macs;
    frame.write(
        0,
        [
            m[6], m[7], m[8], m[9], m[10], m[11], m[0], m[1], m[2], m[3], m[4], m[5],
        ],
    )?;
    let t = tags;
    if l3 == 14 {
        frame.write(12, [t[0], t[1]])
    } else if l3 == 18 {
        frame.write(12, [t[0], t[1], t[2], t[3], t[4], t[5]])
    } else {
        frame.write(12, t)
    }
}

/// An IPv4 header of an answer with `len` bytes behind it.
#[inline(always)]
fn ip_header_v4<F: Edit + ?Sized>(
    frame: &mut F,
    headers: &Headers,
    proto: u8,
    len: usize,
) -> Option<()> {
    let [a, b] = ((len + 20) as u16).to_be_bytes();
    let (s, t) = (&headers.destination.0, &headers.source.0);
    let mut ip = [
        0x45, 0, a, b, 0, 0, 0x40, 0, TTL, proto, 0, 0, s[12], s[13], s[14], s[15], t[12], t[13],
        t[14], t[15],
    ];
    [ip[10], ip[11]] = checksum::complete(checksum::sum(&ip));
    frame.write(headers.l3, ip)
}

/// As [`ip_header_v4`].
#[inline(always)]
fn ip_header_v6<F: Edit + ?Sized>(
    frame: &mut F,
    headers: &Headers,
    proto: u8,
    len: usize,
) -> Option<()> {
    let [a, b] = (len as u16).to_be_bytes();
    frame.write(headers.l3, [0x60, 0, 0, 0, a, b, proto, TTL])?;
    frame.write(headers.l3 + 8, headers.destination.0)?;
    frame.write(headers.l3 + 24, headers.source.0)
}

/// Sum of the pseudo header (RFC 9293 section 3.1). Addresses either way round: a sum has no order.
#[inline(always)]
pub(crate) fn pseudo_v4(headers: &Headers, proto: u8, len: usize) -> u64 {
    let word = |a: &[u8; 16]| u64::from(u32::from_ne_bytes([a[12], a[13], a[14], a[15]]));
    let [x, y] = (len as u16).to_be_bytes();
    word(&headers.source.0)
        + word(&headers.destination.0)
        + u64::from(u32::from_ne_bytes([0, proto, x, y]))
}

/// Sum of the pseudo header (RFC 8200 section 8.1).
#[inline(always)]
pub(crate) fn pseudo_v6(headers: &Headers, proto: u8, len: usize) -> u64 {
    let ([a, b], [c, d]) = (headers.source.words(), headers.destination.words());
    let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let [x, y, z, w] = (len as u32).to_be_bytes();
    halves(a)
        + halves(b)
        + halves(c)
        + halves(d)
        + u64::from(u32::from_ne_bytes([x, y, z, w]))
        + u64::from(u32::from_ne_bytes([0, 0, 0, proto]))
}
