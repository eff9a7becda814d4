//! How connections and streams end: deadlines, drains, reloads.

use std::sync::{Mutex, mpsc};

use super::*;
use crate::support::{eventually, respond};

/// Seconds that are over soon.
fn hasty(spec: &mut Spec) {
    let host = &mut spec.hosts[0];
    host.header_timeout = sluice::config::spec::ReadTimeout::fixed(Duration::from_secs(1));
    host.keep_alive_timeout = Duration::from_secs(1);
    host.timeout = Duration::from_secs(1);
}

#[test]
fn idle_connection_is_told_and_closed() {
    let a = Member::named("a");
    let lab = lab(&[a.address], hasty);
    run(async {
        let mut client = H2::connect(lab.address).await;
        let begun = Instant::now();
        assert_eq!(client.get("/").await.body, b"a");
        client.driver.await.expect("task").expect("a graceful end");
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(800), "{took:?}");
        assert!(took < PATIENCE, "{took:?}");
    });
}

#[test]
fn clients_that_stall_are_closed_at_every_stage() {
    let a = Member::named("a");
    let lab = lab(&[a.address], hasty);
    let begun = Instant::now();
    let mut ends: Vec<Raw> = Vec::new();
    ends.push(Raw::silent(lab.address));
    let mut raw = Raw::silent(lab.address);
    raw.send(b"PRI * HTTP/2.0\r\n").expect("send");
    ends.push(raw);
    // The preface and no settings, settings in part, settings and no request.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for more in [&b""[..], b"\0\0\x06\x04", b"\0\0\0\x04\0\0\0\0\0"] {
        let mut raw = Raw::silent(lab.address);
        raw.send(&[preface, more].concat()).expect("send");
        ends.push(raw);
    }
    // A block of fields that does not end.
    let mut raw = Raw::connect(lab.address);
    raw.frame(HEADERS, END_STREAM, 1, &block(GET))
        .expect("send");
    ends.push(raw);
    let mut raw = Raw::connect(lab.address);
    raw.get(1).expect("send");
    raw.send(&Frame::new(HEADERS, END_HEADERS, 3, &block(GET)).bytes()[..20])
        .expect("send");
    ends.push(raw);
    // Others are served meanwhile.
    run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
    for mut raw in ends {
        // HTTP/1's answer to who says half a line is none, or bytes that are no frames.
        let mut rest = Vec::new();
        let _ = raw.stream.read_to_end(&mut rest);
    }
    let took = begun.elapsed();
    assert!(took < PATIENCE, "{took:?}");
}

#[test]
fn block_that_does_not_end_does_not_hide_behind_a_running_request() {
    let a = Member::with(|_, stream| {
        // Until the proxy gives up.
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].header_timeout =
            sluice::config::spec::ReadTimeout::fixed(Duration::from_secs(1));
    });
    let mut raw = Raw::connect(lab.address);
    raw.get(1).expect("send");
    eventually("the member has it", || lab.busy(0, 0) == 1);
    raw.frame(HEADERS, END_STREAM, 3, &block(GET))
        .expect("send");
    raw.rest();
    eventually("the member is let go", || lab.busy(0, 0) == 0);
}

#[test]
fn stalled_upload_is_a_408_and_others_go_on() {
    let a = Member::with(|seen, stream| respond(stream, "200 OK", "", &seen.body));
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].protocols.stream_timeout = Some(Duration::from_secs(1));
    });
    run(async {
        let mut client = H2::connect(lab.address).await;
        for begun in [10, 40_000] {
            let mut request = Request::post("http://h.test/").body(()).expect("request");
            request
                .headers_mut()
                .insert("content-length", 100_000.into());
            let (response, mut upload) = client.open(request, false).await;
            upload
                .send_data(Bytes::from(vec![b'x'; begun]), false)
                .expect("send");
            assert_eq!(client.request(get("/"), b"").await.status, 200);
            assert_eq!(receive(response).await.expect("answer").status, 408);
        }
    });
}

