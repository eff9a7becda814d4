//! Certificate and key files: who reads them, what is wrong with them, when they are read again.

use super::*;

/// The certificate that a client of `a.test` is shown.
fn shown(tls: &Tls) -> String {
    let said = tls.s_client(&["-servername", "a.test"]);
    let subject = said.lines().find(|line| line.starts_with("subject="));
    subject.unwrap_or("none").to_owned()
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_directive() {
    let tls = Tls::prepare();
    let write = |name: &str, bytes: &[u8]| fs::write(tls.path(name), bytes).expect("written");
    write("empty", b"");
    write("noise", b"nothing of the kind\n");
    write(
        "broken.pem",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    write(
        "fake.pem",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    fs::create_dir(tls.path("directory")).expect("made");
    for (old, new) in [("locked.key", "-aes256"), ("locked8.key", "-topk8")] {
        let mut command = Command::new("openssl");
        if new == "-topk8" {
            command.args(["pkcs8", "-topk8"]);
        } else {
            command.args(["ec", new]);
        }
        let output = command
            .arg("-in")
            .arg(tls.path("a.key"))
            .arg("-out")
            .arg(tls.path(old))
            .args(["-passout", "pass:secret"])
            .output()
            .expect("openssl");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let secret = fs::read_to_string(tls.path("a.key")).expect("key");
    for (certificate, key, line, wanted) in [
        (
            "nosuch.pem",
            "a.key",
            4,
            "nosuch.pem: the file does not exist",
        ),
        (
            "a.pem",
            "nosuch.key",
            5,
            "nosuch.key: the file does not exist",
        ),
        ("empty", "a.key", 4, "empty: the file is empty"),
        ("noise", "a.key", 4, "noise: no certificate in it"),
        ("broken.pem", "a.key", 4, "broken.pem: not PEM"),
        ("fake.pem", "a.key", 4, "fake.pem: not usable"),
        ("directory", "a.key", 4, "directory: not a regular file"),
        (
            "a.pem",
            "b.key",
            4,
            "a.pem: AH02565: certificate and private key do not match",
        ),
        ("a.pem", "a.pem", 5, "a.pem: no private key in it"),
        (
            "a.pem",
            "locked.key",
            5,
            "locked.key: the key needs a passphrase",
        ),
        (
            "a.pem",
            "locked8.key",
            5,
            "locked8.key: the key needs a passphrase",
        ),
    ] {
        let port = tls.port;
        tls.sluice.write(&format!(
            "Listen 127.0.0.1:{port}\n<VirtualHost *:{port}>\nSSLEngine on\nSSLCertificateFile {certificate}\n\
             SSLCertificateKeyFile {key}\n</VirtualHost>\n"
        ));
        let file = tls.sluice.file();
        let file = file.to_str().expect("UTF-8");
        for command in [
            &["configtest", "-f", file][..],
            &["run", "--no-xdp", "-f", file],
        ] {
            let output = tls.sluice.cli(command);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
            assert!(
                said.contains(&format!("{file}:{line}: SSLCertificate")),
                "{said}"
            );
            assert!(said.contains(wanted), "{wanted} in:\n{said}");
            for line in secret.lines().filter(|line| !line.starts_with("-----")) {
                assert!(!said.contains(line), "{said}");
            }
        }
    }
}

#[test]
fn an_expired_certificate_is_served_with_a_warning() {
    let mut tls = Tls::prepare();
    let (key, request, old) = (tls.path("a.key"), tls.path("a.csr"), tls.path("a.pem"));
    // With an extension it is of version 3; rustls knows no other.
    let extensions = tls.path("a.ext");
    fs::write(&extensions, "subjectAltName=DNS:a.test\n").expect("written");
    for args in [
        vec![
            "req",
            "-new",
            "-subj",
            "/CN=old",
            "-key",
            key.to_str().expect("UTF-8"),
            "-out",
            request.to_str().expect("UTF-8"),
        ],
        vec![
            "x509",
            "-req",
            "-days",
            "-1",
            "-extfile",
            extensions.to_str().expect("UTF-8"),
            "-in",
            request.to_str().expect("UTF-8"),
            "-signkey",
            key.to_str().expect("UTF-8"),
            "-out",
            old.to_str().expect("UTF-8"),
        ],
    ] {
        let output = Command::new("openssl")
            .args(args)
            .output()
            .expect("openssl");
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    tls.write(&[tls.host("a.test", "a", "")]);
    let output = tls.sluice.cli(&[
        "configtest",
        "-f",
        tls.sluice.file().to_str().expect("UTF-8"),
    ]);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert!(
        text(&output.stderr).contains("a.pem: the certificate has expired"),
        "{}",
        text(&output.stderr)
    );
    tls.sluice.run();
    assert_eq!(shown(&tls), "subject=CN = old");
    assert!(tls.sluice.log().contains("the certificate has expired"));
}

#[test]
fn the_key_may_stand_in_the_certificate_s_file_and_a_chain_is_sent() {
    let mut tls = Tls::prepare();
    let both = fs::read(tls.path("a.key")).expect("key");
    let certificate = fs::read(tls.path("a.pem")).expect("certificate");
    fs::write(tls.path("both.pem"), [both, certificate].concat()).expect("written");
    let host = tls.host("a.test", "both", "SSLCertificateChainFile b.pem");
    tls.write(&[host.replace("SSLCertificateKeyFile both.key\n", "")]);
    tls.sluice.run();
    let said = tls.s_client(&["-servername", "a.test", "-showcerts"]);
    assert!(
        said.contains(" 0 s:CN = a") && said.contains(" 1 s:CN = b"),
        "{said}"
    );
    assert_eq!(shown(&tls), "subject=CN = a");
}

#[test]
fn a_reload_takes_new_certificates_and_a_broken_one_leaves_the_old() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    assert_eq!(shown(&tls), "subject=CN = a");
    fs::write(tls.path("a.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").expect("written");
    tls.sluice.signal(rustix::process::Signal::USR1);
    wait_until("the reload was refused", || {
        tls.sluice.log().contains("reload refused, nothing changed")
    });
    wait_until("and why", || tls.sluice.log().contains("a.pem: not PEM"));
    assert_eq!(shown(&tls), "subject=CN = a");
    make(tls.sluice.dir.path(), "new", "DNS:a.test", EC);
    for kind in ["key", "pem"] {
        fs::rename(
            tls.path(&format!("new.{kind}")),
            tls.path(&format!("a.{kind}")),
        )
        .expect("renamed");
    }
    tls.sluice.signal(rustix::process::Signal::USR1);
    wait_until("the new certificate is shown", || {
        shown(&tls) == "subject=CN = new"
    });
    assert_eq!(tls.get("a.test", "a", &[]), "m");
}

#[test]
fn a_replaced_certificate_is_noticed_without_being_told() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    let generation = tls.sluice.status()["generation"].clone();
    make(tls.sluice.dir.path(), "new", "DNS:a.test", EC);
    for kind in ["key", "pem"] {
        fs::rename(
            tls.path(&format!("new.{kind}")),
            tls.path(&format!("a.{kind}")),
        )
        .expect("renamed");
    }
    wait_until("the new certificate is shown", || {
        shown(&tls) == "subject=CN = new"
    });
    // Control says so when every shard has it.
    wait_until("another generation", || {
        tls.sluice.status()["generation"] != generation
    });
    assert!(tls.sluice.log().contains("certificate files have changed"));
}

#[test]
fn a_proxy_that_died_gets_the_keys_again() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    // Control holds them: the files need not be there any more.
    let pid = tls.sluice.proxy_pid();
    super::super::harness::send_signal(pid, rustix::process::Signal::KILL);
    wait_until("another proxy serves", || {
        let status = tls.sluice.status();
        status["proxy_pid"]
            .as_u64()
            .is_some_and(|new| new != u64::from(pid))
    });
    wait_until("over TLS", || shown(&tls) == "subject=CN = a");
}
