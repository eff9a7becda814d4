//! A client's connection: its socket behind the gate, as hyper reads and writes it, and what the
//! requests on it share.
//!
//! hyper's own timers cost 5 % of a request and its idea of a bad head has no page, so deadlines
//! and refusals are made here: a refused head is replaced by a synthetic request that the service
//! answers with the error, which keeps answers in order, logged and formatted like any other.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    exchange::Finished,
    gate::{Chunks, Framing, Limits, Refusal, Scanner, Verdict, escape_target},
    shard::Shard,
    wheel::Alarm,
};

/// What the requests of one connection, its transport and its task share.
pub(crate) struct Client {
    /// Peer's address.
    pub(crate) peer: SocketAddr,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// Limits on heads: those of the generation that accepted the connection.
    limits: Limits,
    stream: RefCell<TcpStream>,
    read_alarm: Alarm,
    write_alarm: Alarm,
    /// From accept, or from the first byte of a later head, to its end.
    pub(crate) head_timeout: Cell<Duration>,
    /// Between requests.
    pub(crate) idle_timeout: Cell<Duration>,
    /// Between two reads of a body, or while a write makes no progress.
    pub(crate) io_timeout: Cell<Duration>,
    /// A head went to hyper and its response is not done.
    in_flight: Cell<bool>,
    /// The request's body was not read to its end.
    body_open: Cell<bool>,
    /// Bytes of a request that is not complete, or that waits for the response before it to be
    /// done, or the client's end, wait in the transport.
    held: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    /// The client has closed its side.
    ended: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    /// Requests that began.
    requests: Cell<u32>,
    /// Bytes given to hyper, and at the beginning of the request.
    taken: Cell<u64>,
    taken_before: Cell<u64>,
    /// Bytes written, and when the last access log line was made.
    sent: Cell<u64>,
    sent_before: Cell<u64>,
    /// The response has to end in a reset, because nothing else would show that it is cut short.
    pub(crate) reset: Cell<bool>,
    /// Requests whose log line waits for the response to be flushed.
    finished: RefCell<Vec<Finished>>,
    /// Virtual hosts for the local address, of the generation with this number.
    candidates: RefCell<(u64, Rc<[usize]>)>,
}

/// Timeouts that hold before a virtual host is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// [`Client::head_timeout`].
    pub(crate) head: Duration,
    /// [`Client::idle_timeout`].
    pub(crate) idle: Duration,
    /// [`Client::io_timeout`].
    pub(crate) io: Duration,
}

/// What a drain found a connection doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// A request is being answered.
    Busy,
    /// Bytes of a request are there.
    Beginning,
    /// Accepted, and silent since.
    Fresh,
    /// Between requests.
    Idle,
}

impl Client {
    pub(crate) fn new(
        shard: &Shard,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        limits: Limits,
        timeouts: Timeouts,
    ) -> Rc<Self> {
        Rc::new(Self {
            peer,
            local,
            limits,
            stream: RefCell::new(stream),
            read_alarm: shard.wheel.alarm(),
            write_alarm: shard.wheel.alarm(),
            head_timeout: Cell::new(timeouts.head),
            idle_timeout: Cell::new(timeouts.idle),
            io_timeout: Cell::new(timeouts.io),
            in_flight: Cell::new(false),
            body_open: Cell::new(false),
            held: Cell::new(false),
            reader: RefCell::new(None),
            ended: Cell::new(false),
            refusal: Cell::new(None),
            requests: Cell::new(0),
            taken: Cell::new(0),
            taken_before: Cell::new(0),
            sent: Cell::new(0),
            sent_before: Cell::new(0),
            reset: Cell::new(false),
            finished: RefCell::new(Vec::new()),
            candidates: RefCell::new((u64::MAX, Rc::from([]))),
        })
    }

    /// Requests on this connection before the current one.
    pub(crate) fn keepalives(&self) -> u32 {
        self.requests.get().saturating_sub(1)
    }

