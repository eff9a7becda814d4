//! Keys over the hours, without waiting for them; and whole handshakes, in memory.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption, crypto::aws_lc_rs, version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::*;

const HOUR: u64 = 3600 * 1_000_000_000;

fn keys(now: u64) -> TicketKeys {
    TicketKeys::new(now, &mut fresh).expect("randomness")
}

fn ring(keys: &TicketKeys) -> Arc<Ring> {
    let ring = Ring::default();
    ring.take(keys.clone());
    Arc::new(ring)
}

const OPEN: [u8; 32] = [0; 32];

#[test]
fn a_ticket_is_read_through_one_change_of_keys_and_not_through_two() {
    let ticketer = Ticketer::new(ring(&keys(0)), OPEN);
    let first = ticketer.seal(HOUR, b"session").expect("sealed");
    assert!(!first.windows(7).any(|part| part == b"session"));
    let opened = |now, ticket: &[u8]| ticketer.open(now, ticket).as_deref() == Some(b"session");
    assert!(opened(HOUR, &first));
    assert!(opened(6 * HOUR, &first), "the first change");
    let second = ticketer.seal(6 * HOUR, b"session").expect("sealed");
    assert_ne!(first[..NAME_LEN], second[..NAME_LEN], "of another key");
    assert!(opened(12 * HOUR - 1, &first));
    assert!(!opened(12 * HOUR, &first), "the second change");
    assert!(opened(12 * HOUR, &second));
    // Nobody looked for a day: what is left are new keys.
    let third = ticketer.seal(36 * HOUR, b"session").expect("sealed");
    assert!(!opened(36 * HOUR, &second) && opened(36 * HOUR, &third));
}

#[test]
fn keys_that_nobody_looked_at_change_as_often_as_they_should_have() {
    let begun = keys(0);
    let mut late = begun.clone();
    assert!(!late.turn(6 * HOUR - 1, &mut fresh));
    assert_eq!(late, begun);
    assert!(late.turn(13 * HOUR, &mut fresh));
    assert_eq!(late.previous.as_ref(), Some(&begun.next));
    assert_eq!(late.turns_at, 18 * HOUR);
    assert!(![&begun.current, &begun.next].contains(&&late.current));
    let before = late.clone();
    assert!(late.turn(40 * HOUR, &mut fresh));
    assert_eq!((&late.previous, late.turns_at), (&None, 46 * HOUR));
    assert_ne!(late.current, before.next);
    // Without randomness they stay.
    let stuck = late.clone();
    assert!(!late.turn(50 * HOUR, &mut || None) && !late.turn(90 * HOUR, &mut || None));
    assert_eq!(late, stuck);
}

#[test]
fn processes_with_the_same_keys_read_each_others_tickets_and_change_alike() {
    let mut control = keys(0);
    let (old, new) = (ring(&control), ring(&control));
    let (old, new) = (Ticketer::new(old, OPEN), Ticketer::new(new, OPEN));
    let ticket = old.seal(HOUR, b"session").expect("sealed");
    assert_eq!(new.open(HOUR, &ticket).as_deref(), Some(&b"session"[..]));
    // Both change by themselves, to the same key.
    let ticket = old.seal(7 * HOUR, b"session").expect("sealed");
    assert_eq!(
        new.open(7 * HOUR, &ticket).as_deref(),
        Some(&b"session"[..])
    );
    // Control's word makes the change after that one alike, too.
    assert!(control.turn(7 * HOUR, &mut fresh));
    old.ring.take(control.clone());
    new.ring.take(control.clone());
    assert!(
        new.open(8 * HOUR, &ticket).is_some(),
        "nothing is lost by it"
    );
    let ticket = old.seal(13 * HOUR, b"session").expect("sealed");
    assert_eq!(
        new.open(13 * HOUR, &ticket).as_deref(),
        Some(&b"session"[..])
    );
    // A control that is behind is not listened to.
    new.ring.take(control);
    assert!(new.open(13 * HOUR, &ticket).is_some());
    assert_eq!(
        new.seal(13 * HOUR, b"").map(|t| t[..16].to_vec()),
        Some(ticket[..16].to_vec())
    );
}

