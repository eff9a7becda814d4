//! Established flows stay with their member, whatever happens to the ring, to the daemon, or around
//! them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lab::{
    Lab, LabOptions, Member, Sluice,
    flood::{Flood, Kind, Sources},
    scene::{member, site},
    vip::{self, Connection, PORT, VIP4, VIP6},
    wait,
};
use rustix::process::Signal;

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(VIP4), PORT);

struct Run {
    sluice: Sluice,
    _members: Vec<Member>,
    lab: Lab,
}

fn configuration(members: u8, more: &str) -> String {
    let members: String = (0..members).map(|index| member(index, "")).collect();
    site(
        &members,
        &format!("    SteerPass tcp://{VIP4}:{PORT} balancer://b\n{more}"),
    )
}

fn start(members: u8) -> Result<Run> {
    let lab = Lab::with(LabOptions {
        members,
        attackers: 2,
    })?;
    vip::share(&lab)?;
    let all = vip::members(&lab)?;
    let sluice = Sluice::start(&lab, &configuration(members, ""))?;
    Ok(Run {
        sluice,
        _members: all,
        lab,
    })
}

impl Run {
    fn open(&self, count: usize) -> Result<Vec<(Connection, String)>> {
        open(&self.lab, SERVICE, count)
    }
}

/// So many connections, with the member of each.
fn open(lab: &Lab, service: SocketAddr, count: usize) -> Result<Vec<(Connection, String)>> {
    (0..count)
        .map(|_| {
            let mut connection = Connection::open(&lab.client, service)?;
            // Twice: a flow is dear to the table once it went on.
            connection.name()?;
            let name = connection.name()?;
            Ok((connection, name))
        })
        .collect()
}

/// Fails unless each connection is still with its member.
fn check(kept: &mut [(Connection, String)], when: &str) -> Result<()> {
    for (connection, name) in kept {
        let now = connection.name();
        let now = now.map_err(|error| error.context(format!("{when}: a flow of {name} broke")))?;
        ensure!(now == *name, "{when}: a flow of {name} is with {now}");
    }
    Ok(())
}

#[test]
fn flows_survive_ring_change_reload_restart_and_death() -> Result<()> {
    let mut run = start(3)?;
    let mut kept = run.open(30)?;
    run.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    check(&mut kept, "after a drain")?;
    run.sluice
        .cli(&["member", "set", "b", "b", "loadfactor=9"])?
        .ok()?;
    check(&mut kept, "after a weight")?;

    // c is no longer configured: its flows end when they end.
    run.sluice.reload(&configuration(2, ""))?.ok()?;
    check(&mut kept, "after a reload without c")?;
    let seen = vip::answers(&run.lab.client, SERVICE, 20)?;
    ensure!(!seen.contains_key("c"), "{seen:?}");
    run.sluice.reload(&configuration(3, ""))?.ok()?;
    check(&mut kept, "after a reload with c")?;

    // Killed, both processes: packets go on, old and new.
    let proxy = run.sluice.proxy()?;
    run.sluice.crash()?;
    let _ = rustix::process::kill_process(proxy, Signal::KILL);
    check(&mut kept, "with the daemon dead")?;
    // One in ten of the new flows is c's, by the weights above: enough are opened to see both.
    drop(vip::one_of_each(&run.lab.client, SERVICE, &["b", "c"])?);
    run.sluice.launch(&[])?;
    check(&mut kept, "after a start over the dead")?;

    ensure!(run.sluice.stop()? == 0);
    check(&mut kept, "after a clean stop")?;
    run.sluice.launch(&[])?;
    check(&mut kept, "after a restart")?;
    Ok(())
}

#[test]
fn stopped_member_loses_its_flows_and_a_disabled_one_keeps_them() -> Result<()> {
    let run = start(3)?;
    // So many that some are b's.
    let mut kept = run.open(50)?;
    run.sluice.cli(&["member", "disable", "b", "b"])?.ok()?;
    check(&mut kept, "after disabling b")?;
    run.sluice
        .cli(&["member", "set", "b", "b", "status=+S"])?
        .ok()?;
    let (of_b, mut others): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, name)| name == "b");
    ensure!(!of_b.is_empty());
    check(&mut others, "after stopping b")?;
    // Another member gets their packets, and knows no such connection.
    for (mut connection, _) in of_b {
        ensure!(connection.name().is_err());
    }
    Ok(())
}

