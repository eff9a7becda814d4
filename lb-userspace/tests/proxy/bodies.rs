//! Bodies: streaming, back-pressure, failover with a body, what is cut short.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use crate::support::{Lab, Member, PATIENCE, dead_address, eventually, find, respond};

fn echo() -> Member {
    Member::with(|seen, stream| respond(stream, "200 OK", "", &seen.body))
}

fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = b"POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(size) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend_from_slice(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

#[test]
fn bodies_are_framed_anew_as_httpd_does() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    let large = vec![b'x'; 200_000];
    let cases = [
        (post(b"abc"), b"abc".as_slice(), Some("3"), None),
        (post(b""), b"", Some("0"), None),
        (chunked(b"abc", 2), b"abc", Some("3"), None),
        (post(&large), &large, Some("200000"), None),
        (chunked(&large, 7000), &large, None, Some("chunked")),
    ];
    for (request, body, length, coding) in cases {
        client.send(request);
        assert!(client.receive().body == body);
        let seen = a.last();
        assert_eq!(seen.field("content-length").as_deref(), length);
        assert_eq!(seen.field("transfer-encoding").as_deref(), coding);
    }
    assert_eq!(a.connections(), 1, "one connection served them all");
}

#[test]
fn body_of_a_get_is_passed_on() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    let request = String::from_utf8(chunked(&vec![b'y'; 40_000], 9000)).expect("ASCII");
    client.send(request.replacen("POST", "GET", 1));
    assert_eq!(client.receive().body.len(), 40_000);
}

#[test]
fn large_post_fails_over_when_the_connection_fails() {
    let b = echo();
    let lab = Lab::balancing(&[dead_address(), b.address]);
    let body = vec![b'z'; 200_000];
    let mut client = lab.client();
    client.send(post(&body));
    let reply = client.receive();
    assert_eq!(reply.status, 200);
    assert!(reply.body == body);
}

#[test]
fn pipelined_requests_with_bodies_are_answered_in_order() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    let mut burst = Vec::new();
    for number in 0..20 {
        let body = number.to_string();
        burst.extend(if number % 2 == 0 {
            post(body.as_bytes())
        } else {
            chunked(body.as_bytes(), 1)
        });
    }
    client.send(burst);
    for number in 0..20 {
        assert_eq!(client.receive().text(), number.to_string());
    }
}

#[test]
fn requests_arriving_byte_by_byte_are_understood() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    for request in [chunked(b"hello", 2), post(b"world")] {
        for byte in request {
            client.send([byte]);
        }
    }
    assert_eq!(client.receive().text(), "hello");
    assert_eq!(client.receive().text(), "world");
}

