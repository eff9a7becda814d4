//! `lbmethod=byrequests`: smooth weighted round robin by requests (apache.md 5.3).

use std::sync::atomic::Ordering::Relaxed;

use crate::balancer::{Ask, Balancer};

/// Elects a member. Every candidate that is looked at gains its weight, the one with the largest
/// credit is taken (a tie goes to the earlier one) and pays for all. Under the election lock.
pub(in crate::balancer) fn elect(balancer: &Balancer, ask: &Ask<'_>) -> Option<usize> {
    let credit = |member: usize| balancer.cell(member).lbstatus.load(Relaxed);
    let mut total = 0_i64;
    let elected = super::pick(balancer, ask.now_ns, |candidate, best| {
        total = total.wrapping_add(balancer.gain(candidate, ask.now_ns));
        best.is_none_or(|best| credit(candidate) > credit(best))
    })?;
    balancer.pay(elected, total);
    Some(elected)
}
