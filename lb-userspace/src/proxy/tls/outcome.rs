//! How handshakes end: what is counted of them, and under which names. Pure.

use std::{io, time::Duration};

use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};

use crate::telemetry::counters::HANDSHAKES;

/// With whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A client that connected.
    Client,
    /// A member that was connected to.
    Member,
}

impl Side {
    const ALL: [Self; 2] = [Self::Client, Self::Member];

    /// Its label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Member => "member",
        }
    }
}

/// Why a handshake was not made (docs/reasons.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The deadline passed.
    Timeout,
    /// The peer closed or reset the connection.
    Closed,
    /// An HTTP request in clear.
    PlainHttp,
    /// What came is no TLS, or against its rules.
    NoTls,
    /// No version, suite, key exchange, signature or protocol in common.
    Incompatible,
    /// The peer refused, by an alert.
    Refused,
    /// The peer's certificate was not accepted, or it showed none and had to.
    Certificate,
    /// Anything else.
    Other,
}

impl Trouble {
    /// Every one, in the order of their numbers.
    pub(crate) const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Closed,
        Self::PlainHttp,
        Self::NoTls,
        Self::Incompatible,
        Self::Refused,
        Self::Certificate,
        Self::Other,
    ];

    /// Its label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::PlainHttp => "plain_http",
            Self::NoTls => "no_tls",
            Self::Incompatible => "incompatible",
            Self::Refused => "refused",
            Self::Certificate => "certificate",
            Self::Other => "other",
        }
    }

    /// What an error of the handshake comes to.
    pub(crate) fn of(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(
                Error::InvalidMessage(_)
                | Error::PeerMisbehaved(_)
                | Error::DecryptError
                | Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::PeerSentOversizedRecord,
            ) => Self::NoTls,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Self::Incompatible,
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => {
                Self::Certificate
            }
            Some(_) => Self::Other,
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Self::Closed,
                io::ErrorKind::TimedOut => Self::Timeout,
                _ => Self::Other,
            },
        }
    }
}

/// Where handshakes that were made are counted: by side, version (1.2, 1.3), resumption.
const DONE: usize = 8;
const _: () = assert!(DONE + 2 * Trouble::ALL.len() <= HANDSHAKES);

/// The counter of a handshake that was made.
pub(crate) fn made(side: Side, session: &CommonState) -> usize {
    let modern = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    side as usize * 4 + usize::from(modern) * 2 + usize::from(resumed)
}

/// The counter of one that was not.
pub(crate) fn failed(side: Side, trouble: Trouble) -> usize {
    DONE + side as usize * Trouble::ALL.len() + trouble as usize
}

/// Labels of every counter of [`made`]: peer, version, kind.
pub(crate) fn made_labels() -> impl Iterator<Item = ([&'static str; 3], usize)> {
    Side::ALL.into_iter().flat_map(|side| {
        (0..4).map(move |rest| {
            let version = ["TLSv1.2", "TLSv1.3"][rest / 2];
            let kind = ["full", "resumed"][rest % 2];
            ([side.name(), version, kind], side as usize * 4 + rest)
        })
    })
}

/// Labels of every counter of [`failed`]: peer, reason.
pub(crate) fn failed_labels() -> impl Iterator<Item = ([&'static str; 2], usize)> {
    Side::ALL.into_iter().flat_map(|side| {
        Trouble::ALL
            .into_iter()
            // Members are not listened to before they speak TLS.
            .filter(move |trouble| side == Side::Client || *trouble != Trouble::PlainHttp)
            .map(move |trouble| ([side.name(), trouble.name()], failed(side, trouble)))
    })
}

/// Until when a certificate is valid, seconds since 1970.
pub(crate) fn expiry(certificate: &[u8]) -> Option<Duration> {
    let valid = super::validity::of(certificate)?;
    Some(Duration::from_secs(u64::try_from(valid.to).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_counter_of_its_own() {
        let made = made_labels().map(|(_, index)| index);
        let mut all: Vec<usize> = made.chain(failed_labels().map(|(_, at)| at)).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|index| *index < HANDSHAKES));
    }

    /// One row per reason below the heading "TLS handshakes".
    #[test]
    fn docs_list_every_reason() {
        let page = include_str!("../../../../docs/reasons.md");
        let (_, part) = page.split_once("\n## TLS handshakes\n").expect("heading");
        let part = part.split("\n## ").next().unwrap_or_default();
        let docs: Vec<&str> = part
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(docs, Trouble::ALL.map(Trouble::name));
    }
}
