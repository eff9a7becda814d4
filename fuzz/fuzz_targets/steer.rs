//! The journey of any frames through a host that steers, translates and unpacks: the first byte says
//! by which mode, the rest is one frame, sent a few times.

#![no_main]

use lb_common::{
    forward::{Forward, mode},
    service::{ServiceWay, flag, kind},
    verdict::{Action, Reason},
};

#[path = "../../tests/src/model.rs"]
#[allow(dead_code, unused_imports, reason = "the file is a module of another crate too")]
mod model;

use model::{Model, Prefix, Setup, forwarded, member, service, vip};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((switches, frame)) = input.split_first() else {
        return;
    };
    let has = |bit: u8| switches & 1 << bit != 0;
    let mut wide = forwarded(3, "*", 8443, 17, 1);
    wide.flags |= flag::WIDE;
    let unpacker = |id, proto| ServiceWay {
        kind: kind::DECAP,
        ..service(id, "*", 0, proto)
    };
    let mut setup = Setup::guarded(&[
        forwarded(1, "10.0.0.1", 80, 6, 1),
        forwarded(2, "2001:db8::1", 80, 6, 1),
        wide,
        vip(1, "10.0.0.1", flag::ECHO),
        vip(2, "2001:db8::1", flag::ECHO),
        unpacker(4, 4),
        unpacker(5, 41),
    ]);
    setup.is_guarded = has(0);
    let forward = Forward {
        balancer: 1,
        mode: [mode::DSR, mode::IPIP, mode::GUE, mode::NAT][usize::from(switches >> 1 & 3)],
        hash: switches >> 3 & 3,
        quic_len: 4,
        on_empty: u8::from(has(5)),
        nat_first: 2000,
        nat_ports: 8,
        ..Forward::default()
    };
    let steering = &mut setup.steering;
    steering.forward = vec![(1, forward), (2, forward), (3, forward)];
    steering.rings = vec![(1, if has(6) { vec![1, 2] } else { Vec::new() })];
    for (id, address) in [(1, "10.1.0.1"), (2, "fd00::2")] {
        let (head, hop) = member(id, address, 80);
        steering.members.push(head);
        steering.hops.push(hop);
    }
    steering.decap = vec![Prefix::new("0.0.0.0/1", 0), Prefix::new("2000::/3", 0)];
    let model = Model::new(&setup);
    for _ in 0..4 {
        let (outcome, out) = model.travel(frame);
        let reason = outcome.verdict.reason;
        assert!(Reason::ALL.contains(&reason));
        // What goes to the stack goes as it came, unless it was unpacked.
        if reason.action() == Action::Pass && reason != Reason::UNPACKED {
            assert_eq!(out, frame);
        }
        if reason.action() == Action::Send {
            assert!(out.len() >= 14);
        }
    }
});
