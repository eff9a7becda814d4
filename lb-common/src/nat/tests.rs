//! ICMP errors about connections with rewritten addresses: who gets them sees packets of its own.
//!
//! Whole tables on each case: under Miri they take minutes, and there is no unsafe code in them.

#![cfg(not(miri))]

use crate::{
    addr::Be16,
    forward::{Forward, mode},
    model::{Model, Setup, forwarded, member, service, vip},
    packet::{Packet, flags, set_checksum},
    service::{ServiceWay, kind},
    verdict::Reason,
};

struct Family {
    client: &'static str,
    vip: &'static str,
    router: &'static str,
    ours: &'static str,
    member: &'static str,
    /// Unreachable and too big: type and code.
    errors: [(u8, u8); 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "192.0.2.1:40000",
        vip: "203.0.113.80:80",
        router: "192.0.2.254",
        ours: "10.0.0.1",
        member: "10.0.0.11",
        errors: [(3, 3), (3, 4)],
    },
    Family {
        client: "[2001:db8::1]:40000",
        vip: "[2001:db8:80::1]:80",
        router: "2001:db8::fe",
        ours: "fd00::1",
        member: "fd00::11",
        errors: [(1, 4), (2, 0)],
    },
];

fn setup(family: &Family) -> Setup {
    let host = |of: &str| {
        of.rsplit_once(':').map_or_else(String::new, |(host, _)| {
            host.trim_matches(['[', ']']).to_owned()
        })
    };
    let forward = Forward {
        balancer: 1,
        mode: mode::NAT,
        source4: [10, 0, 0, 1],
        source6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        nat_first: 20_000,
        nat_ports: 1000,
        ..Forward::default()
    };
    let mut setup = Setup::guarded(&[
        forwarded(1, &host(family.vip), 80, 6, 1),
        vip(1, &host(family.vip), 0),
        ServiceWay {
            kind: kind::NAT,
            port: Be16::new(0),
            range: [20_000, 20_999],
            ..service(2, family.ours, 0, 6)
        },
    ]);
    let (head, hop) = member(1, family.member, 8080);
    setup.steering.forward = vec![(1, forward)];
    setup.steering.rings = vec![(1, vec![1])];
    setup.steering.members.push(head);
    setup.steering.hops.push(hop);
    setup
}

/// Lengths of the link and the IP header.
fn at(frame: &[u8]) -> (usize, usize) {
    (14, if frame[12] == 8 { 34 } else { 54 })
}

/// Addresses and ports of an IP packet with a transport header.
fn ends(packet: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (from, to, l4) = if packet[0] >> 4 == 4 {
        (12..16, 16..20, 20)
    } else {
        (8..24, 24..40, 40)
    };
    (
        packet[from].to_vec(),
        packet[to].to_vec(),
        packet[l4..l4 + 4].to_vec(),
    )
}

/// The sum over an ICMP message with its pseudo header, 0xffff where its checksum is right.
fn sum(frame: &[u8]) -> u16 {
    let (l3, l4) = at(frame);
    let mut bytes = Vec::new();
    if frame[12] != 8 {
        bytes.extend(&frame[l3 + 8..l3 + 40]);
        let len = u32::try_from(frame.len() - l4).expect("a frame is short");
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0, 0, 58]);
    }
    bytes.extend(&frame[l4..]);
    let mut sum: u32 = (bytes.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("folded")
}

/// An error of `from` about a frame that went the other way, with a right checksum.
fn error(from: &str, to: &str, kind: (u8, u8), about: &[u8], quoted: usize) -> Vec<u8> {
    let (l3, l4) = at(about);
    let quote = &about[l3..l4 + quoted];
    let mut frame = Packet::icmp(from, to, kind.0, kind.1)
        .payload(quote)
        .build();
    let l4 = at(&frame).1;
    let right = !sum(&frame);
    frame[l4 + 2..l4 + 4].copy_from_slice(&right.to_be_bytes());
    assert_eq!(sum(&frame), 0xffff);
    frame
}

fn host(of: &str) -> &str {
    of.rsplit_once(':')
        .map_or(of, |(host, _)| host)
        .trim_matches(['[', ']'])
}

#[test]
fn errors_come_to_who_sent_what_they_quote() {
    for family in &FAMILIES {
        let model = Model::new(&setup(family));
        let syn = Packet::tcp(family.client, family.vip, flags::SYN).build();
        let (outcome, to_member) = model.travel(&syn);
        assert_eq!(outcome.verdict.reason, Reason::STEERED_NEW);
        let (l3, l4) = at(&to_member);
        let port = u16::from_be_bytes([to_member[l4], to_member[l4 + 1]]);
        let bracket = |host: &str| {
            if host.contains(':') {
                format!("[{host}]")
            } else {
                host.to_owned()
            }
        };
        let back = Packet::tcp(
            &format!("{}:8080", bracket(family.member)),
            &format!("{}:{port}", bracket(family.ours)),
            flags::SYN | flags::ACK,
        )
        .build();
        let (outcome, to_client) = model.travel(&back);
        assert_eq!(outcome.verdict.reason, Reason::RETURNED);

        for kind in family.errors {
            for quoted in [8, 20] {
                // About what the client was sent: to the member.
                let frame = error(family.router, host(family.vip), kind, &to_client, quoted);
                let (outcome, out) = model.travel(&frame);
                assert_eq!(outcome.verdict.reason, Reason::STEERED_ICMP, "{kind:?}");
                assert_eq!((outcome.verdict.service, outcome.verdict.member), (1, 1));
                assert_eq!(sum(&out), 0xffff, "{kind:?} {quoted}");
                assert_eq!(ends(&out[l4 + 8..]), ends(&back[l3..]), "{kind:?}");
                let (from, to, _) = ends(&out[l3..]);
                let (ours, its, _) = ends(&to_member[l3..]);
                assert_eq!((from, to), (ours, its));
                check_headers(&out);

                // About what the member was sent: to the client.
                let frame = error(family.member, family.ours, kind, &to_member, quoted);
                let (outcome, out) = model.travel(&frame);
                assert_eq!(outcome.verdict.reason, Reason::RETURNED, "{kind:?}");
                assert_eq!((outcome.verdict.service, outcome.verdict.member), (1, 1));
                assert_eq!(sum(&out), 0xffff, "{kind:?} {quoted}");
                assert_eq!(ends(&out[l4 + 8..]), ends(&syn[l3..]), "{kind:?}");
                let (from, to, _) = ends(&out[l3..]);
                let (vip, client, _) = ends(&to_client[l3..]);
                assert_eq!((from, to), (vip, client));
                check_headers(&out);
            }
        }
    }
}

