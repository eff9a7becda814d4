//! `SERVICES`: which packets belong to a listener of the proxy or to a steered service.

use crate::{
    abi::{SERVICE_SETS, SERVICE_WAYS},
    addr::{Address, Be16},
};

/// Index of a service's limits, windows and counters. 0 means "no service".
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ServiceId(pub u16);

/// IANA protocol numbers that a service may have.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// What becomes of a service's packets once the guard let them through.
pub mod kind {
    /// A listener of the proxy: to the stack.
    pub const LOCAL: u8 = 1;
    /// Steered to members.
    pub const FORWARDED: u8 = 2;
    /// An address of forwarded services as such (port and protocol 0): what of later fragments and
    /// ICMP to it is ours.
    pub const VIP: u8 = 3;
    /// A range of source ports of [`crate::forward::mode::NAT`]: answers of members come here.
    pub const NAT: u8 = 4;
    /// An address to which encapsulated packets come that are to be unpacked: protocol 4 or 41 and
    /// port 0, or UDP and the port of GUE.
    pub const DECAP: u8 = 5;
}

/// One service in a set, 32 bytes. `id` 0 marks a free way and is written last when a way is
/// filled, first when it is emptied, so that a reader never matches a half-written one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceWay {
    /// Destination address; [`Address::ANY`] for every address.
    pub address: Address,
    /// Destination port; 0 with a [`range`](Self::range), and where there is none.
    pub port: Be16,
    /// IANA protocol number; 0 with [`kind::VIP`].
    pub proto: u8,
    /// A constant of [`kind`].
    pub kind: u8,
    /// [`ServiceId`], 0: free.
    pub id: u16,
    /// Balancer's id for a forwarded service, else 0.
    pub balancer: u16,
    /// [`flag`] bits.
    pub flags: u32,
    /// First and last port, host order, of a service on many ports; zeroes: on [`port`](Self::port)
    /// alone. As many ranges of one address and protocol as a set has ways.
    pub range: [u16; 2],
}

impl ServiceWay {
    /// A free way.
    pub const EMPTY: Self = Self {
        address: Address::ANY,
        port: Be16([0; 2]),
        proto: 0,
        kind: 0,
        id: 0,
        balancer: 0,
        flags: 0,
        range: [0; 2],
    };
}

/// Bits of [`ServiceWay::flags`].
pub mod flag {
    /// Some limit of `LIMITS` is set: look there.
    pub const LIMITED: u32 = 1 << 0;
    /// A forwarded service on many ports or addresses: its flows are in `FLOWS6`.
    pub const WIDE: u32 = 1 << 1;
    /// A VIP answers ICMP echo.
    pub const ECHO: u32 = 1 << 2;
    /// Never in the map: the packet path's own mark of a packet that is over a limit whose action is
    /// to report.
    pub const REPORTED: u32 = 1 << 30;
    /// Never in the map: the packet path's own mark of a flow that an ICMP error quotes.
    pub const QUOTED: u32 = 1 << 31;
}

/// One set of `SERVICES`: two cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceSet {
    /// The ways, in no order.
    pub ways: [ServiceWay; SERVICE_WAYS],
}

const _: () = assert!(size_of::<ServiceWay>() == 32);
const _: () = assert!(size_of::<ServiceSet>() == 128);

/// The set in which a service lies. `seed` is chosen by control so that no set overflows.
#[inline(always)]
#[must_use]
pub fn service_set(address: Address, port: Be16, proto: u8, seed: u64) -> u32 {
    set_by_words(address.words(), u16::from_ne_bytes(port.0), proto, seed)
}

/// [`service_set`] of an address's words and a port in memory order.
#[inline(always)]
#[must_use]
pub fn set_by_words([high, low]: [u64; 2], port: u16, proto: u8, seed: u64) -> u32 {
    let tail = (u64::from(proto) << 16) | u64::from(port);
    let mut h = seed ^ high.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h = (h ^ low ^ (h >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ tail ^ (h >> 32)).wrapping_mul(0x94D0_49BB_1331_11EB);
    // Without this round services that differ in their ports alone collide alike under every seed:
    // of 300 neighbouring ports five fell into one set always, where one seed in six should do that.
    h = (h ^ (h >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (h >> 40) as u32 & (SERVICE_SETS - 1)
}
const _: () = assert!(SERVICE_SETS.is_power_of_two());

/// The bit of [`crate::settings::Settings::range_filter`] that stands for ranges of this address and
/// protocol.
#[inline(always)]
#[must_use]
pub const fn range_bit(address: Address, proto: u8) -> u64 {
    bit_by_words(address.words(), proto)
}

/// [`range_bit`] of an address's words.
#[inline(always)]
#[must_use]
pub const fn bit_by_words([high, low]: [u64; 2], proto: u8) -> u64 {
    let h = (high ^ low.rotate_left(7) ^ proto as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    1 << (h >> 58)
}
