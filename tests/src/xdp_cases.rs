//! The cases that lb-common on the host and the loaded program must judge alike: one table, one
//! expectation. `tests/xdp_table.rs` runs it.

use lb_common::{
    limit::{LimitKind, action},
    verdict::Reason,
};

use crate::{
    model::{Setup, limit, service},
    packet::{Packet, flags, set_checksum},
};

/// A few frames on the same maps, one after the other.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// What the maps hold.
    pub setup: Setup,
    /// Each frame with the service and the reason it is to end with.
    pub frames: Vec<(Vec<u8>, u16, Reason)>,
}

/// An IPv4 client.
pub const CLIENT4: &str = "192.0.2.1:40000";
/// Where service [`WEB4`] is.
pub const SERVER4: &str = "198.51.100.7:80";
/// An IPv6 client.
pub const CLIENT6: &str = "[2001:db8::1]:40000";
/// Where service [`WEB6`] is.
pub const SERVER6: &str = "[2001:db8:1::2]:80";
/// TCP port 80 on one IPv4 address.
pub const WEB4: u16 = 1;
/// TCP port 80 on one IPv6 address.
pub const WEB6: u16 = 2;
/// TCP port 443 on every address.
pub const TLS: u16 = 3;
/// UDP port 53 on one IPv4 address.
pub const DNS: u16 = 4;
/// UDP port 53 on every address.
pub const DNS_ANY: u16 = 5;

/// A guarded host with all the services above.
#[must_use]
pub fn host() -> Setup {
    Setup::guarded(&[
        service(WEB4, "198.51.100.7", 80, 6),
        service(WEB6, "2001:db8:1::2", 80, 6),
        service(TLS, "*", 443, 6),
        service(DNS, "198.51.100.7", 53, 17),
        service(DNS_ANY, "*", 53, 17),
    ])
}

/// Every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(lookups());
    cases.extend(tags_and_extensions());
    cases.extend(not_ours());
    cases.extend(malformed());
    cases.extend(fragments());
    cases.extend(lists());
    cases.extend(limits());
    cases
}

fn case(name: &str, setup: &Setup, frames: Vec<(Vec<u8>, u16, Reason)>) -> Case {
    Case {
        name: name.to_owned(),
        setup: setup.clone(),
        frames,
    }
}

fn one(name: &str, packet: &Packet, service: u16, reason: Reason) -> Case {
    case(name, &host(), vec![(packet.build(), service, reason)])
}

fn lookups() -> Vec<Case> {
    let syn = |from, to| Packet::tcp(from, to, flags::SYN);
    vec![
        one(
            "SYN to an IPv4 service",
            &syn(CLIENT4, SERVER4),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "SYN to an IPv6 service",
            &syn(CLIENT6, SERVER6),
            WEB6,
            Reason::LOCAL,
        ),
        one(
            "data",
            &Packet::tcp(CLIENT4, SERVER4, flags::ACK).payload(&[7; 999]),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "other port",
            &syn(CLIENT4, "198.51.100.7:81"),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "other address",
            &syn(CLIENT4, "198.51.100.8:80"),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "other protocol",
            &Packet::udp(CLIENT4, SERVER4, 9),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "wildcard, IPv4",
            &syn(CLIENT4, "203.0.113.5:443"),
            TLS,
            Reason::LOCAL,
        ),
        one(
            "wildcard, IPv6",
            &syn(CLIENT6, "[2001:db8::9]:443"),
            TLS,
            Reason::LOCAL,
        ),
        one(
            "exact before wildcard",
            &Packet::udp(CLIENT4, "198.51.100.7:53", 30),
            DNS,
            Reason::LOCAL,
        ),
        one(
            "wildcard after exact",
            &Packet::udp(CLIENT4, "198.51.100.8:53", 30),
            DNS_ANY,
            Reason::LOCAL,
        ),
        one(
            "UDP without data",
            &Packet::udp(CLIENT4, "198.51.100.7:53", 0),
            DNS,
            Reason::LOCAL,
        ),
        one(
            "UDP from port 0",
            &Packet::udp("192.0.2.1:0", "198.51.100.7:53", 1),
            DNS,
            Reason::LOCAL,
        ),
        case(
            "guard off",
            &Setup {
                is_guarded: false,
                ..host().deny("0.0.0.0/0")
            },
            vec![
                (syn(CLIENT4, SERVER4).build(), WEB4, Reason::GUARD_OFF),
                (
                    Packet::tcp(CLIENT4, SERVER4, 0).build(),
                    WEB4,
                    Reason::GUARD_OFF,
                ),
                (
                    syn(CLIENT4, "198.51.100.7:22").build(),
                    0,
                    Reason::NOT_A_SERVICE,
                ),
            ],
        ),
    ]
}

