//! `RINGS`: balancer -> the ring of its members, an array of arrays, so that a whole ring is
//! swapped at once.

/// Slots of a ring: a prime.
pub const RING_SLOTS: u32 = 65_537;
/// Rows of a ring's map: four slots each, for the kernel gives every array element 8 bytes at least.
pub const RING_ROWS: u32 = RING_SLOTS.div_ceil(4);
/// Rings there may be; index 0 is never used.
pub const MAX_RINGS: u32 = 512;

/// Four slots: member ids, 0: nobody. What lies behind the last slot is zero.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RingRow(pub [u16; 4]);

impl RingRow {
    /// The slot in place `at % 4`.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, at: usize) -> u16 {
        let [a, b, c, d] = self.0;
        let word = a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48;
        (word >> ((at % 4) * 16)) as u16
    }
}

/// The row and the place in it of a slot.
#[inline(always)]
#[must_use]
pub const fn place(slot: u32) -> (u32, usize) {
    (slot / 4, (slot % 4) as usize)
}

const _: () = assert!(size_of::<RingRow>() == 8);
