//! Requests and responses: what a member sees of a request over HTTP/2, and what its client gets.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc,
};

use super::*;
use crate::support::{Client, access_log, named_host, respond};

fn echo() -> Member {
    Member::with(|seen, stream| respond(stream, "200 OK", "", &seen.body))
}

#[test]
fn request_reaches_the_member_as_one_of_http_1() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |spec| spec.hosts[0].preserve_host = true);
    let answer = run(async {
        let mut client = H2::connect(lab.address).await;
        let request = Request::get("http://H.test:81/a%20b/c?d=e")
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(());
        client.request(request.expect("request"), b"").await
    });
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"a"[..]));
    assert!(answer.fields.contains_key("date") && answer.fields.contains_key("server"));
    let seen = a.last();
    assert_eq!(seen.line(), "GET /a%20b/c?d=e HTTP/1.1");
    assert_eq!(seen.all("host"), ["H.test:81"]);
    assert_eq!(seen.all("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.all("x-forwarded-host"), ["H.test:81"]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.field("te"), None);
    assert_eq!(seen.field("content-length"), None);
}

#[test]
fn virtual_host_is_that_of_the_authority() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = {
        let mut lab = Lab::new(1);
        lab.add_balancer("x", &[a.address]);
        lab.add_balancer("y", &[b.address]);
        for (name, balancer) in [("a.test", 0), ("b.test", 1)] {
            let mut host = named_host(name);
            host.protocols.offered = vec![Protocol::H2c];
            lab.spec.hosts.insert(0, host);
            lab.route("/", balancer, "/");
        }
        // The main server comes first.
        let main = lab.spec.hosts.pop().expect("main");
        lab.spec.hosts.insert(0, main);
        lab.apply();
        lab
    };
    run(async {
        let mut client = H2::connect(lab.address).await;
        for (name, body) in [("a.test", "a"), ("b.test", "b"), ("B.Test", "b")] {
            let request = Request::get(format!("http://{name}/"))
                .body(())
                .expect("request");
            assert_eq!(client.request(request, b"").await.body, body.as_bytes());
        }
    });
}

#[test]
fn bodies_are_framed_anew() {
    let a = echo();
    let lab = lab(&[a.address], |_| {});
    let large = vec![b'x'; 300_000];
    run(async {
        let mut client = H2::connect(lab.address).await;
        for (body, said, length, coding) in [
            (&b"abc"[..], Some("3"), Some("3"), None),
            (b"abc", None, Some("3"), None),
            (&large, Some("300000"), Some("300000"), None),
            (&large, None, None, Some("chunked")),
        ] {
            let mut request = Request::post("http://h.test/p").body(()).expect("request");
            if let Some(said) = said {
                request
                    .headers_mut()
                    .insert("content-length", said.parse().expect("value"));
            }
            let answer = client.request(request, body).await;
            assert!(answer.body == body);
            let seen = a.last();
            assert_eq!(seen.field("content-length").as_deref(), length);
            assert_eq!(seen.field("transfer-encoding").as_deref(), coding);
        }
    });
    assert_eq!(a.connections(), 1, "one connection served them all");
}

#[test]
fn requests_of_one_connection_are_answered_side_by_side() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |seen, stream| {
        if seen.path() == "/slow" {
            let _ = gate.lock().expect("gate").recv();
        }
        respond(stream, "200 OK", "", seen.path().as_bytes())
    });
    let lab = lab(&[a.address], |_| {});
    run(async {
        let mut client = H2::connect(lab.address).await;
        let (slow, _) = client.open(get("/slow"), true).await;
        for number in 0..50 {
            let path = format!("/{number}");
            assert_eq!(client.get(&path).await.body, path.as_bytes());
        }
        go.send(()).expect("member waits");
        assert_eq!(receive(slow).await.expect("answer").body, b"/slow");
    });
}

