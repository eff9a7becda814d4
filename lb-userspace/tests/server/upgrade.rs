//! `sluice upgrade`: another build takes over in place, nothing is lost; what cannot take over
//! changes nothing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use rustix::process::Signal;

use super::{
    harness::{
        Client, Member, PATIENCE, Sluice, fetch, free_port, is_alive, send_signal, text, wait_until,
    },
    reload::Load,
};

/// Another build, as far as files go.
fn other_build(sluice: &Sluice, name: &str) -> PathBuf {
    let path = sluice.dir.path().join(name);
    fs::copy(env!("CARGO_BIN_EXE_sluice"), &path).expect("copied");
    path
}

fn program(path: &Path, script: &str) {
    fs::write(path, script).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

fn image_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("a process")
}

fn words(path: &Path) -> Vec<&str> {
    vec!["upgrade", "--binary", path.to_str().expect("a name")]
}

fn busy(sluice: &Sluice) -> u64 {
    let status = sluice.status();
    let members = status["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| member["busy"].as_u64().expect("a number"))
        .sum()
}

/// Uploads of half a megabyte in pieces, one after another, until told to stop.
fn uploads(port: u16, stop: &Arc<AtomicBool>, done: &Arc<AtomicUsize>) -> Vec<String> {
    let mut faults = Vec::new();
    let piece = [b'x'; 8192];
    while !stop.load(Relaxed) {
        let once = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = piece.len() * 64;
            write!(
                stream,
                "POST /up HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            )?;
            for _ in 0..64 {
                stream.write_all(&piece)?;
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match once() {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                done.fetch_add(1, Relaxed);
            }
            Ok(answer) => faults.push(answer),
            Err(error) => faults.push(error.to_string()),
        }
    }
    faults
}

#[test]
fn no_request_fails_when_another_build_takes_over_under_load() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a, &b]);
    sluice.ok(&["member", "drain", "app", "b"]);
    let control = sluice.control_pid();
    let load = Load::start(sluice.port);
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let upload = {
        let (port, stop, done) = (sluice.port, Arc::clone(&stop), Arc::clone(&done));
        thread::spawn(move || uploads(port, &stop, &done))
    };
    for round in 0..3 {
        load.wait_for_more();
        let path = other_build(&sluice, &format!("sluice-{round}"));
        let before = sluice.proxy_pid();
        let said = sluice.ok(&words(&path));
        assert!(said.contains(path.to_str().expect("a name")), "{said}");
        let status = sluice.status();
        let proxy = sluice.proxy_pid();
        assert_ne!(proxy, before);
        assert_eq!(status["control_pid"], control);
        assert_eq!(image_of(control), path);
        assert_eq!(image_of(proxy), path);
        assert_eq!(status["members"][1]["state"], serde_json::json!(["N"]));
        assert_eq!(status["proxy_restarts"], 0);
        let uploaded = done.load(Relaxed);
        load.wait_for_more();
        wait_until("uploads go on", || done.load(Relaxed) > uploaded);
        wait_until("the proxy of before left", || !is_alive(before));
    }
    stop.store(true, Relaxed);
    let faults = upload.join().expect("uploads");
    assert!(faults.is_empty(), "{faults:?}");
    load.finish();
    wait_until("nothing is in flight", || busy(&sluice) == 0);
    // Elections and request counters went on.
    let elected = sluice.status()["members"][0]["elected"].as_u64();
    assert!(
        elected.expect("a number") >= a.count() as u64,
        "{elected:?}"
    );
    // The default is the build that runs: applying what a reload cannot.
    let text = sluice.config(&[&a, &b]).replace("Shards 2", "Shards 1");
    sluice.write(&text);
    assert!(sluice.ok(&["reload"]).contains("sluice upgrade"));
    sluice.ok(&["upgrade"]);
    assert_eq!(sluice.status()["shards"], 1);
    for _ in 0..40 {
        assert_eq!(fetch(sluice.port, "/").expect("an answer").status, 200);
    }
    sluice.write(&text.replace("Shards 1", "Shards 3"));
    sluice.ok(&["upgrade"]);
    assert_eq!(sluice.status()["shards"], 3);
    for _ in 0..40 {
        assert_eq!(fetch(sluice.port, "/").expect("an answer").status, 200);
    }
}