fn tags_and_extensions() -> Vec<Case> {
    let v4 = Packet::tcp(CLIENT4, SERVER4, flags::ACK);
    let v6 = Packet::tcp(CLIENT6, SERVER6, flags::ACK);
    let chain = |n: usize| (0..n).fold(v6.clone(), |p, _| p.extension(60, &[0; 8]));
    let mut long = vec![0; 256];
    long[1] = 31;
    vec![
        one(
            "one tag",
            &v4.clone().tag(0x8100, 0x2005),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "two tags",
            &v6.clone().tag(0x88a8, 5).tag(0x8100, 6),
            WEB6,
            Reason::LOCAL,
        ),
        one(
            "old outer tag",
            &v4.clone().tag(0x9100, 5).tag(0x8100, 6),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "three tags",
            &v4.clone().tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "IPv4 options",
            &v4.clone().options(&[1; 4]),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "most IPv4 options",
            &v4.options(&[1; 40]),
            WEB4,
            Reason::LOCAL,
        ),
        one(
            "hop-by-hop",
            &v6.clone().extension(0, &[0; 8]),
            WEB6,
            Reason::LOCAL,
        ),
        one(
            "long extension",
            &v6.clone().extension(60, &long),
            WEB6,
            Reason::LOCAL,
        ),
        one(
            "routing and authentication",
            &v6.clone()
                .extension(43, &[0; 8])
                .extension(51, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            WEB6,
            Reason::LOCAL,
        ),
        one("six extensions", &chain(6), WEB6, Reason::LOCAL),
        one("seven extensions", &chain(7), 0, Reason::UNPARSED),
        one(
            "no next header",
            &Packet::raw(CLIENT6, SERVER6, 59, &[0; 8]),
            0,
            Reason::NOT_A_SERVICE,
        ),
    ]
}

fn not_ours() -> Vec<Case> {
    let arp = {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.resize(42, 0);
        frame
    };
    let mut version = Packet::tcp(CLIENT4, SERVER4, flags::SYN).build();
    version[14] = 0x65;
    let mut short = Packet::tcp(CLIENT4, SERVER4, flags::SYN).build();
    short[14] = 0x44;
    vec![
        case("ARP", &host(), vec![(arp, 0, Reason::NOT_A_SERVICE)]),
        case(
            "wrong version",
            &host(),
            vec![(version, 0, Reason::NOT_A_SERVICE)],
        ),
        case(
            "header length 16",
            &host(),
            vec![(short, 0, Reason::UNPARSED)],
        ),
        one(
            "GRE",
            &Packet::raw(CLIENT4, SERVER4, 47, &[0; 40]),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "malformed, no service's",
            &Packet::tcp(CLIENT4, "198.51.100.7:81", 0),
            0,
            Reason::NOT_A_SERVICE,
        ),
        one(
            "ping",
            &Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0),
            0,
            Reason::ICMP,
        ),
        one(
            "ping, IPv6",
            &Packet::icmp("2001:db8::1", "2001:db8:1::2", 128, 0),
            0,
            Reason::ICMP,
        ),
        one(
            "port unreachable",
            &Packet::icmp("192.0.2.1", "198.51.100.7", 3, 3),
            0,
            Reason::ICMP,
        ),
    ]
}

fn malformed() -> Vec<Case> {
    let tcp4 = Packet::tcp(CLIENT4, SERVER4, flags::ACK).payload(&[1; 20]);
    let tcp6 = Packet::tcp(CLIENT6, SERVER6, flags::ACK).payload(&[1; 20]);
    let dns = Packet::udp(CLIENT4, "198.51.100.7:53", 20);
    let changed = |packet: &Packet, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = packet.build();
        change(&mut frame);
        frame
    };
    let total = |len: u16| {
        changed(&tcp4, &|frame| {
            frame[16..18].copy_from_slice(&len.to_be_bytes());
            set_checksum(&mut frame[14..34]);
        })
    };
    let payload = |len: u16| {
        changed(&tcp6, &|frame| {
            frame[18..20].copy_from_slice(&len.to_be_bytes())
        })
    };
    let (ip, transport) = (Reason::BAD_IP_HEADER, Reason::BAD_TRANSPORT_HEADER);
    let mut cases = vec![
        case(
            "IPv4 checksum",
            &host(),
            vec![
                (changed(&tcp4, &|f| f[24] ^= 1), WEB4, ip),
                (
                    changed(&tcp4.clone().options(&[1; 8]), &|f| f[38] ^= 4),
                    WEB4,
                    ip,
                ),
            ],
        ),
        case(
            "IPv4 total length",
            &host(),
            vec![
                (total(0), WEB4, ip),
                (total(19), WEB4, ip),
                (total(20), WEB4, transport),
                (total(39), WEB4, transport),
                (total(40), WEB4, Reason::LOCAL),
                (total(60), WEB4, Reason::LOCAL),
                (total(61), WEB4, ip),
                (total(u16::MAX), WEB4, ip),
            ],
        ),
        case(
            "IPv6 payload length",
            &host(),
            vec![
                (payload(0), WEB6, transport),
                (payload(19), WEB6, transport),
                (payload(20), WEB6, Reason::LOCAL),
                (payload(40), WEB6, Reason::LOCAL),
                (payload(41), WEB6, ip),
            ],
        ),
        case(
            "TCP data offset",
            &host(),
            [
                (0, transport),
                (4, transport),
                (5, Reason::LOCAL),
                (10, Reason::LOCAL),
                (11, transport),
            ]
            .map(|(words, reason)| (tcp4.clone().data_offset(words).build(), WEB4, reason))
            .to_vec(),
        ),
        case(
            "UDP length",
            &host(),
            [
                (0, transport),
                (7, transport),
                (8, Reason::LOCAL),
                (28, Reason::LOCAL),
                (29, transport),
            ]
            .map(|(len, reason)| (dns.clone().udp_len(len).build(), DNS, reason))
            .to_vec(),
        ),
        one(
            "TCP from port 0",
            &Packet::tcp("192.0.2.1:0", SERVER4, flags::SYN),
            WEB4,
            Reason::BAD_PORT,
        ),
        case("every combination of TCP flags", &host(), every_flags()),
    ];
    for source in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.5",
        "255.255.255.255",
        "198.51.100.7",
    ] {
        let packet = Packet::tcp(&format!("{source}:999"), SERVER4, flags::SYN);
        cases.push(one(
            &format!("source {source}"),
            &packet,
            WEB4,
            Reason::BAD_SOURCE,
        ));
    }
    for source in ["::", "::1", "ff02::1", "::ffff:192.0.2.1", "2001:db8:1::2"] {
        let packet = Packet::tcp(&format!("[{source}]:999"), SERVER6, flags::SYN);
        cases.push(one(
            &format!("source {source}"),
            &packet,
            WEB6,
            Reason::BAD_SOURCE,
        ));
    }
    cases
}

