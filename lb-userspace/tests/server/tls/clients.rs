//! Clients that have to show certificates, and what the log says of them.

use super::*;

/// `a.test` with certificate `a`, which asks its clients as these lines say; authority `ca`.
fn asking(lines: &str) -> Tls {
    let mut tls = Tls::prepare();
    let dir = tls.sluice.dir.path();
    make(dir, "ca", "DNS:ca.test", EC);
    make(dir, "other", "DNS:other.test", EC);
    issue(dir, "friend", "ca", "DNS:friend.test", 30, "");
    issue(dir, "old", "ca", "DNS:old.test", -1, "");
    issue(dir, "stranger", "other", "DNS:stranger.test", 30, "");
    let lines = format!("SSLCACertificateFile ca.pem\n{lines}");
    let log = "CustomLog access \"%{SSL_CLIENT_VERIFY}x %{SSL_CLIENT_S_DN}x %{SSL_CLIENT_I_DN}x %{SSL_CLIENT_S_DN_CN}x %{SSL_PROTOCOL}x\"\n";
    tls.sluice.write(&format!(
        "{log}{}",
        tls.text(&[tls.host("a.test", "a", &lines)])
    ));
    tls.sluice.run();
    tls
}

/// Whether a client with this certificate (or none) is let in.
fn is_let_in(tls: &Tls, certificate: Option<&str>) -> bool {
    let files = certificate.map(|name| {
        [format!("{name}.pem"), format!("{name}.key")]
            .map(|name| tls.path(&name).to_str().expect("UTF-8").to_owned())
    });
    let args: Vec<&str> = match &files {
        Some([certificate, key]) => vec!["--cert", certificate, "--key", key],
        None => Vec::new(),
    };
    let output = tls.curl("a.test", "a", &args);
    assert!(
        output.status.success() == (text(&output.stdout) == "m"),
        "{output:?}"
    );
    output.status.success()
}

/// The access log, once it has so many lines.
fn logged(tls: &Tls, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(tls.path("access")).unwrap_or_default();
    wait_until("the access log is written", || {
        read().lines().count() >= count
    });
    let mut lines: Vec<String> = read().lines().map(str::to_owned).collect();
    // Shards write each their own.
    lines.sort();
    lines
}

#[test]
fn who_is_required_to_shows_a_certificate_of_the_authority() {
    let tls = asking("SSLVerifyClient require");
    assert!(is_let_in(&tls, Some("friend")));
    for other in [None, Some("stranger"), Some("old"), Some("a")] {
        assert!(!is_let_in(&tls, other), "{other:?}");
    }
    assert_eq!(logged(&tls, 1), ["SUCCESS CN=friend CN=ca friend TLSv1.3"]);
}

#[test]
fn certificates_and_what_is_in_them_can_be_passed_on() {
    let tls = asking(
        "SSLVerifyClient require\nHeader set X-Cert \"%{SSL_CLIENT_CERT}s\"\n\
         Header set X-Rest \"%{SSL_CLIENT_S_DN_CN_0}s %{SSL_CLIENT_I_DN_CN}s %{SSL_CLIENT_S_DN_OU}s\"\n\
         Header set X-Kept \"expr=%{SSL_CLIENT_V_END} %{SSL_CLIENT_M_VERSION} %{SSL_SESSION_RESUMED}\"\n\
         CustomLog more \"%{SSL_CLIENT_V_REMAIN}x %{SSL_CIPHER_USEKEYSIZE}x\" \"expr=%{SSL_CLIENT_M_VERSION} == '3'\"",
    );
    let (certificate, key) = (tls.path("friend.pem"), tls.path("friend.key"));
    let [certificate_file, key] = [&certificate, &key].map(|path| path.to_str().expect("UTF-8"));
    let output = tls.curl(
        "a.test",
        "a",
        &["-i", "--cert", certificate_file, "--key", key],
    );
    let answer = text(&output.stdout);
    let field = |name: &str| {
        let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found
            .unwrap_or_else(|| panic!("{name}: {answer}"))
            .1
            .trim_end()
            .to_owned()
    };
    let pem = fs::read_to_string(&certificate).expect("PEM");
    assert_eq!(field("x-cert"), pem.trim_end().replace('\n', " "));
    assert_eq!(field("x-rest"), "friend ca (null)");
    let dates = Command::new("openssl")
        .args(["x509", "-noout", "-enddate", "-in", certificate_file])
        .output()
        .expect("openssl");
    let end = text(&dates.stdout);
    let end = end.trim_end().trim_start_matches("notAfter=");
    assert_eq!(field("x-kept"), format!("{end} 3 Initial"));
    let more = || fs::read_to_string(tls.path("more")).unwrap_or_default();
    wait_until("the line", || !more().is_empty());
    // Whole days that are left; an hour is added by who wrote the certificate, or a second is gone.
    assert!(
        ["29 256\n", "30 256\n"].contains(&more().as_str()),
        "{}",
        more()
    );
}

#[test]
fn who_is_asked_may_have_none_but_no_bad_one() {
    let tls = asking("SSLVerifyClient optional");
    assert!(is_let_in(&tls, Some("friend")) && is_let_in(&tls, None));
    assert!(!is_let_in(&tls, Some("stranger")) && !is_let_in(&tls, Some("old")));
    assert_eq!(
        logged(&tls, 2),
        [
            "NONE - - - TLSv1.3",
            "SUCCESS CN=friend CN=ca friend TLSv1.3"
        ]
    );
}

