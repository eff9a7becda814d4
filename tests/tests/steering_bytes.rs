//! What steered, answered and translated packets look like, byte by byte, on the host. That the
//! loaded program makes the same bytes is `xdp_table`'s business.

use lab::{
    model::{Model, Setup},
    packet::{Packet, flags, set_checksum},
    xdp_cases::{
        CLIENT4, CLIENT6,
        nat::translator,
        steering::{VIP4, VIP6, balancer, balancer_of, by},
    },
};
use lb_common::{
    forward::{Forward, mode, on_empty},
    verdict::Reason,
};

const L3: usize = 14;

/// The Internet checksum over `bytes` with `sum` before them: 0 where the right one is among them.
fn left_over(mut sum: u32, bytes: &[u8]) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded")
}

/// Where the transport begins, its protocol, and its pseudo header's sum.
fn transport(packet: &[u8]) -> (usize, u8, u32) {
    let (at, proto, addresses) = if packet[0] >> 4 == 4 {
        (usize::from(packet[0] & 15) * 4, packet[9], 12..20)
    } else {
        (40, packet[6], 8..40)
    };
    let mut sum = u32::from(proto);
    sum += u32::try_from(packet.len() - at).expect("short");
    for pair in packet[addresses].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    (at, proto, sum)
}

/// Whether a packet's checksums are right, those of IP and of what is inside.
fn is_right(packet: &[u8]) -> bool {
    let (at, proto, pseudo) = transport(packet);
    let pseudo = if proto == 1 { 0 } else { pseudo };
    (packet[0] >> 4 == 6 || left_over(0, &packet[..at]) == 0)
        && left_over(pseudo, &packet[at..]) == 0
}

/// Fills in the transport's checksum.
fn complete(frame: &mut [u8]) {
    let (at, proto, pseudo) = transport(&frame[L3..]);
    let field = L3 + at + if proto == 17 { 6 } else { 16 };
    frame[field..field + 2].fill(0);
    let check = left_over(pseudo, &frame[L3 + at..]);
    frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
}

fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    if frame[L3] >> 4 == 4 {
        frame[L3 + 1] = tos;
        set_checksum(&mut frame[L3..L3 + 20]);
    } else {
        frame[L3] = 0x60 | tos >> 4;
        frame[L3 + 1] = tos << 4;
    }
    frame
}

/// The inner packet as it leaves: one less to live.
fn lived(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame[L3..].to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        set_checksum(&mut packet[..20]);
    } else {
        packet[7] -= 1;
    }
    packet
}

fn sent(setup: &Setup, frame: &[u8]) -> Vec<u8> {
    let (outcome, out) = Model::new(setup).travel(frame);
    assert_eq!(outcome.verdict.reason, Reason::STEERED_NEW);
    out
}

