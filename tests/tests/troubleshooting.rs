//! What docs/troubleshooting.md promises: each trouble, made on purpose, has its status, its reason in
//! the log and in the response field that is asked for, and its message id.

use anyhow::{Context, Result, ensure};
use lab::{
    Scene,
    curl::Response,
    scene::{member, site_with, three},
    wait::{self, PATIENCE},
};

const FIELD: &str = "Header always set X-Sluice-Reason \"%{SLUICE_REASON}e\" env=SLUICE_REASON\n";

fn start(balancer: &str, more: &str) -> Result<Scene> {
    let first = format!("LogLevel debug\n{FIELD}{more}\n");
    Scene::start(&site_with(balancer, "", &first))
}

/// The answer has this status and reason, and the log these words.
fn is(scene: &Scene, answer: &Response, status: u16, reason: &str, words: &[&str]) -> Result<()> {
    let log = scene.sluice.log();
    ensure!(answer.status == status, "{answer:?}\n{log}");
    let said = answer.header("X-Sluice-Reason");
    ensure!(said == Some(reason), "{said:?} for {reason}: {answer:?}");
    for word in words {
        wait::until(word, PATIENCE, || {
            scene.sluice.log().contains(word).then_some(())
        })
        .with_context(|| format!("{word} in {}", scene.sluice.log()))?;
    }
    Ok(())
}

#[test]
fn members_that_refuse_are_503_with_their_ids() -> Result<()> {
    let mut scene = start(&(three("retry=60") + "ProxySet forcerecovery=Off\n"), "")?;
    let url = scene.url("/name");
    ensure!(
        scene.curl.get(&url)?.header("X-Sluice-Reason").is_none(),
        "it did not fail"
    );
    for member in &mut scene.members {
        member.kill();
    }
    let refused = scene.curl.get(&url)?;
    let ids = ["AH00957: http: attempt to connect to", "AH01114", "AH00959"];
    is(&scene, &refused, 503, "connect_failed", &ids)?;
    let nobody = scene.curl.get(&url)?;
    let id = "AH01170: balancer://b: All workers are in error state";
    is(&scene, &nobody, 503, "no_member", &[id, "AH00933"])?;
    let said = scene.sluice.cli(&["route", &url])?.ok()?.out;
    ensure!(
        said.contains("503 (no_member)") && said.contains("its retry is not due"),
        "{said}"
    );
    Ok(())
}

#[test]
fn balancer_of_nobody_and_session_without_failover_are_503() -> Result<()> {
    let more = "ProxyPass /empty balancer://nobody/\n";
    let members = three("") + "ProxySet stickysession=ID nofailover=On\n";
    let scene = start(&members, more)?;
    let empty = scene.curl.get(&scene.url("/empty/x"))?;
    is(
        &scene,
        &empty,
        503,
        "no_member",
        &["AH01171: balancer://nobody: No workers in balancer"],
    )?;
    scene.sluice.cli(&["member", "disable", "b", "b"])?.ok()?;
    let curl = scene.curl.clone().header("Cookie: ID=x.b");
    let down = curl.get(&scene.url("/name"))?;
    is(
        &scene,
        &down,
        503,
        "route_down",
        &["AH01167", "for route (b)"],
    )
}

#[test]
fn direct_worker_in_error_is_503() -> Result<()> {
    let more = "ProxyPass /direct http://127.0.0.1:1 retry=60\n";
    let scene = start(&member(0, ""), more)?;
    let url = scene.url("/direct/x");
    let first = scene.curl.get(&url)?;
    is(
        &scene,
        &first,
        503,
        "connect_failed",
        &["AH00957", "AH01114"],
    )?;
    let second = scene.curl.get(&url)?;
    is(
        &scene,
        &second,
        503,
        "no_member",
        &["AH00940: http: disabled connection for"],
    )
}

#[test]
fn member_that_is_late_is_502_and_out_where_that_is_asked_for() -> Result<()> {
    let scene = start(
        &(member(0, "timeout=1") + "ProxySet failontimeout=On\n"),
        "",
    )?;
    let late = scene.curl.get(&scene.url("/name?hold=1"))?;
    let ids = [
        "AH01102: error reading status line from remote server",
        "AH02460",
    ];
    is(&scene, &late, 502, "response_timeout", &ids)?;
    lab::same(&scene.sluice.state("b", "a")?, "E")?;
    scene.members[0].release();
    Ok(())
}

#[test]
fn pool_that_is_full_is_503() -> Result<()> {
    let scene = start(&member(0, "max=1 acquire=100"), "")?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    let full = scene.curl.get(&scene.url("/name"))?;
    is(
        &scene,
        &full,
        503,
        "pool_exhausted",
        &["AH00941: http: failed to acquire connection for"],
    )?;
    scene.members[0].release();
    held.finish()?;
    Ok(())
}

#[test]
fn who_is_refused_and_what_nothing_takes_have_their_reasons() -> Result<()> {
    let more = "<Location /secret>\nRequire all denied\n</Location>\nProxyPass /files !\n";
    let scene = start(&member(0, ""), more)?;
    let denied = scene.curl.get(&scene.url("/secret"))?;
    is(
        &scene,
        &denied,
        403,
        "access_denied",
        &["AH01630: client denied by server configuration"],
    )?;
    let nothing = scene.curl.get(&scene.url("/files/x"))?;
    is(
        &scene,
        &nothing,
        404,
        "no_route",
        &["no ProxyPass takes /files/x"],
    )
}

#[test]
fn status_of_a_member_is_no_failure() -> Result<()> {
    let scene = start(&(member(0, "") + "ProxySet failonstatus=503\n"), "")?;
    let answer = scene.curl.get(&scene.url("/name?status=503"))?;
    ensure!(
        answer.status == 503 && answer.header("X-Sluice-Reason").is_none(),
        "{answer:?}"
    );
    wait::until("AH01174", PATIENCE, || {
        scene.sluice.log().contains("AH01174").then_some(())
    })?;
    lab::same(&scene.sluice.state("b", "a")?, "E")
}
