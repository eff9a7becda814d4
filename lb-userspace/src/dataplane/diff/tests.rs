//! Publishing on memory stores: the same steps that the kernel's maps see.

use std::{collections::BTreeMap, net::SocketAddr, sync::atomic::Ordering::Relaxed};

use lb_common::{abi::MAX_MEMBERS, member::MemberState};
use proptest::prelude::*;

use super::{
    members::{begin, free_slots, record_of},
    *,
};
use crate::{
    config::spec::{GuardLimit, Listener, Per, Place, Prefix, Spec},
    dataplane::{
        desired::{
            Desired, Facts,
            tests::{balancer, desired, member},
        },
        prefix::List,
        store::Store,
    },
};

mod reuse;

/// A store with what its owner remembers between publishes.
struct Rig {
    store: Store,
    file_limits: FileLimits,
    persist: Persist,
    now: u64,
    seed: u64,
}

impl Rig {
    fn new() -> Self {
        Self {
            store: Store::anonymous().expect("memory"),
            file_limits: FileLimits::new(),
            persist: Persist::Adopt,
            now: 1_000,
            seed: 7,
        }
    }

    fn plan(&mut self, desired: &Desired) -> Result<Plan, DataplaneError> {
        let actual = self.store.actual().expect("memory");
        let mut seed = self.seed;
        let mut how = How {
            persist: self.persist,
            now: self.now,
            draw: &mut || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.max(1)
            },
            file_limits: &self.file_limits,
        };
        let plan = diff(&actual, &desired.image(&Facts::default())?, &mut how);
        self.seed = seed;
        plan
    }

    fn publish(&mut self, desired: &Desired) -> Vec<MemberId> {
        let plan = self.plan(desired).expect("it fits");
        self.store.apply_all(&plan.ops).expect("memory");
        self.file_limits = plan.file_limits;
        self.persist = Persist::Adopt;
        self.now += 1;
        plan.ids
    }

    /// What another process finds after this one died.
    fn reopen(&mut self) {
        self.file_limits = FileLimits::new();
        self.persist = Persist::after(self.store.meta().phase.load(Relaxed));
    }

    fn slot(&self, id: MemberId) -> MemberSlot {
        self.store.table.cell(id).expect("id").load()
    }

    /// Whether the maps hold what is wanted, all of it and no more.
    fn check(&self, desired: &Desired, ids: &[MemberId]) -> Result<(), TestCaseError> {
        let image = desired.image(&Facts::default()).expect("image");
        let actual = self.store.actual().expect("memory");
        prop_assert_eq!(actual.phase, phase::READY);
        for (wanted, id) in image.members.iter().zip(ids) {
            let is = &actual.members[id.0 as usize];
            prop_assert_eq!(is.slot.head.identity, wanted.identity);
            prop_assert_eq!(is.name, wanted.name);
            prop_assert_eq!(is.slot.head.port, wanted.address.port().to_be_bytes());
            prop_assert_eq!(is.slot.record, record_of(wanted));
            prop_assert!(is.slot.head.balancer > 0);
        }
        let distinct: HashSet<_> = ids.iter().collect();
        prop_assert_eq!(distinct.len(), ids.len());
        let in_use = actual.members.iter().skip(1);
        let in_use = in_use.filter(|m| m.slot.head.identity[0] != 0 && m.slot.record.retired == 0);
        prop_assert_eq!(in_use.count(), ids.len());
        for (a, b) in image.members.iter().zip(ids) {
            for (c, d) in image.members.iter().zip(ids) {
                let same = self.slot(*b).head.balancer == self.slot(*d).head.balancer;
                prop_assert_eq!(same, a.balancer == c.balancer);
            }
        }

        let mut services = BTreeMap::new();
        for placed in &actual.ways {
            let key = place::key_of(&placed.value);
            let seed = actual.settings.service_seed;
            let set =
                lb_common::service::service_set(key.address, placed.value.port, key.proto, seed);
            prop_assert_eq!(set, placed.set);
            let limits = actual.limits[usize::from(placed.value.id)];
            prop_assert_eq!(
                placed.value.flags & lb_common::service::flag::LIMITED != 0,
                has_limit(&limits)
            );
            prop_assert!(
                services.insert(key, limits).is_none(),
                "a service lies twice"
            );
        }
        let wanted: BTreeMap<_, _> = (image.services.iter())
            .map(|(key, service)| (*key, service.limits))
            .collect();
        prop_assert_eq!(&services, &wanted);
        let ids: HashSet<u16> = actual.ways.iter().map(|w| w.value.id).collect();
        prop_assert_eq!(ids.len(), services.len());

        let by_file = actual
            .prefixes
            .iter()
            .filter(|(_, e)| e.origin == origin::FILE);
        let by_file: Vec<_> = by_file.map(|(key, _)| *key).collect();
        prop_assert_eq!(&by_file, &image.prefixes);
        let gates = actual.settings.gates;
        prop_assert_eq!(gates & gate::GUARD, gate::GUARD);
        prop_assert_eq!(
            gates & DERIVED_GATES & !gate::LIMITS & !gate::ICMP_LIMITS,
            { list_gates(actual.prefixes.keys()) }
        );
        let limited = services.values().any(has_limit);
        prop_assert_eq!(gates & gate::LIMITS != 0, limited);
        Ok(())
    }
}