/// A slow client must not make the proxy read a member's response into memory.
#[test]
fn slow_client_holds_the_member_back() {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let total = 64 << 20;
    let a = Member::with(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")?;
        let block = vec![b'd'; 64 << 10];
        for _ in 0..total / block.len() {
            stream.write_all(&block)?;
            counter.fetch_add(block.len(), Relaxed);
        }
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    // It stands still, with the kernel's buffers of both connections full, far from the end.
    let mut last = usize::MAX;
    let mut same = 0;
    let begun = std::time::Instant::now();
    while same < 20 {
        assert!(begun.elapsed() < PATIENCE, "the member is not held back");
        let now = written.load(Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(last < total / 2, "{last} of {total} bytes were taken");
    let rest = client.rest().expect("the whole response");
    assert_eq!(
        rest.len() - find(&rest, b"\r\n\r\n").expect("head") - 4,
        total
    );
}

/// The same for uploads.
#[test]
fn slow_member_holds_the_client_back() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let total = 64_usize << 20;
    let a = Member::with_open_body(move |seen, stream| {
        let _ = gate.lock().expect("gate").recv();
        let mut count = seen.body.len();
        let mut buffer = vec![0; 64 << 10];
        while count < total {
            match stream.read(&mut buffer)? {
                0 => return Ok(false),
                read => count += read,
            }
        }
        respond(stream, "200 OK", "", count.to_string().as_bytes())
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    let mut stream = client.stream.try_clone().expect("clone");
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = std::thread::spawn(move || {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {total}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("head");
        let block = vec![b'u'; 64 << 10];
        for _ in 0..total / block.len() {
            stream.write_all(&block).expect("body");
            counter.fetch_add(block.len(), Relaxed);
        }
    });
    let (mut last, mut same) = (usize::MAX, 0);
    let begun = std::time::Instant::now();
    while same < 20 {
        assert!(begun.elapsed() < PATIENCE, "the client is not held back");
        let now = sent.load(Relaxed);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(last < total / 2, "{last} of {total} bytes were taken");
    go.send(()).expect("member waits");
    sender.join().expect("upload");
    assert_eq!(client.receive().text(), total.to_string());
}

#[test]
fn slow_client_that_closed_its_half_gets_the_whole_response() {
    let total = 8_usize << 20;
    let a = Member::with(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")?;
        stream.write_all(&vec![b'd'; total])?;
        Ok(true)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_millis(200);
    });
    for half_closes in [true, false] {
        let mut client = lab.client();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        if half_closes {
            client.stream.shutdown(Shutdown::Write).expect("half close");
        }
        // The pause is the subject: longer than the keep-alive timeout, with the end unread.
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(client.receive().body.len(), total);
        assert!(client.is_closed());
    }
}

#[test]
fn response_is_passed_on_as_it_comes() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")?;
        let _ = gate.lock().expect("gate").recv();
        stream.write_all(b"3\r\ntwo\r\n0\r\nX-Trailer: v\r\n\r\n")?;
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n");
    let mut seen = Vec::new();
    while find(&seen, b"one").is_none() {
        let mut buffer = [0; 1024];
        let count = client.stream.read(&mut buffer).expect("first chunk");
        assert!(count > 0);
        seen.extend_from_slice(&buffer[..count]);
    }
    go.send(()).expect("member waits");
    seen.extend(client.rest().expect("rest"));
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(text.ends_with("3\r\ntwo\r\n0\r\n\r\n"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("x-trailer"));
}

#[test]
fn truncated_response_is_seen_to_be_truncated() {
    let a = Member::with(|seen, stream| {
        let head: &[u8] = match seen.path() {
            "/length" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart",
            _ => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        };
        stream.write_all(head)?;
        Ok(false)
    });
    let lab = Lab::balancing(&[a.address]);
    for path in ["/length", "/chunked"] {
        let mut client = lab.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let text = String::from_utf8_lossy(&client.rest().expect("end")).into_owned();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{path}: {text:?}");
        assert!(text.contains("part"), "what came is passed on: {text:?}");
        assert!(!text.ends_with("0\r\n\r\n"), "no false end: {text:?}");
    }
    // HTTP/1.0 has no framing that could show it: the connection is reset.
    let mut client = lab.client();
    client.send("GET /chunked HTTP/1.0\r\n\r\n");
    let error = client.rest().expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(lab.cell(0, 0).state().is_usable());
    assert_eq!(a.connections(), 3, "none was pooled");
}

#[test]
fn upload_that_breaks_off_is_not_completed_towards_the_member() {
    let (saw, report) = mpsc::channel();
    let saw = Mutex::new(saw);
    let a = Member::with_open_body(move |seen, stream| {
        let mut body = seen.body.clone();
        let ended = stream.read_to_end(&mut body);
        saw.lock()
            .expect("report")
            .send((body.len(), ended.is_ok()))
            .expect("test waits");
        Ok(false)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    client.send(vec![b'x'; 50_000]);
    client.stream.shutdown(Shutdown::Write).expect("half close");
    let (length, _) = report.recv_timeout(PATIENCE).expect("member saw the end");
    assert!(length < 100_000);
    assert_eq!(client.receive().status, 400);
    // Short enough to be read before a member is chosen: the member never hears of it.
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nabc");
    client.stream.shutdown(Shutdown::Write).expect("half close");
    assert_eq!(client.receive().status, 400);
    assert_eq!(a.seen().len(), 1);
}

#[test]
fn malformed_chunked_body_is_refused_at_once_and_what_follows_is_not_served() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    for body in [
        // Where the body ends depends on whom one asks: a bare line feed is a line's end or not.
        "3\r\nabc\r\n0\r\nT: v\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
        "1000000000000000\r\nabc",
    ] {
        let answer = lab.raw(format!(
            "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}\
             GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    assert!(a.seen().is_empty());
    // Streamed already: the member's request breaks off, and it is not busy any more.
    let mut client = lab.client();
    client.send("POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n8000\r\n");
    client.send(vec![b'x'; 0x8000]);
    client.send("\r\n0\r\nT: v\n\r\n");
    assert_eq!(client.receive().status, 400);
    eventually("not busy", || lab.busy(0, 0) == 0);
}

#[test]
fn answer_before_the_end_of_an_upload_reaches_the_client_and_ends_the_connection() {
    let a = Member::with_open_body(|_, stream| {
        respond(stream, "413 Too Large", "", b"no")?;
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    client.send(vec![b'x'; 20_000]);
    let reply = client.receive();
    assert_eq!((reply.status, reply.text().as_str()), (413, "no"));
    client.stream.shutdown(Shutdown::Write).expect("half close");
    assert!(client.is_closed());
    eventually("not busy", || lab.busy(0, 0) == 0);
    assert_eq!(lab.get("/", "").status, 413);
    assert_eq!(a.connections(), 2, "the first connection was not pooled");
}

/// The member's time rests while the client is the one to send, behind the head of an answer too.
#[test]
fn upload_behind_an_early_answer_goes_on_and_takes_its_time() {
    let a = Member::with_open_body(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")?;
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes)? {
                0 => return Ok(false),
                count if bytes[..count].contains(&b'E') => break,
                _ => {}
            }
        }
        stream.write_all(b"4\r\nlate\r\n0\r\n\r\n")?;
        Ok(true)
    });
    let member_timeout = Duration::from_millis(300);
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].timeout = Some(member_timeout);
    });
    let mut client = lab.client();
    client
        .send("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n");
    client.send(vec![b'x'; 20_000]);
    let mut seen = Vec::new();
    while find(&seen, b"early").is_none() {
        let mut buffer = [0; 1024];
        let count = client.stream.read(&mut buffer).expect("early");
        assert!(count > 0);
        seen.extend_from_slice(&buffer[..count]);
    }
    std::thread::sleep(member_timeout * 3);
    client.send(vec![b'x'; 979_999]);
    client.send("E");
    let rest = client.rest().expect("the rest");
    assert!(
        find(&rest, b"late").is_some(),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert!(lab.cell(0, 0).state().is_usable());
    assert_eq!(lab.cell(0, 0).failed.load(Relaxed), 0);
}

#[test]
fn expectation_reaches_the_member_before_the_body() {
    let (order, seen) = mpsc::channel();
    let order = Mutex::new(order);
    let a = Member::with_open_body(move |head, stream| {
        let order = order.lock().expect("order");
        order
            .send(format!("{:?} {}", head.field("expect"), head.body.len()))
            .expect("test waits");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        let mut body = [0; 5];
        stream.read_exact(&mut body)?;
        respond(stream, "200 OK", "", &body)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.receive().status, 100);
    client.send("hello");
    assert_eq!(client.receive().text(), "hello");
    let order = seen.recv_timeout(PATIENCE).expect("order");
    assert_eq!(order, "Some(\"100-continue\") 0");
}

#[test]
fn refused_expectation_never_asks_for_the_body() {
    let a = Member::with_open_body(|_, stream| respond(stream, "401 Unauthorized", "", b"who"));
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let reply = client.receive();
    assert_eq!((reply.status, reply.text().as_str()), (401, "who"));
}

#[test]
fn member_that_ignores_the_expectation_gets_the_body_all_the_same() {
    let a = echo();
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.receive().status, 100);
    client.send("hello");
    assert_eq!(client.receive().text(), "hello");
}

#[test]
fn an_expectation_that_is_not_passed_on_is_met_here() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| spec.hosts[0].forwards_expect = false);
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.receive().status, 100, "before the member is asked");
    client.send("hello");
    assert_eq!(client.receive().text(), "a");
    let seen = a.last();
    assert_eq!(
        (seen.field("expect"), &seen.body[..]),
        (None, &b"hello"[..])
    );
}
