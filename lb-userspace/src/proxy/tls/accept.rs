//! A connection's beginning on a TLS port: the handshake, or the page for who speaks plain HTTP.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::server::Acceptor;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};
use tracing::debug;

use super::{
    super::vhost,
    name,
    outcome::{self, Side, Trouble},
    suite_name, validity,
    verify::ClientVerifier,
};
use crate::proxy::shard::{Current, Shard};

/// How much rustls may hold for a client that does not read, bytes of plaintext and of records.
const BUFFER_LIMIT: usize = 16 << 10;

/// What a handshake may still take once the process drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What is known of a connection's TLS.
#[derive(Debug)]
pub(crate) struct Session {
    /// The name that the client gave, in lower case.
    pub(crate) name: Option<Box<str>>,
    /// `TLSv1.3`
    pub(crate) protocol: &'static str,
    /// OpenSSL's name.
    pub(crate) cipher: &'static str,
    /// HTTP/2 was agreed on.
    pub(crate) is_h2: bool,
    /// It goes on with the keys of an earlier one.
    pub(crate) is_resumed: bool,
    /// What the client showed, if it did.
    pub(crate) client: Option<Box<Shown>>,
}

/// A client's certificate, for logs: mod_ssl's variables.
#[derive(Debug)]
pub(crate) struct Shown {
    /// `SSL_CLIENT_VERIFY`: SUCCESS, or GENEROUS where nobody vouches for it.
    pub(crate) verify: &'static str,
    /// `SSL_CLIENT_S_DN`
    pub(crate) subject: String,
    /// `SSL_CLIENT_S_DN_CN`
    pub(crate) common_name: Option<String>,
    /// `SSL_CLIENT_I_DN`
    pub(crate) issuer: String,
    /// `SSL_CLIENT_M_SERIAL`
    pub(crate) serial: String,
    /// As it was shown, DER: for the variables that few ask for.
    pub(crate) certificate: Box<[u8]>,
}

impl Shown {
    fn of(verifier: &ClientVerifier, chain: &[CertificateDer<'_>]) -> Option<Box<Self>> {
        let own = chain.first()?;
        let subject = validity::subject(own).unwrap_or_default();
        let serial = validity::serial(own).unwrap_or_default();
        Some(Box::new(Self {
            verify: if verifier.vouches(chain) {
                "SUCCESS"
            } else {
                "GENEROUS"
            },
            subject: name::text(subject),
            common_name: name::value(subject, "CN", 0),
            issuer: name::text(validity::issuer(own).unwrap_or_default()),
            serial: name::hexadecimal(serial.strip_prefix(&[0]).unwrap_or(serial)),
            certificate: own.as_ref().into(),
        }))
    }
}

/// How a connection began.
pub(crate) enum Opening {
    /// On a port without TLS.
    Cleartext(TcpStream),
    /// On a port without TLS, with its first bytes.
    Fresh(std::net::TcpStream),
    /// With TLS.
    Secure(Box<TlsStream<TcpStream>>, Box<Session>),
    /// On a TLS port with an HTTP request in clear, of which these bytes and others were read.
    Misspoken(TcpStream, [u8; 5]),
}

impl Opening {
    /// The session of a connection that agreed on HTTP/2.
    pub(crate) fn h2(&self) -> Option<&Session> {
        match self {
            Self::Secure(_, session) if session.is_h2 => Some(session),
            _ => None,
        }
    }
}

/// Makes the handshake. `None`: there is nothing to talk to any more; it was logged.
pub(crate) async fn open(
    shard: &Rc<Shard>,
    current: &Rc<Current>,
    candidates: &[usize],
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Opening> {
    let hosts = &current.plan.spec.hosts;
    let limit = hosts[candidates[0]]
        .tls
        .as_ref()
        .map(|tls| tls.handshake_timeout)?;
    let alarm = shard.wheel.alarm();
    if !limit.is_zero() {
        alarm.set(limit);
    }
    let mut handshake = Box::pin(shake(current, candidates, stream));
    let mut drain = shard.drained();
    let mut drain = Box::pin(async move {
        // The sender lives in the shard, which this task keeps.
        let _ = drain.changed().await;
    });
    let mut hurried = false;
    let done = std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if !hurried && (shard.is_draining() || drain.as_mut().poll(cx).is_ready()) {
            hurried = true;
            alarm.set(DRAIN_GRACE);
        }
        alarm.poll(cx).map(|()| None)
    })
    .await;
    let trouble = match &done {
        Some(Ok(Opening::Secure(stream, _))) => {
            let made = outcome::made(Side::Client, stream.get_ref().1);
            shard.tally.handshake(made);
            return done?.ok();
        }
        Some(Ok(_)) => Trouble::PlainHttp,
        Some(Err(error)) => Trouble::of(error),
        None => Trouble::Timeout,
    };
    shard
        .tally
        .handshake(outcome::failed(Side::Client, trouble));
    let reason = trouble.name();
    match done {
        Some(Ok(opening)) => Some(opening),
        Some(Err(error)) => {
            debug!(target: "sluice::proxy", reason, "[client {peer}] AH02008: TLS handshake failed: {error}");
            None
        }
        None => {
            debug!(target: "sluice::proxy", reason, "[client {peer}] TLS handshake not done in time");
            None
        }
    }
}

