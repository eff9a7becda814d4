//! Connections on both sides: reuse, keep-alive, limits, timeouts.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use lb_common::member::MemberState;
use sluice::config::spec::ReadTimeout;

use crate::support::{Client, Lab, Member, PATIENCE, eventually, respond};

#[test]
fn member_connection_is_reused_across_clients() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/", 0, "/");
    lab.apply();
    assert_eq!(lab.sequence(5), "aaaaa");
    assert_eq!(a.connections(), 1);
}

#[test]
fn disablereuse_closes_after_each_request() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].disablereuse = true;
    });
    assert_eq!(lab.sequence(3), "aaa");
    assert_eq!(a.connections(), 3);
    assert_eq!(a.last().all("connection"), ["close"]);
}

#[test]
fn idle_connections_that_the_member_closed_are_not_used() {
    let a = Member::with(|seen, stream| respond(stream, "200 OK", "", &seen.body));
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    for round in 0..4 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.receive().text(), "ok", "round {round}");
        a.close_connections();
    }
    assert_eq!(a.connections(), 4);
}

#[test]
fn dead_reused_connection_has_its_get_sent_once_more() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    // The second request on a connection is read and then the connection is closed on it.
    let a = Member::with(move |seen, stream| {
        let number = counter.fetch_add(1, Relaxed);
        if number % 2 == 1 && seen.path() != "/fresh" {
            return Ok(false);
        }
        respond(stream, "200 OK", "", number.to_string().as_bytes())
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    let fields = "X-Twice: 1\r\nX-Empty:\r\nX-Twice: 2\r\nCookie: a=\u{e9}\r\n";
    assert_eq!(client.get("/", "").text(), "0");
    let reply = client.get("/a%20b?c=d", fields).text();
    assert_eq!(reply, "2", "1 died, 2 is the replay");
    assert_eq!(a.connections(), 2);
    let seen = a.seen();
    assert!(seen[1].head.contains("x-twice: 2\r\n") && seen[1].head.contains("cookie: a=\u{e9}"));
    assert_eq!(seen[1].head, seen[2].head, "the same once more");
    assert!(lab.cell(0, 0).state().is_usable());
}

#[test]
fn retry_does_not_wait_for_the_place_of_the_connection_that_died() {
    let requests = AtomicUsize::new(0);
    let a = Member::with(move |_, stream| {
        let number = requests.fetch_add(1, Relaxed);
        if number == 1 {
            return Ok(false);
        }
        respond(stream, "200 OK", "", number.to_string().as_bytes())
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].max = Some(1);
    });
    let mut client = lab.client();
    assert_eq!(client.get("/", "").text(), "0");
    assert_eq!(client.get("/", "").text(), "2", "1 died, 2 is the replay");
    assert_eq!(client.get("/", "").text(), "3");
}

#[test]
fn post_that_died_is_not_sent_twice() {
    let a = Member::with(|seen, stream| {
        if seen.path() == "/die" {
            return Ok(false);
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::balancing(&[a.address]);
    // First request of the client's connection: 502.
    let mut client = lab.client();
    client.send("POST /die HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.receive().status, 502);
    // A later one on a reused member connection: closed without a word, as httpd does, so that
    // the client repeats it by itself.
    let mut client = lab.client();
    assert_eq!(client.get("/", "").status, 200);
    client.send("POST /die HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert!(client.is_closed());
    let died = a.seen().iter().filter(|seen| seen.path() == "/die").count();
    assert_eq!(died, 2);
    assert!(lab.cell(0, 0).state().is_usable());
}

#[test]
fn fresh_connection_that_says_nothing_to_a_reused_client_marks_the_member() {
    let a = Member::with(|seen, stream| {
        if seen.path() == "/die" {
            return Ok(false);
        }
        respond(stream, "200 OK", "Connection: close\r\n", b"a")?;
        Ok(false)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    assert_eq!(client.get("/", "").status, 200);
    client.send("GET /die HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.is_closed());
    assert!(lab.cell(0, 0).state().has(MemberState::ERROR));
}

#[test]
fn read_timeout_is_a_502_and_marks_with_failontimeout() {
    let a = Member::with(|_, stream| {
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].timeout = Some(Duration::from_millis(300));
        spec.balancers[0].failontimeout = true;
    });
    let begun = Instant::now();
    let reply = lab.get("/", "");
    assert_eq!(reply.status, 502);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(lab.cell(0, 0).state().has(MemberState::ERROR));
}

#[test]
fn silence_in_the_middle_of_a_response_ends_it() {
    let a = Member::with(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")?;
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].proxy_timeout = Some(Duration::from_millis(300));
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let text = String::from_utf8_lossy(&client.rest().expect("end")).into_owned();
    assert!(text.ends_with("\r\n\r\nab"), "{text:?}");
    eventually("not busy", || lab.busy(0, 0) == 0);
}

#[test]
fn slow_but_steady_member_is_not_timed_out() {
    let a = Member::with(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")?;
        for _ in 0..6 {
            // The pause is the subject: shorter than the timeout, longer in all.
            std::thread::sleep(Duration::from_millis(250));
            stream.write_all(b"x")?;
        }
        Ok(true)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].proxy_timeout = Some(Duration::from_millis(1200));
    });
    assert_eq!(lab.get("/", "").text(), "xxxxxx");
}

#[test]
fn max_waits_for_a_free_connection_and_acquire_gives_up() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |seen, stream| {
        if seen.path() == "/slow" {
            let _ = gate.lock().expect("gate").recv();
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].max = Some(1);
    });
    let mut slow = lab.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("slow is there", || a.seen().len() == 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.get("/", "").text());
        eventually("the second waits", || lab.busy(0, 0) == 2);
        go.send(()).expect("member waits");
        assert_eq!(slow.receive().text(), "a");
        assert_eq!(waiting.join().expect("request"), "a");
    });
    drop(lab);

    let (_never, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |_, stream| {
        let _ = gate.lock().expect("gate").recv();
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].max = Some(1);
        spec.balancers[0].members[0].acquire = Some(Duration::from_millis(200));
    });
    let mut slow = lab.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("slow is there", || a.seen().len() == 1);
    assert_eq!(lab.get("/", "").status, 503);
    assert!(lab.cell(0, 0).state().has(MemberState::ERROR), "as httpd");
}

