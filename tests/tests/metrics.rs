//! Metrics where there are kernel maps: packets by reason, and what a dead instance still tells.

use anyhow::{Result, ensure};
use lab::{
    Scene,
    scene::{site, three},
    wait,
};

/// The sum of a metric's samples whose line has all of these.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter(|line| line.starts_with(name) && !line.starts_with('#'))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn packets_are_counted_by_reason_and_a_dead_instances_maps_are_read() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), "GuardDeny 203.0.113.0/24"))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    // Counted when the answer is on its way.
    let alive = wait::until("six requests to be counted", wait::PATIENCE, || {
        let page = scene.sluice.cli(&["metrics"]).ok()?.out;
        (sum(&page, "sluice_requests_total{", &["code=\"2xx\""]) > 5.5).then_some(page)
    })?;
    let elected = |page: &str| sum(page, "sluice_member_elected_total{", &["balancer=\"b\""]);
    let passed = |page: &str| {
        let labels = ["action=\"pass\"", "reason=\"local\""];
        sum(page, "sluice_xdp_packets_total{", &labels)
    };
    let drained = |page: &str| sum(page, "sluice_member_state{", &["state=\"N\""]);
    ensure!(passed(&alive) > 6.0, "{alive}");
    ensure!((elected(&alive) - 6.0).abs() < 0.5, "{alive}");
    let denied = ["list=\"deny\"", "origin=\"file\""];
    ensure!(sum(&alive, "sluice_guard_prefixes{", &denied) > 0.5);
    ensure!(alive.contains("\nsluice_heartbeat_age_seconds "), "{alive}");

    scene.sluice.crash()?;
    let dead = scene.sluice.cli(&["metrics"])?.ok()?.out;
    ensure!(
        dead.contains("\nsluice_up{process=\"control\"} 0\n"),
        "{dead}"
    );
    ensure!((elected(&dead) - 6.0).abs() < 0.5, "{dead}");
    ensure!(passed(&dead) >= passed(&alive), "{dead}");
    ensure!((drained(&dead) - 1.0).abs() < 0.5, "{dead}");
    ensure!(!dead.contains("sluice_requests_total"), "{dead}");
    Ok(())
}
