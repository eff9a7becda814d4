//! Elections against the sequences observed on httpd 2.4.71 (apache.md section 5), and properties.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use lb_common::member::{MemberId, MemberState};
use proptest::prelude::*;

use super::{
    Ask, Balancer, Elected, Unelectable,
    failover::{Attempts, Cause, NoResponse, Outcome, Silence},
    sticky::Session,
};
use crate::{
    config::spec::{self, Scheme, Sticky},
    dataplane::table::MemberTable,
};

const SECOND: u64 = 1_000_000_000;

fn member(index: usize, weight: u32, flags: u64) -> spec::Member {
    spec::Member {
        url: format!("http://192.0.2.{index}:80"),
        scheme: Scheme::Http,
        tls: None,
        host: format!("192.0.2.{index}"),
        port: 80,
        path: String::new(),
        lbfactor: weight,
        lbset: 0,
        route: format!("n{index}"),
        redirect: String::new(),
        status: flags,
        retry: Duration::from_mins(1),
        timeout: None,
        connection_timeout: None,
        ttl: None,
        max: None,
        acquire: None,
        keepalive: false,
        disablereuse: false,
        address_ttl: spec::AddressTtl::Record,
        response_field_size: 8192,
        receive_buffer: None,
        source: None,
        ping: None,
        ramp_up: None,
        socket: None,
        upgrade: spec::Upgrade::Never,
        health: spec::Health::default(),
        at: spec::Place::default(),
    }
}

fn members(weights: &[u32]) -> Vec<spec::Member> {
    weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| member(index, weight, 0))
        .collect()
}

fn spec_of(members: Vec<spec::Member>) -> spec::Balancer {
    spec::Balancer {
        name: "x".to_owned(),
        direct: false,
        members,
        lbmethod: spec::LbMethod::ByRequests,
        sticky: None,
        nofailover: false,
        timeout: Duration::ZERO,
        maxattempts: None,
        failonstatus: Vec::new(),
        failontimeout: false,
        forcerecovery: true,
        beyond: spec::Beyond::default(),
        manage: spec::Manage::default(),
        at: spec::Place::default(),
    }
}

fn build(spec: &spec::Balancer) -> Balancer {
    let (table, _members, _busy) = MemberTable::anonymous().expect("memfd");
    let table = Arc::new(table);
    let ids: Vec<_> = (1..=spec.members.len() as u32).map(MemberId).collect();
    for (id, member) in ids.iter().zip(&spec.members) {
        let cell = table.cell(*id).expect("slot");
        cell.weight.store(member.lbfactor, Relaxed);
        cell.set_lbset(member.lbset);
        cell.set_state(member.status);
    }
    Balancer::new(spec, &ids, table, None).expect("balancer")
}

fn ask(session: Option<&Session>, now_ns: u64) -> Ask<'_> {
    Ask {
        session,
        now_ns,
        ..Ask::default()
    }
}

fn letter(member: usize) -> char {
    char::from(b'a' + member as u8)
}

fn sequence(balancer: &Balancer, picks: usize) -> String {
    (0..picks)
        .map(|_| {
            balancer
                .elect(&ask(None, 1))
                .map_or('-', |elected| letter(elected.member))
        })
        .collect()
}

fn cookie(route: &str) -> Session {
    Session {
        route: route.as_bytes().to_vec(),
        in_url: false,
    }
}

#[test]
fn equal_weights_go_round() {
    assert_eq!(
        sequence(&build(&spec_of(members(&[100, 100, 100]))), 6),
        "abcabc"
    );
}

/// Picks by traffic, each answered with `bytes` from the member.
fn traffic(weights: &[u32], picks: usize, bytes: u64) -> String {
    let mut spec = spec_of(members(weights));
    spec.lbmethod = spec::LbMethod::ByTraffic;
    let balancer = build(&spec);
    let pick = |_| {
        let member = balancer
            .elect(&ask(None, 1))
            .expect("all are usable")
            .member;
        balancer.cell(member).read.fetch_add(bytes, Relaxed);
        balancer
            .cell(member)
            .transferred
            .fetch_add(bytes / 2, Relaxed);
        letter(member)
    };
    (0..picks).map(pick).collect()
}

