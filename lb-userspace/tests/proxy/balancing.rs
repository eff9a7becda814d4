//! Who gets a request, and what happens when it cannot be given to him.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use lb_common::member::MemberState;

use crate::support::{Lab, Member, dead_address, eventually, respond, sticky};

#[test]
fn five_to_one_gives_httpds_sequence_across_shards() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].members[0].lbfactor = 500;
    });
    assert_eq!(lab.sequence(12), "aaabaaaaabaa");
    assert_eq!(lab.cell(0, 0).elected.load(Relaxed), 10);
    assert_eq!(lab.cell(0, 1).elected.load(Relaxed), 2);
}

#[test]
fn session_by_cookie_or_path_goes_to_its_member() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].sticky = Some(sticky());
    });
    for _ in 0..3 {
        assert_eq!(lab.get("/", "Cookie: x=y; ROUTEID=s.n1\r\n").text(), "b");
        assert_eq!(
            lab.get("/p;routeid=s.n0", "Cookie: ROUTEID=s.n1\r\n")
                .text(),
            "a"
        );
        assert_eq!(lab.get("/p?routeid=s.n1", "").text(), "b");
    }
}

#[test]
fn drain_and_disable_in_the_table_move_new_requests_at_once() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].sticky = Some(sticky());
    });
    lab.cell(0, 0).set_state(MemberState::DRAIN);
    assert_eq!(lab.sequence(4), "bbbb");
    assert_eq!(lab.get("/", "Cookie: ROUTEID=.n0\r\n").text(), "a");
    lab.cell(0, 0).set_state(MemberState::DISABLED);
    assert_eq!(lab.get("/", "Cookie: ROUTEID=.n0\r\n").text(), "b");
}

#[test]
fn dead_member_costs_no_client_an_error() {
    let (a, c) = (Member::named("a"), Member::named("c"));
    let lab = Lab::balancing(&[a.address, dead_address(), c.address]);
    assert_eq!(lab.sequence(8), "accacaca");
    assert!(lab.cell(0, 1).state().has(MemberState::ERROR));
    assert!(lab.cell(0, 1).error_since.load(Relaxed) > 0);
    assert_eq!(lab.cell(0, 1).failed.load(Relaxed), 1);
    // The last client may have its answer before it is counted out.
    eventually("nobody is busy", || {
        (0..3).all(|member| lab.busy(0, member) == 0)
    });
}

#[test]
fn member_that_comes_back_is_used_after_retry() {
    let b = Member::named("b");
    let address = dead_address();
    let lab = Lab::configured(&[address, b.address], |spec| {
        spec.balancers[0].members[0].retry = Duration::ZERO;
    });
    assert_eq!(lab.sequence(2), "bb");
    let back = std::net::TcpListener::bind(address).expect("bind again");
    std::thread::spawn(move || {
        use std::io::Read as _;
        while let Ok((mut stream, _)) = back.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = respond(&mut stream, "200 OK", "Connection: close\r\n", b"a");
        }
    });
    assert!(lab.sequence(4).contains('a'));
    assert_eq!(lab.cell(0, 0).retries.load(Relaxed), 0);
}

#[test]
fn nobody_usable_is_a_503_that_closes() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    lab.cell(0, 0).set_state(MemberState::DISABLED);
    let mut client = lab.client();
    let reply = client.get("/", "");
    assert_eq!(reply.status, 503);
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
    assert!(reply.text().contains("<h1>Service Unavailable</h1>"));
    assert!(client.is_closed());
    lab.cell(0, 0).clear_state(MemberState::DISABLED);
    assert_eq!(lab.sequence(1), "a");
}

#[test]
fn empty_balancer_is_a_503() {
    assert_eq!(Lab::balancing(&[]).get("/", "").status, 503);
}

#[test]
fn all_dead_is_a_503_and_forced_recovery_tries_again() {
    let address = dead_address();
    let lab = Lab::balancing(&[address, dead_address()]);
    assert_eq!(lab.get("/", "").status, 503);
    assert_eq!(lab.get("/", "").status, 503);
    assert!(lab.cell(0, 0).failed.load(Relaxed) >= 2);
}

#[test]
fn maxattempts_limits_failover() {
    let c = Member::named("c");
    let lab = Lab::configured(&[dead_address(), dead_address(), c.address], |spec| {
        spec.balancers[0].maxattempts = Some(0);
    });
    let statuses: Vec<_> = (0..4).map(|_| lab.get("/", "").status).collect();
    assert_eq!(statuses, [503, 503, 200, 200]);
}

#[test]
fn waiting_balancer_serves_when_a_member_becomes_usable() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].timeout = Duration::from_secs(8);
    });
    lab.cell(0, 0).set_state(MemberState::DISABLED);
    std::thread::scope(|scope| {
        let request = scope.spawn(|| lab.get("/", "").text());
        eventually("the request is there", || lab.proxy.connections() == 1);
        lab.cell(0, 0).clear_state(MemberState::DISABLED);
        assert_eq!(request.join().expect("request"), "a");
    });
}

#[test]
fn failonstatus_marks_the_member_after_the_answer() {
    let a = Member::with(|_, stream| respond(stream, "500 Oops", "", b"bad"));
    let b = Member::named("b");
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].failonstatus = vec![500];
    });
    let reply = lab.get("/", "");
    assert_eq!((reply.status, reply.text().as_str()), (500, "bad"));
    assert!(reply.head.starts_with("HTTP/1.1 500 Oops"));
    eventually("marked", || lab.cell(0, 0).state().has(MemberState::ERROR));
    assert_eq!(lab.sequence(2), "bb");
}

#[test]
fn answers_of_the_member_do_not_mark_it() {
    let a = Member::with(|_, stream| respond(stream, "503 Busy", "", b"busy"));
    let lab = Lab::balancing(&[a.address]);
    for _ in 0..3 {
        let reply = lab.get("/", "");
        assert_eq!((reply.status, reply.text().as_str()), (503, "busy"));
    }
    assert!(lab.cell(0, 0).state().is_usable());
}

#[test]
fn direct_worker_in_error_is_refused_without_a_try() {
    let lab = Lab::configured(&[dead_address()], |spec| {
        spec.balancers[0].direct = true;
    });
    assert_eq!(lab.get("/", "").status, 503);
    assert_eq!(lab.get("/", "").status, 503);
    assert_eq!(lab.cell(0, 0).failed.load(Relaxed), 1);
}

#[test]
fn member_is_busy_until_the_response_has_ended() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let a = Member::with(move |_, stream| {
        use std::io::Write as _;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")?;
        let _ = gate.lock().expect("gate").recv();
        stream.write_all(b"b")?;
        Ok(true)
    });
    let lab = Lab::balancing(&[a.address]);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("busy", || lab.busy(0, 0) == 1);
    go.send(()).expect("member waits");
    assert_eq!(client.receive().text(), "ab");
    eventually("idle", || lab.busy(0, 0) == 0);
    assert_eq!(lab.cell(0, 0).responses.load(Relaxed), 1);
    // Status line and body, as httpd counts it.
    assert_eq!(lab.cell(0, 0).read.load(Relaxed), 17 + 2);
    assert!(lab.cell(0, 0).transferred.load(Relaxed) > 100);
}

#[test]
fn route_names_the_generations_members_after_a_reload() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let mut lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].members[0].lbfactor = 500;
    });
    assert_eq!(lab.sequence(2), "aa");
    lab.apply();
    assert_eq!(lab.sequence(4), "abaa", "credits survive a reload");
}