#[test]
fn optional_no_ca_takes_strangers_and_says_so() {
    let tls = asking("SSLVerifyClient optional_no_ca");
    assert!(is_let_in(&tls, Some("friend")) && is_let_in(&tls, None));
    assert!(is_let_in(&tls, Some("stranger")) && !is_let_in(&tls, Some("old")));
    assert_eq!(
        logged(&tls, 3)[0],
        "GENEROUS CN=stranger CN=other stranger TLSv1.3"
    );
}

#[test]
fn a_session_from_where_nobody_is_asked_opens_nothing() {
    let tls = asking("SSLVerifyClient require");
    let open = free_port();
    let port = tls.port;
    let site = |port: u16, lines: &str| {
        tls.host("a.test", "a", lines)
            .replace(&format!(":{}>", tls.port), &format!(":{port}>"))
    };
    let text = format!(
        "{}Listen 127.0.0.1:{open}\n",
        tls.text(&[
            site(port, "SSLCACertificateFile ca.pem\nSSLVerifyClient require"),
            site(open, ""),
        ])
    );
    tls.sluice.write(&text);
    let before = tls.sluice.status()["generation"].clone();
    tls.sluice.signal(rustix::process::Signal::USR1);
    wait_until("the reload is done", || {
        tls.sluice.status()["generation"] != before
    });
    let session = tls.path("session");
    let session = session.to_str().expect("UTF-8");
    let key = tls.path("friend.key");
    let certificate = tls.path("friend.pem");
    let own = [
        "-cert",
        certificate.to_str().expect("UTF-8"),
        "-key",
        key.to_str().expect("UTF-8"),
    ];
    for version in ["-tls1_2", "-tls1_3"] {
        let ask = |port: u16, more: &[&str]| {
            let mut args = vec!["-servername", "a.test", version];
            args.extend(more);
            tls.s_client_to(port, &args)
        };
        let first = ask(open, &["-sess_out", session]);
        assert!(first.contains("HTTP/1.1 200"), "{first}");
        // Where it was made it is resumed; where a certificate is wanted it is of no use.
        assert!(
            ask(open, &["-sess_in", session]).contains("Reused"),
            "{version}"
        );
        let second = ask(port, &["-sess_in", session]);
        assert!(!second.contains("HTTP/1.1 200"), "{version}: {second}");
        let third = ask(port, &[&["-sess_in", session], &own[..]].concat());
        assert!(
            third.contains("HTTP/1.1 200") && third.contains("New, "),
            "{third}"
        );
        // One with a certificate is resumed with it, and is none of a friend's elsewhere.
        let made = ask(port, &[&["-sess_out", session], &own[..]].concat());
        assert!(made.contains("HTTP/1.1 200"), "{made}");
        let resumed = ask(port, &["-sess_in", session]);
        assert!(
            resumed.contains("Reused") && resumed.contains("HTTP/1.1 200"),
            "{resumed}"
        );
    }
}

#[test]
fn a_request_for_a_host_that_asks_otherwise_is_misdirected() {
    let mut tls = Tls::prepare();
    make(tls.sluice.dir.path(), "ca", "DNS:ca.test", EC);
    let asks = "SSLCACertificateFile ca.pem\nSSLVerifyClient require";
    tls.write(&[tls.host("a.test", "a", ""), tls.host("b.test", "a", asks)]);
    tls.sluice.run();
    let args = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "Host: b.test",
    ];
    assert_eq!(tls.get("a.test", "a", &args), "421");
}

#[test]
fn revoked_clients_stay_out_and_a_new_list_counts_for_resumed_sessions() {
    let tls = Tls::prepare();
    let dir = tls.sluice.dir.path().to_owned();
    make(&dir, "ca", "DNS:ca.test", EC);
    issue(&dir, "friend", "ca", "DNS:friend.test", 30, "");
    fs::write(dir.join("index"), "").expect("written");
    fs::write(dir.join("number"), "01\n").expect("written");
    fs::write(
        dir.join("ca.conf"),
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\ncrl_extensions=crl\ncrlnumber=number\n[crl]\nauthorityKeyIdentifier=keyid\n",
    )
    .expect("written");
    let ca = [
        "ca", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key",
    ];
    openssl(&dir, &[&ca[..], &["-gencrl", "-out", "crl.pem"]].concat());
    let mut tls = tls;
    tls.write(&[tls.host(
        "a.test",
        "a",
        "SSLVerifyClient require\nSSLCACertificateFile ca.pem\nSSLCARevocationCheck chain\nSSLCARevocationFile crl.pem",
    )]);
    tls.sluice.run();
    assert!(is_let_in(&tls, Some("friend")));
    let session = tls.path("session");
    let session = session.to_str().expect("UTF-8");
    let (key, certificate) = (tls.path("friend.key"), tls.path("friend.pem"));
    let own = [
        "-cert",
        certificate.to_str().expect("UTF-8"),
        "-key",
        key.to_str().expect("UTF-8"),
    ];
    let ask = |more: &[&str]| tls.s_client(&[&["-servername", "a.test"], more, &own[..]].concat());
    assert!(ask(&["-sess_out", session]).contains("HTTP/1.1 200"));
    assert!(ask(&["-sess_in", session]).contains("Reused"));
    openssl(&dir, &[&ca[..], &["-revoke", "friend.pem"]].concat());
    openssl(&dir, &[&ca[..], &["-gencrl", "-out", "new.pem"]].concat());
    fs::rename(dir.join("new.pem"), dir.join("crl.pem")).expect("renamed");
    // The list is noticed like a certificate.
    wait_until("the list counts", || !is_let_in(&tls, Some("friend")));
    let late = ask(&["-sess_in", session]);
    assert!(!late.contains("HTTP/1.1 200"), "{late}");
}