fn spec() -> impl Strategy<Value = Desired> {
    let member = (
        0..6u8,
        1..4u32,
        0..3u8,
        prop_oneof![Just(0), Just(MemberState::DRAIN)],
    );
    let members = prop::collection::btree_map(0..6u8, member, 0..5);
    let balancers = prop::collection::vec((0..3u8, members), 0..3);
    let listeners = prop::collection::btree_set((0..3u8, 80..90u16), 0..8);
    let limits = prop::collection::vec((0..3u8, 1..1000u32), 0..3);
    let deny = prop::collection::vec((any::<u8>(), any::<bool>()), 0..4);
    (balancers, listeners, limits, deny, any::<u16>()).prop_map(
        |(balancers, listeners, limits, deny, base)| {
            let spec = Spec {
                balancers: (balancers.into_iter())
                    .map(|(name, members)| {
                        let members =
                            members
                                .into_iter()
                                .map(|(url, (route, weight, lbset, status))| {
                                    let mut member = member_named(url);
                                    member.route = format!("r{route}");
                                    member.lbfactor = weight * 100;
                                    member.lbset = lbset;
                                    member.status = status;
                                    member
                                });
                        balancer(&format!("b{name}"), members.collect())
                    })
                    .collect(),
                listeners: (listeners.into_iter())
                    .map(|(ip, port)| listener(ip, port))
                    .collect(),
                ..Spec::default()
            };
            let mut spec = spec;
            spec.sluice.limits = (limits.into_iter())
                .map(|(kind, rate)| limit(kind, rate))
                .collect();
            spec.sluice.deny = deny
                .into_iter()
                .map(|(byte, six)| prefix(byte, six))
                .collect();
            let addresses = (spec.balancers.iter())
                .map(|b| {
                    (0..b.members.len())
                        .map(|m| SocketAddr::from(([127, 0, 0, 1], base.wrapping_add(m as u16))))
                        .collect()
                })
                .collect();
            Desired::of(std::sync::Arc::new(spec), addresses).expect("addresses")
        },
    )
}

fn member_named(url: u8) -> crate::config::spec::Member {
    member(&format!("http://m{url}"))
}

fn listener(ip: u8, port: u16) -> Listener {
    let ip: [u8; 4] = if ip == 0 { [0; 4] } else { [192, 0, 2, ip] };
    Listener {
        address: SocketAddr::from((ip, port)),
        dual: false,
        deferred: false,
        at: Place::default(),
    }
}

fn limit(kind: u8, rate: u32) -> GuardLimit {
    GuardLimit {
        kind,
        rate,
        burst: rate,
        per: Per::Service,
        action: 0,
        addresses: None,
        at: Place::default(),
    }
}

