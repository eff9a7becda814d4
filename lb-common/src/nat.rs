//! `NAT`: connections whose addresses are rewritten. One entry serves both directions, so that both
//! live and die together.
//!
//! An entry's index is made of the member (address, port, protocol) and of our source port, modulo
//! the table. A member's answer names all four, so it finds its entry at once; a client's packet
//! tries the source ports that its flow's hash names, one after the other.

use crate::addr::Address;

/// One connection, 64 bytes: one cache line. Filled as the ways of [`crate::flow_table`] are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NatEntry {
    /// [`crate::flow_table::Entry`]: member, state, last beat, tag of the client's flow.
    pub value: u64,
    /// Client's port, service's port, our port: network order.
    pub client_port: [u8; 2],
    /// As above.
    pub service_port: [u8; 2],
    /// As above.
    pub our_port: [u8; 2],
    /// Service id.
    pub service: u16,
    /// Client.
    pub client: Address,
    /// The service's address as the client named it.
    pub destination: Address,
    /// IANA protocol number.
    pub proto: u8,
    /// Bits of [`seen`].
    pub seen: u8,
    /// Zero.
    pub pad: [u8; 14],
}

/// What was seen of a connection.
pub mod seen {
    /// A FIN of the client.
    pub const CLIENT_FIN: u8 = 1 << 0;
    /// A FIN of the member.
    pub const MEMBER_FIN: u8 = 1 << 1;
    /// An answer of the member: the connection is two-way.
    pub const ANSWERED: u8 = 1 << 2;
}

/// Source ports that are tried before a new connection is refused.
pub const PROBES: usize = 8;

const _: () = assert!(size_of::<NatEntry>() == 64);
