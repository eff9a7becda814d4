//! TLS: what certificates a generation has, and the rustls configurations for clients made of them.
//!
//! Handshakes with clients are made in [`accept`], everything about members is in [`member`]. Files are read by control, which is allowed to; what comes
//! here is their contents. Decides nothing about requests but which hosts are so alike that a
//! connection made for one may carry requests for the other.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    CipherSuite as Code, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
        ServerSessionMemoryCache, StoresServerSessions,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use self::{
    tickets::{Ring, Ticketer},
    verify::ClientVerifier,
};
use super::{client::Client, plan::Plan};
use crate::config::spec::{
    CertificateFiles, CipherSuite, ClientVerify, Protocol, Protocols, Spec, Tls,
};

pub(crate) mod accept;
pub(crate) mod member;
mod name;
pub(crate) mod outcome;
pub(crate) mod tickets;
pub(crate) mod validity;
mod variables;
pub(crate) mod verify;

pub use member::Peers;
pub use tickets::TicketKeys;

/// Sessions that are kept for clients without tickets, in all shards together.
const CACHED_SESSIONS: usize = 10_000;

/// Demands on clients whose sessions are kept apart.
const MAX_DEMANDS: usize = 256;

/// Certificates and keys of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// Every pair once.
    pub pairs: Vec<Pair>,
    /// For each of `spec.hosts`, indexes into `pairs` in the order of its directives.
    pub hosts: Vec<Vec<usize>>,
    /// Parallel to `spec.hosts`; `None`: its clients are not asked.
    pub clients: Vec<Option<ClientFiles>>,
    /// Parallel to `spec.member_tls`.
    pub members: Vec<MemberFiles>,
    /// Certificates of authorities, each set once.
    pub authorities: Vec<Vec<Der>>,
}

/// What the files about a host's clients hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFiles {
    /// Index into [`Certificates::authorities`].
    pub authorities: usize,
    /// Names of authorities that clients are told of, DER; empty: those above.
    pub hints: Vec<Der>,
    /// Revocation lists, DER.
    pub crls: Vec<Der>,
}

/// What the files of one TLS setting for members hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFiles {
    /// Index into [`Certificates::authorities`]; `None`: nobody's word is asked for.
    pub authorities: Option<usize>,
    /// Revocation lists, DER.
    pub crls: Vec<Der>,
    /// Certificates to show to the member, in order.
    pub machine: Vec<Pair>,
}

/// A certificate with those that lead from it to an authority, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// DER, the host's own first; at least one.
    pub chain: Vec<Der>,
    /// DER: PKCS #8, PKCS #1 or SEC 1.
    pub key: Der,
}

/// Bytes that no log shows and that are wiped when they are let go.
#[derive(Clone, PartialEq, Eq)]
pub struct Der(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Der {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 2));
        for &byte in self.0.iter() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let bytes = text
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| serde::de::Error::custom("not hexadecimal"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

impl Pair {
    /// Checks that key and certificate belong together and makes them ready to sign.
    pub fn certify(&self) -> Result<CertifiedKey, rustls::Error> {
        let chain = self
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.0.to_vec()))
            .collect();
        let key = PrivateKeyDer::try_from(self.key.0.to_vec())
            .map_err(|why| rustls::Error::General(why.to_owned()))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
    }
}

/// What lets a client resume its session with any shard, and after a reload.
///
/// Who resumes shows no certificate again, so sessions made where clients are asked for one are of
/// no use elsewhere, nor after what is asked for has changed.
#[derive(Debug, Default)]
pub(crate) struct Resumption {
    tickets: Arc<Ring>,
    /// Made with the first host.
    open: Mutex<Option<Sessions>>,
    closed: Mutex<Vec<(Demand, Sessions)>>,
}

/// Sessions that may be resumed among each other.
#[derive(Clone, Debug)]
struct Sessions {
    tickets: Arc<dyn ProducesTickets>,
    cache: Arc<ServerSessionMemoryCache>,
}

/// What is asked of clients: settings, authorities, revocation lists.
#[derive(Debug)]
struct Demand {
    settings: ClientVerify,
    authorities: Vec<Der>,
    crls: Vec<Der>,
}

impl Demand {
    fn is_same(&self, other: &Self) -> bool {
        self.settings.is_same(&other.settings)
            && self.authorities == other.authorities
            && self.crls == other.crls
    }

    /// What tickets are bound to: the same in every process, as long as it comes to the same.
    fn class(&self) -> Option<[u8; 32]> {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&self.settings.unplaced()).ok()?);
        for set in [&self.authorities, &self.crls] {
            hash.update(set.len().to_le_bytes());
            for der in set {
                hash.update(der.0.len().to_le_bytes());
                hash.update(&*der.0);
            }
        }
        Some(hash.finalize().into())
    }
}

