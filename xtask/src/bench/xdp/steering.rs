//! Rows of forwarded services. Their floor is the minimal balancer; a hit in the flow table and a
//! packet that the ring alone steers are told apart by their verdicts.

use std::net::SocketAddr;

use lab::{
    model::{Model, Setup, forwarded},
    packet::{Packet, flags},
    xdp_cases::{
        CLIENT4, CLIENT6,
        nat::translator,
        steering::{SHOP4, SHOP6, VIP4, VIP6, VOICE, balancer, balancer_of, by},
    },
};
use lb_common::{forward::mode, verdict::Reason};

use super::rows::{Row, Sources};
use crate::bench::floors;

/// Sets of the flow tables: as many flows as the minimal balancer's table holds.
pub(super) const SETS: u32 = 1 << 18;
/// The same for the row of a million flows, of which they fill half.
pub(super) const MORE_SETS: u32 = 1 << 19;
/// Entries of the table of rewritten connections.
pub(super) const NAT: u32 = 1 << 16;

const MEMBERS: [&str; 4] = ["10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"];

/// The setup for tables of this size.
fn sized(mut setup: Setup) -> Setup {
    (setup.steering.sets, setup.steering.nat) = (SETS, NAT);
    if setup.steering.inserts > 1 {
        setup.steering.inserts = u32::MAX;
    }
    setup
}

fn row(name: &'static str, setup: &Setup, packet: &Packet, service: u16, reason: Reason) -> Row {
    let mut frame = packet.build();
    if frame[12] == 8 {
        // All rows alike, though only some change it: it is no source that a row tells apart.
        floors::prepare(&mut frame);
    }
    floors::pad(&mut frame);
    Row {
        name,
        setup: sized(setup.clone()),
        frame,
        before: Vec::new(),
        sources: Sources::One,
        service,
        reason,
        // A hit begins with the packet that enters the flow.
        first_others: u64::from(reason == Reason::STEERED),
        also: &[],
        is_twice: false,
        is_large: true,
        rewrites: true,
    }
}

/// The row that runs on both CPUs at once.
pub(super) const TWICE: &str = "ipip: known flow, IPv4, two CPUs at once";
/// The same on one.
pub(super) const ONCE: &str = "ipip: known flow, IPv4";

