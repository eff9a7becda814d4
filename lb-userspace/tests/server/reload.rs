//! Reload: nothing is dropped, and a failing one changes nothing.

use std::{
    fs,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use rustix::process::Signal;

use super::harness::{
    Client, Member, Sluice, fetch, free_port, is_alive, send_signal, text, wait_until,
};

/// Requests without pause until told to stop, on new connections or on kept ones.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let threads = [false, false, true, true]
            .into_iter()
            .map(|keep| {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                thread::spawn(move || {
                    let mut faults = Vec::new();
                    let mut client: Option<Client> = None;
                    while !stop.load(Relaxed) {
                        let reused = client.is_some();
                        let result = client
                            .take()
                            .map_or_else(|| Client::connect(port), Ok)
                            .and_then(|mut client| {
                                client.send("/")?;
                                let (answer, again) = client.receive()?;
                                Ok((answer, (keep && again).then_some(client)))
                            });
                        match result {
                            Ok((answer, next)) if answer.status == 200 => {
                                client = next;
                                done.fetch_add(1, Relaxed);
                            }
                            Ok((answer, _)) => faults.push(format!("{answer:?}")),
                            Err(error) => faults.push(format!("reused={reused}: {error}")),
                        }
                    }
                    faults
                })
            })
            .collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    pub(crate) fn wait_for_more(&self) {
        let target = self.done.load(Relaxed) + 100;
        wait_until("requests are answered", || {
            self.done.load(Relaxed) >= target
        });
    }

    pub(crate) fn finish(self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            let faults = thread.join().expect("load thread");
            assert!(faults.is_empty(), "{faults:?}");
        }
    }
}

#[test]
fn a_reload_under_load_drops_nothing() {
    let (a, b, c) = (Member::start("a"), Member::start("b"), Member::start("c"));
    let sluice = Sluice::start(&[&a, &b]);
    let load = Load::start(sluice.port);
    let extra = free_port();
    for round in 0..6 {
        let members: &[&Member] = if round % 2 == 0 {
            &[&b, &c]
        } else {
            &[&a, &b, &c]
        };
        let mut text = sluice.config(members);
        if round % 3 == 0 {
            text.extend(["Listen 127.0.0.1:", &extra.to_string(), "\n"]);
        }
        sluice.write(&text);
        load.wait_for_more();
        let said = sluice.ok(&["reload"]);
        assert!(said.starts_with("generation "), "{said}");
        if round % 3 == 0 {
            assert_eq!(fetch(extra, "/").expect("the new listener").status, 200);
        } else {
            // Once its queue is empty; who was in it is answered.
            wait_until("the old listener is closed", || fetch(extra, "/").is_err());
        }
    }
    load.wait_for_more();
    load.finish();
    assert!(c.count() > 0);
    assert_eq!(sluice.status()["proxy_restarts"], 0);
}

#[test]
fn a_failing_reload_changes_nothing_and_says_why() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a, &b]);
    sluice.ok(&["member", "drain", "app", "b"]);
    let before = sluice.status();
    let good = sluice.config(&[&a, &b]);
    let foreign = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = foreign.local_addr().expect("address");
    for (wrong, reason) in [
        ("ProxyPas / balancer://app/\n".to_owned(), "ProxyPas"),
        (
            "BalancerMember nonsense\nKeepAlive Perhaps\n".to_owned(),
            "KeepAlive",
        ),
        (
            "ProxyPass /x http://nosuch.invalid/\n".to_owned(),
            "nosuch.invalid",
        ),
        (format!("Listen {taken}\n"), "in use"),
        (
            "ErrorLog /nonexistent/sluice/error.log\n".to_owned(),
            "/nonexistent/sluice",
        ),
        (
            "<IfModule sluice_module>\nSluiceInstance other\n</IfModule>\n".to_owned(),
            "SluiceInstance",
        ),
    ] {
        sluice.write(&format!("{good}{wrong}"));
        let output = sluice.cli(&["reload"]);
        assert_eq!(output.status.code(), Some(1), "{wrong}");
        let said = text(&output.stderr);
        assert!(said.contains(reason), "{wrong}: {said}");
        let after = sluice.status();
        for field in ["proxy_pid", "listeners", "proxy_restarts"] {
            assert_eq!(after[field], before[field], "{wrong}: {field}");
        }
        assert_eq!(after["members"][1]["state"], serde_json::json!(["N"]));
        assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    }
    let log = sluice.log();
    assert!(log.contains("reload refused, nothing changed"), "{log}");
}

#[test]
fn a_drain_survives_a_reload_that_moves_its_member() {
    let (a, b, c) = (Member::start("a"), Member::start("b"), Member::start("c"));
    let sluice = Sluice::start(&[&a, &b]);
    sluice.ok(&["member", "drain", "app", "b"]);
    sluice.write(&sluice.config(&[&c, &b, &a]));
    sluice.ok(&["reload"]);
    let members = sluice.json(&["member", "list", "--json"]);
    let state = |route: &str| {
        let members = members["members"].as_array().expect("members");
        let found = members.iter().find(|view| view["route"] == route);
        found.expect("member")["state"].clone()
    };
    assert_eq!(state("b"), serde_json::json!(["N"]));
    assert_eq!(state("a"), serde_json::json!([]));
    assert_eq!(state("c"), serde_json::json!([]));
}

