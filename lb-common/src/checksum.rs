//! The Internet checksum (RFC 1071) and its update (RFC 1624), in native words: a ones' complement
//! sum does not care about byte order as long as it is read and written in the same.

/// Folds a sum of 16- or 32-bit words to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The word that completes a header whose words sum up to `sum` without it.
#[inline(always)]
#[must_use]
pub const fn complete(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// Sum of the 32-bit words of `bytes`; what is left behind the last whole one counts as if zeroes
/// followed.
#[inline(always)]
#[must_use]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u64 {
    let mut total = 0;
    let mut chunks = bytes.chunks_exact(4);
    for word in &mut chunks {
        total += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let rest = chunks.remainder();
    let mut last = [0; 4];
    let mut i = 0;
    while i < rest.len() {
        last[i] = rest[i];
        i += 1;
    }
    total + u64::from(u32::from_ne_bytes(last))
}

/// RFC 1624, equation 3: the checksum of a header in which words that sum up to `old` (before
/// folding) were replaced by words that sum up to `new`.
#[inline(always)]
#[must_use]
pub const fn update(check: [u8; 2], old: u64, new: u64) -> [u8; 2] {
    // HC' = ~(~HC + ~m + m').
    let was = !u16::from_ne_bytes(check);
    let minus = !fold(old);
    complete(was as u64 + minus as u64 + fold(new) as u64)
}

/// [`update`] where the sum of the words lost one: what a lower time to live makes of it, read and
/// written little-endian.
#[inline(always)]
#[must_use]
pub const fn plus_one(check: u16) -> u16 {
    let next = check as u32 + 1;
    // Minus zero is written as zero.
    (next + (next >= 0xffff) as u32) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| {
                u32::from(u16::from_be_bytes([
                    pair[0],
                    pair.get(1).copied().unwrap_or(0),
                ]))
            })
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (!u16::try_from(sum).expect("folded")).to_be_bytes()
    }

    #[test]
    fn example_of_rfc_1624_is_updated_to_zero_not_to_minus_zero() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        let check = update(
            0xDD2Fu16.to_be_bytes(),
            u64::from(u16::from_ne_bytes(0x5555u16.to_be_bytes())),
            u64::from(u16::from_ne_bytes(0x3285u16.to_be_bytes())),
        );
        assert_eq!(check, [0, 0]);
    }

    #[test]
    fn plus_one_is_what_an_update_by_one_gives() {
        for check in 0..=u16::MAX {
            for word in [1u64, 0x0640, 0x1102, 0xffff] {
                let updated = update(check.to_ne_bytes(), word, word - 1);
                assert_eq!(plus_one(check), u16::from_ne_bytes(updated), "{check:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn sum_completes_to_what_bytes_give(bytes in any::<[u8; 23]>()) {
            prop_assert_eq!(complete(sum(&bytes)), whole(&bytes));
        }

        #[test]
        fn update_is_what_summing_again_gives(
            mut bytes in any::<[u8; 20]>(), new in any::<[u8; 4]>(), at in 0usize..5,
        ) {
            bytes[0] |= 1;
            let check = whole(&bytes);
            let mut old = [0; 4];
            old.copy_from_slice(&bytes[at * 4..][..4]);
            bytes[at * 4..][..4].copy_from_slice(&new);
            bytes[0] |= 1;
            let mut new = [0; 4];
            new.copy_from_slice(&bytes[at * 4..][..4]);
            let updated = update(check, sum(&old), sum(&new));
            prop_assert_eq!(updated, whole(&bytes));
        }
    }
}
