//! The journey of a packet: deny, service lookup, guard, steering, verdict.
//!
//! Every exit of [`travel`] is a [`Verdict`]; the caller counts it and returns its action. Lookups
//! come through [`Tables`], so the host's tests and the kernel run the same decisions.

use core::hint::black_box;

use crate::{
    abi::SERVICE_WAYS,
    addr::{Address, Be16},
    deny::PrefixEntry,
    detour::{self, Detoured, Detours},
    forward::GUE_PORT,
    frame::{Edit, Frame},
    guard::{self, Clock, Limited},
    hurry::hurry,
    limit::{LimitKind, ServiceLimits, SourceKey, Windows},
    parse::{Headers, Reach},
    service::{ServiceSet, ServiceWay, bit_by_words, flag, kind, proto, service_set, set_by_words},
    settings::{Settings, gate},
    verdict::{Reason, Verdict},
    window::SharedWindows,
};

/// The operator's prefix lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum List {
    /// `DENY4` and `DENY6`.
    Deny,
    /// `ALLOW4` and `ALLOW6`.
    Allow,
}

/// What a packet may ask of the maps.
pub trait Tables {
    /// Shared windows as this implementation reaches them.
    type Windows<'a>: SharedWindows
    where
        Self: 'a;

    /// The one entry of `SETTINGS`.
    fn settings(&self) -> Option<&Settings>;
    /// Kernel monotonic clock, ns; coarse (4 ms) is enough. Asked at most once or twice a packet,
    /// and only where a limit or a timed entry applies.
    fn now(&self) -> u64;
    /// Longest entry of a list that covers the first `bits` of `address`; `bits` count from the
    /// family's own first bit (at most 32 with version 4, 128 with version 6).
    fn prefix(&self, list: List, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry>;
    /// [`covers`], for an implementation to outline: few packets come here.
    #[inline(always)]
    fn covers(&self, list: List, version: u8, source: &Address) -> bool
    where
        Self: Sized,
    {
        covers(self, list, version, source)
    }
    /// [`guard::limit`], for an implementation to outline: few services have limits.
    #[inline(always)]
    fn limit(&self, headers: &Headers, service: u16) -> Limited
    where
        Self: Sized,
    {
        guard::limit(self, headers, service)
    }
    /// [`find_rare`], for an implementation to outline.
    #[inline(always)]
    fn find_rare(&self, headers: &Headers, what: Rare) -> Found
    where
        Self: Sized,
    {
        find_rare(self, headers, what)
    }
    /// A set of `SERVICES`.
    fn service_set(&self, set: u32) -> Option<&ServiceSet>;
    /// Limits of a service; 0: the host's.
    fn limits(&self, service: u16) -> Option<&ServiceLimits>;
    /// The windows of a service as a whole.
    fn service_windows(&self, service: u16, kind: LimitKind) -> Option<Self::Windows<'_>>;
    /// The windows of a source.
    fn source_windows(&self, key: &SourceKey) -> Option<Self::Windows<'_>>;
    /// Enters a source that [`source_windows`](Self::source_windows) did not find. May fail: the
    /// packet then goes uncounted.
    fn add_source(&self, key: &SourceKey, windows: &Windows);
}

/// What is still to be done about a packet: in the XDP program each is a program of its own, with a
/// stack of its own, to which the one before jumps. Dense from 0.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// Nothing: the verdict stands.
    Done = 0,
    /// To be steered by `FLOWS4`.
    Steer4 = 1,
    /// To be steered by `FLOWS6`.
    Steer6 = 2,
    /// ICMP to a service's address.
    Icmp = 3,
    /// A later fragment to a service's address.
    Fragment = 4,
    /// A member's answer to an address of ours.
    Return = 5,
    /// An encapsulated packet.
    Unpack = 6,
    /// Steered; a first fragment, or one whose addresses are to be rewritten.
    Rest = 7,
    /// To be answered, or dropped.
    Answer = 8,
    /// To be judged: what did not [`hurry`].
    Judge = 9,
    /// An ICMP error that quotes a connection with rewritten addresses.
    Quoted = 10,
}