#[test]
fn traffic_follows_the_weights() {
    assert_eq!(traffic(&[200, 100], 11, 4000), "abaabaabaab");
    assert_eq!(traffic(&[100, 100, 100], 6, 4000), "abcabc");
}

#[test]
fn a_large_answer_sends_the_next_requests_elsewhere() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.lbmethod = spec::LbMethod::ByTraffic;
    let balancer = build(&spec);
    balancer.cell(0).read.store(50_000, Relaxed);
    assert_eq!(sequence(&balancer, 8), "bbbbbbbb");
    assert_eq!(balancer.cell(1).lbstatus.load(Relaxed), 0);
}

#[test]
fn the_less_busy_member_is_taken_and_credit_decides_between_equals() {
    let mut spec = spec_of(members(&[100, 100, 100]));
    spec.lbmethod = spec::LbMethod::ByBusyness;
    let balancer = build(&spec);
    assert_eq!(sequence(&balancer, 6), "abcabc");
    // Of two processes: both count.
    for (column, member) in [(0, 1), (1, 3)] {
        let cell = balancer.table.busy(column, MemberId(member));
        cell.expect("cell").store(1, Relaxed);
    }
    assert_eq!(sequence(&balancer, 4), "bbbb");
    balancer.table.clear_busy(0);
    balancer.table.clear_busy(1);
    // The two that had to wait catch up, as observed on httpd.
    assert_eq!(sequence(&balancer, 8), "acacacac");
}

#[test]
fn five_to_one_gives_httpds_sequence() {
    assert_eq!(
        sequence(&build(&spec_of(members(&[500, 100]))), 12),
        "aaabaaaaabaa"
    );
}

#[test]
fn three_two_one_gives_httpds_sequence() {
    assert_eq!(
        sequence(&build(&spec_of(members(&[300, 200, 100]))), 12),
        "abacbaabacba"
    );
}

#[test]
fn fractional_weights_give_httpds_sequence() {
    assert_eq!(
        sequence(&build(&spec_of(members(&[150, 100]))), 15),
        "ababaababaababa"
    );
}

#[test]
fn tie_goes_to_the_earlier_member() {
    let balancer = build(&spec_of(members(&[100, 100])));
    assert_eq!(balancer.elect(&ask(None, 1)).expect("usable").member, 0);
}

#[test]
fn session_hits_move_the_credits() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.sticky = Some(sticky());
    let balancer = build(&spec);
    balancer.elect(&ask(None, 1)).expect("usable");
    for _ in 0..3 {
        let elected = balancer
            .elect(&ask(Some(&cookie("n1")), 1))
            .expect("usable");
        assert_eq!(
            elected,
            Elected {
                member: 1,
                route_changed: false
            }
        );
    }
    assert_eq!(sequence(&balancer, 4), "aaab");
}

#[test]
fn one_spare_steps_in_for_each_unusable_member_of_its_set() {
    let mut list = members(&[100, 100, 100, 100]);
    list[2].status = MemberState::SPARE;
    list[3].status = MemberState::SPARE;
    let balancer = build(&spec_of(list));
    assert_eq!(sequence(&balancer, 4), "abab");
    balancer.cell(1).set_state(MemberState::DISABLED);
    let with_one_out = sequence(&balancer, 6);
    assert!(with_one_out.contains('c') && with_one_out.contains('a'));
    assert!(!with_one_out.contains('b') && !with_one_out.contains('d'));
}

#[test]
fn standby_serves_only_when_its_set_is_empty_and_before_the_next_set() {
    let mut list = members(&[100, 100, 100]);
    list[1].status = MemberState::STANDBY;
    list[2].lbset = 1;
    let balancer = build(&spec_of(list));
    assert_eq!(sequence(&balancer, 3), "aaa");
    balancer.cell(0).set_state(MemberState::DISABLED);
    assert_eq!(sequence(&balancer, 3), "bbb");
    balancer.cell(1).set_state(MemberState::DISABLED);
    assert_eq!(sequence(&balancer, 3), "ccc");
}

