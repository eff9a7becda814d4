//! Pooled connections that turn out to be of no use, and requests that wait for one.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, Instant},
};

use lb_common::member::MemberState;

use crate::support::{Lab, Member, dead_address, eventually, read_body, read_head, respond};

/// A request that a member behind a Unix socket saw: connection, request line, body.
type Heard = Arc<Mutex<Vec<(usize, String, Vec<u8>)>>>;

/// Echoes bodies. Who was asked for `/last` answers and is deaf from then on: whatever is written to
/// it fails, and nothing on the other side tells that beforehand.
fn deafening(path: &Path) -> Heard {
    let listener = UnixListener::bind(path).expect("bind");
    let heard = Heard::default();
    let all = Arc::clone(&heard);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let all = Arc::clone(&all);
            thread::spawn(move || drop(echo(stream, number, &all)));
        }
    });
    heard
}

fn echo(mut stream: UnixStream, number: usize, all: &Heard) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer)? {
        let body = read_body(&head, &mut stream, &mut buffer)?;
        let line = head.lines().next().unwrap_or_default().to_owned();
        let is_last = line.contains(" /last ");
        if is_last {
            stream.shutdown(Shutdown::Read)?;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = [answer.as_bytes(), &body].concat();
        all.lock().expect("heard").push((number, line, body));
        stream.write_all(&answer)?;
        if is_last {
            // Open for as long as the test runs.
            std::mem::forget(stream);
            return Ok(());
        }
    }
    Ok(())
}

/// Members at these sockets.
fn behind(paths: &[&Path]) -> Lab {
    let nowhere = vec![dead_address(); paths.len()];
    Lab::configured(&nowhere, |spec| {
        for (member, path) in spec.balancers[0].members.iter_mut().zip(paths) {
            member.url = format!("unix:{}|http://127.0.0.1", path.display());
            member.port = 80;
            member.socket = Some((*path).to_owned());
        }
    })
}

fn reset_on_close(client: &TcpStream) {
    let linger = rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO));
    linger.expect("option");
}

/// A body of so many bytes that says of each where it belongs.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + (at % 23) as u8).collect()
}

