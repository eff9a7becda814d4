//! QUIC connection ids, and packets to be unpacked.

use lb_common::{
    forward::{Forward, GUE_PORT, hash_kind, mode},
    member::MemberState,
    quic::{ServerIdKey, ServerIdValue},
    service::{ServiceWay, kind},
    verdict::Reason,
};

use super::{
    CLIENT4, CLIENT6, Case, case,
    steering::{SHOP4, SHOP6, VIP4, VIP6, VOICE, balancer_of, by, with_state},
};
use crate::{
    model::{Prefix, Setup, service},
    packet::{Packet, flags},
};

/// Every case.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = quic();
    cases.extend(unpacking());
    cases.extend(looping());
    cases
}

/// A balancer by server ids of four bytes: `[0xaa, 0, 0, n]` is member n.
#[must_use]
pub fn by_connection() -> Setup {
    let forward = Forward {
        hash: hash_kind::QUIC,
        quic_len: 4,
        ..by(mode::IPIP)
    };
    let mut setup = balancer_of(&forward, &["10.0.0.11", "10.0.0.12"]);
    for member in [1, 2] {
        let mut id = [0; 16];
        (id[0], id[3]) = (0xaa, member);
        let key = ServerIdKey {
            balancer: 1,
            len: 4,
            pad: 0,
            id,
        };
        let value = ServerIdValue {
            member: u16::from(member),
            incarnation: 1,
            pad: [0; 5],
        };
        setup.steering.server_ids.push((key, value));
    }
    setup
}

/// A datagram of QUIC.
fn quic_packet(from: &str, bytes: &[u8]) -> Vec<u8> {
    let mut packet = Packet::udp(from, "203.0.113.80:5000", 40).build();
    packet[42..42 + bytes.len()].copy_from_slice(bytes);
    packet
}

/// An ICMP error about a connection to [`CLIENT4`] whose quoted IP header reads as a short header
/// with a member's connection id.
#[must_use]
pub fn quic_error(member: u8) -> Vec<u8> {
    let mut quote = Packet::udp("203.0.113.80:5000", CLIENT4, 40).build()[14..42].to_vec();
    quote[1..6].copy_from_slice(&[5, 0xaa, 0, 0, member]);
    Packet::icmp("192.0.2.254", "203.0.113.80", 3, 1)
        .payload(&quote)
        .build()
}

fn quic() -> Vec<Case> {
    let short = |member: u8| vec![0x40, 0x05, 0xaa, 0, 0, member, 9, 9, 9];
    let long = |kind: u8, member: u8| {
        let mut bytes = vec![0x80 | kind << 4, 0, 0, 0, 1, 8, 0x05, 0xaa, 0, 0, member];
        bytes.extend([7; 8]);
        bytes
    };
    let mut unroutable = short(2);
    unroutable[1] = 0xe5;
    let mut too_short = long(2, 2);
    too_short[5] = 4;
    let setup = by_connection();
    let (new, known) = (Reason::STEERED_NEW, Reason::STEERED);
    let other = "198.51.100.200:7";
    vec![
        case(
            "a connection id names its member wherever it comes from",
            &setup,
            vec![
                (quic_packet(CLIENT4, &short(1)), VOICE, known),
                (quic_packet(other, &short(1)), VOICE, known),
                (quic_packet(CLIENT4, &short(2)), VOICE, known),
                (quic_packet(CLIENT4, &long(2, 2)), VOICE, known),
            ],
        ),
        case(
            "what a client drew, or nobody knows, is the ring's",
            &setup,
            vec![
                (quic_packet(CLIENT4, &long(0, 1)), VOICE, new),
                (quic_packet(CLIENT4, &long(0, 2)), VOICE, known),
                (quic_packet(CLIENT4, &short(3)), VOICE, known),
                (quic_packet(other, &unroutable), VOICE, new),
                (quic_packet("192.0.2.3:1", &too_short), VOICE, new),
            ],
        ),
        case(
            "an error about a connection is the ring's, whatever it looks like",
            &setup,
            vec![
                (quic_error(1), VOICE, Reason::STEERED_ICMP),
                (quic_error(2), VOICE, Reason::STEERED_ICMP),
            ],
        ),
        case(
            "a failing member's id is the ring's",
            &with_state(setup, 2, MemberState::HEALTH_FAILED),
            vec![
                (quic_packet(CLIENT4, &short(2)), VOICE, new),
                (quic_packet(CLIENT4, &short(1)), VOICE, known),
            ],
        ),
    ]
}

/// Frames to be cut and changed.
#[must_use]
pub fn quic_seeds() -> Vec<Vec<u8>> {
    quic()
        .into_iter()
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect()
}

/// A member's side: unpacks what 198.51.100.0/24 and 2001:db8:5::/48 send to any of its addresses.
#[must_use]
pub fn unpacker() -> Setup {
    let way = |id, port, proto| ServiceWay {
        kind: kind::DECAP,
        ..service(id, "*", port, proto)
    };
    let mut setup = Setup::guarded(&[way(40, 0, 4), way(41, 0, 41), way(42, GUE_PORT, 17)]);
    setup.steering.decap = vec![
        Prefix::new("198.51.100.0/24", 0),
        Prefix::new("2001:db8:5::/48", 0),
    ];
    setup
}

