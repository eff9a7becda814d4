//! Which members of a balancer new flows may go to, and the ring that says so. Pure.
//!
//! The walk over sets, spares and standbys is byrequests' (apache.md 5.3), so that one flag means
//! the same to packets and to requests. Publishing rings is `steering.rs`'s business.

use std::{collections::BTreeMap, hash::Hasher};

use lb_common::{
    maglev::{self, Entry, SLOTS},
    member::MemberState,
};
use siphasher::sip128::{Hasher128, SipHasher13};

#[cfg(test)]
mod tests;

/// A member as the ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its slot in `MEMBERS`.
    pub(super) id: u16,
    /// See [`seed`].
    pub(super) seed: [u64; 2],
    pub(super) state: MemberState,
    /// `loadfactor` times 100.
    pub(super) weight: u32,
    pub(super) lbset: u8,
    /// Whether new flows wait for a request to succeed on it: requests put it into error, and one
    /// of them is trying it again.
    pub(super) on_trial: bool,
}

/// One member's part of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) id: u16,
    pub(super) seed: [u64; 2],
    pub(super) weight: u32,
}

/// What a balancer's ring is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// As it is: every member is in error, and `forcerecovery` keeps them all in use.
    Keep,
    /// Of these members; none: new flows go nowhere.
    Of(Vec<Share>),
}

/// The hash that places a member in its ring: of the configured URL alone, with no secret, so that
/// every host with this configuration computes this ring.
pub(crate) fn seed(url: &str) -> [u64; 2] {
    let mut hasher = SipHasher13::new();
    hasher.write(url.as_bytes());
    let hash = hasher.finish128();
    [hash.h1, hash.h2]
}

/// The seed with which packets of a balancer's flows are hashed into its ring: of the name alone,
/// for the same reason.
pub(super) fn flow_seed(balancer: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(1, 1);
    hasher.write(balancer.as_bytes());
    hasher.finish128().h1
}

impl Candidate {
    /// None of D, S, E, C, N.
    const fn takes_new_flows(&self) -> bool {
        self.state.is_usable() && !self.state.has(MemberState::DRAIN) && !self.on_trial
    }

    const fn is_in_error(&self) -> bool {
        self.state.has(MemberState::ERROR) || self.on_trial
    }

    const fn share(&self) -> Share {
        Share {
            id: self.id,
            seed: self.seed,
            weight: self.weight,
        }
    }
}

/// Members that take new flows, in the order of the configuration.
pub(super) fn wish(members: &[Candidate], forcerecovery: bool) -> Wish {
    let shares = walk(members, Candidate::takes_new_flows);
    let all_in_error = !members.is_empty() && members.iter().all(Candidate::is_in_error);
    if shares.is_empty() && forcerecovery && all_in_error {
        return Wish::Keep;
    }
    Wish::Of(shares)
}

/// The members of a ring that [`Wish::Keep`] would keep, where there was none yet: all of which
/// nothing but an error is known.
pub(super) fn forced(members: &[Candidate]) -> Vec<Share> {
    walk(members, |member| {
        let others = member.state.0 & !MemberState::ERROR;
        MemberState(others).is_usable() && !member.state.has(MemberState::DRAIN)
    })
}

/// The lowest set with somebody in it: its ordinary members, a spare for each of them that is out,
/// and the standbys when nobody else is left.
fn walk(members: &[Candidate], usable: impl Fn(&Candidate) -> bool) -> Vec<Share> {
    let mut sets: Vec<u8> = members.iter().map(|member| member.lbset).collect();
    sets.sort_unstable();
    sets.dedup();
    for set in sets {
        let of_set = || members.iter().filter(|member| member.lbset == set);
        let reserve = MemberState::SPARE | MemberState::STANDBY;
        let ordinary = of_set().filter(|member| !member.state.has(reserve));
        let out = ordinary.clone().filter(|member| !usable(member)).count();
        let spares = of_set()
            .filter(|member| member.state.has(MemberState::SPARE) && usable(member))
            .take(out);
        let chosen: Vec<Share> = ordinary
            .filter(|member| usable(member))
            .chain(spares)
            .map(Candidate::share)
            .collect();
        if !chosen.is_empty() {
            return chosen;
        }
        let standbys: Vec<Share> = of_set()
            .filter(|member| member.state.has(MemberState::STANDBY))
            // A spare that is a standby too is a spare (apache.md 5.3 asks for R first).
            .filter(|member| !member.state.has(MemberState::SPARE) && usable(member))
            .map(Candidate::share)
            .collect();
        if !standbys.is_empty() {
            return standbys;
        }
    }
    Vec::new()
}

/// The ring of these members.
pub(super) fn slots(shares: &[Share]) -> Box<[u16; SLOTS]> {
    let mut entries: Vec<Entry> = shares
        .iter()
        .map(|share| Entry::new(share.seed, share.weight, share.id))
        .collect();
    let mut ring: Box<[u16; SLOTS]> = vec![0; SLOTS]
        .into_boxed_slice()
        .try_into()
        .expect("a vector of that many slots");
    maglev::fill(&mut entries, &mut ring);
    ring
}

/// Slots of each member in a ring; those of nobody under 0.
pub(super) fn count(ring: &[u16]) -> BTreeMap<u16, u32> {
    let mut counts = BTreeMap::new();
    for slot in ring {
        *counts.entry(*slot).or_default() += 1;
    }
    counts
}
