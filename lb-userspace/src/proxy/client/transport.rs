//! The transport between hyper and a client's socket: the gate at work, and the deadlines.

use std::{
    io,
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::AsyncWrite;

use super::{Activity, Client, left};
use crate::proxy::{
    gate::{Chunks, Framing, MAX_HEAD, Refusal, Scanner, Verdict, escape_target, is_uri},
    shard::Shard,
};

/// What the transport is in the middle of.
enum Phase {
    /// A head, or the silence before it.
    Head,
    /// A body of known length: bytes left, not 0.
    Length(u64),
    /// A chunked body.
    Chunked(Chunks),
    /// Nothing that follows is looked at.
    Over,
}

/// How long a client whose connection is not watched yet may have left before that is noticed.
const WATCH_AFTER: Duration = Duration::from_millis(200);

/// The transport that hyper reads from and writes to.
pub(crate) struct ClientIo {
    client: Rc<Client>,
    shard: Rc<Shard>,
    phase: Phase,
    scanner: Scanner,
    /// Bytes that were read and not given to hyper yet, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// Of them, so many may be given to hyper.
    passed: usize,
    upload: Upload,
}

/// The pace at which a body comes.
#[derive(Default)]
struct Upload {
    bytes: u64,
    /// Ticks for which it was waited for.
    waited: u64,
    /// Tick at which the wait began that goes on now.
    since: u64,
}

impl ClientIo {
    pub(crate) fn new(client: Rc<Client>, shard: Rc<Shard>) -> Self {
        let mut this = Self {
            client,
            shard,
            phase: Phase::Head,
            scanner: Scanner::default(),
            buffer: Vec::new(),
            start: 0,
            passed: 0,
            upload: Upload::default(),
        };
        if let Some(first) = this.client.misspoken.take() {
            this.buffer.extend_from_slice(&first);
            this.refuse(Refusal::PlainHttp);
        }
        this
    }

    /// What came in and was not given to hyper, behind `read`, which it gives back. hyper has let go
    /// of the connection: none of this is HTTP any more.
    pub(super) fn into_unread(mut self, read: &[u8]) -> Vec<u8> {
        let mut unread = read.to_vec();
        unread.extend_from_slice(&self.buffer[self.start..]);
        self.buffer = Vec::new();
        unread
    }

    /// Keeps for the tunnel what hyper writes once there is one. `true`: it was kept.
    fn kept(&self, bytes: &[u8]) -> bool {
        let mut switching = self.client.switching.borrow_mut();
        match switching.as_mut() {
            Some(tunnel) => {
                tunnel.hold(bytes);
                true
            }
            None => false,
        }
    }

    /// Gives hyper what passed the gate.
    fn give(&mut self, out: &mut ReadBufCursor<'_>) {
        let count = self.passed.min(out.remaining());
        out.put_slice(&self.buffer[self.start..self.start + count]);
        self.passed -= count;
        self.start += count;
        self.client
            .taken
            .set(self.client.taken.get() + count as u64);
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
            // A large head is rare; its buffer must not stay with an idle connection.
            self.buffer.shrink_to(1024);
        }
    }

    /// Reads heads until one may pass. Ready: there is something to give, or the end.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.in_flight.get() {
            return self.poll_held(cx);
        }
        loop {
            if self.start < self.buffer.len() {
                let bytes = &self.buffer[self.start..];
                match self.scanner.scan(bytes, &self.client.limits) {
                    Verdict::Whole {
                        head,
                        framing,
                        plain,
                    } => {
                        self.start += head.start;
                        self.passed = head.len();
                        let head = self.start..self.start + self.passed;
                        if !plain && let Err(refusal) = self.fit(head) {
                            self.refuse(refusal);
                            return Poll::Ready(Ok(()));
                        }
                        self.begin(framing);
                        return Poll::Ready(Ok(()));
                    }
                    Verdict::Refused(refusal) => {
                        self.refuse(refusal);
                        return Poll::Ready(Ok(()));
                    }
                    Verdict::Partial if self.client.ended.get() => {
                        if self.scanner.has_line() {
                            self.refuse(Refusal::Malformed("connection ended inside the head"));
                        }
                        return Poll::Ready(Ok(()));
                    }
                    Verdict::Partial => {}
                }
            }
            if self.client.ended.get() {
                // Until the last response is written the end would cut it short.
                return if self.client.write_alarm.is_set() {
                    self.remember_reader(cx)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            let was_silent = self.buffer.is_empty();
            let buffer = &mut self.buffer;
            let read = self
                .client
                .poll_socket(&self.shard, usize::MAX, cx, |bytes| {
                    buffer.extend_from_slice(bytes);
                });
            let alarm = &self.client.read_alarm;
            match read {
                Poll::Ready(read) => {
                    self.client.ended.set(read? == 0);
                    if was_silent && self.client.requests.get() > 0 {
                        self.client.head_began.set(alarm.now());
                    }
                    // Set anew when it is waited for more: what came may be good for more time.
                    alarm.clear();
                }
                Poll::Pending => {
                    if !alarm.is_set() {
                        if self.client.requests.get() == 0 || !was_silent {
                            let here = self.buffer.len() - self.start;
                            alarm.set(self.client.head_left(here));
                        } else {
                            self.client.await_request();
                        }
                    }
                    self.client.held.set(!self.buffer.is_empty());
                    ready!(alarm.poll(cx));
                    if was_silent && self.client.requests.get() > 0 && self.client.rest() {
                        let _ = alarm.poll(cx);
                        return Poll::Pending;
                    }
                    if self.client.write_alarm.is_set() {
                        // It is still taking the last response: no pause between requests yet.
                        alarm.set(self.client.idle_timeout.get());
                        let _ = alarm.poll(cx);
                        return Poll::Pending;
                    }
                    alarm.clear();
                    // As httpd: 408 to who sent a request line, silence to who did not.
                    if self.scanner.has_line() {
                        self.refuse(Refusal::Timeout);
                    } else {
                        self.client.ended.set(true);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Waits for a head without hyper. Ready: whether there is one (or the stand-in for one that is
    /// refused); if not, the connection is to be closed.
    pub(super) fn poll_awaited(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.client.task.get_or_init(|| cx.waker().clone());
        if self.passed > 0 {
            return Poll::Ready(Ok(true));
        }
        if self.poll_head(cx)?.is_ready() {
            return Poll::Ready(Ok(self.passed > 0));
        }
        if self.shard.closes_idle() && self.client.activity() == Activity::Idle {
            return Poll::Ready(Ok(false));
        }
        Poll::Pending
    }

    /// Makes the target of a head that passed the gate one that hyper takes, so that hyper refuses
    /// nothing by itself, without a page and a log line.
    fn fit(&mut self, head: Range<usize>) -> Result<(), Refusal> {
        let bytes = &self.buffer[head.clone()];
        let escaped = escape_target(bytes);
        let fitting = escaped.as_deref().unwrap_or(bytes);
        if fitting.len() > MAX_HEAD {
            return Err(Refusal::LineTooLong);
        }
        let origin_form = bytes.windows(2).find(|pair| pair[0] == b' ') == Some(b" /");
        if !origin_form && !is_uri(fitting) {
            return Err(Refusal::Malformed("target is no URI"));
        }
        if let Some(escaped) = escaped {
            self.passed = escaped.len();
            self.buffer.splice(head, escaped);
        }
        Ok(())
    }

    /// While a response is being made: later requests wait in the buffer, the client's end is kept
    /// for later (it may have closed its half only), a reset ends everything.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() && self.client.stream.borrow().is_fresh() {
            // Most answers are there before it is worth the runtime's while to watch the client.
            let alarm = &self.client.read_alarm;
            if !alarm.is_set() {
                alarm.set(WATCH_AFTER);
            }
            if alarm.poll(cx).is_pending() {
                return self.remember_reader(cx);
            }
            alarm.clear();
        }
        if self.buffer.is_empty() && !self.client.ended.get() {
            let buffer = &mut self.buffer;
            let read = self
                .client
                .poll_socket(&self.shard, usize::MAX, cx, |bytes| {
                    buffer.extend_from_slice(bytes);
                });
            if let Poll::Ready(read) = read {
                self.client.ended.set(read? == 0);
            }
        }
        self.client
            .held
            .set(self.client.ended.get() || !self.buffer.is_empty());
        self.remember_reader(cx)
    }

    /// Pending, until what stands in the way wakes the reader.
    fn remember_reader(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut reader = self.client.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|own| own.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A request begins.
    fn begin(&mut self, framing: Framing) {
        self.scanner = Scanner::default();
        self.phase = match framing {
            Framing::Length(0) => Phase::Head,
            Framing::Length(length) => Phase::Length(length),
            Framing::Chunked => Phase::Chunked(Chunks::default()),
        };
        let client = &self.client;
        client.body_open.set(framing != Framing::Length(0));
        client.read_alarm.clear();
        client.held.set(false);
        client.in_flight.set(true);
        client.rested.set(false);
        client.parting.set(false);
        client.requests.set(client.requests.get().saturating_add(1));
        client.taken_before.set(client.taken.get());
        self.upload = Upload::default();
    }

    /// Puts a request in the place of what came in, for the service to answer with the refusal.
    fn refuse(&mut self, refusal: Refusal) {
        let head = self.buffer[self.start..].trim_ascii_start();
        let stand_in: &[u8] = if head.starts_with(b"HEAD ") {
            b"HEAD / HTTP/1.1\r\n\r\n"
        } else {
            b"GET / HTTP/1.1\r\n\r\n"
        };
        self.begin(Framing::Length(0));
        self.phase = Phase::Over;
        self.buffer = stand_in.to_vec();
        self.start = 0;
        self.passed = stand_in.len();
        self.client.refusal.set(Some(refusal));
        // What follows was not looked at, so the end must not destroy the answer.
        self.client.body_open.set(true);
    }

    /// The request is complete; what follows is the next one.
    fn body_over(&mut self) {
        self.phase = Phase::Head;
        self.client.body_open.set(false);
    }

    /// Reads body bytes: from the buffer, else from the socket straight to hyper.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start < self.buffer.len() {
            let held = &self.buffer[self.start..];
            // No more than is given now: what breaks the body behind it breaks it in its turn.
            let held = &held[..held.len().min(out.remaining())];
            let (count, over) = follow(&mut self.phase, held)?;
            self.passed = count;
            self.upload.bytes += count as u64;
            if over {
                self.body_over();
            }
            self.give(out);
            return Poll::Ready(Ok(()));
        }
        if self.client.ended.get() {
            return Poll::Ready(Ok(()));
        }
        let limit = match self.phase {
            Phase::Length(left) => out
                .remaining()
                .min(usize::try_from(left).unwrap_or(usize::MAX)),
            _ => out.remaining(),
        };
        let (phase, buffer) = (&mut self.phase, &mut self.buffer);
        let mut followed = Ok((0, false));
        let read = self.client.poll_socket(&self.shard, limit, cx, |bytes| {
            followed = follow(phase, bytes);
            if let Ok((count, _)) = followed {
                out.put_slice(&bytes[..count]);
                buffer.extend_from_slice(&bytes[count..]);
            }
        });
        let alarm = &self.client.read_alarm;
        let Poll::Ready(read) = read else {
            if !alarm.is_set() {
                let Upload { bytes, waited, .. } = self.upload;
                let left = left(self.client.body_timeout.get(), bytes, waited);
                let silence = self.client.io_timeout.get();
                alarm.set(left.map_or(silence, |left| left.min(silence)));
                self.upload.since = alarm.now();
            }
            ready!(alarm.poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        if alarm.is_set() {
            self.upload.waited += alarm.now() - self.upload.since;
            alarm.clear();
        }
        self.client.ended.set(read? == 0);
        let (count, over) = followed?;
        self.upload.bytes += count as u64;
        self.client
            .taken
            .set(self.client.taken.get() + count as u64);
        if over {
            self.body_over();
        }
        Poll::Ready(Ok(()))
    }
}

/// Moves the phase on over body bytes; how many belong to the body, and whether it is complete.
fn follow(phase: &mut Phase, bytes: &[u8]) -> io::Result<(usize, bool)> {
    Ok(match phase {
        Phase::Length(left) => {
            let count = (*left).min(bytes.len() as u64);
            *left -= count;
            (count as usize, *left == 0)
        }
        Phase::Chunked(chunks) => {
            let count = chunks.follow(bytes);
            if *chunks == Chunks::Broken {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "malformed chunked body",
                ));
            }
            (count, *chunks == Chunks::End)
        }
        Phase::Head | Phase::Over => (0, false),
    })
}

impl Read for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.passed == 0 {
            match this.phase {
                Phase::Head => ready!(this.poll_head(cx))?,
                Phase::Length(_) | Phase::Chunked(_) => return this.poll_body(cx, &mut out),
                // The answer closes the connection; nothing wakes this before.
                Phase::Over => return Poll::Pending,
            }
        }
        this.give(&mut out);
        Poll::Ready(Ok(()))
    }
}

impl ClientIo {
    /// Counts what was written and minds the time of a client that does not read.
    fn wrote(
        &self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let alarm = &self.client.write_alarm;
        self.client.unflushed.set(true);
        match written {
            Poll::Ready(Ok(count)) => {
                if alarm.is_set() {
                    alarm.clear();
                    // The client's end may have waited for this.
                    if let Some(reader) = self.client.reader.borrow().as_ref() {
                        reader.wake_by_ref();
                    }
                }
                self.client.sent.set(self.client.sent.get() + count as u64);
                Poll::Ready(Ok(count))
            }
            Poll::Pending => {
                if !alarm.is_set() {
                    alarm.set(self.client.io_timeout.get());
                }
                ready!(alarm.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl Write for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = self.client.stream.borrow_mut().poll_write(cx, bytes);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| self.kept(slice)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = {
            let mut stream = self.client.stream.borrow_mut();
            stream.poll_write_vectored(&self.shard, cx, slices)
        };
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper has written all it had; what follows comes with the next response.
        if self.client.tls.is_some() {
            let flushed = self.client.stream.borrow_mut().poll_flush(cx);
            ready!(self.wrote(cx, flushed.map_ok(|()| 0)))?;
        }
        self.client.unflushed.set(false);
        Poll::Ready(Ok(()))
    }

    /// Nothing: [`Client::linger`] ends the connection, with a system call only where it matters.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes several slices: small ones as one, which is cheaper for the kernel than a vector.
pub(crate) fn write_slices(
    shard: &Shard,
    stream: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    const FLAT: usize = 4096;
    if let [one] = slices {
        return stream.poll_write(cx, one);
    }
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total > FLAT {
        return stream.poll_write_vectored(cx, slices);
    }
    let mut scratch = shard.scratch.borrow_mut();
    let mut at = 0;
    for slice in slices {
        scratch[at..at + slice.len()].copy_from_slice(slice);
        at += slice.len();
    }
    stream.poll_write(cx, &scratch[..at])
}
