//! TLS to members: which of them are believed, by what name they are asked for (apache.md 3.19).

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use super::{
    authority::{EC, issue, make},
    peers::is_here,
    stage::Stage,
};

const ALL: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A member with a certificate, which says what name it was asked for. Returns its port.
fn member(dir: &Path, certificate: &str, versions: &[&'static SupportedProtocolVersion]) -> u16 {
    let file = |kind: &str| dir.join(format!("{certificate}.{kind}"));
    let chain = CertificateDer::from_pem_file(file("pem")).expect("made");
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("made");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("suites for them")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("they belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            // Ends with the connection; its errors are the test's to notice at the client.
            thread::spawn(move || drop(serve(stream, config)));
        }
    });
    port
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
    let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let host = super::cast::field(&text, "host").unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        let name = stream.conn.server_name().unwrap_or("none").to_owned();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nServer: actor\r\nX-Member: t\r\nX-Asked: {name} {host}\r\nContent-Length: 1\r\n\r\nt"
        )?;
        head.clear();
    }
}

const NONE: &str = "SSLProxyVerify none\n";
const REQUIRE: &str = "SSLProxyVerify require\nSSLProxyCACertificateFile {dir}/ca.pem\n";
const NO_NAME: &str = "SSLProxyCheckPeerName Off\nSSLProxyCheckPeerCN Off\n";
const NO_DATE: &str = "SSLProxyCheckPeerExpire Off\n";

#[test]
fn certificates_of_members_are_believed_alike() {
    if !is_here() {
        return;
    }
    let home = tempfile::tempdir().expect("temporary directory");
    let dir = home.path();
    make(dir, "ca", "DNS:ca.test", EC);
    make(dir, "own", "DNS:localhost", EC);
    issue(dir, "good", "ca", "DNS:localhost", 30, "");
    issue(dir, "wrong", "ca", "DNS:other.test", 30, "");
    issue(dir, "site", "ca", "DNS:site.test", 30, "");
    issue(dir, "old", "ca", "DNS:localhost", -1, "");
    let cases: &[(&str, &str, &[&str], u16)] = &[
        ("n-good", "good", &[NONE], 200),
        ("n-own", "own", &[NONE], 200),
        ("n-wrong", "wrong", &[NONE], 500),
        ("n-old", "old", &[NONE], 500),
        ("n-wrong-n", "wrong", &[NONE, NO_NAME], 200),
        ("n-old-n", "old", &[NONE, NO_NAME], 500),
        ("n-old-d", "old", &[NONE, NO_DATE], 200),
        ("n-all", "old", &[NONE, NO_NAME, NO_DATE], 200),
        ("r-good", "good", &[REQUIRE], 200),
        ("r-own", "own", &[REQUIRE], 500),
        ("r-wrong", "wrong", &[REQUIRE], 500),
        ("r-old", "old", &[REQUIRE], 500),
        ("r-wrong-n", "wrong", &[REQUIRE, NO_NAME], 200),
        ("r-own-n", "own", &[REQUIRE, NO_NAME, NO_DATE], 500),
        ("p-old", "good", &[NONE, "SSLProxyProtocol TLSv1.2\n"], 200),
        ("p-new", "good", &[NONE, "SSLProxyProtocol TLSv1.3\n"], 200),
    ];
    let mut text = vec!["SSLProxyEngine On\n".to_owned()];
    for (name, certificate, settings, _) in cases {
        let url = format!("https://localhost:{}", member(dir, certificate, ALL));
        let settings = settings
            .concat()
            .replace("{dir}", &dir.display().to_string());
        text.push(format!(
            "<Proxy {url}>\n{settings}</Proxy>\nProxyPass /{name}/ {url}/\n"
        ));
    }
    // Who speaks another version than is asked for.
    for (name, version, protocol) in [
        ("v-old", &[&TLS12][..], "TLSv1.3"),
        ("v-new", &[&TLS13], "TLSv1.2"),
    ] {
        let url = format!("https://localhost:{}", member(dir, "good", version));
        text.push(format!(
            "<Proxy {url}>\n{NONE}SSLProxyProtocol {protocol}\n</Proxy>\nProxyPass /{name}/ {url}/\n"
        ));
    }
    // A handshake that fails leads to no other member.
    let (bad, good) = (member(dir, "wrong", ALL), member(dir, "good", ALL));
    text.push(format!(
        "<Proxy balancer://two>\nBalancerMember https://localhost:{bad}\nBalancerMember https://localhost:{good}\n\
         {NONE}</Proxy>\nProxyPass /two/ balancer://two/\n"
    ));
    // With ProxyPreserveHost the name is the client's.
    for (name, certificate) in [("kept", "site"), ("other", "good")] {
        let url = format!("https://localhost:{}", member(dir, certificate, ALL));
        text.push(format!(
            "<Proxy {url}>\n{NONE}</Proxy>\nProxyPass /{name}/ {url}/\n<Location /{name}/>\nProxyPreserveHost On\n</Location>\n"
        ));
    }
    let stage = Stage::start(&[], &[], &text.concat()).expect("httpd is here");
    let mut failures = Vec::new();
    for (name, .., wanted) in cases {
        let line = format!("GET /{name}/x");
        let status = stage.sides[0].ask(&line, &[]).status;
        if status != *wanted {
            failures.push(format!("{name}: httpd says {status}, not {wanted}"));
        }
        failures.extend(stage.differs(&line, &[]));
    }
    for name in [
        "v-old", "v-new", "two", "two", "two", "two", "kept", "other",
    ] {
        failures.extend(stage.differs(&format!("GET /{name}/x"), &[]));
    }
    stage.end(&failures);
}
