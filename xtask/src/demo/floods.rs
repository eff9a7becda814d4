//! The demo's floods: how much was sent, what XDP dropped and why, what the stack saw of it, and
//! how the client fared meanwhile.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use lab::{
    Curl, Lab, Member, Namespace,
    flood::{Flood, Kind, Sources},
    tables, topology,
    wait::{self, PATIENCE},
};
use lb_common::verdict::{Action, Reason};

use super::{
    report::{Report, say},
    shop::Shop,
};

/// Packets of each flood, and how many a second.
const PACKETS: u32 = 60_000;
const RATE: u32 = 30_000;
/// Requests of the client while a flood runs, on one connection that it had before.
const REQUESTS: u32 = 200;

/// One address sends; then addresses without number do.
pub(super) fn run(lab: &Lab, shop: &Shop, pins: &Path, report: &mut Report) -> Result<()> {
    let target = SocketAddr::from((topology::address(topology::BALANCER), 80));
    let one = topology::address(topology::ATTACKERS);
    report.section(&format!("A flood of {PACKETS} SYNs from {one}"));
    let flood = Flood {
        target,
        sources: Sources::One(one.into()),
        kind: Kind::Syn,
        count: PACKETS,
        rate: RATE,
    };
    let dropped = attack(lab, &lab.attackers[0], shop, pins, report, flood)?;
    report.check(
        dropped.of(Reason::SYN_SOURCE_LIMIT) > 0,
        "its limit per source stopped it",
    );
    let fresh = Curl::inside(&lab.client).get(&format!("{}/name", shop.url))?;
    report.check(
        fresh.status == 200,
        "a new connection of another address gets through",
    );

    report.section(&format!("A flood of {PACKETS} SYNs from random addresses"));
    let flood = Flood {
        sources: Sources::Random,
        ..flood
    };
    let dropped = attack(lab, &lab.attackers[1], shop, pins, report, flood)?;
    report.check(
        dropped.of(Reason::SYN_SERVICE_LIMIT) > 0,
        "the service's limit stopped it",
    );
    say("(new connections of honest clients share that limit; SYN cookies are to come)");
    Ok(())
}

/// Drops by reason during one flood.
struct Dropped(Vec<(Reason, u64)>);

impl Dropped {
    fn of(&self, reason: Reason) -> u64 {
        self.0
            .iter()
            .find(|(candidate, _)| *candidate == reason)
            .map_or(0, |(_, n)| *n)
    }
}

fn attack(
    lab: &Lab,
    attacker: &Namespace,
    shop: &Shop,
    pins: &Path,
    report: &mut Report,
    flood: Flood,
) -> Result<Dropped> {
    let verdicts = tables::verdicts(pins)?;
    let segments = lab.balancer.snmp("Tcp", "InSegs")?;
    let before: u64 = shop.members.iter().map(Member::requests).sum();
    // What is promised is about connections that the client had before the flood.
    let client = shop
        .curl
        .start_series(&format!("{}/name?delay=8", shop.url), REQUESTS)?;
    wait::until("the client's first request", PATIENCE, || {
        (shop.members.iter().map(Member::requests).sum::<u64>() > before).then_some(())
    })?;
    let sender = attacker.clone();
    let sent = std::thread::spawn(move || flood.run(&sender))
        .join()
        .ok()
        .context("the flood's thread panicked")??;
    let answers = client.finish()?;
    let reasons = tables::verdicts(pins)?.since(&verdicts);
    let reached = lab.balancer.snmp("Tcp", "InSegs")? - segments;
    let of = |action: Action| -> u64 {
        reasons
            .iter()
            .filter(|(reason, _)| reason.action() == action)
            .map(|(_, n)| n)
            .sum()
    };
    say(format!("sent                        {sent:>8}"));
    for (reason, packets) in reasons
        .iter()
        .filter(|(reason, _)| reason.action() == Action::Drop)
    {
        say(format!("dropped: {:<18} {packets:>8}", reason.name()));
    }
    say(format!(
        "passed by XDP               {:>8}  (members' answers included)",
        of(Action::Pass)
    ));
    say(format!(
        "TCP segments in the stack   {reached:>8}  (members' answers included)"
    ));
    let failed = answers.iter().filter(|answer| answer.status != 200).count();
    say(format!(
        "client: {} requests during the flood, {failed} failed",
        answers.len()
    ));
    report.check(
        of(Action::Drop) > u64::from(sent) / 2,
        "most of it was dropped before the stack",
    );
    report.check(
        failed == 0 && answers.len() == REQUESTS as usize,
        "requests on the client's connection went on",
    );
    Ok(Dropped(reasons))
}
