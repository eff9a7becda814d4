//! Which protocol a TLS client gets, and HTTP/2 over TLS with others' clients.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

use super::{super::harness::is_alive, *};

/// What curl's request came over.
fn version(tls: &Tls, name: &str, certificate: &str, args: &[&str]) -> String {
    let all = [&["-o", "/dev/null", "-w", "%{http_version}"], args].concat();
    tls.get(name, certificate, &all)
}

/// What ALPN agreed on, in the client's order of preference.
fn agreed(tls: &Tls, name: &str, offered: &str) -> String {
    let said = tls.s_client(&["-servername", name, "-alpn", offered]);
    let of = |start| said.lines().find_map(|line| line.strip_prefix(start));
    of("ALPN protocol: ").unwrap_or("none").to_owned()
}

#[test]
fn protocol_is_chosen_by_the_named_host_and_its_order() {
    let tls = Tls::start(|tls| {
        vec![
            tls.host("a.test", "a", "Protocols h2 http/1.1"),
            tls.host("b.test", "b", ""),
            tls.host("first.test", "a", "Protocols http/1.1 h2"),
            tls.host(
                "theirs.test",
                "a",
                "Protocols h2 http/1.1\nProtocolsHonorOrder Off",
            ),
            tls.host("only.test", "a", "Protocols h2"),
        ]
    });
    assert_eq!(version(&tls, "a.test", "a", &["--http2"]), "2");
    assert_eq!(version(&tls, "a.test", "a", &["--http1.1"]), "1.1");
    assert_eq!(version(&tls, "b.test", "b", &["--http2"]), "1.1");
    for (name, offered, expected) in [
        ("a.test", "http/1.1,h2", "h2"),
        ("a.test", "http/1.1", "http/1.1"),
        ("b.test", "h2,http/1.1", "http/1.1"),
        ("first.test", "h2,http/1.1", "http/1.1"),
        ("first.test", "h2", "h2"),
        ("theirs.test", "h2,http/1.1", "h2"),
        ("theirs.test", "http/1.1,h2", "http/1.1"),
        ("theirs.test", "spdy/3,http/1.1,h2", "http/1.1"),
        ("only.test", "http/1.1,h2", "h2"),
    ] {
        assert_eq!(agreed(&tls, name, offered), expected, "{name} {offered}");
    }
    // Who chooses nothing gets HTTP/1.1.
    let said = tls.s_client(&["-servername", "only.test"]);
    assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
}

#[test]
fn requests_over_h2_have_tls_in_their_log_and_metrics() {
    let tls = Tls::start(|tls| {
        let log = "CustomLog access.log \"%H %{SSL_PROTOCOL}x %{HTTPS}e %r %>s\"";
        vec![
            tls.host("a.test", "a", &format!("Protocols h2 http/1.1\n{log}")),
            tls.host("b.test", "b", "Protocols h2 http/1.1"),
        ]
    });
    assert_eq!(tls.get("a.test", "a", &["--http2"]), "m");
    // A request for a host with another certificate is misdirected.
    let args = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--http2",
        "-H",
        "Host: b.test",
    ];
    assert_eq!(tls.get("a.test", "a", &args), "421");
    wait_until("the line is there", || {
        fs::read_to_string(tls.path("access.log"))
            .is_ok_and(|log| log.lines().next() == Some("HTTP/2.0 TLSv1.3 on GET / HTTP/2.0 200"))
    });
    for line in [
        "sluice_http2_connections_total 2",
        "sluice_http2_requests_total 2",
    ] {
        wait_until(line, || tls.sluice.ok(&["metrics"]).contains(line));
    }
}

#[test]
fn thousands_of_streams_over_tls_are_answered() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "Protocols h2 http/1.1")]);
    let url = format!("https://127.0.0.1:{}/", tls.port);
    let output = Command::new("h2load")
        .args(["-n", "2000", "-c", "4", "-m", "20", &url])
        .output()
        .expect("h2load is installed (nghttp2-client)");
    let said = text(&output.stdout);
    assert!(
        said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout")
            && said.contains("Application protocol: h2"),
        "{said}"
    );
}

/// Requests of curl over HTTP/2, many over each connection, until told to stop; what went wrong.
fn load(tls: &Tls, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    const EACH: usize = 50;
    let mut faults = Vec::new();
    while !stop.load(Relaxed) {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--http2", "--cacert"])
            .arg(tls.path("a.pem"))
            .args(["--resolve", &format!("a.test:{}:127.0.0.1", tls.port)])
            .args(["-o", "/dev/null", "-w", "%{http_version} %{http_code}\n"])
            .arg(format!("https://a.test:{}/[1-{EACH}]", tls.port))
            .output()
            .expect("curl is installed");
        let answers = text(&output.stdout);
        let good = answers.lines().filter(|line| *line == "2 200").count();
        done.fetch_add(good, Relaxed);
        if good != EACH {
            faults.push(answers + &text(&output.stderr));
        }
    }
    faults
}

#[test]
fn no_request_over_tls_fails_when_another_build_takes_over() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "Protocols h2 http/1.1")]);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let faults = thread::scope(|scope| {
        let loads = [(); 2].map(|()| scope.spawn(|| load(&tls, &stop, &done)));
        let wait_for_more = || {
            let target = done.load(Relaxed) + 100;
            wait_until("requests are answered", || done.load(Relaxed) >= target);
        };
        for _ in 0..2 {
            wait_for_more();
            let before = tls.sluice.proxy_pid();
            tls.sluice.ok(&["upgrade"]);
            assert_ne!(tls.sluice.proxy_pid(), before);
            wait_for_more();
            wait_until("the proxy of before left", || !is_alive(before));
        }
        stop.store(true, Relaxed);
        loads.map(|load| load.join().expect("a load"))
    });
    assert!(faults.iter().all(Vec::is_empty), "{faults:?}");
    assert_eq!(tls.sluice.status()["proxy_restarts"], 0);
}
