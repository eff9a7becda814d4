//! The guard on real packets: limits, deny list, malformed packets, and who is not hurt.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{
    Curl, Scene,
    flood::{Flood, Kind, Sources},
    scene::{service, site, three},
    tables::{self, Verdicts},
    topology,
    wait::{self, PATIENCE},
};
use lb_common::verdict::Reason;

/// Sends `flood` and gives what was counted because of it.
fn attack(scene: &Scene, flood: Flood) -> Result<Vec<(Reason, u64)>> {
    let pins = scene.sluice.pins();
    let before = tables::verdicts(&pins)?;
    let sent = u64::from(flood.run(&scene.lab.attackers[0])?);
    let total = |now: &Verdicts| now.since(&before).iter().map(|(_, n)| n).sum::<u64>();
    // All of it, or nearly all and no more for a while: the device's queue may have lost some, and
    // the receiving CPU may be busy with something else.
    let (mut last, mut since) = (0, Instant::now());
    wait::until("the flood to be counted", PATIENCE, || {
        let now = tables::verdicts(&pins).ok()?;
        if total(&now) != last {
            (last, since) = (total(&now), Instant::now());
        }
        let is_over = last >= sent * 9 / 10 && since.elapsed() > Duration::from_secs(1);
        (last >= sent || is_over).then_some(now)
    })
    .map(|now| now.since(&before))
}

fn of(counted: &[(Reason, u64)], reason: Reason) -> u64 {
    counted
        .iter()
        .find(|(candidate, _)| *candidate == reason)
        .map_or(0, |(_, n)| *n)
}

fn syns(sources: Sources, count: u32) -> Flood {
    Flood {
        target: service(),
        sources,
        kind: Kind::Syn,
        count,
        rate: 20_000,
    }
}

fn attacker() -> Sources {
    Sources::One(topology::address(topology::ATTACKERS).into())
}

#[test]
fn source_over_its_limit_is_dropped_and_others_are_not() -> Result<()> {
    let limit = "    GuardLimit syn 50/s burst=50 per=/32,/64\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    let reached = scene.lab.balancer.snmp("Tcp", "InSegs")?;
    let counted = attack(&scene, syns(attacker(), 6000))?;
    ensure!(of(&counted, Reason::SYN_SOURCE_LIMIT) > 5500, "{counted:?}");
    let reached = scene.lab.balancer.snmp("Tcp", "InSegs")? - reached;
    ensure!(reached < 500, "{reached} segments reached the stack");
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn random_sources_meet_the_services_limit() -> Result<()> {
    let limit = "    GuardLimit syn 200/s burst=200 per=service\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    let counted = attack(&scene, syns(Sources::Random, 6000))?;
    ensure!(
        of(&counted, Reason::SYN_SERVICE_LIMIT) > 5000,
        "{counted:?}"
    );
    Ok(())
}

#[test]
fn connections_that_exist_go_on_through_a_flood() -> Result<()> {
    let limit = "    GuardLimit syn 100/s burst=100 per=service\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    let before: u64 = scene.members.iter().map(lab::Member::requests).sum();
    let client = scene.curl.start_series(&scene.url("/name?delay=2"), 100)?;
    wait::until("the client's first request", PATIENCE, || {
        let now: u64 = scene.members.iter().map(lab::Member::requests).sum();
        (now > before).then_some(())
    })?;
    attack(&scene, syns(Sources::Random, 10_000))?;
    let answers = client.finish()?;
    ensure!(answers.len() == 100 && answers.iter().all(|answer| answer.status == 200));
    Ok(())
}

#[test]
fn limit_that_only_reports_drops_nothing() -> Result<()> {
    let limit = "    GuardLimit syn 10/s burst=10 per=/32,/64 action=report\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    let counted = attack(&scene, syns(attacker(), 1000))?;
    ensure!(of(&counted, Reason::LIMIT_REPORTED) > 800, "{counted:?}");
    ensure!(of(&counted, Reason::SYN_SOURCE_LIMIT) == 0, "{counted:?}");
    Ok(())
}

#[test]
fn generous_limit_drops_nothing_and_is_listed() -> Result<()> {
    let text = site(&three(""), "    GuardLimit syn 1000000/s per=/32,/64\n");
    let scene = Scene::start(&text)?;
    let counted = attack(&scene, syns(attacker(), 2000))?;
    ensure!(of(&counted, Reason::SYN_SOURCE_LIMIT) == 0, "{counted:?}");
    let said = scene.sluice.cli(&["limit", "list"])?.ok()?;
    ensure!(said.out.contains("1000000"), "{said:?}");
    Ok(())
}

#[test]
fn segments_without_flags_never_reach_the_stack() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let counted = attack(
        &scene,
        Flood {
            kind: Kind::Null,
            ..syns(attacker(), 500)
        },
    )?;
    ensure!(of(&counted, Reason::BAD_TCP_FLAGS) >= 450, "{counted:?}");
    Ok(())
}

