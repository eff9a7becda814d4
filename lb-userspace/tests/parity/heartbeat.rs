//! `lbmethod=heartbeat` by a file of heartbeats, which both read.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
};

use super::{
    harness::wait_until,
    peers::{Pair, is_here},
};

/// A member at an address of its own, which answers with its name.
fn member(ip: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with the connection; its errors are the test's to notice at the client.
            thread::spawn(move || drop(answer(&stream, name)));
        }
    });
    address
}

fn answer(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}")?;
        }
        line.clear();
    }
    Ok(())
}

/// All of it at once, as mod_heartmonitor does.
fn write_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).expect("readable");
    fs::rename(&new, path).expect("renamed");
}

/// Who answered how many of so many requests: httpd's, then ours. Empty: 503.
fn shares(pair: &Pair, requests: usize) -> [BTreeMap<String, usize>; 2] {
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for _ in 0..requests {
        let (theirs, ours) = pair.ask("GET /", &[]);
        for (counts, seen) in counts.iter_mut().zip([theirs, ours]) {
            assert!(matches!(seen.status, 200 | 503), "{seen:?}");
            *counts.entry(seen.body).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn requests_go_where_heartbeats_say() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("readable");
    let file = dir.path().join("hb.dat");
    write_file(
        &file,
        "127.0.0.2 &ready=30&busy=1&lastseen=2&port=80\n\
         127.0.0.3 &ready=10&busy=1&lastseen=0&port=80\n\
         127.0.0.4 &ready=90&busy=1&lastseen=10&port=80\n",
    );
    let members = [
        ("127.0.0.2", "b"),
        ("127.0.0.3", "c"),
        ("127.0.0.4", "d"),
        ("127.0.0.5", "e"),
    ];
    let lines: String = members
        .map(|(ip, name)| format!("BalancerMember http://{}\n", member(ip, name)))
        .concat();
    let pair = Pair::start(&format!(
        "HeartbeatStorage {}\n<Proxy balancer://x>\n{lines}ProxySet lbmethod=heartbeat\n</Proxy>\n\
         ProxyPass / balancer://x/\n",
        file.display()
    ));
    // Ours reads the file four times a second.
    let heard = |who: &str| {
        let (theirs, ours) = pair.ask("GET /", &[]);
        [theirs, ours].iter().all(|seen| seen.body == who)
    };
    wait_until("both have read the file", || {
        shares(&pair, 12)
            .iter()
            .all(|of| !of.contains_key("d") && !of.contains_key("e"))
    });
    for counts in shares(&pair, 200) {
        let names: Vec<&str> = counts.keys().map(String::as_str).collect();
        assert_eq!(names, ["b", "c"], "{counts:?}");
        assert!((110..190).contains(&counts["b"]), "30 of 40: {counts:?}");
    }
    // A quarter of who does nothing; nothing of who has no place.
    write_file(
        &file,
        "127.0.0.2 &ready=3&busy=0&lastseen=2\n# nothing\n\n127.0.0.3 &ready=10&busy=1\n",
    );
    wait_until("c alone", || (0..6).all(|_| heard("c")));
    write_file(
        &file,
        "127.0.0.2 &ready=30&busy=1&lastseen=11\n127.0.0.3 &ready=9&busy=1&lastseen=10\n",
    );
    wait_until("nobody", || (0..3).all(|_| heard("")));
}