impl Sessions {
    fn new(ring: &Arc<Ring>, class: [u8; 32]) -> Self {
        Self {
            tickets: Arc::new(Ticketer::new(Arc::clone(ring), class)),
            cache: ServerSessionMemoryCache::new(CACHED_SESSIONS),
        }
    }
}

impl Resumption {
    /// Takes the keys of tickets that control says, in place of those before.
    pub(crate) fn take(&self, keys: TicketKeys) {
        self.tickets.take(keys);
    }

    /// Sessions of hosts that ask nothing of clients.
    fn open(&self) -> Sessions {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get_or_insert_with(|| Sessions::new(&self.tickets, [0; 32]))
            .clone()
    }

    /// Those of hosts that demand this.
    fn of(&self, demand: Demand) -> Result<Sessions, rustls::Error> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = closed.iter().find(|(known, _)| known.is_same(&demand)) {
            return Ok(known.clone());
        }
        if closed.len() >= MAX_DEMANDS {
            // Of generations long gone, most likely: their cached sessions begin anew.
            closed.remove(0);
        }
        let class = demand.class();
        let unwritten = || rustls::Error::General("settings that cannot be written".to_owned());
        let sessions = Sessions::new(&self.tickets, class.ok_or_else(unwritten)?);
        closed.push((demand, sessions.clone()));
        Ok(sessions)
    }
}

/// TLS of one host.
#[derive(Clone, Debug)]
pub(crate) struct HostTls {
    /// For handshakes.
    pub(crate) config: Arc<ServerConfig>,
    /// The same with the protocols in the other order, where the client's order decides.
    pub(crate) reversed: Option<Arc<ServerConfig>>,
    /// Equal in hosts between which a connection may be shared.
    pub(crate) class: usize,
    /// What is asked of clients; `None`: nothing.
    pub(crate) clients: Option<Arc<ClientVerifier>>,
}

/// TLS that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Certificates and hosts do not fit.
    #[error("virtual host {0} has no certificate")]
    Missing(usize),
    /// What rustls does not take.
    #[error("TLS of virtual host {0}: {1}")]
    Rustls(usize, #[source] rustls::Error),
    /// As above, for members.
    #[error("TLS to members: {0}")]
    Member(String),
}

/// Makes the configurations of a generation, parallel to `spec.hosts`.
pub(crate) fn configure(
    spec: &Spec,
    certificates: &Certificates,
    resumption: &Resumption,
) -> Result<Vec<Option<HostTls>>, TlsError> {
    // Each configuration once, however many hosts share it.
    let mut made: Vec<(&Tls, &Protocols, HostTls)> = Vec::new();
    let mut classes: Vec<&Tls> = Vec::new();
    spec.hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let Some(tls) = &host.tls else {
                return Ok(None);
            };
            let offered = &host.protocols;
            let same = |known: &&(&Tls, &Protocols, HostTls)| {
                is_same(known.0, tls) && alpn(known.1) == alpn(offered)
            };
            if let Some((_, _, known)) = made.iter().find(same) {
                return Ok(Some(known.clone()));
            }
            let class = classes.iter().position(|known| is_compatible(known, tls));
            let class = class.unwrap_or_else(|| {
                classes.push(tls);
                classes.len() - 1
            });
            let pairs = certificates
                .hosts
                .get(index)
                .filter(|pairs| !pairs.is_empty())
                .ok_or(TlsError::Missing(index))?;
            let keys = pairs
                .iter()
                .map(|pair| {
                    let pair = certificates.pairs.get(*pair);
                    let pair = pair.ok_or(TlsError::Missing(index))?;
                    let key = pair.certify().map_err(|e| TlsError::Rustls(index, e))?;
                    Ok(Arc::new(key))
                })
                .collect::<Result<Vec<_>, TlsError>>()?;
            let fail = |error| TlsError::Rustls(index, error);
            let clients = match &tls.clients {
                None => None,
                Some(settings) => {
                    let missing = || TlsError::Missing(index);
                    let files = certificates.clients.get(index);
                    let files = files.and_then(Option::as_ref).ok_or_else(missing)?;
                    let authorities = certificates.authorities.get(files.authorities);
                    let authorities = authorities.ok_or_else(missing)?;
                    let verifier = ClientVerifier::new(settings, authorities, files);
                    let demand = Demand {
                        settings: settings.clone(),
                        authorities: authorities.clone(),
                        crls: files.crls.clone(),
                    };
                    let sessions = resumption.of(demand).map_err(fail)?;
                    Some((Arc::new(verifier), sessions))
                }
            };
            let (clients, sessions) = match clients {
                Some((verifier, sessions)) => (Some(verifier), sessions),
                None => (None, resumption.open()),
            };
            let config = server_config(tls, keys, clients.clone(), sessions);
            let mut config = config.map_err(fail)?;
            let (names, ours) = alpn(offered);
            config.alpn_protocols = names;
            let reversed = (!ours && config.alpn_protocols.len() > 1).then(|| {
                let mut config = config.clone();
                config.alpn_protocols.reverse();
                Arc::new(config)
            });
            let host = HostTls {
                config: Arc::new(config),
                reversed,
                class,
                clients,
            };
            made.push((tls, offered, host.clone()));
            Ok(Some(host))
        })
        .collect()
}

