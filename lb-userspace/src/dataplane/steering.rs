//! Keeping the rings true: from members' states to what the packet path looks flows up in. Which
//! members a ring has is decided in `ring.rs`; here it is asked when, and written what changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::Ordering::Relaxed,
};

use lb_common::{
    maglev::SLOTS,
    member::{MemberId, MemberState},
    ring::MAX_RINGS,
};

use super::{
    DataplaneError, Desired,
    ring::{self, Candidate, Share, Wish},
    store::Store,
    sys::MemberCell,
};

#[cfg(test)]
mod tests;

/// The balancers that are steered to, and the rings they have.
#[derive(Clone, Debug, Default)]
pub(super) struct Steering {
    balancers: Vec<Steered>,
    /// What each ring holds, as far as this process wrote it.
    published: HashMap<u16, Vec<Share>>,
    /// Slots of each member in them.
    slots: HashMap<u16, BTreeMap<u16, u32>>,
    trials: HashMap<MemberId, Trial>,
    /// Rings of an earlier process may be there.
    inherited: bool,
    /// What those held that this process has changed, for a start that fails after all; `None`: there
    /// was no ring.
    found: HashMap<u16, Option<Vec<u16>>>,
}

/// One balancer.
#[derive(Clone, Debug, PartialEq)]
struct Steered {
    name: String,
    /// Index of `RINGS`.
    ring: u16,
    forcerecovery: bool,
    members: Vec<SteeredMember>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct SteeredMember {
    id: MemberId,
    incarnation: u32,
    seed: [u64; 2],
    retry_ns: u64,
}

/// A member that requests put into error.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trial {
    InError,
    /// Some request is trying it, since this time.
    Tried(u64),
}

/// How long new flows wait for a request to succeed on a member that is tried again, ns. Where no
/// request comes they do not wait longer.
const TRIAL_NS: u64 = 3_000_000_000;

/// Rings that are written in one go: what they take of memory until then, 131 kB each, is bounded.
const AT_ONCE: usize = 64;

/// A ring that is to be written.
struct Waiting {
    /// Index of [`Steering::balancers`].
    balancer: usize,
    slots: Box<[u16; SLOTS]>,
    shares: Vec<Share>,
}

/// A ring that was changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) balancer: String,
    pub(super) members: usize,
    /// Of which the ring was made before; `None`: not known.
    pub(super) before: Option<usize>,
}

impl Steering {
    /// Nothing is known of the rings that there may be.
    pub(super) fn new() -> Self {
        Self {
            inherited: true,
            ..Self::default()
        }
    }

    /// Whether anything is steered.
    pub(super) const fn is_idle(&self) -> bool {
        self.balancers.is_empty()
    }

    /// The same rings for another configuration. `balancers` are the ids that its balancers have.
    pub(super) fn turned_to(
        &self,
        desired: &Desired,
        ids: &[Vec<MemberId>],
        balancers: &HashMap<usize, u16>,
        store: &Store,
    ) -> Self {
        let steered: BTreeSet<usize> = (desired.spec.sluice.steers.iter())
            .map(|steer| steer.balancer)
            .collect();
        let of = |index: usize| {
            let balancer = desired.spec.balancers.get(index)?;
            let ring = *balancers.get(&index)?;
            let members = balancer.members.iter().zip(ids.get(index)?);
            Some(Steered {
                name: balancer.name.clone(),
                ring,
                forcerecovery: balancer.forcerecovery,
                members: members
                    .map(|(member, id)| SteeredMember {
                        id: *id,
                        incarnation: store
                            .table
                            .cell(*id)
                            .map_or(0, |cell| cell.incarnation.load(Relaxed)),
                        seed: ring::seed(&member.url),
                        retry_ns: u64::try_from(member.retry.as_nanos()).unwrap_or(u64::MAX),
                    })
                    .collect(),
            })
        };
        let balancers: Vec<Steered> = steered.into_iter().filter_map(of).collect();
        let all: BTreeSet<MemberId> = (balancers.iter())
            .flat_map(|balancer| balancer.members.iter().map(|member| member.id))
            .collect();
        let mut trials = self.trials.clone();
        trials.retain(|id, _| all.contains(id));
        Self {
            balancers,
            published: self.published.clone(),
            slots: self.slots.clone(),
            trials,
            inherited: self.inherited,
            found: self.found.clone(),
        }
    }

