//! Finding members, changing them, refusing nonsense.

use lb_common::member::MemberId;

use super::*;
use crate::{
    config::spec::{Health, LbMethod, Member, Scheme},
    dataplane::table::MemberTable,
};

fn member(url: &str, host: &str, port: u16, route: &str) -> Member {
    Member {
        url: url.to_owned(),
        scheme: Scheme::Http,
        tls: None,
        host: host.to_owned(),
        port,
        route: route.to_owned(),
        ..example()
    }
}

fn example() -> Member {
    serde_json::from_value(serde_json::json!({
        "url": "", "scheme": "Http", "host": "", "port": 80, "path": "", "lbfactor": 100,
        "lbset": 0, "route": "", "redirect": "", "status": 0,
        "retry": {"secs": 60, "nanos": 0}, "timeout": null, "connection_timeout": null,
        "ttl": null, "max": null, "acquire": null, "keepalive": false, "disablereuse": false,
        "address_ttl": "Record", "response_field_size": 8192, "upgrade": "Never", "health": Health::default(), "at": {"file": "", "line": 1}
    }))
    .expect("a member")
}

fn spec() -> Spec {
    let balancer = |name: &str, members| Balancer {
        name: name.to_owned(),
        direct: false,
        members,
        lbmethod: LbMethod::ByRequests,
        sticky: None,
        nofailover: false,
        timeout: std::time::Duration::ZERO,
        maxattempts: None,
        failonstatus: Vec::new(),
        failontimeout: false,
        forcerecovery: true,
        beyond: crate::config::spec::Beyond::default(),
        manage: crate::config::spec::Manage::default(),
        at: crate::config::spec::Place::default(),
    };
    Spec {
        balancers: vec![
            balancer(
                "app",
                vec![
                    member("http://10.0.0.11:8080", "10.0.0.11", 8080, "node1"),
                    member("http://10.0.0.12:8080", "10.0.0.12", 8080, "node2"),
                    member("http://10.0.0.13:8080", "10.0.0.13", 8080, "node2"),
                ],
            ),
            balancer("static", vec![member("http://[::1]", "::1", 80, "")]),
        ],
        ..Spec::default()
    }
}

#[test]
fn a_member_is_found_by_url_route_or_address() {
    let spec = spec();
    assert_eq!(find(&spec, "app", "http://10.0.0.12:8080"), Ok((0, 1)));
    assert_eq!(find(&spec, "app", "http://10.0.0.12:8080/"), Ok((0, 1)));
    assert_eq!(find(&spec, "balancer://APP", "node1"), Ok((0, 0)));
    assert_eq!(find(&spec, "app", "10.0.0.13:8080"), Ok((0, 2)));
    assert_eq!(find(&spec, "static", "[::1]:80"), Ok((1, 0)));
}

#[test]
fn an_unknown_name_brings_candidates() {
    let spec = spec();
    let error = |balancer, member| {
        find(&spec, balancer, member)
            .expect_err("unknown")
            .to_string()
    };
    assert_eq!(error("ap", "x"), "no balancer ap; did you mean app?");
    assert_eq!(error("zzz", "x"), "no balancer zzz; there are app, static");
    assert_eq!(
        error("app", "http://10.0.0.14:8080"),
        "balancer app has no member http://10.0.0.14:8080; did you mean http://10.0.0.13:8080?"
    );
    assert!(error("app", "zz").ends_with(
        "there are http://10.0.0.11:8080, http://10.0.0.12:8080, http://10.0.0.13:8080"
    ));
    assert!(error("app", "node2").contains("more than one member"));
    // An empty route is not a name.
    assert!(error("static", "").contains("no member"));
}

#[test]
fn changes_touch_their_own_bits_only() {
    let (table, _members, _busy) = MemberTable::anonymous().expect("memory");
    let cell = table.cell(MemberId(1)).expect("slot");
    cell.set_state(MemberState::HEALTH_FAILED | MemberState::STANDBY);
    assert!(apply(&MemberChange::Drain, cell).starts_with("drains:"));
    assert_eq!(apply(&MemberChange::Drain, cell), "drains already");
    apply(&MemberChange::Disable, cell);
    cell.set_state(MemberState::ERROR);
    assert_eq!(letters(cell.state()), "NDEHC");
    apply(&MemberChange::Enable, cell);
    assert_eq!(letters(cell.state()), "HC");
    let status = MemberChange::Status {
        flags: "+d-H".to_owned(),
    };
    assert_eq!(apply(&status, cell), "status is now DC");
    assert_eq!(apply(&status, cell), "status is DC already");
}

#[test]
fn weight_and_set_are_written_and_the_old_ones_told() {
    let (table, _members, _busy) = MemberTable::anonymous().expect("memory");
    let cell = table.cell(MemberId(1)).expect("slot");
    apply(&MemberChange::LoadFactor { lbfactor: 500 }, cell);
    assert_eq!(
        apply(&MemberChange::LoadFactor { lbfactor: 150 }, cell),
        "loadfactor 1.5 (was 5)"
    );
    assert_eq!(
        apply(&MemberChange::LbSet { lbset: 3 }, cell),
        "lbset 3 (was 0)"
    );
    assert_eq!(cell.lbset(), 3);
}

#[test]
fn impossible_values_are_refused() {
    let status = |flags: &str| {
        check(&MemberChange::Status {
            flags: flags.to_owned(),
        })
    };
    assert!(status("+D-N").is_ok());
    assert!(status("DI").is_ok());
    for wrong in ["", "+X", "+E", "-E", "+C", "+D-C"] {
        assert!(status(wrong).is_err(), "{wrong:?}");
    }
    assert!(check(&MemberChange::LoadFactor { lbfactor: 99 }).is_err());
    assert!(check(&MemberChange::LbSet { lbset: 100 }).is_err());
    assert_eq!(loadfactor("1.5"), Ok(150));
    for wrong in ["0.5", "101", "x", "NaN", "inf", ""] {
        assert!(loadfactor(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn an_election_starts_anew_where_members_weigh_otherwise_or_the_method_changes() {
    use std::sync::atomic::Ordering::Relaxed;
    let (table, _members, _busy) = MemberTable::anonymous().expect("memory");
    let cells = [1, 2].map(|id| table.cell(MemberId(id)).expect("slot"));
    let lbstatus = || cells.map(|cell| cell.lbstatus.load(Relaxed));
    for cell in cells {
        cell.weight.store(200, Relaxed);
        cell.lbstatus.store(-800, Relaxed);
        cell.read.store(7, Relaxed);
    }
    restart_election(&[MemberChange::Enable], &cells);
    assert_eq!(lbstatus(), [-800, -800]);
    let heavier = [MemberChange::LoadFactor { lbfactor: 200 }];
    restart_election(&heavier, &cells);
    assert_eq!(lbstatus(), [200, 200]);
    restart_method(LbMethod::ByBusyness, &cells);
    assert_eq!(lbstatus(), [0, 0]);
    let read = || cells.map(|cell| cell.read.load(Relaxed));
    assert_eq!(read(), [7, 7], "counters that nobody goes by stay");
    restart_method(LbMethod::ByTraffic, &cells);
    assert_eq!(read(), [0, 0]);
}
