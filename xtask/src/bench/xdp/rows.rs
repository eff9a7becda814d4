//! What is sent through the program: one packet a row, and the tables that it meets.

use lab::{
    model::{Setup, limit},
    packet::{Packet, flags},
    xdp_cases::{CLIENT4, CLIENT6, DNS, SERVER4, SERVER6, WEB4, WEB6, host},
};
use lb_common::{
    limit::{LimitKind, action},
    verdict::Reason,
};

use crate::bench::floors;

/// Whose packets a row sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sources {
    /// The same packet again and again.
    One,
    /// 65 536 sources in turn, all of them entered before.
    Known,
    /// 1 048 576 sources in turn, all of them entered before as far as there was room.
    Million,
    /// A source that was never seen, or not for 16 million packets, with each.
    New,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) setup: Setup,
    pub(super) frame: Vec<u8>,
    /// Sent once, before all that is counted.
    pub(super) before: Vec<Vec<u8>>,
    pub(super) sources: Sources,
    pub(super) service: u16,
    pub(super) reason: Reason,
    /// Packets at the beginning that end otherwise.
    pub(super) first_others: u64,
    /// Reasons that packets may end with as well.
    pub(super) also: &'static [Reason],
    /// Whether all CPUs of two run it at once.
    pub(super) is_twice: bool,
    /// Whether it wants the flow tables of `steering`'s size.
    pub(super) is_large: bool,
    /// Whether the program changes the packet, which then is restored after each.
    pub(super) rewrites: bool,
}

/// A limit that nothing here reaches.
const ENDLESS: u32 = i32::MAX.unsigned_abs();
/// Prefixes in the long lists.
const PREFIXES: u32 = 1000;

/// The packet that floors run on: what most rows send.
pub(super) fn frame_of_floors() -> Vec<u8> {
    Packet::tcp(CLIENT4, SERVER4, flags::ACK).build()
}

/// A packet of nobody's service.
pub(super) fn other_frame() -> Vec<u8> {
    Packet::tcp(CLIENT4, "198.51.100.7:22", flags::ACK).build()
}

/// Every row, in the order of the table.
pub(super) fn all() -> Vec<Row> {
    let ack = frame_of_floors();
    let syn = Packet::tcp(CLIENT4, SERVER4, flags::SYN).build();
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.resize(60, 0);
    let endless = limit(ENDLESS, action::DROP);
    let syns_of_sources = host().limit_source(WEB4, LimitKind::SYN, endless);
    let many = || (0..PREFIXES).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256));
    let denied = many().fold(host().deny("192.0.2.0/24"), |setup, prefix| {
        setup.deny(&prefix)
    });
    let row = |name, setup: &Setup, frame: &[u8], service, reason| Row {
        name,
        setup: setup.clone(),
        frame: frame.to_vec(),
        before: Vec::new(),
        sources: Sources::One,
        service,
        reason,
        first_others: 0,
        also: &[],
        is_twice: false,
        is_large: false,
        rewrites: false,
    };
    let varied = |row: Row, sources| {
        let mut row = Row { sources, ..row };
        floors::prepare(&mut row.frame);
        row
    };
    let over = |row: Row| Row {
        first_others: 1,
        ..row
    };
    vec![
        row("not IP (ARP)", &host(), &arp, 0, Reason::NOT_A_SERVICE),
        row(
            "no service's, IPv4 TCP",
            &host(),
            &other_frame(),
            0,
            Reason::NOT_A_SERVICE,
        ),
        row(
            "guard off, IPv4",
            &Setup {
                is_guarded: false,
                ..host()
            },
            &ack,
            WEB4,
            Reason::GUARD_OFF,
        ),
        row("service, IPv4 TCP", &host(), &ack, WEB4, Reason::LOCAL),
        row(
            "service, IPv6 TCP",
            &host(),
            &Packet::tcp(CLIENT6, SERVER6, flags::ACK).build(),
            WEB6,
            Reason::LOCAL,
        ),
        row(
            "service, two VLAN tags",
            &host(),
            &Packet::tcp(CLIENT4, SERVER4, flags::ACK)
                .tag(0x88a8, 5)
                .tag(0x8100, 6)
                .build(),
            WEB4,
            Reason::LOCAL,
        ),
        row(
            "service, UDP",
            &host(),
            &Packet::udp(CLIENT4, "198.51.100.7:53", 18).build(),
            DNS,
            Reason::LOCAL,
        ),
        row(
            "malformed: no TCP flags",
            &host(),
            &Packet::tcp(CLIENT4, SERVER4, 0).build(),
            WEB4,
            Reason::BAD_TCP_FLAGS,
        ),
        row("denied, 1001 prefixes", &denied, &ack, 0, Reason::DENIED),
        row(
            "not denied, 1001 prefixes",
            &denied,
            &Packet::tcp("203.0.113.9:4000", SERVER4, flags::ACK).build(),
            WEB4,
            Reason::LOCAL,
        ),
        row(
            "allowed, 1001 prefixes denied",
            &denied.clone().allow("192.0.2.1/32"),
            &ack,
            WEB4,
            Reason::LOCAL,
        ),
        row(
            "SYN, limit per source, one source",
            &syns_of_sources,
            &syn,
            WEB4,
            Reason::LOCAL,
        ),
        over(row(
            "SYN over the source's limit",
            &host().limit_source(WEB4, LimitKind::SYN, limit(1, action::DROP)),
            &syn,
            WEB4,
            Reason::SYN_SOURCE_LIMIT,
        )),
        varied(
            row(
                "SYN, limit per source, 65 536 sources",
                &syns_of_sources,
                &syn,
                WEB4,
                Reason::LOCAL,
            ),
            Sources::Known,
        ),
        varied(
            row(
                "SYN, limit per source, each a new one",
                &syns_of_sources,
                &syn,
                WEB4,
                Reason::LOCAL,
            ),
            Sources::New,
        ),
        row(
            "SYN, limit per service",
            &host().limit_service(WEB4, LimitKind::SYN, endless),
            &syn,
            WEB4,
            Reason::LOCAL,
        ),
        over(row(
            "SYN over the service's limit",
            &host().limit_service(WEB4, LimitKind::SYN, limit(1, action::DROP)),
            &syn,
            WEB4,
            Reason::SYN_SERVICE_LIMIT,
        )),
        over(varied(
            row(
                "flood: new sources, both limits, over",
                &host()
                    .limit_service(WEB4, LimitKind::SYN, limit(1, action::DROP))
                    .limit_source(WEB4, LimitKind::SYN, endless),
                &syn,
                WEB4,
                Reason::SYN_SERVICE_LIMIT,
            ),
            Sources::New,
        )),
    ]
    .into_iter()
    .chain(super::steering::all())
    .collect()
}
