//! Elections that httpd has not, heartbeats and `ping`, with real members.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use lb_common::member::MemberState;
use sluice::{
    balancer::heartbeat::Beat,
    config::spec::{Balancer, HashKey, LbMethod},
    dataplane::table::monotonic_ns,
};

use crate::support::{Lab, Member, PATIENCE, dead_address, eventually, respond};

/// Three members and a balancer of them, changed.
fn three(change: impl FnOnce(&mut Balancer)) -> (Vec<Member>, Lab) {
    let members: Vec<Member> = ["a", "b", "c"].map(Member::named).into();
    let addresses: Vec<_> = members.iter().map(|member| member.address).collect();
    let lab = Lab::configured(&addresses, |spec| change(&mut spec.balancers[0]));
    (members, lab)
}

#[test]
fn a_key_has_one_member_on_every_shard() {
    for (hash_key, field) in [
        (HashKey::Header("x-user".to_owned()), "X-User: "),
        (HashKey::Cookie("user".to_owned()), "Cookie: a=b; user="),
    ] {
        let (_members, lab) = three(|balancer| {
            balancer.lbmethod = LbMethod::Hash;
            balancer.beyond.hash_key = hash_key;
        });
        let mut places = BTreeMap::new();
        for user in 0..72 {
            let once = || lab.get("/", &format!("{field}{user}\r\n")).text();
            let first = once();
            assert!((0..3).all(|_| once() == first), "{field}{user}");
            *places.entry(first).or_insert(0) += 1;
        }
        assert_eq!(places.len(), 3, "{places:?}");
        // Without it, and by default, the source's.
        let first = lab.get("/", "").text();
        assert!((0..8).all(|_| lab.get("/", "").text() == first));
    }
}

#[test]
fn a_path_has_one_member_whatever_its_query() {
    let (_members, lab) = three(|balancer| {
        balancer.lbmethod = LbMethod::Hash;
        balancer.beyond.hash_key = HashKey::Path;
    });
    let of = |path: &str| lab.get(path, "").text();
    let places: Vec<String> = (0..72).map(|n| of(&format!("/{n}"))).collect();
    for (n, place) in places.iter().enumerate() {
        assert_eq!(of(&format!("/{n}?q={n}")), *place);
    }
    assert!(
        ["a", "b", "c"]
            .iter()
            .all(|name| places.contains(&(*name).to_owned()))
    );
}

#[test]
fn a_slow_member_gets_few_requests_by_latency() {
    let slow = Member::with(|_, stream| {
        thread::sleep(Duration::from_millis(300));
        respond(stream, "200 OK", "", b"slow")
    });
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = Lab::configured(&[a.address, slow.address, b.address], |spec| {
        spec.balancers[0].lbmethod = LbMethod::LeastLatency;
    });
    let answers: Vec<String> = (0..40).map(|_| lab.get("/", "").text()).collect();
    let slow = answers.iter().filter(|text| *text == "slow").count();
    // Once to learn it; again only should both others have been slower by the machine's doing.
    assert!(slow <= 3, "{slow} of 40");
}

#[test]
fn a_member_whose_answers_fail_is_ejected_and_the_last_one_is_not() {
    let bad = |name: &'static str| {
        Member::with(move |_, stream| respond(stream, "503 Down", "", name.as_bytes()))
    };
    let (a, b, c) = (bad("a"), bad("b"), Member::named("c"));
    let lab = Lab::configured(&[a.address, b.address, c.address], |spec| {
        spec.balancers[0].beyond.eject_max = Some(34);
    });
    let answers = lab.sequence(40);
    let failed = answers.matches(['a', 'b']).count();
    assert!((20..=26).contains(&failed), "{answers}");
    let in_error = |member| lab.cell(0, member).state().has(MemberState::ERROR);
    assert!(
        in_error(0) != in_error(1),
        "one of three, whoever was first"
    );
    assert!(!in_error(2));
}

#[test]
fn a_member_that_hangs_up_wordlessly_half_of_the_time_is_ejected() {
    let a = Member::with(|seen, stream| {
        if seen.line().starts_with("POST") {
            return Ok(false);
        }
        respond(stream, "200 OK", "", b"a")
    });
    let b = Member::named("b");
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].beyond.eject_max = Some(50);
        spec.balancers[0].members[1].lbset = 1;
    });
    let ejected = || lab.cell(0, 0).state().has(MemberState::ERROR);
    for _ in 0..10 {
        assert!(!ejected(), "too early");
        // The client's connection and the member's carried a request already: it is closed too.
        let mut client = lab.client();
        assert_eq!(client.get("/", "").text(), "a");
        client.send("POST / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 1\r\n\r\nx");
        assert!(client.is_closed());
    }
    eventually("it is ejected", ejected);
}

