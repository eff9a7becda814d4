//! `sluice upgrade` with kernel maps: packets stay guarded, what was changed at run time stays, no
//! request fails.

use std::{fs, path::PathBuf, thread};

use anyhow::{Context, Result, ensure};
use lab::{
    Scene,
    flood::{Flood, Kind, Sources},
    scene::{service, site, three},
    sluice::{FAILED, program},
    tables, topology,
    wait::{self, PATIENCE},
};
use lb_common::verdict::Reason;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Another build, as far as files go.
fn other_build(scene: &Scene) -> Result<PathBuf> {
    let path = scene.lab.dir().join("sluice-new");
    fs::copy(program()?, &path)?;
    Ok(path)
}

fn proxy(scene: &Scene) -> Result<Pid> {
    let pid = scene.sluice.json(&["status"])?["proxy_pid"].as_i64();
    Pid::from_raw(i32::try_from(pid.context("a number")?)?).context("a process")
}

fn limits(scene: &Scene) -> Result<String> {
    Ok(scene.sluice.cli(&["limit", "list"])?.ok()?.out)
}

#[test]
fn upgrade_keeps_guard_drains_limits_and_every_request() -> Result<()> {
    let limit = "    GuardLimit syn 500/s burst=500 per=/32,/64\n";
    let scene = Scene::start(&site(&three(""), limit))?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    let name = format!("tcp://{}", service());
    scene
        .sluice
        .cli(&["limit", "set", &name, "packets", "40000/s", "burst=40000"])?
        .ok()?;
    scene.letters(4)?;
    let listed = limits(&scene)?;
    ensure!(listed.contains("40000"), "{listed}");
    let interfaces = scene.sluice.json(&["status"])?["interfaces"].clone();
    let old = proxy(&scene)?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    let running = scene.curl.start_series(&scene.url("/name?delay=2"), 400)?;
    let path = other_build(&scene)?;
    let path = path.to_str().context("a path")?;
    for _ in 0..2 {
        scene.sluice.cli(&["upgrade", "--binary", path])?.ok()?;
        // A flood in between meets the guard.
        let before = tables::verdicts(&scene.sluice.pins())?;
        let flood = Flood {
            target: service(),
            sources: Sources::One(topology::address(topology::ATTACKERS).into()),
            kind: Kind::Syn,
            count: 3000,
            rate: 20_000,
        };
        flood.run(&scene.lab.attackers[0])?;
        wait::until("drops to be counted", PATIENCE, || {
            let now = tables::verdicts(&scene.sluice.pins()).ok()?;
            let dropped = now.of(Reason::SYN_SOURCE_LIMIT) - before.of(Reason::SYN_SOURCE_LIMIT);
            (dropped > 1000).then_some(())
        })?;
    }
    let answers = running.finish()?;
    let failed = answers.iter().filter(|a| a.status != 200).count();
    ensure!(answers.len() == 400 && failed == 0, "{failed} failed");
    let status = scene.sluice.json(&["status"])?;
    ensure!(status["interfaces"][0]["name"] == interfaces[0]["name"]);
    ensure!(status["interfaces"][0]["mode"] == interfaces[0]["mode"]);
    ensure!(scene.sluice.state("b", "b")? == "N");
    ensure!(limits(&scene)? == listed, "{listed}");
    // The request of before is still in flight in its own proxy, and counted there.
    ensure!(scene.sluice.member("b", "a")?["busy"] == 1);
    ensure!(test_kill_process(old).is_ok());
    scene.members[0].release();
    lab::same(&lab::curl::letters(&held.finish()?), "a")?;
    wait::until("the first proxy to leave", PATIENCE, || {
        test_kill_process(old).is_err().then_some(())
    })?;
    wait::until("nothing to be in flight", PATIENCE, || {
        (scene.sluice.member("b", "a").ok()?["busy"] == 0).then_some(())
    })
}

#[test]
fn requests_of_draining_proxies_stay_counted_when_control_dies() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    let old = proxy(&scene)?;
    scene.sluice.cli(&["upgrade"])?.ok()?;
    kill_process(scene.sluice.control()?, Signal::KILL)?;
    scene.sluice.wait()?;
    scene.sluice.launch(&[])?;
    ensure!(scene.sluice.member("b", "a")?["busy"] == 1);
    scene.members[0].release();
    lab::same(&lab::curl::letters(&held.finish()?), "a")?;
    wait::until("the first proxy to leave", PATIENCE, || {
        test_kill_process(old).is_err().then_some(())
    })?;
    ensure!(scene.sluice.member("b", "a")?["busy"] == 0);
    Ok(())
}

#[test]
fn a_new_program_that_fails_leaves_guard_and_limits_as_they_were() -> Result<()> {
    let limit = "    GuardLimit syn 500/s burst=500 per=/32,/64\n";
    let good = site(&three(""), limit);
    let scene = Scene::start(&good)?;
    let name = format!("tcp://{}", service());
    let set = ["limit", "set", &name, "syn", "77/s", "burst=77"];
    scene.sluice.cli(&set)?.ok()?;
    let listed = limits(&scene)?;
    let old = proxy(&scene)?;
    // No interface has the address: seen when it is bound.
    let bad = format!("Listen 198.51.100.77:81\n{good}");
    fs::write(&scene.sluice.place().file, bad)?;
    let said = scene.sluice.cli(&["upgrade"])?;
    ensure!(
        said.code == FAILED && said.err.contains("198.51.100.77"),
        "{said:?}"
    );
    ensure!(proxy(&scene)? == old);
    ensure!(limits(&scene)? == listed);
    let status = scene.sluice.json(&["status"])?;
    ensure!(status["interfaces"][0]["program"] != 0, "{status}");
    scene.expect(3, "a b c")?;
    Ok(())
}

#[test]
fn proxy_that_dies_in_a_reload_takes_no_limit_of_the_operators_with_it() -> Result<()> {
    let limit = |rate: u32| format!("    GuardLimit syn {rate}/s burst=500 per=/32,/64\n");
    let scene = Scene::start(&site(&three(""), &limit(500)))?;
    let name = format!("tcp://{}", service());
    let set = ["limit", "set", &name, "syn", "77/s", "burst=77"];
    scene.sluice.cli(&set)?.ok()?;
    let listed = limits(&scene)?;
    let old = proxy(&scene)?;
    kill_process(old, Signal::STOP)?;
    let refused = thread::scope(|scope| -> Result<_> {
        let reload = scope.spawn(|| scene.sluice.reload(&site(&three(""), &limit(900))));
        wait::until("the new limit to be published", PATIENCE, || {
            limits(&scene).ok()?.contains("900").then_some(())
        })?;
        kill_process(old, Signal::KILL)?;
        reload.join().expect("no panic")
    })?;
    ensure!(refused.code == FAILED, "{refused:?}");
    ensure!(limits(&scene)? == listed, "{listed}");
    scene.expect(3, "a b c")?;
    scene.sluice.reload(&site(&three(""), &limit(900)))?.ok()?;
    ensure!(limits(&scene)?.contains("900"));
    Ok(())
}
