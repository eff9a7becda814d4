//! `DENY4`, `DENY6`, `ALLOW4`, `ALLOW6`: the operator's prefix lists.

/// Value of the tries, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PrefixEntry {
    /// Kernel monotonic clock, ns, after which the entry no longer acts; 0: never.
    pub expires: u64,
    /// A constant of [`origin`].
    pub origin: u32,
    /// Zero.
    pub pad: u32,
}

/// Who made an entry.
pub mod origin {
    /// `GuardDeny` or `GuardAllow` in the configuration.
    pub const FILE: u32 = 1;
    /// `sluice deny add`.
    pub const COMMAND: u32 = 2;
}

const _: () = assert!(size_of::<PrefixEntry>() == 16);