#[test]
fn responses_without_body_have_none() {
    let a = Member::with(|seen, stream| {
        let fields = match seen.path() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        };
        stream.write_all(fields.as_bytes())?;
        Ok(true)
    });
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].routes[0].path = "/m/".to_owned();
    });
    run(async {
        let mut client = H2::connect(lab.address).await;
        let head = |path: &str| {
            let uri = format!("http://h.test{path}");
            Request::head(uri).body(()).expect("request")
        };
        let answer = client.request(head("/m/x"), b"").await;
        assert_eq!(answer.fields["content-length"], "10");
        assert!(answer.body.is_empty());
        // A page of our own.
        let answer = client.request(head("/nowhere"), b"").await;
        assert_eq!(answer.status, 404);
        let length = answer.fields["content-length"].to_str().expect("digits");
        assert!(length.parse::<usize>().expect("number") > 100, "{length}");
        assert!(answer.body.is_empty());
        let page = client.get("/nowhere").await;
        assert_eq!(page.body.len().to_string(), length);
        for status in [204, 304] {
            let answer = client.get(&format!("/m/{status}")).await;
            assert_eq!(answer.status, status);
            assert!(answer.body.is_empty());
        }
    });
    assert_eq!(
        a.connections(),
        1,
        "each response left the connection usable"
    );
}

#[test]
fn connection_fields_of_the_member_stay_with_it() {
    let a = Member::with(|_, stream| {
        let fields = "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
            Upgrade: h2c\r\nX-End: 2\r\n";
        respond(stream, "200 OK", fields, b"a")
    });
    let lab = lab(&[a.address], |_| {});
    let answer = run(async { H2::connect(lab.address).await.get("/").await });
    assert_eq!(answer.fields["x-end"], "2");
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "upgrade",
        "transfer-encoding",
    ] {
        assert!(!answer.fields.contains_key(name), "{name}");
    }
}

#[test]
fn refused_heads_are_answered_and_the_connection_goes_on() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |spec| {
        let limits = &mut spec.hosts[0].request_limits;
        (limits.line, limits.fields, limits.field_size) = (200, 20, 300);
    });
    run(async {
        let mut client = H2::connect(lab.address).await;
        let long = "x".repeat(300);
        let request = |method: &str, uri: &str, fields: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(uri);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            request.body(()).expect("request")
        };
        let url = "http://h.test/";
        let many: Vec<(&str, &str)> = vec![("x-many", "1"); 21];
        for (expected, request) in [
            (414, request("GET", &format!("{url}{long}"), &[])),
            (431, request("GET", url, &[("x", &long)])),
            (431, request("GET", url, &many)),
            (400, request("GET", url, &[("host", "other.test")])),
            (
                400,
                request("GET", url, &[("host", "h.test"), ("host", "h.test")]),
            ),
            (405, request("TRACE", url, &[])),
            (417, request("POST", url, &[("expect", "a miracle")])),
            (400, request("GET", &format!("{url}../../etc/passwd"), &[])),
            (404, request("GET", &format!("{url}a%2fb"), &[])),
            (404, request("GET", &format!("{url}a%00b"), &[])),
            (400, request("GET", &format!("{url}a%zzb"), &[])),
            (400, request("GET", "http://user@h.test/", &[])),
        ] {
            let shown = format!("{request:?}");
            let answer = client.request(request, b"").await;
            assert_eq!(answer.status, expected, "{shown}");
            assert!(!answer.body.is_empty(), "a page says so");
        }
        assert_eq!(a.seen().len(), 0, "the member saw nothing of it");
        assert_eq!(client.get("/").await.body, b"a");
    });
}

/// What the library refuses by itself: the stream is reset, the connection goes on.
#[test]
fn malformed_requests_are_reset() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let mut raw = Raw::connect(lab.address);
    let path = |path| [&GET[..3], &[(":path", path)]].concat();
    let and = |field| [GET, &[field]].concat();
    let cases: Vec<Vec<(&str, &str)>> = vec![
        GET[..3].to_vec(),
        path(""),
        path("/a b"),
        and((":path", "/")),
        and(("connection", "keep-alive")),
        and(("transfer-encoding", "chunked")),
        and(("te", "gzip")),
        and(("upgrade", "websocket")),
        and(("keep-alive", "1")),
        and(("proxy-connection", "1")),
        vec![("x", "y"), GET[0], GET[1], GET[2], GET[3]],
        and(("content-length", "x")),
        and(("content-length", "3")),
        and((":protocol", "websocket")),
    ];
    let mut stream = 1;
    for fields in cases {
        raw.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
            .expect("send");
        let reset = loop {
            let frame = raw.receive().expect("the connection is open");
            if frame.stream == stream {
                break frame;
            }
            assert_ne!(frame.kind, GOAWAY, "{fields:?}");
        };
        assert_eq!((reset.kind, reset.code()), (RST_STREAM, 1), "{fields:?}");
        stream += 2;
    }
    // A body that belies its length.
    let fields = [
        &[(":method", "POST")],
        &GET[1..],
        &[("content-length", "3")],
    ]
    .concat();
    raw.frame(HEADERS, END_HEADERS, stream, &block(&fields))
        .expect("send");
    raw.frame(DATA, END_STREAM, stream, b"four").expect("send");
    let reset = raw.until(RST_STREAM);
    assert_eq!((reset.stream, reset.code()), (stream, 1));
    raw.get(stream + 2).expect("send");
    assert_eq!(raw.until(DATA).payload, b"a");
    assert_eq!(a.seen().len(), 1);
}

