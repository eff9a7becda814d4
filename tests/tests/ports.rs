//! Local ports: when none is left towards a member, that is this host's want and not the member's fault.

use anyhow::{Result, ensure};
use lab::{
    Lab, Scene, Sluice,
    curl::letters,
    scene::{member, site_with},
    sluice::Place,
    topology, wait,
};

/// How many requests failed for this reason.
fn failed(sluice: &Sluice, reason: &str) -> Result<u64> {
    let label = format!("reason=\"{reason}\"");
    let page = sluice.cli(&["metrics"])?.ok()?.out;
    let lines = page
        .lines()
        .filter(|line| line.starts_with("sluice_requests_failed_total{") && line.contains(&label));
    lines
        .filter_map(|line| line.rsplit(' ').next())
        .map(|count| Ok(count.parse::<u64>()?))
        .sum()
}

#[test]
fn no_port_left_is_this_hosts_want_and_puts_no_member_into_error() -> Result<()> {
    // One shard: each has pools of its own, and what waits in another's is no use to a request.
    let members = member(0, "") + &member(1, "");
    let text = site_with(&members, "", "SluiceShards 1");
    let scene = Scene::start(&text)?;
    // From now on: four connections to each member.
    let range = "net/ipv4/ip_local_port_range";
    scene.lab.balancer.set_sysctl(range, "40000 40003")?;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(scene.curl.start_series(&scene.url("/name?hold=1"), 1)?);
    }
    scene.members[0].wait_held(4)?;
    scene.members[1].wait_held(4)?;
    for round in 1..=4 {
        let answer = scene.curl.get(&scene.url("/name"))?;
        ensure!(answer.status == 503, "{answer:?}");
        // Counted when the answer is on its way.
        wait::until("the request to be counted", wait::PATIENCE, || {
            (failed(&scene.sluice, "no_resources").ok()? == round).then_some(())
        })?;
    }
    ensure!(failed(&scene.sluice, "connect_failed")? == 0);
    for route in ["a", "b"] {
        let state = scene.sluice.state("b", route)?;
        ensure!(!state.contains('E'), "{route}: {state}");
    }
    let log = scene.sluice.log();
    ensure!(
        log.contains("no connection to http://") && log.contains("no_resources"),
        "{log}"
    );
    scene.members[0].release();
    scene.members[1].release();
    for series in held {
        let answer = letters(&series.finish()?);
        ensure!(answer == "a" || answer == "b", "{answer}");
    }
    // Those connections are in the pool, and used.
    let answers = scene.curl.series(&scene.url("/name"), 8)?;
    ensure!(
        answers.iter().all(|answer| answer.status == 200),
        "{answers:?}"
    );
    ensure!(failed(&scene.sluice, "no_resources")? == 4);
    Ok(())
}

#[test]
fn no_address_of_a_members_family_is_a_failed_connection() -> Result<()> {
    let lab = Lab::new()?;
    let other = lab::Member::start(&lab.balancer, "well", ([127, 0, 0, 1], 8080).into())?;
    let place = Place::in_lab(&lab, "main")?;
    let text = format!(
        "ServerName lab.test\nListen {}:80\nUser nobody\nGroup nogroup\n<Proxy balancer://b>\n\
         BalancerMember http://[::1]:8080 route=six\nBalancerMember http://{} route=four\n\
         </Proxy>\nProxyPass / balancer://b/\n",
        topology::address(topology::BALANCER),
        other.address(),
    );
    // The kernel says of ::1 what it says where no port is left.
    lab.balancer
        .set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    let sluice = Sluice::start_in(place, &text, &["--no-xdp"])?;
    let curl = lab::Curl::inside(&lab.client);
    let url = format!("http://{}/name", topology::address(topology::BALANCER));
    for _ in 0..3 {
        let answer = curl.get(&url)?;
        ensure!(
            answer.status == 200 && answer.text() == "well",
            "{answer:?}"
        );
    }
    ensure!(sluice.state("b", "six")?.contains('E'));
    ensure!(
        sluice.log().contains("Cannot assign requested address"),
        "{}",
        sluice.log()
    );
    ensure!(failed(&sluice, "no_resources")? == 0);
    Ok(())
}
