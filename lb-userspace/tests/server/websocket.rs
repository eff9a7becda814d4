//! WebSocket through the whole binary: the shipped example, TLS on both sides, reloads, and the
//! deadline of a graceful stop.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tungstenite::{Message, WebSocket};

use super::harness::{PATIENCE, Sluice, text, wait_until};

/// A WebSocket server that sends every message back, with its name before texts.
fn echo(name: &'static str, tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = tls.clone();
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                match tls {
                    None => serve(name, stream),
                    Some(config) => {
                        let session = ServerConnection::new(config).expect("session");
                        serve(name, StreamOwned::new(session, stream));
                    }
                }
            });
        }
    });
    address
}

fn serve(name: &str, stream: impl Read + Write) {
    let Ok(mut socket) = tungstenite::accept(stream) else {
        return;
    };
    while let Ok(message) = socket.read() {
        let answer = match message {
            Message::Text(said) => Message::text(format!("{name}: {said}")),
            Message::Binary(_) => message,
            _ => continue,
        };
        if socket.send(answer).is_err() {
            return;
        }
    }
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

fn ask<S: Read + Write>(socket: &mut WebSocket<S>, what: &str) -> String {
    socket.send(Message::text(what)).expect("sent");
    socket
        .read()
        .expect("answer")
        .into_text()
        .expect("text")
        .to_string()
}

#[test]
fn the_example_balances_sockets_and_keeps_their_sessions() {
    let mut sluice = Sluice::prepare(&[]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/websocket.conf");
    let example = fs::read_to_string(example).expect("example");
    let (one, two, app) = (echo("one", None), echo("two", None), echo("app", None));
    let text = example
        .replace("Listen 80", &format!("Listen 127.0.0.1:{}", sluice.port))
        .replace("<VirtualHost *:80>", "<VirtualHost *>")
        .replace("192.0.2.21:8080", &one.to_string())
        .replace("192.0.2.22:8080", &two.to_string())
        .replace("192.0.2.23:8080", &app.to_string());
    sluice.write(&text);
    sluice.run();
    let dial = |path: &str, cookie: Option<&str>| {
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: www.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        if let Some(cookie) = cookie {
            request.extend(["Cookie: ", cookie, "\r\n"]);
        }
        let mut stream = tcp(sluice.port);
        stream
            .write_all(format!("{request}\r\n").as_bytes())
            .expect("sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("head");
            head.push(byte[0]);
        }
        let head = super::harness::text(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(
            head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{head}"
        );
        let set = head
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "));
        let role = tungstenite::protocol::Role::Client;
        (
            WebSocket::from_raw_socket(stream, role, None),
            set.map(str::to_owned),
        )
    };
    let (mut first, set) = dial("/chat", None);
    assert_eq!(ask(&mut first, "hi"), "one: hi");
    let set = set.expect("a session begins");
    assert!(
        set.ends_with("; Path=/chat; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let pair = set.split(';').next().expect("pair");
    for _ in 0..3 {
        let (mut again, set) = dial("/chat", Some(pair));
        assert_eq!(ask(&mut again, "hi"), "one: hi");
        assert_eq!(set, None);
    }
    let (mut second, _) = dial("/chat", None);
    assert_eq!(ask(&mut second, "hi"), "two: hi");
    let (mut other, set) = dial("/socket", None);
    assert_eq!((ask(&mut other, "hi").as_str(), set), ("app: hi", None));
    let page = sluice.ok(&["metrics"]);
    assert!(page.contains("\nsluice_tunnels 3\n"), "{page}");
    drop((first, second, other));
    wait_until("the tunnels are gone", || {
        sluice.ok(&["metrics"]).contains("\nsluice_tunnels 0\n")
    });
}

/// Who trusts the authority of `dir`, and a server that shows a certificate of it.
fn tls(dir: &Path, name: &str) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    super::tls::issue(dir, name, "ca", "DNS:localhost,IP:127.0.0.1", 30, "");
    let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).expect("key");
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(dir.join("ca.pem")).expect("PEM");
    roots.add(authority).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    (Arc::new(client), Arc::new(server))
}

type Secure = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

fn dial_secure(port: u16, config: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("localhost").expect("name");
    let session = ClientConnection::new(Arc::clone(config), name).expect("session");
    let stream = StreamOwned::new(session, tcp(port));
    let url = format!("wss://localhost:{port}/");
    tungstenite::client(url, stream).expect("101").0
}

/// A running sluice with TLS to clients and to a wss:// member.
fn secure(more: &str) -> (Sluice, Arc<ClientConfig>) {
    let mut sluice = Sluice::prepare(&[]);
    let dir = sluice.dir.path().to_owned();
    super::tls::make(&dir, "ca", "DNS:ca.test", super::tls::EC);
    let (trusting, _) = tls(&dir, "front");
    let (_, shown) = tls(&dir, "back");
    let member = echo("member", Some(shown));
    sluice.write(&format!(
        "Listen 127.0.0.1:{}\n{more}\n<IfModule sluice_module>\nSluiceShards 1\n</IfModule>\n\
         SSLEngine on\nSSLCertificateFile front.pem\nSSLCertificateKeyFile front.key\n\
         SSLProxyEngine on\nSSLProxyCACertificateFile ca.pem\n\
         ProxyPass / wss://localhost:{}/\n",
        sluice.port,
        member.port()
    ));
    sluice.run();
    (sluice, trusting)
}

#[test]
fn messages_go_over_tls_on_both_sides_and_through_reloads() {
    let (sluice, trusting) = secure("");
    let mut socket = dial_secure(sluice.port, &trusting);
    assert_eq!(ask(&mut socket, "hi"), "member: hi");
    for size in [1, 16_384, 16_385, 1 << 20, 8 << 20] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        socket.send(Message::binary(bytes.clone())).expect("sent");
        assert_eq!(socket.read().expect("echo").into_data(), bytes);
    }
    for round in 0..5 {
        let generation = sluice.status()["generation"].as_u64();
        sluice.signal(Signal::USR1);
        let mut count = 0;
        wait_until("reloaded", || {
            count += 1;
            assert_eq!(ask(&mut socket, "on"), "member: on");
            sluice.status()["generation"].as_u64() > generation
        });
        assert!(count > 0);
        let mut new = dial_secure(sluice.port, &trusting);
        assert_eq!(ask(&mut new, "new"), "member: new", "round {round}");
        new.close(None).expect("close");
        while new.read().is_ok() {}
    }
    assert_eq!(ask(&mut socket, "still"), "member: still");
}

#[test]
fn a_graceful_stop_ends_tunnels_at_its_deadline() {
    let (mut sluice, trusting) = secure("GracefulShutdownTimeout 4");
    let mut socket = dial_secure(sluice.port, &trusting);
    assert_eq!(ask(&mut socket, "hi"), "member: hi");
    let begun = Instant::now();
    sluice.signal(Signal::WINCH);
    wait_until("nobody is accepted", || {
        TcpStream::connect(("127.0.0.1", sluice.port)).is_err()
    });
    assert_eq!(ask(&mut socket, "still"), "member: still");
    assert!(socket.read().is_err(), "it ends");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(3800) && took < PATIENCE,
        "{took:?}"
    );
    assert_eq!(sluice.wait(), Some(0), "{}", text(sluice.log().as_bytes()));
}

#[test]
fn a_tunnel_at_rest_costs_little() {
    const COUNT: usize = 400;
    // Both ends are this process's: as many descriptors as it may have, where it has few.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to what is allowed");
    let mut sluice = Sluice::prepare(&[]);
    let member = echo("m", None);
    sluice.write(&format!(
        "Listen 127.0.0.1:{}\n<IfModule sluice_module>\nSluiceShards 1\n</IfModule>\nProxyPass / ws://{member}/\n",
        sluice.port
    ));
    sluice.run();
    let rss = || {
        let status = fs::read_to_string(format!("/proc/{}/status", sluice.proxy_pid()));
        let status = status.expect("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let digits = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        digits.and_then(|kb| kb.parse::<usize>().ok()).expect("kB")
    };
    let dial = || {
        let (mut socket, _) =
            tungstenite::client(format!("ws://h:{}/", sluice.port), tcp(sluice.port)).expect("101");
        socket
            .send(Message::binary(vec![1; 100_000]))
            .expect("sent");
        assert_eq!(socket.read().expect("echo").len(), 100_000);
        socket
    };
    let _first: Vec<_> = (0..20).map(|_| dial()).collect();
    let before = rss();
    let _sockets: Vec<_> = (0..COUNT).map(|_| dial()).collect();
    let each = (rss().saturating_sub(before)) * 1024 / COUNT;
    println!("{each} bytes for each tunnel");
    // Two hyper connections' buffers alone were more.
    assert!(each < 24 << 10, "{each} bytes for each tunnel");
}