#[test]
fn idle_connection_of_another_shard_gives_way_when_max_is_reached() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].max = Some(1);
    });
    // With one shared accept queue either shard may take any of these.
    for _ in 0..8 {
        assert_eq!(lab.get("/", "").text(), "a");
    }
}

#[test]
fn ttl_drops_idle_connections() {
    let closed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&closed);
    let a = Member::with(move |_, stream| {
        respond(stream, "200 OK", "", b"a")?;
        flag.store(stream.read(&mut [0]).is_ok_and(|read| read == 0), Relaxed);
        Ok(false)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].ttl = Some(Duration::from_millis(200));
    });
    assert_eq!(lab.get("/", "").status, 200);
    eventually("closed by the proxy", || closed.load(Relaxed));
}

#[test]
fn keep_alive_is_announced_to_who_asks_and_ends_after_the_limit() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].max_keep_alive_requests = 2;
        spec.hosts[0].keep_alive_timeout = Duration::from_secs(7);
    });
    let mut client = lab.client();
    for left in [2, 1] {
        let reply = client.get("/", "Connection: keep-alive\r\n");
        assert_eq!(reply.field("connection").as_deref(), Some("Keep-Alive"));
        assert_eq!(
            reply.field("keep-alive"),
            Some(format!("timeout=7, max={left}"))
        );
    }
    let reply = client.get("/", "Connection: keep-alive\r\n");
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
    assert_eq!(reply.field("keep-alive"), None);
    assert!(client.is_closed());
    let mut client = lab.client();
    let reply = client.get("/", "");
    assert_eq!(
        (reply.field("connection"), reply.field("keep-alive")),
        (None, None)
    );
}

#[test]
fn keep_alive_off_closes_after_each_response() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| spec.hosts[0].keep_alive = false);
    let mut client = lab.client();
    let reply = client.get("/", "Connection: keep-alive\r\n");
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn limits_are_those_of_the_addresss_first_host() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].request_limits.line = 40;
        spec.hosts[0].request_limits.fields = 3;
    });
    let mut client = lab.client();
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(40));
    client.send(&long);
    assert_eq!(client.receive().status, 414);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n");
    assert_eq!(client.receive().status, 400);
    assert_eq!(lab.get("/", "").status, 200);
}

#[test]
fn half_closed_client_gets_its_answer() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    client.stream.shutdown(Shutdown::Write).expect("half close");
    assert_eq!(client.receive().text(), "a");
    assert_eq!(client.receive().text(), "a");
    assert!(client.is_closed());
}

