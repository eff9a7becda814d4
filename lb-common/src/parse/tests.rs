//! What the parser finds in frames of every shape, and in noise.

use proptest::prelude::*;

use super::*;
use crate::packet::{Packet, flags};

const A4: &str = "192.0.2.1:1234";
const B4: &str = "198.51.100.7:80";
const A6: &str = "[2001:db8::1]:1234";
const B6: &str = "[2001:db8:1::2]:80";
/// An extension header of 8 bytes, or, with a length byte, more.
const SHORT: [u8; 8] = [0; 8];
const LONG: [u8; 24] = {
    let mut bytes = [0; 24];
    bytes[1] = 2;
    bytes
};

fn parsed(packet: &Packet) -> Headers {
    parse(packet.build().as_slice())
}

#[test]
fn tcp_over_ipv4_is_located() {
    let h = parsed(&Packet::tcp(A4, B4, flags::SYN).payload(b"hello"));
    assert_eq!((h.reach, h.version, h.proto), (Reach::Ports, 4, proto::TCP));
    assert_eq!((h.l3, h.l4, h.end, h.transport_len), (14, 34, 59, 20));
    assert_eq!(h.source, Address::from_v4([192, 0, 2, 1]));
    assert_eq!(h.destination, Address::from_v4([198, 51, 100, 7]));
    assert_eq!(
        (h.source_port.to_u16(), h.destination_port.to_u16()),
        (1234, 80)
    );
    assert!(h.is_syn() && !h.is_fragment);
}

#[test]
fn syn_ack_is_not_a_syn() {
    assert!(!parsed(&Packet::tcp(A4, B4, flags::SYN | flags::ACK)).is_syn());
}

#[test]
fn ipv4_options_move_the_transport_header() {
    let h = parsed(&Packet::udp(A4, B4, 3).options(&[1; 40]));
    assert_eq!((h.reach, h.l4, h.transport_len), (Reach::Ports, 74, 11));
    assert_eq!(h.destination_port.to_u16(), 80);
}