    /// An operator says that a member is to be used again.
    pub(super) fn forgive(&mut self, id: MemberId) {
        self.trials.remove(&id);
    }

    /// Writes every ring that is not as the members' states want it, whole and at once; several at
    /// a time, for the kernel makes whoever writes one wait.
    pub(super) fn refresh(
        &mut self,
        store: &mut Store,
        now: u64,
    ) -> Result<Vec<Changed>, DataplaneError> {
        let mut changes = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        for index in 0..self.balancers.len() {
            let (wish, candidates) = self.look(index, store, now);
            let balancer = &self.balancers[index];
            let known = self.published.get(&balancer.ring);
            let shares = match wish {
                Wish::Of(shares) if known == Some(&shares) => continue,
                Wish::Of(shares) => shares,
                Wish::Keep if known.is_some_and(|known| !known.is_empty()) => continue,
                Wish::Keep if known.is_none() && has_members(store, balancer.ring) => continue,
                Wish::Keep => {
                    let forced = ring::forced(&candidates);
                    if known == Some(&forced) {
                        continue;
                    }
                    forced
                }
            };
            let slots = ring::slots(&shares);
            if known.is_none() && self.inherited && !self.found.contains_key(&balancer.ring) {
                let found = store.rest.ring(balancer.ring)?;
                self.found.insert(balancer.ring, found);
            }
            waiting.push(Waiting {
                balancer: index,
                slots,
                shares,
            });
            if waiting.len() == AT_ONCE {
                self.write(&mut waiting, store, &mut changes)?;
            }
        }
        self.write(&mut waiting, store, &mut changes)?;
        Ok(changes)
    }

    fn write(
        &mut self,
        waiting: &mut Vec<Waiting>,
        store: &mut Store,
        changes: &mut Vec<Changed>,
    ) -> Result<(), DataplaneError> {
        if waiting.is_empty() {
            return Ok(());
        }
        let rings: Vec<_> = (waiting.iter())
            .map(|new| (self.balancers[new.balancer].ring, &*new.slots))
            .collect();
        let (written, done) = store.rest.set_rings(&rings);
        for new in waiting.drain(..).take(written) {
            let balancer = &self.balancers[new.balancer];
            let slots = ring::count(&new.slots[..]);
            self.slots.insert(balancer.ring, slots);
            let members = new.shares.len();
            let before = self.published.insert(balancer.ring, new.shares);
            changes.push(Changed {
                balancer: balancer.name.clone(),
                members,
                before: before.map(|shares| shares.len()),
            });
        }
        done
    }

    /// Takes away the rings that nothing leads to any more.
    pub(super) fn remove_others(&mut self, store: &mut Store) -> Result<(), DataplaneError> {
        let used: BTreeSet<u16> = self.balancers.iter().map(|b| b.ring).collect();
        let others: Vec<u16> = if self.inherited {
            (1..MAX_RINGS as u16)
                .filter(|ring| !used.contains(ring))
                .collect()
        } else {
            let known = self.published.keys().copied();
            known.filter(|ring| !used.contains(ring)).collect()
        };
        for ring in others {
            if self.inherited {
                // Removing what is not there makes older kernels wait, too.
                let Some(found) = store.rest.ring(ring)? else {
                    continue;
                };
                self.found.insert(ring, Some(found));
            }
            store.rest.remove_ring(ring)?;
            self.published.remove(&ring);
            self.slots.remove(&ring);
        }
        self.inherited = false;
        Ok(())
    }

    /// The same, not knowing what the rings hold.
    pub(super) fn unwritten(self) -> Self {
        Self {
            published: HashMap::new(),
            slots: HashMap::new(),
            inherited: true,
            ..self
        }
    }

