//! Members: who keeps which slot, who gets a new one, and what of each is changed. Pure.

use std::collections::{HashMap, HashSet};

use lb_common::{
    abi::MAX_MEMBERS,
    addr::{Address, Be16},
    member::{MemberHead, MemberId, MemberRecord, MemberSlot, MemberState},
    ring::MAX_RINGS,
};

use super::{Actual, How, Op, Persist, Tune};
use crate::dataplane::{
    DataplaneError,
    desired::{Image, WantedMember},
};

/// Steps of the members.
pub(super) struct Members {
    pub(super) names: Vec<Op>,
    pub(super) writes: Vec<Op>,
    pub(super) retire: Vec<Op>,
    pub(super) ids: Vec<MemberId>,
    /// Parallel to `ids`.
    pub(super) incarnations: Vec<u32>,
    /// Id of each balancer of the configuration that has members.
    pub(super) balancers: HashMap<usize, u16>,
}

pub(super) fn members(
    actual: &Actual,
    image: &Image,
    how: &How<'_>,
    notices: &mut Vec<String>,
) -> Result<Members, DataplaneError> {
    let known = Known::of(actual);
    let balancers = balancer_ids(actual, image, &known)?;
    let missing = (image.members.iter())
        .filter(|m| known.slot_of(actual, m).is_none())
        .count();
    let mut free = free_slots(actual, missing)?.into_iter();
    let mut out = Members {
        names: Vec::new(),
        writes: Vec::new(),
        retire: Vec::new(),
        ids: Vec::with_capacity(image.members.len()),
        incarnations: Vec::with_capacity(image.members.len()),
        balancers,
    };
    let mut kept = HashSet::new();
    for wanted in &image.members {
        let balancer = out.balancers.get(&wanted.balancer).copied().unwrap_or(0);
        let found = known.slot_of(actual, wanted);
        let former = known.former(actual, wanted);
        let id = match found {
            Some(id) => id,
            None => free.next().expect("as many free slots as missing members"),
        };
        let is = &actual.members[id.0 as usize];
        let mut incarnation = is.slot.head.incarnation;
        if found.is_none() || is.name != wanted.name {
            out.names.push(Op::Name {
                id,
                name: Box::new(wanted.name),
            });
        }
        kept.insert(id);
        if found.is_some() && how.persist == Persist::Adopt {
            let mut tune = adopt(&is.slot, wanted, balancer);
            if let Some(former) = former {
                let former = &actual.members[former.0 as usize].slot;
                tune = come_back(&is.slot, former, wanted, tune);
            }
            if tune != unchanged(&is.slot) {
                out.writes.push(Op::Tune {
                    id,
                    tune: Box::new(tune),
                });
            }
            if let Some(notice) = kept_notice(actual.generation, &is.slot, wanted) {
                notices.push(notice);
            }
        } else {
            let mut slot = begin(&is.slot, found.is_some(), wanted, balancer);
            if let (Some(former), Persist::Adopt) = (former, how.persist) {
                move_over(&actual.members[former.0 as usize].slot, wanted, &mut slot);
            }
            incarnation = slot.head.incarnation;
            out.writes.push(Op::Slot {
                id,
                slot: Box::new(slot),
            });
        }
        out.ids.push(id);
        out.incarnations.push(incarnation);
    }
    for id in known.all() {
        let slot = &actual.members[id.0 as usize].slot;
        if !kept.contains(&id) && slot.record.retired == 0 {
            let mut tune = unchanged(slot);
            tune.record.retired = how.now.max(1);
            // The packet path does not read the record.
            tune.set = MemberState::RETIRED;
            out.retire.push(Op::Tune {
                id,
                tune: Box::new(tune),
            });
        }
    }
    Ok(out)
}

/// Slots in use by identity. A member whose name moved to another address has several: the one it is
/// in, and those that drain at its earlier addresses.
struct Known(HashMap<[u64; 2], Vec<MemberId>>);

impl Known {
    fn of(actual: &Actual) -> Self {
        let mut known: HashMap<[u64; 2], Vec<MemberId>> = HashMap::new();
        for (id, member) in actual.members.iter().enumerate().skip(1) {
            if member.slot.head.identity[0] != 0 {
                let slots = known.entry(member.slot.head.identity).or_default();
                slots.push(MemberId(id as u32));
            }
        }
        Self(known)
    }

    fn slots(&self, identity: [u64; 2]) -> &[MemberId] {
        self.0.get(&identity).map_or(&[], Vec::as_slice)
    }

    fn all(&self) -> impl Iterator<Item = MemberId> {
        self.0.values().flatten().copied()
    }

