//! Which members are believed.

use super::*;

const CA: &str = "SSLProxyCACertificateFile ca.pem";
const NONE: &str = "SSLProxyVerify none";

/// Statuses of `/NAME` for members with these certificates and settings.
fn check(site: &mut Site, cases: &[(&str, &str, &str, &str)]) {
    let members: Vec<Httpd> = cases
        .iter()
        .map(|(_, certificate, ..)| Httpd::start(site, certificate, ""))
        .collect();
    let lines: Vec<String> = cases
        .iter()
        .zip(&members)
        .map(|((name, _, settings, _), member)| {
            let url = member.url("127.0.0.1");
            format!("<Proxy {url}>\n{settings}\n</Proxy>\nProxyPass /{name}/ {url}/\n")
        })
        .collect();
    site.run(&format!("SSLProxyEngine on\n{}", lines.concat()));
    for (name, _, settings, wanted) in cases {
        let before = site.log().len();
        let status = site.status(&format!("/{name}/"));
        let said = site.log().get(before..).unwrap_or_default().to_owned();
        if *wanted == "200" {
            assert_eq!(status, "200", "{name} ({settings}): {said}");
        } else {
            assert_eq!(status, "500", "{name} ({settings}): {said}");
            assert!(said.contains("certificate not accepted"), "{name}: {said}");
            assert!(said.contains(wanted), "{name}: {wanted} in {said}");
        }
    }
}

#[test]
fn a_certificate_has_to_be_from_a_known_authority_for_the_name_and_in_date() {
    let mut site = Site::new();
    site.issue("wrong", "ca", "DNS:other.test", 30, "");
    site.issue("old", "ca", "IP:127.0.0.1", -1, "");
    // As `openssl req -x509` makes them: its own authority.
    make(site.dir(), "self", "IP:127.0.0.1", EC);
    let off = |what: &str| format!("{NONE}\nSSLProxyCheckPeer{what} Off");
    check(
        &mut site,
        &[
            ("known", "good", CA, "200"),
            ("system", "good", "", "no known authority"),
            ("name", "wrong", CA, "not valid for name"),
            (
                "noname",
                "wrong",
                &format!("{CA}\nSSLProxyCheckPeerName Off"),
                "200",
            ),
            (
                "nocn",
                "wrong",
                &format!("{CA}\nSSLProxyCheckPeerCN Off"),
                "200",
            ),
            ("expired", "old", CA, "it has expired"),
            ("none", "good", NONE, "200"),
            // As in httpd: name and date count all the same.
            ("none-name", "wrong", NONE, "not valid for name"),
            ("none-noname", "wrong", &off("Name"), "200"),
            ("none-expired", "old", NONE, "it has expired"),
            ("none-noexpire", "old", &off("Expire"), "200"),
            ("generous", "good", "SSLProxyVerify optional_no_ca", "200"),
            (
                "pinned",
                "self",
                "SSLProxyCACertificateFile self.pem",
                "200",
            ),
            ("unpinned", "self", CA, "an authority's"),
        ],
    );
}

#[test]
fn chains_are_bounded_and_authorities_may_lie_in_a_directory() {
    let mut site = Site::new();
    site.issue(
        "middle",
        "ca",
        "DNS:middle.test",
        30,
        "basicConstraints=CA:TRUE\n",
    );
    site.issue("leaf", "middle", "IP:127.0.0.1", 30, "");
    let read = |name: &str| fs::read_to_string(site.path(name)).expect("a file");
    let chain = read("leaf.pem") + &read("middle.pem");
    fs::write(site.path("leaf.pem"), chain).expect("written");
    fs::create_dir(site.path("authorities")).expect("made");
    fs::copy(site.path("ca.pem"), site.path("authorities/ca.pem")).expect("copied");
    site.openssl(&["rehash", "authorities"]);
    check(
        &mut site,
        &[
            ("any", "leaf", CA, "200"),
            (
                "two",
                "leaf",
                &format!("{CA}\nSSLProxyVerifyDepth 2"),
                "200",
            ),
            (
                "one",
                "leaf",
                &format!("{CA}\nSSLProxyVerifyDepth 1"),
                "longer than the depth",
            ),
            (
                "directory",
                "good",
                "SSLProxyCACertificatePath authorities",
                "200",
            ),
        ],
    );
}

