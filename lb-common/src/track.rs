//! Finding, entering and ageing flows in the sets of [`crate::flow_table`].
//!
//! A key has two sets. It lies in the first unless that was full of dearer flows when it came; then
//! in the second, and the first is marked as overflowed, so that whoever does not find a key looks
//! into the second only where that can help.
//!
//! What is displaced, and by whom, is the defence against floods: a flow that went on for more than
//! a beat is never displaced before it has been idle for its whole idle time, whatever comes. Since
//! answers do not come back this way nothing proves that a sender is real, so what a flood can
//! promote to that rank is capped for each CPU and beat.

#![expect(
    clippy::many_single_char_names,
    reason = "the bytes of header fields, side by side"
)]

use crate::{
    addr::Address,
    flow_table::{BEATS, Entry, Flow4Key, Flow6Key, State, WAYS},
    forward::{DEFAULT_TCP_IDLE, DEFAULT_UDP_IDLE, Forward},
    steer::FlowSet,
};

/// Where a key lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// First set.
    pub first: u32,
    /// See [`Entry::tag`].
    pub tag: u16,
    mask: u32,
    hash: u64,
    odd: u64,
}

impl Place {
    /// Second set; may be the first again. Few packets ask for it.
    #[inline(always)]
    #[must_use]
    pub const fn second(&self) -> u32 {
        let h = (self.hash ^ (self.hash >> 32)).wrapping_mul(self.odd.rotate_left(32) | 1);
        (h >> 40) as u32 & self.mask
    }
}

impl Flow4Key {
    /// As it lies in a way.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        let (a, p, s) = (self.source as u64, self.port as u64, self.service as u64);
        if cfg!(target_endian = "little") {
            a | p << 32 | s << 48
        } else {
            a << 32 | p << 16 | s
        }
    }

    /// From [`word`](Self::word).
    #[must_use]
    pub const fn of_word(word: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        Self::new([a, b, c, d], [e, f], u16::from_ne_bytes([g, h]))
    }

    /// Where it lies in a table of `mask + 1` sets.
    #[inline(always)]
    #[must_use]
    pub const fn place(self, seed: [u64; 2], mask: u32) -> Place {
        placed(self.word(), seed, mask)
    }
}

impl Flow6Key {
    /// Ports and service as they lie in a set.
    #[inline(always)]
    #[must_use]
    pub const fn tail(&self) -> u64 {
        let (a, b, s) = (
            self.source_port,
            self.destination_port,
            self.service.to_ne_bytes(),
        );
        u64::from_ne_bytes([a[0], a[1], b[0], b[1], s[0], s[1], 0, 0])
    }

    /// Where it lies in a table of `mask + 1` sets.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self, seed: [u64; 2], mask: u32) -> Place {
        let [a, b] = self.source.words();
        let [c, d] = self.destination.words();
        let (odd, other) = (seed[0] | 1, seed[1] | 1);
        let mut h = step(a, odd) ^ b;
        h = step(h, other) ^ c;
        h = step(h, odd) ^ d;
        h = step(h, other) ^ self.tail();
        placed(h, seed, mask)
    }
}

/// Multiplying by a secret odd number and taking high bits is universal hashing (Dietzfelbinger):
/// who does not know the number finds no keys that collide, which a fixed number with a secret
/// summand would not give.
#[inline(always)]
const fn step(word: u64, odd: u64) -> u64 {
    let h = word.wrapping_mul(odd);
    h ^ (h >> 32)
}

#[inline(always)]
const fn placed(word: u64, seed: [u64; 2], mask: u32) -> Place {
    let a = step(word, seed[0] | 1);
    let b = a.wrapping_mul(seed[1] | 1);
    Place {
        first: (b >> 40) as u32 & mask,
        tag: (b >> 20) as u16,
        mask,
        hash: b,
        odd: seed[0],
    }
}

/// What is asked of the clock and of the service's idle times, beats.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ages {
    /// Now.
    pub now: u32,
    /// Idle time of TCP flows.
    pub tcp: u32,
    /// Idle time of all others.
    pub udp: u32,
}

impl Ages {
    /// Those of a service.
    #[inline(always)]
    #[must_use]
    pub fn of(forward: &Forward, now: u32) -> Self {
        let or = |value: u16, default: u16| u32::from(if value == 0 { default } else { value });
        Self {
            now,
            tcp: or(forward.tcp_idle, DEFAULT_TCP_IDLE),
            udp: or(forward.udp_idle, DEFAULT_UDP_IDLE),
        }
    }

    /// Whether an entry has been idle for its time.
    #[inline(always)]
    #[must_use]
    pub const fn is_idle(&self, entry: Entry) -> bool {
        let limit = if entry.0 & Entry::DATAGRAM == 0 {
            self.tcp
        } else {
            self.udp
        };
        entry.age(self.now) > limit
    }
}