/// Whether a request for `host` may come over this connection: the handshake was made for a host
/// with the same TLS (apache.md 1.5), and a reload has not changed that.
pub(crate) fn may_carry(plan: &Plan, client: &Client, candidates: &[usize], host: usize) -> bool {
    let hosts = &plan.hosts;
    let default = hosts[candidates[0]].tls.is_some();
    if client.tls.is_none() {
        return !default;
    }
    let clients = hosts[host]
        .tls
        .as_ref()
        .and_then(|tls| tls.clients.as_ref());
    let nameless = client.tls.as_ref().is_some_and(|tls| tls.client.is_none());
    if nameless && clients.is_some_and(|clients| clients.is_mandatory()) {
        // A connection of before a reload, at best.
        return false;
    }
    let made_for = plan
        .names
        .select(&plan.spec.hosts, candidates, client.sni());
    let class = |host: usize| hosts[host].tls.as_ref().map(|tls| tls.class);
    default && (made_for == host || class(made_for) == class(host))
}

/// Whether `SSLStrictSNIVHostCheck` refuses a request for a host: its connection's client named none,
/// and there are several.
pub(crate) fn lacks_name(plan: &Plan, client: &Client, candidates: &[usize], host: usize) -> bool {
    let strict = |host: usize| plan.spec.hosts[host].naming.strict_sni;
    client.tls.is_some()
        && candidates.len() > 1
        && client.sni().is_none()
        && (strict(candidates[0]) || strict(host))
}

/// `Protocols` as ALPN has them, and whether their order beats the client's.
fn alpn(offered: &Protocols) -> (Vec<Vec<u8>>, bool) {
    let mut names: Vec<Vec<u8>> = offered
        .offered
        .iter()
        .filter_map(|protocol| match protocol {
            Protocol::Http11 => Some(b"http/1.1".to_vec()),
            Protocol::H2 => Some(b"h2".to_vec()),
            Protocol::H2c => None,
        })
        .collect();
    if names.is_empty() {
        names.push(b"http/1.1".to_vec());
    }
    (names, offered.honor_order)
}

fn files(tls: &Tls) -> impl Iterator<Item = (&std::path::Path, Option<&std::path::Path>)> {
    tls.certificates
        .iter()
        .map(|CertificateFiles { certificate, key }| {
            (
                certificate.path.as_path(),
                key.as_ref().map(|key| key.path.as_path()),
            )
        })
}

/// httpd's `SSLVHostSNIPolicy secure`, as measured with 2.4.71: the same certificates and keys,
/// protocols and cipher suites, and the same asked of clients.
fn is_compatible(a: &Tls, b: &Tls) -> bool {
    let same_clients = match (&a.clients, &b.clients) {
        (None, None) => true,
        (Some(a), Some(b)) => a.is_same(b),
        _ => false,
    };
    files(a).eq(files(b)) && (a.v12, a.v13, &a.suites) == (b.v12, b.v13, &b.suites) && same_clients
}

/// Whether one configuration serves both.
fn is_same(a: &Tls, b: &Tls) -> bool {
    is_compatible(a, b)
        && a.chain.as_ref().map(|chain| &chain.path) == b.chain.as_ref().map(|chain| &chain.path)
        && a.honor_cipher_order == b.honor_cipher_order
        && a.session_tickets == b.session_tickets
        && a.session_cache == b.session_cache
}

fn server_config(
    tls: &Tls,
    keys: Vec<Arc<CertifiedKey>>,
    clients: Option<Arc<ClientVerifier>>,
    sessions: Sessions,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider(&tls.suites)))
        .with_protocol_versions(&versions(tls.v12, tls.v13))?
        .with_client_cert_verifier(match clients {
            Some(verifier) => verifier,
            None => Arc::new(NoClientAuth),
        })
        .with_cert_resolver(Arc::new(Keys(keys)));
    config.ignore_client_order = tls.honor_cipher_order;
    if tls.session_tickets {
        config.ticketer = sessions.tickets;
    }
    config.session_storage = if tls.session_cache {
        sessions.cache as Arc<dyn StoresServerSessions>
    } else {
        Arc::new(NoServerSessionStorage {})
    };
    Ok(config)
}

