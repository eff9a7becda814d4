//! Forwarded services: who is steered where, and what the frame looks like then.

use lb_common::{
    forward::{Forward, GUE_PORT, dscp, mode},
    member::MemberState,
    service::flag,
    verdict::Reason,
};

use super::{CLIENT4, CLIENT6, Case, case};
use crate::{
    model::{Setup, forwarded, member, service, vip},
    packet::{Packet, flags},
};

/// Service `tcp://203.0.113.80:80`.
pub const SHOP4: u16 = 10;
/// Where [`SHOP4`] is.
pub const VIP4: &str = "203.0.113.80:80";
/// Service `tcp://[2001:db8:80::1]:80`.
pub const SHOP6: u16 = 11;
/// Where [`SHOP6`] is.
pub const VIP6: &str = "[2001:db8:80::1]:80";
/// Service `udp://203.0.113.80:5000-5009`.
pub const VOICE: u16 = 12;
/// A service on every address: `tcp://*:8443`.
pub const WIDE: u16 = 13;
/// A service whose balancer has nobody.
pub const EMPTY: u16 = 14;
/// The balancers' ids.
const SHOP: u16 = 1;
const NOBODY: u16 = 2;

/// How a mode forwards in these tests.
#[must_use]
pub fn by(mode: u8) -> Forward {
    Forward {
        seed: 0x5eed,
        source4: [10, 0, 0, 1],
        source6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        balancer: SHOP,
        mode,
        dscp: dscp::COPY,
        gue_port: GUE_PORT.to_be_bytes(),
        ..Forward::default()
    }
}

/// A host that steers all the services above to IPv4 members 1 and 2.
#[must_use]
pub fn balancer(mode: u8) -> Setup {
    balancer_of(&by(mode), &["10.0.0.11", "10.0.0.12"])
}

/// A host that steers to these members, numbered from 1.
#[must_use]
pub fn balancer_of(forward: &Forward, members: &[&str]) -> Setup {
    let range = |way, first, last| {
        let mut way = way;
        let lb_common::service::ServiceWay {
            port, range, flags, ..
        } = &mut way;
        (*port, *range) = (lb_common::addr::Be16::new(0), [first, last]);
        *flags |= flag::WIDE;
        way
    };
    let mut wide = forwarded(WIDE, "*", 8443, 6, SHOP);
    wide.flags |= flag::WIDE;
    let mut setup = Setup::guarded(&[
        forwarded(SHOP4, "203.0.113.80", 80, 6, SHOP),
        forwarded(SHOP6, "2001:db8:80::1", 80, 6, SHOP),
        range(forwarded(VOICE, "203.0.113.80", 0, 17, SHOP), 5000, 5009),
        wide,
        forwarded(EMPTY, "203.0.113.80", 81, 6, NOBODY),
        vip(SHOP4, "203.0.113.80", flag::ECHO),
        vip(SHOP6, "2001:db8:80::1", flag::ECHO),
        service(20, "203.0.113.80", 22, 6),
    ]);
    let steering = &mut setup.steering;
    for id in [SHOP4, SHOP6, VOICE, WIDE] {
        steering.forward.push((id, *forward));
    }
    let nobody = Forward {
        balancer: NOBODY,
        ..*forward
    };
    steering.forward.push((EMPTY, nobody));
    let ids: Vec<u16> = (1..).take(members.len()).collect();
    for (id, address) in ids.iter().zip(members) {
        let (candidate, hop) = member(*id, address, 80);
        steering.members.push(candidate);
        steering.hops.push(hop);
    }
    steering.rings = vec![(SHOP, ids), (NOBODY, Vec::new())];
    setup
}

/// The setup with a member's state changed.
#[must_use]
pub fn with_state(mut setup: Setup, id: u16, state: u64) -> Setup {
    for (of, candidate) in &mut setup.steering.members {
        if *of == id {
            candidate.state = state;
        }
    }
    setup
}

/// Every case of steering.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
        for (family, members) in [
            ("IPv4", ["10.0.0.11", "10.0.0.12"]),
            ("IPv6", ["fd00::11", "fd00::12"]),
        ] {
            let setup = balancer_of(&by(mode), &members);
            cases.extend(life(&format!("{name} to {family}"), &setup));
        }
    }
    cases.extend(lookups());
    cases.extend(members());
    cases.extend(sizes());
    cases.extend(fragments());
    cases.extend(vlans());
    cases
}

