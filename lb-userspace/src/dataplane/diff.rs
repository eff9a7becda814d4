//! From the maps as they are to the maps as a configuration wants them: a list of small steps in an
//! order in which no reader ever follows a dangling id. Pure.
//!
//! Here: limits, lists and the order of all. Members are in `members.rs`, where services go is in
//! `place.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use lb_common::{
    abi::{MAX_DECAP, MAX_PREFIXES},
    addr::{Address, Be16},
    deny::{PrefixEntry, origin},
    forward::Forward,
    limit::{self, LimitKind, ServiceLimits},
    member::{MemberId, MemberName, MemberRecord, MemberSlot},
    meta::phase,
    quic::{ServerIdKey, ServerIdValue},
    service::ServiceWay,
    settings::{Settings, gate},
};

use super::{
    DataplaneError,
    desired::{Image, ServiceKey},
    place::{self, Placement},
    prefix::PrefixKey,
};

mod members;
mod steer;
#[cfg(test)]
mod tests;

use members::members;
pub(super) use steer::of_ways;
use steer::{forwards, server_ids, steer_settings};

/// The maps as they are.
#[derive(Clone, Debug)]
pub(super) struct Actual {
    pub(super) phase: u32,
    pub(super) generation: u64,
    /// By id, the absent one included.
    pub(super) members: Vec<ActualMember>,
    pub(super) ways: Vec<PlacedWay>,
    /// By service id; 0: the host's.
    pub(super) limits: Vec<ServiceLimits>,
    pub(super) settings: Settings,
    pub(super) prefixes: BTreeMap<PrefixKey, PrefixEntry>,
    /// By service id.
    pub(super) forwards: Vec<Forward>,
    pub(super) server_ids: HashMap<ServerIdKey, ServerIdValue>,
}

/// One slot as it is.
#[derive(Clone, Debug)]
pub(super) struct ActualMember {
    pub(super) slot: MemberSlot,
    /// Requests in flight on it, of all processes.
    pub(super) busy: u64,
    /// Read for used slots only.
    pub(super) name: MemberName,
}

/// A service and where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PlacedWay {
    pub(super) set: u32,
    pub(super) way: usize,
    pub(super) value: ServiceWay,
}

/// What is kept of what was changed at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persist {
    /// After a crash, and at a reload: the operator's changes stay, unless the file's own value
    /// changed since.
    Adopt,
    /// After a clean stop: the file wins, counting begins anew.
    Fresh,
}

/// What a diff needs beside the two states.
pub(super) struct How<'a> {
    pub(super) persist: Persist,
    /// Kernel monotonic clock, ns.
    pub(super) now: u64,
    /// Draws seeds for the service table.
    pub(super) draw: &'a mut dyn FnMut() -> u64,
    /// The limits that this process published last, as the file had them.
    pub(super) file_limits: &'a FileLimits,
}

/// Limits as the file had them; `None` is the host's row. Empty: not known.
pub(super) type FileLimits = BTreeMap<Option<ServiceKey>, ServiceLimits>;

/// Steps that lead from the actual to the desired, and where the members are then.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) ops: Vec<Op>,
    /// How many of them write members: rings are made of what those leave, before services lead to
    /// them.
    pub(super) members_end: usize,
    /// Id of each balancer of the configuration that has members.
    pub(super) balancers: HashMap<usize, u16>,
    /// Parallel to `Image::members`.
    pub(super) ids: Vec<MemberId>,
    pub(super) file_limits: FileLimits,
    pub(super) notices: Vec<String>,
}

