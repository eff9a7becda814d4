//! Outlier ejection (`ejectmax`): a member whose answers fail is put into error, as long as not too
//! many are out already. Beyond httpd, off unless asked for.
//!
//! A failure is an answer of 500 to 599 (but 501 and 505, which say something about the request), a
//! broken one, or none. Who is ejected is an ordinary member in error: `retry` says when it is
//! tried again, the manager and packets see it as any other.

/// So many failures in a row eject.
pub const CONSECUTIVE: u32 = 5;
/// So do failures of half of the answers of [`WINDOW_SECONDS`], where there were so many.
pub const ENOUGH: u64 = 20;
/// Seconds that are looked back on.
pub const WINDOW_SECONDS: u64 = 10;

const SECOND: u64 = 1_000_000_000;
const BUCKETS: usize = WINDOW_SECONDS as usize;

/// What one member answered lately.
#[derive(Clone, Debug, Default)]
pub struct Record {
    in_a_row: u32,
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    answers: u64,
    failures: u64,
}

/// Whether an answer with this status is a failure of the member.
pub const fn is_failure(status: u16) -> bool {
    matches!(status, 500..=599) && !matches!(status, 501 | 505)
}

impl Record {
    /// Counts an answer; whether the member is an outlier now.
    pub fn observe(&mut self, failed: bool, now_ns: u64) -> bool {
        self.in_a_row = if failed {
            self.in_a_row.saturating_add(1)
        } else {
            0
        };
        let second = now_ns / SECOND;
        let at = usize::try_from(second % WINDOW_SECONDS).unwrap_or_default();
        let bucket = &mut self.buckets[at];
        if bucket.second != second {
            *bucket = Bucket {
                second,
                ..Bucket::default()
            };
        }
        bucket.answers += 1;
        bucket.failures += u64::from(failed);
        if !failed {
            return false;
        }
        let fresh = |bucket: &&Bucket| second.wrapping_sub(bucket.second) < WINDOW_SECONDS;
        let recent = self.buckets.iter().filter(fresh);
        let (answers, failures) = recent.fold((0, 0), |(answers, failures), bucket| {
            (answers + bucket.answers, failures + bucket.failures)
        });
        self.in_a_row >= CONSECUTIVE || (answers >= ENOUGH && failures * 2 >= answers)
    }

    /// Forgets everything: the member was ejected.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Whether one more of `members` may be ejected when `out` take no requests already, for whatever
/// reason.
pub const fn may_eject(percent: u32, members: usize, out: usize) -> bool {
    (out as u64 + 1) * 100 <= members as u64 * percent as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn failures_in_a_row_make_an_outlier() {
        let mut record = Record::default();
        let seen: Vec<bool> = (0..CONSECUTIVE).map(|_| record.observe(true, 1)).collect();
        assert_eq!(seen, [false, false, false, false, true]);
        record.clear();
        assert!(!record.observe(true, 2));
    }

    #[test]
    fn one_success_begins_the_row_anew() {
        let mut record = Record::default();
        let mut answers = [true, true, true, true, false].repeat(3).into_iter();
        assert!(!answers.any(|failed| record.observe(failed, 1)));
    }

    #[test]
    fn half_of_enough_answers_make_an_outlier_once_they_are_recent() {
        let mut record = Record::default();
        let mut observe = |now| {
            record.observe(false, now);
            record.observe(true, now)
        };
        assert!((0..9).all(|_| !observe(SECOND)));
        assert!(observe(SECOND), "the twentieth answer");
        let mut record = Record::default();
        for second in 1..100 {
            record.observe(false, second * 2 * SECOND);
            assert!(
                !record.observe(true, second * 2 * SECOND),
                "too few in ten seconds"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_the_request_is_no_failure_of_the_member() {
        let failures: Vec<u16> = (100..600).filter(|s| is_failure(*s)).collect();
        assert_eq!(failures.len(), 98);
        assert!(!is_failure(501) && !is_failure(505) && is_failure(500) && !is_failure(499));
    }

    proptest! {
        #[test]
        fn never_more_than_the_cap_are_out_by_ejection(percent in 1..=100_u32, members in 1..500_usize) {
            let mut out = 0;
            while may_eject(percent, members, out) {
                out += 1;
            }
            prop_assert!(out * 100 <= members * percent as usize);
            prop_assert!((out + 1) * 100 > members * percent as usize);
        }
    }
}