/// Members behind a VLAN of the link: packets that bear its tag, and no other, go there.
fn vlans() -> Vec<Case> {
    let (new, known) = (Reason::STEERED_NEW, Reason::STEERED);
    let not = Reason::NOT_FORWARDED;
    let mut cases = Vec::new();
    for mode in [mode::DSR, mode::IPIP, mode::GUE] {
        let setup = in_vlan(balancer(mode));
        let ack = Packet::tcp(CLIENT4, VIP4, flags::ACK).payload(&[7; 30]);
        let six = Packet::tcp(CLIENT6, VIP6, flags::ACK);
        cases.push(case(
            &format!("members behind a VLAN, mode {mode}"),
            &setup,
            vec![
                // Its priority is no part of it.
                (ack.clone().tag(0x8100, 0xe064).build(), SHOP4, new),
                (ack.clone().tag(0x8100, 100).build(), SHOP4, known),
                (ack.clone().tag(0x8100, 100).build(), SHOP4, known),
                (ack.build(), SHOP4, not),
                (ack.build(), SHOP4, not),
                (ack.clone().tag(0x8100, 101).build(), SHOP4, not),
                (ack.clone().tag(0x88a8, 100).build(), SHOP4, not),
                (
                    ack.clone().tag(0x8100, 100).tag(0x8100, 100).build(),
                    SHOP4,
                    not,
                ),
                (six.clone().tag(0x8100, 100).build(), SHOP6, new),
                (six.build(), SHOP6, not),
            ],
        ));
    }
    let mut unknown = balancer(mode::DSR);
    for (_, hop) in &mut unknown.steering.hops {
        *hop = lb_common::forward::Link::withheld();
    }
    cases.push(case(
        "a VLAN's neighbour that is not known yet",
        &unknown,
        vec![(
            Packet::tcp(CLIENT4, VIP4, flags::SYN)
                .tag(0x8100, 100)
                .build(),
            SHOP4,
            Reason::NO_NEIGHBOUR,
        )],
    ));
    cases
}

/// The setup with its members behind VLAN 100.
#[must_use]
pub fn in_vlan(mut setup: Setup) -> Setup {
    for (_, hop) in &mut setup.steering.hops {
        *hop = hop.in_vlan(100);
    }
    setup
}

/// A connection's packets in every wrapping.
fn life(name: &str, setup: &Setup) -> Vec<Case> {
    let (new, known) = (Reason::STEERED_NEW, Reason::STEERED);
    let mut cases = Vec::new();
    for (client, vip, id) in [(CLIENT4, VIP4, SHOP4), (CLIENT6, VIP6, SHOP6)] {
        let tcp = |flags| Packet::tcp(client, vip, flags);
        for tags in 0..3 {
            let tagged = |packet: Packet| {
                [(0x88a8, 5), (0x8100, 6)][2 - tags..]
                    .iter()
                    .fold(packet, |packet, (kind, tci)| packet.tag(*kind, *tci))
                    .build()
            };
            cases.push(case(
                &format!("{name}, from {client}, {tags} tags"),
                setup,
                vec![
                    (tagged(tcp(flags::SYN)), id, new),
                    (tagged(tcp(flags::SYN)), id, known),
                    (tagged(tcp(flags::ACK).payload(&[7; 100])), id, known),
                    (tagged(tcp(flags::ACK | flags::FIN)), id, known),
                    (tagged(tcp(flags::ACK)), id, known),
                    (tagged(tcp(flags::SYN)), id, new),
                    (tagged(tcp(flags::RST)), id, known),
                ],
            ));
        }
    }
    cases
}

