//! Cases of the operator's lists and of limits.

use lb_common::{
    forward::mode,
    limit::{LimitKind, action},
    verdict::Reason,
};

use super::{
    CLIENT4, CLIENT6, Case, DNS, SERVER4, SERVER6, WEB4, WEB6, case, host,
    nat::translator,
    steering::{SHOP4, VIP4, VOICE, balancer},
};
use crate::{
    model::limit,
    packet::{Packet, flags},
};

pub(super) fn lists() -> Vec<Case> {
    let syn = |from: &str, to: &str| Packet::tcp(from, to, flags::SYN).build();
    let vital: Vec<_> = [2, 133, 134, 135, 136, 137]
        .map(|kind| {
            (
                Packet::icmp("2001:db8::1", "2001:db8:1::2", kind, 0).build(),
                0,
                Reason::VITAL,
            )
        })
        .into_iter()
        .chain([(
            Packet::icmp("192.0.2.1", "198.51.100.7", 3, 4).build(),
            0,
            Reason::VITAL,
        )])
        .collect();
    vec![
        case(
            "deny",
            &host().deny("192.0.2.0/24").deny("2001:db8::/33"),
            vec![
                (syn(CLIENT4, SERVER4), 0, Reason::DENIED),
                (syn(CLIENT4, "198.51.100.7:22"), 0, Reason::DENIED),
                (syn("192.0.3.1:5", SERVER4), WEB4, Reason::LOCAL),
                (syn(CLIENT6, SERVER6), 0, Reason::DENIED),
                (syn("[2001:db8:8000::1]:5", SERVER6), WEB6, Reason::LOCAL),
                (
                    Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0).build(),
                    0,
                    Reason::DENIED,
                ),
                (
                    Packet::raw(CLIENT4, SERVER4, 47, &[0; 8]).build(),
                    0,
                    Reason::DENIED,
                ),
            ],
        ),
        case(
            "deny all, IPv4 only",
            &host().deny("0.0.0.0/0"),
            vec![
                (syn(CLIENT4, SERVER4), 0, Reason::DENIED),
                (syn(CLIENT6, SERVER6), WEB6, Reason::LOCAL),
            ],
        ),
        case(
            "allow beats deny but not malformed",
            &host()
                .deny("0.0.0.0/0")
                .deny("::/0")
                .allow("192.0.2.1/32")
                .allow("2001:db8::/32"),
            vec![
                (syn(CLIENT4, SERVER4), WEB4, Reason::LOCAL),
                (syn("192.0.2.2:5", SERVER4), 0, Reason::DENIED),
                (syn(CLIENT6, SERVER6), WEB6, Reason::LOCAL),
                (
                    Packet::tcp(CLIENT4, SERVER4, 0).build(),
                    WEB4,
                    Reason::BAD_TCP_FLAGS,
                ),
            ],
        ),
        case(
            "entries that have run out",
            &host()
                .deny_until("192.0.2.1/32", 1)
                .deny_until("2001:db8::/32", u64::MAX),
            vec![
                (syn(CLIENT4, SERVER4), WEB4, Reason::LOCAL),
                (syn(CLIENT6, SERVER6), 0, Reason::DENIED),
            ],
        ),
        case(
            "entry behind entries that have run out",
            &host()
                .deny("192.0.0.0/16")
                .deny_until("192.0.2.0/24", 1)
                .deny_until("192.0.2.1/32", 2),
            vec![
                (syn(CLIENT4, SERVER4), 0, Reason::DENIED),
                (syn("192.1.2.1:5", SERVER4), WEB4, Reason::LOCAL),
            ],
        ),
        case(
            "vital messages from denied sources",
            &host().deny("0.0.0.0/0").deny("::/0").limit_source(
                0,
                LimitKind::ICMP,
                limit(1, action::DROP),
            ),
            vital,
        ),
    ]
}

