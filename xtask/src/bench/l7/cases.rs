//! The rows: what is asked of every peer alike, and what sluice has to reach.

use super::{
    peers::{Kind, Peer},
    setup::{ELECTION, ELECTION_SHARED, GUIDE, LOGGED, MANY_HOSTS, PLAIN, Setup},
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
    /// How the peers are set up. Where there are several, each but the first is a verdict, against
    /// sluice's own first: the row is about what more of something costs.
    pub(super) setups: &'static [Setup],
    /// Most that sluice may cost, as a multiple of what the best peer costs, or its own first setup.
    pub(super) bar: f64,
}

/// By what a peer is driven.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Drive {
    /// wrk on kept connections.
    Kept,
    /// The same, each request for another of the virtual hosts and paths.
    Spread,
    /// The same, three of four requests with a session.
    Sessions,
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
    setups: &PLAIN,
    bar: BAR,
};

/// Every row, in the order of the tables.
pub(super) const CASES: [Case; 13] = [
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
        setups: &LOGGED,
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
    Case {
        name: "the guide's features, cleartext",
        drive: Drive::Sessions,
        setups: &GUIDE,
        ..SMALL
    },
    Case {
        name: "the guide's features, TLS",
        drive: Drive::Sessions,
        is_tls: true,
        setups: &GUIDE,
        ..SMALL
    },
    Case {
        name: "election, 1 shard",
        setups: &ELECTION,
        ..SMALL
    },
    Case {
        name: "election, 2 shards",
        setups: &ELECTION_SHARED,
        ..SMALL
    },
    Case {
        name: "virtual hosts",
        drive: Drive::Spread,
        setups: &MANY_HOSTS,
        ..SMALL
    },
];

impl Case {
    /// Whether a peer belongs in this row. httpd has no place where more of something is measured:
    /// the row is about sluice beside itself, and the two fastest tell what a machine can do.
    pub(super) fn takes(&self, kind: Kind) -> bool {
        self.setups.len() == 1 || kind != Kind::Httpd
    }

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

#[cfg(test)]
mod tests {
    use super::CASES;

    #[test]
    fn rows_and_their_setups_have_names_of_their_own() {
        for (place, case) in CASES.iter().enumerate() {
            assert!(CASES[..place].iter().all(|other| other.name != case.name));
            for (place, setup) in case.setups.iter().enumerate() {
                let earlier = &case.setups[..place];
                assert!(earlier.iter().all(|other| other.label != setup.label));
            }
        }
    }
}