fn lookups() -> Vec<Case> {
    let setup = balancer(mode::IPIP);
    let udp = |from, port| Packet::udp(from, &format!("203.0.113.80:{port}"), 9).build();
    let tcp = |from, to| Packet::tcp(from, to, flags::SYN).build();
    let (new, known, none) = (Reason::STEERED_NEW, Reason::STEERED, Reason::NOT_A_SERVICE);
    vec![
        case(
            "ports of a range are flows of their own",
            &setup,
            vec![
                (udp(CLIENT4, 5000), VOICE, new),
                (udp(CLIENT4, 5000), VOICE, known),
                (udp(CLIENT4, 5009), VOICE, new),
                (udp(CLIENT4, 5009), VOICE, known),
                (udp(CLIENT4, 4999), 0, none),
                (udp(CLIENT4, 5010), 0, none),
                (udp(CLIENT4, 0), 0, none),
            ],
        ),
        case(
            "addresses of a wildcard are flows of their own",
            &setup,
            vec![
                (tcp(CLIENT4, "203.0.113.80:8443"), WIDE, new),
                (tcp(CLIENT4, "203.0.113.81:8443"), WIDE, new),
                (tcp(CLIENT4, "203.0.113.81:8443"), WIDE, known),
                (tcp(CLIENT6, "[2001:db8::8]:8443"), WIDE, new),
                (tcp(CLIENT6, "[2001:db8::9]:8443"), WIDE, new),
                (tcp(CLIENT6, "[2001:db8::8]:8443"), WIDE, known),
            ],
        ),
        case(
            "other traffic to the address",
            &setup,
            vec![
                (tcp(CLIENT4, "203.0.113.80:22"), 20, Reason::LOCAL),
                (tcp(CLIENT4, "203.0.113.80:23"), 0, none),
                (Packet::raw(CLIENT4, VIP4, 47, &[0; 40]).build(), 0, none),
            ],
        ),
        case(
            "malformed packets are not forwarded",
            &setup,
            vec![
                (
                    Packet::tcp(CLIENT4, VIP4, 0).build(),
                    SHOP4,
                    Reason::BAD_TCP_FLAGS,
                ),
                (
                    Packet::tcp("203.0.113.80:9", VIP4, flags::SYN).build(),
                    SHOP4,
                    Reason::BAD_SOURCE,
                ),
            ],
        ),
        case(
            "a switched-off guard steers all the same, and checks",
            &Setup {
                is_guarded: false,
                ..balancer(mode::IPIP)
            },
            vec![
                (tcp(CLIENT4, VIP4), SHOP4, new),
                (
                    Packet::tcp(CLIENT4, VIP4, 0).build(),
                    SHOP4,
                    Reason::BAD_TCP_FLAGS,
                ),
                (tcp(CLIENT4, "203.0.113.80:22"), 20, Reason::GUARD_OFF),
            ],
        ),
        case(
            "denied sources are not steered",
            &balancer(mode::IPIP).deny("192.0.2.0/24"),
            vec![(tcp(CLIENT4, VIP4), 0, Reason::DENIED)],
        ),
        case(
            "time to live ends",
            &setup,
            vec![(
                with_ttl(&Packet::tcp(CLIENT4, VIP4, flags::ACK), 1),
                SHOP4,
                Reason::TTL_EXPIRED,
            )],
        ),
    ]
}

/// A frame with this time to live, IPv4 untagged.
fn with_ttl(packet: &Packet, ttl: u8) -> Vec<u8> {
    let mut frame = packet.build();
    frame[22] = ttl;
    crate::packet::set_checksum(&mut frame[14..34]);
    frame
}

fn members() -> Vec<Case> {
    let syn = Packet::tcp(CLIENT4, VIP4, flags::SYN).build();
    let mut cases = Vec::new();
    for bits in [
        MemberState::STOPPED,
        MemberState::DISABLED,
        MemberState::DRAIN,
        MemberState::ERROR,
        MemberState::HEALTH_FAILED,
    ] {
        let setup = with_state(balancer(mode::IPIP), 1, bits);
        let frames = (0..16)
            .map(|n| {
                let from = format!("192.0.2.{n}:999");
                let from = if n == 0 { CLIENT4 } else { &from };
                (
                    Packet::tcp(from, VIP4, flags::SYN).build(),
                    SHOP4,
                    Reason::STEERED_NEW,
                )
            })
            .collect();
        cases.push(case(
            &format!("new flows avoid a member in state {bits:#x}"),
            &setup,
            frames,
        ));
    }
    let all_stopped = with_state(
        with_state(balancer(mode::IPIP), 1, MemberState::STOPPED),
        2,
        MemberState::STOPPED,
    );
    let all_drained = with_state(
        with_state(balancer(mode::IPIP), 1, MemberState::DRAIN),
        2,
        MemberState::ERROR,
    );
    let unknown = {
        let mut setup = balancer(mode::IPIP);
        setup.steering.members.clear();
        setup
    };
    let mut without_hops = balancer(mode::IPIP);
    without_hops.steering.hops.clear();
    let to_empty = Packet::tcp(CLIENT4, "203.0.113.80:81", flags::SYN).build();
    cases.extend([
        case(
            "nobody in the ring",
            &balancer(mode::IPIP),
            vec![(to_empty, EMPTY, Reason::NO_MEMBER)],
        ),
        case(
            "all stopped",
            &all_stopped,
            vec![(syn.clone(), SHOP4, Reason::NO_MEMBER)],
        ),
        case(
            "the ring's last word counts",
            &all_drained,
            vec![(syn.clone(), SHOP4, Reason::STEERED_NEW)],
        ),
        case(
            "ids of nobody",
            &unknown,
            vec![(syn.clone(), SHOP4, Reason::NO_MEMBER)],
        ),
        case(
            "no next hop",
            &without_hops,
            vec![(syn, SHOP4, Reason::NO_NEIGHBOUR)],
        ),
    ]);
    cases
}