#[test]
fn retries_end_with_their_budget() {
    let ok = Member::named("c");
    let lab = Lab::configured(&[dead_address(), ok.address], |spec| {
        spec.balancers[0].beyond.retry_budget = Some(1);
        spec.balancers[0].members[1].lbset = 1;
    });
    let begun = Instant::now();
    let once = |_| {
        // Each request is given to the dead one first, and would be tried again.
        lab.cell(0, 0).clear_state(MemberState::ERROR);
        lab.get("/", "").status
    };
    let statuses: Vec<u16> = (0..30).map(once).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    // Ten in ten seconds; a slow machine may need longer than that.
    if begun.elapsed() < Duration::from_secs(9) {
        assert_eq!(served, 10, "{statuses:?}");
    }
    assert!(
        statuses[..10].iter().all(|status| *status == 200),
        "{statuses:?}"
    );
}

#[test]
fn requests_go_where_heartbeats_come_from() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].lbmethod = LbMethod::Heartbeat;
    });
    let both = lab.sequence(8);
    assert_eq!(both, "abababab", "nobody was heard of yet");
    for member in 0..2 {
        lab.cell(0, member).identity[0].store(1 + member as u64, Relaxed);
    }
    let beats = lab.proxy.heartbeats();
    let here = a.address.ip();
    let hear = |ready| beats.hear(here, Beat { busy: 1, ready }, 0, monotonic_ns());
    assert!(hear(8));
    let chosen = lab.sequence(30);
    assert!(chosen.contains('a') && chosen.contains('b'), "{chosen}");
    assert!(hear(0));
    assert_eq!(lab.get("/", "").status, 503, "no places left");
}

/// A member that says 100 and echoes, unless it is told to keep silent.
fn pinged(silent: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> Member {
    let (silent, asked) = (Arc::clone(silent), Arc::clone(asked));
    Member::with_open_body(move |head, stream| {
        if head.field("expect").as_deref() == Some("100-continue") {
            asked.fetch_add(1, Relaxed);
            assert!(head.body.is_empty(), "the body waits");
            if silent.load(Relaxed) {
                // Until the proxy gives up.
                let _ = stream.read(&mut [0]);
                return Ok(false);
            }
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = head.field("content-length").and_then(|n| n.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body)?;
        respond(stream, "200 OK", "", &body)
    })
}

#[test]
fn a_body_waits_for_the_go_ahead_and_goes_to_another_without_it() {
    let (silent, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let a = pinged(&silent, &asked);
    let b = Member::with(|seen, stream| respond(stream, "200 OK", "X-By: b\r\n", &seen.body));
    let lab = Lab::configured(&[a.address, b.address], |spec| {
        spec.balancers[0].members[0].ping = Some(Duration::from_millis(300));
        spec.balancers[0].members[1].lbset = 1;
    });
    let send = |body: &[u8]| {
        let mut client = lab.client();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.send([head.as_bytes(), body].concat());
        client.receive()
    };
    for size in [5, 200_000] {
        let body = vec![b'x'; size];
        let reply = send(&body);
        assert_eq!((reply.status, reply.field("x-by")), (200, None));
        assert!(reply.body == body, "{size}");
    }
    assert_eq!(asked.load(Relaxed), 2);
    assert_eq!(
        lab.get("/", "").status,
        200,
        "without a body nothing is asked for"
    );
    assert_eq!(asked.load(Relaxed), 2);
    silent.store(true, Relaxed);
    for size in [5, 200_000] {
        lab.cell(0, 0).clear_state(MemberState::ERROR);
        let body = vec![b'y'; size];
        let begun = Instant::now();
        let reply = send(&body);
        assert_eq!(
            (reply.status, reply.field("x-by").as_deref()),
            (200, Some("b")),
            "{size}"
        );
        assert!(reply.body == body, "{size}");
        // One connection more is tried, as in httpd.
        assert!(begun.elapsed() >= Duration::from_millis(600));
        assert!(lab.cell(0, 0).state().has(MemberState::ERROR));
    }
    assert_eq!(b.last().field("expect"), None, "nobody asked b");
    assert_eq!(asked.load(Relaxed), 6);
}

#[test]
fn a_final_answer_instead_of_the_go_ahead_is_the_answer() {
    let a = Member::with_open_body(|_, stream| respond(stream, "413 No", "", b"no"));
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].ping = Some(PATIENCE);
    });
    // On one connection, which is one shard's with its pool.
    let mut client = lab.client();
    for connections in 1..=4 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.receive().status, 413);
        assert_eq!(a.connections(), connections, "each ends inside a request");
    }
    eventually("they are closed", || a.open_connections() == 0);
}

#[test]
fn an_expectation_of_the_clients_own_is_waited_for_as_well() {
    let (silent, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let a = pinged(&silent, &asked);
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].members[0].ping = Some(Duration::from_secs(5));
    });
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.receive().status, 100);
    client.send("hello");
    assert_eq!(client.receive().text(), "hello");
}