#[test]
fn client_that_does_not_take_its_response_loses_the_stream_alone() {
    let a = Member::with(|seen, stream| {
        let size = if seen.path() == "/large" { 4 << 20 } else { 3 };
        respond(stream, "200 OK", "", &vec![b'd'; size])
    });
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].protocols.stream_timeout = Some(Duration::from_secs(1));
    });
    run(async {
        let mut client = H2::connect(lab.address).await;
        let begun = Instant::now();
        let (response, _) = client.open(get("/large"), true).await;
        let mut body = response.await.expect("head").into_body();
        let mut got = 0;
        let error = loop {
            // What comes is not given back to the window.
            match body.data().await.expect("no end") {
                Ok(data) => got += data.len(),
                Err(error) => break error,
            }
        };
        assert!(got < 1 << 20, "{got}");
        assert_eq!(error.reason(), Some(::h2::Reason::CANCEL));
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(800), "{took:?}");
        assert!(took < PATIENCE, "{took:?}");
        eventually("the member is let go", || lab.busy(0, 0) == 0);
        // Frees the connection's window for the next.
        body.flow_control().release_capacity(got).expect("release");
        assert_eq!(client.get("/").await.body, b"ddd");
    });
}

#[test]
fn slow_but_steady_client_keeps_its_stream() {
    let a = Member::with(|_, stream| respond(stream, "200 OK", "", &vec![b'd'; 300_000]));
    let lab = lab(&[a.address], |spec| {
        spec.hosts[0].protocols.stream_timeout = Some(Duration::from_secs(1));
    });
    run(async {
        let mut client = H2::connect(lab.address).await;
        let (response, _) = client.open(get("/"), true).await;
        let mut body = response.await.expect("head").into_body();
        let mut got = 0;
        while let Some(data) = body.data().await {
            let data = data.expect("data");
            got += data.len();
            tokio::time::sleep(Duration::from_millis(100)).await;
            body.flow_control()
                .release_capacity(data.len())
                .expect("release");
        }
        assert_eq!(got, 300_000);
    });
}

#[test]
fn drain_lets_streams_finish_and_takes_no_more() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |seen, stream| {
        if seen.path() == "/slow" {
            let _ = gate.lock().expect("gate").recv();
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = lab(&[a.address], |_| {});
    run(async {
        let mut idle = H2::connect(lab.address).await;
        assert_eq!(idle.get("/").await.body, b"a");
        let mut client = H2::connect(lab.address).await;
        let (slow, _) = client.open(get("/slow"), true).await;
        while lab.busy(0, 0) == 0 {
            tokio::task::yield_now().await;
        }
        lab.proxy.drain();
        idle.driver.await.expect("task").expect("a graceful end");
        go.send(()).expect("member waits");
        assert_eq!(receive(slow).await.expect("answer").body, b"a");
        client.driver.await.expect("task").expect("a graceful end");
    });
}

#[test]
fn streams_after_a_reload_are_of_the_new_generation() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |_, stream| {
        let _ = gate.lock().expect("gate").recv();
        respond(stream, "200 OK", "", b"a")
    });
    let b = Member::named("b");
    let mut lab = lab(&[a.address], |_| {});
    lab.add_balancer("y", &[b.address]);
    run(async {
        let mut client = H2::connect(lab.address).await;
        let (old, _) = client.open(get("/"), true).await;
        while lab.busy(0, 0) == 0 {
            tokio::task::yield_now().await;
        }
        lab.spec.hosts[0].routes.clear();
        lab.route("/", 1, "/");
        lab.apply();
        assert_eq!(client.get("/").await.body, b"b");
        go.send(()).expect("member waits");
        assert_eq!(receive(old).await.expect("answer").body, b"a");
        assert_eq!(client.get("/").await.body, b"b");
    });
}