/// Sends a request in pieces.
fn send(mut client: &TcpStream, method: &str, body: &[u8], is_chunked: bool) -> io::Result<()> {
    let framing = if is_chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", body.len())
    };
    write!(
        client,
        "{method} /{method} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
    )?;
    for piece in body.chunks(100_000) {
        if is_chunked {
            write!(client, "{:x}\r\n", piece.len())?;
        }
        client.write_all(piece)?;
        if is_chunked {
            client.write_all(b"\r\n")?;
        }
    }
    if is_chunked {
        client.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

#[test]
fn request_that_could_not_be_sent_at_all_goes_whole_and_once_over_another_connection() {
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("s");
    let heard = deafening(&path);
    let lab = behind(&[&path]);
    let mut client = lab.client();
    let mut connections = 0;
    for method in ["GET", "PUT", "DELETE", "POST", "PATCH"] {
        for (length, is_chunked) in [
            (0, false),
            (7, false),
            (7, true),
            (700_000, false),
            (700_000, true),
        ] {
            let what = format!("{method} of {length}, chunked: {is_chunked}");
            assert_eq!(client.get("/last", "").status, 200, "{what}");
            heard.lock().expect("heard").clear();
            let body = body(length);
            // What waits for the member's answer must not keep it from being sent.
            thread::scope(|scope| {
                let sender = client.stream.try_clone().expect("clone");
                let sent = scope.spawn(|| send(&{ sender }, method, &body, is_chunked));
                let reply = client.receive();
                sent.join().expect("no panic").expect("sent");
                assert_eq!((reply.status, reply.body == body), (200, true), "{what}");
            });
            connections += 1;
            let heard = heard.lock().expect("heard");
            let [(connection, line, came)] = &heard[..] else {
                panic!("{what}: {} requests", heard.len());
            };
            assert_eq!(*connection, connections, "{what}");
            assert_eq!(*line, format!("{method} /{method} HTTP/1.1"));
            assert!(*came == body, "{what}: {} bytes", came.len());
        }
    }
    assert!(lab.cell(0, 0).state().is_usable());
}

#[test]
fn body_that_could_not_be_sent_goes_to_another_member_when_there_is_no_other_connection() {
    for (length, is_chunked) in [(7, false), (700_000, true)] {
        let place = tempfile::tempdir().expect("directory");
        let (first, second) = (place.path().join("1"), place.path().join("2"));
        let (one, two) = (deafening(&first), deafening(&second));
        let lab = behind(&[&first, &second]);
        let mut client = lab.client();
        assert_eq!(client.get("/last", "").status, 200);
        assert_eq!(
            one.lock().expect("heard").len(),
            1,
            "the first is elected first"
        );
        assert_eq!(client.get("/", "").status, 200);
        // The first one's turn again: its connection is deaf and it takes no other.
        std::fs::remove_file(&first).expect("removed");
        let body = body(length);
        send(&client.stream, "POST", &body, is_chunked).expect("sent");
        let reply = client.receive();
        assert_eq!((reply.status, reply.body == body), (200, true));
        let two = two.lock().expect("heard");
        assert_eq!(two.len(), 2);
        assert!(two[1].2 == body, "{} bytes", two[1].2.len());
        assert_eq!(one.lock().expect("heard").len(), 1);
        assert!(lab.cell(0, 0).state().has(MemberState::ERROR));
    }
}

#[test]
fn connection_of_a_slots_former_member_carries_nothing_for_the_next() {
    for comes_back_first in [true, false] {
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let a = Member::with(move |seen, stream| {
            if seen.path() == "/hold" {
                let _ = gate.lock().expect("gate").recv();
            }
            respond(stream, "200 OK", "", b"a")
        });
        let b = Member::named("b");
        let mut lab = Lab::new(1);
        lab.add_balancer("x", &[a.address]);
        lab.route("/", 0, "/");
        lab.apply();
        let mut held = lab.client();
        held.send("GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
        eventually("it is held", || a.seen().len() == 1);
        assert_eq!(
            lab.sequence(2),
            "aa",
            "over another connection, which is idle now"
        );
        // The slot is given to another member, as control does it.
        lab.cell(0, 0).incarnation.store(2, Relaxed);
        let member = &mut lab.spec.balancers[0].members[0];
        member.url = format!("http://{}", b.address);
        member.port = b.address.port();
        lab.apply();
        if !comes_back_first {
            assert_eq!(lab.sequence(1), "b");
        }
        go.send(()).expect("member waits");
        assert_eq!(held.receive().text(), "a");
        assert_eq!(lab.sequence(5), "bbbbb");
        assert_eq!(b.connections(), 1, "pooled all the same");
        assert_eq!((a.seen().len(), a.connections()), (3, 2));
        eventually("nothing is kept for who is gone", || {
            a.open_connections() == 0
        });
    }
}

/// A member that answers nobody, behind `/`, and one that does, behind `/well`.
fn hanging(change: impl FnOnce(&mut sluice::config::spec::Member)) -> (Member, Member, Lab) {
    let hangs = Member::with(|_, stream| {
        // Until the proxy has enough of it.
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let well = Member::named("well");
    let mut lab = Lab::new(2);
    lab.add_balancer("hangs", &[hangs.address]);
    lab.add_balancer("well", &[well.address]);
    lab.route("/well", 1, "/");
    lab.route("/", 0, "/");
    change(&mut lab.spec.balancers[0].members[0]);
    lab.apply();
    (hangs, well, lab)
}

/// Sends so many requests to the member that hangs; how each was answered, and the longest that
/// a request to the other took meanwhile.
fn crowd(lab: &Lab, count: usize) -> (Vec<u16>, Duration) {
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| lab.get("/", "").status))
            .collect();
        let mut longest = Duration::ZERO;
        while !waiting.iter().all(thread::ScopedJoinHandle::is_finished) {
            let begun = Instant::now();
            assert_eq!(lab.get("/well", "").text(), "well");
            longest = longest.max(begun.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        let answers = waiting
            .into_iter()
            .map(|client| client.join().expect("an answer"));
        let mut answers: Vec<_> = answers.collect();
        answers.sort_unstable();
        (answers, longest)
    })
}

#[test]
fn who_waits_for_a_hanging_member_is_answered_in_the_end_and_others_are_unharmed() {
    // Without acquire everybody has a turn, and fails by the member's timeout.
    let (hangs, well, lab) = hanging(|member| {
        member.max = Some(2);
        member.timeout = Some(Duration::from_millis(200));
    });
    let (answers, longest) = crowd(&lab, 12);
    assert_eq!(answers, [502; 12]);
    assert_eq!(hangs.seen().len(), 12, "each was sent once");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(well.seen().len() >= 10);
    eventually("none is in flight", || {
        lab.busy(0, 0) == 0 && hangs.open_connections() == 0
    });

    // With acquire the others are refused in its time.
    let (hangs, _well, lab) = hanging(|member| {
        member.max = Some(2);
        member.timeout = Some(Duration::from_secs(4));
        member.acquire = Some(Duration::from_millis(200));
    });
    let mut slow: Vec<_> = (0..2).map(|_| lab.client()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    eventually("both are there", || hangs.seen().len() == 2);
    let begun = Instant::now();
    let (answers, _) = crowd(&lab, 12);
    assert_eq!(answers, [503; 12]);
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "waited, all of them at once"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(hangs.seen().len(), 2);
    assert!(lab.cell(0, 0).state().has(MemberState::ERROR), "as httpd");
    for client in &mut slow {
        assert_eq!(client.receive().status, 502);
    }
    eventually("none is in flight", || lab.busy(0, 0) == 0);
}

#[test]
fn clients_that_leave_while_they_wait_take_nobodys_turn() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |seen, stream| {
        if seen.path() == "/hold" {
            let _ = gate.lock().expect("gate").recv();
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].max = Some(1);
    });
    let asking = |path: &str| {
        let mut client = lab.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client
    };
    let mut held = asking("/hold");
    eventually("it is held", || a.seen().len() == 1);
    let mut waiting: Vec<_> = (0..12).map(|_| asking("/")).collect();
    eventually("all wait", || lab.busy(0, 0) == 13);
    // Every other one, and abruptly: who closes in order may still want its answer.
    let mut at = 0;
    waiting.retain(|client| {
        at += 1;
        let leaves = at % 2 == 1;
        if leaves {
            reset_on_close(&client.stream);
        }
        !leaves
    });
    go.send(()).expect("member waits");
    assert_eq!(held.receive().text(), "a");
    for client in &mut waiting {
        assert_eq!(client.receive().text(), "a");
    }
    eventually("none is in flight", || lab.busy(0, 0) == 0);
}
