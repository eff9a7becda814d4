//! `FRAGMENTS`: where the later fragments of a datagram go: to a member, or from it to its client.

use crate::addr::Address;

/// Key: what all fragments of a datagram have in common (RFC 791, RFC 8200 section 4.5). 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct FragmentKey {
    /// Source.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Identification; IPv4's 16 bits zero-extended in memory order.
    pub id: u32,
    /// IANA protocol number; 0 in IPv6, where later fragments need not repeat it.
    pub proto: u32,
}

/// Value, 16 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FragmentValue {
    /// Beat of the first fragment.
    pub beat: u32,
    /// Member.
    pub member: u16,
    /// Service.
    pub service: u16,
    /// A member's answer: index of its connection in `NAT`, plus 1. 0: to the member.
    pub answer: u32,
    /// The member's incarnation.
    pub incarnation: u32,
}

/// Beats for which later fragments are waited for (a stack waits 30 to 60 s).
pub const LIFETIME: u32 = 32;

const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<FragmentValue>() == 16);
