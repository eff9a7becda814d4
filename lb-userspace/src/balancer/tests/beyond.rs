//! Elections that httpd has not, and heartbeats, on whole balancers.

use std::{sync::Arc, thread};

use lb_common::member::MemberState;

use super::*;
use crate::balancer::{
    feedback::{Answer, key},
    heartbeat::{Beat, Heartbeats},
};

fn with(count: usize, change: impl FnOnce(&mut spec::Balancer)) -> Balancer {
    let mut spec = spec_of(members(&vec![100; count]));
    change(&mut spec);
    build(&spec)
}

fn asks(seed: u64, now_ns: u64) -> Ask<'static> {
    Ask {
        key: key(&seed.to_be_bytes()),
        seed: seed.wrapping_mul(0x1234_5678_9abc_def1),
        now_ns,
        session: None,
    }
}

fn shares(balancer: &Balancer, now_ns: u64, picks: u64) -> Vec<u64> {
    let mut counts = vec![0; balancer.members().len()];
    for seed in 0..picks {
        let elected = balancer.elect(&asks(seed, now_ns)).expect("somebody");
        counts[elected.member] += 1;
    }
    counts
}

fn answered(ms: u64, status: u16) -> Answer {
    Answer {
        took: Some(Duration::from_millis(ms)),
        status: Some(status),
    }
}

#[test]
fn the_slow_member_gets_little_and_has_its_share_again_in_time() {
    let balancer = with(3, |spec| spec.lbmethod = spec::LbMethod::LeastLatency);
    for member in 0..3 {
        let ms = if member == 1 { 300 } else { 10 };
        balancer.observe(member, answered(ms, 200), SECOND);
    }
    let counts = shares(&balancer, SECOND, 3000);
    assert_eq!(counts[1], 0, "both others are quicker: {counts:?}");
    assert!(counts[0] > 1200 && counts[2] > 1200, "{counts:?}");
    // Forgotten, and tried again.
    let counts = shares(&balancer, 100 * SECOND, 3000);
    assert!(counts[1] > 600, "{counts:?}");
}

#[test]
fn sets_standbys_and_drains_are_minded_by_every_method() {
    for method in [spec::LbMethod::LeastLatency, spec::LbMethod::Hash] {
        let balancer = with(5, |spec| {
            spec.lbmethod = method;
            spec.members[0].status = MemberState::DRAIN;
            spec.members[1].status = MemberState::STANDBY;
            spec.members[4].lbset = 1;
        });
        let counts = shares(&balancer, SECOND, 400);
        assert_eq!((counts[0], counts[1], counts[4]), (0, 0, 0), "{counts:?}");
        assert!(counts[2] > 0 && counts[3] > 0, "{counts:?}");
        for member in [2, 3] {
            balancer.cell(member).set_state(MemberState::DISABLED);
        }
        assert_eq!(shares(&balancer, SECOND, 50)[1], 50, "the standby");
        balancer.cell(1).set_state(MemberState::DISABLED);
        assert_eq!(shares(&balancer, SECOND, 50)[4], 50, "the next set");
    }
}

#[test]
fn a_key_keeps_its_member_whoever_else_fails() {
    let balancer = with(6, |spec| spec.lbmethod = spec::LbMethod::Hash);
    let place = |seed| {
        balancer
            .elect(&asks(seed, SECOND))
            .expect("somebody")
            .member
    };
    let before: Vec<usize> = (0..600).map(place).collect();
    balancer.cell(2).set_state(MemberState::HEALTH_FAILED);
    let after: Vec<usize> = (0..600).map(place).collect();
    assert!(before.iter().zip(&after).all(|(b, a)| *b == 2 || b == a));
    assert!(!after.contains(&2));
    balancer.cell(2).clear_state(MemberState::HEALTH_FAILED);
    assert_eq!(before, (0..600).map(place).collect::<Vec<_>>());
}

#[test]
fn a_weight_changed_while_it_runs_moves_the_ring() {
    let balancer = with(2, |spec| spec.lbmethod = spec::LbMethod::Hash);
    let even = shares(&balancer, SECOND, 2000);
    assert!((900..1100).contains(&even[0]), "{even:?}");
    balancer.cell(0).weight.store(900, Relaxed);
    let weighted = shares(&balancer, SECOND, 2000);
    assert!(weighted[0] > 1700, "{weighted:?}");
}

