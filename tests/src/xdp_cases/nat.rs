//! `forward=nat`: both directions of connections whose addresses are rewritten.

use lb_common::{
    addr::Be16,
    forward::{Forward, mode},
    service::{ServiceWay, kind},
    verdict::Reason,
};

use super::{
    CLIENT4, CLIENT6, Case, case,
    steering::{SHOP4, SHOP6, VIP4, VIP6, VOICE, balancer_of, by, in_vlan},
};
use crate::{
    model::{Model, Setup, service},
    packet::{Packet, flags},
};

/// Addresses of [`by`] on which members answer: `ours` and id.
const OURS4: (&str, u16) = ("10.0.0.1", 30);
const OURS6: (&str, u16) = ("fd00::1", 31);

/// The services above by `nat`, `ports` source ports from 20000 on.
#[must_use]
pub fn translator(members: &[&str], ports: u16) -> Setup {
    let forward = Forward {
        nat_first: 20_000,
        nat_ports: ports,
        ..by(mode::NAT)
    };
    let mut setup = balancer_of(&forward, members);
    for (address, id) in [OURS4, OURS6] {
        for proto in [6, 17] {
            setup.services.push(ServiceWay {
                kind: kind::NAT,
                port: Be16::new(0),
                range: [20_000, 20_000 + ports - 1],
                ..service(id, address, 0, proto)
            });
        }
    }
    setup
}

/// The answer to a packet that was sent to a member: the ends the other way round.
fn answer(sent: &[u8], tcp_flags: u8) -> Vec<u8> {
    let is_v4 = sent[12] == 8;
    let l4 = if is_v4 { 34 } else { 54 };
    let port = |at: usize| u16::from_be_bytes([sent[at], sent[at + 1]]);
    let (from, to) = if is_v4 {
        let ip = |at: usize| {
            format!(
                "{}.{}.{}.{}",
                sent[at],
                sent[at + 1],
                sent[at + 2],
                sent[at + 3]
            )
        };
        (
            format!("{}:{}", ip(30), port(l4 + 2)),
            format!("{}:{}", ip(26), port(l4)),
        )
    } else {
        let ip = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&sent[at..at + 16]);
            std::net::Ipv6Addr::from(bytes)
        };
        (
            format!("[{}]:{}", ip(38), port(l4 + 2)),
            format!("[{}]:{}", ip(22), port(l4)),
        )
    };
    let proto = if is_v4 { sent[23] } else { sent[20] };
    if proto == 17 {
        Packet::udp(&from, &to, 20).build()
    } else {
        Packet::tcp(&from, &to, tcp_flags).payload(&[3; 21]).build()
    }
}

/// "Too big", about a frame, to its sender.
fn error_about(frame: &[u8]) -> Vec<u8> {
    let is_v4 = frame[12] == 8;
    let (kind, ip) = if is_v4 { ((3, 4), 20) } else { ((2, 0), 40) };
    let sender = if is_v4 {
        std::net::Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]).to_string()
    } else {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&frame[22..38]);
        std::net::Ipv6Addr::from(bytes).to_string()
    };
    let router = if is_v4 { "192.0.2.254" } else { "2001:db8::fe" };
    Packet::icmp(router, &sender, kind.0, kind.1)
        .payload(&frame[14..14 + ip + 8])
        .build()
}