#[test]
fn ipv6_sources_are_limited_by_their_64() -> Result<()> {
    let limit = "    GuardLimit syn 50/s burst=50 per=/32,/64\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    let target = (topology::address6(topology::BALANCER), 80).into();
    // Random hosts of one /64 and the next: SPOOFED6 varies only the last 64 bits.
    let counted = attack(
        &scene,
        Flood {
            target,
            ..syns(Sources::Random, 4000)
        },
    )?;
    ensure!(of(&counted, Reason::SYN_SOURCE_LIMIT) > 3500, "{counted:?}");
    Ok(())
}

#[test]
fn denied_address_is_dropped_until_it_is_taken_off_the_list() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let address = topology::address(topology::ATTACKERS).to_string();
    let from = Curl::inside(&scene.lab.attackers[0])
        .option("--connect-timeout")
        .option("0.5");
    let url = scene.url("/name");
    let patient = Curl::inside(&scene.lab.attackers[0]);
    ensure!(patient.get(&url)?.status == 200);

    scene.sluice.cli(&["deny", "add", &address])?.ok()?;
    ensure!(from.get(&url)?.exit == 28, "dropped, not refused");
    ensure!(
        scene
            .sluice
            .cli(&["deny", "list"])?
            .ok()?
            .out
            .contains(&address)
    );
    let listed = scene.sluice.json(&["deny", "list"])?;
    ensure!(listed.to_string().contains(&address), "{listed}");
    ensure!(tables::verdicts(&scene.sluice.pins())?.of(Reason::DENIED) > 0);
    ensure!(scene.letters(3)?.len() == 5, "the client is not denied");

    scene.sluice.cli(&["deny", "del", &address])?.ok()?;
    ensure!(patient.get(&url)?.status == 200);
    ensure!(!scene.sluice.cli(&["deny", "list"])?.out.contains(&address));
    Ok(())
}

#[test]
fn denied_ipv6_prefix_covers_its_addresses() -> Result<()> {
    let scene = Scene::start(&site(&three(""), "    GuardDeny 2001:db8::201/128\n"))?;
    let url = format!("http://[{}]/name", topology::address6(topology::BALANCER));
    let from = Curl::inside(&scene.lab.attackers[0])
        .option("--connect-timeout")
        .option("0.5");
    ensure!(from.get(&url)?.exit == 28);
    let patient = Curl::inside(&scene.lab.attackers[0]);
    ensure!(
        patient.get(&scene.url("/name"))?.status == 200,
        "its IPv4 address is another matter"
    );
    ensure!(scene.curl.get(&url)?.status == 200);
    Ok(())
}

#[test]
fn allowed_source_is_past_limits_and_denies() -> Result<()> {
    let guard = "    GuardLimit syn 10/s burst=10 per=/32,/64\n\
                 \x20   GuardDeny 192.0.2.0/24\n\
                 \x20   GuardAllow 192.0.2.201/32 192.0.2.16/28\n";
    let scene = Scene::start(&site(&three(""), guard))?;
    let counted = attack(&scene, syns(attacker(), 1000))?;
    ensure!(of(&counted, Reason::SYN_SOURCE_LIMIT) == 0, "{counted:?}");
    ensure!(of(&counted, Reason::DENIED) == 0, "{counted:?}");
    Ok(())
}

#[test]
fn bad_prefix_on_the_command_line_is_named_and_nothing_changes() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    for prefix in ["192.0.2.0/33", "nonsense", "2001:db8::/129"] {
        let said = scene.sluice.cli(&["deny", "add", prefix])?;
        ensure!(
            said.code != 0 && said.err.contains(prefix),
            "{prefix}: {said:?}"
        );
    }
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn guard_counts_what_it_passes() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let before = tables::verdicts(&scene.sluice.pins())?;
    scene.letters(10)?;
    let counted = tables::verdicts(&scene.sluice.pins())?.since(&before);
    ensure!(
        of(&counted, Reason::LOCAL) >= 13,
        "a handshake and ten requests: {counted:?}"
    );
    ensure!(tables::verdicts(&scene.sluice.pins())?.dropped() == 0);
    Ok(())
}