#[test]
fn requests_in_flight_are_counted_and_finish_and_the_deadline_ends_those_that_do_not() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let hold = || {
        let mut held = Client::connect(sluice.port).expect("connect");
        let before = a.count();
        held.send("/hold").expect("send");
        wait_until("the request is at the member", || a.count() > before);
        held
    };
    let mut first = hold();
    let first_proxy = sluice.proxy_pid();
    sluice.ok(&["upgrade"]);
    assert_eq!(busy(&sluice), 1, "the old proxy's column counts");
    let mut second = hold();
    let second_proxy = sluice.proxy_pid();
    // A second upgrade while the first drains; this one has a deadline.
    sluice.ok(&["upgrade", "--deadline", "4s"]);
    let status = sluice.status();
    let draining = status["draining"].as_array().expect("a list");
    assert_eq!(draining.len(), 2, "{status}");
    assert_eq!(busy(&sluice), 2);
    wait_until("the second proxy's time is over", || {
        !is_alive(second_proxy)
    });
    assert!(second.receive().is_err(), "it was cut at the deadline");
    wait_until("its request is counted no more", || busy(&sluice) == 1);
    assert!(is_alive(first_proxy), "which has no deadline");
    a.release();
    assert_eq!(first.receive().expect("the answer").0.body, "a");
    wait_until("the first proxy left", || !is_alive(first_proxy));
    wait_until("nothing is in flight", || busy(&sluice) == 0);
    wait_until("nobody drains", || {
        sluice.status()["draining"] == serde_json::json!([])
    });
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    sluice.ok(&["stop"]);
    assert_eq!(sluice.wait(), Some(0));
    assert!(!sluice.socket().exists());
}

#[test]
fn a_control_that_dies_while_a_proxy_drains_leaves_its_count_to_the_next() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    let first = sluice.proxy_pid();
    sluice.ok(&["upgrade"]);
    let second = sluice.proxy_pid();
    sluice.kill_control();
    // The memory of a start without kernel maps is its own: the count is of the lock file's columns.
    let lock = fs::read_to_string(sluice.run_dir().join("default.lock")).expect("lock");
    for pid in [first, second] {
        assert!(lock.contains(&format!(":{pid}")), "{pid}: {lock}");
    }
    sluice.run();
    a.release();
    assert_eq!(held.receive().expect("the answer").0.body, "a");
    wait_until("both proxies left", || {
        !is_alive(first) && !is_alive(second)
    });
    assert_eq!(busy(&sluice), 0);
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
}

#[test]
fn a_program_that_cannot_take_over_is_refused_before_anything_changes() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let before = sluice.status();
    let dir = sluice.dir.path();
    let (script, foreign, plain) = (dir.join("script"), dir.join("foreign"), dir.join("plain"));
    program(&script, "#!/bin/sh\necho usage: nothing >&2\nexit 2\n");
    // The header of a program for another machine.
    let mut header = fs::read(env!("CARGO_BIN_EXE_sluice")).expect("read");
    header.truncate(4096);
    header[18] = 0xf3;
    header[19] = 0x7f;
    fs::write(&foreign, header).expect("written");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::write(&plain, "no program").expect("written");
    for (path, reason) in [
        (dir.join("missing"), "No such file"),
        (dir.to_owned(), "not a program"),
        (plain, "not a program"),
        (foreign, "cannot be run"),
        (script, "does not take over"),
        (PathBuf::from("/bin/true"), "does not take over"),
    ] {
        let output = sluice.cli(&words(&path));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {said}", path.display());
        assert!(said.contains(reason), "{}: {said}", path.display());
    }
    // The configuration is asked about too.
    let good = sluice.config(&[&a]);
    sluice.write(&format!("{good}ProxyPas / nowhere\n"));
    let output = sluice.cli(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("ProxyPas"),
        "{}",
        text(&output.stderr)
    );
    sluice.write(&good);
    let after = sluice.status();
    for field in ["control_pid", "proxy_pid", "generation", "proxy_restarts"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
}

#[test]
fn a_program_that_fails_after_it_took_over_gives_everything_back() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    sluice.ok(&["member", "set", "app", "a", "loadfactor=7"]);
    let (control, proxy) = (sluice.control_pid(), sluice.proxy_pid());
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    // What no check sees: an address that is taken.
    let good = sluice.config(&[&a]);
    sluice.write(&format!("{good}Listen {}\n", a.address));
    let path = other_build(&sluice, "sluice-new");
    let output = sluice.cli(&words(&path));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("could not take over"), "{said}");
    assert!(said.contains("in use"), "{said}");
    let status = sluice.status();
    assert_eq!(status["control_pid"], control);
    assert_eq!(status["proxy_pid"], proxy, "it has served all along");
    assert_eq!(image_of(control), image_of(proxy));
    assert_eq!(status["members"][0]["lbfactor"], 7.0);
    assert_eq!(status["members"][0]["busy"], 1);
    a.release();
    assert_eq!(held.receive().expect("the answer").0.body, "a");
    // And the next one may succeed.
    sluice.write(&good);
    sluice.ok(&words(&path));
    assert_eq!(image_of(sluice.proxy_pid()), path);
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
}

