//! Slow start (`rampup`): a member that comes back, or is added while requests are served, takes its
//! share little by little. Beyond httpd, off unless asked for.
//!
//! Its weight grows from a tenth to the whole, linearly. Elections notice who was out: a member that
//! nobody looked at while it was is not ramped up, for nobody wanted anything of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The whole share, in thousandths.
pub const WHOLE: u64 = 1000;
/// Where it begins.
pub const FIRST: u64 = 100;

/// Where one member is on its way up. Used under the election lock.
#[derive(Debug, Default)]
pub struct Ramp {
    out: AtomicBool,
    /// ns; 0: long ago.
    since: AtomicU64,
}

impl Ramp {
    /// Of a member that was not there before.
    pub fn added() -> Self {
        Self {
            out: AtomicBool::new(true),
            since: AtomicU64::new(0),
        }
    }

    /// An election sees the member: whether it takes new requests.
    pub fn see(&self, takes: bool, now_ns: u64) {
        if !takes {
            self.out.store(true, Relaxed);
        } else if self.out.load(Relaxed) {
            self.since.store(now_ns.max(1), Relaxed);
            self.out.store(false, Relaxed);
        }
    }

    /// Its share in thousandths, [`FIRST`] to [`WHOLE`]; `length`: of the whole way, ns.
    pub fn share(&self, length_ns: u64, now_ns: u64) -> u64 {
        let since = self.since.load(Relaxed);
        if since == 0 || length_ns == 0 {
            return WHOLE;
        }
        let gone = now_ns.saturating_sub(since);
        if gone >= length_ns {
            return WHOLE;
        }
        let part = u128::from(gone) * u128::from(WHOLE - FIRST) / u128::from(length_ns);
        FIRST + u64::try_from(part).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_was_always_there_has_its_whole_share() {
        let ramp = Ramp::default();
        ramp.see(true, 5);
        assert_eq!(ramp.share(1000, 6), WHOLE);
    }

    proptest! {
        #[test]
        fn shares_grow_from_a_tenth_to_the_whole(length in 1..1_000_000_u64, start in 1..1_000_000_u64) {
            let ramp = Ramp::added();
            ramp.see(true, start);
            let shares: Vec<u64> = (0..=10).map(|n| ramp.share(length, start + length * n / 10)).collect();
            prop_assert_eq!(shares[0], FIRST);
            prop_assert_eq!(shares[10], WHOLE);
            prop_assert!(shares.is_sorted());
            // Out again, and back: from the beginning.
            ramp.see(false, start + length);
            ramp.see(true, start + 2 * length);
            ramp.see(true, start + 2 * length + 1);
            prop_assert_eq!(ramp.share(length, start + 2 * length), FIRST);
        }
    }
}