/// A packet in another: IP in IP, or in UDP.
fn packed(from: &str, to: &str, inner: &[u8], gue: bool, tos: u8) -> Vec<u8> {
    let inner = &inner[14..];
    let proto = if gue {
        17
    } else if inner[0] >> 4 == 4 {
        4
    } else {
        41
    };
    let mut frame = if gue {
        Packet::udp(from, to, inner.len()).payload(inner).build()
    } else {
        Packet::raw(from, to, proto, inner).build()
    };
    if frame[14] >> 4 == 4 {
        frame[15] = tos;
        crate::packet::set_checksum(&mut frame[14..34]);
    } else {
        frame[14] |= tos >> 4;
        frame[15] |= tos << 4;
    }
    frame
}

/// What was sent to members comes back as it left; and other tunnels' packets, which do not matter.
fn looping() -> Vec<Case> {
    let inner = [
        (Packet::tcp(CLIENT4, VIP4, flags::ACK).build(), SHOP4),
        (Packet::tcp(CLIENT6, VIP6, flags::ACK).build(), SHOP6),
    ];
    let stranger = Packet::tcp(CLIENT4, "198.51.100.77:80", flags::ACK).build();
    let mut cases = Vec::new();
    for mode in [mode::IPIP, mode::GUE] {
        let is_gue = mode == mode::GUE;
        let setup = balancer_of(&by(mode), &["10.0.0.11"]);
        let mut frames = Vec::new();
        for (ours, member, others) in [
            ("10.0.0.1:50000", "10.0.0.11:6080", "10.0.0.2:50000"),
            ("[fd00::1]:50000", "[fd00::11]:6080", "[fd00::2]:50000"),
        ] {
            for (inner, service) in &inner {
                let looped = packed(ours, member, inner, is_gue, 0);
                frames.push((looped, *service, Reason::LOOPED));
                let foreign = packed(others, member, inner, is_gue, 0);
                frames.push((foreign, 0, Reason::NOT_A_SERVICE));
            }
            let other = packed(ours, member, &stranger, is_gue, 0);
            frames.push((other, 0, Reason::NOT_A_SERVICE));
        }
        let name = format!("own packets come back, {}", mode::NAMES[usize::from(mode)]);
        cases.push(case(&name, &setup, frames));
    }
    cases
}

fn unpacking() -> Vec<Case> {
    let setup = unpacker();
    let with_tos = |packet: &Packet, tos: u8| {
        let mut frame = packet.build();
        if frame[14] >> 4 == 4 {
            frame[15] = tos;
            crate::packet::set_checksum(&mut frame[14..34]);
        } else {
            frame[14] |= tos >> 4;
            frame[15] |= tos << 4;
        }
        frame
    };
    let inner4 = Packet::tcp(CLIENT4, "127.0.0.5:80", flags::ACK).payload(&[1; 17]);
    let inner6 = Packet::tcp(CLIENT6, "[::1]:80", flags::ACK).payload(&[1; 17]);
    let (plain4, plain6) = (inner4.build(), inner6.build());
    let (from4, to4) = ("198.51.100.9:50000", "10.0.0.11:6080");
    let (from6, to6) = ("[2001:db8:5::9]:50000", "[fd00::11]:6080");
    let (done, bad) = (Reason::UNPACKED, Reason::BAD_INNER);
    let mut longer = plain4.clone();
    longer[17] += 1;
    crate::packet::set_checksum(&mut longer[14..34]);
    let mut options = inner4.clone().options(&[1; 4]).build();
    options[14] = 0x44;
    vec![
        case(
            "named sources' packets are unpacked",
            &setup,
            vec![
                (packed(from4, to4, &plain4, false, 0), 40, done),
                (packed(from4, to4, &plain6, false, 0), 41, done),
                (packed(from6, to6, &plain4, false, 0), 40, done),
                (packed(from6, to6, &plain6, false, 0), 41, done),
                (packed(from4, to4, &plain4, true, 0), 42, done),
                (packed(from6, to6, &plain6, true, 0), 42, done),
            ],
        ),
        case(
            "other sources' packets are the stack's",
            &setup,
            vec![
                (
                    packed("203.0.113.9:1", to4, &plain4, false, 0),
                    40,
                    Reason::NOT_A_SERVICE,
                ),
                (
                    packed("[2001:db8:6::9]:1", to6, &plain6, true, 0),
                    42,
                    Reason::NOT_A_SERVICE,
                ),
            ],
        ),
        case(
            "what is wrong inside goes nowhere",
            &setup,
            vec![
                (packed(from4, to4, &longer, false, 0), 40, bad),
                (packed(from4, to4, &options, false, 0), 40, bad),
                (Packet::raw(from4, to4, 4, &plain6[14..]).build(), 40, bad),
                (Packet::raw(from4, to4, 4, &[0x45; 12]).build(), 40, bad),
            ],
        ),
        case(
            "marks of congestion are brought in",
            &setup,
            vec![
                (
                    packed(from4, to4, &with_tos(&inner4, 2), false, 3),
                    40,
                    done,
                ),
                (
                    packed(from4, to4, &with_tos(&inner4, 2), false, 1),
                    40,
                    done,
                ),
                (
                    packed(from6, to6, &with_tos(&inner6, 0xb9), true, 3),
                    42,
                    done,
                ),
                (packed(from4, to4, &plain4, false, 3), 40, bad),
            ],
        ),
    ]
}

/// Frames to be cut and changed.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    unpacking()
        .into_iter()
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect()
}