#[test]
fn sets_may_start_at_any_number() {
    let mut list = members(&[100, 100]);
    list[0].lbset = 5;
    list[1].lbset = 2;
    assert_eq!(sequence(&build(&spec_of(list)), 3), "bbb");
}

#[test]
fn only_evaluated_members_gain_credit() {
    let mut list = members(&[100, 100, 100]);
    list[1].status = MemberState::DISABLED;
    list[2].lbset = 1;
    let balancer = build(&spec_of(list));
    assert_eq!(sequence(&balancer, 5), "aaaaa");
    for member in 0..3 {
        assert_eq!(balancer.cell(member).lbstatus.load(Relaxed), 0);
    }
    assert_eq!(balancer.cell(0).elected.load(Relaxed), 5);
}

#[test]
fn draining_member_keeps_sessions_and_takes_nobody_new() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.sticky = Some(sticky());
    spec.members[0].status = MemberState::DRAIN;
    let balancer = build(&spec);
    assert_eq!(sequence(&balancer, 3), "bbb");
    let elected = balancer
        .elect(&ask(Some(&cookie("n0")), 1))
        .expect("usable");
    assert_eq!(elected.member, 0);
}

#[test]
fn all_draining_is_unusable() {
    let mut spec = spec_of(members(&[100]));
    spec.members[0].status = MemberState::DRAIN;
    assert_eq!(
        build(&spec).elect(&ask(None, 1)),
        Err(Unelectable::NoneUsable("x".to_owned()))
    );
}

#[test]
fn empty_balancer_says_so() {
    assert_eq!(
        build(&spec_of(Vec::new())).elect(&ask(None, 1)),
        Err(Unelectable::NoMembers("x".to_owned()))
    );
}

#[test]
fn nofailover_refuses_a_known_route_that_is_down_and_balances_an_unknown_one() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.sticky = Some(sticky());
    spec.nofailover = true;
    spec.members[0].status = MemberState::DISABLED;
    let balancer = build(&spec);
    assert!(matches!(
        balancer.elect(&ask(Some(&cookie("n0")), 1)),
        Err(Unelectable::RouteDown(_, _))
    ));
    assert_eq!(
        balancer.elect(&ask(Some(&cookie("n7")), 1)).expect("other"),
        Elected {
            member: 1,
            route_changed: true
        }
    );
}

#[test]
fn redirect_takes_over_from_an_unusable_member_and_circles_end() {
    let mut spec = spec_of(members(&[100, 100, 100]));
    spec.sticky = Some(sticky());
    spec.members[0].redirect = "n2".to_owned();
    spec.members[0].status = MemberState::DISABLED;
    let balancer = build(&spec);
    let elected = balancer
        .elect(&ask(Some(&cookie("n0")), 1))
        .expect("usable");
    assert_eq!(
        elected,
        Elected {
            member: 2,
            route_changed: true
        }
    );
    spec.members[2].redirect = "n0".to_owned();
    spec.members[2].status = MemberState::STOPPED;
    let circle = build(&spec);
    assert_eq!(
        circle
            .elect(&ask(Some(&cookie("n0")), 1))
            .expect("balanced")
            .member,
        1
    );
}

#[test]
fn standby_of_the_same_route_is_the_designated_one() {
    let mut spec = spec_of(members(&[100, 100, 100]));
    spec.sticky = Some(sticky());
    spec.members[2].route = "n0".to_owned();
    spec.members[2].status = MemberState::STANDBY;
    let balancer = build(&spec);
    assert_eq!(
        balancer
            .elect(&ask(Some(&cookie("n0")), 1))
            .expect("first")
            .member,
        0
    );
    balancer.cell(0).set_state(MemberState::STOPPED);
    assert_eq!(
        balancer
            .elect(&ask(Some(&cookie("n0")), 1))
            .expect("standby")
            .member,
        2
    );
}

