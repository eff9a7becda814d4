//! What Debian's apache2 ships, keys of every kind, and protocols to choose from.

use super::*;

#[test]
fn debians_ssl_module_and_site_run_as_they_are() {
    let mut tls = Tls::prepare();
    let read = |name: &str| {
        fs::read_to_string(Path::new("/etc/apache2").join(name)).expect("apache2 is installed")
    };
    let site = read("sites-available/default-ssl.conf");
    assert!(
        site.contains("SSLEngine on") && site.contains("snakeoil.pem"),
        "{site}"
    );
    // Its port, its certificate and its user's directories are the machine's.
    let site = site
        .replace("*:443", &format!("*:{}", tls.port))
        .replace("/etc/ssl/certs/ssl-cert-snakeoil.pem", "a.pem")
        .replace("/etc/ssl/private/ssl-cert-snakeoil.key", "a.key")
        .replace("</VirtualHost>", "ServerName a.test\n</VirtualHost>");
    let dir = tls.sluice.dir.path().display();
    let text = format!(
        "Define APACHE_RUN_DIR {dir}\nDefine APACHE_LOG_DIR {dir}\n\
         LogFormat \"%h %>s\" combined\n{}{}\n{site}",
        read("mods-available/ssl.conf"),
        tls.text(&[]),
    );
    tls.sluice.write(&text);
    tls.sluice.run();
    assert_eq!(tls.get("a.test", "a", &[]), "m");
    // SSLSessionTickets off, and a cache.
    let said = tls.s_client(&["-tls1_2", "-servername", "a.test"]);
    assert!(
        said.contains("HTTP/1.1 200") && !said.contains("TLS session ticket:"),
        "{said}"
    );
}

#[test]
fn keys_of_every_kind_serve() {
    let mut tls = Tls::prepare();
    let kinds: [(&str, &[&str]); 4] = [
        ("rsa", RSA),
        (
            "p384",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ),
        (
            "p521",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"],
        ),
        ("ed25519", &["-newkey", "ed25519"]),
    ];
    let mut hosts = Vec::new();
    for (name, kind) in kinds {
        make(
            tls.sluice.dir.path(),
            name,
            &format!("DNS:{name}.test"),
            kind,
        );
        hosts.push(tls.host(&format!("{name}.test"), name, ""));
    }
    // As OpenSSL before 3.0 wrote keys: by their own kind's name.
    openssl(
        tls.sluice.dir.path(),
        &["rsa", "-traditional", "-in", "rsa.key", "-out", "old.key"],
    );
    fs::copy(tls.path("rsa.pem"), tls.path("old.pem")).expect("copied");
    hosts.push(tls.host("old.test", "old", ""));
    tls.write(&hosts);
    tls.sluice.run();
    for (name, _) in kinds {
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let version: Vec<&str> = version.split('=').collect();
            assert_eq!(
                tls.get(&format!("{name}.test"), name, &version),
                "m",
                "{name}"
            );
        }
    }
    let said = tls.s_client(&["-servername", "old.test"]);
    assert!(said.contains("subject=CN = rsa"), "{said}");
}

#[test]
fn of_offered_protocols_http_1_1_is_chosen_and_others_end_the_handshake() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    for (offer, wanted) in [
        (&["-alpn", "http/1.1"][..], "ALPN protocol: http/1.1"),
        (&["-alpn", "strange,http/1.1"], "ALPN protocol: http/1.1"),
        (&[], "No ALPN negotiated"),
        // httpd answers http/1.1 though it was not offered, which OpenSSL as a client refuses.
        (&["-alpn", "strange"], "alert no application protocol"),
    ] {
        let said = tls.s_client(&[&["-servername", "a.test"], offer].concat());
        assert!(said.contains(wanted), "{offer:?}: {said}");
        assert_eq!(
            said.contains("HTTP/1.1 200"),
            !wanted.contains("alert"),
            "{said}"
        );
    }
}