impl Then {
    /// How many there are.
    pub const COUNT: u32 = 11;
    /// The program of each step after the first, for whoever loads them.
    pub const PROGRAMS: &[(Self, &str)] = &[
        (Self::Steer4, "sluice_steer4"),
        (Self::Steer6, "sluice_steer6"),
        (Self::Icmp, "sluice_icmp"),
        (Self::Fragment, "sluice_fragment"),
        (Self::Return, "sluice_return"),
        (Self::Unpack, "sluice_unpack"),
        (Self::Rest, "sluice_rest"),
        (Self::Answer, "sluice_answer"),
        (Self::Judge, "sluice_judge"),
        (Self::Quoted, "sluice_quoted"),
    ];
}

/// What [`decide`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Service; 0: none.
    pub service: u16,
    /// The verdict, if nothing is left to do: or if it cannot be done.
    pub reason: Reason,
    /// What is left to do.
    pub then: Then,
    /// [`flag`] bits of the service.
    pub flags: u32,
}

impl Decision {
    #[inline(always)]
    const fn done(service: u16, reason: Reason) -> Self {
        Self {
            service,
            reason,
            then: Then::Done,
            flags: 0,
        }
    }
}

/// How a packet left, and from where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Interface that it is sent from; 0: the one it came in by.
    pub ifindex: u32,
}

/// Judges a packet, and rewrites it where it is to be sent on: the whole journey in one function,
/// for the host. The XDP program takes the same steps one program after the other.
pub fn travel<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Outcome
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let hurried = tables
        .settings()
        .and_then(|settings| hurry(frame, settings, tables));
    match hurried {
        Some(outcome) => outcome,
        None => travel_slowly(frame, headers, tables),
    }
}

/// [`travel`] without [`hurry`], for tests of the latter.
pub fn travel_slowly<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Outcome
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let bytes = bytes(frame, headers);
    let decision = judge(frame, headers, tables);
    let done = match decision.then {
        Then::Steer4 => detour::steer::<F, T, false>(frame, headers, &decision, tables),
        Then::Steer6 => detour::steer::<F, T, true>(frame, headers, &decision, tables),
        Then::Fragment => detour::fragment(frame, headers, &decision, tables),
        Then::Icmp => detour::icmp(frame, headers, &decision, tables),
        Then::Return => detour::give_back(frame, headers, tables),
        Then::Unpack => detour::unpack(frame, headers, &decision, tables),
        _ => Detoured::end(0, decision.reason),
    };
    let service = if done.service == 0 {
        decision.service
    } else {
        done.service
    };
    Outcome::of(service, done.member, done.reason, bytes, done.ifindex)
}

impl Outcome {
    const fn of(service: u16, member: u16, reason: Reason, bytes: u64, ifindex: u32) -> Self {
        Self {
            verdict: Verdict {
                service,
                member,
                reason,
                bytes,
            },
            ifindex,
        }
    }
}

/// Decides what becomes of `frame`, whose headers are `headers`.
#[inline(always)]
pub fn judge<F, T>(frame: &F, headers: &Headers, tables: &T) -> Decision
where
    F: Frame + ?Sized,
    T: Tables,
{
    match tables.settings() {
        Some(settings) => decide(frame, headers, tables, settings),
        // An array of one: the kernel always finds it.
        None => Decision::done(0, Reason::NOT_A_SERVICE),
    }
}