/// Every case.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let four = ["10.0.0.11", "10.0.0.12"];
    let six = ["fd00::11", "fd00::12"];
    for (client, vip, id, ours, members) in [
        (CLIENT4, VIP4, SHOP4, OURS4.1, four),
        (CLIENT6, VIP6, SHOP6, OURS6.1, six),
    ] {
        let setup = translator(&members, 1000);
        let tcp = |flags| Packet::tcp(client, vip, flags).payload(&[1; 9]).build();
        // What the member sees is known once the first packet was sent on.
        let (_, sent) = Model::new(&setup).travel(&tcp(flags::SYN));
        let back = |flags| answer(&sent, flags);
        cases.push(case(
            &format!("a connection of {client} and back"),
            &setup,
            vec![
                (back(flags::SYN | flags::ACK), ours, Reason::NO_CONNECTION),
                (tcp(flags::SYN), id, Reason::STEERED_NEW),
                (back(flags::SYN | flags::ACK), id, Reason::RETURNED),
                (tcp(flags::ACK), id, Reason::STEERED),
                (back(flags::ACK), id, Reason::RETURNED),
                (error_about(&sent), id, Reason::RETURNED),
                (error_about(&back(flags::ACK)), 0, Reason::VITAL),
                (
                    error_about(&answer(&tcp(flags::ACK), 0)),
                    id,
                    Reason::STEERED_ICMP,
                ),
                (tcp(flags::ACK | flags::FIN), id, Reason::STEERED),
                (back(flags::ACK | flags::FIN), id, Reason::RETURNED),
                (tcp(flags::ACK), id, Reason::STEERED),
            ],
        ));
        // One source port: a second entry for the same ends has no place.
        let one = translator(&members[..1], 1);
        let (_, sent) = Model::new(&one).travel(&tcp(flags::SYN));
        let back = |flags| answer(&sent, flags);
        cases.push(case(
            &format!("{client} connects, closes and connects again"),
            &one,
            vec![
                (tcp(flags::SYN), id, Reason::STEERED_NEW),
                (back(flags::SYN | flags::ACK), id, Reason::RETURNED),
                (tcp(flags::ACK | flags::FIN), id, Reason::STEERED),
                (back(flags::ACK | flags::FIN), id, Reason::RETURNED),
                (tcp(flags::ACK), id, Reason::STEERED),
                (tcp(flags::SYN), id, Reason::STEERED_NEW),
                (back(flags::SYN | flags::ACK), id, Reason::RETURNED),
                (tcp(flags::ACK), id, Reason::STEERED),
                (back(flags::ACK), id, Reason::RETURNED),
            ],
        ));
    }
    let setup = translator(&four, 1000);
    let udp = Packet::udp(CLIENT4, "203.0.113.80:5001", 40);
    let (_, sent) = Model::new(&setup).travel(&udp.build());
    cases.push(case(
        "datagrams there and back, fragments there",
        &setup,
        vec![
            (udp.build(), VOICE, Reason::STEERED_NEW),
            (answer(&sent, 0), VOICE, Reason::RETURNED),
            (udp.build(), VOICE, Reason::STEERED),
            (
                udp.clone().fragment(0, true).build(),
                VOICE,
                Reason::STEERED,
            ),
            (
                Packet::raw(CLIENT4, "203.0.113.80:5001", 17, &[9; 40])
                    .fragment(6, false)
                    .build(),
                VOICE,
                Reason::STEERED_FRAGMENT,
            ),
        ],
    ));
    cases.extend(fragmented_answers());
    cases.push(case(
        "the middle of an unknown connection",
        &setup,
        vec![(
            Packet::tcp(CLIENT4, VIP4, flags::ACK).build(),
            SHOP4,
            Reason::NO_CONNECTION,
        )],
    ));
    cases.push(case(
        "a member of another family",
        &translator(&six, 1000),
        vec![(
            Packet::tcp(CLIENT4, VIP4, flags::SYN).build(),
            SHOP4,
            Reason::NOT_FORWARDED,
        )],
    ));
    let tagged = |tag| {
        Packet::tcp(CLIENT4, VIP4, flags::SYN)
            .tag(0x8100, tag)
            .build()
    };
    cases.push(case(
        "members behind a VLAN",
        &in_vlan(translator(&four, 1000)),
        vec![
            (tagged(101), SHOP4, Reason::NOT_FORWARDED),
            // The flow table has it from the first.
            (tagged(100), SHOP4, Reason::STEERED),
            (
                Packet::tcp(CLIENT4, VIP4, flags::ACK).build(),
                SHOP4,
                Reason::NOT_FORWARDED,
            ),
        ],
    ));
    let one = translator(&four[..1], 1);
    cases.push(case(
        "one source port serves one connection with a member",
        &one,
        vec![
            (
                Packet::tcp(CLIENT4, VIP4, flags::SYN).build(),
                SHOP4,
                Reason::STEERED_NEW,
            ),
            (
                Packet::tcp("192.0.2.77:5", VIP4, flags::SYN).build(),
                SHOP4,
                Reason::NO_PORT,
            ),
        ],
    ));
    cases
}

/// What members answer in several fragments comes back whole; other fragments to the address that we
/// send from are the stack's.
fn fragmented_answers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (client, vip, id, ours, members) in [
        (
            CLIENT4,
            "203.0.113.80:5001",
            VOICE,
            OURS4.0,
            ["10.0.0.11", "10.0.0.12"],
        ),
        (CLIENT6, VIP6, SHOP6, OURS6.0, ["fd00::11", "fd00::12"]),
    ] {
        let setup = translator(&members, 1000);
        let is_v4 = client == CLIENT4;
        let (proto, there) = if is_v4 {
            (17, Packet::udp(client, vip, 40).build())
        } else {
            (6, Packet::tcp(client, vip, flags::SYN).build())
        };
        let (outcome, sent) = Model::new(&setup).travel(&there);
        let [from, other] = if outcome.verdict.member == 1 {
            members
        } else {
            let [a, b] = members;
            [b, a]
        };
        let end = |host: &str, port: u16| {
            if is_v4 {
                format!("{host}:{port}")
            } else {
                format!("[{host}]:{port}")
            }
        };
        let l4 = if is_v4 { 34 } else { 54 };
        let port = u16::from_be_bytes([sent[l4], sent[l4 + 1]]);
        let (ours, port) = (end(ours, port), 80);
        let first = if is_v4 {
            Packet::udp(&end(from, port), &ours, 64)
        } else {
            Packet::tcp(&end(from, port), &ours, flags::ACK).payload(&[1; 60])
        };
        let later = |from: &str, at| {
            Packet::raw(&end(from, port), &ours, proto, &[9; 40])
                .fragment(at, false)
                .build()
        };
        cases.push(case(
            &format!("a member's answer to {client} in fragments"),
            &setup,
            vec![
                (later(from, 9), 0, Reason::FRAGMENT),
                (there, id, Reason::STEERED_NEW),
                (first.fragment(0, true).build(), id, Reason::RETURNED),
                (later(from, 9), id, Reason::RETURNED),
                (later(from, 14), id, Reason::RETURNED),
                (later(other, 9), 0, Reason::FRAGMENT),
            ],
        ));
    }
    cases
}

/// Frames to be cut and changed.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut cases = cases();
    cases.truncate(3);
    cases.extend(fragmented_answers());
    cases
        .into_iter()
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect()
}
