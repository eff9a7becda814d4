//! `META`: whose maps these are, and in which state the last writer left them.

/// First word of `META`: "sluice" and a zero byte pair.
pub const MAGIC: u64 = u64::from_be_bytes(*b"sluice\0\0");

/// Value of `META`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Meta {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`crate::abi::ABI_VERSION`].
    pub abi: u32,
    /// A constant of [`phase`].
    pub phase: u32,
    /// Generation last published, from 1; raised by every start and reload.
    pub generation: u64,
    /// Kernel monotonic clock, ns, when control last said it was alive (once a second).
    pub heartbeat: u64,
    /// Process id of control; 0: none.
    pub control_pid: u32,
    /// Process id of the proxy; 0: none.
    pub proxy_pid: u32,
    /// Incarnation of the proxy process; its column of `BUSY` is this modulo the columns.
    pub proxy_incarnation: u64,
    /// Raised with every change of a member's state, by whoever makes it.
    pub state_sequence: u64,
    /// Hash of the XDP object's inputs, first 8 bytes.
    pub build: u64,
    /// Boot id (first 8 bytes): times of another boot mean nothing.
    pub boot: u64,
    /// How beats follow from the kernel's monotonic clock: `(now / tick + offset) >> shift`; `tick`
    /// is this many ns.
    pub beat_tick: u32,
    /// See [`beat_tick`](Self::beat_tick).
    pub beat_shift: u32,
    /// See [`beat_tick`](Self::beat_tick).
    pub beat_offset: u64,
    /// Layout hash of each pinned map, parallel to [`crate::abi::map::ALL`]: a map whose hash is
    /// not what this build expects is made anew, alone.
    pub layouts: [u32; crate::abi::map::ALL.len()],
}

/// Values of [`Meta::phase`].
pub mod phase {
    /// Never published.
    pub const EMPTY: u32 = 0;
    /// A generation is half written; the next start repairs it.
    pub const APPLYING: u32 = 1;
    /// Published.
    pub const READY: u32 = 2;
    /// Published and stopped cleanly: at the next start the file wins over the operator's bits.
    pub const STOPPED: u32 = 3;
    /// As [`APPLYING`], begun on [`STOPPED`]: the file still wins when it is repaired.
    pub const APPLYING_STOPPED: u32 = 4;
}

const _: () = assert!(size_of::<Meta>() == 256);