/// Every row.
pub(super) fn all() -> Vec<Row> {
    let tcp = |flags| Packet::tcp(CLIENT4, VIP4, flags);
    let (ack, syn) = (tcp(flags::ACK), tcp(flags::SYN));
    let udp = Packet::udp(CLIENT4, "203.0.113.80:5000", 18);
    let sip = Packet::udp(CLIENT4, "203.0.113.80:5060", 18);
    let v6 = Packet::tcp(CLIENT6, VIP6, flags::ACK);
    let ipip = balancer_of(&by(mode::IPIP), &MEMBERS);
    let mut one_port = ipip.clone();
    one_port
        .services
        .push(forwarded(VOICE, "203.0.113.80", 5060, 17, 1));
    let (known, new, ring) = (
        Reason::STEERED,
        Reason::STEERED_NEW,
        Reason::STEERED_BY_RING,
    );
    let of = |sources, row: Row| Row {
        first_others: if matches!(sources, Sources::Known) && row.reason == known {
            65_536
        } else {
            0
        },
        sources,
        ..row
    };
    let mut scarce = ipip.clone();
    // What a flood meets once the beat's inserts are used up: all but one in a second.
    scarce.steering.inserts = 1;
    let quote = Packet::tcp(VIP4, "11.0.0.0:40000", flags::ACK).build()[14..42].to_vec();
    let too_big = Packet::icmp("192.0.2.254", "203.0.113.80", 3, 4).payload(&quote);
    let later = Packet::raw(CLIENT4, VIP4, 6, &[9; 40]).fragment(9, false);
    let mut rows = vec![
        row(ONCE, &ipip, &ack, SHOP4, known),
        of(
            Sources::Known,
            row("ipip: 65 536 known flows", &ipip, &ack, SHOP4, known),
        ),
        {
            let mut row = Row {
                // Which of them found no place in the table the row below says.
                also: &[Reason::STEERED_BY_RING, Reason::STEERED_NEW],
                first_others: 0,
                ..of(
                    Sources::Million,
                    row("ipip: 1 048 576 known flows", &ipip, &ack, SHOP4, known),
                )
            };
            row.setup.steering.sets = MORE_SETS;
            row
        },
        Row {
            is_twice: true,
            ..row(TWICE, &ipip, &ack, SHOP4, known)
        },
        row("ipip: SYN of a known flow", &ipip, &syn, SHOP4, known),
        of(
            Sources::New,
            row(
                "ipip: each ACK a new flow, entered",
                &ipip,
                &ack,
                SHOP4,
                new,
            ),
        ),
        of(
            Sources::New,
            row(
                "ipip: each SYN a new flow, entered",
                &ipip,
                &syn,
                SHOP4,
                new,
            ),
        ),
        Row {
            also: &[Reason::STEERED_NEW],
            ..of(
                Sources::New,
                row("ipip: SYN flood beyond the cap", &scarce, &syn, SHOP4, ring),
            )
        },
        row("ipip: known UDP flow", &one_port, &sip, VOICE, known),
        row(
            "ipip: known UDP flow, of a range",
            &ipip,
            &udp,
            VOICE,
            known,
        ),
        of(
            Sources::New,
            row("ipip: each datagram a new flow", &ipip, &udp, VOICE, new),
        ),
        row("ipip: known flow, IPv6 in IPv4", &ipip, &v6, SHOP6, known),
        row(
            "ipip: known flow, IPv6 in IPv6",
            &balancer_of(&by(mode::IPIP), &["fd00::11"]),
            &v6,
            SHOP6,
            known,
        ),
        row("dsr: known flow", &balancer(mode::DSR), &ack, SHOP4, known),
        row("gue: known flow", &balancer(mode::GUE), &ack, SHOP4, known),
        Row {
            first_others: 0,
            ..row(
                "ipip: too big, quoting a flow",
                &ipip,
                &too_big,
                SHOP4,
                Reason::STEERED_ICMP,
            )
        },
        row(
            "ipip: fragment without its first",
            &ipip,
            &later,
            SHOP4,
            Reason::FRAGMENT_UNKNOWN,
        ),
        Row {
            rewrites: false,
            ..row(
                "no service's, while services are forwarded",
                &ipip,
                &Packet::tcp(CLIENT4, "198.51.100.7:22", flags::ACK),
                0,
                Reason::NOT_A_SERVICE,
            )
        },
    ];
    rows.extend(translated(&syn, &ack));
    rows
}

/// A connection of `nat`, in both directions.
fn translated(syn: &Packet, ack: &Packet) -> Vec<Row> {
    let nat = translator(&MEMBERS, 1000);
    let known = Reason::STEERED;
    let first = row("nat: SYN of a known flow", &nat, syn, SHOP4, known);
    let begun = |row: Row| Row {
        before: vec![first.frame.clone()],
        first_others: 0,
        ..row
    };
    let there = begun(row("nat: known flow", &nat, ack, SHOP4, known));
    // The member and our port are what the same tables make of the first packet on this host.
    let (_, sent) = Model::new(&first.setup).travel(&first.frame);
    let end = |address: usize, port: usize| {
        let ip: [u8; 4] = std::array::from_fn(|byte| sent[address + byte]);
        let port = u16::from_be_bytes([sent[port], sent[port + 1]]);
        SocketAddr::from((ip, port)).to_string()
    };
    let mut frame = Packet::tcp(&end(30, 36), &end(26, 34), flags::ACK).build();
    floors::pad(&mut frame);
    let back = begun(Row {
        frame,
        ..row("nat: a member's answer", &nat, ack, SHOP4, Reason::RETURNED)
    });
    vec![first, there, back]
}
