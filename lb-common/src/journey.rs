//! The journey of a packet: deny, service lookup, guard, verdict.
//!
//! Every exit of [`judge`] is a [`Verdict`]; the caller counts it and returns its action. Lookups
//! come through [`Tables`], so the host's tests and the kernel run the same decisions.

use core::hint::black_box;

use crate::{
    addr::Address,
    deny::PrefixEntry,
    frame::Frame,
    guard::{self, Clock, Limited},
    limit::{LimitKind, ServiceLimits, SourceKey, Windows},
    parse::{Headers, Reach},
    service::{ServiceSet, ServiceWay, flag, service_set},
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
    fn covers(&self, list: List, headers: &Headers) -> bool
    where
        Self: Sized,
    {
        covers(self, list, headers)
    }
    /// [`guard::limit`], for an implementation to outline: few services have limits.
    #[inline(always)]
    fn limit(&self, headers: &Headers, service: u16) -> Limited
    where
        Self: Sized,
    {
        guard::limit(self, headers, service)
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

/// Decides what becomes of `frame`, whose headers are `headers`.
#[inline(always)]
pub fn judge<F, T>(frame: &F, headers: &Headers, tables: &T) -> Verdict
where
    F: Frame + ?Sized,
    T: Tables,
{
    let (service, reason) = match tables.settings() {
        Some(settings) => decide(frame, headers, tables, settings),
        // An array of one: the kernel always finds it.
        None => (0, Reason::NOT_A_SERVICE),
    };
    Verdict {
        service,
        member: 0,
        reason,
        bytes: bytes(frame, headers),
    }
}

#[inline(always)]
fn decide<F, T>(frame: &F, headers: &Headers, tables: &T, settings: &Settings) -> (u16, Reason)
where
    F: Frame + ?Sized,
    T: Tables,
{
    let gates = settings.gates;
    let is_guarded = gates & gate::GUARD != 0;
    if headers.reach == Reach::NotIp {
        return (0, Reason::NOT_A_SERVICE);
    }
    if headers.is_vital() {
        return (0, Reason::VITAL);
    }
    if is_guarded
        && is_on(tables, gates, List::Deny, headers)
        && !is_allowed(tables, gates, headers)
    {
        return (0, Reason::DENIED);
    }
    // What passes within its limits, and whether it has any.
    let (id, within, has_limits) = match headers.reach {
        Reach::Ports => {
            let Some(service) = find(headers, settings.service_seed, tables) else {
                return (0, Reason::NOT_A_SERVICE);
            };
            if !is_guarded {
                return (service.id, Reason::GUARD_OFF);
            }
            if let Some(reason) = guard::malformed(frame, headers) {
                return (service.id, reason);
            }
            let has_limits = gates & gate::LIMITS != 0 && service.flags & flag::LIMITED != 0;
            (service.id, Reason::LOCAL, has_limits)
        }
        Reach::Icmp => (
            0,
            Reason::ICMP,
            is_guarded && gates & gate::ICMP_LIMITS != 0,
        ),
        Reach::LaterFragment => return (0, Reason::FRAGMENT),
        Reach::Addresses => return (0, Reason::UNPARSED),
        Reach::NotIp | Reach::OtherProtocol => return (0, Reason::NOT_A_SERVICE),
    };
    if !has_limits || is_allowed(tables, gates, headers) {
        return (id, within);
    }
    match tables.limit(headers, id) {
        Limited::Within => (id, within),
        Limited::Reported => (id, Reason::LIMIT_REPORTED),
        Limited::Over(reason) => (id, reason),
    }
}

/// Bytes of the frame. The datagram's own length tells whether there is more than the first
/// buffer, so that the dearer question is put to large frames only.
#[inline(always)]
fn bytes<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> u64 {
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
    gates & gate != 0 && tables.covers(list, headers)
}

/// Entries that have run out and lie one inside the other that are looked behind.
const MAX_EXPIRED: usize = 4;

/// Whether a living entry of `list` covers the source. Behind one that has run out the next shorter
/// prefix is asked for, so that a timed entry inside a lasting one opens no hole when its time is
/// up.
#[inline(always)]
pub fn covers<T: Tables>(tables: &T, list: List, headers: &Headers) -> bool {
    let mut bits = if headers.version == 4 { 32 } else { 128 };
    let mut clock = Clock { now: None };
    for _ in 0..black_box(MAX_EXPIRED) {
        let Some(entry) = tables.prefix(list, headers.version, &headers.source, bits) else {
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

/// The service of a TCP or UDP packet: one on its very address, else one on every address.
#[inline(always)]
fn find<T: Tables>(headers: &Headers, seed: u64, tables: &T) -> Option<ServiceWay> {
    find_on(headers.destination, headers, seed, tables)
        .or_else(|| find_on(Address::ANY, headers, seed, tables))
}

#[inline(always)]
fn find_on<T: Tables>(
    address: Address,
    headers: &Headers,
    seed: u64,
    tables: &T,
) -> Option<ServiceWay> {
    let port = headers.destination_port;
    let set = tables.service_set(service_set(address, port, headers.proto, seed))?;
    // Plain loads: a way that changes under the reader misfiles the packets of that moment only.
    for way in &set.ways {
        if way.id != 0
            && way.port == port
            && way.proto == headers.proto
            && way.address.words() == address.words()
        {
            return Some(*way);
        }
    }
    None
}

#[cfg(test)]
mod tests;