#[test]
fn connect_is_refused() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let answer = run(async {
        let mut client = H2::connect(lab.address).await;
        let request = Request::connect("h.test:443").body(()).expect("request");
        client.request(request, b"").await
    });
    assert_eq!(answer.status, 405);
    assert_eq!(a.seen().len(), 0);
}

#[test]
fn early_answer_lets_the_upload_go() {
    let a = Member::with_open_body(|_, stream| {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
        Ok(false)
    });
    let lab = lab(&[a.address], |_| {});
    let mut raw = Raw::connect(lab.address);
    let fields = [&[(":method", "POST")], &GET[1..]].concat();
    raw.frame(HEADERS, END_HEADERS, 1, &block(&fields))
        .expect("send");
    // More than is read before a member is chosen, and no end.
    for _ in 0..2 {
        raw.frame(DATA, 0, 1, &[b'x'; 16_000]).expect("send");
    }
    assert_eq!(raw.until(DATA).payload, b"no");
    let reset = raw.until(RST_STREAM);
    assert_eq!(
        (reset.stream, reset.code()),
        (1, 0),
        "NO_ERROR: the answer counts"
    );
    // The connection goes on.
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(GET))
        .expect("send");
    assert_eq!(raw.until(DATA).payload, b"no");
}

#[test]
fn client_that_resets_lets_the_member_go() {
    let a = Member::with(|seen, stream| {
        if seen.path() == "/wait" {
            // Until the proxy closes.
            let _ = stream.read(&mut [0]);
            return Ok(false);
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = lab(&[a.address], |_| {});
    run(async {
        let mut client = H2::connect(lab.address).await;
        let (response, mut upload) = client.open(get("/wait"), true).await;
        while lab.busy(0, 0) == 0 {
            tokio::task::yield_now().await;
        }
        upload.send_reset(::h2::Reason::CANCEL);
        drop(response);
        while lab.busy(0, 0) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get("/").await.body, b"a");
    });
    assert_eq!(
        a.connections(),
        2,
        "the cancelled request's connection is not used again"
    );
}

#[test]
fn broken_response_is_reset() {
    let a = Member::with(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        Ok(false)
    });
    let lab = lab(&[a.address], |_| {});
    let error = run(async {
        let mut client = H2::connect(lab.address).await;
        client
            .try_request(get("/"), b"")
            .await
            .expect_err("broken off")
    });
    assert_eq!(error.reason(), Some(::h2::Reason::INTERNAL_ERROR));
}

#[test]
fn data_frames_are_as_short_as_asked() {
    let body: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let sent = body.clone();
    let a = Member::with(move |_, stream| respond(stream, "200 OK", "", &sent));
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].protocols.data_frame = 1000;
    });
    let mut raw = Raw::with(lab.address, &[(4, 1 << 20)]);
    raw.frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())
        .expect("send");
    raw.get(1).expect("send");
    let mut got = Vec::new();
    loop {
        let frame = raw.until(DATA);
        assert!(frame.payload.len() <= 1000);
        got.extend(frame.payload);
        if frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(got == body);
}