fn sizes() -> Vec<Case> {
    // The largest packet that fits, and one byte more.
    let fits = |mode, members: [&str; 2], room: usize| {
        let setup = balancer_of(&by(mode), &members);
        let tcp = |len: usize| {
            Packet::tcp(CLIENT4, VIP4, flags::ACK)
                .payload(&vec![1; len - 40])
                .build()
        };
        case(
            &format!("mode {mode} to {}: {room} bytes fit", members[0]),
            &setup,
            vec![(tcp(room), SHOP4, Reason::STEERED_NEW)],
        )
    };
    let four = ["10.0.0.11", "10.0.0.12"];
    let six = ["fd00::11", "fd00::12"];
    vec![
        fits(mode::DSR, four, 1500),
        fits(mode::IPIP, four, 1480),
        fits(mode::IPIP, six, 1460),
        fits(mode::GUE, four, 1472),
        fits(mode::GUE, six, 1452),
    ]
}

fn fragments() -> Vec<Case> {
    let setup = balancer(mode::IPIP);
    let first4 = Packet::udp(CLIENT4, "203.0.113.80:5000", 64).fragment(0, true);
    let later4 = Packet::raw(CLIENT4, "203.0.113.80:5000", 17, &[9; 40]).fragment(9, false);
    let first6 = Packet::tcp(CLIENT6, VIP6, flags::ACK)
        .payload(&[1; 60])
        .fragment(0, true);
    let later6 = Packet::raw(CLIENT6, VIP6, 6, &[9; 40]).fragment(10, false);
    let other = Packet::raw("192.0.2.9:1", "203.0.113.80:5000", 17, &[9; 40]).fragment(9, false);
    // Over what the first held, and over the one before.
    let over = |at| Packet::raw(CLIENT4, "203.0.113.80:5000", 17, &[7; 40]).fragment(at, true);
    let mut bad = over(9).build();
    bad[24] ^= 1;
    vec![case(
        "fragments follow the first",
        &setup,
        vec![
            (later4.build(), SHOP4, Reason::FRAGMENT_UNKNOWN),
            (first4.build(), VOICE, Reason::STEERED_NEW),
            (later4.build(), VOICE, Reason::STEERED_FRAGMENT),
            (over(1).build(), VOICE, Reason::STEERED_FRAGMENT),
            (over(7).build(), VOICE, Reason::STEERED_FRAGMENT),
            (bad, VOICE, Reason::BAD_IP_HEADER),
            (other.build(), SHOP4, Reason::FRAGMENT_UNKNOWN),
            (first6.build(), SHOP6, Reason::STEERED_NEW),
            (later6.build(), SHOP6, Reason::STEERED_FRAGMENT),
            (
                Packet::raw(CLIENT4, "203.0.113.99:1", 17, &[9; 40])
                    .fragment(9, false)
                    .build(),
                0,
                Reason::FRAGMENT,
            ),
        ],
    )]
}

/// Frames with one tag or none, to be cut and changed.
#[must_use]
pub fn vlan_seeds() -> Vec<Vec<u8>> {
    vlans()
        .into_iter()
        .take(1)
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect()
}

/// Whole frames of every shape that steering rewrites, to be cut and changed.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = fragments()
        .into_iter()
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect();
    seeds.extend([
        Packet::tcp(CLIENT4, VIP4, flags::SYN)
            .options(&[1; 8])
            .payload(&[3; 12])
            .build(),
        Packet::tcp(CLIENT4, VIP4, flags::ACK)
            .tag(0x8100, 6)
            .payload(&[3; 50])
            .build(),
        Packet::tcp(CLIENT6, VIP6, flags::ACK)
            .tag(0x88a8, 5)
            .tag(0x8100, 6)
            .extension(0, &[0; 8])
            .build(),
        Packet::udp(CLIENT4, "203.0.113.80:5003", 10).build(),
        Packet::tcp(CLIENT6, "[2001:db8::9]:8443", flags::ACK).build(),
    ]);
    seeds
}
