//! `SERVER_IDS`: server ids in QUIC connection ids (draft-ietf-quic-load-balancers, plaintext).

/// Longest server id, bytes (the draft: 1 to 15; a connection id holds 19 beside the first octet).
pub const MAX_ID: usize = 15;

/// Key, 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ServerIdKey {
    /// Balancer, as in [`crate::forward::Forward::balancer`].
    pub balancer: u16,
    /// Bytes of the id.
    pub len: u8,
    /// Zero.
    pub pad: u8,
    /// The id, zero-filled.
    pub id: [u8; 16],
}

/// Value, 8 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerIdValue {
    /// Member id.
    pub member: u16,
    /// Low byte of its incarnation.
    pub incarnation: u8,
    /// Zero.
    pub pad: [u8; 5],
}

const _: () = assert!(size_of::<ServerIdKey>() == 20);
const _: () = assert!(size_of::<ServerIdValue>() == 8);