fn provider(suites: &[CipherSuite]) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: suites
            .iter()
            .filter_map(|suite| {
                let code = code(*suite);
                let mut all = aws_lc_rs::ALL_CIPHER_SUITES.iter();
                all.find(|own| own.suite() == code).copied()
            })
            .collect(),
        ..aws_lc_rs::default_provider()
    }
}

fn versions(v12: bool, v13: bool) -> Vec<&'static SupportedProtocolVersion> {
    let both = [
        (v13, &rustls::version::TLS13),
        (v12, &rustls::version::TLS12),
    ];
    let on = both.into_iter();
    on.filter_map(|(on, version)| on.then_some(version))
        .collect()
}

const fn code(suite: CipherSuite) -> Code {
    match suite {
        CipherSuite::Tls13Aes256 => Code::TLS13_AES_256_GCM_SHA384,
        CipherSuite::Tls13Aes128 => Code::TLS13_AES_128_GCM_SHA256,
        CipherSuite::Tls13Chacha20 => Code::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdsaAes256 => Code::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaAes128 => Code::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaChacha20 => Code::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaAes256 => Code::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaAes128 => Code::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaChacha20 => Code::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

/// OpenSSL's name of a suite that was agreed on, for logs.
pub(crate) const fn suite_name(suite: Code) -> &'static str {
    match suite {
        Code::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        Code::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        Code::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        Code::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        Code::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Code::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        Code::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        Code::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        Code::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "-",
    }
}

/// A host's certificates: the first whose kind of key the client can check.
#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered = hello.signature_schemes();
        self.0
            .iter()
            .find(|key| key.key.choose_scheme(offered).is_some())
            // rustls words the refusal.
            .or(self.0.first())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::table::monotonic_ns;

    #[test]
    fn sessions_are_made_with_the_first_host_and_once() {
        let resumption = Resumption::default();
        let plain = Spec::default();
        let made = configure(&plain, &Certificates::default(), &resumption);
        assert!(made.is_ok_and(|hosts| hosts.iter().all(Option::is_none)));
        assert!(resumption.open.lock().expect("no panic").is_none());
        let (first, second) = (resumption.open(), resumption.open());
        assert!(Arc::ptr_eq(&first.tickets, &second.tickets));
        assert!(Arc::ptr_eq(&first.cache, &second.cache));
    }

    #[test]
    fn tickets_are_of_use_where_the_same_is_asked_of_clients_and_nowhere_else() {
        use crate::config::spec::{NamedFile, PeerVerify, Place, Revocation};

        let keys = TicketKeys::new(monotonic_ns(), &mut tickets::fresh).expect("randomness");
        // Two processes.
        let (one, other) = (Resumption::default(), Resumption::default());
        one.take(keys.clone());
        other.take(keys);
        let file = |line| NamedFile {
            path: "ca.pem".into(),
            at: Place {
                line,
                ..Place::default()
            },
        };
        let demand = |line, ca: u8, crls: &[u8]| Demand {
            settings: ClientVerify {
                verify: PeerVerify::Require,
                depth: 1,
                ca_file: Some(file(line)),
                ca_path: None,
                request_file: None,
                request_path: None,
                revocation: Revocation::default(),
                crl_file: None,
                crl_path: None,
            },
            authorities: vec![Der(vec![ca].into())],
            crls: crls.iter().map(|crl| Der(vec![*crl].into())).collect(),
        };
        let ticket = one.of(demand(1, 7, &[])).expect("sessions").tickets;
        let ticket = ticket.encrypt(b"session").expect("a ticket");
        let reads = |sessions: Sessions| sessions.tickets.decrypt(&ticket).is_some();
        assert!(reads(other.of(demand(1, 7, &[])).expect("sessions")));
        assert!(
            reads(other.of(demand(9, 7, &[])).expect("sessions")),
            "on another line"
        );
        assert!(
            !reads(one.of(demand(1, 8, &[])).expect("sessions")),
            "another authority"
        );
        assert!(
            !reads(one.of(demand(1, 7, &[7])).expect("sessions")),
            "a list of revoked ones"
        );
        let mut optional = demand(1, 7, &[]);
        optional.settings.verify = PeerVerify::Optional;
        assert!(!reads(one.of(optional).expect("sessions")));
        assert!(!reads(one.open()));
        let open = one.open().tickets.encrypt(b"session").expect("a ticket");
        assert!(other.open().tickets.decrypt(&open).is_some());
        let closed = other.of(demand(1, 7, &[])).expect("sessions");
        assert!(closed.tickets.decrypt(&open).is_none());
    }
}
