//! Clients that stall, flood or do not read, at every stage; others are served meanwhile.

use std::{
    net::{Shutdown, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use super::*;

/// Of a connection to `port` through a relay of ours: what the client sends is given to `with` and
/// what that returns is sent on; `None`: nothing any more, and the connection stays open.
fn relay(port: u16, mut with: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let own = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut server = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let mut back = (server.try_clone(), client.try_clone());
        thread::spawn(move || {
            if let (Ok(from), Ok(to)) = (&mut back.0, &mut back.1) {
                let _ = io::copy(from, to);
                let _ = to.shutdown(Shutdown::Both);
            }
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            if let Some(bytes) = with(&buffer[..count])
                && server.write_all(&bytes).is_err()
            {
                return;
            }
        }
    });
    own
}

/// The proxy's resident memory, bytes.
fn resident(tls: &Tls) -> u64 {
    let pid = tls.sluice.proxy_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

#[test]
fn a_client_may_stall_after_any_byte_of_its_handshake() {
    let tls = Tls::start(|tls| {
        vec![
            // Or the kernel would keep who sends nothing to itself.
            "AcceptFilter http none\nRequestReadTimeout handshake=1\n".to_owned(),
            tls.host("a.test", "a", ""),
        ]
    });
    let begun = Instant::now();
    let stalled: Vec<_> = ["-tls1_2", "-tls1_3"]
        .into_iter()
        // Within header, hello, and what follows it.
        .flat_map(|version| {
            let left = [0_usize, 1, 4, 5, 6, 60, 180, 260];
            left.map(|left| (version, left))
        })
        .map(|(version, mut left)| {
            let port = relay(tls.port, move |bytes| {
                let pass = left.min(bytes.len());
                left -= pass;
                (pass > 0).then(|| bytes[..pass].to_vec())
            });
            Command::new("openssl")
                .args(["s_client", "-servername", "a.test", version])
                .args(["-connect", &format!("127.0.0.1:{port}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl is installed")
        })
        .collect();
    assert_eq!(
        tls.get("a.test", "a", &[]),
        "m",
        "others are served meanwhile"
    );
    for mut child in stalled {
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("s_client ends");
        assert!(!text(&output.stdout).contains("HTTP/1.1"));
    }
    wait_until("no connection is left", || {
        tls.sluice.status()["connections"] == 0
    });
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let page = tls.sluice.ok(&["metrics"]);
    let count = "sluice_tls_handshakes_failed_total{peer=\"client\",reason=\"timeout\"} ";
    let late = page.lines().find_map(|line| line.strip_prefix(count));
    // Some were over by then: a hello of 260 bytes may be whole.
    let late: u32 = late.and_then(|late| late.parse().ok()).expect("a number");
    assert!((10..=16).contains(&late), "{late}");
}

#[test]
fn a_hello_in_records_of_one_byte_is_understood() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    let mut first = true;
    let port = relay(tls.port, move |bytes| {
        if !std::mem::take(&mut first) {
            return Some(bytes.to_vec());
        }
        // One record with the hello, as s_client sends it.
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        assert!(bytes[0] == 22 && bytes.len() == length + 5, "{bytes:?}");
        let records = bytes[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]);
        Some(records.collect())
    });
    let said = tls.s_client_to(port, &["-servername", "a.test"]);
    assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
}

#[test]
fn endless_hellos_are_cut_in_bounded_memory() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    tls.get("a.test", "a", &[]);
    let before = resident(&tls);
    let clients: Vec<_> = (0..50)
        .map(|number| {
            let port = tls.port;
            thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
                stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
                // A hello of 16 MB; or records without an end of nothing but a warning.
                let mut record = if number % 2 == 0 {
                    vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]
                } else {
                    vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff]
                };
                record.resize(5 + 0x4000, 0);
                let mut sent = 0_u64;
                while sent < 64 << 20 && stream.write_all(&record).is_ok() {
                    sent += record.len() as u64;
                    record[5..9].fill(0);
                }
                sent
            })
        })
        .collect();
    for client in clients {
        let sent = client.join().expect("no panic");
        // What lies in the socket's buffers counts too.
        assert!(sent < 16 << 20, "{sent} bytes were taken");
    }
    let grown = resident(&tls).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert_eq!(tls.get("a.test", "a", &[]), "m");
}

#[test]
fn renegotiation_is_refused() {
    let tls = Tls::start(|tls| vec![tls.host("a.test", "a", "")]);
    let mut child = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-servername", "a.test", "-connect"])
        .arg(format!("127.0.0.1:{}", tls.port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    // s_client's command to renegotiate.
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"R\n").expect("written");
    let output = child.wait_with_output().expect("s_client ends");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(
        said.contains("no renegotiation") || said.contains("alert"),
        "{said}"
    );
    drop(stdin);
    assert_eq!(tls.get("a.test", "a", &[]), "m");
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_holds_little() {
    let mut tls = Tls::prepare();
    let sent = Arc::new(AtomicU64::new(0));
    let member = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = member.local_addr().expect("address");
    let count = Arc::clone(&sent);
    thread::spawn(move || {
        for mut stream in member.incoming().flatten() {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
                let body = vec![b'x'; 64 << 10];
                while let Ok(written) = stream.write(&body) {
                    count.fetch_add(written as u64, Relaxed);
                }
            });
        }
    });
    let host = tls.host("a.test", "a", &format!("ProxyPass / http://{address}/"));
    let log = "CustomLog access \"%>s %{SLUICE_REASON}e\"\nTimeout 2\n";
    let port = tls.port;
    tls.sluice
        .write(&format!("{log}Listen 127.0.0.1:{port}\n{host}"));
    tls.sluice.run();
    let before = resident(&tls);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut child = Command::new("openssl")
                .args([
                    "s_client",
                    "-quiet",
                    "-connect",
                    &format!("127.0.0.1:{port}"),
                ])
                .stdin(Stdio::piped())
                // Nobody reads it, so s_client stops reading too.
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl is installed");
            let mut stdin = child.stdin.take().expect("piped");
            let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
            stdin.write_all(request).expect("written");
            (child, stdin)
        })
        .collect();
    wait_until("all are let go", || {
        let log = fs::read_to_string(tls.path("access")).unwrap_or_default();
        log.lines().count() == 10
    });
    let grown = resident(&tls).saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes");
    // Sockets' buffers on two ways of ten clients, and what sluice holds.
    let taken = sent.load(Relaxed);
    assert!(taken < 10 * (24 << 20), "{taken} bytes of 10 GiB");
    let log = fs::read_to_string(tls.path("access")).expect("a log");
    assert!(log.lines().all(|line| line == "200 client_gone"), "{log}");
    for (mut child, _) in clients {
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
}
