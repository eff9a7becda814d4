//! A connection to a member: what its users share. What is said over it is in `upstream.rs`, how
//! connections are made and pooled is not here.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use lb_common::member::MemberId;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    proxy::{
        body::Progress,
        plan::Place,
        shard::Shard,
        tls::member::Line,
        wheel::{Alarm, TICK},
    },
    telemetry::counters::Number,
};

/// What a connection's users share: the exchange, its upload, a tunnel.
pub(crate) struct Link {
    pub(super) stream: RefCell<Line>,
    /// Bytes received.
    pub(crate) received: Cell<u64>,
    /// Bytes sent.
    pub(crate) sent: Cell<u64>,
    /// Tick of the last byte either way.
    pub(crate) moved: Cell<u64>,
    /// Deadline of whoever uses the connection.
    pub(crate) alarm: Alarm,
    /// The upload broke off: the request is not whole and never will be.
    pub(super) broken: Cell<bool>,
    /// An upload is not whole: the connection is inside a request.
    pub(super) half: Cell<bool>,
    /// Who waits for the member while an upload goes on.
    pub(super) reader: RefCell<Option<Waker>>,
    pub(super) shard: Rc<Shard>,
    place: Option<Place>,
    /// The member.
    id: MemberId,
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.stream.get_mut().say_goodbye(&mut cx);
        self.shard.tally.down(Number::Open);
        self.place = None;
        self.shard.pools.freed(self.id);
    }
}

impl Link {
    pub(super) fn new(
        shard: &Rc<Shard>,
        stream: Line,
        alarm: Alarm,
        place: Place,
        id: MemberId,
    ) -> Rc<Self> {
        shard.tally.up(Number::Open);
        Rc::new(Self {
            stream: RefCell::new(stream),
            received: Cell::new(0),
            sent: Cell::new(0),
            moved: Cell::new(shard.wheel.now()),
            alarm,
            broken: Cell::new(false),
            half: Cell::new(false),
            reader: RefCell::default(),
            shard: Rc::clone(shard),
            place: Some(place),
            id,
        })
    }

    /// The upload ends before its end; whoever waits for the member learns it.
    pub(super) fn break_off(&self) {
        self.broken.set(true);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// What is left of `timeout` when its alarm rings: bytes either way begin it anew, and it rests
    /// while the client is the one to send. `None`: it is over.
    pub(crate) fn patience(&self, progress: &Progress, timeout: Duration) -> Option<Duration> {
        let now = self.shard.wheel.now();
        if progress.waits_for_client.get() && !progress.done.get() {
            // The transport minds the client's time.
            self.moved.set(now);
            return Some(timeout);
        }
        let ticks = timeout.as_millis().div_ceil(TICK.as_millis());
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        let left = ticks.checked_sub(now.saturating_sub(self.moved.get()))?;
        (left > 0).then(|| TICK.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX)))
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut Incoming(self)).poll_read(cx, buffer)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream.borrow_mut().poll_write(cx, bytes);
        self.wrote(written)
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = {
            let mut stream = self.stream.borrow_mut();
            stream.poll_write_vectored(&self.shard, cx, slices)
        };
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
        let Poll::Ready(Ok(count)) = written else {
            return written;
        };
        if count == 0 {
            // A stream that takes nothing will never take anything.
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent.set(self.sent.get() + count as u64);
        self.moved.set(self.shard.wheel.now());
        written
    }

    /// Whether somebody waits for a place with this member.
    pub(super) fn is_wanted(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.places().is_wanted())
    }
}

/// The member's side of a link, counted.
pub(super) struct Incoming<'a>(pub(super) &'a Link);

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