#[test]
fn outer_ipv4_header_is_rfc_2003s() {
    let setup = balancer_of(&by(mode::IPIP), &["10.0.0.11"]);
    let v4 = with_tos(Packet::tcp(CLIENT4, VIP4, flags::SYN).build(), 0xb9);
    let v6 = with_tos(Packet::tcp(CLIENT6, VIP6, flags::SYN).build(), 0xb9);
    for (frame, proto, len) in [(v4, 4, 60), (v6, 41, 80)] {
        let out = sent(&setup, &frame);
        let mut header = vec![
            0x45, 0xb9, 0, len, 0, 0, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 11,
        ];
        set_checksum(&mut header);
        assert_eq!(out[..6], [2, 0, 0, 1, 0, 1], "to the member");
        assert_eq!(out[6..14], [2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(out[L3..L3 + 20], header);
        assert_eq!(out[L3 + 20..], lived(&frame));
    }
}

#[test]
fn outer_ipv6_header_is_rfc_2473s() {
    let setup = balancer_of(&by(mode::IPIP), &["fd00::11"]);
    let v4 = with_tos(Packet::tcp(CLIENT4, VIP4, flags::SYN).build(), 0x03);
    let v6 = with_tos(Packet::tcp(CLIENT6, VIP6, flags::SYN).build(), 0x03);
    for (frame, proto, len) in [(v4, 4, 40), (v6, 41, 60)] {
        let out = sent(&setup, &frame);
        assert_eq!(out[12..14], [0x86, 0xdd]);
        // Version, traffic class 0x03, a flow label of the flow's.
        assert_eq!((out[L3], out[L3 + 1] >> 4), (0x60, 3));
        assert_eq!(out[L3 + 4..L3 + 8], [0, len, proto, 64]);
        assert_eq!(out[L3 + 8..L3 + 10], [0xfd, 0]);
        assert_eq!(out[L3 + 23], 1);
        assert_eq!(out[L3 + 39], 0x11);
        assert_eq!(out[L3 + 40..], lived(&frame));
    }
}

#[test]
fn dscp_is_the_services_and_congestion_the_packets() {
    let forward = Forward {
        dscp: 10,
        ..by(mode::IPIP)
    };
    let setup = balancer_of(&forward, &["10.0.0.11"]);
    let frame = with_tos(Packet::tcp(CLIENT4, VIP4, flags::SYN).build(), 0xb9);
    assert_eq!(sent(&setup, &frame)[L3 + 1], 10 << 2 | 1);
}

#[test]
fn gue_header_has_a_port_of_the_flow_and_the_whole_length() {
    let setup = balancer_of(&by(mode::GUE), &["10.0.0.11"]);
    let mut ports = std::collections::BTreeSet::new();
    for port in 1000..1064 {
        let frame = Packet::tcp(&format!("192.0.2.1:{port}"), VIP4, flags::SYN).build();
        let out = sent(&setup, &frame);
        assert_eq!((out[L3 + 9], out[L3 + 3]), (17, 68));
        let udp = &out[L3 + 20..L3 + 28];
        assert_eq!(udp[2..], [0x17, 0xc0, 0, 48, 0, 0]);
        assert!(udp[0] >= 0xc0, "from the dynamic range");
        ports.insert([udp[0], udp[1]]);
        assert_eq!(out[L3 + 28..], lived(&frame));
    }
    assert!(ports.len() > 48, "{} ports of 64 flows", ports.len());
}

#[test]
fn dsr_changes_the_link_header_and_the_time_to_live_alone() {
    let setup = balancer(mode::DSR);
    let frame = Packet::tcp(CLIENT4, VIP4, flags::SYN).build();
    let out = sent(&setup, &frame);
    assert_eq!(out[L3..], lived(&frame));
    assert_eq!(out[12..14], frame[12..14]);
}

#[test]
fn too_big_tells_what_fits_and_quotes_the_packet() {
    for (members, room) in [(["10.0.0.11"], 1480u16), (["fd00::11"], 1460)] {
        let setup = balancer_of(&by(mode::IPIP), &members);
        for (client, vip, header, expected) in [
            (CLIENT4, VIP4, 20, vec![3, 4]),
            (CLIENT6, VIP6, 40, vec![2, 0]),
        ] {
            let frame = Packet::tcp(client, vip, flags::ACK)
                .payload(&[0xab; 1441])
                .build();
            let (outcome, out) = Model::new(&setup).travel(&frame);
            assert_eq!(outcome.verdict.reason, Reason::TOO_BIG_ANSWERED);
            assert_eq!((&out[..6], &out[6..12]), (&frame[6..12], &frame[..6]));
            let packet = &out[L3..];
            assert!(is_right(packet), "checksums");
            assert_eq!(packet[header..header + 2], expected);
            let mtu = u16::from_be_bytes([packet[header + 6], packet[header + 7]]);
            assert_eq!(mtu, room);
            assert_eq!(packet[header + 8..], frame[L3..L3 + 512]);
            let (from, to) = if header == 20 {
                (&packet[12..16], &packet[16..20])
            } else {
                (&packet[8..24], &packet[24..40])
            };
            let (theirs, ours) = if header == 20 {
                (&frame[26..30], &frame[30..34])
            } else {
                (&frame[22..38], &frame[38..54])
            };
            assert_eq!((from, to), (ours, theirs));
        }
    }
}

fn refusing() -> Setup {
    let mut setup = balancer(mode::IPIP);
    setup.steering.rings = vec![(1, Vec::new()), (2, Vec::new())];
    for (_, forward) in &mut setup.steering.forward {
        forward.on_empty = on_empty::RESET;
    }
    setup
}

#[test]
fn reset_answers_what_it_refuses() {
    let setup = refusing();
    for (client, vip, header) in [(CLIENT4, VIP4, 20), (CLIENT6, VIP6, 40)] {
        let mut syn = Packet::tcp(client, vip, flags::SYN).build();
        syn[L3 + header + 4..L3 + header + 8].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        let (outcome, out) = Model::new(&setup).travel(&syn);
        assert_eq!(outcome.verdict.reason, Reason::REFUSED);
        let packet = &out[L3..];
        assert!(is_right(packet), "checksums");
        let tcp = &packet[header..];
        assert_eq!(tcp.len(), 20);
        assert_eq!(tcp[..2], syn[L3 + header + 2..L3 + header + 4]);
        // Sequence 0, acknowledging the SYN: 0xffffffff + 1.
        assert_eq!(tcp[4..12], [0; 8]);
        assert_eq!(tcp[13], flags::RST | flags::ACK);

        let mut data = Packet::tcp(client, vip, flags::ACK)
            .payload(&[1; 10])
            .build();
        data[L3 + header + 8..L3 + header + 12].copy_from_slice(&[1, 2, 3, 4]);
        let (_, out) = Model::new(&setup).travel(&data);
        let tcp = &out[L3 + header..];
        assert_eq!((&tcp[4..8], tcp[13]), (&[1, 2, 3, 4][..], flags::RST));
        assert!(is_right(&out[L3..]));
    }
}

#[test]
fn refused_datagram_is_quoted_whole_if_it_is_short() {
    let frame = Packet::udp(CLIENT4, "203.0.113.80:5000", 12).build();
    let (outcome, out) = Model::new(&refusing()).travel(&frame);
    assert_eq!(outcome.verdict.reason, Reason::REFUSED);
    assert!(is_right(&out[L3..]));
    assert_eq!(out[L3 + 20..L3 + 22], [3, 3]);
    assert_eq!(out[L3 + 28..], frame[L3..]);
}

#[test]
fn echo_comes_back_as_it_was_with_its_checksum_right() {
    let setup = balancer(mode::IPIP);
    let mut request = Packet::icmp("192.0.2.9", "203.0.113.80", 8, 0)
        .payload(&[7; 33])
        .build();
    let check = left_over(0, &request[L3 + 20..]);
    request[L3 + 22..L3 + 24].copy_from_slice(&check.to_be_bytes());
    let (outcome, out) = Model::new(&setup).travel(&request);
    assert_eq!(outcome.verdict.reason, Reason::ECHO_ANSWERED);
    assert!(is_right(&out[L3..]));
    assert_eq!(out[L3 + 20], 0);
    assert_eq!(out[L3 + 24..], request[L3 + 24..]);
    assert_eq!(out[L3 + 12..L3 + 20], [203, 0, 113, 80, 192, 0, 2, 9]);
}

/// There and back: the client sees the service answer from the address that it called.
#[test]
fn translated_packets_keep_right_checksums_both_ways() {
    for (client, vip, member, header) in [
        (CLIENT4, VIP4, "10.0.0.11", 20),
        (CLIENT6, VIP6, "fd00::11", 40),
        (CLIENT4, "203.0.113.80:5000", "10.0.0.11", 20),
    ] {
        let model = Model::new(&translator(&[member], 100));
        let is_udp = vip.ends_with("5000");
        let of = |from: &str, to: &str, tcp_flags: u8| {
            let packet = if is_udp {
                Packet::udp(from, to, 31)
            } else {
                Packet::tcp(from, to, tcp_flags).payload(&[9; 31])
            };
            let mut frame = packet.build();
            complete(&mut frame);
            frame
        };
        let request = of(client, vip, flags::SYN);
        let (outcome, out) = model.travel(&request);
        assert_eq!(outcome.verdict.reason, Reason::STEERED_NEW);
        let packet = &out[L3..];
        assert!(is_right(packet), "there");
        let port = u16::from_be_bytes([packet[header], packet[header + 1]]);
        assert!((20_000..20_100).contains(&port), "{port}");
        assert_eq!(packet[header + 2..header + 4], 80u16.to_be_bytes());

        let (ours, theirs) = if header == 20 {
            (format!("10.0.0.1:{port}"), format!("{member}:80"))
        } else {
            (format!("[fd00::1]:{port}"), format!("[{member}]:80"))
        };
        let (outcome, back) = model.travel(&of(&theirs, &ours, flags::SYN | flags::ACK));
        assert_eq!(outcome.verdict.reason, Reason::RETURNED);
        assert!(is_right(&back[L3..]), "back");
        let mut expected = of(vip, client, flags::SYN | flags::ACK);
        // To where the client's frames came from, one less to live.
        expected[..6].copy_from_slice(&request[6..12]);
        expected[6..12].copy_from_slice(&request[..6]);
        expected.splice(L3.., lived(&expected));
        assert_eq!(back, expected);
    }
}

#[test]
fn datagram_without_a_checksum_stays_without() {
    let model = Model::new(&translator(&["10.0.0.11"], 100));
    let frame = Packet::udp(CLIENT4, "203.0.113.80:5000", 31).build();
    let (_, out) = model.travel(&frame);
    assert_eq!(out[L3 + 26..L3 + 28], [0, 0]);
}

#[test]
fn fragments_are_translated_to_the_same_ends() {
    for (client, vip, member, header) in [
        (CLIENT4, "203.0.113.80:5000", "10.0.0.11", 20),
        (CLIENT6, VIP6, "fd00::11", 48),
    ] {
        let model = Model::new(&translator(&[member], 100));
        let first = if header == 20 {
            Packet::udp(client, vip, 64).fragment(0, true)
        } else {
            Packet::tcp(client, vip, flags::SYN)
                .payload(&[1; 60])
                .fragment(0, true)
        };
        let proto = if header == 20 { 17 } else { 6 };
        let later = Packet::raw(client, vip, proto, &[9; 40])
            .fragment(9, false)
            .build();
        let (_, one) = model.travel(&first.build());
        let (outcome, two) = model.travel(&later);
        assert_eq!(outcome.verdict.reason, Reason::STEERED_FRAGMENT);
        let ends = if header == 20 { 12..20 } else { 8..40 };
        assert_eq!(one[L3..][ends.clone()], two[L3..][ends]);
        assert_eq!(two[..12], one[..12]);
        assert_eq!(two[L3 + header..], later[L3 + header..]);
        if header == 20 {
            assert_eq!(left_over(0, &two[L3..L3 + 20]), 0);
        }
    }
}
