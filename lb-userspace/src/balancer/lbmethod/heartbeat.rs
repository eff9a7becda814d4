//! `lbmethod=heartbeat`: by what members say of themselves (mod_lbmethod_heartbeat, apache.md 5.3).
//!
//! A member is drawn at random, each as likely as it has requests to spare. Who was not heard of
//! for ten seconds takes none. Sets, spares and standbys do not count, as in httpd.

use lb_common::member::MemberState;

use super::byrequests;
use crate::balancer::{Ask, Balancer, Head, draw};

/// Elects a member. Credits stay as they are. Under the election lock.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let beats = balancer.heartbeats.as_deref()?;
    if beats.is_waiting(ask.now_ns) {
        // A process that has just begun has heard of nobody.
        return byrequests::elect(balancer, ask, heads);
    }
    let ready = |member: usize| {
        let ip = balancer.cell(member).address().ip();
        let ready = beats.ready(ip, ask.now_ns)?;
        let mut state = balancer.state(member);
        if !state.is_usable() && balancer.retry_if_due(member, ask.now_ns) {
            state = balancer.state(member);
        }
        let takes = state.is_usable() && !state.has(MemberState::DRAIN);
        balancer.see(member, takes, ask.now_ns);
        takes.then(|| u64::from(ready) * balancer.share(member, ask.now_ns))
    };
    let places: Vec<u64> = (0..balancer.members().len())
        .map(|member| ready(member).unwrap_or(0))
        .collect();
    choose(&places, ask.seed)
}

/// One of them, each as likely as its number says; `None` where all are 0.
fn choose(places: &[u64], seed: u64) -> Option<usize> {
    let total: u64 = places.iter().sum();
    let total = usize::try_from(total).ok().filter(|total| *total > 0)?;
    let mut drawn = draw(seed, 0, total) as u64;
    places.iter().position(|places| {
        let is_it = drawn < *places;
        drawn = drawn.saturating_sub(*places);
        is_it
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_drawn_as_often_as_they_have_places() {
        let mut counts = [0_usize; 4];
        for seed in 0..10_000 {
            counts[choose(&[1000, 0, 3000, 6000], seed).expect("there are places")] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        assert!((2800..3200).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn nobody_has_a_place_and_nobody_is_drawn() {
        assert_eq!(choose(&[0, 0], 1), None);
        assert_eq!(choose(&[], 1), None);
    }
}
