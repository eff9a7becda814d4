//! The seam: one balancer takes packets by SteerPass and requests by ProxyPass, and one flag, one
//! weight, one health check means the same to both.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::{
    Curl, Lab, Member, Sluice,
    scene::{member, site},
    vip::{self, Connection, PORT, VIP4},
    wait,
};
use serde_json::Value;

struct Seam {
    sluice: Sluice,
    members: Vec<Member>,
    curl: Curl,
    lab: Lab,
}

/// Members take packets to the VIP by `forward`, and requests to the balancer's own address.
fn start(parameters: &str, forward: &str) -> Result<Seam> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let members = vip::members(&lab)?;
    let three: String = (0..3).map(|index| member(index, parameters)).collect();
    let steer = format!("    SteerPass tcp://{VIP4}:{PORT} balancer://b forward={forward}\n");
    let sluice = Sluice::start(&lab, &site(&three, &steer))?;
    Ok(Seam {
        sluice,
        members,
        curl: Curl::inside(&lab.client),
        lab,
    })
}

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIP4), PORT);

impl Seam {
    /// Who answers new flows.
    fn flows(&self, count: u32) -> Result<BTreeMap<String, u32>> {
        vip::answers(&self.lab.client, SERVICE, count)
    }

    /// Who answers requests.
    fn requests(&self, count: u32) -> Result<BTreeMap<String, u32>> {
        let url = format!("http://{}/name", lab::scene::service());
        let mut seen = BTreeMap::new();
        for answer in self.curl.series(&url, count)? {
            *seen.entry(answer.body).or_default() += 1;
        }
        Ok(seen)
    }

    fn cli(&self, words: &[&str]) -> Result<()> {
        self.sluice.cli(words)?.ok().map(drop)
    }

    /// The row of a member, by route: what `member list` says of packets and requests alike.
    fn row(&self, route: &str) -> Result<Value> {
        let said = self.sluice.cli(&["member", "list", "--json"])?.ok()?;
        let json = said.json()?;
        let rows = json["members"].as_array().context("members")?;
        let found = rows.iter().find(|row| row["route"] == route);
        Ok(found
            .with_context(|| format!("no {route} in {json}"))?
            .clone())
    }
}

impl Seam {
    /// Waits until the ring leads no new flow to a member.
    fn wait_out(&self, route: &str) -> Result<()> {
        wait::until("the ring to leave it out", wait::PATIENCE, || {
            (self.row(route).ok()?["steered"]["slots"] == 0).then_some(())
        })
    }
}

fn has(seen: &BTreeMap<String, u32>, name: &str) -> bool {
    seen.contains_key(name)
}

#[test]
fn one_drain_weight_disable_and_failed_check_move_packets_and_requests() -> Result<()> {
    let mut seam = start("hcmethod=TCP hcinterval=1 hcpasses=1 hcfails=2", "dsr")?;
    let mut kept = vip::one_of_each(&seam.lab.client, SERVICE, &["a", "b", "c"])?;
    let (flows, requests) = (seam.flows(60)?, seam.requests(30)?);
    ensure!(
        flows.len() == 3 && requests.len() == 3,
        "{flows:?} {requests:?}"
    );

    seam.cli(&["member", "drain", "b", "a"])?;
    let (flows, requests) = (seam.flows(30)?, seam.requests(30)?);
    ensure!(
        !has(&flows, "a") && !has(&requests, "a"),
        "{flows:?} {requests:?}"
    );
    // Flows that were there stay.
    let names: Vec<String> = kept
        .iter_mut()
        .map(Connection::name)
        .collect::<Result<_>>()?;
    ensure!(names == ["a", "b", "c"], "{names:?}");

    seam.cli(&["member", "enable", "b", "a"])?;
    seam.cli(&["member", "set", "b", "a", "loadfactor=8"])?;
    let (flows, requests) = (seam.flows(60)?, seam.requests(60)?);
    // 8 of 10 are 48, give or take: five times what such draws differ by. It would be 20 by thirds.
    ensure!(
        flows["a"] >= 33 && requests["a"] >= 44,
        "{flows:?} {requests:?}"
    );

    seam.cli(&["member", "disable", "b", "b"])?;
    let (flows, requests) = (seam.flows(30)?, seam.requests(30)?);
    ensure!(
        !has(&flows, "b") && !has(&requests, "b"),
        "{flows:?} {requests:?}"
    );

    // Both counters stand in one row.
    let row = seam.row("a")?;
    ensure!(row["elected"].as_u64() >= Some(54), "{row}");
    ensure!(row["steered"]["flows"].as_u64() >= Some(33), "{row}");
    ensure!(
        row["steered"]["packets"].as_u64() > row["steered"]["flows"].as_u64(),
        "{row}"
    );
    // 8 of 9: b is out.
    let slots = row["steered"]["slots"].as_f64().context("slots")? / 65537.0;
    ensure!((0.88..0.90).contains(&slots), "{row}");

    seam.cli(&["member", "enable", "b", "b"])?;
    seam.cli(&["member", "set", "b", "a", "loadfactor=1"])?;
    let (flows, requests) = (seam.flows(60)?, seam.requests(30)?);
    ensure!(
        flows.len() == 3 && requests.len() == 3,
        "{flows:?} {requests:?}"
    );
    // No request notices it first: the check alone says so.
    seam.members[1].kill();
    wait::until("the check of b to fail", wait::PATIENCE, || {
        let row = seam.row("b").ok()?;
        (row["state"].as_array()?.contains(&Value::from("C"))).then_some(())
    })?;
    seam.wait_out("b")?;
    let (flows, requests) = (seam.flows(30)?, seam.requests(30)?);
    ensure!(
        !has(&flows, "b") && !has(&requests, "b"),
        "{flows:?} {requests:?}"
    );
    Ok(())
}

/// How soon is `dataplane_kernel`'s to measure, where nothing else runs beside it.
#[test]
fn error_that_requests_meet_keeps_new_flows_away() -> Result<()> {
    let mut seam = start("retry=60", "dsr")?;
    drop(vip::one_of_each(&seam.lab.client, SERVICE, &["c"])?);
    // Requests notice that it refuses; packets would not.
    seam.members[2].kill();
    wait::until("a request to fail on c", wait::PATIENCE, || {
        seam.requests(3).ok()?;
        let row = seam.row("c").ok()?;
        row["state"]
            .as_array()?
            .contains(&Value::from("E"))
            .then_some(())
    })?;
    seam.wait_out("c")?;
    let flows = seam.flows(30)?;
    ensure!(!has(&flows, "c"), "{flows:?}");
    Ok(())
}
