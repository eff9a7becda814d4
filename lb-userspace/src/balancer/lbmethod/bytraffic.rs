//! `lbmethod=bytraffic`: the member that has carried the fewest bytes for its weight
//! (apache.md 5.3).

use std::sync::atomic::Ordering::Relaxed;

use crate::balancer::Balancer;

/// Elects a member: bytes both ways, each divided by the weight as httpd divides them; a tie goes
/// to the earlier one. Credits stay as they are. Under the election lock.
pub(in crate::balancer) fn elect(balancer: &Balancer, now_ns: u64) -> Option<usize> {
    let mut least = u64::MAX;
    super::pick(balancer, now_ns, |candidate, best| {
        let cell = balancer.cell(candidate);
        let weight = u64::from(cell.weight.load(Relaxed)).max(1);
        let sent = cell.transferred.load(Relaxed) / weight;
        let load = sent.saturating_add(cell.read.load(Relaxed) / weight);
        let wins = best.is_none() || load < least;
        if wins {
            least = load;
        }
        wins
    })
}