#[test]
fn revoked_certificates_are_refused() {
    let mut site = Site::new();
    site.issue("revoked", "ca", "IP:127.0.0.1", 30, "");
    make(site.dir(), "other", "DNS:other.test", EC);
    site.issue("unlisted", "other", "IP:127.0.0.1", 30, "");
    fs::write(site.path("index"), "").expect("written");
    fs::write(
        site.path("ca.conf"),
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\ndefault_md=sha256\ndefault_crl_days=30\ncrl_extensions=crl\ncrlnumber=number\n[crl]\nauthorityKeyIdentifier=keyid\n",
    )
    .expect("written");
    fs::write(site.path("number"), "01\n").expect("written");
    let ca = [
        "ca", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key",
    ];
    let run = |more: &[&str]| site.openssl(&[&ca[..], more].concat());
    run(&["-revoke", "revoked.pem"]);
    run(&["-gencrl", "-out", "crl.pem"]);
    run(&["-gencrl", "-out", "stale.pem", "-crlsec", "1"]);
    let both = fs::read_to_string(site.path("ca.pem")).expect("a file")
        + &fs::read_to_string(site.path("other.pem")).expect("a file");
    fs::write(site.path("both.pem"), both).expect("written");
    let with = |check: &str, list: &str| {
        format!(
            "SSLProxyCACertificateFile both.pem\nSSLProxyCARevocationCheck {check}\nSSLProxyCARevocationFile {list}.pem"
        )
    };
    // By now the list of one second is out of date.
    let made = Instant::now();
    wait_until("the list is stale", || {
        made.elapsed() > Duration::from_secs(2)
    });
    check(
        &mut site,
        &[
            ("good", "good", &with("chain", "crl"), "200"),
            ("revoked", "revoked", &with("leaf", "crl"), "it is revoked"),
            ("unchecked", "revoked", &with("none", "crl"), "200"),
            (
                "unlisted",
                "unlisted",
                &with("leaf", "crl"),
                "no revocation list covers",
            ),
            (
                "lenient",
                "unlisted",
                &with("leaf no_crl_for_cert_ok", "crl"),
                "200",
            ),
            ("stale", "good", &with("leaf", "stale"), "out of date"),
        ],
    );
}

#[test]
fn files_that_cannot_be_used_are_errors_with_their_line() {
    let site = Site::new();
    fs::write(site.path("noise"), "noise\n").expect("written");
    fs::create_dir(site.path("empty")).expect("made");
    site.openssl(&[
        "ec",
        "-aes256",
        "-in",
        "good.key",
        "-out",
        "locked.key",
        "-passout",
        "pass:secret",
    ]);
    let read = |name: &str| fs::read_to_string(site.path(name)).expect("a file");
    fs::write(
        site.path("locked.pem"),
        read("good.pem") + &read("locked.key"),
    )
    .expect("written");
    fs::write(site.path("other.pem"), read("good.pem") + &read("ca.key")).expect("written");
    for (line, wanted) in [
        (
            "SSLProxyCACertificateFile nosuch",
            "nosuch: the file does not exist",
        ),
        (
            "SSLProxyCACertificateFile noise",
            "noise: no certificate in it",
        ),
        (
            "SSLProxyCACertificatePath empty",
            "empty: no links by hash in it",
        ),
        (
            "SSLProxyCACertificatePath nosuch",
            "nosuch: the file does not exist",
        ),
        (
            "SSLProxyCARevocationFile ca.pem",
            "ca.pem: no revocation list in it",
        ),
        (
            "SSLProxyMachineCertificateFile good.pem",
            "good.pem: no private key in it",
        ),
        (
            "SSLProxyMachineCertificateFile locked.pem",
            "the key needs a passphrase",
        ),
        ("SSLProxyMachineCertificateFile other.pem", "do not match"),
        (
            "SSLProxyMachineCertificateChainFile noise",
            "noise: no certificate in it",
        ),
    ] {
        site.write(&format!(
            "SSLProxyEngine on\n{line}\nProxyPass / https://127.0.0.1/"
        ));
        let file = site.sluice.file();
        let file = file.to_str().expect("UTF-8");
        let output = site.sluice.cli(&["configtest", "-f", file]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        let directive = line.split(' ').next().unwrap_or_default();
        assert!(
            said.contains(&format!("{file}:7: {directive} ")),
            "{line}: {said}"
        );
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
}
