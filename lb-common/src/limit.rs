//! Layouts of `LIMITS`, `WINDOWS` and `SOURCES`: how much of what a source or a service may send.

use crate::addr::Address;

/// What a limit counts: the directive's first argument. Dense, an index into the arrays below.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LimitKind(pub u8);

impl LimitKind {
    /// TCP segments with SYN and without ACK.
    pub const SYN: Self = Self(0);
    /// Every packet of the service.
    pub const PACKETS: Self = Self(1);
    /// UDP datagrams.
    pub const UDP: Self = Self(2);
    /// ICMP and ICMPv6 (but never neighbour discovery or path-MTU messages) to the host.
    pub const ICMP: Self = Self(3);
    /// New flows of a forwarded service.
    pub const FLOWS: Self = Self(4);
    /// Room for kinds: a power of two.
    pub const COUNT: usize = 8;
    /// Names as the configuration spells them, by index.
    pub const NAMES: [&'static str; 5] = ["syn", "packets", "udp", "icmp", "flows"];
}

/// What happens to a packet over the limit.
pub mod action {
    /// Drop and count.
    pub const DROP: u8 = 0;
    /// Count only.
    pub const REPORT: u8 = 1;
}

/// One limit: at most `packets` in any window of `window_ns`. 24 bytes; `packets` 0: no limit.
///
/// `RATE/s burst=N` becomes `packets = N` and `window_ns = N / RATE` seconds: the long-run rate is
/// RATE, the largest burst N.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limit {
    /// Length of a window, ns: 1 ms to 73 minutes. Never 0 where `packets` is not. Below about ten
    /// ticks of the coarse clock (40 ms) admission becomes visibly jerky.
    pub window_ns: u64,
    /// Packets a window admits; below 2^31.
    pub packets: u32,
    /// Configured rate, packets/s, for display.
    pub rate: u32,
    /// A constant of [`action`].
    pub action: u8,
    /// IPv4 prefix length by which sources are told apart, 0..=32.
    pub prefix4: u8,
    /// IPv6 prefix length by which sources are told apart, 0..=128.
    pub prefix6: u8,
    /// A constant of [`origin`].
    pub origin: u8,
    /// Zero.
    pub pad: [u8; 4],
}

/// Who set a limit.
pub mod origin {
    /// `GuardLimit` in the configuration, or nobody.
    pub const FILE: u8 = 0;
    /// `sluice limit set`; also a limit taken away by it (`packets` 0).
    pub const COMMAND: u8 = 1;
}

/// Value of `LIMITS`: the limits of one service, by [`LimitKind`]. Index 0 (no service) holds the
/// ICMP limits of the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceLimits {
    /// `per=/32,/64`.
    pub source: [Limit; LimitKind::COUNT],
    /// `per=service`.
    pub service: [Limit; LimitKind::COUNT],
}

/// Two counting windows in two words, each `epoch << 32 | count`: the window of epoch `e` is in
/// word `e & 1`. The epoch is the number of the window since boot, cut to 32 bits.
///
/// A word of another epoch counts as 0 and is replaced, by compare-and-swap, by the first packet of
/// the new window; all else is atomic adds, so no packet is lost. What the words mean and how far
/// off they may be: [`crate::window`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Windows {
    /// See the type.
    pub words: [u64; 2],
}

/// Value of `WINDOWS`: the windows of one service, by [`LimitKind`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceWindows {
    /// By kind.
    pub kinds: [Windows; LimitKind::COUNT],
}

/// Key of `SOURCES`: 24 bytes, no implicit padding (the kernel hashes every byte).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SourceKey {
    /// Source address with the bits beyond the prefix cleared.
    pub prefix: Address,
    /// Service id.
    pub service: u16,
    /// [`LimitKind`].
    pub kind: u8,
    /// Zero.
    pub pad: [u8; 5],
}

/// Value of `SOURCES`.
pub type SourceWindow = Windows;

const _: () = assert!(size_of::<Limit>() == 24);
const _: () = assert!(size_of::<ServiceLimits>() == 24 * 2 * LimitKind::COUNT);
const _: () = assert!(size_of::<ServiceWindows>() == 128);
const _: () = assert!(size_of::<SourceKey>() == 24);
