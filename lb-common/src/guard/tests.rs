//! What is malformed, and how limits count.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Model, Setup, limit as long_limit, service},
    packet::{Packet, flags, set_checksum},
    parse::{Reach, parse},
    settings,
};

const A4: &str = "192.0.2.1:1234";
const B4: &str = "198.51.100.7:80";
const A6: &str = "[2001:db8::1]:1234";
const B6: &str = "[2001:db8:1::2]:80";

fn judged(frame: &[u8]) -> Option<Reason> {
    let headers = parse(frame);
    assert_eq!(
        headers.reach,
        Reach::Ports,
        "the guard is asked about services' packets only"
    );
    malformed(frame, &headers)
}

#[test]
fn well_formed_packets_pass() {
    for packet in [
        Packet::tcp(A4, B4, flags::SYN),
        Packet::tcp(A4, B4, flags::ACK)
            .options(&[1; 40])
            .tag(0x8100, 1),
        Packet::tcp(A4, B4, flags::ACK)
            .fragment(0, true)
            .payload(&[0; 16]),
        Packet::tcp(A6, B6, flags::RST).extension(60, &[0; 8]),
        Packet::udp(A4, B4, 0),
        Packet::udp(A6, B6, 100),
        // The datagram's length in its first fragment is the whole datagram's.
        Packet::udp(A4, B4, 64).udp_len(3000).fragment(0, true),
        Packet::udp("192.0.2.1:0", B4, 1),
    ] {
        assert_eq!(judged(&packet.build()), None, "{packet:?}");
    }
}

#[test]
fn ethernet_padding_is_not_malformed() {
    let mut frame = Packet::tcp(A4, B4, flags::SYN).build();
    frame.resize(60, 0);
    assert_eq!(judged(&frame), None);
}

