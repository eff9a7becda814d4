//! Sessions are resumed with whichever shard, and after a reload.

use super::*;

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
