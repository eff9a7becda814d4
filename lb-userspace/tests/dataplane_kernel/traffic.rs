//! Packets of a peer over the veth pair.

use std::{
    io,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use lb_common::limit::{Limit, LimitKind};
use sluice::{config::spec::XdpMode, dataplane::Dataplane};

use crate::lab::{Peer, app, auto, on, prefix, until};

/// Packets of service `*:80` counted for a reason, and of the host for `denied`.
fn count(plane: &Dataplane, service: usize, reason: &str) -> u64 {
    let services = plane.snapshot().expect("snapshot").services;
    let counters = &services[service].counters;
    counters
        .iter()
        .find(|c| c.reason == reason)
        .map_or(0, |c| c.packets)
}

isolated! { fn denied_packets_are_dropped_and_counted_until_the_entry_has_run_out(lab) {
    let v0 = [on("v0", XdpMode::Native)];
    let mut plane = lab.open(&v0);
    plane.publish(&app(&["http://a"], &v0)).expect("publish");
    let peer = Peer::build();
    let _listener = TcpListener::bind("[::]:80").expect("port 80 of this namespace");
    until("a way to the peer", || peer.connects());
    assert!(count(&plane, 1, "local") > 0);
    assert_eq!(count(&plane, 0, "denied"), 0);

    plane.deny(prefix("192.0.2.2", 32), None).expect("deny");
    assert!(!peer.connects());
    assert!(count(&plane, 0, "denied") > 0);
    assert!(plane.undeny(prefix("192.0.2.2", 32)).expect("undeny"));
    assert!(!plane.undeny(prefix("192.0.2.2", 32)).expect("undeny"));
    until("it is let in again", || peer.connects());

    // The kernel's clock ends a timed entry, the tick takes it off the list.
    plane.deny(prefix("192.0.2.0", 24), Some(5)).expect("deny");
    plane.tick();
    assert_eq!(plane.snapshot().expect("snapshot").prefixes.len(), 1);
    assert!(!peer.connects());
    until("its time is up", || peer.connects());
    plane.tick();
    assert!(lab.read().prefixes.is_empty());

    // With the guard off nothing is dropped.
    plane.deny(prefix("192.0.2.2", 32), None).expect("deny");
    assert!(!peer.connects());
    plane.set("guard", "off").expect("set");
    until("the guard is off", || peer.connects());
} }

isolated! { fn a_limit_set_at_run_time_acts_at_once(lab) {
    let v0 = [auto("v0")];
    let mut plane = lab.open(&v0);
    plane.publish(&app(&["http://a"], &v0)).expect("publish");
    let peer = Peer::build();
    let _listener = TcpListener::bind("[::]:80").expect("port 80 of this namespace");
    until("a way to the peer", || peer.connects());
    let id = plane.snapshot().expect("snapshot").services[1].id;
    // So long that hardly ever a window ends, and lets one more pass, in the middle of the test.
    let one = Limit { window_ns: 3_600_000_000_000, packets: 1, rate: 1, ..Limit::default() };
    plane.set_limit(id, LimitKind::SYN.0, true, Some(one)).expect("limit");
    until("the second connection is over the limit", || !peer.connects());
    assert!(count(&plane, 1, "syn_service_limit") > 0);
    plane.publish(&app(&["http://a"], &v0)).expect("publish");
    assert!(!peer.connects(), "a reload took the operator's limit away");
    plane.set_limit(id, LimitKind::SYN.0, true, None).expect("limit");
    until("the limit is gone", || peer.connects());
    plane.set_limit(77, 0, true, None).expect_err("no such service");
    plane.set_limit(id, LimitKind::ICMP.0, true, None).expect_err("not of a service");
} }

/// Where the subscriber writes.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned()
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

isolated! { fn the_programs_log_is_read(lab) {
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let v0 = [auto("v0")];
    let mut plane = lab.open(&v0);
    plane.publish(&app(&[], &v0)).expect("publish");
    let mut log = plane.log().expect("kernel maps");
    assert!(plane.log().is_none(), "there is one");
    plane.set("log", "on").expect("set");
    let peer = Peer::build();
    tracing::subscriber::with_default(subscriber, || {
        until("packets are logged", || {
            peer.connects();
            log.wait(100).expect("poll");
            sink.text().contains("192.0.2.2")
        });
    });
    plane.set("log", "maybe").expect_err("on or off");
    plane.set("nothing", "on").expect_err("no such setting");
} }
