//! What a service is protected from: packets that no stack sends, and too many of them.
//!
//! Asked only about packets that belong to a service: the host's other traffic is the stack's
//! business however strange it looks.

use core::hint::black_box;

use crate::{
    addr::{Address, Be16},
    frame::Frame,
    journey::Tables,
    limit::{Limit, LimitKind, SourceKey, action},
    parse::{Headers, tcp},
    service::{flag, proto},
    verdict::Reason,
    window,
};

/// Why `frame`, whose headers name a service, is malformed; `None` if it is not.
///
/// Transport checksums are not checked: a sender on this machine or behind veth leaves them to the
/// card, and the endpoint checks them anyway.
#[inline(always)]
pub fn malformed<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<Reason> {
    let is_tcp = headers.proto == proto::TCP;
    if headers.end < headers.l4 || !holds(frame, headers.end) {
        return Some(Reason::BAD_IP_HEADER);
    }
    if headers.version == 4 && !has_valid_checksum(frame, headers) {
        return Some(Reason::BAD_IP_HEADER);
    }
    // A first fragment must hold the whole TCP header (RFC 3128); UDP's length field is that of
    // the whole datagram, of which a fragment holds a part.
    let shortest = if is_tcp { 20 } else { 8 };
    let longest = headers.end - headers.l4;
    if longest < shortest
        || headers.transport_len < shortest
        || (headers.transport_len > longest && (is_tcp || !headers.is_fragment))
    {
        return Some(Reason::BAD_TRANSPORT_HEADER);
    }
    if is_bad_source(headers) {
        return Some(Reason::BAD_SOURCE);
    }
    if is_tcp && !is_valid_flags(headers.tcp_flags) {
        return Some(Reason::BAD_TCP_FLAGS);
    }
    // UDP without a source port is legal (RFC 768): a sender that wants no answer.
    if is_tcp && headers.source_port == Be16::new(0) {
        return Some(Reason::BAD_PORT);
    }
    None
}

/// As [`malformed`] for what has no ports and is not passed to the stack, which would look itself:
/// ICMP, later fragments.
#[inline(always)]
pub fn malformed_header<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<Reason> {
    if headers.end < headers.l4
        || !holds(frame, headers.end)
        || headers.version == 4 && !has_valid_checksum(frame, headers)
    {
        return Some(Reason::BAD_IP_HEADER);
    }
    is_bad_source(headers).then_some(Reason::BAD_SOURCE)
}

/// Whether the frame has at least `end` bytes; the dearer question is put only where it matters.
#[inline(always)]
fn holds<F: Frame + ?Sized>(frame: &F, end: usize) -> bool {
    end <= frame.len() || end <= frame.total_len()
}