#[test]
fn error_lasts_for_retry_and_is_cured_by_being_looked_at() {
    let balancer = build(&spec_of(members(&[100, 100])));
    assert!(balancer.put_in_error(0, Cause::Connect, SECOND));
    let at = |now| balancer.elect(&ask(None, now)).expect("usable").member;
    assert_eq!([at(SECOND), at(61 * SECOND)], [1, 1]);
    assert_eq!(at(61 * SECOND + 1), 0);
    assert_eq!(balancer.cell(0).retries.load(Relaxed), 1);
    balancer.connected(0);
    assert_eq!(balancer.cell(0).retries.load(Relaxed), 0);
}

#[test]
fn error_at_start_is_cured_at_first_use() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.members[0].status = MemberState::ERROR;
    assert_eq!(sequence(&build(&spec), 2), "ab");
}

#[test]
fn ignoring_member_never_goes_into_error() {
    let mut spec = spec_of(members(&[100]));
    spec.members[0].status = MemberState::IGNORE_ERRORS;
    let balancer = build(&spec);
    assert!(!balancer.put_in_error(0, Cause::Connect, 1));
    assert!(balancer.is_usable(0));
    assert!(!balancer.try_another(&mut Attempts::default(), 0, Outcome::Unreached));
}

#[test]
fn stopped_member_is_not_retried() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.members[0].status = MemberState::STOPPED | MemberState::ERROR;
    assert_eq!(sequence(&build(&spec), 3), "bbb");
}

#[test]
fn all_in_error_are_recovered_at_once() {
    let balancer = build(&spec_of(members(&[100, 100])));
    balancer.put_in_error(0, Cause::Connect, SECOND);
    balancer.put_in_error(1, Cause::Connect, SECOND);
    assert_eq!(
        balancer
            .elect(&ask(None, SECOND))
            .expect("recovered")
            .member,
        0
    );
    assert!(balancer.is_usable(1));
}

#[test]
fn forcerecovery_off_waits_for_retry() {
    let mut spec = spec_of(members(&[100]));
    spec.forcerecovery = false;
    let balancer = build(&spec);
    balancer.put_in_error(0, Cause::Connect, SECOND);
    assert!(balancer.elect(&ask(None, 2 * SECOND)).is_err());
    assert!(balancer.elect(&ask(None, 62 * SECOND)).is_ok());
}

#[test]
fn disabled_member_prevents_forced_recovery() {
    let mut spec = spec_of(members(&[100, 100]));
    spec.members[1].status = MemberState::DISABLED;
    let balancer = build(&spec);
    balancer.put_in_error(0, Cause::Connect, SECOND);
    assert!(balancer.elect(&ask(None, SECOND)).is_err());
}

#[test]
fn attempts_end_after_maxattempts() {
    let count = |maxattempts, size: usize| {
        let mut spec = spec_of(members(&vec![100; size]));
        spec.maxattempts = maxattempts;
        let balancer = build(&spec);
        let mut attempts = Attempts::default();
        balancer.put_in_error(0, Cause::Connect, 1);
        (0..100)
            .take_while(|_| balancer.try_another(&mut attempts, 0, Outcome::Unreached))
            .count()
    };
    assert_eq!(count(None, 4), 3);
    assert_eq!(count(None, 1), 0);
    assert_eq!(count(Some(0), 3), 0);
    assert_eq!(count(Some(1), 3), 1);
}

#[test]
fn what_the_member_may_have_seen_is_not_tried_elsewhere() {
    let balancer = build(&spec_of(members(&[100, 100])));
    balancer.put_in_error(0, Cause::Forward, 1);
    assert!(!balancer.try_another(&mut Attempts::default(), 0, Outcome::Final));
}

#[test]
fn direct_worker_in_error_is_refused_until_retry() {
    let mut spec = spec_of(members(&[100]));
    spec.direct = true;
    let balancer = build(&spec);
    assert!(!balancer.put_in_error(0, Cause::Forward, 1));
    assert!(balancer.put_in_error(0, Cause::Connect, 1));
    assert!(matches!(
        balancer.elect(&ask(None, 2)),
        Err(Unelectable::DirectDown(_))
    ));
    assert!(balancer.elect(&ask(None, 61 * SECOND)).is_ok());
}

