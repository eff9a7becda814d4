//! A member dies: what clients see of it, and how it comes back (apache.md 5.5).

use anyhow::{Result, ensure};
use lab::{
    Scene,
    scene::{member, site, three},
    tables,
    wait::{self, PATIENCE},
};

#[test]
fn killed_member_costs_no_request_but_what_it_had() -> Result<()> {
    let mut scene = Scene::start(&site(&three("retry=60"), ""))?;
    let series: Vec<_> = (0..4)
        .map(|_| scene.curl.start_series(&scene.url("/name"), 200))
        .collect::<Result<_>>()?;
    wait::until("requests on the member", PATIENCE, || {
        (scene.members[0].requests() > 20).then_some(())
    })?;
    scene.members[0].kill();
    let mut failed = 0;
    let mut answered = 0;
    for series in series {
        for answer in series.finish()? {
            answered += 1;
            failed += usize::from(answer.status != 200);
        }
    }
    ensure!(answered == 800, "{answered} answers");
    ensure!(
        failed <= 4,
        "{failed} failed; no more than four were under way"
    );
    ensure!(!scene.letters(6)?.contains('a'));
    Ok(())
}

#[test]
fn dead_member_is_in_error_in_every_view() -> Result<()> {
    let mut scene = Scene::start(&site(&three("retry=60"), ""))?;
    scene.members[1].kill();
    ensure!(!scene.letters(3)?.contains("50"), "failover hides it");
    let row = tables::member(&scene.sluice.pins(), "b", "b")?;
    ensure!(row.letters() == "E", "{row:?}");
    ensure!(scene.sluice.state("b", "b")? == "E");
    Ok(())
}

#[test]
fn request_with_a_body_fails_over_when_the_connect_fails() -> Result<()> {
    let mut scene = Scene::start(&site(&three("retry=0"), ""))?;
    scene.members[0].kill();
    let body = "x".repeat(200_000);
    let file = scene.lab.dir().join("body");
    std::fs::write(&file, body)?;
    let curl = scene
        .curl
        .clone()
        .option("--data-binary")
        .option(format!("@{}", file.display()));
    for _ in 0..3 {
        let seen = curl.get(&scene.url("/"))?.json()?;
        ensure!(
            seen["body_bytes"] == 200_000 && seen["method"] == "POST",
            "{seen}"
        );
    }
    Ok(())
}

#[test]
fn no_member_left_is_503() -> Result<()> {
    let mut scene = Scene::start(&site(&three("retry=0"), ""))?;
    for member in &mut scene.members {
        member.kill();
    }
    scene.expect(2, "503 503")?;
    Ok(())
}

#[test]
fn standby_serves_when_the_others_cannot() -> Result<()> {
    let balancer = member(0, "retry=60") + &member(1, "retry=60") + &member(2, "status=+H");
    let mut scene = Scene::start(&site(&balancer, ""))?;
    scene.expect(4, "a b a b")?;
    scene.members[0].kill();
    scene.members[1].kill();
    scene.expect(4, "c c c c")?;
    Ok(())
}

#[test]
fn member_in_error_is_left_alone_until_retry_has_passed() -> Result<()> {
    let balancer = member(0, "retry=4") + &member(1, "retry=4");
    let mut scene = Scene::start(&site(&balancer, ""))?;
    scene.members[0].kill();
    scene.expect(2, "b b")?;
    scene.revive(0)?;
    scene.expect(4, "b b b b")?;
    wait::until("the member to be tried again", PATIENCE, || {
        scene
            .letters(2)
            .is_ok_and(|seen| seen.contains('a'))
            .then_some(())
    })?;
    ensure!(
        scene.sluice.state("b", "a")?.is_empty(),
        "a success cures it"
    );
    Ok(())
}

#[test]
fn all_members_in_error_are_tried_again_at_once() -> Result<()> {
    let mut scene = Scene::start(&site(&three("retry=600"), ""))?;
    for member in &mut scene.members {
        member.kill();
    }
    scene.expect(1, "503")?;
    for index in 0..3 {
        scene.revive(index)?;
    }
    ensure!(
        !scene.letters(3)?.contains("503"),
        "forcerecovery is on by default"
    );
    Ok(())
}

#[test]
fn without_forcerecovery_they_wait_for_retry() -> Result<()> {
    let balancer = three("retry=600") + "    ProxySet forcerecovery=Off\n";
    let mut scene = Scene::start(&site(&balancer, ""))?;
    for member in &mut scene.members {
        member.kill();
    }
    scene.expect(1, "503")?;
    for index in 0..3 {
        scene.revive(index)?;
    }
    scene.expect(3, "503 503 503")?;
    Ok(())
}

#[test]
fn broken_answer_is_502_and_no_reason_to_shun_the_member() -> Result<()> {
    let scene = Scene::start(&site(&member(0, "retry=600"), ""))?;
    scene.expect(1, "a")?;
    let response = scene.curl.get(&scene.url("/?garbage=1"))?;
    ensure!(response.status == 502, "{response:?}");
    scene.expect(2, "a a")?;
    Ok(())
}

#[test]
fn body_cut_short_reaches_the_client_cut_short() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let response = scene.curl.get(&scene.url("/?size=100000&cut=5000"))?;
    // curl: 18 a transfer closed early, 56 reset.
    ensure!(
        response.status == 200 && [18, 56].contains(&response.exit),
        "{}",
        response.exit
    );
    scene.expect(2, "a a")?;
    Ok(())
}

#[test]
fn idle_connection_that_the_member_closed_is_not_used_again() -> Result<()> {
    let mut scene = Scene::start(&site(&member(0, "retry=600"), ""))?;
    scene.expect(3, "a a a")?;
    scene.members[0].kill();
    scene.revive(0)?;
    ensure!(
        scene.letters(3)? == "a a a",
        "the pool's dead connections are replaced unseen"
    );
    Ok(())
}