/// RFC 1071: the sum over the header, its checksum included, is all ones. Summed in native words,
/// which byte order does not change.
#[inline(always)]
fn has_valid_checksum<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> bool {
    let Some(base) = frame.read::<20>(headers.l3) else {
        return false;
    };
    let mut sum = 0u64;
    for word in base.chunks_exact(4) {
        sum += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut off = headers.l3 + 20;
    for _ in 0..black_box(10) {
        if off >= headers.l4 {
            break;
        }
        let Some(word) = frame.read::<4>(off) else {
            return false;
        };
        sum += u64::from(u32::from_ne_bytes(word));
        off += 4;
    }
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum == 0xffff
}

/// Source addresses that no packet from a wire has (RFC 1122 section 3.2.1.3, RFC 4291 section
/// 2.7), IPv4 addresses mapped into IPv6 among them: on the wire they are only ever forged.
#[inline(always)]
fn is_bad_source(headers: &Headers) -> bool {
    let a = &headers.source.0;
    if headers.source.words() == headers.destination.words() {
        return true;
    }
    if headers.version == 4 {
        let d = &headers.destination.0;
        is_bad_source4(
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
            u32::from_ne_bytes([d[12], d[13], d[14], d[15]]),
        )
    } else {
        let value = u128::from_be_bytes(*a);
        a[0] == 0xff || value <= 1 || value >> 32 == 0xffff
    }
}

/// As [`is_bad_source`] for IPv4, in memory order.
#[inline(always)]
pub(crate) const fn is_bad_source4(source: u32, destination: u32) -> bool {
    let first = u32::from_le(source) as u8;
    // 0/8, 127/8, 224/4 and the broadcast address; the rest of 240/4 is in use here and there.
    first == 0
        || first == 127
        || first & 0xf0 == 0xe0
        || source == u32::MAX
        || source == destination
}

/// Combinations that a stack sends: SYN and RST each without FIN and without the other, and no
/// segment without any of SYN, RST, ACK (RFC 9293 section 3.10.7).
#[inline(always)]
pub(crate) const fn is_valid_flags(flags: u8) -> bool {
    let is_one_at_most = matches!(
        flags & (tcp::SYN | tcp::RST | tcp::FIN),
        0 | tcp::SYN | tcp::RST | tcp::FIN
    );
    is_one_at_most && flags & (tcp::SYN | tcp::RST | tcp::ACK) != 0
}

/// What the limits say of a packet: one word, which the packet path hands on without looking at
/// what it need not know yet. The verifier then follows one path where there would be several.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limited(pub u32);

impl Limited {
    /// Within all of them; counted.
    pub const WITHIN: Self = Self(0);
    /// Over one whose action is to report; counted.
    pub const REPORTED: Self = Self(flag::REPORTED);

    /// Over one whose action is to drop, for this reason. Not counted.
    #[inline(always)]
    #[must_use]
    pub const fn over(reason: Reason) -> Self {
        Self(reason.0 as u32)
    }

    /// The mark that flags of a decision carry, read back.
    #[inline(always)]
    #[must_use]
    pub const fn of_flags(flags: u32) -> Self {
        Self(flags & flag::REPORTED)
    }

    /// What this and another limit say together.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The reason to drop it, if it is to be dropped.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> Option<Reason> {
        match self.0 as u8 {
            0 => None,
            reason => Some(Reason(reason)),
        }
    }

    /// Whether it is over a limit whose action is to report.
    #[inline(always)]
    #[must_use]
    pub const fn is_reported(self) -> bool {
        self.0 & flag::REPORTED != 0
    }
}

/// Puts one packet of `service` through that service's limits and counts it if it passes.
///
/// The service's own windows come first, so that a flood from random sources is dropped without
/// entering a single source; they are counted last, so that what a source's limit drops does not
/// use up what is everybody's.
#[inline(always)]
pub fn limit<T: Tables>(tables: &T, headers: &Headers, service: u16) -> Limited {
    let Some(limits) = tables.limits(service) else {
        return Limited::WITHIN;
    };
    // Each packet has a kind of its own (or none), and is one of "every packet" of its service.
    let own = match headers.proto {
        proto::TCP if headers.is_syn() => LimitKind::SYN,
        proto::TCP => LimitKind::PACKETS,
        proto::UDP => LimitKind::UDP,
        _ => LimitKind::ICMP,
    };
    let has_both = own != LimitKind::PACKETS && own != LimitKind::ICMP;
    let kinds = || {
        (0..black_box(1 + usize::from(has_both)))
            .map(|turn| if turn == 0 { own } else { LimitKind::PACKETS })
    };

    let mut clock = Clock { now: None };
    let mut reported = false;
    for kind in kinds() {
        let Some(limit) = set(&limits.service, kind) else {
            continue;
        };
        let Some(windows) = tables.service_windows(service, kind) else {
            continue;
        };
        if !window::admits(&windows, limit, clock.now(tables)) {
            if limit.action == action::DROP {
                return Limited::over(service_reason(kind));
            }
            reported = true;
        }
    }
    for kind in kinds() {
        let Some(limit) = set(&limits.source, kind) else {
            continue;
        };
        let key = source_key(headers, service, kind, limit);
        let now = clock.now(tables);
        let Some(windows) = tables.source_windows(&key) else {
            tables.add_source(&key, &window::first(limit.window_ns, now));
            continue;
        };
        if !window::admits(&windows, limit, now) {
            if limit.action == action::DROP {
                return Limited::over(source_reason(kind));
            }
            reported = true;
        }
        window::count(&windows, limit.window_ns, now);
    }
    for kind in kinds() {
        let Some(limit) = set(&limits.service, kind) else {
            continue;
        };
        if let Some(windows) = tables.service_windows(service, kind) {
            window::count(&windows, limit.window_ns, clock.now(tables));
        }
    }
    if reported {
        Limited::REPORTED
    } else {
        Limited::WITHIN
    }
}