#[inline(always)]
fn decide<F, T>(frame: &F, headers: &Headers, tables: &T, settings: &Settings) -> Decision
where
    F: Frame + ?Sized,
    T: Tables,
{
    let gates = settings.gates;
    let is_guarded = gates & gate::GUARD != 0;
    if headers.reach == Reach::NotIp {
        return Decision::done(0, Reason::NOT_A_SERVICE);
    }
    if headers.is_vital() {
        // Path-MTU messages about steered flows are their members'; neighbour discovery never is.
        let decision = Decision::done(0, Reason::VITAL);
        if headers.is_neighbour_discovery() {
            return decision;
        }
        return judge_icmp(decision, headers, gates, tables);
    }
    if is_guarded
        && is_on(tables, gates, List::Deny, headers)
        && !is_allowed(tables, gates, headers)
    {
        return Decision::done(0, Reason::DENIED);
    }
    // What passes within its limits, and whether it has any.
    let (mut decision, has_limits) = match headers.reach {
        Reach::Ports => {
            let service = find(headers, tables);
            if service.id == 0 {
                let mut decision = Decision::done(0, Reason::NOT_A_SERVICE);
                if gates & gate::STEER != 0 && is_gue(headers.proto, headers.destination_port.0) {
                    decision.then = Then::Unpack;
                }
                return decision;
            }
            let then = match service.kind {
                kind::FORWARDED if headers.version == 4 && service.flags & flag::WIDE == 0 => {
                    Then::Steer4
                }
                kind::FORWARDED => Then::Steer6,
                kind::NAT => Then::Return,
                kind::DECAP => Then::Unpack,
                _ => Then::Done,
            };
            if !is_guarded && then == Then::Done {
                return Decision::done(service.id, Reason::GUARD_OFF);
            }
            if let Some(reason) = guard::malformed(frame, headers) {
                return Decision::done(service.id, reason);
            }
            let has_limits =
                is_guarded && gates & gate::LIMITS != 0 && service.flags & flag::LIMITED != 0;
            let decision = Decision {
                service: service.id,
                reason: Reason::LOCAL,
                then,
                flags: service.flags,
            };
            (decision, has_limits)
        }
        Reach::Icmp => {
            let decision = Decision::done(0, Reason::ICMP);
            let decision = judge_icmp(decision, headers, gates, tables);
            (decision, is_guarded && gates & gate::ICMP_LIMITS != 0)
        }
        Reach::LaterFragment => {
            let mut decision = Decision::done(0, Reason::FRAGMENT);
            if gates & gate::STEER != 0 {
                let vip = tables.find_rare(headers, Rare::Vip);
                (decision.service, decision.flags) = (vip.id, vip.flags);
                // To an address that `nat` sends from it may be of a member's answer.
                if vip.id != 0 || gates & gate::RANGES != 0 {
                    decision.then = Then::Fragment;
                }
            }
            return decision;
        }
        Reach::Addresses => return Decision::done(0, Reason::UNPARSED),
        Reach::OtherProtocol => {
            let mut decision = Decision::done(0, Reason::NOT_A_SERVICE);
            if gates & gate::DECAP != 0 {
                let way = tables.find_rare(headers, Rare::Unpacker);
                if way.id != 0 && way.kind == kind::DECAP {
                    (decision.service, decision.flags) = (way.id, way.flags);
                    decision.then = Then::Unpack;
                }
            }
            let is_ip_in_ip = headers.proto == proto::IPIP || headers.proto == proto::IPV6;
            if is_ip_in_ip && gates & gate::STEER != 0 {
                // It may be one of ours.
                decision.then = Then::Unpack;
            }
            return decision;
        }
        Reach::NotIp => return Decision::done(0, Reason::NOT_A_SERVICE),
    };
    if !has_limits || is_allowed(tables, gates, headers) {
        return decision;
    }
    // ICMP is limited for the host as a whole, whosever it is.
    let limited = if headers.reach == Reach::Icmp {
        0
    } else {
        decision.service
    };
    let said = tables.limit(headers, limited);
    if let Some(reason) = said.is_over() {
        return Decision::done(limited, reason);
    }
    if said.is_reported() {
        decision.reason = Reason::LIMIT_REPORTED;
        decision.flags |= flag::REPORTED;
    }
    decision
}

