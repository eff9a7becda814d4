//! Addresses and ports as the maps hold them.

/// An IPv6 address, or an IPv4 address mapped into `::ffff:0:0/96` (RFC 4291 section 2.5.5.2), in
/// network order. All zero means "any address". 8-aligned, so that it is copied and compared as two
/// words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The wildcard: a service on every address.
    pub const ANY: Self = Self([0; 16]);

    /// Maps an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(a: [u8; 4]) -> Self {
        Self((0xffff_0000_0000 | u32::from_be_bytes(a) as u128).to_be_bytes())
    }

    /// [`words`](Self::words) of the mapped address whose four bytes are `word` in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words_v4(word: u32) -> [u64; 2] {
        if cfg!(target_endian = "little") {
            [0, 0xffff_0000 | (word as u64) << 32]
        } else {
            [0, 0xffff_0000_0000 | word as u64]
        }
    }

    /// Takes an IPv6 address as it stands on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(a: [u8; 16]) -> Self {
        Self(a)
    }

    /// The IPv4 address, when this is a mapped one.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let [high, low] = self.words();
        let low = u64::from_be(low);
        if high == 0 && low >> 32 == 0xffff {
            Some((low as u32).to_be_bytes())
        } else {
            None
        }
    }

    /// The address as two words in memory order. The packet path compares these: an array of bytes
    /// is compared byte by byte there.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let a = &self.0;
        [
            u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
            u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
        ]
    }

    /// Whether this is the wildcard.
    #[inline(always)]
    #[must_use]
    pub const fn is_any(&self) -> bool {
        let [high, low] = self.words();
        high | low == 0
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(a: Address) -> Self {
        match a.as_v4() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(a.0.into()),
        }
    }
}

/// A port in network order, so that it is copied from a header and compared without swapping.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Be16(pub [u8; 2]);

impl Be16 {
    /// From host order.
    #[inline(always)]
    #[must_use]
    pub const fn new(v: u16) -> Self {
        Self(v.to_be_bytes())
    }

    /// To host order.
    #[inline(always)]
    #[must_use]
    pub const fn to_u16(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_mapped_address_are_those_of_its_bytes() {
        let bytes = [192, 0, 2, 7];
        let words = Address::words_v4(u32::from_ne_bytes(bytes));
        assert_eq!(words, Address::from_v4(bytes).words());
    }
}