#[test]
fn log_has_each_request_with_bytes_of_its_own() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("log");
    let a = echo();
    let mut lab = lab(&[a.address], |_| {});
    let format = "%r|%H|%X|%k|%>s|%B|%I|%O|%{SLUICE_REASON}e";
    lab.spec.hosts[0].access_logs = vec![access_log(&path, format)];
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path);
    let target = sluice::config::spec::LogTarget::File(path.clone());
    lab.apply_logging(vec![(target, file.expect("log"))]);
    run(async {
        let mut client = H2::connect(lab.address).await;
        for size in [10, 20_000] {
            let request = Request::post("http://h.test/p?q")
                .body(())
                .expect("request");
            let answer = client.request(request, &vec![b'x'; size]).await;
            assert_eq!(answer.body.len(), size);
        }
        client
            .request(
                Request::builder()
                    .method("TRACE")
                    .uri("http://h.test/")
                    .body(())
                    .expect("request"),
                b"",
            )
            .await;
    });
    drop(lab);
    let text = std::fs::read_to_string(&path).expect("log");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('|').collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, size) in lines.iter().zip([10, 20_000]) {
        assert_eq!(
            line[..6],
            [
                "POST /p?q HTTP/2.0",
                "HTTP/2.0",
                "+",
                "0",
                "200",
                &size.to_string()
            ]
        );
        for bytes in &line[6..8] {
            let bytes: usize = bytes.parse().expect("number");
            assert!((size + 30..size + 300).contains(&bytes), "{line:?}");
        }
    }
    assert_eq!(lines[2][0], "TRACE / HTTP/2.0");
    assert_eq!(lines[2][8], "method_refused");
}

#[test]
fn others_of_the_port_speak_http_1() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    assert_eq!(lab.get("/", "").text(), "a");
    // Byte by byte, beginning as the preface does.
    let mut client = Client::connect(lab.address);
    for byte in b"PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.receive().text(), "a");
    // The preface in parts is a preface.
    let mut raw = Raw::silent(lab.address);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for part in preface.chunks(5) {
        raw.send(part).expect("send");
    }
    raw.until(SETTINGS);
    raw.get(1).expect("send");
    assert_eq!(raw.until(DATA).payload, b"a");
}

#[test]
fn preface_where_h2c_is_not_offered_is_refused() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let answer = lab.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].protocols.offered = vec![Protocol::H2c];
        spec.hosts[0].protocols.direct = false;
    });
    let answer = lab.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
}

/// The member takes nothing: no more than windows and buffers hold leaves the client.
#[test]
fn slow_member_holds_the_client_back() {
    let taken = std::sync::Arc::new(AtomicUsize::new(0));
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let counter = std::sync::Arc::clone(&taken);
    let a = Member::with_open_body(move |seen, stream| {
        let _ = gate.lock().expect("gate").recv();
        let mut left = (32 << 20) - seen.body.len();
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(false);
            }
            left -= count;
            counter.fetch_add(count, Relaxed);
        }
        respond(stream, "200 OK", "", b"done")
    });
    let lab = lab(&[a.address], |_| {});
    run(async {
        let mut client = H2::connect(lab.address).await;
        let mut request = Request::post("http://h.test/").body(()).expect("request");
        request
            .headers_mut()
            .insert("content-length", (32 << 20).into());
        let (response, mut upload) = client.open(request, false).await;
        let (mut sent, total) = (0, 32 << 20);
        let mut released = false;
        while sent < total {
            upload.reserve_capacity(16 << 10);
            let capacity = std::future::poll_fn(|cx| upload.poll_capacity(cx));
            // Once the member reads, whoever has to be waited for may be a busy machine.
            let patience = if released {
                PATIENCE
            } else {
                Duration::from_millis(500)
            };
            let capacity = tokio::time::timeout(patience, capacity).await;
            let Ok(capacity) = capacity else {
                assert!(
                    !released,
                    "the client is held back although the member reads"
                );
                // The kernel's buffers towards the member are the rest.
                assert!(sent < 16 << 20, "{sent} bytes were taken");
                released = true;
                go.send(()).expect("member waits");
                continue;
            };
            let size = capacity.expect("open").expect("open").min(total - sent);
            sent += size;
            let piece = Bytes::from(vec![b'u'; size]);
            upload.send_data(piece, sent == total).expect("send");
        }
        assert!(released, "the member was not waited for");
        assert_eq!(receive(response).await.expect("answer").body, b"done");
    });
}
