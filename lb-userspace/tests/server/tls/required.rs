//! Places that are for requests by TLS alone.

use super::*;

#[test]
fn who_did_not_come_by_tls_is_refused_where_it_is_required() {
    let mut tls = Tls::prepare();
    let clear = free_port();
    // The member has one answer for every path.
    let lines = "<Location /required>\nSSLRequireSSL\n</Location>\n\
                 <Location /required/open>\nRequire all granted\n</Location>\n\
                 <Location /ssl>\nRequire ssl\n</Location>\n\
                 <Location /clear>\n<RequireAll>\nRequire all granted\nRequire not ssl\n</RequireAll>\n</Location>\n\
                 <Location /shown>\nRequire ssl-verify-client\n</Location>";
    let url = tls.member.url();
    tls.sluice.write(&format!(
        "{}Listen 127.0.0.1:{clear}\n<VirtualHost 127.0.0.1:{clear}>\nServerName a.test\nProxyPass / {url}/\n{lines}\n</VirtualHost>\n",
        tls.text(&[tls.host("a.test", "a", &format!("ProxyPass / {url}/\n{lines}"))])
    ));
    tls.sluice.run();
    let status = |url: &str| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--cacert",
            ])
            .arg(tls.path("a.pem"))
            .args(["--resolve", &format!("a.test:{}:127.0.0.1", tls.port)])
            .args(["--resolve", &format!("a.test:{clear}:127.0.0.1")])
            .arg(url)
            .output()
            .expect("curl is installed");
        text(&output.stdout)
    };
    for (path, by_tls, in_clear) in [
        ("/", "200", "200"),
        ("/required/x", "200", "403"),
        ("/required/open", "200", "403"),
        ("/ssl", "200", "403"),
        ("/clear", "403", "200"),
        ("/shown", "403", "403"),
    ] {
        let port = tls.port;
        assert_eq!(
            status(&format!("https://a.test:{port}{path}")),
            by_tls,
            "{path}"
        );
        assert_eq!(
            status(&format!("http://a.test:{clear}{path}")),
            in_clear,
            "{path}"
        );
    }
    let refused = "AH02219: access to /required/x failed, reason: SSL connection required";
    wait_until("it is told", || tls.sluice.log().contains(refused));
}

#[test]
fn who_names_no_host_is_refused_where_names_are_wanted() {
    let strict = "SSLStrictSNIVHostCheck on";
    // As observed of httpd: which of the two say so, statuses for both by name and without.
    for (first, second, expected) in [
        ("", "", [200, 200]),
        (strict, "", [403, 403]),
        ("", strict, [200, 403]),
    ] {
        let tls = Tls::start(|tls| {
            vec![
                tls.host("a.test", "a", first),
                tls.host("b.test", "a", second),
            ]
        });
        let url = format!("https://127.0.0.1:{}/", tls.port);
        let status = |host: &str| {
            let output = Command::new("curl")
                .args([
                    "-sSk",
                    "--max-time",
                    "20",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                ])
                .args(["-H", &format!("Host: {host}"), &url])
                .output()
                .expect("curl is installed");
            text(&output.stdout)
        };
        let seen = [status("a.test"), status("b.test")];
        assert_eq!(
            seen,
            expected.map(|status: u16| status.to_string()),
            "{first:?} {second:?}"
        );
        assert_eq!(tls.get("a.test", "a", &[]), "m");
    }
    let alone = Tls::start(|tls| vec![tls.host("a.test", "a", strict)]);
    let url = format!("https://127.0.0.1:{}/", alone.port);
    let output = Command::new("curl")
        .args(["-sSk", "--max-time", "20", &url])
        .output();
    assert_eq!(text(&output.expect("curl is installed").stdout), "m");
}