async fn shake(current: &Current, candidates: &[usize], stream: TcpStream) -> io::Result<Opening> {
    let plan = &current.plan;
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), Listening::new(stream));
    let start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => {
            return match acceptor.take_io() {
                Some(io) if io.is_http() => Ok(Opening::Misspoken(io.stream, io.first)),
                _ => Err(error),
            };
        }
    };
    let name = start
        .client_hello()
        .server_name()
        .and_then(|name| vhost::normalise(name.as_bytes()).ok().flatten());
    let host = plan
        .names
        .select(&plan.spec.hosts, candidates, name.as_deref());
    // A host without TLS among hosts with it: the first one's, as in httpd.
    let tls = [host, candidates[0]]
        .into_iter()
        .find_map(|host| plan.hosts[host].tls.as_ref())
        .ok_or_else(|| io::Error::other("the virtual host has no TLS any more"))?;
    let config = match (&tls.reversed, start.client_hello().alpn()) {
        (Some(reversed), Some(mut wanted)) => {
            let ours = &tls.config.alpn_protocols;
            let first = wanted.find(|name| ours.iter().any(|own| own == name));
            if first == ours.first().map(Vec::as_slice) {
                &tls.config
            } else {
                reversed
            }
        }
        _ => &tls.config,
    };
    let config = std::sync::Arc::clone(config);
    let StartHandshake { accepted, io, .. } = start;
    let stream = StartHandshake::from_parts(accepted, io.stream)
        .into_stream_with(config, |session| {
            session.set_buffer_limit(Some(BUFFER_LIMIT));
        })
        .await?;
    let agreed = stream.get_ref().1;
    let session = Session {
        name: name.map(String::into_boxed_str),
        protocol: match agreed.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        },
        cipher: agreed
            .negotiated_cipher_suite()
            .map_or("-", |suite| suite_name(suite.suite())),
        is_h2: agreed.alpn_protocol() == Some(b"h2"),
        is_resumed: agreed.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        client: tls.clients.as_ref().and_then(|verifier| {
            let chain = agreed.peer_certificates()?;
            Shown::of(verifier, chain)
        }),
    };
    Ok(Opening::Secure(Box::new(stream), Box::new(session)))
}

/// A stream that remembers how its client began, for as long as that is of interest.
struct Listening {
    stream: TcpStream,
    first: [u8; 5],
    seen: usize,
}

impl Listening {
    const fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            first: [0; 5],
            seen: 0,
        }
    }

    /// What OpenSSL takes for an HTTP request, and with it httpd.
    fn is_http(&self) -> bool {
        let first = &self.first[..self.seen];
        [&b"GET "[..], b"POST ", b"HEAD ", b"PUT ", b"CONNE"]
            .iter()
            .any(|method| first.starts_with(method))
    }
}

impl AsyncRead for Listening {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        for byte in &buffer.filled()[before..] {
            if let Some(place) = this.first.get_mut(this.seen) {
                *place = *byte;
                this.seen += 1;
            }
        }
        read
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // An alert in front of the page would be noise to who speaks HTTP.
        if this.is_http() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