/// Control's children, zombies among them.
fn children(control: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let (pid, name) = stat.split_once(" (").expect("a process");
        let (name, rest) = name.rsplit_once(") ").expect("a name");
        let mut rest = rest.split(' ');
        let state = rest.next().expect("a state");
        if rest.next() == Some(&control.to_string()) {
            found.push((pid.parse().expect("a number"), format!("{name} {state}")));
        }
    }
    found
}

#[test]
fn programs_of_the_old_proxys_logs_read_to_the_end_and_leave_no_zombie() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let log = sluice.dir.path().join("access.log");
    let line = format!("CustomLog \"|/usr/bin/tee -a {}\" \"%U\"\n", log.display());
    let good = format!("{line}{}", sluice.config(&[&a]));
    sluice.write(&good);
    sluice.ok(&["reload"]);
    let control = sluice.control_pid();
    let tees = || {
        let all = children(control).into_iter();
        let tees = all.filter(|(_, what)| what.starts_with("tee"));
        tees.collect::<Vec<_>>()
    };
    let before = tees();
    assert_eq!(before.len(), 1, "{before:?}");
    let written = || fs::read_to_string(&log).unwrap_or_default();

    let asked = |path| assert_eq!(fetch(sluice.port, path).expect("an answer").body, "a");
    asked("/before");
    let path = other_build(&sluice, "sluice-new");
    sluice.ok(&words(&path));
    asked("/after");
    wait_until("both lines", || {
        written().contains("/before\n") && written().contains("/after\n")
    });
    wait_until(
        "the old program is gone, not a zombie, the new one there",
        || {
            let now = tees();
            now.len() == 1 && now[0].0 != before[0].0
        },
    );

    // And so that of a program that took over and failed.
    sluice.write(&format!("{good}Listen {}\n", a.address));
    let refused = sluice.cli(&words(&path));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    asked("/still");
    wait_until("the line", || written().contains("/still\n"));
    wait_until("one program is left", || tees().len() == 1);
}

#[test]
fn no_scrape_is_refused_while_another_build_takes_over() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let port = free_port();
    sluice.write(&format!(
        "{}<IfModule sluice_module>\nSluiceMetrics 127.0.0.1:{port}\n</IfModule>\n",
        sluice.config(&[&a])
    ));
    sluice.ok(&["reload"]);
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let scrapes = {
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        thread::spawn(move || {
            let mut faults = Vec::new();
            while !stop.load(Relaxed) {
                match TcpStream::connect(("127.0.0.1", port)) {
                    // One that was accepted before is cut off as its control becomes another
                    // program; none is refused.
                    Ok(_) => drop(asked.fetch_add(1, Relaxed)),
                    Err(error) => faults.push(error.to_string()),
                }
            }
            faults
        })
    };
    for round in 0..2 {
        let path = other_build(&sluice, &format!("sluice-{round}"));
        sluice.ok(&words(&path));
        let before = asked.load(Relaxed);
        wait_until("scrapes go on", || asked.load(Relaxed) > before);
        let page = fetch(port, "/metrics").expect("a page");
        assert!(page.body.contains("sluice_"), "{page:?}");
    }
    stop.store(true, Relaxed);
    let faults = scrapes.join().expect("scrapes");
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn signals_during_an_upgrade_are_obeyed_after_it() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let control = sluice.control_pid();
    for round in 0..4 {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    send_signal(control, Signal::USR1);
                    thread::yield_now();
                }
            });
            let output = sluice.cli(&["upgrade"]);
            stop.store(true, Relaxed);
            assert!(output.status.success(), "{round}: {}", text(&output.stderr));
        });
        assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    }
    assert_eq!(sluice.control_pid(), control);
    sluice.signal(Signal::TERM);
    assert_eq!(sluice.wait(), Some(0));
}

#[test]
fn a_kill_at_any_stage_of_an_upgrade_leaves_a_proxy_that_serves() {
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    // From before the check to after the retirement.
    for micros in [
        0_u64, 20_000, 60_000, 90_000, 120_000, 160_000, 220_000, 300_000,
    ] {
        sluice.run();
        let load = Load::start(sluice.port);
        load.wait_for_more();
        let control = sluice.control_pid();
        thread::scope(|scope| {
            let upgrade = scope.spawn(|| sluice.cli(&["upgrade"]));
            thread::sleep(std::time::Duration::from_micros(micros));
            send_signal(control, Signal::KILL);
            drop(upgrade.join().expect("command"));
        });
        sluice.kill_control();
        for _ in 0..20 {
            assert_eq!(fetch(sluice.port, "/").expect("served on").body, "a");
        }
        // The next start takes over from whoever was left.
        sluice.run();
        load.wait_for_more();
        load.finish();
        sluice.ok(&["stop"]);
        assert_eq!(sluice.wait(), Some(0));
    }
}
