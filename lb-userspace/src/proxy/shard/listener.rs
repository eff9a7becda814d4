//! A listening socket of a shard, and what comes over it.

use std::{io, net::SocketAddr, os::fd::AsFd as _};

use rustix::net::SocketFlags;
use tokio::io::{Interest, unix::AsyncFd};

use crate::dataplane::sys::{defers_accept, watch_listener};

/// A listening socket.
pub(super) struct Listener {
    socket: AsyncFd<std::net::TcpListener>,
    /// Where it listens, if that is one address; else each connection has to be asked.
    pub(super) local: Option<SocketAddr>,
    /// Connections come with their first bytes.
    pub(super) deferred: bool,
}

/// A connection that was accepted.
pub(super) struct Arrival {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// Its first bytes are there.
    pub(super) deferred: bool,
}

impl Listener {
    pub(super) fn new(socket: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self {
            local: socket
                .local_addr()
                .ok()
                .filter(|address| !address.ip().is_unspecified()),
            deferred: defers_accept(socket.as_fd()),
            socket: watch_listener(socket)?,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Arrival> {
        self.socket
            .async_io(Interest::READABLE, |_| self.accept_now())
            .await
    }

    /// [`io::ErrorKind::WouldBlock`]: nobody waits.
    pub(super) fn accept_now(&self) -> io::Result<Arrival> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (stream, peer) = rustix::net::acceptfrom_with(self.socket.get_ref(), flags)?;
        let stream = std::net::TcpStream::from(stream);
        let peer = peer
            .and_then(|peer| SocketAddr::try_from(peer).ok())
            .ok_or(io::ErrorKind::ConnectionAborted)?;
        let local = match self.local {
            Some(local) => local,
            None => stream.local_addr()?,
        };
        Ok(Arrival {
            stream,
            peer,
            local,
            deferred: self.deferred,
        })
    }
}

/// Errors of one connection that never became one.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}
