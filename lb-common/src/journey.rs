//! The journey of a packet: deny, service lookup, guard, verdict.
//!
//! Every exit of [`judge`] is a [`Verdict`]; the caller counts it and returns its action. Lookups
//! come through [`Tables`], so the host's tests and the kernel run the same decisions.

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
    /// Longest entry of `DENY4` or `DENY6` that covers the first `bits` of `address`; `bits` count
    /// from the family's own first bit (at most 32 with version 4, 128 with version 6).
    fn deny(&self, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry>;
    /// The same for `ALLOW4` and `ALLOW6`.
    fn allow(&self, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry>;
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
    let verdict = |service, reason| Verdict {
        service,
        reason,
        bytes: bytes(frame, headers),
    };
    // An array of one: the kernel always finds it.
    let Some(settings) = tables.settings() else {
        return verdict(0, Reason::NOT_A_SERVICE);
    };
    let gates = settings.gates;
    let guarded = gates & gate::GUARD != 0;
    if headers.reach == Reach::NotIp {
        return verdict(0, Reason::NOT_A_SERVICE);
    }
    if headers.is_vital() {
        return verdict(0, Reason::VITAL);
    }
    if guarded && is_denied(headers, gates, tables) {
        return verdict(0, Reason::DENIED);
    }
    match headers.reach {
        Reach::Ports => {}
        Reach::Icmp => {
            if !guarded || gates & gate::ICMP_LIMITS == 0 {
                return verdict(0, Reason::ICMP);
            }
            return verdict(0, limited(headers, gates, tables, 0, Reason::ICMP));
        }
        Reach::LaterFragment => return verdict(0, Reason::FRAGMENT),
        Reach::Addresses => return verdict(0, Reason::UNPARSED),
        Reach::NotIp | Reach::OtherProtocol => return verdict(0, Reason::NOT_A_SERVICE),
    }
    let Some(service) = find(headers, settings.service_seed, tables) else {
        return verdict(0, Reason::NOT_A_SERVICE);
    };
    if !guarded {
        return verdict(service.id, Reason::GUARD_OFF);
    }
    if let Some(reason) = guard::malformed(frame, headers) {
        return verdict(service.id, reason);
    }
    if gates & gate::LIMITS == 0 || service.flags & flag::LIMITED == 0 {
        return verdict(service.id, Reason::LOCAL);
    }
    verdict(
        service.id,
        limited(headers, gates, tables, service.id, Reason::LOCAL),
    )
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

/// The reason of a packet after the limits of `service`; `within` where they do not apply.
#[inline(always)]
fn limited<T: Tables>(
    headers: &Headers,
    gates: u64,
    tables: &T,
    service: u16,
    within: Reason,
) -> Reason {
    if is_allowed(headers, gates, tables, &mut Clock { now: None }) {
        return within;
    }
    let Some(limits) = tables.limits(service) else {
        return within;
    };
    match guard::limit(tables, headers, service, limits) {
        Limited::Within => within,
        Limited::Reported => Reason::LIMIT_REPORTED,
        Limited::Over(reason) => reason,
    }
}

/// Whether the operator denies the source and does not also allow it.
#[inline(always)]
fn is_denied<T: Tables>(headers: &Headers, gates: u64, tables: &T) -> bool {
    let gate = if headers.version == 4 {
        gate::DENY4
    } else {
        gate::DENY6
    };
    if gates & gate == 0 {
        return false;
    }
    let mut clock = Clock { now: None };
    covers(
        |bits| tables.deny(headers.version, &headers.source, bits),
        headers,
        tables,
        &mut clock,
    ) && !is_allowed(headers, gates, tables, &mut clock)
}

#[inline(always)]
fn is_allowed<T: Tables>(headers: &Headers, gates: u64, tables: &T, clock: &mut Clock) -> bool {
    let gate = if headers.version == 4 {
        gate::ALLOW4
    } else {
        gate::ALLOW6
    };
    gates & gate != 0
        && covers(
            |bits| tables.allow(headers.version, &headers.source, bits),
            headers,
            tables,
            clock,
        )
}

/// Entries that have run out and lie one inside the other that are looked behind.
const MAX_EXPIRED: usize = 4;

/// Whether a living entry covers the source. Behind one that has run out the next shorter prefix
/// is asked for, so that a timed entry inside a lasting one opens no hole when its time is up.
#[inline(always)]
fn covers<T: Tables>(
    longest: impl Fn(u32) -> Option<PrefixEntry>,
    headers: &Headers,
    tables: &T,
    clock: &mut Clock,
) -> bool {
    let mut bits = if headers.version == 4 { 32 } else { 128 };
    for _ in 0..MAX_EXPIRED {
        let Some(entry) = longest(bits) else {
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
        if way.id != 0 && way.port == port && way.proto == headers.proto && way.address == address {
            return Some(*way);
        }
    }
    None
}

#[cfg(test)]
mod tests;