/// As [`limit`] for a new flow of a forwarded service.
#[inline(always)]
pub fn limit_flow<T: Tables>(tables: &T, headers: &Headers, service: u16) -> Limited {
    let Some(limits) = tables.limits(service) else {
        return Limited::WITHIN;
    };
    let kind = LimitKind::FLOWS;
    let mut clock = Clock { now: None };
    let mut reported = false;
    let whole = set(&limits.service, kind)
        .and_then(|limit| Some((limit, tables.service_windows(service, kind)?)));
    if let Some((limit, windows)) = &whole
        && !window::admits(windows, limit, clock.now(tables))
    {
        if limit.action == action::DROP {
            return Limited::over(Reason::FLOW_SERVICE_LIMIT);
        }
        reported = true;
    }
    if let Some(limit) = set(&limits.source, kind) {
        let key = source_key(headers, service, kind, limit);
        let now = clock.now(tables);
        if let Some(windows) = tables.source_windows(&key) {
            if !window::admits(&windows, limit, now) {
                if limit.action == action::DROP {
                    return Limited::over(Reason::FLOW_SOURCE_LIMIT);
                }
                reported = true;
            }
            window::count(&windows, limit.window_ns, now);
        } else {
            tables.add_source(&key, &window::first(limit.window_ns, now));
        }
    }
    if let Some((limit, windows)) = &whole {
        window::count(windows, limit.window_ns, clock.now(tables));
    }
    if reported {
        Limited::REPORTED
    } else {
        Limited::WITHIN
    }
}

/// The limit of a kind, if there is one.
#[inline(always)]
fn set(limits: &[Limit; LimitKind::COUNT], kind: LimitKind) -> Option<&Limit> {
    let limit = &limits[kind.0 as usize % LimitKind::COUNT];
    if limit.packets == 0 {
        None
    } else {
        Some(limit)
    }
}

/// Reads the clock at most once, and only if somebody asks.
pub(crate) struct Clock {
    pub(crate) now: Option<u64>,
}

impl Clock {
    #[inline(always)]
    pub(crate) fn now<T: Tables>(&mut self, tables: &T) -> u64 {
        *self.now.get_or_insert_with(|| tables.now())
    }
}

#[inline(always)]
const fn service_reason(kind: LimitKind) -> Reason {
    Reason(Reason::SYN_SERVICE_LIMIT.0 + kind.0 * 2)
}

#[inline(always)]
const fn source_reason(kind: LimitKind) -> Reason {
    Reason(Reason::SYN_SOURCE_LIMIT.0 + kind.0 * 2)
}

/// The key under which a packet's source is counted for one limit.
#[inline(always)]
#[must_use]
pub fn source_key(headers: &Headers, service: u16, kind: LimitKind, limit: &Limit) -> SourceKey {
    let bits = if headers.version == 4 {
        96 + limit.prefix4.min(32)
    } else {
        limit.prefix6
    };
    // One word: an array of zeroes would be a call of memset, whose frame is one too many for the
    // stack as Linux 6.1 reckons it.
    let [low, high, kind, pad @ ..] =
        black_box(u64::from(service) | u64::from(kind.0) << 16).to_le_bytes();
    SourceKey {
        prefix: cut(headers.source, bits),
        service: u16::from_le_bytes([low, high]),
        kind,
        pad,
    }
}

/// The first `bits` (0..=128, more as 128) of an address, the rest cleared.
#[inline(always)]
const fn cut(address: Address, bits: u8) -> Address {
    let a = address.0;
    let high = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    let (high, low) = match bits {
        0 => (0, 0),
        1..=63 => (high & (u64::MAX << (64 - bits)), 0),
        64 => (high, 0),
        65..=127 => (high, low & (u64::MAX << (128 - bits))),
        _ => (high, low),
    };
    let (h, l) = (high.to_be_bytes(), low.to_be_bytes());
    Address([
        h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6],
        l[7],
    ])
}

#[cfg(test)]
mod tests;