/// SYNs and pairs of blind acknowledgements of random flows, into a table of 1024 places, with a member
/// leaving and coming back in the middle of it. `full`: what is counted once flows find no place.
fn flood(vip: IpAddr, forward: &str, full: &str) -> Result<()> {
    const PLACES: u64 = 1024;
    let service = SocketAddr::new(vip, PORT);
    let lab = Lab::with(LabOptions {
        members: 3,
        attackers: 2,
    })?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let steer = format!(
        "    SteerPass tcp://{service} balancer://b forward={forward}\n    SteerFlowTable {PLACES}\n"
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let mut kept = open(&lab, service, 60)?;
    let floods: Vec<_> = [Kind::Syn, Kind::AckTwice]
        .into_iter()
        .zip(&lab.attackers)
        .map(|(kind, attacker)| {
            let flood = Flood {
                target: service,
                sources: Sources::Random,
                kind,
                count: 40_000,
                rate: 10_000,
            };
            let attacker = attacker.clone();
            std::thread::spawn(move || flood.run(&attacker))
        })
        .collect();
    for round in 0..4 {
        let verb = if round % 2 == 0 { "disable" } else { "enable" };
        sluice.cli(&["member", verb, "b", "c"])?.ok()?;
        check(&mut kept, "in the flood")?;
    }
    let mut sent = 0;
    for flood in floods {
        sent += flood.join().expect("a flood does not panic")?;
    }
    ensure!(sent > 100_000, "{sent} packets were sent");
    check(&mut kept, "after the flood")?;
    let said = sluice.json(&["service", "list"])?;
    let (entered, refused) = (count(&said, "steered_new"), count(&said, full));
    println!("{service} by {forward}: {entered} steered_new, {refused} {full}");
    // More flows than there are places: the table was full, and many found none.
    ensure!(entered > 0 && refused > PLACES, "{said}");
    Ok(())
}

/// Packets with this reason, of all services.
fn count(said: &serde_json::Value, reason: &str) -> u64 {
    let services = said["services"].as_array().into_iter().flatten();
    (services.flat_map(|service| service["counters"].as_array().into_iter().flatten()))
        .filter(|counter| counter["reason"] == reason)
        .filter_map(|counter| counter["packets"].as_u64())
        .sum()
}

#[test]
fn no_established_connection_breaks_in_floods_with_a_member_change() -> Result<()> {
    flood(VIP4.into(), "dsr", "steered_by_ring")
}

#[test]
fn no_established_connection_of_ipv6_breaks_in_floods_with_a_member_change() -> Result<()> {
    flood(VIP6.into(), "dsr", "steered_by_ring")
}

#[test]
fn no_translated_connection_breaks_in_floods_with_a_member_change() -> Result<()> {
    flood(VIP4.into(), "nat", "no_port")
}

#[test]
fn flow_list_names_the_member_of_each_flow() -> Result<()> {
    let run = start(3)?;
    let kept = run.open(6)?;
    for (connection, name) in &kept {
        let source = connection.local()?.to_string();
        let said = run
            .sluice
            .cli(&["flow", "show", &source, "--json"])?
            .ok()?
            .json()?;
        let index = b"abc".iter().position(|b| [*b] == name.as_bytes());
        let expected = lab::scene::member_address(index.unwrap_or(9) as u8).to_string();
        let flow = &said["flows"][0];
        let seen = flow["member"].as_str().unwrap_or_default();
        ensure!(seen.ends_with(&expected), "{flow} is not {expected}");
        ensure!(
            flow["destination"] == SERVICE.to_string() && flow["stays"] == true,
            "{flow}"
        );
    }
    let all = run
        .sluice
        .cli(&["flow", "list", "--source", "192.0.2.10"])?
        .ok()?;
    ensure!(all.out.contains("6 shown of 6 flows"), "{}", all.out);
    Ok(())
}

#[test]
fn steer_says_where_the_next_packet_goes() -> Result<()> {
    let run = start(3)?;
    let client = lab::topology::address(lab::topology::CLIENT);
    let ask = |port: u16| -> Result<serde_json::Value> {
        let (source, service) = (format!("{client}:{port}"), SERVICE.to_string());
        let words = ["steer", "tcp", &source, &service, "--json"];
        run.sluice.cli(&words)?.ok()?.json()
    };
    for port in 20_001..20_013 {
        let said = ask(port)?;
        ensure!(
            said["reason"] == "steered_new" && said["action"] == "send",
            "{said}"
        );
        let mut connection = Connection::open_from(&run.lab.client, port, SERVICE)?;
        let name = connection.name()?;
        ensure!(said["member"]["route"] == name, "{name}: {said}");
        let steps = said["steps"].to_string();
        ensure!(steps.contains("next hop: "), "{steps}");
        let said = ask(port)?;
        ensure!(
            said["reason"] == "steered" && said["member"]["route"] == name,
            "{said}"
        );
    }
    run.sluice.cli(&["deny", "add", "198.51.100.0/24"])?.ok()?;
    let denied = ["steer", "tcp", "198.51.100.7:1", &SERVICE.to_string()];
    let said = run.sluice.cli(&denied)?.ok()?;
    ensure!(said.out.contains("dropped (denied)"), "{}", said.out);
    let other = ["steer", "udp", "198.51.101.7:1", "192.0.2.1:53"];
    let said = run.sluice.cli(&other)?.ok()?;
    ensure!(
        said.out.contains("passed to this host (not_a_service)"),
        "{}",
        said.out
    );
    Ok(())
}

#[test]
fn reload_begins_to_steer_and_a_table_with_flows_keeps_its_size() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), ""))?;
    // The tables had no room at all before.
    sluice
        .reload(&configuration(3, "    SteerFlowTable 2048\n"))?
        .ok()?;
    let mut kept = vip::one_of_each(&lab.client, SERVICE, &["a", "b", "c"])?;
    let said = sluice.reload(&configuration(3, "    SteerFlowTable 8192\n"))?;
    ensure!(
        said.code != 0 && said.all().contains("SteerFlowTable"),
        "{said:?}"
    );
    let names: Vec<String> = (kept.iter_mut().map(Connection::name)).collect::<Result<_>>()?;
    ensure!(names == ["a", "b", "c"], "{names:?}");
    let said = sluice.cli(&["flow", "list"])?.ok()?;
    ensure!(said.out.contains("room for 2048 of IPv4"), "{}", said.out);
    Ok(())
}

