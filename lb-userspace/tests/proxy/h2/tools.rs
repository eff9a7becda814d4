//! Others' clients: curl and nghttp2's (Debian's curl and nghttp2-client).

use std::process::Command;

use super::*;
use crate::support::eventually;

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn curl_speaks_h2c_with_prior_knowledge_and_http_1_without() {
    let a = Member::with(|seen, stream| crate::support::respond(stream, "200 OK", "", &seen.body));
    let lab = lab(&[a.address], |_| {});
    let url = format!("http://{}/", lab.address);
    let body = "b".repeat(100_000);
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), &body).expect("file");
    let data = format!("@{}", file.path().display());
    for (flag, version) in [
        ("--http2-prior-knowledge", "2"),
        ("--http1.1", "1.1"),
        // Upgrade is not done: the answer comes over HTTP/1.1.
        ("--http2", "1.1"),
        ("--http1.0", "1"),
    ] {
        let args = [
            "-sS",
            flag,
            "-m",
            "20",
            "--data-binary",
            &data,
            "-w",
            "|%{http_version}",
            &url,
        ];
        let said = output("curl", &args);
        assert_eq!(
            said.len(),
            body.len() + 1 + version.len(),
            "{flag}: {}",
            &said[said.len() - 5..]
        );
        assert!(said.starts_with(&body) && said.ends_with(version), "{flag}");
    }
}

#[test]
fn thousands_of_streams_of_nghttp2_are_answered() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = lab(&[a.address, b.address], |_| {});
    let url = format!("http://{}/", lab.address);
    let said = output("h2load", &["-n", "6000", "-c", "6", "-m", "50", &url]);
    assert!(
        said.contains("6000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{said}"
    );
    assert!(said.contains("status codes: 6000 2xx"), "{said}");
    let said = output("nghttp", &["-nv", "-t", "20", &url, &format!("{url}x")]);
    assert_eq!(said.matches(":status: 200").count(), 2, "{said}");
    eventually("nobody is busy", || lab.busy(0, 0) + lab.busy(0, 1) == 0);
    assert_eq!(a.seen().len() + b.seen().len(), 6002);
}
