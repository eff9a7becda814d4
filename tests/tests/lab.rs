//! The lab itself: what the other tests rely on without asking.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, LabOptions, Member,
    apache::Apache,
    curl::letters,
    flood::{Flood, Kind, Sources},
    netns, sweep, topology, wait,
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn hosts_reach_one_another_over_both_families() -> Result<()> {
    let lab = Lab::new()?;
    for address in [
        IpAddr::from(topology::address(21)),
        topology::address6(21).into(),
    ] {
        let member = Member::start(&lab.members[0], "a", SocketAddr::new(address, 8080))?;
        for from in [&lab.client, &lab.balancer, &lab.attackers[0]] {
            let url = format!("http://{}/name", member.address());
            let response = Curl::inside(from).get(&url)?;
            ensure!(
                response.text() == "a",
                "{} to {url}: {response:?}",
                from.name()
            );
        }
    }
    Ok(())
}

#[test]
fn member_does_what_the_query_says() -> Result<()> {
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    let mut member = Member::start(&lab.members[0], "a", (topology::address(21), 8080).into())?;
    let url = |rest: &str| format!("http://{}{rest}", member.address());
    let curl = Curl::inside(&lab.client);

    let seen = curl
        .clone()
        .header("X-Probe: 1")
        .get(&url("/p?q=1"))?
        .json()?;
    ensure!(seen["target"] == "/p?q=1" && seen["headers"].to_string().contains("X-Probe"));
    ensure!(curl.get(&url("/?status=404"))?.status == 404);
    ensure!(curl.get(&url("/?size=100000&chunked=1"))?.body.len() == 100_000);
    let response = curl.get(&url("/?cookie=ID"))?;
    ensure!(response.header("set-cookie") == Some("ID=session.a; Path=/"));
    ensure!(
        curl.get(&url("/?size=1000&cut=10"))?.exit == 18,
        "a body cut short"
    );
    ensure!(curl.get(&url("/?drop=1"))?.exit == 52, "no answer at all");

    let before = member.accepted();
    ensure!(letters(&curl.series(&url("/name"), 5)?) == "a a a a a");
    ensure!(
        member.accepted() == before + 1,
        "a series keeps its connection"
    );

    let held = curl.start_series(&url("/name?hold=1"), 1)?;
    member.wait_held(1)?;
    member.release();
    lab::same(&letters(&held.finish()?), "a")?;

    let target = url("/name");
    member.kill();
    ensure!(curl.get(&target)?.exit == 7, "a dead member refuses");
    Ok(())
}

#[test]
fn httpd_serves_as_a_member() -> Result<()> {
    if let Some(reason) = Apache::missing() {
        return lab::skip(&reason);
    }
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    let address = SocketAddr::from((topology::address(21), 8080));
    let dir = lab.dir().join("httpd");
    let mut httpd = Apache::start(
        &lab.members[0],
        &dir,
        address,
        "Redirect /x http://elsewhere.test/",
    )?;
    let response = Curl::inside(&lab.client).get(&format!("http://{address}/x"))?;
    ensure!(response.status == 302, "{response:?}");
    httpd.kill();
    ensure!(
        Curl::inside(&lab.client)
            .get(&format!("http://{address}/x"))?
            .exit
            == 7
    );
    Ok(())
}

#[test]
fn floods_of_every_kind_reach_the_target() -> Result<()> {
    let lab = Lab::with(LabOptions {
        members: 0,
        attackers: 1,
    })?;
    let attacker = &lab.attackers[0];
    for target in topology::balancer_addresses() {
        let own = match target {
            IpAddr::V4(_) => IpAddr::from(topology::address(topology::ATTACKERS)),
            IpAddr::V6(_) => topology::address6(topology::ATTACKERS).into(),
        };
        for sources in [Sources::One(own), Sources::Random] {
            let before = lab.balancer.snmp("Tcp", "InSegs")?;
            let flood = Flood {
                target: SocketAddr::new(target, 80),
                sources,
                kind: Kind::Syn,
                count: 1000,
                rate: 20_000,
            };
            let sent = flood.run(attacker)?;
            // The neighbour's address is asked for once; a few packets wait for it in a short queue.
            wait::until("the flood to arrive", wait::PATIENCE, || {
                let now = lab.balancer.snmp("Tcp", "InSegs").ok()?;
                (now - before >= u64::from(sent) * 9 / 10).then_some(())
            })
            .with_context(|| format!("{sources:?} to {target}"))?;
            ensure!(sent > 900, "{sent} of 1000 were sent");
            ensure!(
                lab.balancer.snmp("Tcp", "InCsumErrors")? == 0,
                "checksums are right"
            );
        }
    }
    Ok(())
}

