//! What is answered here, and ICMP about flows.

use lb_common::{
    forward::{mode, on_empty},
    verdict::Reason,
};

use super::{
    CLIENT4, CLIENT6, Case, case,
    steering::{EMPTY, SHOP4, SHOP6, VIP4, VIP6, VOICE, balancer, balancer_of, by},
};
use crate::{
    model::Setup,
    packet::{Packet, flags},
};

/// Every case.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = too_big();
    cases.extend(refused());
    cases.extend(icmp());
    cases
}

/// The packet that an ICMP error quotes: from the service to its client.
fn answer_of(service: &str, client: &str, proto: &str) -> Vec<u8> {
    let packet = if proto == "udp" {
        Packet::udp(service, client, 30)
    } else {
        Packet::tcp(service, client, flags::ACK).payload(&[5; 30])
    };
    packet.build()[14..].to_vec()
}

/// An ICMP error from a router about what the service sent, quoting `len` bytes.
fn error(router: &str, vip: &str, kind: (u8, u8), quote: &[u8], len: usize) -> Vec<u8> {
    Packet::icmp(router, vip, kind.0, kind.1)
        .payload(&quote[..len.min(quote.len())])
        .build()
}

fn too_big() -> Vec<Case> {
    let four = ["10.0.0.11", "10.0.0.12"];
    let six = ["fd00::11", "fd00::12"];
    let mut cases = Vec::new();
    for (mode, members, room) in [
        (mode::IPIP, four, 1480),
        (mode::IPIP, six, 1460),
        (mode::GUE, four, 1472),
    ] {
        let setup = balancer_of(&by(mode), &members);
        let mut scarce = setup.clone();
        scarce.steering.answers = 0;
        let four = |len: usize, tags: bool| {
            let packet = Packet::tcp(CLIENT4, VIP4, flags::ACK).payload(&vec![1; len - 40]);
            if tags { packet.tag(0x8100, 7) } else { packet }.build()
        };
        let six = |len: usize| {
            Packet::tcp(CLIENT6, VIP6, flags::ACK)
                .payload(&vec![1; len - 60])
                .build()
        };
        let answered = Reason::TOO_BIG_ANSWERED;
        cases.push(case(
            &format!(
                "mode {mode} to {}: more than {room} bytes are told",
                members[0]
            ),
            &setup,
            vec![
                (four(room + 1, false), SHOP4, answered),
                (four(room + 1, true), SHOP4, answered),
                (four(1500, false), SHOP4, answered),
                (six(room + 1), SHOP6, answered),
                (four(room, false), SHOP4, Reason::STEERED),
            ],
        ));
        cases.push(case(
            &format!("mode {mode} to {}: answers are used up", members[0]),
            &scarce,
            vec![(four(1500, false), SHOP4, Reason::TOO_BIG)],
        ));
    }
    cases
}

fn refused() -> Vec<Case> {
    let mut setup = balancer(mode::IPIP);
    for (_, forward) in &mut setup.steering.forward {
        forward.on_empty = on_empty::RESET;
    }
    // Nobody anywhere.
    setup.steering.rings = vec![(1, Vec::new()), (2, Vec::new())];
    let syn = Packet::tcp(CLIENT4, "203.0.113.80:81", flags::SYN);
    let refused = Reason::REFUSED;
    let about = |proto: &str, from: &str| {
        let quote = answer_of(from, CLIENT4, proto);
        error("192.0.2.254", "203.0.113.80", (3, 1), &quote, 28)
    };
    let quiet = case(
        "nobody left: errors about flows are not answered",
        &setup,
        vec![
            (about("tcp", VIP4), SHOP4, Reason::NO_MEMBER),
            (about("udp", "203.0.113.80:5002"), VOICE, Reason::NO_MEMBER),
        ],
    );
    vec![
        quiet,
        case(
            "nobody left is told",
            &setup,
            vec![
                (syn.clone().build(), EMPTY, refused),
                (syn.tag(0x8100, 3).options(&[1; 8]).build(), EMPTY, refused),
                (
                    Packet::tcp(CLIENT4, VIP4, flags::ACK)
                        .payload(&[1; 33])
                        .build(),
                    SHOP4,
                    refused,
                ),
                (
                    Packet::tcp(CLIENT4, VIP4, flags::RST).build(),
                    SHOP4,
                    Reason::NO_MEMBER,
                ),
                (
                    Packet::tcp(CLIENT6, VIP6, flags::SYN).build(),
                    SHOP6,
                    refused,
                ),
                (
                    Packet::udp(CLIENT4, "203.0.113.80:5001", 8).build(),
                    VOICE,
                    refused,
                ),
                (
                    Packet::udp(CLIENT4, "203.0.113.80:5001", 900).build(),
                    VOICE,
                    refused,
                ),
            ],
        ),
    ]
}

