//! Reloads and drains: nothing is lost.

use std::{
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
};

use crate::support::{Client, Lab, Member, eventually, respond};

#[test]
fn swaps_under_load_fail_no_request() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let mut lab = Lab::balancing(&[a.address]);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let address = lab.address;
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut kept = Client::connect(address);
                while !stop.load(Relaxed) {
                    // Half of them use a connection for each request, which meets the listeners.
                    let reply = if number % 2 == 0 {
                        Client::connect(address).get("/", "Connection: close\r\n")
                    } else {
                        kept.get("/", "")
                    };
                    assert_eq!(reply.status, 200);
                    assert!(matches!(reply.text().as_str(), "a" | "b"));
                    done.fetch_add(1, Relaxed);
                    if number % 2 == 1 && reply.field("connection").is_some() {
                        kept = Client::connect(address);
                    }
                }
            })
        })
        .collect();
    for round in 0..30 {
        let before = done.load(Relaxed);
        let member = if round % 2 == 0 { b.address } else { a.address };
        lab.spec.balancers[0].members[0].port = member.port();
        lab.spec.balancers[0].members[0].url = format!("http://{member}");
        // Another member takes the slot's place: a new slot, as control gives it.
        lab.ids.clear();
        lab.apply();
        eventually("requests go on", || done.load(Relaxed) > before + 4);
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert!(a.seen().len() > 10 && b.seen().len() > 10);
}

#[test]
fn kept_connection_uses_the_new_generation_and_a_running_request_its_own() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")?;
        let _ = gate.lock().expect("gate").recv();
        stream.write_all(b"a")?;
        Ok(true)
    });
    let b = Member::named("b");
    let mut lab = Lab::balancing(&[a.address]);
    lab.add_balancer("y", &[b.address]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the member has it", || a.seen().len() == 1);
    lab.spec.hosts[0].routes.clear();
    lab.route("/", 1, "/");
    lab.apply();
    go.send(()).expect("member waits");
    assert_eq!(client.receive().text(), "aa");
    assert_eq!(client.get("/", "").text(), "b");
}

#[test]
fn removed_listener_serves_what_it_had_accepted_and_then_refuses() {
    let a = Member::named("a");
    let mut lab = Lab::balancing(&[a.address]);
    let extra = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = extra.local_addr().expect("address");
    let listener = |socket: &std::net::TcpListener| sluice::proxy::ShardListener {
        shard: 0,
        listener: 0,
        socket: socket.try_clone().expect("clone"),
    };
    lab.apply_with(vec![listener(&extra)], Vec::new());
    assert_eq!(Client::connect(address).get("/", "").text(), "a");
    // Our own copy of the descriptor would keep the socket alive.
    let last = listener(&extra);
    drop(extra);
    drop(last);
    let mut waiting: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    lab.apply();
    for client in &mut waiting {
        assert_eq!(client.get("/", "").text(), "a");
    }
    eventually("refused", || std::net::TcpStream::connect(address).is_err());
}

#[test]
fn drain_lets_requests_finish_and_closes_the_rest() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let a = Member::with(move |seen, stream| {
        if seen.path() == "/slow" {
            let _ = gate.lock().expect("gate").recv();
        }
        if seen.path() == "/body" {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")?;
            let _ = gate.lock().expect("gate").recv();
            stream.write_all(b"b")?;
            return Ok(true);
        }
        respond(stream, "200 OK", "", b"a")
    });
    let lab = Lab::balancing(&[a.address]);
    let mut idle = lab.client();
    assert_eq!(idle.get("/", "").text(), "a");
    let mut slow = lab.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut body = lab.client();
    body.send("GET /body HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut fresh = lab.client();
    eventually("both are busy", || a.seen().len() == 3);
    eventually("all are there", || lab.proxy.connections() == 4);
    lab.proxy.drain();
    assert!(idle.is_closed());
    // A connection that had said nothing yet still may.
    assert_eq!(fresh.get("/", "").text(), "a");
    assert!(fresh.is_closed());
    go.send(()).expect("member waits");
    go.send(()).expect("member waits");
    let reply = slow.receive();
    assert_eq!(reply.text(), "a");
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
    assert!(slow.is_closed());
    assert_eq!(body.receive().text(), "ab");
    assert!(body.is_closed());
    eventually("no connection is left", || lab.proxy.connections() == 0);
}

#[test]
fn silent_connection_does_not_hold_up_a_drain() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let mut silent = lab.client();
    eventually("it is there", || lab.proxy.connections() == 1);
    lab.proxy.drain();
    assert!(silent.is_closed());
    eventually("gone", || lab.proxy.connections() == 0);
}

#[test]
fn slots_that_do_not_fit_are_refused_and_change_nothing() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let generation = sluice::proxy::Generation {
        number: 9,
        spec: Arc::new(lab.spec.clone()),
        certificates: sluice::proxy::tls::Certificates::default(),
        ids: Vec::new(),
    };
    assert!(lab.proxy.apply(generation, Vec::new(), Vec::new()).is_err());
    assert_eq!(lab.sequence(1), "a");
}

#[test]
fn stop_ends_open_connections() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.get("/", "");
    lab.proxy.stop();
    assert!(client.is_closed());
}
