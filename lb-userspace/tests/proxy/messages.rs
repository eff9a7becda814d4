//! Heads: what is refused, what a member is sent, what a client gets.

use crate::support::{Lab, Member, eventually, respond};

#[test]
fn malformed_requests_are_refused_with_a_page_and_closed() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let long = "a".repeat(9000);
    let many = "A: b\r\n".repeat(100);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: h\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\0\r\n\r\n".to_owned(), 400),
        ("GET foo HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET * HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET http://a^b/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET http://\u{e9}/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \x0c3\r\n\r\nabc".to_owned(), 400),
        ("\r".repeat(200_000), 400),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(), 501),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: x\r\nContent-Length: 1\r\n\r\na".to_owned(), 417),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 405),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        (format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nA: {long}\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 400),
    ];
    for (request, status) in cases {
        let answer = lab.raw(&request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer:?}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1,
            "one answer: {answer:?}"
        );
        assert!(answer.contains("<h1>"), "{answer:?}");
    }
    assert!(a.seen().is_empty(), "nothing reached the member");
    assert_eq!(lab.sequence(1), "a", "and it still serves");
}

#[test]
fn what_follows_a_refused_request_is_not_served() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let smuggled = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    assert!(lab.raw(smuggled).starts_with("HTTP/1.1 400 "));
    assert!(a.seen().is_empty());
}

#[test]
fn member_gets_the_forwarding_fields_and_no_hop_by_hop_field() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    lab.get(
        "/",
        "X-Forwarded-For: 1.2.3.4\r\nConnection: keep-alive, X-A, Host, X-Forwarded-For\r\nX-A: 1\r\n\
         TE: trailers\r\nTrailer: x\r\nUpgrade: websocket\r\nKeep-Alive: 3\r\nProxy-Connection: x\r\n\
         Proxy-Authorization: z\r\nA_b: c\r\nCookie: a=1\r\nMax-Forwards: 3\r\n",
    );
    let seen = a.last();
    for gone in [
        "x-a",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
    let host = a.address.to_string();
    for (name, value) in [
        ("host", host.as_str()),
        ("x-forwarded-for", "1.2.3.4, 127.0.0.1"),
        ("x-forwarded-host", "h.test"),
        ("x-forwarded-server", "main.test"),
        ("connection", "Keep-Alive"),
        ("proxy-authorization", "z"),
        ("a_b", "c"),
        ("cookie", "a=1"),
        ("max-forwards", "2"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    assert_eq!(seen.field("content-length"), None);
    assert_eq!(seen.field("transfer-encoding"), None);
}

#[test]
fn preserve_host_and_add_headers_off_are_obeyed() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].preserve_host = true;
        spec.hosts[0].add_headers = false;
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: www.Example:81\r\n\r\n");
    client.receive();
    let seen = a.last();
    assert_eq!(seen.all("host"), ["www.Example:81"]);
    assert_eq!(seen.field("x-forwarded-for"), None);
    assert_eq!(lab.raw("GET / HTTP/1.0\r\n\r\n").lines().last(), Some("a"));
    assert_eq!(a.last().all("host"), [a.address.to_string()]);
}

#[test]
fn client_gets_the_members_fields_and_no_hop_by_hop_field() {
    let a = Member::with(|_, stream| {
        respond(
            stream,
            "299 Weird",
            "Connection: X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=9\r\nServer: theirs\r\n\
             Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nUpgrade: h2c\r\n",
            b"ok",
        )
    });
    let lab = Lab::balancing(&[a.address]);
    let reply = lab.client().get("/", "");
    assert!(reply.head.starts_with("HTTP/1.1 299 Weird"));
    for gone in ["x-foo", "keep-alive", "upgrade", "connection"] {
        assert_eq!(reply.field(gone), None, "{gone}");
    }
    assert_eq!(reply.field("server").as_deref(), Some("theirs"));
    assert_eq!(
        reply.field("date").as_deref(),
        Some("Thu, 01 Jan 1970 00:00:00 GMT")
    );
    assert_eq!(
        reply
            .head
            .to_ascii_lowercase()
            .matches("set-cookie")
            .count(),
        2
    );
}

#[test]
fn missing_server_and_date_are_added() {
    let a = Member::named("a");
    let reply = Lab::balancing(&[a.address]).get("/", "");
    assert_eq!(reply.field("server").as_deref(), Some("sluice"));
    assert!(
        reply
            .field("date")
            .is_some_and(|date| date.ends_with(" GMT"))
    );
}

#[test]
fn head_and_not_modified_keep_their_shape() {
    let a = Member::with(|seen, stream| {
        use std::io::Write as _;
        if seen.line().starts_with("HEAD") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n")?;
        } else if seen.path() == "/304" {
            stream.write_all(
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n",
            )?;
        } else {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        }
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    let reply = client.try_receive("HEAD").expect("head");
    assert_eq!(reply.field("content-length").as_deref(), Some("77"));
    let reply = client.get("/304", "");
    assert_eq!((reply.status, reply.field("content-length")), (304, None));
    assert_eq!(reply.field("etag").as_deref(), Some("\"x\""));
    assert_eq!(client.get("/204", "").status, 204);
    assert_eq!(a.connections(), 1);
}

#[test]
fn max_forwards_zero_is_a_proxy_error() {
    let a = Member::named("a");
    let reply = Lab::balancing(&[a.address]).get("/", "Max-Forwards: 0\r\n");
    assert!(reply.head.starts_with("HTTP/1.1 400 Proxy Error"));
    assert!(reply.text().contains("Max-Forwards has reached zero"));
}

#[test]
fn options_asterisk_is_answered_here() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let answer = lab.raw("OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK"));
    assert!(a.seen().is_empty());
}

