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
    /// Zero.
    pub pad: [u64; 5],
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
}

const _: () = assert!(size_of::<Settings>() == 64);
