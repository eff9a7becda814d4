//! Rings on a memory store: when they are written, and with whom.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::{
    config::spec::{FlowHash, Forward, Place, Steer, Transport},
    dataplane::{
        desired::{
            Facts,
            tests::{balancer, desired, member},
        },
        diff::{FileLimits, How, Persist, diff},
    },
};

const SECOND: u64 = 1_000_000_000;

/// A store with two balancers, the first of them steered to.
struct Rig {
    store: Store,
    steering: Steering,
    ids: Vec<Vec<MemberId>>,
    ring: u16,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        let mut wanted = desired(vec![
            balancer(
                "app",
                ["http://a", "http://b", "http://c"].map(member).to_vec(),
            ),
            balancer("api", vec![member("http://x")]),
        ]);
        let mut spec = (*wanted.spec).clone();
        spec.sluice.steers = vec![Steer {
            transport: Transport::Tcp,
            address: Some([192, 0, 2, 100].into()),
            first_port: 80,
            last_port: 80,
            balancer: 0,
            forward: Forward::IpIp,
            hash: FlowHash::FiveTuple,
            reset_on_empty: false,
            at: Place::default(),
        }];
        wanted.spec = Arc::new(spec);
        let mut store = Store::anonymous().expect("memory");
        let image = wanted.image(&Facts::default()).expect("image");
        let mut how = How {
            persist: Persist::Adopt,
            now: 1,
            draw: &mut || 7,
            file_limits: &FileLimits::new(),
        };
        let plan = diff(&store.actual().expect("memory"), &image, &mut how).expect("it fits");
        store.apply_all(&plan.ops).expect("memory");
        let mut flat = plan.ids.iter().copied();
        let ids: Vec<Vec<MemberId>> = [3, 1].map(|n| flat.by_ref().take(n).collect()).to_vec();
        let mut steering = Steering::new().turned_to(&wanted, &ids, &plan.balancers, &store);
        steering.refresh(&mut store, SECOND).expect("memory");
        steering.remove_others(&mut store).expect("memory");
        Self {
            ring: plan.balancers[&0],
            store,
            steering,
            ids,
            now: SECOND,
        }
    }

    fn cell(&self, member: usize) -> &MemberCell {
        self.store.table.cell(self.ids[0][member]).expect("slot")
    }

    fn refresh(&mut self) -> usize {
        let done = self.steering.refresh(&mut self.store, self.now);
        done.expect("memory").len()
    }

    /// Parts of the ring in percent, by member: a, b, c.
    fn percent(&self) -> Vec<u32> {
        let slots = self
            .store
            .rest
            .ring(self.ring)
            .expect("memory")
            .expect("a ring");
        let counts: BTreeMap<u16, u32> = ring::count(&slots);
        (self.ids[0].iter())
            .map(|id| counts.get(&(id.0 as u16)).copied().unwrap_or(0) * 1000 / 65537)
            .map(|per_mille| (per_mille + 5) / 10)
            .collect()
    }
}

#[test]
fn ring_is_written_when_a_state_or_weight_changes_and_only_then() {
    let mut rig = Rig::new();
    assert_eq!(rig.percent(), [33, 33, 33]);
    assert_eq!(rig.refresh(), 0);
    rig.cell(0).set_state(MemberState::DRAIN);
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [0, 50, 50]);
    // A second flag that changes nobody's part writes nothing.
    rig.cell(0).set_state(MemberState::DISABLED);
    assert_eq!(rig.refresh(), 0);
    rig.cell(0)
        .clear_state(MemberState::DRAIN | MemberState::DISABLED);
    rig.cell(0).weight.store(200, Relaxed);
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [50, 25, 25]);
    rig.cell(0).set_lbset(1);
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [0, 50, 50]);
}

#[test]
fn only_steered_balancers_have_rings() {
    let mut rig = Rig::new();
    let rings: Vec<u16> = (1..MAX_RINGS as u16)
        .filter(|ring| rig.store.rest.ring(*ring).expect("memory").is_some())
        .collect();
    assert_eq!(rings, [rig.ring]);
    rig.steering.balancers.clear();
    rig.steering.remove_others(&mut rig.store).expect("memory");
    assert!(rig.store.rest.ring(rig.ring).expect("memory").is_none());
}

#[test]
fn last_ring_is_kept_when_every_member_is_in_error() {
    let mut rig = Rig::new();
    for member in [0, 1] {
        rig.cell(member).error_since.store(rig.now, Relaxed);
        rig.cell(member).set_state(MemberState::ERROR);
    }
    rig.refresh();
    assert_eq!(rig.percent(), [0, 0, 100]);
    rig.cell(2).error_since.store(rig.now, Relaxed);
    rig.cell(2).set_state(MemberState::ERROR);
    assert_eq!(rig.refresh(), 0);
    assert_eq!(rig.percent(), [0, 0, 100]);
    // A process that finds the ring keeps it too.
    rig.steering.published.clear();
    assert_eq!(rig.refresh(), 0);
    // Without one all are used.
    rig.store.rest.set_ring(rig.ring, None).expect("memory");
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [33, 33, 33]);
}

#[test]
fn new_flows_wait_until_a_request_succeeded_on_a_member_tried_again() {
    let mut rig = Rig::new();
    rig.cell(0).error_since.store(rig.now, Relaxed);
    rig.cell(0).set_state(MemberState::ERROR);
    rig.refresh();
    assert_eq!(rig.percent(), [0, 50, 50]);
    // A request tries it.
    rig.cell(0).retries.store(1, Relaxed);
    rig.cell(0).clear_state(MemberState::ERROR);
    assert_eq!(rig.refresh(), 0);
    // It connects.
    rig.cell(0).retries.store(0, Relaxed);
    rig.cell(0).error_since.store(0, Relaxed);
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [33, 33, 33]);
}

#[test]
fn operators_word_and_a_while_without_requests_end_the_waiting() {
    let mut rig = Rig::new();
    let fail = |rig: &Rig| {
        rig.cell(0).error_since.store(rig.now, Relaxed);
        rig.cell(0).set_state(MemberState::ERROR);
    };
    fail(&rig);
    rig.refresh();
    rig.cell(0).clear_state(MemberState::ERROR);
    rig.steering.forgive(rig.ids[0][0]);
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [33, 33, 33]);

    fail(&rig);
    rig.refresh();
    rig.cell(0).clear_state(MemberState::ERROR);
    assert_eq!(rig.refresh(), 0);
    rig.now += 4 * SECOND;
    assert_eq!(rig.refresh(), 1);

    // In error, and nobody came to try it: twice `retry` of 60 s.
    fail(&rig);
    rig.refresh();
    rig.now += 100 * SECOND;
    assert_eq!(rig.refresh(), 0);
    rig.now += 21 * SECOND;
    assert_eq!(rig.refresh(), 1);
    assert_eq!(rig.percent(), [33, 33, 33]);
}

#[test]
fn ring_put_back_is_the_one_before() {
    let mut rig = Rig::new();
    let before = rig.steering.clone();
    rig.cell(1).set_state(MemberState::STOPPED);
    rig.refresh();
    assert_eq!(rig.percent(), [50, 0, 50]);
    before.restore(&mut rig.store, &rig.steering);
    assert_eq!(rig.percent(), [33, 33, 33]);
}