#[test]
fn client_that_resets_lets_the_member_go() {
    let a = Member::with(|_, stream| {
        // Never answers; sees the end.
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("busy", || lab.busy(0, 0) == 1);
    socket2::SockRef::from(&client.stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(client);
    eventually("not busy", || lab.busy(0, 0) == 0);
    eventually("gone", || lab.proxy.connections() == 0);
}

#[test]
fn connect_timeout_fails_over() {
    // A listener whose queue is full: connections to it hang.
    let full =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("address");
    full.bind(&any.into()).expect("bind");
    full.listen(0).expect("listen");
    let address = full
        .local_addr()
        .expect("address")
        .as_socket()
        .expect("IPv4");
    let filled: Vec<_> = (0..4)
        .map_while(|_| {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()
        })
        .collect();
    assert!(filled.len() < 4, "the queue is full");
    let b = Member::named("b");
    let lab = Lab::configured(&[address, b.address], |spec| {
        spec.balancers[0].members[0].connection_timeout = Some(Duration::from_millis(300));
    });
    assert_eq!(lab.sequence(1), "b");
    assert!(lab.cell(0, 0).state().has(MemberState::ERROR));
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let a = Member::named("a");
    let mut lab = Lab::limited(1, 2);
    lab.add_balancer("x", &[a.address]);
    lab.route("/", 0, "/");
    lab.apply();
    let mut first = lab.client();
    let mut second = lab.client();
    assert_eq!(first.get("/", "").text(), "a");
    assert_eq!(second.get("/", "").text(), "a");
    let mut third = lab.client();
    third.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(first.get("/", "").text(), "a");
    assert_eq!(lab.proxy.connections(), 2);
    assert!(!third.proxy_has_answered());
    drop(second);
    assert_eq!(third.receive().text(), "a");
    // A drain ends an accept loop that waits, too.
    let mut fourth = lab.client();
    fourth.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    lab.proxy.drain();
    assert_eq!(
        fourth.receive().text(),
        "a",
        "it was accepted by the kernel"
    );
}

/// A flood of clients that eats the descriptors must not be able to switch the members off.
#[test]
fn proxy_without_descriptors_answers_503_and_blames_no_member() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    const ALONE: &str = "SLUICE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // The limit is the process's: a process of its own, not to starve the tests beside it.
        let name = "connections::proxy_without_descriptors_answers_503_and_blames_no_member";
        let output = std::process::Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", name])
            .env(ALONE, "1")
            .output()
            .expect("test program runs");
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    eventually("accepted", || lab.proxy.connections() == 1);
    let limit = getrlimit(Resource::Nofile);
    let mut none = limit;
    none.current = Some(1);
    setrlimit(Resource::Nofile, none).expect("limit lowered");
    let reply = client.get("/", "");
    setrlimit(Resource::Nofile, limit).expect("limit raised");
    assert_eq!(reply.status, 503);
    assert!(lab.cell(0, 0).state().is_usable());
    assert_eq!(lab.cell(0, 0).failed.load(Relaxed), 0);
    assert_eq!(lab.get("/", "").text(), "a");
}

/// Longer than a connection is silent before it is put to rest.
const REST: Duration = Duration::from_millis(1500);

/// Asserts that neither a byte nor an end comes for [`REST`].
fn stays_silent(client: &mut Client) {
    client.stream.set_read_timeout(Some(REST)).expect("timeout");
    let error = client.stream.read(&mut [0]).expect_err("silence");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    client
        .stream
        .set_read_timeout(Some(PATIENCE))
        .expect("timeout");
}

#[test]
fn resting_connection_goes_on_where_it_was() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_mins(1);
        spec.hosts[0].max_keep_alive_requests = 3;
    });
    let mut client = lab.client();
    assert_eq!(client.get("/", "").text(), "a");
    stays_silent(&mut client);
    // Several at once, the last in parts: nothing of them is lost on the way to a new hyper.
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send([request, &request[..9]].concat());
    assert_eq!(client.receive().text(), "a");
    client.send(&request[9..]);
    assert_eq!(client.receive().text(), "a");
    stays_silent(&mut client);
    client.send(request);
    let last = client.receive();
    assert_eq!(last.field("connection").as_deref(), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn resting_connection_ends_by_timeout_or_drain_or_its_client() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_secs(3);
        spec.hosts[0].header_timeout = ReadTimeout::fixed(Duration::from_secs(1));
    });
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..4).map(|_| lab.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/", "").text(), "a");
    }
    stays_silent(&mut clients[0]);
    let [timeout, leaving, stalling, asking] = &mut clients[..] else {
        unreachable!("four")
    };
    leaving.stream.shutdown(Shutdown::Write).expect("shutdown");
    assert!(leaving.is_closed());
    // A head that does not end has the time of a head, not that of a pause.
    stalling.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(stalling.receive().status, 408);
    assert!(stalling.is_closed());
    assert!(timeout.is_closed());
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(asking.is_closed());
}

#[test]
fn drain_ends_resting_connections() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_mins(1);
    });
    let mut client = lab.client();
    assert_eq!(client.get("/", "").text(), "a");
    stays_silent(&mut client);
    lab.proxy.drain();
    assert!(client.is_closed());
    eventually("no connection is left", || lab.proxy.connections() == 0);
}

#[test]
fn connections_come_from_the_address_that_is_said() {
    let a = Member::with(|_, stream| {
        let from = stream.peer_addr()?.ip().to_string();
        respond(stream, "200 OK", "", from.as_bytes())
    });
    let from = |source: &str| {
        let lab = Lab::configured(&[a.address], |spec| {
            spec.balancers[0].members[0].source = Some(source.parse().expect("an address"));
        });
        let reply = lab.get("/", "");
        (reply.status, reply.text(), lab.cell(0, 0).state())
    };
    assert_eq!(from("127.0.0.3").1, "127.0.0.3");
    assert_eq!(from("2001:db8::1").1, "127.0.0.1", "of the other family");
    let (status, _, state) = from("192.0.2.1");
    assert_eq!(
        (status, state.0),
        (503, 0),
        "not this host's: no member's fault"
    );
}
