//! A connection to a member: what its user and its transport share, and the transport between hyper
//! and the socket. How connections are made and pooled is not here.

use std::{
    cell::{Cell, Ref, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    proxy::{plan::Place, shard::Shard, tls::member::Line, wheel::Alarm},
    telemetry::counters::Number,
};

/// Bytes of interim responses and the head after which a member's answer is none; hyper may read
/// nearly [`PIECE`] of a body together with the head.
const HEAD_BOUND: u64 = 128 << 10;

/// Room for a kept head that an idle connection may have, bytes.
const KEPT_ROOM: usize = 1024;

/// What a connection's user and its transport share.
pub(crate) struct Link {
    pub(super) stream: RefCell<Line>,
    /// Bytes received and sent.
    pub(crate) received: Cell<u64>,
    /// Bytes sent.
    pub(crate) sent: Cell<u64>,
    /// With so many bytes received the head of the response must have come.
    head_bound: Cell<u64>,
    /// Tick of the last byte either way.
    pub(crate) moved: Cell<u64>,
    /// Deadline of whoever uses the connection.
    pub(crate) alarm: Alarm,
    shard: Rc<Shard>,
    place: Option<Place>,
    /// What hyper had read behind a 101 when it let go of the connection.
    pub(super) leftover: Cell<Bytes>,
    /// It is in a pool, and hyper has nothing to do but to wait for a request.
    pub(super) rests: Cell<bool>,
    /// The socket did not take all of what hyper last wrote.
    blocked: Cell<bool>,
    /// What is written next is a request's head, which may be needed again.
    keeps: Cell<bool>,
    /// That head.
    kept: RefCell<Vec<u8>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shard.tally.down(Number::Open);
        self.place = None;
        self.shard.pools.freed.notify_waiters();
    }
}

impl Link {
    pub(super) fn new(shard: &Rc<Shard>, stream: Line, alarm: Alarm, place: Place) -> Rc<Self> {
        shard.tally.up(Number::Open);
        Rc::new(Self {
            stream: RefCell::new(stream),
            received: Cell::new(0),
            sent: Cell::new(0),
            head_bound: Cell::new(u64::MAX),
            moved: Cell::new(shard.wheel.now()),
            alarm,
            shard: Rc::clone(shard),
            place: Some(place),
            leftover: Cell::default(),
            rests: Cell::new(false),
            blocked: Cell::new(false),
            keeps: Cell::new(false),
            kept: RefCell::default(),
        })
    }

    /// Whether its task may sleep on, whoever woke it: hyper, asked, would look for a request and
    /// for bytes and find neither. Its body's channel wakes the task when the last of a response was
    /// taken, some thousand instructions for nothing.
    pub(super) fn sleeps(&self, cx: &mut Context<'_>) -> bool {
        self.rests.get()
            && !self.blocked.get()
            && match &*self.stream.borrow() {
                Line::Plain(stream) => stream.poll_read_ready(cx).is_pending(),
                Line::Unix(stream) => stream.poll_read_ready(cx).is_pending(),
                // What TLS holds is no readiness of the socket's.
                Line::Tls(_) => false,
            }
    }

    /// A request without a body follows. `keep`: its head is kept, see [`Link::kept`].
    pub(crate) fn keep_head(&self, keep: bool) {
        self.keeps.set(keep);
        self.kept.borrow_mut().clear();
    }

    /// The head of the last request, as hyper wrote it; empty if it never did, or was not told to
    /// keep it. The head is kept as bytes, because cloning the map of its fields, which hyper
    /// consumes, costs more than anything else in a request that is never sent again.
    pub(crate) fn kept(&self) -> Ref<'_, [u8]> {
        Ref::map(self.kept.borrow(), Vec::as_slice)
    }

    fn keep<'a>(&self, slices: impl Iterator<Item = &'a [u8]>) {
        // hyper offers a head as a whole, whatever the socket takes of it.
        if self.keeps.replace(false) {
            let mut kept = self.kept.borrow_mut();
            slices.for_each(|slice| kept.extend_from_slice(slice));
        }
    }

    /// The connection goes into a pool. `idle`: hyper waits for a request.
    pub(super) fn rest(&self, idle: bool) {
        self.rests.set(idle);
        self.alarm.clear();
        // The room of a large head must not stay with an idle connection.
        let mut kept = self.kept.borrow_mut();
        kept.clear();
        kept.shrink_to(KEPT_ROOM);
    }

    /// The next bytes are a response's head: interim responses may not go on for ever.
    pub(crate) fn expect_head(&self) {
        let bound = self.received.get() + HEAD_BOUND;
        self.head_bound.set(bound);
    }

    /// The head is there, what follows is bounded by whoever reads it.
    pub(crate) fn head_came(&self) {
        self.head_bound.set(u64::MAX);
    }

    /// What the member sent behind its 101.
    pub(crate) fn take_leftover(&self) -> Bytes {
        self.leftover.take()
    }

    /// Reads without hyper.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut Incoming(self)).poll_read(cx, buffer)
    }

    /// Writes without hyper.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.borrow_mut().poll_write(cx, bytes);
        self.wrote(written)
    }

    /// Pending while TLS holds records.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow_mut().poll_flush(cx)
    }

    /// Tells the member that nothing more comes, and goes on reading.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        ready!(stream.poll_flush(cx))?;
        stream.say_goodbye(cx);
        rustix::net::shutdown(stream.socket(), rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }

    /// The member shall see that the other side broke.
    pub(crate) fn reset_on_close(&self) {
        let stream = self.stream.borrow();
        // Best effort: without it the member sees an ordinary end.
        let _ = socket2::SockRef::from(&stream.socket()).set_linger(Some(Duration::ZERO));
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.sent.set(self.sent.get() + count as u64);
            self.moved.set(self.shard.wheel.now());
        }
        written
    }

    /// Whether somebody waits for a place with this member.
    pub(super) fn is_wanted(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.places().is_wanted())
    }
}

/// The transport of a connection to a member.
pub(super) struct LinkIo {
    pub(super) link: Rc<Link>,
}

impl Read for LinkIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.link.received.get() >= self.link.head_bound.get() {
            let error = "no final response within 128 KiB";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        // Straight into hyper's buffer: bodies are not copied on their way.
        Pin::new(&mut TokioIo::new(Incoming(&self.link))).poll_read(cx, out)
    }
}

/// The member's side of a link, counted.
struct Incoming<'a>(&'a Link);

impl AsyncRead for Incoming<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = self.0;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *link.stream.borrow_mut()).poll_read(cx, buffer))?;
        let count = (buffer.filled().len() - before) as u64;
        link.received.set(link.received.get() + count);
        link.moved.set(link.shard.wheel.now());
        Poll::Ready(Ok(()))
    }
}

impl Write for LinkIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.link.keep(std::iter::once(bytes));
        self.link.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.link.keep(slices.iter().map(|slice| &**slice));
        let written = {
            let mut stream = self.link.stream.borrow_mut();
            stream.poll_write_vectored(&self.link.shard, cx, slices)
        };
        self.link.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.stream.borrow_mut().poll_flush(cx)
    }

    /// The socket is closed when the connection's task ends; over TLS the member is told before.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.stream.borrow_mut().say_goodbye(cx);
        Poll::Ready(Ok(()))
    }
}