    /// Puts every ring back to what it held before `self` was turned to something else.
    pub(super) fn restore(&self, store: &mut Store, changed: &Self) {
        for (ring, shares) in &changed.published {
            let before = self.published.get(ring);
            if before == Some(shares) {
                continue;
            }
            let slots = before.map(|shares| ring::slots(shares));
            if let Err(error) = store.rest.set_ring(*ring, slots.as_deref()) {
                tracing::error!(%error, "a ring could not be put back");
            }
        }
        let since = (changed.found.iter()).filter(|(ring, _)| {
            !self.found.contains_key(ring) && !self.published.contains_key(ring)
        });
        Self::put_back(store, since);
    }

    /// Puts back what rings of an earlier process held before this one changed them.
    pub(super) fn put_back_found(&self, store: &mut Store) {
        Self::put_back(store, self.found.iter());
    }

    fn put_back<'a>(
        store: &mut Store,
        rings: impl Iterator<Item = (&'a u16, &'a Option<Vec<u16>>)>,
    ) {
        for (ring, found) in rings {
            let slots = found.as_deref().and_then(|slots| slots.try_into().ok());
            if let Err(error) = store.rest.set_ring(*ring, slots) {
                tracing::error!(%error, "a ring could not be put back");
            }
        }
    }

    /// A start has succeeded: nobody goes back to what an earlier process had written.
    pub(super) fn forget_found(&mut self) {
        self.found = HashMap::new();
    }

    /// Slots of each member in a ring that this process wrote.
    pub(super) fn slots(&self, ring: u16) -> Option<&BTreeMap<u16, u32>> {
        self.slots.get(&ring)
    }

    fn look(&mut self, index: usize, store: &Store, now: u64) -> (Wish, Vec<Candidate>) {
        let balancer = &self.balancers[index];
        let mut candidates = Vec::with_capacity(balancer.members.len());
        for member in &balancer.members {
            let Some(cell) = store.table.cell(member.id) else {
                continue;
            };
            // Another's slot by now: the next publish will tell.
            if cell.incarnation.load(Relaxed) != member.incarnation {
                continue;
            }
            candidates.push(candidate(member, cell, &mut self.trials, now));
        }
        (ring::wish(&candidates, balancer.forcerecovery), candidates)
    }
}

fn has_members(store: &Store, ring: u16) -> bool {
    let ring = store.rest.ring(ring).ok().flatten();
    ring.is_some_and(|slots| slots.iter().any(|slot| *slot != 0))
}

fn candidate(
    member: &SteeredMember,
    cell: &MemberCell,
    trials: &mut HashMap<MemberId, Trial>,
    now: u64,
) -> Candidate {
    let mut state = cell.state();
    if cell.address().ip().is_unspecified() {
        // Its name has no address yet.
        state.0 |= MemberState::STOPPED;
    }
    let since = cell.error_since.load(Relaxed);
    let mut on_trial = false;
    if state.has(MemberState::ERROR) {
        trials.insert(member.id, Trial::InError);
        // A request would have tried it long ago: there are none, and flows must not wait for one.
        let patience = member.retry_ns.saturating_mul(2).max(TRIAL_NS);
        if since != 0 && now > since.saturating_add(patience) {
            // As a request's election does when it is due.
            cell.retries.fetch_add(1, Relaxed);
            cell.clear_state(MemberState::ERROR);
            trials.remove(&member.id);
            state.0 &= !MemberState::ERROR;
        }
    } else if let Some(trial) = trials.get_mut(&member.id) {
        let begun = match trial {
            Trial::InError => {
                *trial = Trial::Tried(now);
                now
            }
            Trial::Tried(begun) => *begun,
        };
        // A connection that was made takes both back to zero.
        let proven = cell.retries.load(Relaxed) == 0 && since == 0;
        on_trial = !proven && now < begun.saturating_add(TRIAL_NS);
        if !on_trial {
            trials.remove(&member.id);
        }
    }
    Candidate {
        id: member.id.0 as u16,
        seed: member.seed,
        state,
        weight: cell.weight.load(Relaxed),
        lbset: cell.lbset(),
        on_trial,
    }
}
