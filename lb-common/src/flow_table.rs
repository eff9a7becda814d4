//! `FLOWS4` and `FLOWS6`: which member a flow is with. Set-associative plain arrays: bounded,
//! scannable, and a lookup calls no helper.
//!
//! A way is a key and a value word. Whoever fills a way first puts [`State::FILLING`] in the value by
//! compare-and-swap, then writes the key, then the value; whoever reads compares the key, reads the
//! value, and compares key and [tag](Entry::tag) again, so that it never takes one flow's member for
//! another's.
//!
//! Time is in *beats*: kernel ticks shifted right so that a beat is about a second
//! ([`Entry::seen`]).

use crate::addr::Address;

/// Ways of a set.
pub const WAYS: usize = 4;

/// Key of [`Flow4Set`]: an IPv4 flow of a service on one address and one port, exact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flow4Key {
    /// Source address, memory order.
    pub source: u32,
    /// Source port, memory order.
    pub port: u16,
    /// Service id: stands for destination and protocol.
    pub service: u16,
}

impl Flow4Key {
    /// From what stands on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: [u8; 4], port: [u8; 2], service: u16) -> Self {
        Self {
            source: u32::from_ne_bytes(source),
            port: u16::from_ne_bytes(port),
            service,
        }
    }
}

/// One way of [`Flow4Set`], 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flow4Way {
    /// [`Flow4Key`] in memory order.
    pub key: u64,
    /// [`Entry`].
    pub value: u64,
}

/// A set of `FLOWS4`: one cache line, four flows.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flow4Set {
    /// In no order.
    pub ways: [Flow4Way; WAYS],
}

/// Key of [`Flow6Set`]: any other flow, that is IPv6, or of a service on many ports or addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flow6Key {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub destination_port: [u8; 2],
    /// Service id: stands for the protocol.
    pub service: u16,
    /// Zero.
    pub pad: u16,
}

/// A set of `FLOWS6`: three cache lines, four flows, a kind of field together.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flow6Set {
    /// [`Entry`] of each way.
    pub values: [u64; WAYS],
    /// Ports and service of each way: the tail of [`Flow6Key`] in memory order.
    pub tails: [u64; WAYS],
    /// Source of each way.
    pub sources: [Address; WAYS],
    /// Destination of each way.
    pub destinations: [Address; WAYS],
}

/// What a flow has shown of itself. Ordered by how dear it is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct State(pub u8);

impl State {
    /// Never used: no key of this set lies in another.
    pub const EMPTY: Self = Self(0);
    /// Being filled by some CPU.
    pub const FILLING: Self = Self(1);
    /// Saw FIN or RST.
    pub const CLOSING: Self = Self(2);
    /// One packet seen.
    pub const NEW: Self = Self(3);
    /// A second packet seen, which a forger can send too.
    pub const SEEN: Self = Self(4);
    /// Went on for more than a beat, within the cap on such promotions.
    pub const LIVE: Self = Self(5);
    /// Names, by value.
    pub const NAMES: [&'static str; 6] = ["empty", "filling", "closing", "new", "seen", "live"];
}

/// The value word of a way.
///
/// | bits | what |
/// |---|---|
/// | 0..12 | member id |
/// | 15 | not TCP: forgotten by the shorter idle time |
/// | 16..24 | low byte of the member's incarnation |
/// | 24..27 | [`State`] |
/// | 27 | some key of this set was placed in its other set (way 0 only) |
/// | 28..48 | beat in which a packet was last seen, modulo 2^20 (twelve days) |
/// | 48..64 | tag: bits of the key's hash |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Entry(pub u64);

/// Beats that [`Entry::seen`] tells apart.
pub const BEATS: u32 = 1 << 20;

impl Entry {
    /// See the type.
    pub const OVERFLOWED: u64 = 1 << 27;
    /// See the type.
    pub const DATAGRAM: u64 = 1 << 15;

    /// Puts an entry together; `seen` is cut to its bits. Not overflowed.
    #[inline(always)]
    #[must_use]
    pub const fn new(member: u16, incarnation: u8, state: State, seen: u32, tag: u16) -> Self {
        Self(
            (member as u64 & 0xfff)
                | (incarnation as u64) << 16
                | (state.0 as u64 & 7) << 24
                | (seen as u64 % BEATS as u64) << 28
                | (tag as u64) << 48,
        )
    }

    /// Member id.
    #[inline(always)]
    #[must_use]
    pub const fn member(self) -> u16 {
        self.0 as u16 & 0xfff
    }

    /// Low byte of the member's incarnation.
    #[inline(always)]
    #[must_use]
    pub const fn incarnation(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// What the flow has shown.
    #[inline(always)]
    #[must_use]
    pub const fn state(self) -> State {
        State((self.0 >> 24) as u8 & 7)
    }

    /// Beat of the last packet, modulo [`BEATS`].
    #[inline(always)]
    #[must_use]
    pub const fn seen(self) -> u32 {
        (self.0 >> 28) as u32 % BEATS
    }

    /// The same in another state, seen in another beat.
    #[inline(always)]
    #[must_use]
    pub const fn seen_as(self, state: State, seen: u32) -> Self {
        let kept = self.0 & !(7 << 24 | (BEATS as u64 - 1) << 28);
        Self(kept | (state.0 as u64 & 7) << 24 | (seen as u64 % BEATS as u64) << 28)
    }

    /// Beats since then at `now`, modulo [`BEATS`]: an entry that nobody displaced for twelve days
    /// looks young once more, and costs a new flow its place for one idle time.
    #[inline(always)]
    #[must_use]
    pub const fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.seen()) % BEATS
    }

    /// Bits of the key's hash.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Value of `BUDGETS`, per CPU: what this CPU may still do in this beat.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Budget {
    /// The beat that the rest is of.
    pub beat: u64,
    /// Flows entered.
    pub inserts: u64,
    /// Flows that became [`State::LIVE`].
    pub promotions: u64,
    /// Answers sent: too big, unreachable, reset, echo.
    pub answers: u64,
}

const _: () = assert!(crate::abi::MAX_MEMBERS <= 1 << 12);
const _: () = assert!(size_of::<Flow4Key>() == 8);
const _: () = assert!(size_of::<Flow4Set>() == 64);
const _: () = assert!(size_of::<Flow6Key>() == 40);
const _: () = assert!(size_of::<Flow6Set>() == 192);
const _: () = assert!(size_of::<Budget>() == 32);
