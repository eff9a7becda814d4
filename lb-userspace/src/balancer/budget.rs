//! The retry budget of a balancer (`retrybudget`): how many requests may be tried a second time.
//!
//! When members fail one after the other, every request that is tried again makes the load of those
//! that are left larger. A budget ends that: in any ten seconds at most so many percent of the
//! requests are retries. Beyond httpd, off unless asked for.

/// Seconds that are looked back on.
pub const WINDOW_SECONDS: u64 = 10;
/// Retries that are granted in a window whatever the number of requests: a quiet balancer would
/// never have any.
pub const ALWAYS: u64 = 10;

const SECOND: u64 = 1_000_000_000;
const BUCKETS: usize = WINDOW_SECONDS as usize;

/// Requests and retries of the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    /// A request begins.
    pub fn request(&mut self, now_ns: u64) {
        self.bucket(now_ns).requests += 1;
    }

    /// Whether a request may be tried once more; if so it is counted.
    pub fn retry(&mut self, percent: u32, now_ns: u64) -> bool {
        let (requests, retries) = self.sums(now_ns);
        let granted = (requests.saturating_mul(u64::from(percent)) / 100).max(ALWAYS);
        if retries >= granted {
            return false;
        }
        self.bucket(now_ns).retries += 1;
        true
    }

    fn bucket(&mut self, now_ns: u64) -> &mut Bucket {
        let second = now_ns / SECOND;
        let at = usize::try_from(second % WINDOW_SECONDS).unwrap_or_default();
        let bucket = &mut self.buckets[at];
        if bucket.second != second {
            *bucket = Bucket {
                second,
                ..Bucket::default()
            };
        }
        bucket
    }

    fn sums(&self, now_ns: u64) -> (u64, u64) {
        let second = now_ns / SECOND;
        let fresh = |bucket: &&Bucket| second.wrapping_sub(bucket.second) < WINDOW_SECONDS;
        let sum = |(requests, retries), bucket: &Bucket| {
            (requests + bucket.requests, retries + bucket.retries)
        };
        self.buckets.iter().filter(fresh).fold((0, 0), sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Events are (milliseconds since the one before, requests, retries asked for).
        #[test]
        fn retries_of_a_window_never_exceed_the_budget(
            percent in 1..=100_u32,
            events in proptest::collection::vec((0..3000_u64, 0..200_u64, 0..100_u64), 1..100),
        ) {
            let mut budget = Budget::default();
            let mut now = 5 * SECOND;
            let mut log: Vec<(u64, u64, u64)> = Vec::new();
            for (pause, requests, retries) in events {
                now += pause * 1_000_000;
                for _ in 0..requests {
                    budget.request(now);
                }
                let granted = (0..retries).filter(|_| budget.retry(percent, now)).count() as u64;
                log.push((now / SECOND, requests, granted));
                let window = |at: &&(u64, u64, u64)| now / SECOND - at.0 < WINDOW_SECONDS;
                let seen: u64 = log.iter().filter(window).map(|at| at.1).sum();
                let spent: u64 = log.iter().filter(window).map(|at| at.2).sum();
                let most = (seen * u64::from(percent) / 100).max(ALWAYS);
                // What was granted while more requests were in the window may be more than now.
                prop_assert!(granted == 0 || spent <= most, "{spent} of {most}");
                prop_assert!(granted == retries || spent >= most);
            }
        }
    }

    #[test]
    fn quiet_balancers_have_some_retries_and_get_them_back() {
        let mut budget = Budget::default();
        let granted = |budget: &mut Budget, now| (0..50).filter(|_| budget.retry(20, now)).count();
        assert_eq!(granted(&mut budget, SECOND), 10);
        assert_eq!(granted(&mut budget, 10 * SECOND), 0);
        assert_eq!(granted(&mut budget, 11 * SECOND), 10);
    }
}