/// Whether this is a packet of GUE, by its port.
#[inline(always)]
pub(crate) fn is_gue(proto: u8, port: [u8; 2]) -> bool {
    proto == proto::UDP && port == GUE_PORT.to_be_bytes()
}

/// Whether ICMP is about what we forward.
#[inline(always)]
fn judge_icmp<T: Tables>(
    mut decision: Decision,
    headers: &Headers,
    gates: u64,
    tables: &T,
) -> Decision {
    if gates & gate::STEER == 0 {
        return decision;
    }
    let vip = tables.find_rare(headers, Rare::Vip);
    decision.service = vip.id;
    decision.flags = vip.flags;
    // An error to an address that `nat` sends from may be about what it sent: then ports that it
    // quotes say so.
    if vip.id != 0 || gates & gate::RANGES != 0 && headers.is_icmp_error() {
        decision.then = Then::Icmp;
    }
    decision
}

/// Bytes of the frame. The datagram's own length tells whether there is more than the first
/// buffer, so that the dearer question is put to large frames only.
#[inline(always)]
pub fn bytes<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> u64 {
    if headers.end > frame.len() {
        frame.total_len() as u64
    } else {
        frame.len() as u64
    }
}

#[inline(always)]
fn is_allowed<T: Tables>(tables: &T, gates: u64, headers: &Headers) -> bool {
    is_on(tables, gates, List::Allow, headers)
}

/// Whether the source is on a list; asks the list only if its gate says that it has entries.
#[inline(always)]
fn is_on<T: Tables>(tables: &T, gates: u64, list: List, headers: &Headers) -> bool {
    let gate = match (list, headers.version) {
        (List::Deny, 4) => gate::DENY4,
        (List::Deny, _) => gate::DENY6,
        (List::Allow, 4) => gate::ALLOW4,
        (List::Allow, _) => gate::ALLOW6,
    };
    gates & gate != 0 && tables.covers(list, headers.version, &headers.source)
}

/// Entries that have run out and lie one inside the other that are looked behind.
const MAX_EXPIRED: usize = 4;

/// Whether a living entry of `list` covers the source. Behind one that has run out the next shorter
/// prefix is asked for, so that a timed entry inside a lasting one opens no hole when its time is
/// up.
#[inline(always)]
pub fn covers<T: Tables>(tables: &T, list: List, version: u8, source: &Address) -> bool {
    let mut bits = if version == 4 { 32 } else { 128 };
    let mut clock = Clock { now: None };
    for _ in 0..black_box(MAX_EXPIRED) {
        let Some(entry) = tables.prefix(list, version, source, bits) else {
            return false;
        };
        if entry.expires == 0 || clock.now(tables) < entry.expires {
            return true;
        }
        if entry.prefix == 0 || entry.prefix > bits {
            return false;
        }
        bits = entry.prefix - 1;
    }
    false
}

/// A lookup that few packets need.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rare {
    /// The address of forwarded services that a packet without ports was sent to.
    Vip = 0,
    /// Who unpacks packets of this protocol.
    Unpacker = 1,
    /// The service on a range of this address's ports.
    Range = 2,
    /// The service on a range of ports of every address.
    RangeOfAny = 3,
}

/// What the journey needs of a [`ServiceWay`]. `id` 0: none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Service.
    pub id: u16,
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u32,
}

impl Found {
    #[inline(always)]
    const fn of(way: &ServiceWay) -> Self {
        Self {
            id: way.id,
            kind: way.kind,
            flags: way.flags,
        }
    }

    /// As one word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.flags as u64) << 32 | (self.kind as u64) << 16 | self.id as u64
    }

    /// From [`pack`](Self::pack).
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            id: word as u16,
            kind: (word >> 16) as u8,
            flags: (word >> 32) as u32,
        }
    }
}