#[test]
fn two_vlan_tags_are_looked_behind_and_a_third_is_not() {
    let tagged = |n: usize| {
        (0..n).fold(Packet::tcp(A6, B6, flags::ACK), |p, i| {
            p.tag([0x88a8, 0x8100, 0x9100][i], 5)
        })
    };
    assert_eq!(parsed(&tagged(1)).l3, 18);
    assert_eq!(
        (parsed(&tagged(2)).l3, parsed(&tagged(2)).reach),
        (22, Reach::Ports)
    );
    assert_eq!(parsed(&tagged(3)).reach, Reach::NotIp);
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let h = parsed(
        &Packet::tcp(A6, B6, flags::ACK)
            .extension(0, &SHORT)
            .extension(43, &LONG)
            // Authentication: 4 words, less 2.
            .extension(51, &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .extension(60, &SHORT),
    );
    assert_eq!(
        (h.reach, h.l4, h.proto),
        (Reach::Ports, 54 + 8 + 24 + 16 + 8, proto::TCP)
    );
}

#[test]
fn chain_of_six_extensions_is_followed_and_of_seven_is_not() {
    let chain = |n| (0..n).fold(Packet::udp(A6, B6, 0), |p, _| p.extension(60, &SHORT));
    assert_eq!(parsed(&chain(6)).reach, Reach::Ports);
    assert_eq!(parsed(&chain(7)).reach, Reach::Addresses);
}

#[test]
fn later_fragment_has_no_ports() {
    for packet in [Packet::udp(A4, B4, 64), Packet::udp(A6, B6, 64)] {
        let h = parsed(&packet.clone().fragment(3, true));
        assert_eq!((h.reach, h.is_fragment), (Reach::LaterFragment, true));
        assert_eq!(h.destination_port, Be16::default());
        assert_ne!(h.destination, Address::ANY);
        let h = parsed(&packet.fragment(0, true));
        assert_eq!((h.reach, h.is_fragment), (Reach::Ports, true));
    }
}

#[test]
fn atomic_fragment_is_a_whole_datagram() {
    let h = parsed(&Packet::tcp(A6, B6, flags::ACK).fragment(0, false));
    assert_eq!((h.reach, h.is_fragment, h.l4), (Reach::Ports, false, 62));
}

#[test]
fn jumbogram_ends_with_the_frame() {
    let mut frame = Packet::tcp(A6, B6, flags::ACK).extension(0, &SHORT).build();
    frame[18..20].fill(0);
    assert_eq!(parse(frame.as_slice()).end, frame.len());
}

#[test]
fn icmp_of_the_other_family_is_not_icmp() {
    let h = parsed(&Packet::raw(
        A4,
        B4,
        proto::ICMPV6,
        &[135, 0, 0, 0, 0, 0, 0, 0],
    ));
    assert!(h.reach == Reach::Addresses || h.reach == Reach::OtherProtocol);
    assert!(!h.is_vital());
}

#[test]
fn vital_are_neighbour_discovery_and_path_mtu_and_nothing_else() {
    // Under Miri, those around the bounds.
    for kind in (0..=u8::MAX).filter(|kind| !cfg!(miri) || matches!(kind, 1..=4 | 132..=138)) {
        let v6 = parsed(&Packet::icmp("2001:db8::1", "2001:db8::2", kind, 0)).is_vital();
        assert_eq!(
            v6,
            kind == 2 || (133..=137).contains(&kind),
            "ICMPv6 {kind}"
        );
        for code in [0, 3, 4, 5] {
            let v4 = parsed(&Packet::icmp("192.0.2.1", "192.0.2.2", kind, code)).is_vital();
            assert_eq!(v4, kind == 3 && code == 4, "ICMP {kind}/{code}");
        }
    }
}

#[test]
fn header_length_below_twenty_hides_the_ports() {
    let mut frame = Packet::tcp(A4, B4, flags::SYN).build();
    frame[14] = 0x44;
    assert_eq!(parse(frame.as_slice()).reach, Reach::Addresses);
}

#[test]
fn transport_header_cut_short_behind_the_ports_still_gives_them() {
    for packet in [Packet::tcp(A4, B4, flags::SYN), Packet::udp(A6, B6, 0)] {
        let frame = packet.build();
        let cut = parse(&frame[..packet.offsets().l4 + 4]);
        assert_eq!((cut.reach, cut.transport_len), (Reach::Ports, 0));
        assert_eq!(cut.destination_port.to_u16(), 80);
        assert_eq!(
            parse(&frame[..packet.offsets().l4 + 3]).reach,
            Reach::Addresses
        );
    }
}

#[test]
fn no_truncation_reads_beyond_the_frame() {
    let frame = Packet::tcp(A6, B6, flags::ACK)
        .tag(0x8100, 1)
        .extension(60, &LONG)
        .build();
    let whole = parse(frame.as_slice());
    for len in 0..frame.len() {
        let h = parse(&frame[..len]);
        if h.reach == Reach::Ports {
            assert!(len >= whole.l4 + 4);
            assert_eq!(h.destination_port, whole.destination_port);
        }
        if h.version != 0 {
            assert_eq!((h.source, h.destination), (whole.source, whole.destination));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 512 }))]

    #[test]
    fn what_was_built_is_what_is_parsed(
        from in any::<([u8; 4], u16)>(),
        to in any::<([u8; 4], u16)>(),
        options in 0usize..=10,
        tags in 0usize..=2,
        is_tcp: bool,
        flags: u8,
        data in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let text = |(a, p): ([u8; 4], u16)| format!("{}:{p}", std::net::Ipv4Addr::from(a));
        let (from_text, to_text) = (text(from), text(to));
        let packet = if is_tcp {
            Packet::tcp(&from_text, &to_text, flags).payload(&data)
        } else {
            Packet::udp(&from_text, &to_text, data.len())
        };
        let packet = (0..tags).fold(packet, |p, _| p.tag(0x8100, 9)).options(&vec![1; options * 4]);
        let frame = packet.build();
        let h = parse(frame.as_slice());
        prop_assert_eq!(h.reach, Reach::Ports);
        prop_assert_eq!(h.source.as_v4(), Some(from.0));
        prop_assert_eq!(h.destination.as_v4(), Some(to.0));
        prop_assert_eq!((h.source_port.to_u16(), h.destination_port.to_u16()), (from.1, to.1));
        prop_assert_eq!((h.l3, h.l4), (packet.offsets().l3, packet.offsets().l4));
        prop_assert_eq!(h.end, frame.len());
        if is_tcp {
            prop_assert_eq!(h.tcp_flags, flags);
        }
    }

    #[test]
    fn noise_is_parsed_to_something_consistent(
        frame in proptest::collection::vec(any::<u8>(), 0..200),
        ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100), any::<u16>()],
    ) {
        let mut frame = frame;
        if frame.len() >= 14 {
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        }
        let h = parse(frame.as_slice());
        prop_assert_eq!(h.version == 0, h.reach == Reach::NotIp);
        if matches!(h.reach, Reach::Ports | Reach::Icmp) {
            prop_assert!(h.l4 + 4 <= frame.len() && h.l4 >= h.l3 + 20);
        }
    }
}
