//! `lbmethod=bybusyness`: the member with the fewest requests in flight (apache.md 5.3).

use std::sync::atomic::Ordering::Relaxed;

use crate::balancer::{Ask, Balancer, Head, rampup};

/// Elects a member. Requests in flight of every proxy process count; among equally busy ones the
/// credit of byrequests decides, which every candidate gains and the elected pays for. Under the
/// election lock.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let credit = |member: usize| balancer.cell(member).lbstatus.load(Relaxed);
    let mut total = 0_i64;
    let mut least = u64::MAX;
    let elected = super::pick(balancer, heads, ask.now_ns, |candidate, best| {
        let (weight, _) = balancer.gain(candidate, heads[candidate].weight, ask.now_ns);
        total = total.wrapping_add(weight);
        // Who is on its way up (rampup) counts as busier than it is.
        let share = balancer.share(candidate, ask.now_ns);
        let busy = (balancer.busy(candidate) + 1).saturating_mul(rampup::WHOLE) / share;
        let wins = best
            .is_none_or(|best| busy < least || (busy == least && credit(candidate) > credit(best)));
        if wins {
            least = busy;
        }
        wins
    })?;
    balancer.pay(elected, total);
    Some(elected)
}
