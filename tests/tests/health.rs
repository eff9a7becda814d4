//! Health checks (mod_proxy_hcheck, apache.md 5.6): members leave and come back without a request
//! having to find out.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    Scene,
    scene::{member, site_with, three},
    tables,
    wait::{self, PATIENCE},
};

/// Checks every 100 ms.
const FAST: &str = "hcinterval=100ms retry=600";

fn site(balancer: &str, first: &str) -> String {
    site_with(balancer, "", &format!("LogLevel info\n{first}"))
}

fn wait_for(scene: &Scene, member: &str, letters: &str) -> Result<()> {
    wait::until(&format!("{member} to be {letters:?}"), PATIENCE, || {
        (scene.sluice.state("b", member).ok()? == letters).then_some(())
    })
}

#[test]
fn a_dead_member_is_left_before_any_request_meets_it() -> Result<()> {
    let mut scene = Scene::start(&site(&three(&format!("hcmethod=TCP {FAST}")), ""))?;
    scene.members[1].kill();
    wait_for(&scene, "b", "C")?;
    let row = tables::member(&scene.sluice.pins(), "b", "b")?;
    ensure!(row.letters() == "C", "packets see it too: {row:?}");
    ensure!(!scene.letters(6)?.contains('b'));
    let failed = scene.sluice.member("b", "b")?["failed"].clone();
    ensure!(failed == 0, "no request met it: {failed}");
    scene.revive(1)?;
    wait_for(&scene, "b", "")?;
    ensure!(scene.letters(6)?.matches('b').count() == 2);
    let log = scene.sluice.log();
    for id in [
        "AH03303: Health check DISABLING",
        "AH03302: Health check ENABLING",
    ] {
        ensure!(log.contains(id), "{id}: {log}");
    }
    Ok(())
}

#[test]
fn status_and_expression_decide() -> Result<()> {
    let balancer = member(0, &format!("hcmethod=GET hcuri=/?status=200 {FAST}"))
        + &member(1, &format!("hcmethod=HEAD11 hcuri=/?status=503 {FAST}"))
        + &member(2, &format!("hctemplate=body hcuri=/name {FAST}"));
    let first = "ProxyHCExpr known {%{REQUEST_STATUS} == '200' && hc('body') =~ /^[ab]$/}\n\
                 ProxyHCTemplate body hcmethod=GET hcexpr=known\n";
    let scene = Scene::start(&site(&balancer, first))?;
    wait_for(&scene, "b", "C")?;
    wait_for(&scene, "c", "C")?;
    ensure!(scene.sluice.state("b", "a")?.is_empty());
    scene.expect(3, "a a a")?;
    Ok(())
}

#[test]
fn a_check_cures_a_member_that_a_request_put_into_error() -> Result<()> {
    let parameters = "hcmethod=TCP hcinterval=300ms hcfails=1000 retry=600";
    let mut scene = Scene::start(&site(&three(parameters), ""))?;
    scene.members[0].kill();
    scene.letters(3)?;
    ensure!(scene.sluice.state("b", "a")? == "E");
    scene.revive(0)?;
    wait_for(&scene, "a", "")?;
    ensure!(scene.letters(6)?.contains('a'));
    Ok(())
}

#[test]
fn every_member_failed_is_503_until_one_is_back() -> Result<()> {
    let mut scene = Scene::start(&site(&three(&format!("hcmethod=TCP {FAST}")), ""))?;
    for member in &mut scene.members {
        member.kill();
    }
    for name in ["a", "b", "c"] {
        wait_for(&scene, name, "C")?;
    }
    scene.expect(2, "503 503")?;
    scene.revive(2)?;
    wait_for(&scene, "c", "")?;
    scene.expect(2, "c c")?;
    Ok(())
}

#[test]
fn a_stopped_member_is_not_asked() -> Result<()> {
    let scene = Scene::start(&site(
        &three(&format!("hcmethod=GET hcuri=/name {FAST}")),
        "",
    ))?;
    scene
        .sluice
        .cli(&["member", "set", "b", "a", "status=+S"])?
        .ok()?;
    // One check may be under way.
    let asked = scene.members[0].requests() + 1;
    let others = scene.members[1].requests();
    wait::until("five more checks of b", PATIENCE, || {
        (scene.members[1].requests() > others + 5).then_some(())
    })?;
    ensure!(scene.members[0].requests() <= asked);
    Ok(())
}

#[test]
fn a_reload_ends_and_begins_checks() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    ensure!(scene.members[0].accepted() == 0);
    let checked = site(&three(&format!("hcmethod=TCP {FAST}")), "");
    scene.sluice.reload(&checked)?.ok()?;
    wait::until("checks", PATIENCE, || {
        (scene.members[0].accepted() > 2).then_some(())
    })?;
    scene.sluice.reload(&site(&three(""), ""))?.ok()?;
    let asked = scene.members[0].accepted() + 1;
    // Nothing to wait for but time itself: several intervals without a check.
    std::thread::sleep(Duration::from_millis(500));
    ensure!(scene.members[0].accepted() <= asked);
    Ok(())
}

#[test]
fn a_member_that_hangs_fails_by_its_timeout() -> Result<()> {
    let parameters = format!("hcmethod=GET hcuri=/?hold=1 timeout=1 {FAST}");
    let balancer = member(0, &parameters) + &member(1, "");
    let scene = Scene::start(&site(&balancer, ""))?;
    wait_for(&scene, "a", "C")?;
    scene.expect(2, "b b")?;
    Ok(())
}