#[test]
fn usr1_reads_the_file_and_reopens_rotated_logs() {
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    let log = sluice.dir.path().join("error.log");
    let config = format!("{}ErrorLog {}\n", sluice.config(&[&a]), log.display());
    sluice.write(&config);
    sluice.run();
    wait_until("the start is logged", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("resuming normal operations"))
    });
    fs::rename(&log, log.with_extension("1")).expect("rotate");
    sluice.signal(Signal::USR1);
    wait_until("the new file has the reload", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("generation 2"))
    });
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
}

#[test]
fn a_broken_file_keeps_no_rotated_log_open() {
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    let (errors, access) = (
        sluice.dir.path().join("error.log"),
        sluice.dir.path().join("access.log"),
    );
    let config = format!(
        "{}ErrorLog {}\nCustomLog {} \"%r\"\n",
        sluice.config(&[&a]),
        errors.display(),
        access.display()
    );
    sluice.write(&config);
    sluice.run();
    sluice.write(&format!("{config}ProxyPas / nowhere\n"));
    for log in [&errors, &access] {
        fs::rename(log, log.with_extension("1")).expect("rotate");
    }
    sluice.signal(Signal::USR1);
    let has = |path: &std::path::Path, what: &str| {
        fs::read_to_string(path).is_ok_and(|text| text.contains(what))
    };
    wait_until("control writes to the new file", || {
        has(&errors, "log files opened again")
    });
    wait_until("it tells why", || has(&errors, "ProxyPas"));
    assert_eq!(fetch(sluice.port, "/after").expect("an answer").body, "a");
    wait_until("so does the proxy", || has(&access, "GET /after"));
    assert!(!has(&access.with_extension("1"), "GET /after"));
    assert_eq!(sluice.status()["generation"], 1);
}

fn reloads(sluice: &Sluice) -> usize {
    sluice
        .log()
        .matches("reading the configuration again")
        .count()
}

#[test]
fn control_answers_while_the_proxy_takes_a_generation() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    send_signal(proxy, Signal::STOP);
    thread::scope(|scope| {
        let reload = scope.spawn(|| sluice.ok(&["reload"]));
        wait_until("the reload is under way", || reloads(&sluice) == 1);
        // Changes wait, looking does not.
        let drain = scope.spawn(|| sluice.ok(&["member", "drain", "app", "a"]));
        for _ in 0..5 {
            assert_eq!(
                sluice.status()["members"][0]["state"],
                serde_json::json!([])
            );
        }
        assert!(!reload.is_finished() && !drain.is_finished());
        send_signal(proxy, Signal::CONT);
        reload.join().expect("reloaded");
        drain.join().expect("drained");
    });
    assert_eq!(
        sluice.status()["members"][0]["state"],
        serde_json::json!(["N"])
    );
    assert_eq!(sluice.proxy_pid(), proxy);
    // And a stop does not wait for a proxy that never answers.
    send_signal(proxy, Signal::STOP);
    let refused = thread::scope(|scope| {
        let reload = scope.spawn(|| sluice.cli(&["reload"]));
        wait_until("the reload is under way", || reloads(&sluice) == 2);
        sluice.signal(Signal::TERM);
        reload.join().expect("command")
    });
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("stopping"));
    assert_eq!(sluice.wait(), Some(0));
    assert!(!is_alive(proxy));
}

#[test]
fn a_proxy_that_dies_in_a_reload_takes_back_the_new_generation_and_nothing_else() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a]);
    sluice.ok(&["member", "set", "app", "a", "loadfactor=7", "lbset=2"]);
    let before = sluice.status();
    let proxy = sluice.proxy_pid();
    send_signal(proxy, Signal::STOP);
    let text = sluice.config(&[&b, &a]);
    let other = text.replace("route=a", "route=a loadfactor=3 lbset=4");
    sluice.write(&other);
    let refused = thread::scope(|scope| {
        let reload = scope.spawn(|| sluice.cli(&["reload"]));
        wait_until("the new generation is published", || {
            let members = sluice.status()["members"].clone();
            members[0]["lbfactor"] == 3.0 && members[1]["route"] == "b"
        });
        send_signal(proxy, Signal::KILL);
        reload.join().expect("command")
    });
    assert_eq!(refused.status.code(), Some(1));
    let after = sluice.status();
    assert_eq!(after["generation"], before["generation"]);
    for field in ["lbfactor", "lbset", "incarnation", "elected", "state"] {
        assert_eq!(
            after["members"][0][field], before["members"][0][field],
            "{field}"
        );
    }
    assert_eq!(after["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    // The same file is taken by the next reload.
    sluice.ok(&["reload"]);
    assert_eq!(sluice.status()["members"][0]["lbfactor"], 3.0);
    let bodies: Vec<String> = (0..8)
        .map(|_| fetch(sluice.port, "/").expect("an answer").body)
        .collect();
    assert!(bodies.iter().any(|body| body == "b"), "{bodies:?}");
}