pub(super) fn limits() -> Vec<Case> {
    let syn = |from: &str| Packet::tcp(from, SERVER4, flags::SYN).build();
    let syn6 = |from: &str| Packet::tcp(from, SERVER6, flags::SYN).build();
    let ack = Packet::tcp(CLIENT4, SERVER4, flags::ACK).build();
    let dns = |from: &str| Packet::udp(from, "198.51.100.7:53", 5).build();
    let ping = Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0).build();
    let three = limit(3, action::DROP);
    let random = |n: u8| format!("203.0.113.{n}:5000");
    vec![
        case(
            "SYNs of one source",
            &host().limit_source(WEB4, LimitKind::SYN, three),
            vec![
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::SYN_SOURCE_LIMIT),
                (ack.clone(), WEB4, Reason::LOCAL),
                (syn("192.0.2.9:1"), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::SYN_SOURCE_LIMIT),
            ],
        ),
        case(
            "SYNs of a /64",
            &host().limit_source(WEB6, LimitKind::SYN, limit(1, action::DROP)),
            vec![
                (syn6("[2001:db8::1]:5"), WEB6, Reason::LOCAL),
                (syn6("[2001:db8::ffff:1]:5"), WEB6, Reason::SYN_SOURCE_LIMIT),
                (syn6("[2001:db8:0:1::1]:5"), WEB6, Reason::LOCAL),
            ],
        ),
        case(
            "SYNs of a service from everywhere",
            &host()
                .limit_service(WEB4, LimitKind::SYN, three)
                .limit_source(WEB4, LimitKind::SYN, limit(2, action::DROP)),
            (0..10)
                .map(|n| {
                    let reason = if n < 3 {
                        Reason::LOCAL
                    } else {
                        Reason::SYN_SERVICE_LIMIT
                    };
                    (syn(&random(n)), WEB4, reason)
                })
                .collect(),
        ),
        case(
            "what a source's limit drops is not the service's",
            &host()
                .limit_service(WEB4, LimitKind::SYN, three)
                .limit_source(WEB4, LimitKind::SYN, limit(1, action::DROP)),
            vec![
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::SYN_SOURCE_LIMIT),
                (syn(CLIENT4), WEB4, Reason::SYN_SOURCE_LIMIT),
                (syn(CLIENT4), WEB4, Reason::SYN_SOURCE_LIMIT),
                (syn(&random(1)), WEB4, Reason::LOCAL),
                (syn(&random(2)), WEB4, Reason::LOCAL),
                (syn(&random(3)), WEB4, Reason::SYN_SERVICE_LIMIT),
            ],
        ),
        case(
            "packets of a source and of a service",
            &host()
                .limit_source(WEB4, LimitKind::PACKETS, limit(2, action::DROP))
                .limit_service(DNS, LimitKind::PACKETS, limit(1, action::DROP)),
            vec![
                (ack.clone(), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (ack, WEB4, Reason::PACKET_SOURCE_LIMIT),
                (dns(CLIENT4), DNS, Reason::LOCAL),
                (dns(&random(1)), DNS, Reason::PACKET_SERVICE_LIMIT),
            ],
        ),
        case(
            "datagrams",
            &host()
                .limit_source(DNS, LimitKind::UDP, limit(1, action::DROP))
                .limit_service(DNS, LimitKind::UDP, limit(2, action::DROP)),
            vec![
                (dns(CLIENT4), DNS, Reason::LOCAL),
                (dns(CLIENT4), DNS, Reason::UDP_SOURCE_LIMIT),
                (dns(&random(1)), DNS, Reason::LOCAL),
                (dns(&random(2)), DNS, Reason::UDP_SERVICE_LIMIT),
            ],
        ),
        case(
            "ICMP of the host",
            &host()
                .limit_source(0, LimitKind::ICMP, limit(1, action::DROP))
                .limit_service(0, LimitKind::ICMP, limit(2, action::DROP)),
            vec![
                (ping.clone(), 0, Reason::ICMP),
                (ping, 0, Reason::ICMP_SOURCE_LIMIT),
                (
                    Packet::icmp("192.0.2.2", "198.51.100.7", 8, 0).build(),
                    0,
                    Reason::ICMP,
                ),
                (
                    Packet::icmp("192.0.2.3", "198.51.100.7", 8, 0).build(),
                    0,
                    Reason::ICMP_SERVICE_LIMIT,
                ),
            ],
        ),
        case(
            "reporting",
            &host().limit_source(WEB4, LimitKind::SYN, limit(1, action::REPORT)),
            vec![
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::LIMIT_REPORTED),
                (syn(CLIENT4), WEB4, Reason::LIMIT_REPORTED),
            ],
        ),
        case(
            "allowed source over its limits",
            &host()
                .allow("192.0.2.0/24")
                .limit_source(WEB4, LimitKind::SYN, limit(1, action::DROP))
                .limit_service(WEB4, LimitKind::SYN, limit(1, action::DROP)),
            vec![
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(CLIENT4), WEB4, Reason::LOCAL),
                (syn(&random(1)), WEB4, Reason::LOCAL),
                (syn(&random(2)), WEB4, Reason::SYN_SERVICE_LIMIT),
                (syn(CLIENT4), WEB4, Reason::LOCAL),
            ],
        ),
    ]
}

