//! Whatever hurries ends as it would have by the long way.
//!
//! Whole tables on each case: under Miri they take hours.

#![cfg(not(miri))]

use proptest::prelude::*;

use super::hurry;
use crate::{
    forward::{Forward, hash_kind, mode},
    journey::Tables as _,
    member::MemberState,
    model::{Buffer, Model, Setup, forwarded, member, service, vip},
    packet::{Packet, flags, set_checksum},
    service::{ServiceWay, flag},
    verdict::Reason,
};

const CLIENT: &str = "192.0.2.1:40000";
const SHOP: &str = "203.0.113.80:80";
const LOCAL: &str = "203.0.113.80:22";

fn setup(mode: u8) -> Setup {
    let mut wide = forwarded(3, "203.0.113.80", 0, 17, 1);
    (wide.flags, wide.range) = (flag::WIDE, [5000, 5009]);
    let mut setup = Setup::guarded(&[
        forwarded(1, "203.0.113.80", 80, 6, 1),
        forwarded(2, "203.0.113.80", 53, 17, 1),
        wide,
        vip(1, "203.0.113.80", 0),
        service(4, "203.0.113.80", 22, 6),
        service(5, "*", 8080, 6),
        ServiceWay {
            flags: flag::LIMITED,
            ..service(6, "203.0.113.80", 25, 6)
        },
    ]);
    let forward = Forward {
        balancer: 1,
        mode,
        source4: [10, 0, 0, 1],
        dscp: crate::forward::dscp::COPY,
        ..Forward::default()
    };
    let steering = &mut setup.steering;
    steering.forward = vec![(1, forward), (2, forward), (3, forward)];
    steering.rings = vec![(1, vec![1, 2])];
    for (id, address) in [(1, "10.0.0.11"), (2, "10.0.0.12")] {
        let (head, hop) = member(id, address, 0);
        steering.members.push(head);
        steering.hops.push(hop);
    }
    setup
}

/// Whether a packet hurries in this world, now.
fn hurries(model: &Model, frame: &[u8]) -> bool {
    let settings = model.settings().copied().unwrap_or_default();
    hurry(&mut Buffer::new(frame), &settings, model).is_some()
}

/// A model in which the flow of `frame` was seen twice.
fn seen(setup: &Setup, frame: &[u8]) -> Model {
    let model = Model::new(setup);
    for _ in 0..2 {
        let _ = model.travel_slowly(frame);
    }
    model
}

fn ack() -> Vec<u8> {
    Packet::tcp(CLIENT, SHOP, flags::ACK).build()
}

#[test]
fn common_packets_hurry() {
    let udp = Packet::udp(CLIENT, "203.0.113.80:53", 18).build();
    for mode in [mode::DSR, mode::IPIP] {
        for frame in [ack(), udp.clone()] {
            let model = seen(&setup(mode), &frame);
            assert!(
                hurries(&model, &frame),
                "{}",
                mode::NAMES[usize::from(mode)]
            );
        }
    }
    let model = Model::new(&setup(mode::IPIP));
    for (to, reason) in [
        (LOCAL, Reason::LOCAL),
        ("198.51.100.1:22", Reason::NOT_A_SERVICE),
    ] {
        let frame = Packet::tcp(CLIENT, to, flags::SYN).build();
        assert!(hurries(&model, &frame), "{to}");
        assert_eq!(model.travel(&frame).0.verdict.reason, reason);
    }
}

#[test]
fn what_asks_for_more_does_not_hurry() {
    let is_common = |setup: &Setup, frame: &[u8]| hurries(&seen(setup, frame), frame);
    let frame = ack();
    let plain = setup(mode::IPIP);
    assert!(is_common(&plain, &frame));

    for mode in [mode::GUE, mode::NAT] {
        assert!(!is_common(&setup(mode), &frame));
    }
    let mut other = plain.clone();
    for (_, forward) in &mut other.steering.forward {
        forward.hash = hash_kind::QUIC;
    }
    assert!(!is_common(&other, &frame));
    let mut other = plain.clone();
    for (_, forward) in &mut other.steering.forward {
        forward.mtu = 50;
    }
    assert!(!is_common(&other, &frame));
    assert!(!is_common(&plain.clone().deny("192.0.2.0/24"), &frame));
    assert!(is_common(&plain.clone().deny("192.0.3.0/24"), &frame));
    let mut other = plain.clone();
    for (_, head) in &mut other.steering.members {
        head.address = [0xfd; 16];
    }
    assert!(!is_common(&other, &frame));

    // A new flow; one that was seen in another beat; one whose member went.
    assert!(!hurries(&Model::new(&plain), &frame));
    let model = seen(&plain, &frame);
    model.beat.set(1);
    assert!(!hurries(&model, &frame));
    let mut stopped = plain.clone();
    for (_, head) in &mut stopped.steering.members {
        head.state = MemberState::STOPPED;
    }
    assert!(!is_common(&stopped, &frame));

    for flags in [flags::SYN, flags::ACK | flags::FIN, flags::RST, 0] {
        let model = seen(&plain, &frame);
        assert!(!hurries(&model, &Packet::tcp(CLIENT, SHOP, flags).build()));
    }
    for to in ["203.0.113.80:25", "203.0.113.80:8080"] {
        let frame = Packet::tcp(CLIENT, to, flags::ACK).build();
        assert!(!is_common(&plain, &frame), "{to}");
    }
    let ranged = Packet::udp(CLIENT, "203.0.113.80:5003", 18).build();
    assert!(!is_common(&plain, &ranged));
    let tagged = Packet::tcp(CLIENT, SHOP, flags::ACK).tag(0x8100, 5).build();
    assert!(!is_common(&plain, &tagged));
}

proptest! {
    /// Two worlds see the same packets, one of them by the long way alone: the same verdicts, frames
    /// and counts.
    #[test]
    fn short_way_ends_where_the_long_one_does(
        mode in 0u8..4,
        is_guarded in any::<bool>(),
        inserts in prop_oneof![Just(0u32), Just(1), Just(100)],
        packets in prop::collection::vec(
            (0usize..8, 0u8..64, 0u16..3, prop::option::of((14usize..60, any::<u8>(), any::<bool>())),
             0u32..2, 30usize..90),
            1..30,
        ),
    ) {
        let mut setup = setup(mode);
        setup.is_guarded = is_guarded;
        setup.steering.inserts = inserts;
        let (quick, slow) = (Model::new(&setup), Model::new(&setup));
        let to = [SHOP, SHOP, SHOP, LOCAL, "203.0.113.80:8080", "203.0.113.80:25", "203.0.113.80:53",
            "203.0.113.80:5004"];
        for (what, flag_bits, client, change, beats, cut) in packets {
            let from = format!("192.0.2.1:{}", 40000 + client);
            // Mostly the middle of a connection.
            let bits = if flag_bits < 40 { flags::ACK } else { flag_bits - 40 };
            let packet = if what < 6 {
                Packet::tcp(&from, to[what], bits)
            } else {
                Packet::udp(&from, to[what], 18)
            };
            let mut frame = packet.build();
            if let Some((at, value, is_valid)) = change {
                let at = at.min(frame.len() - 1);
                frame[at] = value;
                if is_valid {
                    set_checksum(&mut frame[14..34]);
                }
            }
            if cut < 40 {
                frame.truncate(cut);
            }
            for model in [&quick, &slow] {
                model.beat.set(model.beat.get() + beats);
            }
            prop_assert_eq!(quick.travel(&frame), slow.travel_slowly(&frame));
            prop_assert_eq!((quick.sent(1), quick.sent(2)), (slow.sent(1), slow.sent(2)));
        }
    }
}
