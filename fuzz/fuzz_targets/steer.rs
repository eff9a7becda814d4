//! The journey of any frames through a host that steers, translates and unpacks, by the short way
//! and by the long one: both must end alike. The first byte says by which mode; the rest is one
//! frame, sent a few times, or says how frames of a few connections are changed.

#![no_main]

use lb_common::{
    forward::{Forward, mode},
    service::{ServiceWay, flag, kind},
    verdict::{Action, Reason},
};

#[path = "../../tests/src/model.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the file is a module of another crate too"
)]
mod model;
#[path = "../../tests/src/packet.rs"]
#[allow(dead_code, reason = "the file is a module of another crate too")]
mod packet;

use model::{Model, Prefix, Setup, forwarded, member, service, vip};
use packet::{Packet, flags, set_checksum};

/// Where changed frames go to: steered, local, and nobody's.
const PLACES: [&str; 8] = [
    "10.0.0.1:80",
    "10.0.0.1:80",
    "10.0.0.1:53",
    "10.0.0.1:22",
    "10.0.0.1:8443",
    "10.0.0.9:80",
    "10.0.0.9:8443",
    "10.0.0.1:25",
];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((switches, rest)) = input.split_first() else {
        return;
    };
    let setup = setup(*switches);
    // Two worlds that see the same.
    let (quick, slow) = (Model::new(&setup), Model::new(&setup));
    if switches & 1 << 7 == 0 {
        for _ in 0..4 {
            check(&quick, &slow, rest);
        }
        return;
    }
    for change in rest.as_chunks::<6>().0.iter().take(64) {
        let frame = changed(*change, &quick, &slow);
        check(&quick, &slow, &frame);
    }
});

fn setup(switches: u8) -> Setup {
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
        forwarded(6, "10.0.0.1", 53, 17, 1),
        service(7, "10.0.0.1", 22, 6),
        service(8, "*", 25, 6),
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
    steering.forward = [1, 2, 3, 6].map(|id| (id, forward)).to_vec();
    steering.rings = vec![(1, if has(6) { vec![1, 2] } else { Vec::new() })];
    for (id, address) in [(1, "10.1.0.1"), (2, "fd00::2")] {
        let (head, hop) = member(id, address, 80);
        steering.members.push(head);
        steering.hops.push(hop);
    }
    steering.decap = vec![Prefix::new("0.0.0.0/1", 0), Prefix::new("2000::/3", 0)];
    setup
}

/// A frame of one of a few connections, with a byte of it changed or its end cut off; both worlds'
/// clocks may go on before it.
fn changed([what, kind, at, value, tail, time]: [u8; 6], quick: &Model, slow: &Model) -> Vec<u8> {
    let to = PLACES[usize::from(what & 7)];
    let from = format!("192.0.2.1:{}", 40000 + u32::from(what >> 3 & 3));
    let packet = if what & 1 << 5 != 0 || to.ends_with(":53") {
        Packet::udp(&from, to, 18)
    } else {
        // Mostly the middle of a connection.
        let bits = if kind & 0xc0 == 0 {
            kind & 0x3f
        } else {
            flags::ACK
        };
        Packet::tcp(&from, to, bits).payload(&[7; 21])
    };
    let mut frame = packet.build();
    if what & 1 << 6 != 0 {
        let at = usize::from(at) % frame.len();
        frame[at] = value;
        if what & 1 << 7 != 0 && frame.len() >= 34 {
            set_checksum(&mut frame[14..34]);
        }
    }
    // Longer than the datagram, as short frames are padded; or cut.
    match tail {
        0..=63 => frame.truncate(14 + usize::from(tail)),
        64..=95 => frame.resize(frame.len() + usize::from(tail - 63), 0),
        _ => {}
    }
    for world in [quick, slow] {
        world
            .beat
            .set(world.beat.get() + u32::from(time.saturating_sub(250)));
    }
    frame
}

fn check(quick: &Model, slow: &Model, frame: &[u8]) {
    let (outcome, out) = quick.travel(frame);
    let by_the_long_way = slow.travel_slowly(frame);
    assert_eq!((outcome, &out), (by_the_long_way.0, &by_the_long_way.1));
    for member in [1, 2] {
        assert_eq!(quick.sent(member), slow.sent(member));
    }
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