#[test]
fn labs_run_side_by_side() -> Result<()> {
    let first = Lab::new()?;
    let second = Lab::new()?;
    let address = SocketAddr::from((topology::address(21), 8080));
    let _one = Member::start(&first.members[0], "one", address)?;
    let _two = Member::start(&second.members[0], "two", address)?;
    let url = format!("http://{address}/name");
    ensure!(Curl::inside(&first.client).get(&url)?.text() == "one");
    ensure!(Curl::inside(&second.client).get(&url)?.text() == "two");
    Ok(())
}

#[test]
fn dropped_lab_leaves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (prefix, dir) = (lab.prefix(), lab.dir());
    let mut sleeper = lab.client.command("sleep").arg("600").spawn()?;
    drop(lab);
    ensure!(
        !sleeper.wait()?.success(),
        "processes of the lab end with it"
    );
    ensure!(
        !netns::names()
            .iter()
            .any(|name| name.starts_with(&format!("{prefix}-")))
    );
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}

#[test]
fn lab_of_a_dead_process_is_swept() -> Result<()> {
    // A process that is gone: its id is free again, and too young to be given out anew.
    let mut gone = Command::new("true").spawn()?;
    let pid = gone.id();
    gone.wait()?;
    let name = format!("sl{pid}x0-client");
    netns::run(Command::new("ip").args(["netns", "add", &name]))?;
    let mut sleeper = Command::new("ip")
        .args(["netns", "exec", &name, "sleep", "600"])
        .spawn()?;
    // It is inside, or too late: whatever process makes its first lab at this moment sweeps too.
    let here = std::fs::read_link("/proc/self/ns/net")?;
    let there = format!("/proc/{}/ns/net", sleeper.id());
    let ended = wait::until("the sleeper to be inside", wait::PATIENCE, || {
        let ended = sleeper.try_wait().ok()?.is_some();
        let is_inside = std::fs::read_link(&there).is_ok_and(|there| there != here);
        (ended || is_inside).then_some(ended)
    })?;
    let swept = sweep::sweep_dead();
    println!("{swept} swept here; the sleeper had ended before: {ended}");
    wait::until("the namespace to be gone", wait::PATIENCE, || {
        (!netns::names().contains(&name)).then_some(())
    })?;
    let status = wait::until("its process to end", wait::PATIENCE, || {
        sleeper.try_wait().ok()?
    });
    let _ = sleeper.kill();
    ensure!(!status?.success());
    Ok(())
}

/// What the signal test runs in a process of its own: holds a lab until it is killed.
#[test]
fn holder_for_the_signal_test() -> Result<()> {
    let Some(file) = std::env::var_os("LAB_HOLDER") else {
        return Ok(());
    };
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    std::fs::write(file, lab.prefix())?;
    loop {
        thread::park();
    }
}

#[test]
fn lab_is_taken_away_on_sigint() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("prefix");
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["--exact", "holder_for_the_signal_test"])
        .env("LAB_HOLDER", &file)
        .spawn()?;
    let prefix = wait::until("the lab of the other process", wait::PATIENCE, || {
        std::fs::read_to_string(&file)
            .ok()
            .filter(|text| !text.is_empty())
    })?;
    let pid = Pid::from_raw(i32::try_from(holder.id())?).context("process id")?;
    kill_process(pid, Signal::INT)?;
    ensure!(holder.wait()?.code() == Some(130));
    ensure!(!netns::names().iter().any(|name| name.starts_with(&prefix)));
    Ok(())
}