fn icmp() -> Vec<Case> {
    let setup = balancer(mode::IPIP);
    let router = "192.0.2.254";
    let quote4 = answer_of(VIP4, CLIENT4, "tcp");
    let quote_udp = answer_of("203.0.113.80:5002", CLIENT4, "udp");
    let mut long = quote4.clone();
    long.resize(1472, 5);
    let too_long = error(router, "203.0.113.80", (3, 1), &long, 1472);
    let mut bad = error(router, "203.0.113.80", (3, 1), &quote4, 28);
    bad[24] ^= 1;
    let mut bad_echo = Packet::icmp(router, "203.0.113.80", 8, 0)
        .payload(&[9; 41])
        .build();
    bad_echo[24] ^= 1;
    let mut long_echo = bad_echo.clone();
    long_echo[17] += 1;
    crate::packet::set_checksum(&mut long_echo[14..34]);
    let echo6 = |from| {
        Packet::icmp(from, "2001:db8:80::1", 128, 0)
            .payload(&[9; 40])
            .build()
    };
    let quote_other = answer_of("203.0.113.80:22", CLIENT4, "tcp");
    let quote_foreign = answer_of("203.0.113.81:80", CLIENT4, "tcp");
    let quote6 = answer_of(VIP6, CLIENT6, "tcp");
    let fragment = |at, more| {
        let packet = Packet::tcp(VIP6, CLIENT6, flags::ACK).payload(&[5; 30]);
        packet.fragment(at, more).build()[14..].to_vec()
    };
    let (first6, later6) = (fragment(0, true), fragment(4, false));
    let vip4 = "203.0.113.80";
    let vip6 = "2001:db8:80::1";
    let steered = Reason::STEERED_ICMP;
    let needed = (3, 4);
    let mut scarce: Setup = setup.clone();
    scarce.steering.answers = 0;
    let echo = |to: &str| Packet::icmp(router, to, 8, 0).payload(&[9; 41]).build();
    let echo_of = |from: &str| Packet::icmp(from, vip4, 8, 0).payload(&[9; 40]).build();
    vec![
        case(
            "errors follow the flow they quote",
            &setup,
            vec![
                (
                    Packet::tcp(CLIENT4, VIP4, flags::SYN).build(),
                    SHOP4,
                    Reason::STEERED_NEW,
                ),
                (error(router, vip4, needed, &quote4, 28), SHOP4, steered),
                (error(router, vip4, needed, &quote4, 60), SHOP4, steered),
                (error(router, vip4, (3, 1), &quote4, 28), SHOP4, steered),
                (error(router, vip4, (11, 0), &quote4, 28), SHOP4, steered),
                (error(router, vip4, needed, &quote_udp, 28), VOICE, steered),
                (
                    error("2001:db8::fe", vip6, (2, 0), &quote6, 48),
                    SHOP6,
                    steered,
                ),
                (
                    error("2001:db8::fe", vip6, (1, 3), &quote6, 48),
                    SHOP6,
                    steered,
                ),
                (
                    error("2001:db8::fe", vip6, (2, 0), &first6, 56),
                    SHOP6,
                    steered,
                ),
                (
                    error("2001:db8::fe", vip6, (2, 0), &later6, 56),
                    SHOP6,
                    Reason::VITAL,
                ),
            ],
        ),
        case(
            "errors about other flows are the stack's",
            &setup,
            vec![
                (
                    error(router, vip4, needed, &quote_other, 28),
                    SHOP4,
                    Reason::VITAL,
                ),
                (
                    error(router, vip4, needed, &quote_foreign, 28),
                    SHOP4,
                    Reason::VITAL,
                ),
                (
                    error(router, vip4, needed, &quote4, 23),
                    SHOP4,
                    Reason::VITAL,
                ),
                (
                    error(router, vip4, (3, 1), &quote4, 23),
                    SHOP4,
                    Reason::ICMP,
                ),
                (
                    error(router, "203.0.113.81", needed, &quote4, 28),
                    0,
                    Reason::VITAL,
                ),
                (
                    Packet::icmp(router, vip4, 13, 0).payload(&[0; 12]).build(),
                    SHOP4,
                    Reason::ICMP,
                ),
                (
                    Packet::icmp("2001:db8::1", vip6, 135, 0)
                        .payload(&[0; 16])
                        .build(),
                    0,
                    Reason::VITAL,
                ),
            ],
        ),
        case(
            "echo to a service's address is answered, to nothing else",
            &setup,
            vec![
                (echo(vip4), SHOP4, Reason::ECHO_ANSWERED),
                (
                    Packet::icmp("2001:db8::1", vip6, 128, 0)
                        .tag(0x8100, 1)
                        .payload(&[9; 40])
                        .build(),
                    SHOP6,
                    Reason::ECHO_ANSWERED,
                ),
                (echo("203.0.113.81"), 0, Reason::ICMP),
                (
                    Packet::icmp(router, vip4, 8, 0)
                        .payload(&[9; 40])
                        .fragment(0, true)
                        .build(),
                    SHOP4,
                    Reason::ICMP_TO_VIP,
                ),
            ],
        ),
        case(
            "errors that do not fit are not answered",
            &setup,
            vec![(too_long, SHOP4, Reason::TOO_BIG)],
        ),
        case(
            "errors about flows have right headers",
            &setup,
            vec![
                (bad, SHOP4, Reason::BAD_IP_HEADER),
                (
                    error(vip4, vip4, (3, 1), &quote4, 28),
                    SHOP4,
                    Reason::BAD_SOURCE,
                ),
            ],
        ),
        case(
            "echo that no host sends is not answered",
            &setup,
            vec![
                (bad_echo, SHOP4, Reason::BAD_IP_HEADER),
                (long_echo, SHOP4, Reason::BAD_IP_HEADER),
                (echo_of(vip4), SHOP4, Reason::BAD_SOURCE),
                (echo_of("127.0.0.1"), SHOP4, Reason::BAD_SOURCE),
                (echo_of("224.0.0.1"), SHOP4, Reason::BAD_SOURCE),
                (echo_of("255.255.255.255"), SHOP4, Reason::BAD_SOURCE),
                (echo6(vip6), SHOP6, Reason::BAD_SOURCE),
                (echo6("ff02::1"), SHOP6, Reason::BAD_SOURCE),
                (echo6("::1"), SHOP6, Reason::BAD_SOURCE),
                (echo6("2001:db8::7"), SHOP6, Reason::ECHO_ANSWERED),
            ],
        ),
        case(
            "echo is answered while there are answers left",
            &scarce,
            vec![(echo(vip4), SHOP4, Reason::ICMP_TO_VIP)],
        ),
    ]
}

/// Frames to be cut and changed.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    icmp()
        .into_iter()
        .flat_map(|case| case.frames)
        .map(|(frame, ..)| frame)
        .collect()
}
