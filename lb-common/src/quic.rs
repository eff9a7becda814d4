//! `SERVER_IDS`: server ids in QUIC connection ids (draft-ietf-quic-load-balancers, plaintext).

#![expect(
    clippy::many_single_char_names,
    reason = "the bytes of header fields, side by side"
)]

use core::hint::black_box;

use crate::{frame::Frame, parse::Headers};

/// Longest server id, bytes (the draft: 1 to 15; a connection id holds 19 beside the first octet).
pub const MAX_ID: usize = 15;

/// Key, 24 bytes, aligned for the packet path's stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ServerIdKey {
    /// Balancer, as in [`crate::forward::Forward::balancer`].
    pub balancer: u16,
    /// Bytes of the id.
    pub len: u16,
    /// Zero.
    pub pad: u32,
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

const _: () = assert!(size_of::<ServerIdKey>() == 24);
const _: () = assert!(size_of::<ServerIdValue>() == 8);

/// QUIC version 2 (RFC 9369), whose long packet types are numbered otherwise.
const VERSION_2: u32 = 0x6b33_43cf;

/// The server id in a client's packet, as the key by which its member is found; `None`: it has none
/// that counts. Handshake and short-header packets carry a connection id that a server chose, first
/// packets (Initial, 0-RTT) one that the client drew.
#[inline(always)]
pub fn server_id<F: Frame + ?Sized>(
    frame: &F,
    headers: &Headers,
    balancer: u16,
    len: u8,
) -> Option<ServerIdKey> {
    let at = headers.l4 + 8;
    let [first] = frame.read::<1>(at)?;
    let id = if first & 0x80 == 0 {
        at + 1
    } else {
        let long = frame.read::<6>(at)?;
        let version = u32::from_be_bytes([long[1], long[2], long[3], long[4]]);
        let kind = (first >> 4) & 3;
        // Handshake; a client sends no Retry.
        if kind != if version == VERSION_2 { 3 } else { 2 } || long[5] <= len {
            return None;
        }
        at + 6
    };
    let [octet] = frame.read::<1>(id)?;
    // 0b111: "not routable" (section 3.3 of the draft).
    if octet >> 5 == 7 || len == 0 || len as usize > MAX_ID {
        return None;
    }
    let mut words = [0u64; 2];
    for i in 0..black_box(MAX_ID) {
        if i >= len as usize {
            break;
        }
        let [byte] = frame.read::<1>(id + 1 + i)?;
        let bits = u64::from(byte) << (i % 8 * 8);
        if i < 8 {
            words[0] |= bits;
        } else {
            words[1] |= bits;
        }
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
        (words[0].to_le_bytes(), words[1].to_le_bytes());
    Some(ServerIdKey {
        balancer,
        len: u16::from(len),
        pad: 0,
        id: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p],
    })
}
