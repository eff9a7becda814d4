//! Who gets which certificate, protocol and suite, and what becomes of those who do not get far.

use super::*;

#[test]
fn the_certificate_is_that_of_the_named_host() {
    let tls = Tls::start(|tls| {
        vec![
            tls.host("a.test", "a", ""),
            tls.host("b.test", "b", "ServerAlias *.b.test"),
        ]
    });
    assert_eq!(tls.get("a.test", "a", &[]), "m");
    assert_eq!(tls.get("b.test", "b", &[]), "m");
    assert_eq!(tls.get("www.b.test", "b", &[]), "m");
    // Nobody's name and no name at all: the first host, which is no valid one for that name.
    let output = tls.curl("c.test", "a", &[]);
    assert_eq!(output.status.code(), Some(60), "{}", text(&output.stderr));
    for args in [&["-noservername"][..], &["-servername", "c.test"]] {
        assert!(tls.s_client(args).contains("subject=CN = a"), "{args:?}");
    }
}

#[test]
fn protocols_and_suites_are_those_of_the_configuration() {
    let tls = Tls::start(|tls| {
        vec![
            tls.host("a.test", "a", ""),
            tls.host(
                "b.test",
                "b",
                "SSLProtocol -all +TLSv1.2\nSSLCipherSuite ECDHE-ECDSA-CHACHA20-POLY1305",
            ),
            tls.host(
                "c.test",
                "a",
                "SSLProtocol all -TLSv1.2\nSSLCipherSuite TLSv1.3 TLS_CHACHA20_POLY1305_SHA256",
            ),
        ]
    });
    let agreed = |name: &str, more: &[&str]| {
        let mut args = vec!["-brief", "-servername", name];
        args.extend(more);
        let said = tls.s_client(&args);
        let of = |key: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or("none").trim().to_owned()
        };
        format!("{} {}", of("Protocol version:"), of("Ciphersuite:"))
    };
    assert_eq!(
        agreed("a.test", &["-tls1_3"]),
        "TLSv1.3 TLS_AES_256_GCM_SHA384"
    );
    assert_eq!(
        agreed(
            "a.test",
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]
        ),
        "TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256"
    );
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    assert_eq!(agreed("a.test", &old), "none none");
    assert_eq!(
        agreed("b.test", &[]),
        "TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305"
    );
    assert_eq!(agreed("b.test", &["-tls1_3"]), "none none");
    assert_eq!(
        agreed("c.test", &[]),
        "TLSv1.3 TLS_CHACHA20_POLY1305_SHA256"
    );
    assert_eq!(agreed("c.test", &["-tls1_2"]), "none none");
}

#[test]
fn a_host_with_two_keys_serves_clients_of_either() {
    let tls = {
        let mut tls = Tls::prepare();
        make(tls.sluice.dir.path(), "r", "DNS:a.test", RSA);
        let more = "SSLCertificateFile r.pem\nSSLCertificateKeyFile r.key";
        tls.write(&[tls.host("a.test", "a", more)]);
        tls.sluice.run();
        tls
    };
    for (suite, subject) in [
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "subject=CN = a"),
        ("ECDHE-RSA-AES256-GCM-SHA384", "subject=CN = r"),
    ] {
        let said = tls.s_client(&["-tls1_2", "-cipher", suite]);
        assert!(
            said.contains(subject) && said.contains("HTTP/1.1 200 OK"),
            "{said}"
        );
    }
}

#[test]
fn a_request_for_a_host_with_other_tls_is_misdirected() {
    let tls = Tls::start(|tls| {
        vec![
            tls.host("a.test", "a", ""),
            tls.host("same.test", "a", ""),
            tls.host("other.test", "b", ""),
            tls.host("old.test", "a", "SSLProtocol TLSv1.2"),
        ]
    });
    let status = |name: &str, certificate: &str, host: &str| {
        let field = format!("Host: {host}");
        let args = ["-o", "/dev/null", "-k", "-w", "%{http_code}", "-H", &field];
        tls.get(name, certificate, &args)
    };
    assert_eq!(status("a.test", "a", "same.test"), "200");
    assert_eq!(status("a.test", "a", "nobody.test"), "200");
    assert_eq!(status("a.test", "a", "other.test"), "421");
    assert_eq!(status("a.test", "a", "old.test"), "421");
    assert_eq!(status("other.test", "b", "other.test"), "200");
    assert_eq!(status("nobody.test", "a", "other.test"), "421");
    assert!(tls.sluice.log().contains("AH02032"));
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    for method in ["GET", "POST", "PUT"] {
        let answer = speak(
            tls.port,
            format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes(),
        );
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("speaking plain HTTP to an SSL-enabled server port"),
            "{answer}"
        );
        assert!(answer.contains("connection: close") || answer.contains("Connection: close"));
    }
    let head = speak(tls.port, b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 400 Bad Request\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(tls.member.count(), 0);
}

#[test]
fn garbage_and_silence_end_and_disturb_nobody() {
    // The kernel would keep silent connections to itself for half a minute.
    let tls = Tls::start(|tls| {
        vec![
            "AcceptFilter http none\nRequestReadTimeout handshake=1\n".to_owned(),
            tls.host("a.test", "a", ""),
        ]
    });
    // An alert at most.
    for garbage in [
        &b"\x00\x01garbage\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
        b"DELETE / HTTP/1.1\r\n\r\n",
    ] {
        let answer = speak_bytes(tls.port, garbage);
        assert!(answer.len() <= 7, "{answer:?}");
    }
    let silent: Vec<TcpStream> = (0..50)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", tls.port)).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            // Some in silence, some in the middle of a record.
            let begun: &[u8] = if number % 2 == 0 {
                b""
            } else {
                b"\x16\x03\x01\x02\x00\x01"
            };
            stream.write_all(begun).expect("write");
            stream
        })
        .collect();
    let begun = Instant::now();
    assert_eq!(
        tls.get("a.test", "a", &[]),
        "m",
        "others are served meanwhile"
    );
    for mut stream in silent {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() <= 7, "{rest:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    wait_until("no connection is left", || {
        tls.sluice.status()["connections"] == 0
    });
}

#[test]
fn a_listen_with_https_turns_tls_on() {
    let mut tls = Tls::prepare();
    let host = tls.host("a.test", "a", "").replace("SSLEngine on\n", "");
    let listen = format!("Listen 127.0.0.1:{}\n", tls.port);
    let text = tls.text(&[host]);
    tls.sluice
        .write(&text.replace(&listen, &listen.replace('\n', " https\n")));
    tls.sluice.run();
    assert_eq!(tls.get("a.test", "a", &[]), "m");
}

fn speak_bytes(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(bytes).expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an orderly end");
    answer
}

fn speak(port: u16, bytes: &[u8]) -> String {
    text(&speak_bytes(port, bytes))
}
