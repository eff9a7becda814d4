//! How long a client may take: for a head, for a body, between requests.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use sluice::config::spec::ReadTimeout;

use crate::support::{Client, Lab, Member, PATIENCE, eventually};

#[test]
fn idle_client_is_closed_after_the_keep_alive_timeout() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].keep_alive_timeout = Duration::from_millis(300);
    });
    let mut client = lab.client();
    // Before the proxy counts from: this thread may have to wait for its turn.
    let begun = Instant::now();
    client.get("/", "");
    assert!(client.is_closed());
    assert!(begun.elapsed() >= Duration::from_millis(300));
    eventually("gone", || lab.proxy.connections() == 0);
}

#[test]
fn stalled_head_is_a_408_and_a_stalled_line_is_closed() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].header_timeout = ReadTimeout::fixed(Duration::from_millis(300));
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n");
    let reply = client.receive();
    assert_eq!(reply.status, 408);
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
    assert!(client.is_closed());
    for begun in ["GET / HT", ""] {
        let mut client = lab.client();
        client.send(begun);
        assert!(client.is_closed());
    }
    // Bytes that trickle in do not extend the deadline.
    let mut client = lab.client();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\n");
    while begun.elapsed() < PATIENCE {
        if client.stream.write_all(b"A: b\r\n").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        if client.proxy_has_answered() {
            break;
        }
    }
    assert!(begun.elapsed() < PATIENCE);
    assert!(a.seen().is_empty());
}

/// Sends `part` every 50 ms until the proxy answers or `limit` has passed.
fn trickle(client: &mut Client, part: &[u8], limit: Duration) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if client.stream.write_all(part).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        if client.proxy_has_answered() {
            break;
        }
    }
    begun.elapsed()
}

#[test]
fn bytes_extend_the_time_of_a_head_up_to_its_bound() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].header_timeout = ReadTimeout {
            // This thread may pause for as long.
            initial: Duration::from_secs(1),
            max: Some(Duration::from_millis(2500)),
            // A field below is good for more time than it takes.
            min_rate: 50,
        };
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\n");
    let limit = Duration::from_secs(20);
    let took = trickle(&mut client, b"A: b\r\n", limit);
    assert!(took >= Duration::from_millis(2200), "{took:?}");
    assert!(took < limit, "{took:?}");
    assert_eq!(client.receive().status, 408);
    assert!(a.seen().is_empty());
}

#[test]
fn upload_slower_than_its_rate_is_a_408_whatever_its_size() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].body_timeout = ReadTimeout {
            initial: Duration::from_millis(400),
            max: None,
            min_rate: 100_000,
        };
    });
    // Small enough to be read before a member is chosen, and beyond that.
    for here in [0, 40_000] {
        let mut client = lab.client();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
        client.send("x".repeat(here));
        let limit = Duration::from_secs(20);
        let took = trickle(&mut client, &[b'y'; 20], limit);
        let allowed = Duration::from_millis(400 + here as u64 / 100);
        assert!(took >= allowed.mul_f32(0.9), "{took:?}");
        assert!(took < limit);
        let reply = client.receive();
        assert_eq!(reply.status, 408);
        assert_eq!(reply.field("connection").as_deref(), Some("close"));
    }
}

#[test]
fn upload_above_its_rate_may_take_longer_than_the_timeout() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].body_timeout = ReadTimeout {
            // Less than the upload takes, and more than this thread ever pauses.
            initial: Duration::from_millis(900),
            max: None,
            min_rate: 10,
        };
    });
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400\r\n\r\n");
    let begun = Instant::now();
    for _ in 0..20 {
        client.stream.write_all(&[b'y'; 20]).expect("taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(client.receive().status, 200);
}

#[test]
fn stalled_upload_is_a_408() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].timeout = Duration::from_millis(300);
    });
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(client.receive().status, 408);
}

#[test]
fn client_that_does_not_read_is_given_up() {
    let a = Member::with(|_, stream| {
        let total = 64 << 20;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")?;
        let block = vec![b'd'; 64 << 10];
        for _ in 0..total / block.len() {
            stream.write_all(&block)?;
        }
        Ok(true)
    });
    let lab = Lab::configured(&[a.address], |spec| {
        spec.hosts[0].timeout = Duration::from_millis(300);
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("busy", || lab.busy(0, 0) == 1);
    eventually("given up", || lab.proxy.connections() == 0);
    eventually("not busy", || lab.busy(0, 0) == 0);
    assert!(lab.cell(0, 0).state().is_usable());
}