#[test]
fn every_wrong_bit_of_an_ipv4_header_is_noticed() {
    let packet = Packet::udp(A4, B4, 4).options(&[1, 1, 1, 1]);
    let frame = packet.build();
    for bit in (0..24 * 8).step_by(if cfg!(miri) { 7 } else { 1 }) {
        let mut spoilt = frame.clone();
        spoilt[14 + bit / 8] ^= 1 << (bit % 8);
        let headers = parse(spoilt.as_slice());
        if headers.reach == Reach::Ports {
            assert!(
                malformed(spoilt.as_slice(), &headers).is_some(),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_bad_headers() {
    let frame = Packet::tcp(A4, B4, flags::ACK).payload(&[0; 10]).build();
    for (total, reason) in [
        (19, Some(Reason::BAD_IP_HEADER)),
        (20, Some(Reason::BAD_TRANSPORT_HEADER)),
        (39, Some(Reason::BAD_TRANSPORT_HEADER)),
        (40, None),
        (50, None),
        (51, Some(Reason::BAD_IP_HEADER)),
    ] {
        let mut frame = frame.clone();
        frame[16..18].copy_from_slice(&u16::to_be_bytes(total));
        set_checksum(&mut frame[14..34]);
        assert_eq!(judged(&frame), reason, "total length {total}");
    }
    let frame = Packet::udp(A6, B6, 10).build();
    for (payload, reason) in [
        (7, Some(Reason::BAD_TRANSPORT_HEADER)),
        (17, Some(Reason::BAD_TRANSPORT_HEADER)),
        (18, None),
        (19, Some(Reason::BAD_IP_HEADER)),
    ] {
        let mut frame = frame.clone();
        frame[18..20].copy_from_slice(&u16::to_be_bytes(payload));
        assert_eq!(judged(&frame), reason, "payload length {payload}");
    }
}

#[test]
fn transport_lengths_that_do_not_fit_are_bad_headers() {
    let bad = Some(Reason::BAD_TRANSPORT_HEADER);
    let tcp = Packet::tcp(A4, B4, flags::ACK).payload(&[0; 8]);
    for (words, reason) in [
        (0, bad),
        (4, bad),
        (5, None),
        (7, None),
        (8, bad),
        (15, bad),
    ] {
        assert_eq!(
            judged(&tcp.clone().data_offset(words).build()),
            reason,
            "{words} words"
        );
    }
    let udp = Packet::udp(A6, B6, 8);
    for (len, reason) in [(0, bad), (7, bad), (8, None), (16, None), (17, bad)] {
        assert_eq!(
            judged(&udp.clone().udp_len(len).build()),
            reason,
            "length {len}"
        );
    }
}

/// RFC 3128: the second fragment could rewrite the flags of a first one that ends before them.
#[test]
fn first_fragment_without_the_whole_tcp_header_is_bad() {
    let mut frame = Packet::tcp(A4, B4, flags::ACK).fragment(0, true).build();
    frame.truncate(34 + 8);
    frame[16..18].copy_from_slice(&28u16.to_be_bytes());
    set_checksum(&mut frame[14..34]);
    assert_eq!(judged(&frame), Some(Reason::BAD_TRANSPORT_HEADER));
}

#[test]
fn flags_that_no_stack_sends_are_bad() {
    for flags in (0..=u8::MAX).step_by(if cfg!(miri) { 9 } else { 1 }) {
        let [fin, syn, rst, ack] =
            [flags::FIN, flags::SYN, flags::RST, flags::ACK].map(|bit| flags & bit != 0);
        let is_sent = match (syn, rst, fin) {
            (false, false, _) => ack,
            (true, false, false) | (false, true, false) => true,
            _ => false,
        };
        let expected = if is_sent {
            None
        } else {
            Some(Reason::BAD_TCP_FLAGS)
        };
        assert_eq!(
            judged(&Packet::tcp(A4, B4, flags).build()),
            expected,
            "flags {flags:#x}"
        );
    }
}

#[test]
fn sources_that_cannot_be_are_bad() {
    for (source, is_bad) in [
        ("0.0.0.0", true),
        ("0.1.2.3", true),
        ("127.0.0.1", true),
        ("224.0.0.1", true),
        ("239.255.255.255", true),
        ("255.255.255.255", true),
        ("198.51.100.7", true),
        ("1.1.1.1", false),
        ("126.0.0.1", false),
        ("223.0.0.1", false),
        ("240.0.0.1", false),
        ("::", true),
        ("::1", true),
        ("ff02::1", true),
        ("::ffff:1.2.3.4", true),
        ("2001:db8:1::2", true),
        ("::2", false),
        ("fe80::1", false),
        ("::fffe:1.2.3.4", false),
    ] {
        let address: std::net::IpAddr = source.parse().expect("an address");
        let from = std::net::SocketAddr::from((address, 999)).to_string();
        let to = if address.is_ipv4() { B4 } else { B6 };
        let expected = if is_bad {
            Some(Reason::BAD_SOURCE)
        } else {
            None
        };
        assert_eq!(
            judged(&Packet::tcp(&from, to, flags::SYN).build()),
            expected,
            "{source}"
        );
    }
}

#[test]
fn tcp_from_port_zero_is_bad() {
    let frame = Packet::tcp("192.0.2.1:0", B4, flags::SYN).build();
    assert_eq!(judged(&frame), Some(Reason::BAD_PORT));
}

fn limited(model: &Model, packet: &Packet) -> Limited {
    let frame = packet.build();
    let headers = parse(frame.as_slice());
    limit(model, &headers, 1)
}

fn web(setup: impl FnOnce(Setup) -> Setup) -> Model {
    Model::new(&setup(Setup::guarded(&[
        service(1, "*", 80, 6),
        service(1, "*", 80, 17),
    ])))
}

#[test]
fn random_sources_over_the_services_limit_enter_no_source() {
    let model = web(|setup| {
        setup
            .limit_service(1, LimitKind::SYN, long_limit(10, action::DROP))
            .limit_source(1, LimitKind::SYN, long_limit(2, action::DROP))
    });
    for n in 0..if cfg!(miri) { 15 } else { 100 } {
        let syn = Packet::tcp(&format!("203.0.113.{n}:5000"), B4, flags::SYN);
        let expected = if n < 10 {
            Limited::WITHIN
        } else {
            Limited::over(Reason::SYN_SERVICE_LIMIT)
        };
        assert_eq!(limited(&model, &syn), expected, "source {n}");
    }
    assert_eq!(model.sources(), 10);
}

#[test]
fn what_a_sources_limit_drops_does_not_use_up_the_services() {
    let model = web(|setup| {
        setup
            .limit_service(1, LimitKind::SYN, long_limit(10, action::DROP))
            .limit_source(1, LimitKind::SYN, long_limit(2, action::DROP))
    });
    let greedy = Packet::tcp(A4, B4, flags::SYN);
    for n in 0..if cfg!(miri) { 15 } else { 100 } {
        let expected = if n < 2 {
            Limited::WITHIN
        } else {
            Limited::over(Reason::SYN_SOURCE_LIMIT)
        };
        assert_eq!(limited(&model, &greedy), expected, "packet {n}");
    }
    let modest = Packet::tcp("192.0.2.99:1", B4, flags::SYN);
    assert_eq!(limited(&model, &modest), Limited::WITHIN);
}

#[test]
fn only_syns_count_as_syns_but_every_packet_as_a_packet() {
    let model = web(|setup| {
        setup
            .limit_source(1, LimitKind::SYN, long_limit(1, action::DROP))
            .limit_source(1, LimitKind::PACKETS, long_limit(5, action::DROP))
    });
    let syn = Packet::tcp(A4, B4, flags::SYN);
    let ack = Packet::tcp(A4, B4, flags::ACK);
    assert_eq!(limited(&model, &syn), Limited::WITHIN);
    assert_eq!(
        limited(&model, &syn),
        Limited::over(Reason::SYN_SOURCE_LIMIT)
    );
    for _ in 0..4 {
        assert_eq!(limited(&model, &ack), Limited::WITHIN);
    }
    assert_eq!(
        limited(&model, &ack),
        Limited::over(Reason::PACKET_SOURCE_LIMIT)
    );
}

#[test]
fn datagrams_have_a_limit_of_their_own() {
    let model = web(|setup| setup.limit_service(1, LimitKind::UDP, long_limit(1, action::DROP)));
    let udp = Packet::udp(A4, B4, 1);
    assert_eq!(limited(&model, &udp), Limited::WITHIN);
    assert_eq!(
        limited(&model, &udp),
        Limited::over(Reason::UDP_SERVICE_LIMIT)
    );
    assert_eq!(
        limited(&model, &Packet::tcp(A4, B4, flags::SYN)),
        Limited::WITHIN
    );
}

#[test]
fn reporting_limit_passes_and_says_so() {
    let model = web(|setup| {
        setup
            .limit_source(1, LimitKind::SYN, long_limit(1, action::REPORT))
            .limit_service(1, LimitKind::PACKETS, long_limit(3, action::DROP))
    });
    let syn = Packet::tcp(A4, B4, flags::SYN);
    assert_eq!(limited(&model, &syn), Limited::WITHIN);
    assert_eq!(limited(&model, &syn), Limited::REPORTED);
    assert_eq!(limited(&model, &syn), Limited::REPORTED);
    assert_eq!(
        limited(&model, &syn),
        Limited::over(Reason::PACKET_SERVICE_LIMIT)
    );
}

#[test]
fn sources_of_one_prefix_share_its_limit() {
    let mut by_24 = long_limit(1, action::DROP);
    by_24.prefix4 = 24;
    let model = web(|setup| setup.limit_source(1, LimitKind::SYN, by_24));
    let from = |a: &str| limited(&model, &Packet::tcp(a, B4, flags::SYN));
    assert_eq!(from("192.0.2.1:1"), Limited::WITHIN);
    assert_eq!(
        from("192.0.2.200:1"),
        Limited::over(Reason::SYN_SOURCE_LIMIT)
    );
    assert_eq!(from("192.0.3.1:1"), Limited::WITHIN);
}

#[test]
fn every_kind_of_limit_has_reasons_of_its_own() {
    for (kind, name) in LimitKind::NAMES.iter().enumerate() {
        let kind = LimitKind(u8::try_from(kind).expect("few kinds"));
        let name = name.trim_end_matches('s');
        assert_eq!(service_reason(kind).name(), format!("{name}_service_limit"));
        assert_eq!(source_reason(kind).name(), format!("{name}_source_limit"));
    }
    assert_eq!(settings::gate::GUARD.count_ones(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 512 }))]

    #[test]
    fn cut_keeps_the_first_bits_and_clears_the_rest(bytes: [u8; 16], bits: u8) {
        let kept = u32::from(bits.min(128));
        let mask = u128::MAX.checked_shl(128 - kept).unwrap_or(0);
        let expected = u128::from_be_bytes(bytes) & mask;
        prop_assert_eq!(u128::from_be_bytes(cut(Address(bytes), bits).0), expected);
    }
}
