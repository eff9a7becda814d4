//! The cases that lb-common on the host and the loaded program must judge alike: one table, one
//! expectation. `tests/xdp_table.rs` runs it.

pub mod answers;
mod limits;
mod malformed;
pub mod nat;
pub mod rest;
pub mod steering;

use lb_common::verdict::Reason;

use crate::{
    model::{Setup, service},
    packet::{Packet, flags},
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
    cases.extend(malformed::malformed());
    cases.extend(malformed::fragments());
    cases.extend(limits::lists());
    cases.extend(limits::limits());
    cases.extend(limits::flows());
    cases.extend(steering::cases());
    cases.extend(answers::cases());
    cases.extend(nat::cases());
    cases.extend(rest::cases());
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
