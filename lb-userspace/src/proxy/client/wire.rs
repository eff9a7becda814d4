//! What a client's bytes go over: the socket, or TLS on it. Boxed where it is large, so that a
//! cleartext connection pays nothing for TLS.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::write_slices;
use crate::proxy::shard::Shard;

/// A client's end of the line.
pub(crate) enum Wire {
    Plain(Socket),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A socket that the runtime does not watch before it has to: one that comes with its first bytes
/// and closes behind the answer costs two system calls and an event less.
pub(crate) enum Socket {
    /// Not watched; `None` after that failed.
    Fresh(Option<std::net::TcpStream>),
    /// The runtime's.
    Watched(TcpStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Watched(stream)
    }
}

impl Socket {
    /// Does at once what can be done at once; `None`: the runtime has to watch, or does.
    fn at_once<T>(
        &self,
        call: impl FnOnce(&std::net::TcpStream) -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let Self::Fresh(Some(stream)) = self else {
            return None;
        };
        match call(stream) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                None
            }
            done => Some(done),
        }
    }

    /// Has the runtime watch it from now on.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Self::Fresh(stream) = self {
            let stream = stream.take().ok_or(io::ErrorKind::NotConnected)?;
            *self = Self::Watched(TcpStream::from_std(stream)?);
        }
        match self {
            Self::Watched(stream) => Ok(Pin::new(stream)),
            Self::Fresh(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let unfilled = buffer.initialize_unfilled();
        if let Some(read) = this.at_once(|mut stream| stream.read(unfilled)) {
            buffer.advance(read?);
            return Poll::Ready(Ok(()));
        }
        this.watched()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(written) = this.at_once(|mut stream| stream.write(bytes)) {
            return Poll::Ready(written);
        }
        this.watched()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(written) = this.at_once(|mut stream| stream.write_vectored(slices)) {
            return Poll::Ready(written);
        }
        this.watched()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watched()?.poll_shutdown(cx)
    }
}

impl Wire {
    /// The socket below; `None`: it was lost when the runtime was to watch it.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(Socket::Fresh(stream)) => stream.as_ref().map(AsFd::as_fd),
            Self::Plain(Socket::Watched(stream)) => Some(stream.as_fd()),
            Self::Tls(stream) => Some(stream.get_ref().0.as_fd()),
        }
    }

    /// Whether the runtime does not watch it yet.
    pub(super) const fn is_fresh(&self) -> bool {
        matches!(self, Self::Plain(Socket::Fresh(_)))
    }

    /// Reads; nothing filled is the client's end. One that ends without saying so in TLS has ended
    /// all the same: HTTP/1 requests say themselves where they end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => match ready!(Pin::new(&mut **stream).poll_read(cx, buffer)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => Poll::Ready(read),
            },
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        shard: &Shard,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => write_slices(shard, Pin::new(socket), cx, slices),
            // One record of them all, as far as they fit.
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    /// Pending while TLS holds records that the socket did not take.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    /// Tells a TLS client that nothing more comes.
    pub(super) fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => {
                // Once, however often it is called.
                stream.get_mut().1.send_close_notify();
                Pin::new(&mut **stream).poll_flush(cx)
            }
        }
    }
}