    /// The slot of a member that is where it was: flows and connections of that slot are with that
    /// address. One that drains is taken up again.
    fn slot_of(&self, actual: &Actual, wanted: &WantedMember) -> Option<MemberId> {
        let slot = |id: &MemberId| &actual.members[id.0 as usize].slot;
        (self.slots(wanted.identity).iter())
            .filter(|id| is_there(slot(id), wanted))
            .min_by_key(|id| slot(id).record.retired != 0)
            .copied()
    }

    /// The slot of a member that was somewhere else until now.
    fn former(&self, actual: &Actual, wanted: &WantedMember) -> Option<MemberId> {
        let slot = |id: &MemberId| &actual.members[id.0 as usize].slot;
        (self.slots(wanted.identity).iter())
            .find(|id| slot(id).record.retired == 0 && !is_there(slot(id), wanted))
            .copied()
    }

    /// The slot that its balancer is known by.
    fn any(&self, actual: &Actual, wanted: &WantedMember) -> Option<MemberId> {
        let former = || self.former(actual, wanted);
        let slots = self.slots(wanted.identity);
        (self.slot_of(actual, wanted))
            .or_else(former)
            .or_else(|| slots.first().copied())
    }
}

fn is_there(slot: &MemberSlot, wanted: &WantedMember) -> bool {
    slot.head.address == Address::from(wanted.address.ip()).0
        && slot.head.port == wanted.address.port().to_be_bytes()
}

/// What goes with a member to the slot of its new address: what an operator changed, and its
/// counters; not what was wrong with the old address.
fn move_over(former: &MemberSlot, wanted: &WantedMember, slot: &mut MemberSlot) {
    let tune = adopt(former, wanted, slot.head.balancer);
    slot.head.state = operators(former, &tune);
    slot.head.weight = tune.weight;
    slot.head.lbset = tune.lbset;
    slot.election.lbstatus = former.election.lbstatus;
    slot.election.elected = former.election.elected;
    slot.election.failed = former.election.failed;
    slot.traffic = former.traffic;
}

/// The same, of a member that moves back to a slot that still drained.
fn come_back(
    slot: &MemberSlot,
    former: &MemberSlot,
    wanted: &WantedMember,
    mut tune: Tune,
) -> Tune {
    let from = adopt(former, wanted, tune.balancer);
    let state = operators(former, &from);
    let owned = MemberState::OPERATOR | MemberState::ERROR;
    (tune.weight, tune.lbset) = (from.weight, from.lbset);
    tune.set = state & !slot.head.state;
    tune.clear = slot.head.state & (owned | MemberState::RETIRED) & !state;
    tune
}

/// An operator's bits of a member after a change.
fn operators(slot: &MemberSlot, tune: &Tune) -> u64 {
    (slot.head.state | tune.set) & !tune.clear & MemberState::OPERATOR
}

/// A balancer keeps its id as long as one of its members stays; a new one gets the lowest id that
/// no slot carries. The id of one that is steered to is that of its ring, of which there are fewer.
fn balancer_ids(
    actual: &Actual,
    image: &Image,
    known: &Known,
) -> Result<HashMap<usize, u16>, DataplaneError> {
    let steered: HashSet<usize> = (image.services.values())
        .filter_map(|service| service.balancer)
        .collect();
    let mut ids: HashMap<usize, u16> = HashMap::new();
    let mut taken: HashSet<u16> = HashSet::new();
    for wanted in &image.members {
        let Some(id) = known.any(actual, wanted) else {
            continue;
        };
        let balancer = actual.members[id.0 as usize].slot.head.balancer;
        let ring = u32::from(balancer) < MAX_RINGS || !steered.contains(&wanted.balancer);
        if balancer != 0 && ring && !ids.contains_key(&wanted.balancer) && taken.insert(balancer) {
            ids.insert(wanted.balancer, balancer);
        }
    }
    taken.extend(
        known
            .all()
            .map(|id| actual.members[id.0 as usize].slot.head.balancer),
    );
    let mut next = 1;
    // Those with rings first, so that they get the low ids.
    let (rings, others): (Vec<_>, Vec<_>) =
        (image.members.iter()).partition(|wanted| steered.contains(&wanted.balancer));
    for wanted in rings.into_iter().chain(others) {
        if ids.contains_key(&wanted.balancer) {
            continue;
        }
        while !taken.insert(next) {
            next += 1;
        }
        if steered.contains(&wanted.balancer) && u32::from(next) >= MAX_RINGS {
            let capacity = MAX_RINGS as usize - 1;
            return Err(DataplaneError::Capacity {
                what: "rings of steered balancers",
                wanted: steered.len(),
                free: capacity.saturating_sub(taken.len() - 1),
                capacity,
                hint: "; ids of removed balancers come free with their members' slots",
            });
        }
        ids.insert(wanted.balancer, next);
    }
    Ok(ids)
}

