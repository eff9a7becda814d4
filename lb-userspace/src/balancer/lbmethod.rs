//! Election methods, one file each, and the walk over sets, spares and standbys that they share.

use lb_common::member::MemberState;

use super::{Balancer, Head};

pub mod bybusyness;
pub mod byrequests;
pub mod bytraffic;
pub mod hash;
pub mod heartbeat;
pub mod leastlatency;

/// The walk of apache.md 5.3. `better(candidate, best)` is asked for every member that may be
/// taken, in httpd's order of evaluation, and says whether it beats the best so far.
pub(super) fn pick(
    balancer: &Balancer,
    heads: &[Head],
    now_ns: u64,
    mut better: impl FnMut(usize, Option<usize>) -> bool,
) -> Option<usize> {
    let mut next_set = heads.iter().map(|head| head.lbset).min();
    let mut best = None;
    while let (Some(set), None) = (next_set, best) {
        next_set = None;
        let mut spares = Vec::new();
        let mut standbys = Vec::new();
        let mut unusable = 0;
        for (member, &Head { state, lbset, .. }) in heads.iter().enumerate() {
            if lbset != set {
                if lbset > set {
                    next_set = Some(next_set.map_or(lbset, |next: u8| next.min(lbset)));
                }
                continue;
            }
            let reserve = MemberState::SPARE | MemberState::STANDBY;
            let mut state = state;
            if state.has(MemberState::DRAIN) {
                balancer.see(member, false, now_ns);
                unusable += usize::from(!state.has(reserve));
                continue;
            }
            if !state.is_usable() {
                balancer.retry_if_due(member, now_ns);
                // By then somebody else may have brought it back.
                state = balancer.state(member);
            }
            let usable = state.is_usable();
            balancer.see(member, usable, now_ns);
            if state.has(MemberState::SPARE) {
                if usable {
                    spares.push(member);
                }
            } else if state.has(MemberState::STANDBY) {
                if usable {
                    standbys.push(member);
                }
            } else if !usable {
                unusable += 1;
            } else if better(member, best) {
                best = Some(member);
            }
        }
        // One spare steps in for each ordinary member of its set that is out.
        for &spare in spares.iter().take(unusable) {
            if better(spare, best) {
                best = Some(spare);
            }
        }
        if best.is_none() {
            for standby in standbys {
                if better(standby, best) {
                    best = Some(standby);
                }
            }
        }
    }
    best
}
