//! `DENY4`, `DENY6`, `ALLOW4`, `ALLOW6`: the operator's prefix lists.

/// Value of the tries, 16 bytes. 4-aligned, for in `DENY4` the kernel stores it right behind the
/// four bytes of the prefix.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PrefixEntry {
    /// Kernel monotonic clock, ns, after which the entry no longer acts; 0: never.
    pub expires: u64,
    /// A constant of [`origin`].
    pub origin: u32,
    /// Length of the entry's own prefix, bits (a lookup does not tell it): behind an entry that has
    /// run out the next shorter one is asked for. 0: nothing is looked for behind it.
    pub prefix: u32,
}

/// Who made an entry.
pub mod origin {
    /// `GuardDeny` or `GuardAllow` in the configuration.
    pub const FILE: u32 = 1;
    /// `sluice deny add`.
    pub const COMMAND: u32 = 2;
}

const _: () = assert!(size_of::<PrefixEntry>() == 16 && align_of::<PrefixEntry>() == 4);