#[test]
fn one_lock_and_one_memory_serve_both_shards() {
    for method in [spec::LbMethod::LeastLatency, spec::LbMethod::Hash] {
        let balancer = with(4, |spec| spec.lbmethod = method);
        let alone = shares(&balancer, SECOND, 800);
        let halves: Vec<Vec<u64>> = thread::scope(|scope| {
            let shard = |from: u64| {
                let balancer = &balancer;
                scope.spawn(move || {
                    let mut counts = vec![0; 4];
                    for seed in from..from + 400 {
                        counts[balancer
                            .elect(&asks(seed, SECOND))
                            .expect("somebody")
                            .member] += 1;
                    }
                    counts
                })
            };
            let shards = [shard(0), shard(400)];
            shards.map(|shard| shard.join().expect("shard")).into()
        });
        let both: Vec<u64> = (0..4).map(|m| halves[0][m] + halves[1][m]).collect();
        assert_eq!(both, alone, "the same keys and seeds, the same members");
    }
}

#[test]
fn who_comes_back_is_ramped_up_under_every_method() {
    for method in [
        spec::LbMethod::ByRequests,
        spec::LbMethod::ByTraffic,
        spec::LbMethod::ByBusyness,
        spec::LbMethod::LeastLatency,
        spec::LbMethod::Hash,
    ] {
        let balancer = with(2, |spec| {
            spec.lbmethod = method;
            spec.members[1].ramp_up = Some(Duration::from_secs(100));
        });
        let whole = shares(&balancer, SECOND, 1000)[1];
        balancer.cell(1).set_state(MemberState::HEALTH_FAILED);
        assert_eq!(shares(&balancer, 2 * SECOND, 100)[1], 0);
        balancer.cell(1).clear_state(MemberState::HEALTH_FAILED);
        if method == spec::LbMethod::ByBusyness {
            // Something is in flight, else the idle one is taken whatever it is.
            balancer
                .table
                .busy(0, balancer.members[0].id)
                .expect("cell")
                .store(4, Relaxed);
        }
        let first = shares(&balancer, 3 * SECOND, 1000)[1];
        let later = shares(&balancer, 200 * SECOND, 1000)[1];
        let (few, many) = match method {
            // Nothing is answered here, so the counts are of choices, not of load.
            spec::LbMethod::ByBusyness => (0..=0, 1000..=1000),
            spec::LbMethod::ByTraffic => (0..=0, 0..=0),
            spec::LbMethod::LeastLatency => (0..=200, 300..=700),
            spec::LbMethod::Hash => (20..=100, 400..=600),
            _ => (50..=200, 400..=600),
        };
        assert!(few.contains(&first), "{method:?}: {whole} {first} {later}");
        assert!(many.contains(&later), "{method:?}: {whole} {first} {later}");
    }
}

#[test]
fn by_traffic_a_member_that_lags_is_not_flooded_while_it_ramps_up() {
    let balancer = with(2, |spec| {
        spec.lbmethod = spec::LbMethod::ByTraffic;
        spec.members[1].ramp_up = Some(Duration::from_secs(100));
    });
    balancer.cell(0).read.store(1 << 40, Relaxed);
    assert_eq!(shares(&balancer, SECOND, 100)[1], 100, "it lags");
    balancer.cell(1).set_state(MemberState::DISABLED);
    assert_eq!(shares(&balancer, SECOND, 1)[1], 0);
    balancer.cell(1).clear_state(MemberState::DISABLED);
    let first = shares(&balancer, SECOND, 1000)[1];
    assert!((50..200).contains(&first), "{first}");
}

#[test]
fn a_member_that_a_reload_adds_is_ramped_up_and_known_ones_are_not() {
    let mut spec = spec_of(members(&[100, 100]));
    for member in &mut spec.members {
        member.ramp_up = Some(Duration::from_secs(100));
    }
    let first = build(&spec);
    assert_eq!(sequence(&first, 4), "abab", "a start ramps nobody up");
    let mut more = spec.clone();
    let mut third = member(2, 100, 0);
    third.ramp_up = Some(Duration::from_secs(100));
    more.members.push(third);
    let table = Arc::clone(&first.table);
    table
        .cell(MemberId(3))
        .expect("slot")
        .weight
        .store(100, Relaxed);
    let ids = [MemberId(1), MemberId(2), MemberId(3)];
    let second = Balancer::new(&more, &ids, table, Some(&first)).expect("balancer");
    let counts = shares(&second, SECOND, 210);
    assert!(
        counts[2] <= 15 && counts[0] >= 95 && counts[1] >= 95,
        "{counts:?}"
    );
}

