//! The rows: what is asked of every peer alike, and what sluice has to reach.

use super::{
    peers::Peer,
    tls::{Negotiated, Tls},
};

/// What is asked of every peer alike.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) connections: u32,
    pub(super) drive: Drive,
    pub(super) is_tls: bool,
    pub(super) is_logged: bool,
    /// Most that sluice may cost, as a multiple of what the best peer costs.
    pub(super) bar: f64,
}

/// By what a peer is driven.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Drive {
    /// wrk on kept connections.
    Kept,
    /// wrk, which asks the peer to end each connection.
    Closing,
    /// h2load, so many streams at once on each connection.
    Streams(u32),
    /// Our own client: a TLS connection for each request, sessions never resumed.
    Full,
    /// The same, each session but the first resumed by ticket.
    Resumed,
}

/// What is demanded of every row but the handshakes'.
const BAR: f64 = 1.1;
const BAR_HANDSHAKE: f64 = 0.7;

const SMALL: Case = Case {
    name: "small, keep-alive",
    path: "/small",
    connections: 64,
    drive: Drive::Kept,
    is_tls: false,
    is_logged: false,
    bar: BAR,
};

/// Every row, in the order of the tables.
pub(super) const CASES: [Case; 8] = [
    SMALL,
    Case {
        name: "64 kB body, keep-alive",
        path: "/64k",
        connections: 32,
        ..SMALL
    },
    Case {
        name: "small, new connection per request",
        drive: Drive::Closing,
        ..SMALL
    },
    Case {
        name: "small, keep-alive, access log",
        is_logged: true,
        ..SMALL
    },
    Case {
        name: "small, TLS, keep-alive",
        is_tls: true,
        ..SMALL
    },
    Case {
        name: "small, HTTP/2 over TLS",
        connections: 8,
        drive: Drive::Streams(16),
        is_tls: true,
        ..SMALL
    },
    Case {
        name: "full handshake per request",
        connections: 16,
        drive: Drive::Full,
        is_tls: true,
        bar: BAR_HANDSHAKE,
        ..SMALL
    },
    Case {
        name: "resumed handshake per request",
        connections: 16,
        drive: Drive::Resumed,
        is_tls: true,
        bar: BAR_HANDSHAKE,
        ..SMALL
    },
];

impl Case {
    /// Why a peer has no place in this row, by what it negotiates.
    pub(super) fn refusal(&self, peer: &Peer, tls: &Tls) -> Option<String> {
        if !self.is_tls {
            return None;
        }
        match tls.ask(peer.tls) {
            Ok(negotiated) => self.refusal_of(&negotiated),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    fn refusal_of(&self, negotiated: &Negotiated) -> Option<String> {
        if let Err(error) = negotiated.check() {
            return Some(error.to_string());
        }
        let speaks_h2 = negotiated.protocol.as_deref() == Some("h2");
        (matches!(self.drive, Drive::Streams(_)) && !speaks_h2).then(|| "h2 not offered".to_owned())
    }
}
