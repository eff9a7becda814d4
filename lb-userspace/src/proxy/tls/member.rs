//! TLS to members: the rustls configurations of a generation, the handshake, and the line that a
//! member's bytes go over, with TLS or without.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use lb_common::member::MemberId;
use rustls::{
    ClientConfig, Error, SignatureScheme,
    client::{ClientSessionMemoryCache, ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Certificates, Der, MemberFiles, Pair, TlsError,
    outcome::{self, Side, Trouble},
    provider, validity,
    verify::{Chains, MemberVerifier, words},
    versions,
};
use crate::{
    config::spec::{self, MemberTls, Spec},
    proxy::{client::write_slices, shard::Shard},
};

/// How much rustls may hold for a member that does not read, bytes of plaintext and of records.
const BUFFER_LIMIT: usize = 16 << 10;

/// Names of a member whose sessions are kept: one, but with ProxyPreserveHost.
const CACHED_NAMES: usize = 64;

/// One of `spec.member_tls` with what its files hold, made ready.
#[derive(Debug)]
pub(crate) struct Trust {
    settings: MemberTls,
    authorities: Vec<Der>,
    files: MemberFiles,
    config: ClientConfig,
}

/// Whom a connection has to reach: settings and name. Connections of equal ones may be exchanged.
#[derive(Debug)]
pub(crate) struct Peer {
    trust: Arc<Trust>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// The peers of a generation, for who makes connections of his own: health checks.
#[derive(Debug, Default)]
pub struct Peers(HashMap<MemberId, Arc<Peer>>);

impl Peers {
    /// Of these members.
    pub(crate) fn new(peers: impl Iterator<Item = (MemberId, Arc<Peer>)>) -> Self {
        Self(peers.collect())
    }

    /// Whom to expect over TLS; `None`: cleartext.
    pub(crate) fn of(&self, member: MemberId) -> Option<Arc<Peer>> {
        self.0.get(&member).map(Arc::clone)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl Peer {
    /// Of a member; `known`: what it had before a reload, with its sessions.
    pub(crate) fn of(
        member: &spec::Member,
        trust: &[Arc<Trust>],
        known: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(index) = member.tls else {
            return Ok(None);
        };
        let missing = || TlsError::Member(format!("{} has no settings", member.url));
        let trust = trust.get(index).ok_or_else(missing)?;
        let name = ServerName::try_from(member.host.clone())
            .map_err(|error| TlsError::Member(format!("{}: {error}", member.url)))?;
        if let Some(known) = known
            && Arc::ptr_eq(&known.trust, trust)
            && known.name == name
        {
            return Ok(Some(Arc::clone(known)));
        }
        let mut config = trust.config.clone();
        config.resumption =
            Resumption::store(Arc::new(ClientSessionMemoryCache::new(CACHED_NAMES)));
        Ok(Some(Arc::new(Self {
            trust: Arc::clone(trust),
            config: Arc::new(config),
            name,
        })))
    }

    /// The same member by another name (ProxyPreserveHost). One that TLS cannot carry: its own.
    pub(crate) fn named(self: &Arc<Self>, name: &str) -> Arc<Self> {
        match ServerName::try_from(name) {
            Ok(name) if name != self.name => Arc::new(Self {
                trust: Arc::clone(&self.trust),
                config: Arc::clone(&self.config),
                name: name.to_owned(),
            }),
            _ => Arc::clone(self),
        }
    }
}

/// Makes what a generation has to say of TLS to members, parallel to `spec.member_tls`. What
/// `previous` had already is kept: connections and sessions go on.
pub(crate) fn configure(
    spec: &Spec,
    certificates: &Certificates,
    previous: &[Arc<Trust>],
) -> Result<Vec<Arc<Trust>>, TlsError> {
    spec.member_tls
        .iter()
        .enumerate()
        .map(|(index, settings)| {
            let missing = || TlsError::Member(format!("files of setting {index} are missing"));
            let files = certificates.members.get(index).ok_or_else(missing)?;
            let authorities = match files.authorities {
                Some(at) => certificates.authorities.get(at).ok_or_else(missing)?,
                None => &[][..],
            };
            let same = |known: &&Arc<Trust>| {
                known.settings.is_same(settings)
                    && known.authorities == authorities
                    && (&known.files.crls, &known.files.machine) == (&files.crls, &files.machine)
            };
            if let Some(known) = previous.iter().find(same) {
                return Ok(Arc::clone(known));
            }
            let config = client_config(settings, authorities, files)
                .map_err(|error| TlsError::Member(error.to_string()))?;
            Ok(Arc::new(Trust {
                settings: settings.clone(),
                authorities: authorities.to_vec(),
                files: files.clone(),
                config,
            }))
        })
        .collect()
}

fn client_config(
    settings: &MemberTls,
    authorities: &[Der],
    files: &MemberFiles,
) -> Result<ClientConfig, Error> {
    let verifier = MemberVerifier {
        chains: Chains::new(
            authorities,
            &files.crls,
            settings.revocation,
            settings.depth,
        ),
        verify: settings.verify,
        check_name: settings.check_name,
        check_expiry: settings.check_expiry,
    };
    let keys = files
        .machine
        .iter()
        .map(|pair| Ok((Arc::new(pair.certify()?), issuers(pair))))
        .collect::<Result<Vec<_>, Error>>()?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider(&settings.suites)))
        .with_protocol_versions(&versions(settings.v12, settings.v13))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(if keys.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_resolver(Arc::new(MachineKeys(keys)))
    })
}

/// Names of the authorities that a pair's chain leads to, DER.
fn issuers(pair: &Pair) -> Vec<Vec<u8>> {
    let certificates = pair.chain.iter();
    certificates
        .filter_map(|der| validity::issuer(&der.0).map(<[u8]>::to_vec))
        .collect()
}

/// Certificates to show to a member: as in httpd the first that one of the authorities it names
/// vouches for; the first of all where it names none.
#[derive(Debug)]
struct MachineKeys(Vec<(Arc<CertifiedKey>, Vec<Vec<u8>>)>);

impl ResolvesClientCert for MachineKeys {
    fn resolve(&self, wanted: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |issuers: &[Vec<u8>]| {
            wanted.is_empty() || issuers.iter().any(|own| wanted.contains(&own.as_slice()))
        };
        self.0
            .iter()
            .find(|(key, issuers)| fits(issuers) && key.key.choose_scheme(schemes).is_some())
            .map(|(key, _)| Arc::clone(key))
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// A handshake that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The member's certificate is not wanted.
    #[error("certificate not accepted: {}", words(.0))]
    Certificate(rustls::CertificateError),
    /// No TLS, none in common, or the member refused.
    #[error("{0}")]
    Failed(#[source] io::Error),
    /// Not done in time.
    #[error("not done in time")]
    TimedOut,
}

/// The handshake of [`open`] was given up: its deadline passed.
pub(crate) fn late(shard: &Shard) -> HandshakeError {
    let end = outcome::failed(Side::Member, Trouble::Timeout);
    shard.tally.handshake(end);
    HandshakeError::TimedOut
}

/// Makes the handshake on a connected stream. Sets no deadline.
pub(crate) async fn open(
    shard: &Shard,
    peer: &Peer,
    stream: TcpStream,
) -> Result<Line, HandshakeError> {
    match shake(peer, stream).await {
        Ok(stream) => {
            let made = outcome::made(Side::Member, stream.get_ref().1);
            shard.tally.handshake(made);
            Ok(Line::Tls(Box::new(stream)))
        }
        Err(error) => {
            let end = outcome::failed(Side::Member, Trouble::of(&error));
            shard.tally.handshake(end);
            Err(error.into())
        }
    }
}

/// The same without counting it.
pub(crate) async fn shake(peer: &Peer, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::clone(&peer.config));
    connector
        .connect_with(peer.name.clone(), stream, |session| {
            session.set_buffer_limit(Some(BUFFER_LIMIT));
        })
        .await
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(Error::InvalidCertificate(why)) => Self::Certificate(why.clone()),
            _ => Self::Failed(error),
        }
    }
}

/// What a member's bytes go over. Boxed where it is large.
pub(crate) enum Line {
    /// `http://`
    Plain(TcpStream),
    /// `unix:`
    Unix(UnixStream),
    /// `https://`
    Tls(Box<TlsStream<TcpStream>>),
}

impl Line {
    /// The socket below.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        shard: &Shard,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => write_slices(shard, Pin::new(stream), cx, slices),
            Self::Unix(stream) => write_slices(shard, Pin::new(stream), cx, slices),
            // One record of them all, as far as they fit.
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    /// Pending while TLS holds records that the socket did not take.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    /// Tells a TLS member that nothing more comes, if the socket takes it at once: nobody waits.
    pub(crate) fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if let Self::Tls(stream) = self {
            stream.get_mut().1.send_close_notify();
            let _ = Pin::new(&mut **stream).poll_flush(cx);
        }
    }
}

impl AsyncRead for Line {
    /// Over TLS an end that the member did not announce is an error: a body without a length may
    /// have been cut short by anybody (RFC 9112 section 9.8).
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}
