//! The flow hash: which packets belong together.
//!
//! Seeded, so that a sender who does not know the seed cannot aim at one slot; not a cryptographic
//! hash. Equal for the packets of one direction of a flow, on every host with the same seed.

use crate::{
    addr::{Address, Be16},
    parse::Headers,
};

/// What tells flows apart.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flow {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// IANA protocol number.
    pub proto: u8,
}

impl Flow {
    /// The flow of a parsed packet.
    #[inline(always)]
    #[must_use]
    pub const fn of(headers: &Headers) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            source_port: headers.source_port,
            destination_port: headers.destination_port,
            proto: headers.proto,
        }
    }

    /// Hashes the 5-tuple. Every bit of the result depends on every bit of flow and seed.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self, seed: u64) -> u64 {
        let (s, d) = (self.source.words(), self.destination.words());
        let ports = u32::from_ne_bytes([
            self.source_port.0[0],
            self.source_port.0[1],
            self.destination_port.0[0],
            self.destination_port.0[1],
        ]);
        let mut h = seed ^ 0x9E37_79B9_7F4A_7C15;
        h = mix(h ^ s[0]);
        h = mix(h ^ s[1]);
        h = mix(h ^ d[0]);
        h = mix(h ^ d[1]);
        h = mix(h ^ (ports as u64) ^ ((self.proto as u64) << 32));
        h ^ (h >> 32)
    }

    /// Hashes the source address alone: all flows of one client to one place.
    #[inline(always)]
    #[must_use]
    pub const fn hash_source(&self, seed: u64) -> u64 {
        let s = self.source.words();
        let h = mix(mix(seed ^ 0xD1B5_4A32_D192_ED03 ^ s[0]) ^ s[1]);
        h ^ (h >> 32)
    }
}

/// The next of the hashes that a flow is tried by where the places of the first are taken.
#[inline(always)]
#[must_use]
pub const fn again(hash: u64) -> u64 {
    let h = (hash ^ (hash >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h ^ (h >> 32)
}

/// Which of `slots` a hash falls into: the high bits by multiplication, without a division.
#[inline(always)]
#[must_use]
pub const fn slot(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

/// Two rounds of multiply and shift: bijective, so no step loses information.
#[inline(always)]
const fn mix(h: u64) -> u64 {
    let h = (h ^ (h >> 32)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (h ^ (h >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

#[cfg(test)]
mod tests;
