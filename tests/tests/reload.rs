//! Reload: by command and by signal, dropping nothing, keeping what belongs to members.

use anyhow::{Context, Result, ensure};
use lab::{
    Scene,
    curl::letters,
    scene::{member, site, three},
    sluice::FAILED,
    tables,
    wait::{self, PATIENCE},
};
use rustix::process::Signal;

#[test]
fn reload_drops_no_request() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let two = site(&(member(0, "") + &member(1, "")), "");
    let three = site(&three(""), "");
    let series: Vec<_> = (0..3)
        .map(|_| scene.curl.start_series(&scene.url("/name?delay=2"), 250))
        .collect::<Result<_>>()?;
    for round in 0..6 {
        scene
            .sluice
            .reload(if round % 2 == 0 { &two } else { &three })?
            .ok()?;
    }
    for series in series {
        let answers = series.finish()?;
        let bad: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status != 200)
            .collect();
        ensure!(answers.len() == 250 && bad.is_empty(), "{bad:?}");
    }
    Ok(())
}

#[test]
fn request_on_a_removed_member_ends_in_peace() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    scene.sluice.reload(&site(&member(1, ""), ""))?.ok()?;
    scene.expect(2, "b b")?;
    scene.members[0].release();
    lab::same(&letters(&held.finish()?), "a")?;
    Ok(())
}

#[test]
fn drain_outlives_a_reload() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    scene.sluice.reload(&site(&three("timeout=7"), ""))?.ok()?;
    ensure!(scene.sluice.state("b", "b")? == "N");
    ensure!(!scene.letters(6)?.contains('b'));
    Ok(())
}

#[test]
fn failing_reload_says_why_and_changes_nothing() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let said = scene.sluice.reload("BalancerMembre http://192.0.2.21\n")?;
    ensure!(
        said.code == FAILED && said.err.contains("BalancerMembre"),
        "{said:?}"
    );
    scene.expect(3, "a b c")?;
    scene.sluice.reload(&site(&member(2, ""), ""))?.ok()?;
    ensure!(
        scene.letters(3)? == "c c c",
        "a good file is taken afterwards"
    );
    Ok(())
}

#[test]
fn usr1_and_hup_reload() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    for (signal, index, name) in [(Signal::USR1, 1, "b"), (Signal::HUP, 2, "c")] {
        std::fs::write(&scene.sluice.place().file, site(&member(index, ""), ""))?;
        scene.sluice.signal(signal)?;
        wait::until("the new file to be in force", PATIENCE, || {
            scene
                .letters(1)
                .is_ok_and(|seen| seen == name)
                .then_some(())
        })
        .with_context(|| format!("{signal:?}: {}", scene.sluice.log()))?;
    }
    Ok(())
}

#[test]
fn reload_adds_and_removes_limits() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    let before = tables::meta(&scene.sluice.pins())?.generation;
    scene
        .sluice
        .reload(&site(&three(""), "    GuardDeny 192.0.2.10/32\n"))?
        .ok()?;
    let curl = scene.curl.clone().option("--connect-timeout").option("0.5");
    ensure!(
        curl.get(&scene.url("/name"))?.exit == 28,
        "the client is denied"
    );
    scene.sluice.reload(&site(&three(""), ""))?.ok()?;
    ensure!(scene.curl.get(&scene.url("/name"))?.status == 200);
    ensure!(tables::meta(&scene.sluice.pins())?.generation >= before + 2);
    Ok(())
}
