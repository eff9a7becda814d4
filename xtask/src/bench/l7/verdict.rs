//! Whether sluice holds what is demanded of it, and against whom: the best peer of a row is the one
//! with the lowest median, or where a row is about what more of something costs it is sluice itself
//! with the least of it. The ratio is taken round by round.

use super::{drive::Sample, peers::Kind};
use crate::bench::figures::Spread;

/// Most that an idle cleartext connection may hold, bytes.
pub(super) const IDLE_CLEARTEXT: f64 = 4096.0;

/// A row's outcome for one build of sluice.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// The best peer; `None`: itself.
    pub(super) best: Option<Kind>,
    /// sluice to that.
    pub(super) ratio: Spread,
    pub(super) bar: f64,
}

impl Verdict {
    /// `None` where there is nobody to compare with, or too much of ours failed.
    pub(super) fn of(ours: &[Sample], peers: &[(Kind, &[Sample])], bar: f64) -> Option<Self> {
        if !is_sound(ours) {
            return None;
        }
        let costs: Vec<_> = peers
            .iter()
            .filter(|(kind, samples)| !kind.is_ours() && is_sound(samples))
            .filter_map(|(kind, samples)| Some((*kind, *samples, cost(samples)?.median())))
            .collect();
        let (best, samples, _) = costs.into_iter().min_by(|a, b| a.2.total_cmp(&b.2))?;
        Some(Self {
            best: Some(best),
            ratio: ratio(ours, samples)?,
            bar,
        })
    }

    /// Against itself: with more of something, and with the least of it.
    pub(super) fn flat(ours: &[Sample], least: &[Sample], bar: f64) -> Option<Self> {
        if !is_sound(ours) || !is_sound(least) {
            return None;
        }
        Some(Self {
            best: None,
            ratio: ratio(ours, least)?,
            bar,
        })
    }

    pub(super) fn is_met(&self) -> bool {
        self.ratio.median() <= self.bar
    }

    /// `met`, or what stands out in a table; with a remark where the bar lies between the quartiles.
    pub(super) fn words(&self) -> String {
        let unsure = if self.ratio.at(0.25) < self.bar && self.bar < self.ratio.at(0.75) {
            ", unsure"
        } else {
            ""
        };
        format!("{}{unsure}", met(self.is_met()))
    }
}

/// For tables: what was missed stands out.
pub(super) const fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**MISSED**" }
}

/// Most errors in a hundred answers: failing is cheap, so who fails more is compared with nobody.
const ERRORS: f64 = 1.0;

fn is_sound(samples: &[Sample]) -> bool {
    let answers: f64 = samples.iter().map(|sample| sample.requests).sum();
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    errors as f64 * 100.0 <= answers * ERRORS
}

/// CPU per request of a peer's rounds.
pub(super) fn cost(samples: &[Sample]) -> Option<Spread> {
    Spread::new(samples.iter().map(Sample::cpu).collect())
}

/// Ours to theirs, round by round: what disturbs a round disturbs both.
pub(super) fn ratio(ours: &[Sample], theirs: &[Sample]) -> Option<Spread> {
    let pairs = ours.iter().zip(theirs);
    Spread::new(pairs.map(|(us, them)| us.cpu() / them.cpu()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::l7::cost::Used;

    fn rounds(micros: &[u64]) -> Vec<Sample> {
        let sample = |micros: &u64| Sample {
            requests: 1000.0,
            errors: 0,
            seconds: 1.0,
            used: Used {
                cpu: micros * 1_000_000,
                ..Used::default()
            },
            machine: 0,
        };
        micros.iter().map(sample).collect()
    }

    #[test]
    fn best_peer_is_the_cheapest_and_never_ourselves() {
        let (ours, pgo) = (rounds(&[30, 30, 30]), rounds(&[10, 10, 10]));
        let (nginx, haproxy) = (rounds(&[20, 40, 20]), rounds(&[25, 25, 25]));
        let peers = [
            (Kind::Sluice, ours.as_slice()),
            (Kind::SluicePgo, pgo.as_slice()),
            (Kind::Nginx, nginx.as_slice()),
            (Kind::Haproxy, haproxy.as_slice()),
        ];
        let verdict = Verdict::of(&ours, &peers, 1.1).expect("rounds");
        assert_eq!(verdict.best, Some(Kind::Nginx));
        assert!(!verdict.is_met());
        assert_eq!(verdict.ratio.quartiles(2), "1.50 [1.12-1.50]");
        assert_eq!(verdict.words(), "**MISSED**");
        let verdict = Verdict::of(&ours, &peers, 1.3).expect("rounds");
        assert_eq!(verdict.words(), "**MISSED**, unsure");
    }

    #[test]
    fn who_fails_is_no_best_peer_and_reaches_nothing() {
        let ours = rounds(&[30]);
        let (mut nginx, haproxy) = (rounds(&[1]), rounds(&[29]));
        nginx[0].errors = 11;
        let peers = [
            (Kind::Nginx, nginx.as_slice()),
            (Kind::Haproxy, haproxy.as_slice()),
        ];
        let verdict = Verdict::of(&ours, &peers, 1.1).expect("rounds");
        assert_eq!(verdict.best, Some(Kind::Haproxy));
        assert!(verdict.is_met());
        assert!(Verdict::of(&nginx, &peers, 1.1).is_none());
    }

    #[test]
    fn flat_is_what_costs_the_same_with_more() {
        let (least, more) = (rounds(&[20, 30, 20]), rounds(&[21, 33, 22]));
        let verdict = Verdict::flat(&more, &least, 1.1).expect("rounds");
        assert_eq!(verdict.best, None);
        assert_eq!(verdict.words(), "met");
        let mut failing = least.clone();
        failing[0].errors = 100;
        assert!(Verdict::flat(&more, &failing, 1.1).is_none());
        assert!(Verdict::flat(&more, &[], 1.1).is_none());
    }

    #[test]
    fn without_peers_there_is_no_verdict() {
        let ours = rounds(&[30]);
        assert!(Verdict::of(&ours, &[(Kind::Sluice, &ours)], 1.1).is_none());
    }
}
