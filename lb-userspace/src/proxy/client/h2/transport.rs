//! The transport between hyper's HTTP/2 connection and a client's socket: frames are counted on
//! their way, bytes are passed as they are.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::Session;

/// What hyper reads from and writes to.
pub(super) struct Io(pub(super) Rc<Session>);

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let session = &self.0;
        let mut verdict = session.verdict();
        if verdict.is_ok() {
            let read = session
                .client
                .poll_socket(&session.shard, out.remaining(), cx, |bytes| {
                    verdict = session.came(bytes);
                    if verdict.is_ok() {
                        out.put_slice(bytes);
                    }
                });
            if ready!(read)? == 0 {
                session.client.ended.set(true);
            }
        }
        Poll::Ready(verdict)
    }
}

impl Io {
    /// Counts what was written and minds the time of a client that reads nothing at all.
    fn wrote(
        &self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let client = &self.0.client;
        match written {
            Poll::Ready(_) => client.write_alarm.clear(),
            Poll::Pending => {
                if !client.write_alarm.is_set() {
                    client.write_alarm.set(client.io_timeout.get());
                }
                ready!(client.write_alarm.poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        written
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.0.client.stream.borrow_mut().poll_write(cx, bytes);
        let count = ready!(self.wrote(cx, written))?;
        self.0.went(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = {
            let mut stream = self.0.client.stream.borrow_mut();
            stream.poll_write_vectored(&self.0.shard, cx, slices)
        };
        let count = ready!(self.wrote(cx, written))?;
        let mut left = count;
        for slice in slices {
            let part = slice.len().min(left);
            self.0.went(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.client.tls.is_none() {
            return Poll::Ready(Ok(()));
        }
        let flushed = self.0.client.stream.borrow_mut().poll_flush(cx);
        self.wrote(cx, flushed.map_ok(|()| 0)).map_ok(|_| ())
    }

    /// Nothing: [`super::Client::linger`] ends the connection.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
