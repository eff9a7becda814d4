//! `SETTINGS`: what can change at run time without another program.

/// Value of `SETTINGS`. Written by control as a whole, read once per packet.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// [`gate`] bits: a feature whose bit is off costs its test and no more.
    pub gates: u64,
    /// Seed of [`crate::service::service_set`].
    pub service_seed: u64,
    /// Log one packet in this many (with [`gate::LOG`]); 0 as 1.
    pub log_every: u64,
    /// Secret of this instance, random: seeds of the flow tables' hash.
    pub flow_seed: [u64; 2],
    /// Flows that each CPU may enter in a beat (see [`crate::flow_table`]).
    pub inserts: u32,
    /// Flows that each CPU may promote to live in a beat.
    pub promotions: u32,
    /// ICMP messages and resets that each CPU may send in a beat.
    pub answers: u32,
    /// Zero.
    pub pad: u32,
    /// Bit [`crate::service::range_bit`] of each way with a range, while [`gate::RANGES`] is on:
    /// most packets of no service are told so by it. 0: all bits.
    pub range_filter: u64,
}

/// What the loader tells the program once and for all: a read-only global, so that the kernel's
/// verifier sees numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sizes {
    /// Sets of `FLOWS4` less one.
    pub mask4: u32,
    /// Sets of `FLOWS6` less one.
    pub mask6: u32,
    /// Entries of `NAT` less one.
    pub nat_mask: u32,
    /// Kernel ticks are shifted right by this to give beats.
    pub beat_shift: u32,
}

/// Bits of [`Settings::gates`].
pub mod gate {
    /// `DENY4` has entries.
    pub const DENY4: u64 = 1 << 0;
    /// `DENY6` has entries.
    pub const DENY6: u64 = 1 << 1;
    /// `ALLOW4` has entries.
    pub const ALLOW4: u64 = 1 << 2;
    /// `ALLOW6` has entries.
    pub const ALLOW6: u64 = 1 << 3;
    /// Some service has limits.
    pub const LIMITS: u64 = 1 << 4;
    /// The host has ICMP limits.
    pub const ICMP_LIMITS: u64 = 1 << 5;
    /// Log verdicts through aya-log.
    pub const LOG: u64 = 1 << 6;
    /// The guard acts. Off: everything passes and is counted (`settings set guard off`).
    pub const GUARD: u64 = 1 << 7;
    /// Some service is forwarded.
    pub const STEER: u64 = 1 << 8;
    /// Some service is on a range of ports, or of [`crate::service::kind::NAT`].
    pub const RANGES: u64 = 1 << 9;
    /// Some service is of [`crate::service::kind::DECAP`].
    pub const DECAP: u64 = 1 << 10;
    /// `CAPTURE` says what to put into `EVENTS`.
    pub const CAPTURE: u64 = 1 << 11;
    /// Keep flows in the tables. Off: the ring alone steers.
    pub const FLOWS: u64 = 1 << 12;
}

const _: () = assert!(size_of::<Settings>() == 64);