/// Slots for new members: those never used, lowest first; then those freed, oldest first, on which
/// no request is in flight any more.
pub(super) fn free_slots(actual: &Actual, wanted: usize) -> Result<Vec<MemberId>, DataplaneError> {
    let free = || {
        (actual.members.iter().enumerate().skip(1)).filter(|(_, m)| m.slot.head.identity[0] == 0)
    };
    let mut slots: Vec<(u64, usize)> = free()
        .filter(|(_, m)| m.slot.head.incarnation == 0 || m.busy == 0)
        .map(|(id, m)| match m.slot.head.incarnation {
            0 => (0, id),
            _ => (m.slot.record.retired.max(1), id),
        })
        .collect();
    if slots.len() < wanted {
        return Err(DataplaneError::Capacity {
            what: "member slots",
            wanted,
            free: slots.len(),
            capacity: MAX_MEMBERS as usize - 1,
            hint: "; slots of removed members come free once their requests have ended",
        });
    }
    slots.sort_unstable();
    slots.truncate(wanted);
    Ok(slots
        .into_iter()
        .map(|(_, id)| MemberId(id as u32))
        .collect())
}

pub(super) fn record_of(wanted: &WantedMember) -> MemberRecord {
    MemberRecord {
        status: wanted.status,
        weight: wanted.weight,
        lbset: wanted.lbset,
        ..MemberRecord::default()
    }
}

/// The slot of a member that begins anew: one that is new here, or any after a clean stop.
pub(super) fn begin(
    old: &MemberSlot,
    same: bool,
    wanted: &WantedMember,
    balancer: u16,
) -> MemberSlot {
    MemberSlot {
        head: MemberHead {
            identity: wanted.identity,
            state: wanted.status,
            address: Address::from(wanted.address.ip()).0,
            incarnation: if same {
                old.head.incarnation
            } else {
                old.head.incarnation.wrapping_add(1).max(1)
            },
            weight: wanted.weight,
            balancer,
            port: wanted.address.port().to_be_bytes(),
            lbset: wanted.lbset,
            pad: 0,
            mac: if same { old.head.mac } else { [0; 6] },
        },
        record: record_of(wanted),
        ..MemberSlot::default()
    }
}

/// A tune that changes nothing.
fn unchanged(slot: &MemberSlot) -> Tune {
    Tune {
        address: Address(slot.head.address),
        port: Be16(slot.head.port),
        weight: slot.head.weight,
        balancer: slot.head.balancer,
        lbset: slot.head.lbset,
        set: 0,
        clear: 0,
        record: slot.record,
    }
}

/// What changes of a member that stays. Where the file's own value changed the file wins; else what
/// was set at run time stays.
fn adopt(slot: &MemberSlot, wanted: &WantedMember, balancer: u16) -> Tune {
    let MemberSlot { head, record, .. } = slot;
    let (mut set, mut clear) = (0, head.state & MemberState::RETIRED);
    if record.status != wanted.status {
        // `status=+E` in the file is control's word too, so it may set the shards' bit.
        let owned = MemberState::OPERATOR | MemberState::ERROR;
        let changed = (record.status ^ wanted.status) & MemberState::ERROR;
        let target = wanted.status & owned;
        let mask = MemberState::OPERATOR | changed;
        set = target & mask & !head.state;
        clear |= !target & mask & head.state;
    }
    let weight = if record.weight == wanted.weight {
        head.weight
    } else {
        wanted.weight
    };
    let lbset = if record.lbset == wanted.lbset {
        head.lbset
    } else {
        wanted.lbset
    };
    Tune {
        address: wanted.address.ip().into(),
        port: Be16::new(wanted.address.port()),
        weight,
        balancer,
        lbset,
        set,
        clear,
        record: record_of(wanted),
    }
}

/// Tells of an operator's bits that outlive a change of generation.
fn kept_notice(generation: u64, slot: &MemberSlot, wanted: &WantedMember) -> Option<String> {
    let kept = slot.head.state & MemberState::OPERATOR;
    let by_file = wanted.status & MemberState::OPERATOR;
    if slot.record.status != wanted.status || kept == by_file {
        return None;
    }
    let letters: String = (MemberState::LETTERS.iter())
        .filter(|(_, bit)| kept & bit != 0)
        .map(|(letter, _)| *letter)
        .collect();
    let balancer = crate::dataplane::view::text(&wanted.name.balancer);
    let url = crate::dataplane::view::text(&wanted.name.url);
    Some(format!(
        "member {url} of balancer {balancer} keeps the state \"{letters}\" that an operator gave it \
         before generation {}; `sluice member enable` clears it",
        generation + 1
    ))
}
