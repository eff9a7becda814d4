//! `lbmethod=bytraffic`: the member that has carried the fewest bytes for its weight
//! (apache.md 5.3).

use std::sync::atomic::Ordering::Relaxed;

use crate::balancer::{Ask, Balancer, Head, draw, rampup};

/// Elects a member: bytes both ways, each divided by the weight as httpd divides them; a tie goes
/// to the earlier one. Credits stay as they are. Under the election lock.
///
/// A member that was away has carried less than all others, and would get every request until it
/// has caught up: with `rampup` it is passed by as often as its share wants.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let mut least = (true, u64::MAX);
    let place = draw(ask.seed, 0, 1000) as u64;
    super::pick(balancer, heads, ask.now_ns, |candidate, best| {
        let cell = balancer.cell(candidate);
        let weight = u64::from(cell.weight.load(Relaxed)).max(1);
        let sent = cell.transferred.load(Relaxed) / weight;
        let load = sent.saturating_add(cell.read.load(Relaxed) / weight);
        let share = balancer.share(candidate, ask.now_ns);
        let load = (share < rampup::WHOLE && place >= share, load);
        let wins = best.is_none() || load < least;
        if wins {
            least = load;
        }
        wins
    })
}
