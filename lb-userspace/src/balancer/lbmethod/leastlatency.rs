//! `lbmethod=leastlatency`: of two members drawn at random, the one that would answer sooner. Beyond
//! httpd.
//!
//! What a member is expected to take is its peak-sensitive moving average of the time to the first
//! byte (a slower answer counts at once, quicker ones little by little) times the requests that it
//! has in flight, by its weight. Two drawn at random, and not the best of all: the best would get
//! everything until its first answer shows that it is the best no longer.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::balancer::{Ask, Balancer, Head, draw, rampup};

/// After this time without an answer the memory of a slow one has sunk to a third.
const DECAY_NS: f64 = 10e9;
/// After this time it is forgotten: nothing is known of the member any more.
const FORGOTTEN_NS: u64 = 50_000_000_000;
/// What is expected of a member of which nothing is known, once it has a request to show.
const UNKNOWN_NS: f64 = 1e9;
/// The longest time that an answer counts for.
const LONGEST: Duration = Duration::from_mins(10);

/// How long a member takes to answer.
#[derive(Debug, Default)]
pub struct Latency(Mutex<Average>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Average {
    ns: f64,
    /// Of the last answer; 0: none yet.
    at: u64,
}

impl Average {
    fn now(self, now_ns: u64) -> Option<f64> {
        let age = now_ns.saturating_sub(self.at);
        (self.at != 0 && age < FORGOTTEN_NS).then(|| self.ns * (-to_float(age) / DECAY_NS).exp())
    }

    fn observe(self, took: Duration, failed: bool, now_ns: u64) -> Self {
        let took = to_float(u64::try_from(took.min(LONGEST).as_nanos()).unwrap_or(u64::MAX));
        let known = self.now(now_ns);
        let age = to_float(now_ns.saturating_sub(self.at));
        let ns = match known {
            // Who fails at once is not quick.
            known if failed => took.max(known.map_or(UNKNOWN_NS, |known| known * 2.0)),
            Some(known) if took < known => {
                let kept = (-age / DECAY_NS).exp();
                self.ns * kept + took * (1.0 - kept)
            }
            _ => took,
        };
        Self {
            ns: ns.min(LONGEST.as_secs_f64() * 1e9),
            at: now_ns.max(1),
        }
    }
}

impl Latency {
    /// An answer began after this time; `failed`: it is one of those that say that nothing works,
    /// or none came.
    pub fn observe(&self, took: Duration, failed: bool, now_ns: u64) {
        let mut average = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *average = average.observe(took, failed, now_ns);
    }

    /// What is expected now; `None`: nothing is known.
    pub fn expected(&self, now_ns: u64) -> Option<Duration> {
        let average = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ns = average.now(now_ns)?;
        Some(Duration::from_secs_f64(ns / 1e9))
    }
}

/// What one more request costs; the smaller is taken.
fn cost(expected: Option<Duration>, busy: u64, weight: u64, share: u64) -> f64 {
    let expected = match expected {
        Some(expected) => expected.as_secs_f64() * 1e9,
        // The first request is the one that tells.
        None if busy == 0 => 0.0,
        None => UNKNOWN_NS,
    };
    let share = to_float(share) / to_float(rampup::WHOLE);
    (expected + 1.0) * to_float(busy + 1) / (to_float(weight.max(1)) * share)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times and counts far below 2^53, and an estimate anyway"
)]
const fn to_float(number: u64) -> f64 {
    number as f64
}

/// Elects a member. Credits stay as they are. Under the election lock.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let mut candidates = Vec::with_capacity(balancer.members().len());
    super::pick(balancer, heads, ask.now_ns, |candidate, best| {
        candidates.push(candidate);
        best.is_none()
    })?;
    let of = |candidate: usize| {
        let weight = balancer.weight(candidate);
        let share = balancer.share(candidate, ask.now_ns);
        let expected = balancer.memory(candidate).latency.expected(ask.now_ns);
        cost(expected, balancer.busy(candidate), weight, share)
    };
    let (first, second) = two_of(candidates.len(), ask.seed);
    let (first, second) = (candidates[first], candidates[second]);
    // Counts of others may change between two looks: each is looked at once.
    Some(if of(second) < of(first) {
        second
    } else {
        first
    })
}

/// Two different ones of `count`, each pair as often; twice the one where there is no other.
fn two_of(count: usize, seed: u64) -> (usize, usize) {
    if count < 2 {
        return (0, 0);
    }
    let first = draw(seed, 0, count);
    let other = draw(seed, 1, count - 1);
    (first, if other < first { other } else { other + 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn after(answers: &[(u64, u64)]) -> Average {
        let times = answers
            .iter()
            .map(|&(ms, at)| (Duration::from_millis(ms), at));
        times.fold(Average::default(), |average, (took, at)| {
            average.observe(took, false, at)
        })
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let known = after(&[(10, SECOND), (500, 2 * SECOND), (10, 2 * SECOND + 1)]);
        assert!(known.ns > 499e6, "{known:?}");
        assert!(known.now(12 * SECOND).expect("known") < 200e6);
        assert_eq!(known.now(60 * SECOND), None);
    }

    #[test]
    fn quick_failures_are_not_quick_answers() {
        let good = after(&[(20, SECOND)]);
        let mut bad = good;
        for n in 0..5 {
            bad = bad.observe(Duration::from_micros(100), true, SECOND + n);
        }
        assert!(bad.ns > good.ns * 30.0, "{bad:?}");
        let unknown = Average::default().observe(Duration::ZERO, true, SECOND);
        assert!(unknown.ns >= UNKNOWN_NS);
    }

    #[test]
    fn who_is_unknown_gets_one_request_to_begin_with() {
        let quick = Some(Duration::from_millis(1));
        assert!(cost(None, 0, 100, 1000) < cost(quick, 0, 100, 1000));
        assert!(cost(None, 1, 100, 1000) > cost(quick, 20, 100, 1000));
    }

    proptest! {
        #[test]
        fn more_in_flight_costs_more_and_more_weight_less(
            ms in 0..10_000_u64, busy in 0..1000_u64, weight in 100..10_000_u64, share in 100..1000_u64,
        ) {
            let expected = Some(Duration::from_millis(ms));
            let this = cost(expected, busy, weight, share);
            prop_assert!(cost(expected, busy + 1, weight, share) > this);
            prop_assert!(cost(expected, busy, weight + 1, share) < this);
            prop_assert!(cost(expected, busy, weight, share + 1) < this);
        }

        #[test]
        fn two_different_ones_are_drawn(count in 2..100_usize, seed: u64) {
            let (first, second) = two_of(count, seed);
            prop_assert!(first != second && first < count && second < count);
        }

        #[test]
        fn averages_stay_finite(answers in proptest::collection::vec((0..u64::MAX, any::<bool>(), 0..u64::MAX), 1..20)) {
            let mut average = Average::default();
            for (took, failed, at) in answers {
                average = average.observe(Duration::from_nanos(took), failed, at);
                prop_assert!(average.ns.is_finite() && average.ns >= 0.0);
            }
        }
    }
}
