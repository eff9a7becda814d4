//! Sessions are resumed with whichever shard, and after a reload.

use rustix::process::Signal;

use super::{super::harness::send_signal, *};

/// Connects until the session in `file` was used `times` times in a row or one was not resumed.
fn reconnect(tls: &Tls, times: usize, version: &str) {
    let file = tls.path("session");
    let file = file.to_str().expect("a path in UTF-8");
    let first = tls.s_client(&["-servername", "a.test", version, "-sess_out", file]);
    assert!(first.contains("New, TLSv1."), "{first}");
    for round in 0..times {
        // Two shards listen: by the kernel's hash of the port all of these meet both.
        let said = tls.s_client(&["-servername", "a.test", version, "-sess_in", file]);
        assert!(
            said.contains("Reused, TLSv1."),
            "{version} round {round}: {said}"
        );
        assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
    }
}

#[test]
fn tickets_resume_in_every_shard_and_after_a_reload() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    reconnect(&tls, 12, "-tls1_3");
    reconnect(&tls, 12, "-tls1_2");
    tls.sluice.ok(&["reload"]);
    let file = tls.path("session");
    let file = file.to_str().expect("a path in UTF-8");
    let said = tls.s_client(&["-servername", "a.test", "-tls1_2", "-sess_in", file]);
    assert!(said.contains("Reused, TLSv1.2"), "{said}");
}

#[test]
fn tickets_outlast_the_proxy_and_the_program() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    let versions = ["-tls1_3", "-tls1_2"];
    let file = |version: &str| tls.path(&format!("session{version}")).display().to_string();
    let connect = |version: &str, how: &str| {
        tls.s_client(&["-servername", "a.test", version, how, &file(version)])
    };
    for version in versions {
        let said = connect(version, "-sess_out");
        assert!(said.contains("New, TLSv1."), "{said}");
    }
    let reused = |when: &str| {
        for version in versions {
            let said = connect(version, "-sess_in");
            assert!(said.contains("Reused, TLSv1."), "{version} {when}: {said}");
            assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
        }
    };
    let before = tls.sluice.proxy_pid();
    send_signal(before, Signal::KILL);
    wait_until("another proxy", || {
        let pid = tls.sluice.status()["proxy_pid"].as_u64();
        pid.is_some_and(|pid| pid != 0 && pid != u64::from(before))
    });
    reused("after a crash of the proxy");
    for round in 0..2 {
        let before = tls.sluice.proxy_pid();
        tls.sluice.ok(&["upgrade"]);
        assert_ne!(tls.sluice.proxy_pid(), before);
        reused(&format!("after upgrade {round}"));
    }
    // The old program again, with what it had.
    let good = fs::read_to_string(tls.sluice.file()).expect("configuration");
    tls.sluice
        .write(&format!("{good}Listen {}\n", tls.member.address));
    let refused = tls.sluice.cli(&["upgrade"]);
    assert!(!refused.status.success(), "{refused:?}");
    reused("after an upgrade that failed");
    // Nothing of the keys is on disk or in the log.
    for entry in fs::read_dir(tls.sluice.run_dir())
        .expect("run directory")
        .flatten()
    {
        let text = fs::read(entry.path()).unwrap_or_default();
        assert!(!text.windows(7).any(|part| part == b"tickets"), "{entry:?}");
    }
    assert!(!tls.sluice.log().contains("turns_at"));
}

#[test]
fn without_tickets_the_cache_resumes() {
    let tls = Tls::start(|tls| {
        vec![
            "SSLSessionTickets Off\nSSLSessionCache shmcb:/nowhere/cache(512000)\n".to_owned(),
            tls.host("a.test", "a", ""),
        ]
    });
    reconnect(&tls, 12, "-tls1_2");
}

#[test]
fn without_tickets_and_cache_nothing_is_resumed() {
    let tls = Tls::start(|tls| {
        vec![
            "SSLSessionTickets Off\n".to_owned(),
            tls.host("a.test", "a", ""),
        ]
    });
    let file = tls.path("session");
    let file = file.to_str().expect("a path in UTF-8");
    for version in ["-tls1_2", "-tls1_3"] {
        let _ = fs::remove_file(file);
        tls.s_client(&["-servername", "a.test", version, "-sess_out", file]);
        if Path::new(file).exists() {
            let said = tls.s_client(&["-servername", "a.test", version, "-sess_in", file]);
            assert!(said.contains("New, TLSv1."), "{said}");
        }
    }
}