/// All 64 combinations of FIN, SYN, RST, PSH, ACK and URG, and what stacks send of them.
fn every_flags() -> Vec<(Vec<u8>, u16, Reason)> {
    (0..64)
        .map(|flags| {
            let has = |bit| flags & bit != 0;
            let is_sent = match [flags::SYN, flags::RST, flags::FIN].map(has) {
                [false, false, _] => has(flags::ACK),
                [true, false, false] | [false, true, false] => true,
                _ => false,
            };
            let reason = if is_sent {
                Reason::LOCAL
            } else {
                Reason::BAD_TCP_FLAGS
            };
            (Packet::tcp(CLIENT4, SERVER4, flags).build(), WEB4, reason)
        })
        .collect()
}

fn fragments() -> Vec<Case> {
    let dns = Packet::udp(CLIENT4, "198.51.100.7:53", 64);
    let dns6 = Packet::udp(CLIENT6, "[2001:db8::9]:53", 64);
    let tcp = Packet::tcp(CLIENT4, SERVER4, flags::ACK);
    let mut tiny = tcp.clone().fragment(0, true).build();
    tiny.truncate(34 + 8);
    tiny[16..18].copy_from_slice(&28u16.to_be_bytes());
    set_checksum(&mut tiny[14..34]);
    vec![
        one(
            "first fragment",
            &dns.clone().udp_len(3000).fragment(0, true),
            DNS,
            Reason::LOCAL,
        ),
        one(
            "later fragment",
            &dns.clone().fragment(9, true),
            0,
            Reason::FRAGMENT,
        ),
        one(
            "last fragment",
            &dns.fragment(9, false),
            0,
            Reason::FRAGMENT,
        ),
        one(
            "first fragment, IPv6",
            &dns6.clone().udp_len(3000).fragment(0, true),
            DNS_ANY,
            Reason::LOCAL,
        ),
        one(
            "later fragment, IPv6",
            &dns6.clone().fragment(9, false),
            0,
            Reason::FRAGMENT,
        ),
        one(
            "atomic fragment, IPv6",
            &dns6.fragment(0, false),
            DNS_ANY,
            Reason::LOCAL,
        ),
        case(
            "first fragment that ends before the flags",
            &host(),
            vec![(tiny, WEB4, Reason::BAD_TRANSPORT_HEADER)],
        ),
        case(
            "denied fragment",
            &host().deny("192.0.2.1/32"),
            vec![(tcp.fragment(9, false).build(), 0, Reason::DENIED)],
        ),
    ]
}

fn lists() -> Vec<Case> {
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

fn limits() -> Vec<Case> {
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

/// Whole frames of every shape, to be cut and changed.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        Packet::tcp(CLIENT4, SERVER4, flags::SYN)
            .options(&[1; 8])
            .payload(&[3; 12])
            .build(),
        Packet::tcp(CLIENT6, SERVER6, flags::ACK)
            .tag(0x88a8, 5)
            .tag(0x8100, 6)
            .extension(0, &[0; 8])
            .extension(60, &[0; 8])
            .build(),
        Packet::udp(CLIENT4, "198.51.100.7:53", 10)
            .tag(0x8100, 6)
            .build(),
        Packet::udp(CLIENT6, "[2001:db8::9]:53", 10)
            .fragment(0, true)
            .build(),
        Packet::icmp("2001:db8::1", "2001:db8:1::2", 135, 0).build(),
        Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0)
            .payload(&[1; 20])
            .build(),
        Packet::tcp(CLIENT4, "203.0.113.9:443", flags::ACK)
            .fragment(7, true)
            .build(),
    ]
}