    /// Why the current head is refused, if it is.
    pub(crate) fn take_refusal(&self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Bytes received for the current request so far.
    pub(crate) fn received(&self) -> u64 {
        self.taken.get() - self.taken_before.get()
    }

    /// The response is done, or will never be: what was held back may come in.
    pub(crate) fn response_done(&self, finished: Option<Finished>) {
        if let Some(finished) = finished {
            self.finished.borrow_mut().push(finished);
        }
        self.in_flight.set(false);
        let reader = self.reader.borrow();
        let Some(reader) = reader.as_ref() else {
            return;
        };
        if self.held.take() {
            reader.wake_by_ref();
        } else {
            // hyper does not read again before something comes in, so the wait for the next
            // request is begun here in its name.
            self.read_alarm.set(self.idle_timeout.get());
            let _ = self.read_alarm.poll(&mut Context::from_waker(reader));
        }
    }

    /// Log lines of responses that were flushed by now. Called by the connection's task after hyper
    /// had its turn.
    pub(crate) fn settle(&self) {
        if self.finished.borrow().is_empty() {
            return;
        }
        let finished = std::mem::take(&mut *self.finished.borrow_mut());
        let sent = self.sent.get();
        let mut bytes = sent - self.sent_before.replace(sent);
        for finished in finished {
            finished.log(self, bytes);
            bytes = 0;
        }
    }

    /// Virtual hosts for this connection in generation `number`.
    pub(crate) fn candidates(
        &self,
        number: u64,
        look_up: impl FnOnce() -> Vec<usize>,
    ) -> Rc<[usize]> {
        let mut known = self.candidates.borrow_mut();
        if known.0 != number || known.1.is_empty() {
            *known = (number, look_up().into());
        }
        Rc::clone(&known.1)
    }

    /// What the connection is doing, for a drain.
    pub(crate) fn activity(&self) -> Activity {
        let waiting = || {
            let mut byte = [0];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(&*self.stream.borrow(), &mut byte, flags)
                .is_ok_and(|(read, _)| read > 0)
        };
        if self.in_flight.get() {
            Activity::Busy
        } else if self.held.get() || waiting() {
            Activity::Beginning
        } else if self.requests.get() == 0 {
            Activity::Fresh
        } else {
            Activity::Idle
        }
    }

    /// Shortens the wait for a first request.
    pub(crate) fn hurry(&self, head: Duration) {
        self.head_timeout.set(head);
        self.read_alarm.set(head);
    }

    /// Ends the connection so that the client gets the whole response even if it still sends: ours
    /// is closed first, what comes in is thrown away, for 2 seconds at most. Closing with unread
    /// bytes would send a reset, which destroys what the client has not read.
    pub(crate) async fn linger(&self, shard: &Shard) {
        if self.reset.get() {
            let stream = self.stream.borrow();
            // Best effort: without it the cut is merely harder to see.
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            return;
        }
        if self.ended.get() {
            return;
        }
        let unread = {
            let mut byte = [0];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let peeked = rustix::net::recv(&*self.stream.borrow(), &mut byte, flags);
            peeked.is_ok_and(|(read, _)| read > 0)
        };
        if !unread && !self.body_open.get() {
            return;
        }
        let shut = rustix::net::shutdown(&*self.stream.borrow(), rustix::net::Shutdown::Write);
        if shut.is_err() {
            return;
        }
        let alarm = shard.wheel.alarm();
        let drained = std::future::poll_fn(|cx| {
            loop {
                match ready!(self.poll_socket(shard, usize::MAX, cx, |_| {})) {
                    Ok(read) if read > 0 => {}
                    _ => return Poll::Ready(()),
                }
            }
        });
        alarm.limit(LINGER, drained).await;
    }

    /// Reads from the socket into the shard's scratch buffer, at most `limit` bytes, and shows them
    /// to `take`. Returns how many there were; 0: the client's end.
    fn poll_socket(
        &self,
        shard: &Shard,
        limit: usize,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let mut scratch = shard.scratch.borrow_mut();
        let limit = limit.min(scratch.len());
        let mut buffer = ReadBuf::new(&mut scratch[..limit]);
        let mut stream = self.stream.borrow_mut();
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

/// Longest time that a closed connection is read from.
const LINGER: Duration = Duration::from_secs(2);

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
}

impl ClientIo {
    pub(crate) fn new(client: Rc<Client>, shard: Rc<Shard>) -> Self {
        Self {
            client,
            shard,
            phase: Phase::Head,
            scanner: Scanner::default(),
            buffer: Vec::new(),
            start: 0,
            passed: 0,
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
                    Verdict::Whole { head, framing } => {
                        self.start += head.start;
                        self.passed = head.len();
                        let head = self.start..self.start + self.passed;
                        if let Some(escaped) = escape_target(&self.buffer[head.clone()]) {
                            self.passed = escaped.len();
                            self.buffer.splice(head, escaped);
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
                        alarm.set(self.client.head_timeout.get());
                    }
                }
                Poll::Pending => {
                    if !alarm.is_set() {
                        alarm.set(if self.client.requests.get() == 0 || !was_silent {
                            self.client.head_timeout.get()
                        } else {
                            self.client.idle_timeout.get()
                        });
                    }
                    self.client.held.set(!self.buffer.is_empty());
                    ready!(alarm.poll(cx));
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

    /// While a response is being made: later requests wait in the buffer, the client's end is kept
    /// for later (it may have closed its half only), a reset ends everything.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
            Framing::Chunked => Phase::Chunked(Chunks::Size(0)),
        };
        let client = &self.client;
        client.body_open.set(framing != Framing::Length(0));
        client.read_alarm.clear();
        client.held.set(false);
        client.in_flight.set(true);
        client.requests.set(client.requests.get().saturating_add(1));
        client.taken_before.set(client.taken.get());
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
            let (count, over) = follow(&mut self.phase, held);
            self.passed = count;
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
        let (mut count, mut over) = (0, false);
        let read = self.client.poll_socket(&self.shard, limit, cx, |bytes| {
            (count, over) = follow(phase, bytes);
            out.put_slice(&bytes[..count]);
            buffer.extend_from_slice(&bytes[count..]);
        });
        let alarm = &self.client.read_alarm;
        let Poll::Ready(read) = read else {
            if !alarm.is_set() {
                alarm.set(self.client.io_timeout.get());
            }
            ready!(alarm.poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        alarm.clear();
        self.client.ended.set(read? == 0);
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
fn follow(phase: &mut Phase, bytes: &[u8]) -> (usize, bool) {
    match phase {
        Phase::Length(left) => {
            let count = (*left).min(bytes.len() as u64);
            *left -= count;
            (count as usize, *left == 0)
        }
        Phase::Chunked(chunks) => {
            let count = chunks.follow(bytes);
            (count, *chunks == Chunks::End)
        }
        Phase::Head | Phase::Over => (0, false),
    }
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
        let written = Pin::new(&mut *self.client.stream.borrow_mut()).poll_write(cx, bytes);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = {
            let mut stream = self.client.stream.borrow_mut();
            let stream = Pin::new(&mut *stream);
            write_slices(&self.shard, stream, cx, slices)
        };
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    const FLAT: usize = 4096;
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if slices.len() == 1 || total > FLAT {
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