#[test]
fn what_is_no_ticket_of_this_class_is_nothing() {
    let ring = ring(&keys(0));
    let (open, closed) = (
        Ticketer::new(Arc::clone(&ring), OPEN),
        Ticketer::new(ring, [1; 32]),
    );
    let ticket = open.seal(0, b"session").expect("sealed");
    assert_eq!(closed.open(0, &ticket), None);
    for length in 0..ticket.len() {
        assert_eq!(open.open(0, &ticket[..length]), None, "{length}");
    }
    for at in 0..ticket.len() {
        let mut bent = ticket.clone();
        bent[at] ^= 1;
        assert_eq!(open.open(0, &bent), None, "{at}");
    }
    assert_eq!(open.open(0, &[ticket, vec![0]].concat()), None);
    assert_eq!(open.open(0, &vec![0; 70_000]), None);
}

#[test]
fn keys_that_cannot_be_used_make_no_tickets() {
    let short = || Some(Der(vec![7; 20].into()));
    let keys = TicketKeys::new(0, &mut { short }).expect("made");
    assert_eq!(Ticketer::new(ring(&keys), OPEN).seal(0, b"session"), None);
    let said = format!("{keys:?}");
    assert!(!said.contains('7'), "keys are not shown: {said}");
}

/// A ticketer whose clock is the test's.
#[derive(Debug)]
struct At(Ticketer, AtomicU64);

impl ProducesTickets for At {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.seal(self.1.load(Relaxed), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.open(self.1.load(Relaxed), cipher)
    }
}

/// A handshake, and the tickets after it.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> HandshakeKind {
    let name = "a.test".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("server");
    while client.wants_write() || server.wants_write() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).expect("in memory");
        server.read_tls(&mut flight.as_slice()).expect("in memory");
        server.process_new_packets().expect("TLS");
        flight.clear();
        server.write_tls(&mut flight).expect("in memory");
        client.read_tls(&mut flight.as_slice()).expect("in memory");
        client.process_new_packets().expect("TLS");
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let kind = server.handshake_kind().expect("done");
    assert_eq!(client.handshake_kind(), Some(kind));
    kind
}

#[test]
fn a_session_is_resumed_after_one_change_of_keys_and_begun_anew_after_two() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=a.test",
        ])
        .args(["-addext", "subjectAltName=DNS:a.test"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-keyout", "a.key", "-out", "a.pem"])
        .current_dir(&directory)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{output:?}");
    let certificate = CertificateDer::from_pem_file(directory.path().join("a.pem"));
    let certificate = certificate.expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(directory.path().join("a.key")).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("usable");
    let provider = Arc::new(aws_lc_rs::default_provider());
    for version in [&version::TLS12, &version::TLS13] {
        let clock = Arc::new(At(Ticketer::new(ring(&keys(0)), OPEN), AtomicU64::new(0)));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .expect("a pair");
        server.ticketer = Arc::clone(&clock) as Arc<dyn ProducesTickets>;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let server = Arc::new(server);
        // Of a client that has connected once: in TLS 1.3 a ticket is used once, and each handshake
        // brings new ones.
        let connected = || {
            let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            client.resumption = Resumption::in_memory_sessions(8);
            let client = Arc::new(client);
            assert_eq!(handshake(&client, &server), HandshakeKind::Full);
            client
        };
        let (once, twice) = (connected(), connected());
        clock.1.store(7 * HOUR, Relaxed);
        assert_eq!(handshake(&once, &server), HandshakeKind::Resumed);
        clock.1.store(13 * HOUR, Relaxed);
        assert_eq!(handshake(&twice, &server), HandshakeKind::Full);
        assert_eq!(handshake(&twice, &server), HandshakeKind::Resumed);
    }
}
