//! Members behind Unix sockets.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use sluice::config::spec::Upgrade;

use crate::support::{Lab, eventually};

/// A member at `path` that answers every request with `answer`; the heads it saw.
fn member(path: &Path, answer: &'static [u8]) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(path).expect("bind");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let heads = Arc::clone(&heads);
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head).into_owned();
                        heads.lock().expect("heads").push(text);
                        head.clear();
                        if stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    seen
}

fn lab(path: PathBuf, upgrade: Upgrade) -> Lab {
    let nowhere = crate::support::dead_address();
    Lab::configured(&[nowhere], |spec| {
        let member = &mut spec.balancers[0].members[0];
        member.url = format!("unix:{}|http://127.0.0.1", path.display());
        member.port = 80;
        member.retry = std::time::Duration::ZERO;
        member.socket = Some(path);
        member.upgrade = upgrade;
    })
}

#[test]
fn requests_go_through_the_socket_with_the_name_as_host() {
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("s");
    let seen = member(&path, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix");
    let lab = lab(path, Upgrade::Never);
    let mut client = lab.client();
    for _ in 0..3 {
        assert_eq!(client.get("/x?y", "").text(), "unix");
    }
    let seen = seen.lock().expect("heads");
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("GET /x?y HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].to_ascii_lowercase().contains("host: 127.0.0.1\r\n"));
}

#[test]
fn a_socket_that_is_missing_or_refuses_is_503_until_it_is_there() {
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("s");
    let lab = lab(path.clone(), Upgrade::Never);
    assert_eq!(lab.get("/", "").status, 503);
    // There, and nobody listens.
    drop(UnixListener::bind(&path).expect("bind"));
    assert_eq!(lab.get("/", "").status, 503);
    std::fs::remove_file(&path).expect("removed");
    let _seen = member(&path, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(lab.get("/", "").status, 200);
}

#[test]
fn a_tunnel_goes_through_a_socket() {
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("s");
    let answer = b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\nhello";
    let seen = member(&path, answer);
    let lab = lab(path, Upgrade::Any);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n");
    assert_eq!(client.receive().status, 101);
    client.send("in the tunnel\r\n\r\n");
    client
        .stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    let rest = client.rest().expect("to the end");
    assert!(rest.starts_with(b"hello"), "{rest:?}");
    assert_eq!(seen.lock().expect("heads")[1], "in the tunnel\r\n\r\n");
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
}
