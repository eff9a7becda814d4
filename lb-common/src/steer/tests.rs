//! Who gets the packets of flows that the table knows, as time goes by.
//!
//! Whole tables on each case: under Miri they take minutes, and there is no unsafe code in them.

#![cfg(not(miri))]

use super::REUSED_BEATS;
use crate::{
    forward::{Forward, hash_kind, mode},
    member::MemberState,
    model::{Model, Setup, forwarded, member, vip},
    packet::{Packet, flags},
    quic::{ServerIdKey, ServerIdValue},
    verdict::Reason,
};

const CLIENT: &str = "192.0.2.1:40000";
const VIP: &str = "203.0.113.80:80";
/// The flow's member, and the one that the ring names.
const OLD: u16 = 1;
const NEW: u16 = 2;

/// Balancer 1 with two members, of which its ring names the second alone.
fn setup(forward: Forward) -> Setup {
    let mut setup = Setup::guarded(&[
        forwarded(1, "203.0.113.80", 80, 6, 1),
        forwarded(2, "203.0.113.80", 80, 17, 1),
        vip(1, "203.0.113.80", 0),
    ]);
    let forward = Forward {
        balancer: 1,
        ..forward
    };
    let steering = &mut setup.steering;
    steering.forward = vec![(1, forward), (2, forward)];
    steering.rings = vec![(1, vec![NEW])];
    for (id, address) in [(OLD, "10.0.0.11"), (NEW, "10.0.0.12")] {
        let (head, hop) = member(id, address, 80);
        steering.members.push(head);
        steering.hops.push(hop);
    }
    setup
}

/// What a connection's packets meet that was entered for [`OLD`], which then changed: member and
/// reason of a packet of it, and after so many beats of a SYN with its ports.
fn after(beats: u32, change: impl Fn(&mut crate::member::MemberHead)) -> [(u16, Reason); 2] {
    let mut setup = setup(Forward {
        mode: mode::DSR,
        ..Forward::default()
    });
    setup.steering.rings = vec![(1, vec![OLD])];
    let mut model = Model::new(&setup);
    let packet = |flags| Packet::tcp(CLIENT, VIP, flags).build();
    let said = |model: &Model, flags| {
        let verdict = model.travel(&packet(flags)).0.verdict;
        (verdict.member, verdict.reason)
    };
    assert_eq!(said(&model, flags::SYN), (OLD, Reason::STEERED_NEW));
    assert_eq!(said(&model, flags::ACK), (OLD, Reason::STEERED));
    change(&mut setup.steering.members[0].1);
    setup.steering.rings = vec![(1, vec![NEW])];
    model.turn_to(&setup);
    let packets = said(&model, flags::ACK);
    model.beat.set(model.beat.get() + beats);
    [packets, said(&model, flags::SYN)]
}

#[test]
fn connection_in_a_removed_members_flow_begins_with_another() {
    let removed = |head: &mut crate::member::MemberHead| head.state = MemberState::RETIRED;
    let (stays, new) = ((OLD, Reason::STEERED), (NEW, Reason::STEERED_NEW));
    assert_eq!(after(REUSED_BEATS, removed), [stays, new]);
    // Sent again, most likely.
    assert_eq!(after(REUSED_BEATS - 1, removed), [stays, stays]);
    assert_eq!(after(REUSED_BEATS, |_| {}), [stays, stays]);
}

#[test]
fn connection_in_a_flow_of_the_services_former_balancer_begins_with_the_present_one() {
    let moved = |head: &mut crate::member::MemberHead| head.balancer = 7;
    let (stays, new) = ((OLD, Reason::STEERED), (NEW, Reason::STEERED_NEW));
    assert_eq!(after(REUSED_BEATS, moved), [stays, new]);
}

#[test]
fn what_an_error_quotes_is_no_connection_id() {
    let mut setup = setup(Forward {
        mode: mode::DSR,
        hash: hash_kind::QUIC,
        quic_len: 4,
        ..Forward::default()
    });
    let mut id = [0; 16];
    (id[0], id[3]) = (0xaa, OLD as u8);
    let key = ServerIdKey {
        balancer: 1,
        len: 4,
        pad: 0,
        id,
    };
    let value = ServerIdValue {
        member: OLD,
        incarnation: 1,
        pad: [0; 5],
    };
    setup.steering.server_ids.push((key, value));
    let model = Model::new(&setup);
    // Type of service, length and identification as first byte and server id of a connection id.
    let mut quote = Packet::udp(VIP, CLIENT, 40).build()[14..42].to_vec();
    quote[1..6].copy_from_slice(&[5, 0xaa, 0, 0, OLD as u8]);
    let frame = Packet::icmp("192.0.2.254", "203.0.113.80", 3, 1)
        .payload(&quote)
        .build();
    let verdict = model.travel(&frame).0.verdict;
    assert_eq!(
        (verdict.member, verdict.reason),
        (NEW, Reason::STEERED_ICMP)
    );
    // The id itself is known.
    let mut short = Packet::udp(CLIENT, VIP, 40).build();
    short[42..48].copy_from_slice(&[0x40, 5, 0xaa, 0, 0, OLD as u8]);
    assert_eq!(model.travel(&short).0.verdict.member, OLD);
}
