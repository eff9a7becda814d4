//! Requests over TLS: bodies, what members and logs are told, the end of a connection.

use super::*;

#[test]
fn ten_megabytes_go_up_and_down_whole() {
    let mut tls = Tls::prepare();
    let member = echo::start();
    let port = tls.port;
    tls.sluice.write(&format!(
        "Listen 127.0.0.1:{port}\n{}",
        tls.host(
            "a.test",
            "a",
            &format!("ProxyPass / http://{member}/\nProxyPassReverse / http://{member}/")
        )
    ));
    tls.sluice.run();
    let body: Vec<u8> = (0..10_u32 << 20)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (up, down) = (tls.path("up"), tls.path("down"));
    fs::write(&up, &body).expect("written");
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let _ = fs::remove_file(&down);
        let version: Vec<&str> = version.split('=').collect();
        let data = format!("@{}", up.display());
        let mut args = vec!["-X", "POST", "-H", "Expect:", "--data-binary", &data, "-o"];
        args.push(down.to_str().expect("UTF-8"));
        args.extend(version);
        tls.get("a.test", "a", &args);
        assert!(fs::read(&down).expect("downloaded") == body);
    }
    // A redirect of the member's is the client's, with its scheme.
    let fields = tls.get(
        "a.test",
        "a",
        &["-X", "REDIRECT", "-D", "-", "-o", "/dev/null"],
    );
    assert!(
        fields
            .to_ascii_lowercase()
            .contains(&format!("location: https://a.test:{port}/elsewhere")),
        "{fields}"
    );
}

#[test]
fn logs_say_protocol_and_suite() {
    let mut tls = Tls::prepare();
    let more =
        "CustomLog access.log \"%{SSL_PROTOCOL}x %{SSL_CIPHER}x %{HTTPS}e %{SSL_TLS_SNI}x %>s\"";
    tls.write(&[tls.host("a.test", "a", more)]);
    tls.sluice.run();
    tls.get("a.test", "a", &["--tlsv1.3"]);
    let log = tls.path("access.log");
    wait_until("the line is written", || {
        fs::read_to_string(&log)
            .is_ok_and(|text| text == "TLSv1.3 TLS_AES_256_GCM_SHA384 on a.test 200\n")
    });
}

#[test]
fn connections_are_kept_and_end_with_close_notify() {
    let tls = Tls::start(|tls| {
        vec![
            "KeepAliveTimeout 1\n".to_owned(),
            tls.host("a.test", "a", ""),
        ]
    });
    let url = format!("https://a.test:{}/", tls.port);
    let connects = tls.get("a.test", "a", &["-w", " %{num_connects}\n", &url]);
    assert_eq!(connects, "m 1\nm 0\n");
    // s_client is told so at the end; what is cut off it reports as an error.
    let said = tls.s_client(&["-servername", "a.test"]);
    assert!(
        said.ends_with("closed\n") || said.contains("\nclosed\n"),
        "{said}"
    );
    assert!(!said.contains("unexpected eof"), "{said}");
}