/// One step. Applying one makes its inverse, so that a list can be undone.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Phase(u32),
    Generation(u64),
    Name {
        id: MemberId,
        name: Box<MemberName>,
    },
    /// Writes a whole slot, identity last.
    Slot {
        id: MemberId,
        slot: Box<MemberSlot>,
    },
    /// Changes what control owns, leaves the shards' fields alone.
    Tune {
        id: MemberId,
        tune: Box<Tune>,
    },
    Limits {
        service: u16,
        limits: Box<ServiceLimits>,
    },
    ClearTraffic {
        service: u16,
    },
    /// Has the packet path forget flows of ids that now mean another service.
    ForgetFlows {
        services: HashSet<u16>,
    },
    Forward {
        service: u16,
        forward: Box<Forward>,
    },
    /// `old` is what was there, for undoing.
    ServerId {
        key: ServerIdKey,
        value: Option<ServerIdValue>,
        old: Option<ServerIdValue>,
    },
    Way(PlacedWay),
    /// `old` is what was there, for undoing.
    Prefix {
        key: PrefixKey,
        entry: Option<PrefixEntry>,
        old: Option<PrefixEntry>,
    },
    Settings(Settings),
}

/// Fields of a member that control owns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tune {
    pub(super) address: Address,
    pub(super) port: Be16,
    pub(super) weight: u32,
    pub(super) balancer: u16,
    pub(super) lbset: u8,
    /// State bits to set.
    pub(super) set: u64,
    /// State bits to clear.
    pub(super) clear: u64,
    pub(super) record: MemberRecord,
}

/// How long a member that no configuration names keeps its slot: requests of the generation that
/// named it may still be elected to it, ns.
const GRACE_NS: u64 = 30_000_000_000;

impl Persist {
    /// By the phase in which the last writer left `META`.
    pub(super) const fn after(left: u32) -> Self {
        match left {
            phase::STOPPED | phase::APPLYING_STOPPED => Self::Fresh,
            _ => Self::Adopt,
        }
    }
}

/// The steps that make the maps hold `image`. Every capacity is checked before the first step.
pub(super) fn diff(
    actual: &Actual,
    image: &Image,
    how: &mut How<'_>,
) -> Result<Plan, DataplaneError> {
    let mut notices = image.notices.clone();
    let members = members(actual, image, how, &mut notices)?;
    let placement = place::place(&actual.ways, actual.settings.service_seed, image, how.draw)?;
    if placement.gap {
        notices.push(
            "the service table was laid out anew: for a moment packets went to the stack unguarded"
                .to_owned(),
        );
    }
    let limits = limits(actual, image, &placement, how);
    let prefixes = prefixes(actual, image, how.now)?;
    let forwards = forwards(actual, image, &placement, &members.balancers);
    let server_ids = server_ids(actual, image, &members);
    let mut settings = settings(actual, how.persist, &placement, &limits, &prefixes.left);
    steer_settings(&mut settings, image, how.draw);

    let mut ops = vec![Op::Phase(match how.persist {
        Persist::Adopt => phase::APPLYING,
        Persist::Fresh => phase::APPLYING_STOPPED,
    })];
    ops.extend(members.names);
    ops.extend(members.writes);
    let members_end = ops.len();
    ops.extend(limits.clear);
    ops.extend(limits.write);
    ops.extend(forwards.write);
    ops.extend(server_ids.add);
    ops.extend(placement.early.iter().copied().map(free_way));
    // A flow that ended without a word stays in the table for as long as nobody needs its place.
    let forget =
        |services: HashSet<u16>| (!services.is_empty()).then_some(Op::ForgetFlows { services });
    ops.extend(forget(placement.new.iter().copied().collect()));
    ops.extend(
        placement
            .fill(image, &limits.limited, &members.balancers)
            .map(Op::Way),
    );
    ops.extend(prefixes.add);
    if settings != actual.settings {
        ops.push(Op::Settings(settings));
    }
    ops.extend(placement.obsolete.iter().copied().map(free_way));
    // Of ids that two services had until now.
    let both = (placement.obsolete.iter()).map(|way| way.value.id);
    ops.extend(forget(
        both.filter(|id| placement.new.contains(id)).collect(),
    ));
    ops.extend(limits.remove);
    ops.extend(forwards.remove);
    ops.extend(server_ids.remove);
    ops.extend(prefixes.remove);
    ops.extend(members.retire);
    ops.push(Op::Generation(actual.generation + 1));
    ops.push(Op::Phase(phase::READY));
    Ok(Plan {
        ops,
        members_end,
        balancers: members.balancers,
        ids: members.ids,
        file_limits: limits.file,
        notices,
    })
}

