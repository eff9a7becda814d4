//! The operator's bits, set by the command line: what requests do, and what the kernel's table says.

use anyhow::{Result, ensure};
use lab::{
    Scene,
    curl::letters,
    scene::{site, three},
    sluice::{FAILED, USAGE},
    tables,
};

fn start() -> Result<Scene> {
    Scene::start(&site(&(three("") + "    ProxySet stickysession=ID\n"), ""))
}

fn session(scene: &Scene, route: &str) -> Result<String> {
    let curl = scene
        .curl
        .clone()
        .header(format!("Cookie: ID=session.{route}"));
    Ok(letters(&curl.series(&scene.url("/name"), 4)?))
}

/// State letters of member a: in the kernel's table, and as `member list` has them.
fn states(scene: &Scene) -> Result<[String; 2]> {
    let row = tables::member(&scene.sluice.pins(), "b", "a")?;
    Ok([row.letters(), scene.sluice.state("b", "a")?])
}

#[test]
fn drained_member_keeps_its_sessions_and_gets_no_others() -> Result<()> {
    let scene = start()?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    ensure!(states(&scene)? == ["N", "N"]);
    ensure!(!scene.letters(6)?.contains('a'));
    lab::same(&session(&scene, "a")?, "a a a a")?;
    scene.sluice.cli(&["member", "enable", "b", "a"])?.ok()?;
    ensure!(states(&scene)? == ["", ""]);
    // Its four sessions are on its account, as in httpd: the others go first for eight requests.
    ensure!(scene.letters(12)?.contains('a'));
    Ok(())
}

#[test]
fn disabled_member_gets_not_even_its_sessions() -> Result<()> {
    let scene = start()?;
    scene.sluice.cli(&["member", "disable", "b", "a"])?.ok()?;
    ensure!(states(&scene)? == ["D", "D"]);
    ensure!(!session(&scene, "a")?.contains('a'));
    ensure!(!scene.letters(6)?.contains('a'));
    Ok(())
}

#[test]
fn request_under_way_survives_its_members_drain_and_disabling() -> Result<()> {
    let scene = start()?;
    for verb in ["drain", "disable"] {
        let curl = scene.curl.clone().header("Cookie: ID=session.a");
        let held = curl.start_series(&scene.url("/name?hold=1"), 1)?;
        scene.members[0].wait_held(1)?;
        scene.sluice.cli(&["member", verb, "b", "a"])?.ok()?;
        scene.members[0].release();
        lab::same(&letters(&held.finish()?), "a")?;
    }
    Ok(())
}

#[test]
fn member_is_found_by_url_too() -> Result<()> {
    let scene = start()?;
    let url = format!("http://{}", scene.members[0].address());
    scene.sluice.cli(&["member", "drain", "b", &url])?.ok()?;
    ensure!(states(&scene)? == ["N", "N"]);
    Ok(())
}

#[test]
fn loadfactor_set_at_run_time_moves_the_shares() -> Result<()> {
    let scene = start()?;
    scene
        .sluice
        .cli(&["member", "set", "b", "a", "loadfactor=4"])?
        .ok()?;
    let seen = scene.letters(12)?;
    ensure!(seen.matches('a').count() == 8, "4:1:1 of twelve: {seen}");
    Ok(())
}

#[test]
fn unknown_member_is_named_in_the_error_and_nothing_changes() -> Result<()> {
    let scene = start()?;
    let said = scene.sluice.cli(&["member", "drain", "b", "nobody"])?;
    ensure!(
        said.code == FAILED && said.err.contains("nobody"),
        "{said:?}"
    );
    let said = scene.sluice.cli(&["member", "drain", "nowhere", "a"])?;
    ensure!(
        said.code == FAILED && said.err.contains("nowhere"),
        "{said:?}"
    );
    ensure!(scene.sluice.cli(&["member", "drain", "b"])?.code == USAGE);
    scene.expect(3, "a b c")?;
    Ok(())
}