/// Finds a key in one set: its way and its value, or an empty value.
#[inline(always)]
pub fn find<K, S: FlowSet<K>>(set: &S, key: &K, tag: u16) -> (usize, Entry) {
    for way in 0..WAYS {
        if set.is(way, key) {
            let entry = Entry(set.value(way));
            // The key once more: had another flow taken the way meanwhile, the value were its.
            if entry.state() > State::FILLING && entry.tag() == tag && set.is(way, key) {
                return (way, entry);
            }
        }
    }
    (0, Entry(0))
}

/// Whether a key that is not in this set may be in its other one.
#[inline(always)]
pub fn is_overflowed<K, S: FlowSet<K>>(set: &S) -> bool {
    set.value(0) & Entry::OVERFLOWED != 0
}

/// Beats after which a closing flow has sent its last.
pub const CLOSING_BEATS: u32 = 4;
/// Beats of silence after which a flow that showed two packets only gives way to another.
pub const SEEN_BEATS: u32 = 8;
/// Beats after which who was filling a way is taken for dead.
const FILLING_BEATS: u32 = 4;

/// How dear a way is: the least is displaced first; [`KEPT`] is not displaced at all.
#[inline(always)]
fn rank(entry: Entry, ages: &Ages) -> u32 {
    let age = entry.age(ages.now);
    let class = match entry.state() {
        State::EMPTY => 0,
        State::FILLING if age < FILLING_BEATS => return KEPT,
        State::CLOSING if age < CLOSING_BEATS => 3,
        State::FILLING | State::CLOSING => 1,
        _ if ages.is_idle(entry) => 1,
        State::NEW => 2,
        State::SEEN if age >= SEEN_BEATS => 4,
        _ => return KEPT,
    };
    // Of one class the oldest.
    (class << 20) | (BEATS - 1 - age)
}

/// See [`rank`].
const KEPT: u32 = u32::MAX;
/// Below it nothing is lost.
const WORTHLESS: u32 = 2 << 20;

/// The way that is displaced first: its rank, number and value.
#[inline(always)]
fn victim<K, S: FlowSet<K>>(set: &S, ages: &Ages) -> (u32, usize, u64) {
    let mut best = (KEPT, 0, 0);
    for way in 0..WAYS {
        let value = set.value(way);
        let rank = rank(Entry(value), ages);
        if rank < best.0 {
            best = (rank, way, value);
        }
    }
    best
}

/// Enters a key that was not found; whether it was: not where both sets hold dearer flows only, nor
/// where another CPU was faster.
#[inline(always)]
pub fn enter<K, S, G>(set_of: G, place: &Place, key: &K, entry: Entry, ages: &Ages) -> bool
where
    S: FlowSet<K>,
    G: Fn(u32) -> Option<S>,
{
    let Some(first) = set_of(place.first) else {
        return false;
    };
    let (rank, way, old) = victim(&first, ages);
    if rank >= WORTHLESS
        && place.second() != place.first
        && let Some(second) = set_of(place.second())
    {
        let other = victim(&second, ages);
        if other.0 < rank {
            return mark(&first) && fill(&second, other.1, other.2, key, entry);
        }
    }
    rank != KEPT && fill(&first, way, old, key, entry)
}

/// Notes that a key of this set goes to its other one.
#[inline(always)]
fn mark<K, S: FlowSet<K>>(set: &S) -> bool {
    let value = set.value(0);
    value & Entry::OVERFLOWED != 0 || set.replace(0, value, value | Entry::OVERFLOWED)
}

#[inline(always)]
fn fill<K, S: FlowSet<K>>(set: &S, way: usize, old: u64, key: &K, entry: Entry) -> bool {
    let kept = old & Entry::OVERFLOWED;
    let filling = Entry::new(0, 0, State::FILLING, entry.seen(), 0).0 | kept;
    if !set.replace(way, old, filling) {
        return false;
    }
    set.fill(way, key);
    // Unless the mark of overflow came meanwhile, in which case the way stays as it is until it is
    // taken for dead: rarer than rare.
    set.replace(way, filling, entry.0 | kept)
}

/// What the next packet of a flow makes of its entry's state. `may_promote` is asked only where the
/// answer matters.
#[inline(always)]
pub fn next_state(
    entry: Entry,
    is_syn: bool,
    is_end: bool,
    now: u32,
    may_promote: impl FnOnce() -> bool,
) -> State {
    if is_end {
        return State::CLOSING;
    }
    match entry.state() {
        // A SYN sent again shows nothing.
        State::NEW if is_syn => State::NEW,
        State::NEW => State::SEEN,
        State::SEEN if entry.age(now) > 0 && may_promote() => State::LIVE,
        other => other,
    }
}

/// The key of an IPv6 or wide flow.
#[inline(always)]
#[must_use]
pub const fn wide_key(
    source: Address,
    destination: Address,
    ports: ([u8; 2], [u8; 2]),
    service: u16,
) -> Flow6Key {
    Flow6Key {
        source,
        destination,
        source_port: ports.0,
        destination_port: ports.1,
        service,
        pad: 0,
    }
}

#[cfg(test)]
mod tests;
