//! `demo l4`: `examples/steer.conf` at work: packets and requests to the same members.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use lab::{
    Curl, Lab, LabOptions, Sluice,
    curl::letters,
    flood::{Flood, Kind, Sources},
    sluice::Place,
    sweep,
    unwrap::Unwrap,
    vip::{self, Connection, Echo, PORT, VIP4},
};

use super::report::{Report, say};

const EXAMPLE: &str = "examples/steer.conf";

/// Builds the lab, shows, and takes everything away.
pub(super) fn run(root: &Path, program: &Path) -> Result<()> {
    sweep::sweep_dead();
    let lab = Lab::with(LabOptions {
        members: 3,
        attackers: 2,
    })?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let _tunnels: Vec<Unwrap> = (lab.members.iter().map(Unwrap::start)).collect::<Result<_>>()?;
    let text = std::fs::read_to_string(root.join(EXAMPLE))
        .with_context(|| format!("reading {EXAMPLE}"))?;
    let mut place = Place::in_lab(&lab, "steer")?;
    program.clone_into(&mut place.program);
    let mut sluice = Sluice::start_in(place, &text, &[])?;
    println!("sluice runs {EXAMPLE}: packets to {VIP4}, requests to 192.0.2.1.");

    let mut report = Report::default();
    let service = SocketAddr::from((VIP4, PORT));
    let flows = |count| vip::answers(&lab.client, service, count);
    let curl = Curl::inside(&lab.client);
    let requests = || -> Result<String> {
        let url = format!("http://{}/name", lab::scene::service());
        Ok(letters(&curl.series(&url, 9)?))
    };

    report.section("New flows and requests, b with twice the load factor, c a standby");
    let seen = flows(60)?;
    say(format!("flows    {}", counts(&seen)));
    say(format!("requests {}", requests()?));
    report.check(seen.len() == 2 && !seen.contains_key("c"), "c stands by");
    let b = seen.get("b").copied().unwrap_or(0);
    report.check(
        (30..=50).contains(&b),
        "b gets about two thirds of the flows",
    );

    report.section("One drain moves both, and flows that are there stay");
    let mut kept = vip::one_of_each(&lab.client, service, &["a", "b"])?;
    sluice.cli(&["member", "drain", "app", "a"])?.ok()?;
    let (new, asked) = (flows(20)?, requests()?);
    say(format!("flows    {}", counts(&new)));
    say(format!("requests {asked}"));
    report.check(
        !new.contains_key("a") && !asked.contains('a'),
        "nothing new goes to a",
    );
    report.check(
        kept[0].name().is_ok_and(|name| name == "a"),
        "a's flow is still a's",
    );

    report.section("One disable more, and the standby takes packets and requests");
    sluice.cli(&["member", "disable", "app", "b"])?.ok()?;
    let (new, asked) = (flows(20)?, requests()?);
    say(format!("flows    {}", counts(&new)));
    say(format!("requests {asked}"));
    report.check(new.contains_key("c") && new.len() == 1, "all flows go to c");
    report.check(!asked.contains(['a', 'b']), "all requests go to c");
    for member in ["a", "b"] {
        sluice.cli(&["member", "enable", "app", member])?.ok()?;
    }

    report.section("Datagrams through ipip");
    let dns = SocketAddr::from((VIP4, 53));
    let echoes: Vec<Echo> = (lab.members.iter().zip(["a", "b"]))
        .map(|(home, name)| Echo::start(home, name, dns))
        .collect::<Result<_>>()?;
    let mut seen = BTreeMap::new();
    for _ in 0..20 {
        *seen
            .entry(vip::ask_by_datagram(&lab.client, dns)?)
            .or_default() += 1;
    }
    say(counts(&seen));
    report.check(seen.len() == 2, "both members answer");
    drop(echoes);

    report.section("Floods of SYNs and blind acknowledgements, a member leaving in the middle");
    let mut many: Vec<(Connection, String)> = (0..40)
        .map(|_| {
            let mut connection = Connection::open(&lab.client, service)?;
            connection.name()?;
            let name = connection.name()?;
            Ok((connection, name))
        })
        .collect::<Result<_>>()?;
    let floods: Vec<_> = ([Kind::Syn, Kind::AckTwice].into_iter().zip(&lab.attackers))
        .map(|(kind, attacker)| {
            let flood = Flood {
                target: service,
                sources: Sources::Random,
                kind,
                count: 30_000,
                rate: 15_000,
            };
            let attacker = attacker.clone();
            std::thread::spawn(move || flood.run(&attacker))
        })
        .collect();
    sluice.cli(&["member", "disable", "app", "b"])?.ok()?;
    let whole = |many: &mut Vec<(Connection, String)>| {
        (many.iter_mut()).all(|(connection, name)| connection.name().is_ok_and(|now| now == *name))
    };
    let during = whole(&mut many);
    let sent: u32 = (floods.into_iter())
        .filter_map(|flood| flood.join().ok()?.ok())
        .sum();
    say(format!("{sent} packets of flood"));
    report.check(
        during && whole(&mut many),
        "40 connections went on, each with its member",
    );
    sluice.cli(&["member", "enable", "app", "b"])?.ok()?;

    report.section("What sluice says of it");
    say(sluice.cli(&["member", "list"])?.ok()?.out);
    say(sluice
        .cli(&["flow", "list", "--source", "192.0.2.10", "--most", "5"])?
        .ok()?
        .out);
    let why = sluice.cli(&["steer", "tcp", "198.51.100.7:40000", &service.to_string()])?;
    say(why.ok()?.out);

    report.section("Control and proxy killed");
    let proxy = sluice.proxy()?;
    sluice.crash()?;
    // It may have left by itself.
    let _ = rustix::process::kill_process(proxy, rustix::process::Signal::KILL);
    let new = flows(10)?;
    say(format!("flows    {}", counts(&new)));
    report.check(
        !new.is_empty() && whole(&mut many),
        "packets go on, old flows and new",
    );
    sluice.launch(&[])?;
    report.check(
        whole(&mut many),
        "and a new daemon takes over where the old one was",
    );
    report.finish()
}

fn counts(seen: &BTreeMap<String, u32>) -> String {
    let parts: Vec<String> = (seen.iter())
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    parts.join("  ")
}