/// New flows of forwarded services over limits that drop and that report.
pub(super) fn flows() -> Vec<Case> {
    let syn = |n: u8| Packet::tcp(&format!("203.0.113.{n}:5000"), VIP4, flags::SYN).build();
    let ack = |n: u8| Packet::tcp(&format!("203.0.113.{n}:5000"), VIP4, flags::ACK).build();
    let udp = |from: &str| Packet::udp(from, "203.0.113.80:5000", 40);
    let [one, reported] = [action::DROP, action::REPORT].map(|action| limit(1, action));
    let (new, known) = (Reason::STEERED_NEW, Reason::STEERED);
    let mut cases = vec![case(
        "new flows over a limit that drops",
        &balancer(mode::IPIP).limit_service(SHOP4, LimitKind::FLOWS, one),
        vec![
            (syn(1), SHOP4, new),
            (syn(2), SHOP4, Reason::FLOW_SERVICE_LIMIT),
            (ack(1), SHOP4, known),
            (syn(2), SHOP4, Reason::FLOW_SERVICE_LIMIT),
        ],
    )];
    for (name, setup) in [
        ("dsr", balancer(mode::DSR)),
        ("gue", balancer(mode::GUE)),
        ("nat", translator(&["10.0.0.11", "10.0.0.12"], 1000)),
    ] {
        cases.push(case(
            &format!("new flows over a service's limit that reports, {name}"),
            &(setup.clone()).limit_service(SHOP4, LimitKind::FLOWS, reported),
            vec![
                (syn(1), SHOP4, new),
                (syn(2), SHOP4, Reason::STEERED_REPORTED),
                (ack(1), SHOP4, known),
                // Let in, it is a flow as any other.
                (syn(2), SHOP4, known),
                (ack(2), SHOP4, known),
                (syn(3), SHOP4, Reason::STEERED_REPORTED),
            ],
        ));
        cases.push(case(
            &format!("datagrams and fragments of a source over limits that report, {name}"),
            &(setup.clone())
                .limit_source(VOICE, LimitKind::FLOWS, reported)
                .limit_source(VOICE, LimitKind::UDP, limit(3, action::REPORT)),
            vec![
                (udp("192.0.2.1:5").build(), VOICE, new),
                (
                    udp("192.0.2.1:6").fragment(0, true).build(),
                    VOICE,
                    Reason::STEERED_REPORTED,
                ),
                (udp("192.0.2.1:6").build(), VOICE, known),
                // A known flow over the packets' own limit.
                (udp("192.0.2.1:6").build(), VOICE, Reason::STEERED_REPORTED),
                (udp("192.0.2.2:5").build(), VOICE, new),
            ],
        ));
        cases.push(case(
            &format!("one limit that reports and one that drops, {name}"),
            &(setup.limit_service(SHOP4, LimitKind::FLOWS, reported)).limit_source(
                SHOP4,
                LimitKind::FLOWS,
                one,
            ),
            vec![
                (syn(1), SHOP4, new),
                (syn(2), SHOP4, Reason::STEERED_REPORTED),
                (
                    Packet::tcp("203.0.113.2:5001", VIP4, flags::SYN).build(),
                    SHOP4,
                    Reason::FLOW_SOURCE_LIMIT,
                ),
            ],
        ));
    }
    cases
}