#[test]
fn http_10_clients_are_served() {
    let a = Member::with(|seen, stream| {
        use std::io::Write as _;
        if seen.path() == "/chunked" {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            )?;
            return Ok(true);
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::balancing(&[a.address]);
    let answer = lab.raw("GET / HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\na"), "{answer}");
    assert_eq!(a.last().line(), "GET / HTTP/1.1");
    let answer = lab.raw("GET /chunked HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
    let mut client = lab.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let reply = client.receive();
        assert_eq!(
            reply
                .field("connection")
                .map(|c| c.to_lowercase())
                .as_deref(),
            Some("keep-alive")
        );
        assert_eq!(reply.text(), "a");
    }
}

#[test]
fn garbage_from_a_member_is_a_502_and_never_pooled() {
    let a = Member::with(|_, stream| {
        use std::io::Write as _;
        stream.write_all(b"rubbish without any sense\r\n\r\n")?;
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    for _ in 0..2 {
        let reply = lab.get("/", "");
        assert!(
            reply.head.starts_with("HTTP/1.1 502 Proxy Error"),
            "{}",
            reply.head
        );
        assert!(reply.text().contains("Error reading from remote server"));
    }
    assert_eq!(a.connections(), 2);
    assert!(
        lab.cell(0, 0).state().is_usable(),
        "a 502 does not mark the member"
    );
}

#[test]
fn member_that_closes_at_once_is_tried_once_and_is_a_502() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            drop(stream);
        }
    });
    let lab = Lab::balancing(&[address]);
    for round in 1..4 {
        assert_eq!(lab.get("/", "").status, 502);
        assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), round);
    }
}

#[test]
fn strange_bytes_in_a_target_reach_the_member_encoded() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    assert_eq!(lab.get("/\u{e9}<>`^?q=\u{e9}\"", "").status, 200);
    assert_eq!(a.last().path(), "/%C3%A9%3C%3E%60%5E?q=%C3%A9%22");
}

#[test]
fn ambiguous_responses_are_not_passed_on() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let a = Member::with(move |_, stream| {
            use std::io::Write as _;
            stream.write_all(head.as_bytes())?;
            Ok(false)
        });
        let reply = Lab::balancing(&[a.address]).get("/", "");
        assert_eq!(reply.status, 502, "{head}");
    }
}

/// Sent on as it came, the Content-Length would cut the client's copy of the body in two.
#[test]
fn length_beside_chunks_in_a_response_is_dropped_and_the_connection_not_reused() {
    let a = Member::with(|_, stream| {
        use std::io::Write as _;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
              5\r\nhello\r\n0\r\n\r\n",
        )?;
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    for connections in 1..3 {
        let reply = client.get("/", "");
        assert_eq!(reply.text(), "hello");
        assert_eq!(reply.field("content-length"), None);
        assert_eq!(a.connections(), connections);
    }
}

#[test]
fn interim_responses_do_not_go_on_for_ever() {
    let a = Member::with(|seen, stream| {
        use std::io::Write as _;
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        if seen.path() == "/some" {
            stream.write_all(early.repeat(100).as_bytes())?;
            return respond(stream, "200 OK", "", b"a");
        }
        loop {
            stream.write_all(early.repeat(100).as_bytes())?;
        }
    });
    let lab = Lab::balancing(&[a.address]);
    assert_eq!(lab.get("/some", "").text(), "a");
    assert_eq!(lab.get("/", "").status, 502);
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
}

/// What a member sends beyond its response is nobody's answer.
#[test]
fn surplus_bytes_of_a_response_reach_no_client() {
    for surplus in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    ] {
        let a = Member::with(move |_, stream| {
            use std::io::Write as _;
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
            stream.write_all(format!("{surplus}{evil}").as_bytes())?;
            Ok(true)
        });
        let lab = Lab::balancing(&[a.address]);
        let mut client = lab.client();
        for connections in 1..4 {
            let reply = client.get("/", "");
            assert!(!reply.text().contains("EVIL"), "{surplus:?}");
            assert_eq!(a.connections(), connections);
        }
    }
}

#[test]
fn curl_agrees() {
    let a = Member::with(|seen, stream| respond(stream, "200 OK", "", &seen.body));
    let lab = Lab::balancing(&[a.address]);
    let curl = |arguments: &[&str]| {
        let output = std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10"])
            .args(arguments)
            .arg(format!("http://{}/x", lab.address))
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl(&["--data", "hello"]), "hello");
    assert_eq!(
        curl(&["--data", "hello", "--header", "Transfer-Encoding: chunked"]),
        "hello"
    );
    assert!(curl(&["--head"]).starts_with("HTTP/1.1 200 OK"));
    let large = "x".repeat(2_000_000);
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), &large).expect("write");
    let data = format!("@{}", file.path().display());
    // curl sends Expect: 100-continue with a body of this size.
    assert_eq!(curl(&["--data-binary", &data]).len(), large.len());
    assert_eq!(a.last().field("expect").as_deref(), Some("100-continue"));
}

#[test]
fn response_field_longer_than_its_limit_is_a_502() {
    let a = Member::with(|seen, stream| {
        let length: usize = seen.path()[1..].parse().expect("a number");
        respond(
            stream,
            "200 OK",
            &format!("X-A: {}\r\n", "v".repeat(length)),
            b"",
        )
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].response_field_size = 100;
    });
    assert_eq!(lab.get("/95", "").status, 200);
    assert_eq!(lab.get("/96", "").status, 502);
    assert_eq!(lab.get("/1", "").status, 200);
}