/// The service of a TCP or UDP packet: one on its very address, else one on every address; on its
/// very port before a range.
#[inline(always)]
pub fn find<T: Tables>(headers: &Headers, tables: &T) -> Found {
    let Some(settings) = tables.settings() else {
        return Found::default();
    };
    let (seed, proto, port) = (
        settings.service_seed,
        headers.proto,
        headers.destination_port,
    );
    let mut found = find_on(headers.destination, port, proto, seed, tables);
    if found.id == 0 && is_range_possible(settings, headers.destination.words(), proto) {
        found = tables.find_rare(headers, Rare::Range);
    }
    if found.id == 0 {
        found = find_on(Address::ANY, port, proto, seed, tables);
    }
    if found.id == 0 && is_range_possible(settings, [0; 2], proto) {
        found = tables.find_rare(headers, Rare::RangeOfAny);
    }
    found
}

/// See [`Rare`].
#[inline(always)]
pub fn find_rare<T: Tables>(tables: &T, headers: &Headers, what: Rare) -> Found {
    let none = Be16::new(0);
    let Some(settings) = tables.settings() else {
        return Found::default();
    };
    let seed = settings.service_seed;
    let is_range = what == Rare::Range || what == Rare::RangeOfAny;
    let proto = if what == Rare::Vip { 0 } else { headers.proto };
    // What is on no port has the range 0 to 0; a range of ports does not begin at 0.
    let port = if is_range {
        headers.destination_port.to_u16()
    } else {
        0
    };
    let mut address = if what == Rare::RangeOfAny {
        Address::ANY
    } else {
        headers.destination
    };
    for _ in 0..black_box(2) {
        let Some(set) = tables.service_set(service_set(address, none, proto, seed)) else {
            break;
        };
        let [high, low] = address.words();
        for i in 0..black_box(SERVICE_WAYS) {
            let way = &set.ways[i % SERVICE_WAYS];
            let [a, b] = way.address.words();
            let [x, y] = way.port.0;
            // Without jumps between them: the verifier follows every combination.
            let other = (a ^ high)
                | (b ^ low)
                | u64::from(x | y)
                | u64::from(way.proto ^ proto)
                | u64::from(
                    port.wrapping_sub(way.range[0]) > way.range[1].wrapping_sub(way.range[0]),
                );
            if other == 0 && way.id != 0 {
                return Found::of(way);
            }
        }
        // Only unpacking has a second place to look.
        if what != Rare::Unpacker {
            break;
        }
        address = Address::ANY;
    }
    Found::default()
}

/// Whether a service may be on a range of this address's ports.
#[inline(always)]
pub(crate) fn is_range_possible(settings: &Settings, words: [u64; 2], proto: u8) -> bool {
    let filter = settings.range_filter;
    settings.gates & gate::RANGES != 0 && (filter == 0 || filter & bit_by_words(words, proto) != 0)
}

/// The service on this very address, port and protocol.
#[inline(always)]
fn find_on<T: Tables>(address: Address, port: Be16, proto: u8, seed: u64, tables: &T) -> Found {
    let port = u16::from_ne_bytes(port.0);
    way_on(address.words(), port, proto, seed, tables).map_or(Found::default(), Found::of)
}

/// The way in `SERVICES` of a service on an address, by its words, and a port, in memory order.
#[inline(always)]
pub(crate) fn way_on<T: Tables>(
    words: [u64; 2],
    port: u16,
    proto: u8,
    seed: u64,
    tables: &T,
) -> Option<&ServiceWay> {
    let set = tables.service_set(set_by_words(words, port, proto, seed))?;
    // Plain loads: a way that changes under the reader misfiles the packets of that moment only.
    set.ways.iter().find(|way| {
        way.id != 0
            && u16::from_ne_bytes(way.port.0) == port
            && way.range[1] == 0
            && way.proto == proto
            && way.address.words() == words
    })
}

#[cfg(test)]
mod tests;