fn free_way(placed: PlacedWay) -> Op {
    Op::Way(PlacedWay {
        value: ServiceWay::default(),
        ..placed
    })
}

/// Whether a member that nobody is on any more, and that was dropped from the configuration at
/// `retired` (0: it was not), may give up its slot.
pub(super) const fn is_settled(retired: u64, now: u64) -> bool {
    retired != 0 && now.saturating_sub(retired) >= GRACE_NS
}

/// Whether even flows that are still there keep no member that was dropped at `retired`.
pub(super) const fn is_forgotten(retired: u64, now: u64) -> bool {
    const DAY_NS: u64 = 86_400_000_000_000;
    now.saturating_sub(retired) >= DAY_NS
}

/// Steps of the limits.
struct Limits {
    /// Counters and windows of ids that now mean another service.
    clear: Vec<Op>,
    write: Vec<Op>,
    /// Rows of services that are gone.
    remove: Vec<Op>,
    /// Ids of services that have a limit.
    limited: HashSet<u16>,
    host_limited: bool,
    file: FileLimits,
}

fn limits(actual: &Actual, image: &Image, placement: &Placement, how: &How<'_>) -> Limits {
    let mut out = Limits {
        clear: Vec::new(),
        write: Vec::new(),
        remove: Vec::new(),
        limited: HashSet::new(),
        host_limited: false,
        file: BTreeMap::new(),
    };
    let rows = (placement.ids.iter())
        .map(|(key, id)| {
            let service = image.services.get(key);
            (Some(*key), *id, service.map(|service| &service.limits))
        })
        .chain([(None, 0, Some(&image.host_limits))]);
    for (key, id, file) in rows {
        let file = file.copied().unwrap_or_default();
        out.file.insert(key, file);
        let is = actual
            .limits
            .get(usize::from(id))
            .copied()
            .unwrap_or_default();
        let fresh = placement.new.contains(&id);
        if fresh {
            out.clear.push(Op::ClearTraffic { service: id });
        }
        let target = if fresh || how.persist == Persist::Fresh {
            file
        } else {
            merge(&is, &file, how.file_limits.get(&key))
        };
        if has_limit(&target) {
            if id == 0 {
                out.host_limited = true;
            } else {
                out.limited.insert(id);
            }
        }
        if target != is {
            out.write.push(Op::Limits {
                service: id,
                limits: Box::new(target),
            });
        }
    }
    let used: HashSet<u16> = placement.ids.values().copied().collect();
    for (id, row) in actual.limits.iter().enumerate().skip(1) {
        let id = id as u16;
        if !used.contains(&id) && *row != ServiceLimits::default() {
            out.remove.push(Op::Limits {
                service: id,
                limits: Box::default(),
            });
        }
    }
    out
}

/// Whether any kind is limited.
pub(super) fn has_limit(limits: &ServiceLimits) -> bool {
    (limits.source.iter().chain(&limits.service)).any(|limit| limit.packets != 0)
}

/// A limit set at run time stays while the file says what it said.
fn merge(
    is: &ServiceLimits,
    file: &ServiceLimits,
    file_before: Option<&ServiceLimits>,
) -> ServiceLimits {
    let mut merged = *file;
    for kind in 0..LimitKind::COUNT {
        let same_source = file_before.is_none_or(|b| b.source[kind] == file.source[kind]);
        if is.source[kind].origin == limit::origin::COMMAND && same_source {
            merged.source[kind] = is.source[kind];
        }
        let same_service = file_before.is_none_or(|b| b.service[kind] == file.service[kind]);
        if is.service[kind].origin == limit::origin::COMMAND && same_service {
            merged.service[kind] = is.service[kind];
        }
    }
    merged
}

