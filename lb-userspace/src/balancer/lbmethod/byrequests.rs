//! `lbmethod=byrequests`: smooth weighted round robin by requests (apache.md 5.3).

use crate::balancer::{Ask, Balancer, Head};

/// Elects a member. Every candidate that is looked at gains its weight, the one with the largest
/// credit is taken (a tie goes to the earlier one) and pays for all. Under the election lock.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let (mut total, mut largest) = (0_i64, i64::MIN);
    let elected = super::pick(balancer, heads, ask.now_ns, |candidate, best| {
        let (weight, credit) = balancer.gain(candidate, heads[candidate].weight, ask.now_ns);
        total = total.wrapping_add(weight);
        let wins = best.is_none() || credit > largest;
        if wins {
            largest = credit;
        }
        wins
    })?;
    balancer.pay(elected, total);
    Some(elected)
}