/// Both IPv4 headers of an error are right.
fn check_headers(frame: &[u8]) {
    if frame[12] != 8 {
        return;
    }
    for at in [14, 42] {
        let mut header = frame[at..at + 20].to_vec();
        set_checksum(&mut header);
        assert_eq!(header, &frame[at..at + 20]);
    }
}

#[test]
fn errors_about_nothing_we_know_go_to_nobody() {
    for family in &FAMILIES {
        let model = Model::new(&setup(family));
        let stranger = Packet::tcp(family.vip, family.client, flags::ACK).build();
        let frame = error(
            family.router,
            host(family.vip),
            family.errors[1],
            &stranger,
            8,
        );
        assert_eq!(model.travel(&frame).0.verdict.reason, Reason::ICMP_TO_VIP);
        let bracket = |host: &str, port: u16| {
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        };
        // Ours, by its port, but of no connection; and the host's own.
        for (port, reason) in [(20_500, Reason::NO_CONNECTION), (40_500, Reason::VITAL)] {
            let (ours, its) = (bracket(family.ours, port), bracket(family.member, 8080));
            let sent = Packet::tcp(&ours, &its, flags::SYN).build();
            let frame = error(family.member, family.ours, family.errors[1], &sent, 8);
            let (outcome, out) = model.travel(&frame);
            assert_eq!(outcome.verdict.reason, reason, "{port}");
            assert_eq!(out, frame);
        }
    }
}

#[test]
fn client_port_used_again_after_the_close_keeps_to_one_entry() {
    for family in &FAMILIES {
        let model = Model::new(&setup(family));
        let from_client = |flags| {
            let (outcome, out) =
                model.travel(&Packet::tcp(family.client, family.vip, flags).build());
            let l4 = at(&out).1;
            (outcome.verdict.reason, [out[l4], out[l4 + 1]])
        };
        let from_member = |port: [u8; 2], flags| {
            let host = |host: &str, port: u16| {
                if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                }
            };
            let (from, to) = (
                host(family.member, 8080),
                host(family.ours, u16::from_be_bytes(port)),
            );
            let (outcome, _) = model.travel(&Packet::tcp(&from, &to, flags).build());
            assert_eq!(outcome.verdict.reason, Reason::RETURNED);
        };
        let fin = flags::FIN | flags::ACK;
        for _ in 0..3 {
            let (reason, port) = from_client(flags::SYN);
            assert_eq!(reason, Reason::STEERED_NEW);
            from_member(port, flags::SYN | flags::ACK);
            assert_eq!(from_client(flags::ACK), (Reason::STEERED, port));
            from_member(port, fin);
            assert_eq!(from_client(fin), (Reason::STEERED, port));
            from_member(port, flags::ACK);
        }
    }
}

#[test]
fn error_about_a_first_fragment_comes_to_the_member_as_it_sent_it() {
    let family = &FAMILIES[1];
    let model = Model::new(&setup(family));
    let (_, to_member) = model.travel(&Packet::tcp(family.client, family.vip, flags::SYN).build());
    let fragment = Packet::tcp(family.vip, family.client, flags::ACK)
        .payload(&[1; 60])
        .fragment(0, true)
        .build();
    let (kind, quoted) = (family.errors[1], 8 + 8);
    let frame = error(family.router, host(family.vip), kind, &fragment, quoted);
    let (outcome, out) = model.travel(&frame);
    assert_eq!(outcome.verdict.reason, Reason::STEERED_ICMP);
    assert_eq!(sum(&out), 0xffff);
    let (l3, l4) = at(&out);
    let quote = &out[l4 + 8..];
    // The member's ends, the other way round than in what it was sent; the fragment's header between.
    let (from, to, ports) = ends(&to_member[l3..]);
    assert_eq!((&quote[8..24], &quote[24..40]), (&to[..], &from[..]));
    assert_eq!(quote[40..48], fragment[54..62]);
    assert_eq!(quote[48..52], [ports[2], ports[3], ports[0], ports[1]]);

    let later = Packet::raw(family.vip, family.client, 6, &[1; 60])
        .fragment(5, true)
        .build();
    let frame = error(family.router, host(family.vip), kind, &later, quoted);
    assert_eq!(model.travel(&frame).0.verdict.reason, Reason::VITAL);
}