#[test]
fn slot_that_went_to_another_member_is_neither_used_nor_marked() {
    let balancer = build(&spec_of(members(&[100, 100])));
    balancer.cell(0).incarnation.store(9, Relaxed);
    assert_eq!(sequence(&balancer, 2), "bb");
    assert!(!balancer.put_in_error(0, Cause::Connect, 1));
    assert!(!balancer.cell(0).state().has(MemberState::ERROR));
}

#[test]
fn credits_survive_a_new_generation() {
    let spec = spec_of(members(&[500, 100]));
    let old = build(&spec);
    assert_eq!(sequence(&old, 2), "aa");
    let ids = [MemberId(1), MemberId(2)];
    let new = Balancer::new(&spec, &ids, old.table.clone(), Some(&old)).expect("balancer");
    assert_eq!(sequence(&new, 4), "abaa");
    assert!(Arc::ptr_eq(&old.election, &new.election));
}

#[test]
fn no_answer_is_replayed_once_then_502_or_a_silent_close() {
    let first = Silence::default();
    let kept = Silence {
        client_reused: true,
        ..first
    };
    let cases = [
        (
            Silence {
                replayable: true,
                ..kept
            },
            NoResponse::Replay,
        ),
        (
            Silence {
                replayable: true,
                timed_out: true,
                ..kept
            },
            NoResponse::BadGateway,
        ),
        (
            Silence {
                member_reused: true,
                ..first
            },
            NoResponse::BadGateway,
        ),
        (
            Silence {
                member_reused: true,
                ..kept
            },
            NoResponse::CloseClient(false),
        ),
        (kept, NoResponse::CloseClient(true)),
    ];
    for (silence, expected) in cases {
        assert_eq!(silence.consequence(), expected, "{silence:?}");
    }
}

pub(super) fn sticky() -> Sticky {
    Sticky {
        cookie: "ROUTEID".to_owned(),
        path: "routeid".to_owned(),
        separator: Some('.'),
        scolonpathdelim: false,
        cookie_written: false,
    }
}

proptest! {
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(100_u32..=1000, 1..6)) {
        let balancer = build(&spec_of(members(&weights)));
        let total: u32 = weights.iter().sum();
        let rounds = total as usize;
        for _ in 0..rounds {
            balancer.elect(&ask(None, 1)).expect("usable");
        }
        for (index, &weight) in weights.iter().enumerate() {
            let elected = balancer.cell(index).elected.load(Relaxed);
            prop_assert!(elected.abs_diff(u64::from(weight)) <= weights.len() as u64);
        }
    }

    #[test]
    fn credits_sum_to_zero_and_nobody_unusable_is_elected(
        weights in prop::collection::vec(100_u32..=1000, 1..6),
        steps in prop::collection::vec((0_usize..6, 0_u8..6, any::<bool>()), 1..60),
    ) {
        let balancer = build(&spec_of(members(&weights)));
        let flags = [
            MemberState::DISABLED,
            MemberState::STOPPED,
            MemberState::DRAIN,
            MemberState::STANDBY,
            MemberState::SPARE,
            MemberState::HEALTH_FAILED,
        ];
        for (at, flag, set) in steps {
            let cell = balancer.cell(at % weights.len());
            if set {
                cell.set_state(flags[usize::from(flag)]);
            } else {
                cell.clear_state(flags[usize::from(flag)]);
            }
            let session = cookie(&format!("n{}", at % weights.len()));
            for session in [None, Some(&session)] {
                if let Ok(elected) = balancer.elect(&ask(session, 1)) {
                    prop_assert!(balancer.is_usable(elected.member));
                    prop_assert!(
                        session.is_some()
                            || !balancer.state(elected.member).has(MemberState::DRAIN)
                    );
                }
            }
            let sum: i64 = (0..weights.len())
                .map(|member| balancer.cell(member).lbstatus.load(Relaxed))
                .sum();
            prop_assert_eq!(sum, 0);
        }
    }
}

mod beyond;
