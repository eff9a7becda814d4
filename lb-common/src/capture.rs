//! `CAPTURE` and `EVENTS`: a sample of packets with their verdicts, for `sluice capture`.

use crate::{addr::Address, parse::Headers, verdict::Verdict};

/// Bytes of a packet that an event holds.
pub const SNAP: usize = 224;

/// Value of `CAPTURE`: which packets are wanted, while [`crate::settings::gate::CAPTURE`] is on.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capture {
    /// Bit of each [`crate::verdict::Reason`] that is wanted.
    pub reasons: u64,
    /// One packet in this many of those that match; 0 as 1.
    pub every: u64,
    /// Either end of the flow; [`Address::ANY`]: any.
    pub address: Address,
    /// Either end's port, network order; 0: any.
    pub port: [u8; 2],
    /// Service id; 0: any, and those of none.
    pub service: u16,
    /// Member id; 0: any, and those of none.
    pub member: u16,
    /// Zero.
    pub pad: [u8; 26],
}

/// One packet in `EVENTS`, 256 bytes. The bytes are those that left: a forwarded packet has its
/// outer header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// Kernel monotonic clock, ns.
    pub time: u64,
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Bytes of the frame as it left.
    pub len: u32,
    /// Service id.
    pub service: u16,
    /// Member id; 0: none.
    pub member: u16,
    /// [`crate::verdict::Reason`].
    pub reason: u8,
    /// Zero.
    pub pad: u8,
    /// Bytes of `data` that count.
    pub captured: u16,
    /// Interface that it was sent from; 0: the same, or none.
    pub sent: u32,
    /// Zero.
    pub reserved: u32,
    /// The frame's first bytes.
    pub data: [u8; SNAP],
}

const _: () = assert!(size_of::<Capture>() == 64);
const _: () = assert!(size_of::<Event>() == 256);

/// Whether a packet is one of those that are wanted, sampling aside.
#[inline(always)]
#[must_use]
pub fn matches(wanted: &Capture, headers: &Headers, verdict: &Verdict) -> bool {
    let is_end = |address: &Address, port: [u8; 2]| {
        (wanted.address.is_any() || address.words() == wanted.address.words())
            && (wanted.port == [0, 0] || port == wanted.port)
    };
    (wanted.reasons >> (verdict.reason.0 & 63)) & 1 != 0
        && (wanted.service == 0 || wanted.service == verdict.service)
        && (wanted.member == 0 || wanted.member == verdict.member)
        && (is_end(&headers.source, headers.source_port.0)
            || is_end(&headers.destination, headers.destination_port.0))
}