fn prefix(byte: u8, six: bool) -> Prefix {
    if six {
        Prefix {
            network: std::net::Ipv6Addr::new(0x2001, 0xdb8, u16::from(byte), 0, 0, 0, 0, 0).into(),
            len: 48,
        }
    } else {
        Prefix {
            network: [198, 51, byte, 0].into(),
            len: 24,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_difference_gives_what_is_wanted(specs in prop::collection::vec(spec(), 1..5)) {
        let mut rig = Rig::new();
        for desired in &specs {
            let ids = rig.publish(desired);
            rig.check(desired, &ids)?;
            // Nothing is left to do but to count up.
            let again = rig.plan(desired).expect("it fits");
            prop_assert_eq!(again.ops.len(), 3, "{:?}", again.ops);
        }
    }

    #[test]
    fn a_publish_cut_anywhere_is_repaired_by_the_next(first in spec(), second in spec(), cut in any::<prop::sample::Index>()) {
        let mut rig = Rig::new();
        rig.publish(&first);
        let plan = rig.plan(&second).expect("it fits");
        for op in &plan.ops[..cut.index(plan.ops.len())] {
            rig.store.apply(op).expect("memory");
        }
        rig.reopen();
        let ids = rig.publish(&second);
        rig.check(&second, &ids)?;
    }

    #[test]
    fn undoing_every_step_gives_back_what_was(first in spec(), second in spec(), cut in any::<prop::sample::Index>()) {
        let mut rig = Rig::new();
        rig.publish(&first);
        let before = rig.store.actual().expect("memory");
        let plan = rig.plan(&second).expect("it fits");
        let mut undo = Vec::new();
        for op in &plan.ops[..cut.index(plan.ops.len())] {
            undo.extend(rig.store.apply(op).expect("memory"));
        }
        for op in undo.iter().rev() {
            rig.store.apply(op).expect("memory");
        }
        let after = rig.store.actual().expect("memory");
        prop_assert_eq!(before.phase, after.phase);
        prop_assert_eq!(before.generation, after.generation);
        prop_assert_eq!(&before.limits, &after.limits);
        prop_assert_eq!(before.settings, after.settings);
        prop_assert_eq!(&before.prefixes, &after.prefixes);
        let ways = |actual: &Actual| -> Vec<_> {
            actual.ways.iter().map(|w| (w.set, w.value.id, place::key_of(&w.value), w.value.flags)).collect()
        };
        prop_assert_eq!(ways(&before), ways(&after));
        for (a, b) in before.members.iter().zip(&after.members) {
            prop_assert_eq!(a.slot.head.identity, b.slot.head.identity);
            prop_assert_eq!(a.slot.head.incarnation, b.slot.head.incarnation);
            prop_assert_eq!(a.slot.head.state, b.slot.head.state);
            prop_assert_eq!(a.slot.head.weight, b.slot.head.weight);
            prop_assert_eq!(a.slot.record, b.slot.record);
            prop_assert_eq!(a.name, b.name);
        }
    }
}

/// One balancer `app` of these members.
fn app(urls: &[&str]) -> Desired {
    desired(vec![balancer(
        "app",
        urls.iter().map(|u| member(u)).collect(),
    )])
}

#[test]
fn drains_and_counters_follow_their_member_through_reordering_and_renaming() {
    let mut rig = Rig::new();
    let ids = rig.publish(&app(&["http://a", "http://b", "http://c"]));
    let cell = rig.store.table.cell(ids[1]).expect("b");
    cell.set_state(MemberState::DRAIN);
    cell.elected.store(42, Relaxed);
    cell.lbstatus.store(-7, Relaxed);

    let moved = rig.publish(&app(&["http://c", "http://new", "http://b"]));
    assert_eq!(moved[2], ids[1]);
    let b = rig.slot(moved[2]);
    assert_eq!(b.head.state, MemberState::DRAIN);
    assert_eq!((b.election.elected, b.election.lbstatus), (42, -7));
    let new = rig.slot(moved[1]);
    assert_eq!((new.head.state, new.election.elected), (0, 0));
    assert!(
        !ids.contains(&moved[1]),
        "the slot of a is not taken up yet"
    );

    // Renaming the balancer makes every member another one.
    let renamed = rig.publish(&desired(vec![balancer("shop", vec![member("http://b")])]));
    let b = rig.slot(renamed[0]);
    assert_eq!((b.head.state, b.election.elected), (0, 0));
    assert_ne!(renamed[0], ids[1]);
}

#[test]
fn the_files_own_change_wins_over_the_operators() {
    let with = |status, weight, lbset| {
        let mut only = member("http://a");
        only.status = status;
        only.lbfactor = weight;
        only.lbset = lbset;
        desired(vec![balancer("app", vec![only])])
    };
    let mut rig = Rig::new();
    let id = rig.publish(&with(0, 100, 0))[0];
    let cell = rig.store.table.cell(id).expect("a");
    cell.set_state(MemberState::DRAIN | MemberState::ERROR);
    cell.weight.store(500, Relaxed);
    cell.set_lbset(3);

    rig.publish(&with(0, 100, 0));
    let head = rig.slot(id).head;
    assert_eq!((head.weight, head.lbset), (500, 3));
    assert_eq!(head.state, MemberState::DRAIN | MemberState::ERROR);

    rig.publish(&with(MemberState::STANDBY, 200, 1));
    let head = rig.slot(id).head;
    assert_eq!((head.weight, head.lbset), (200, 1));
    // E is the shards': the file did not speak of it.
    assert_eq!(head.state, MemberState::STANDBY | MemberState::ERROR);

    // The next process knows what the file said, too.
    rig.store
        .table
        .cell(id)
        .expect("a")
        .set_state(MemberState::DISABLED);
    rig.reopen();
    rig.publish(&with(MemberState::STANDBY, 300, 1));
    let head = rig.slot(id).head;
    assert!(MemberState(head.state).has(MemberState::DISABLED));
    assert_eq!(head.weight, 300);
}

#[test]
fn after_a_clean_stop_the_file_wins_and_counting_begins_anew() {
    let mut rig = Rig::new();
    let one = app(&["http://a"]);
    let id = rig.publish(&one)[0];
    let cell = rig.store.table.cell(id).expect("a");
    cell.set_state(MemberState::DRAIN | MemberState::ERROR);
    cell.elected.store(9, Relaxed);
    let incarnation = rig.slot(id).head.incarnation;
    rig.store.meta().phase.store(phase::STOPPED, Relaxed);
    rig.reopen();
    // Even when the start that should have done it died in the middle.
    let plan = rig.plan(&one).expect("it fits");
    rig.store.apply(&plan.ops[0]).expect("memory");
    rig.reopen();
    assert_eq!(rig.publish(&one)[0], id);
    let slot = rig.slot(id);
    assert_eq!((slot.head.state, slot.election.elected), (0, 0));
    assert_eq!(slot.head.incarnation, incarnation);
}

#[test]
fn a_removed_member_keeps_its_slot_while_a_request_is_on_it() {
    let mut rig = Rig::new();
    let ids = rig.publish(&app(&["http://a", "http://b"]));
    let busy = rig.store.table.busy(0, ids[0]).expect("cell");
    busy.store(1, Relaxed);
    rig.publish(&app(&["http://b"]));
    let grace = rig.now + GRACE_NS;
    rig.store.free_settled(grace);
    assert_ne!(rig.slot(ids[0]).head.identity[0], 0, "a request is on it");
    let busy = rig.store.table.busy(0, ids[0]).expect("cell");
    busy.store(0, Relaxed);
    rig.store.free_settled(rig.now);
    assert_ne!(
        rig.slot(ids[0]).head.identity[0],
        0,
        "the grace is not over"
    );
    rig.store.free_settled(grace);
    let freed = rig.slot(ids[0]).head;
    assert_eq!(freed.identity[0], 0);
    assert!(!MemberState(freed.state).is_usable());
    assert_ne!(rig.slot(ids[1]).head.identity[0], 0);
}

#[test]
fn a_member_that_comes_back_in_time_is_the_same_one() {
    let mut rig = Rig::new();
    let ids = rig.publish(&app(&["http://a", "http://b"]));
    rig.store
        .table
        .cell(ids[0])
        .expect("a")
        .elected
        .store(5, Relaxed);
    rig.publish(&app(&["http://b"]));
    let back = rig.publish(&app(&["http://a", "http://b"]));
    assert_eq!(back, ids);
    let slot = rig.slot(ids[0]);
    assert_eq!((slot.election.elected, slot.record.retired), (5, 0));
}

#[test]
fn a_slot_is_taken_up_again_when_no_unused_one_is_left_oldest_first() {
    let mut rig = Rig::new();
    let actual = rig.store.actual().expect("memory");
    let mut full = actual.clone();
    for (id, member) in full.members.iter_mut().enumerate().skip(1) {
        member.slot.head.identity = [id as u64, 0];
        member.slot.head.incarnation = 1;
    }
    let free = |full: &mut Actual, id: usize, at: u64, busy: u64| {
        full.members[id].slot.head.identity = [0; 2];
        full.members[id].slot.record.retired = at;
        full.members[id].busy = busy;
    };
    free(&mut full, 10, 300, 0);
    free(&mut full, 20, 100, 1);
    free(&mut full, 30, 200, 0);
    assert_eq!(
        free_slots(&full, 2).expect("two"),
        [MemberId(30), MemberId(10)]
    );
    let error = free_slots(&full, 3).expect_err("the third is busy");
    assert!(
        error.to_string().contains("3 are needed and 2 are free"),
        "{error}"
    );
    full.members[40].slot = MemberSlot::default();
    assert_eq!(free_slots(&full, 1).expect("one"), [MemberId(40)]);

    // And the life that begins there is another one.
    let old = full.members[30].slot;
    let image = app(&["http://x"]).image(&Facts::default()).expect("image");
    let slot = begin(&old, false, &image.members[0], 1);
    assert_eq!(slot.head.incarnation, 2);
    rig.now += 1;
}

#[test]
fn more_members_than_slots_is_refused_before_anything_is_written() {
    let mut rig = Rig::new();
    rig.publish(&app(&["http://a"]));
    let urls: Vec<String> = (0..MAX_MEMBERS).map(|n| format!("http://m{n}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let error = rig.plan(&app(&urls)).expect_err("4096 of 4095");
    assert!(matches!(error, DataplaneError::Capacity { .. }), "{error}");
    assert_eq!(rig.store.meta().phase.load(Relaxed), phase::READY);
}

/// Listeners on many ports of one address.
fn ports(count: u16) -> Desired {
    let spec = Spec {
        listeners: (0..count).map(|n| listener(0, 1000 + n)).collect(),
        ..Spec::default()
    };
    Desired::of(std::sync::Arc::new(spec), Vec::new()).expect("no members")
}

#[test]
fn the_table_holds_every_service_there_may_be() {
    let mut rig = Rig::new();
    for count in [1, 100, 300, 1023, 2, 1023] {
        let wanted = ports(count);
        let ids = rig.publish(&wanted);
        rig.check(&wanted, &ids).expect("placed");
    }
    let error = rig.plan(&ports(1024)).expect_err("one too many");
    assert!(error.to_string().contains("1024 are needed"), "{error}");
}

#[test]
fn a_service_that_stays_keeps_its_id_and_the_seed_stays_while_it_fits() {
    let mut rig = Rig::new();
    rig.publish(&ports(20));
    let before: BTreeMap<_, _> = (rig.store.ways().iter())
        .map(|w| (place::key_of(&w.value), w.value.id))
        .collect();
    let seed = rig.store.rest.settings().expect("memory").service_seed;
    rig.publish(&ports(40));
    for way in rig.store.ways() {
        if let Some(id) = before.get(&place::key_of(&way.value)) {
            assert_eq!(way.value.id, *id);
        }
    }
    assert_eq!(
        rig.store.rest.settings().expect("memory").service_seed,
        seed
    );
}

#[test]
fn a_limit_set_at_run_time_stays_until_the_file_changes_it() {
    let with = |rate| {
        let mut spec = Spec {
            listeners: vec![listener(0, 80)],
            ..Spec::default()
        };
        spec.sluice.limits = vec![limit(0, rate)];
        Desired::of(std::sync::Arc::new(spec), Vec::new()).expect("no members")
    };
    let mut rig = Rig::new();
    rig.publish(&with(10));
    let id = rig.store.ways()[0].value.id;
    let mut limits = rig.store.rest.limits(id).expect("memory");
    limits.service[0].rate = 77;
    limits.service[0].origin = limit::origin::COMMAND;
    rig.store.rest.set_limits(id, &limits).expect("memory");
    let rate = |rig: &Rig| rig.store.rest.limits(id).expect("memory").service[0].rate;
    rig.publish(&with(10));
    assert_eq!(rate(&rig), 77);
    rig.reopen();
    rig.publish(&with(10));
    assert_eq!(rate(&rig), 77, "a crash does not lose it");
    rig.publish(&with(20));
    assert_eq!(rate(&rig), 20);
}

#[test]
fn an_operators_deny_outlives_a_reload_and_the_files_does_not() {
    let with = |deny: &[Prefix]| {
        let mut spec = Spec::default();
        spec.sluice.deny = deny.to_vec();
        Desired::of(std::sync::Arc::new(spec), Vec::new()).expect("no members")
    };
    let mut rig = Rig::new();
    rig.publish(&with(&[prefix(1, false)]));
    let mine = PrefixKey::deny(prefix(2, false));
    let gone = PrefixKey::deny(prefix(3, true));
    let set = |rig: &mut Rig, key: PrefixKey, expires| {
        let entry = Some(key.entry(origin::COMMAND, expires));
        rig.store.rest.set_prefix(&key, entry).expect("memory");
    };
    set(&mut rig, mine, 0);
    let now = rig.now;
    set(&mut rig, gone, now);
    rig.publish(&with(&[]));
    let left = rig.store.rest.prefixes().expect("memory");
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [mine]);
    let gates = rig.store.rest.settings().expect("memory").gates;
    assert_eq!(gates & DERIVED_GATES, gate::DENY4);
    assert_eq!(mine.list, List::Deny);
}
