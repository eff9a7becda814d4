//! `MEMBERS`, `NAMES` and `BUSY`: one destination, as packets and requests both see it.

/// Index into `MEMBERS`. 0 means "absent" and is never given to a member.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MemberId(pub u32);

/// State bits of a member. One atomic `u64` in the map; every bit has one owner, who changes it
/// with fetch-or and fetch-and and leaves the others alone.
///
/// The letters are those of mod_proxy's `status=` parameter.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct MemberState(pub u64);

impl MemberState {
    /// `D`: takes no requests. Operator's.
    pub const DISABLED: u64 = 1 << 0;
    /// `S`: takes no requests, is not retried, not health-checked. Operator's.
    pub const STOPPED: u64 = 1 << 1;
    /// `N`: existing sessions only. Operator's.
    pub const DRAIN: u64 = 1 << 2;
    /// `H`: hot standby, used when nobody else of its set is left. Operator's.
    pub const STANDBY: u64 = 1 << 3;
    /// `R`: hot spare, one is used for each unusable ordinary member of its set. Operator's.
    pub const SPARE: u64 = 1 << 4;
    /// `I`: errors do not put it into error. Operator's.
    pub const IGNORE_ERRORS: u64 = 1 << 5;
    /// `E`: in error until `retry` has passed. The shards'.
    pub const ERROR: u64 = 1 << 16;
    /// `C`: its health check failed. Health's.
    pub const HEALTH_FAILED: u64 = 1 << 24;

    /// No configuration names it any more: it keeps the flows that it has. Control's, and no
    /// operator's: it comes and goes with [`MemberRecord::retired`].
    pub const RETIRED: u64 = 1 << 32;

    /// Bits that control owns, as an operator sees them.
    pub const OPERATOR: u64 = Self::DISABLED
        | Self::STOPPED
        | Self::DRAIN
        | Self::STANDBY
        | Self::SPARE
        | Self::IGNORE_ERRORS;
    /// Bits that the shards own.
    pub const SHARDS: u64 = Self::ERROR;
    /// Bits that the health checker owns.
    pub const HEALTH: u64 = Self::HEALTH_FAILED;
    /// Any of these makes a member unusable (apache.md 5.1): D, S, E, C.
    pub const UNUSABLE: u64 = Self::DISABLED | Self::STOPPED | Self::ERROR | Self::HEALTH_FAILED;

    /// Every bit with its httpd letter, in httpd's order of display.
    pub const LETTERS: [(char, u64); 8] = [
        ('I', Self::IGNORE_ERRORS),
        ('N', Self::DRAIN),
        ('D', Self::DISABLED),
        ('S', Self::STOPPED),
        ('E', Self::ERROR),
        ('H', Self::STANDBY),
        ('R', Self::SPARE),
        ('C', Self::HEALTH_FAILED),
    ];

    /// Whether any of `bits` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Whether requests may be sent to it: none of D, S, E, C.
    #[inline(always)]
    #[must_use]
    pub const fn is_usable(self) -> bool {
        !self.has(Self::UNUSABLE)
    }
}

/// Value of `MEMBERS`, 256 bytes: four cache lines, split by who writes.
///
/// Userspace sees the slot through atomics in a shared mapping. A slot whose `identity` is zero is
/// free.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberSlot {
    /// Line 0, written by control (`state` by each bit's owner).
    pub head: MemberHead,
    /// Line 1, written by the shards at election and on errors.
    pub election: MemberElection,
    /// Line 2, written by the shards when a response ends.
    pub traffic: MemberTraffic,
    /// Line 3, written by control: what the file said, and whether the slot is still wanted.
    pub record: MemberRecord,
}

/// Line 0 of a member: who it is, where it is, what may be sent to it. The packet path reads this
/// line only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberHead {
    /// 128-bit hash of balancer name and configured URL, as two native words. Zero: free slot.
    pub identity: [u64; 2],
    /// [`MemberState`] bits.
    pub state: u64,
    /// Address, network order.
    pub address: [u8; 16],
    /// Lives of this slot: raised each time another member takes it, so that what remembers an id
    /// can tell that its member is gone.
    pub incarnation: u32,
    /// `loadfactor` times 100: 100..=10000.
    pub weight: u32,
    /// Balancer's id, from 1: which members belong together.
    pub balancer: u16,
    /// Port, network order.
    pub port: [u8; 2],
    /// `lbset`, 0..=99.
    pub lbset: u8,
    /// Zero.
    pub pad: u8,
    /// Last known link-layer address, for L4 forwarding; zero: none.
    pub mac: [u8; 6],
}

/// Line 1 of a member: mod_proxy's shared counters of election and errors.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberElection {
    /// `lbstatus`: byrequests credit, units of `weight`.
    pub lbstatus: i64,
    /// Requests for which it was chosen, retries included.
    pub elected: u64,
    /// Kernel monotonic clock, ns, of the moment it went into error; 0: cured at first use.
    pub error_since: u64,
    /// Retries since the last success.
    pub retries: u64,
    /// Requests that failed on it (connect, send, or no valid response).
    pub failed: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Line 2 of a member: bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberTraffic {
    /// Bytes received from the member (status line and body, as httpd counts `read`).
    pub read: u64,
    /// Bytes sent to the member (whole requests, httpd's `transferred`).
    pub transferred: u64,
    /// Responses that ended, whole or not.
    pub responses: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// Line 3 of a member: what the configuration said when it was last published, so that a change of
/// the file is told apart from a change made at run time, even by the next process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MemberRecord {
    /// `status=` of the file, [`MemberState`] bits.
    pub status: u64,
    /// `loadfactor` of the file times 100.
    pub weight: u32,
    /// `lbset` of the file.
    pub lbset: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Kernel monotonic clock, ns, since when no configuration names the member (its identity is
    /// still there) or since when the slot is free. 0: in use, or never used.
    pub retired: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// Value of `NAMES`: what a person calls the member, so that a dump can be read with the daemon
/// dead. UTF-8, cut at a character boundary, zero-filled. Written by control before the slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemberName {
    /// Balancer's name without `balancer://`.
    pub balancer: [u8; 64],
    /// Member's URL as configured.
    pub url: [u8; 160],
    /// `route=`.
    pub route: [u8; 64],
}

impl Default for MemberName {
    fn default() -> Self {
        Self {
            balancer: [0; 64],
            url: [0; 160],
            route: [0; 64],
        }
    }
}

const _: () = assert!(size_of::<MemberHead>() == 64);
const _: () = assert!(size_of::<MemberElection>() == 64);
const _: () = assert!(size_of::<MemberTraffic>() == 64);
const _: () = assert!(size_of::<MemberRecord>() == 64);
const _: () = assert!(size_of::<MemberSlot>() == 256);
const _: () = assert!(size_of::<MemberName>() == 288);