/// Steps of the lists.
struct Prefixes {
    add: Vec<Op>,
    remove: Vec<Op>,
    /// What is there afterwards.
    left: BTreeMap<PrefixKey, PrefixEntry>,
}

/// The file's entries come and go with the file; an operator's stay until they are deleted or have
/// run out.
fn prefixes(actual: &Actual, image: &Image, now: u64) -> Result<Prefixes, DataplaneError> {
    let mut out = Prefixes {
        add: Vec::new(),
        remove: Vec::new(),
        left: BTreeMap::new(),
    };
    let mut count: BTreeMap<&'static str, usize> = BTreeMap::new();
    for key in actual.prefixes.keys() {
        *count.entry(key.map()).or_default() += 1;
    }
    for key in &image.prefixes {
        let old = actual.prefixes.get(key).copied();
        let entry = key.of_file();
        if old.is_none() {
            *count.entry(key.map()).or_default() += 1;
        }
        if old != Some(entry) {
            out.add.push(Op::Prefix {
                key: *key,
                entry: Some(entry),
                old,
            });
        }
        out.left.insert(*key, entry);
    }
    for (map, count) in count {
        check_trie(map, count)?;
    }
    for (key, entry) in &actual.prefixes {
        if out.left.contains_key(key) {
            continue;
        }
        let over = entry.expires != 0 && entry.expires <= now;
        if entry.origin == origin::COMMAND && !over {
            out.left.insert(*key, *entry);
        } else {
            out.remove.push(Op::Prefix {
                key: *key,
                entry: None,
                old: Some(*entry),
            });
        }
    }
    Ok(out)
}

/// Whether a trie holds `count` prefixes.
pub(super) fn check_trie(map: &'static str, count: usize) -> Result<(), DataplaneError> {
    let capacity = match map {
        "DECAP4" | "DECAP6" => MAX_DECAP as usize,
        _ => MAX_PREFIXES as usize,
    };
    if count > capacity {
        return Err(DataplaneError::Capacity {
            what: map,
            wanted: count,
            free: capacity,
            capacity,
            hint: " (prefixes); aggregate the list",
        });
    }
    Ok(())
}

/// Gates of the lists, by what the lists hold.
pub(super) fn list_gates<'a>(keys: impl Iterator<Item = &'a PrefixKey>) -> u64 {
    keys.map(|key| match key.map() {
        "DENY4" => gate::DENY4,
        "DENY6" => gate::DENY6,
        "ALLOW4" => gate::ALLOW4,
        "ALLOW6" => gate::ALLOW6,
        _ => gate::DECAP,
    })
    .fold(0, |gates, gate| gates | gate)
}

/// Bits of `gates` that follow from what the maps hold; the others are the operator's.
pub(super) const DERIVED_GATES: u64 = gate::DENY4
    | gate::DENY6
    | gate::ALLOW4
    | gate::ALLOW6
    | gate::LIMITS
    | gate::ICMP_LIMITS
    | gate::STEER
    | gate::RANGES
    | gate::DECAP
    | gate::FLOWS
    | gate::CAPTURE;

fn settings(
    actual: &Actual,
    persist: Persist,
    placement: &Placement,
    limits: &Limits,
    prefixes: &BTreeMap<PrefixKey, PrefixEntry>,
) -> Settings {
    let never = actual.phase == phase::EMPTY && actual.settings == Settings::default();
    let (run_time, log_every) = if never || persist == Persist::Fresh {
        (gate::GUARD, 1)
    } else {
        (
            actual.settings.gates & !DERIVED_GATES,
            actual.settings.log_every.max(1),
        )
    };
    let mut gates = run_time | list_gates(prefixes.keys());
    if !limits.limited.is_empty() {
        gates |= gate::LIMITS;
    }
    if limits.host_limited {
        gates |= gate::ICMP_LIMITS;
    }
    Settings {
        gates,
        service_seed: placement.seed,
        log_every,
        flow_seed: actual.settings.flow_seed,
        ..Settings::default()
    }
}