#[test]
fn members_that_fail_are_ejected_and_never_more_than_ejectmax() {
    let balancer = with(10, |spec| spec.beyond.eject_max = Some(30));
    let mut ejected = 0;
    for round in 0..20 {
        for member in 0..10 {
            ejected += usize::from(balancer.observe(member, answered(1, 500), SECOND + round));
        }
    }
    assert_eq!(ejected, 3);
    let out = |m: &usize| balancer.state(*m).has(MemberState::ERROR);
    assert_eq!((0..10).filter(out).count(), 3);
    // Others that are out for whatever reason count.
    let balancer = with(10, |spec| spec.beyond.eject_max = Some(30));
    for member in 0..3 {
        balancer.cell(member).set_state(MemberState::DRAIN);
    }
    assert!((0..50).all(|n| !balancer.observe(5, answered(1, 502), SECOND + n)));
}

#[test]
fn two_shards_eject_no_more_than_one_would() {
    let balancer = with(4, |spec| spec.beyond.eject_max = Some(25));
    thread::scope(|scope| {
        for shard in 0..2 {
            let balancer = &balancer;
            scope.spawn(move || {
                for n in 0..200 {
                    balancer.observe((n + shard) % 4, answered(1, 503), SECOND + n as u64);
                }
            });
        }
    });
    let out = |m: &usize| balancer.state(*m).has(MemberState::ERROR);
    assert_eq!((0..4).filter(out).count(), 1);
}

#[test]
fn who_is_ejected_comes_back_after_retry_and_is_judged_anew() {
    let balancer = with(2, |spec| spec.beyond.eject_max = Some(50));
    for _ in 0..5 {
        balancer.observe(0, answered(1, 500), SECOND);
    }
    assert_eq!(sequence(&balancer, 4), "bbbb");
    let counts = shares(&balancer, 62 * SECOND, 10);
    assert_eq!(counts, [5, 5]);
    assert!(!balancer.observe(0, answered(1, 500), 63 * SECOND));
}

#[test]
fn nothing_is_ejected_and_no_retry_refused_unless_asked_for() {
    let balancer = with(2, |_| {});
    assert!(!balancer.is_observing());
    assert!((0..100).all(|n| !balancer.observe(0, answered(1, 500), n)));
    assert!((0..100).all(|n| balancer.may_retry(n)));
}

#[test]
fn a_retry_budget_outlives_a_reload() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.beyond.retry_budget = Some(20);
    let first = build(&spec);
    assert_eq!((0..50).filter(|_| first.may_retry(SECOND)).count(), 10);
    let ids = [MemberId(1), MemberId(2)];
    let next =
        Balancer::new(&spec, &ids, Arc::clone(&first.table), Some(&first)).expect("balancer");
    assert!(!next.may_retry(SECOND));
    for _ in 0..100 {
        next.begin_request(SECOND);
    }
    assert_eq!(
        (0..50).filter(|_| next.may_retry(SECOND)).count(),
        10,
        "20 of 100"
    );
}

/// A balancer of three members, of which the first two were heard of at one second.
fn hearing() -> Balancer {
    let balancer = with(3, |spec| spec.lbmethod = spec::LbMethod::Heartbeat);
    for member in 0..3 {
        let cell = balancer.cell(member);
        cell.set_address([192, 0, 2, member as u8].into(), 80);
        cell.identity[0].store(1 + member as u64, Relaxed);
    }
    let beats = Arc::new(Heartbeats::new(Arc::clone(&balancer.table), SECOND));
    balancer.hearing(&beats)
}

fn hear(balancer: &Balancer, member: u8, busy: u32, ready: u32, now_ns: u64) {
    let beats = balancer.heartbeats.as_ref().expect("heartbeats");
    assert!(beats.hear([192, 0, 2, member].into(), Beat { busy, ready }, 0, now_ns));
}

#[test]
fn requests_follow_what_members_say_of_themselves() {
    let balancer = hearing();
    hear(&balancer, 0, 5, 30, SECOND);
    hear(&balancer, 1, 5, 10, SECOND);
    let counts = shares(&balancer, 2 * SECOND, 4000);
    assert_eq!(counts[2], 0, "not heard of");
    assert!((2850..3150).contains(&counts[0]), "{counts:?}");
    balancer.cell(0).set_state(MemberState::DRAIN);
    assert_eq!(shares(&balancer, 2 * SECOND, 100)[1], 100);
    balancer.cell(1).set_state(MemberState::DISABLED);
    assert!(balancer.elect(&asks(1, 2 * SECOND)).is_err());
}

#[test]
fn silence_ends_requests_but_for_the_first_seconds_of_a_process() {
    let balancer = hearing();
    assert_eq!(shares(&balancer, 2 * SECOND, 30), [10, 10, 10]);
    assert!(balancer.elect(&asks(1, 11 * SECOND)).is_err());
    hear(&balancer, 2, 1, 1, 12 * SECOND);
    assert_eq!(shares(&balancer, 13 * SECOND, 30)[2], 30);
    assert!(balancer.elect(&asks(1, 22 * SECOND)).is_err());
}
