//! kill -9: of the proxy, of control, of both.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    Curl, Scene,
    flood::{Flood, Kind, Sources},
    scene::{service, site, three},
    sluice::UNREACHABLE,
    tables, topology,
    wait::{self, PATIENCE},
};
use lb_common::{meta::phase, verdict::Reason};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

#[test]
fn killed_proxy_is_restarted_and_no_connection_is_refused() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    scene.expect(3, "a b c")?;
    for _ in 0..3 {
        let old = scene.sluice.proxy()?;
        kill_process(old, Signal::KILL)?;
        // At once: the listeners are control's, so connections wait in their queues.
        let response = scene.curl.get(&scene.url("/name"))?;
        ensure!(
            response.status == 200,
            "{response:?}: {}",
            scene.sluice.log()
        );
        let new = scene.sluice.proxy()?;
        ensure!(new != old, "another process serves");
    }
    Ok(())
}

#[test]
fn drains_and_counters_outlive_the_proxy() -> Result<()> {
    let scene = Scene::start(&site(&three(""), ""))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "a"])?.ok()?;
    kill_process(scene.sluice.proxy()?, Signal::KILL)?;
    ensure!(!scene.letters(6)?.contains('a'));
    let row = tables::member(&scene.sluice.pins(), "b", "b")?;
    ensure!(row.slot.election.elected == 5, "{row:?}");
    Ok(())
}

#[test]
fn proxy_ends_when_control_is_killed() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    let proxy = scene.sluice.proxy()?;
    kill_process(scene.sluice.control()?, Signal::KILL)?;
    scene.sluice.wait()?;
    wait::until("the proxy to end", PATIENCE, || gone(proxy).then_some(()))
}

#[test]
fn after_a_crash_everything_is_readable_and_nothing_writable() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    scene.sluice.crash()?;
    ensure!(scene.sluice.state("b", "b")? == "N");
    ensure!(scene.sluice.member("b", "a")?["elected"] == 2);
    for reading in [
        &["status"][..],
        &["service", "list"],
        &["limit", "list"],
        &["deny", "list"],
    ] {
        scene.sluice.cli(reading)?.ok()?;
    }
    let said = scene.sluice.cli(&["member", "enable", "b", "b"])?;
    ensure!(said.code == UNREACHABLE, "{said:?}");
    ensure!(scene.sluice.state("b", "b")? == "N");
    Ok(())
}

#[test]
fn packets_are_guarded_while_both_are_dead() -> Result<()> {
    let limit = "    GuardLimit syn 50/s burst=50 per=/32,/64\n";
    let mut scene = Scene::start(&site(&three(""), limit))?;
    scene.sluice.crash()?;
    let pins = scene.sluice.pins();
    let before = tables::verdicts(&pins)?;
    let flood = Flood {
        target: service(),
        sources: Sources::One(topology::address(topology::ATTACKERS).into()),
        kind: Kind::Syn,
        count: 5000,
        rate: 20_000,
    };
    flood.run(&scene.lab.attackers[0])?;
    wait::until("drops to be counted", PATIENCE, || {
        let now = tables::verdicts(&pins).ok()?;
        let dropped = now.of(Reason::SYN_SOURCE_LIMIT) - before.of(Reason::SYN_SOURCE_LIMIT);
        (dropped > 4000).then_some(())
    })
}

#[test]
fn restart_after_a_crash_adopts_drains_and_counters() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    scene.letters(6)?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    let generation = tables::meta(&scene.sluice.pins())?.generation;
    scene.sluice.crash()?;
    scene.sluice.launch(&[])?;
    ensure!(scene.sluice.state("b", "b")? == "N");
    ensure!(!scene.letters(6)?.contains('b'));
    let row = tables::member(&scene.sluice.pins(), "b", "b")?;
    ensure!(row.slot.election.elected == 2, "{row:?}");
    ensure!(tables::meta(&scene.sluice.pins())?.generation > generation);
    Ok(())
}

#[test]
fn requests_in_flight_at_a_crash_do_not_stay_busy_for_ever() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    ensure!(scene.sluice.member("b", "a")?["busy"] == 1);
    scene.sluice.crash()?;
    ensure!(held.finish()?.iter().all(|answer| answer.status != 200));
    scene.sluice.launch(&[])?;
    ensure!(scene.sluice.member("b", "a")?["busy"] == 0);
    Ok(())
}

#[test]
fn after_a_clean_stop_the_file_wins() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    scene.sluice.cli(&["member", "drain", "b", "b"])?.ok()?;
    ensure!(scene.sluice.stop()? == 0);
    ensure!(tables::meta(&scene.sluice.pins())?.phase == phase::STOPPED);
    scene.sluice.launch(&[])?;
    ensure!(scene.sluice.state("b", "b")?.is_empty());
    ensure!(scene.letters(3)?.contains('b'));
    Ok(())
}

#[test]
fn half_applied_generation_is_repaired_by_the_next_start() -> Result<()> {
    // Killed at random moments of reloads: whatever is left, the next start serves the file.
    let mut scene = Scene::start(&site(&three(""), "    GuardLimit syn 100/s per=/32,/64\n"))?;
    for round in 0..4_u64 {
        let mut reload = scene.sluice.place().command().args(["reload"]).spawn()?;
        std::thread::sleep(Duration::from_micros(700 * round * round));
        scene.sluice.crash()?;
        reload.wait()?;
        scene.sluice.launch(&[])?;
        ensure!(tables::meta(&scene.sluice.pins())?.phase == phase::READY);
        let seen = scene.letters(3)?;
        ensure!(
            ["a", "b", "c"].iter().all(|name| seen.contains(name)),
            "{seen}"
        );
        ensure!(tables::members(&scene.sluice.pins())?.len() == 3);
    }
    Ok(())
}

#[test]
fn graceful_stop_lets_requests_end() -> Result<()> {
    let mut scene = Scene::start(&site(&three(""), ""))?;
    let held = scene.curl.start_series(&scene.url("/name?hold=1"), 1)?;
    scene.members[0].wait_held(1)?;
    // As httpd: WINCH is the graceful stop, TERM ends at once.
    scene.sluice.signal(Signal::WINCH)?;
    let curl = Curl::inside(&scene.lab.client);
    wait::until("new connections to be refused", PATIENCE, || {
        curl.get(&scene.url("/name"))
            .is_ok_and(|response| response.exit == 7)
            .then_some(())
    })?;
    scene.members[0].release();
    let answers = held.finish()?;
    ensure!(
        answers.len() == 1 && answers[0].status == 200,
        "{answers:?}"
    );
    ensure!(scene.sluice.wait()? == 0);
    Ok(())
}

fn gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}