#[test]
fn capture_writes_packets_with_their_verdicts() -> Result<()> {
    let run = start(3)?;
    let file = run.lab.dir().join("seen.pcapng");
    let mut child = (run.sluice.place().command())
        .args([
            "capture",
            "--reason",
            "steered_new",
            "--count",
            "5",
            "--for",
            "20s",
            "-w",
        ])
        .arg(&file)
        .spawn()?;
    let done = wait::until("five packets", wait::PATIENCE, || {
        vip::answers(&run.lab.client, SERVICE, 2).ok()?;
        child.try_wait().ok()?
    });
    let _ = child.kill();
    ensure!(done?.success());
    let bytes = std::fs::read(&file)?;
    ensure!(bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "no pcapng");
    let text = String::from_utf8_lossy(&bytes);
    let comments = text.matches("send steered_new, service ").count();
    ensure!(comments == 5, "{comments} comments");
    ensure!(text.contains("member http://192.0.2.2"));
    // Whoever reads such files reads this one.
    if lab::has_tool("tcpdump") {
        let said = lab::netns::run(std::process::Command::new("tcpdump").arg("-nr").arg(&file))?;
        let syns = said
            .lines()
            .filter(|line| line.contains("203.0.113.10.8080: Flags [S]"));
        ensure!(syns.count() == 5, "{said}");
    }
    let settings = run.sluice.cli(&["settings", "--json"])?.ok()?;
    ensure!(settings.out.contains("guard"));
    Ok(())
}

#[test]
fn interface_made_anew_is_steered_again() -> Result<()> {
    let mut run = start(3)?;
    ensure!(vip::answers(&run.lab.client, SERVICE, 30)?.len() > 1);
    run.lab.replug_balancer()?;
    wait::until("packets to be steered again", wait::PATIENCE, || {
        vip::answers(&run.lab.client, SERVICE, 3).ok().map(drop)
    })?;
    let log = run.sluice.log();
    ensure!(
        log.contains("is another now") || log.contains("has vanished"),
        "{log}"
    );
    Ok(())
}
