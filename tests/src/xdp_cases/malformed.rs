//! Cases of what no stack sends, and of fragments.

use lb_common::verdict::Reason;

use super::{CLIENT4, CLIENT6, Case, DNS, DNS_ANY, SERVER4, SERVER6, WEB4, WEB6, case, host, one};
use crate::packet::{Packet, flags, set_checksum};

pub(super) fn malformed() -> Vec<Case> {
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
            frame[18..20].copy_from_slice(&len.to_be_bytes());
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

pub(super) fn fragments() -> Vec<Case> {
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
