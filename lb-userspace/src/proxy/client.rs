//! A client's connection: what its requests, its transport and its task share.
//!
//! hyper's own timers cost 5 % of a request and its idea of a bad head has no page, so deadlines
//! and refusals are made here: a refused head is replaced by a synthetic request that the service
//! answers with the error, which keeps answers in order, logged and formatted like any other.

use std::{
    cell::{Cell, OnceCell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::HeaderValue;
use rustix::net::RecvFlags;
use tokio::io::ReadBuf;

use super::{
    exchange::Finished,
    gate::{Limits, Refusal},
    shard::Shard,
    tls::accept::{Opening, Session},
    vhost::{self, BadHost},
    wheel::{Alarm, TICK},
};
use crate::{config::spec::ReadTimeout, telemetry::access::address};

pub(crate) mod h2;
pub(super) mod task;
mod transport;
mod tunnel;
mod wire;

pub(super) use transport::{ClientIo, write_slices};
pub(super) use tunnel::Tunnel;
use wire::Socket;
pub(super) use wire::Wire;

/// What the requests of one connection, its transport and its task share.
pub(crate) struct Client {
    /// Peer's address.
    pub(crate) peer: SocketAddr,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// Limits on heads: those of the generation that accepted the connection.
    limits: Limits,
    stream: RefCell<Wire>,
    /// `None`: cleartext.
    pub(crate) tls: Option<Box<Session>>,
    /// It began in clear on a TLS port: with these bytes.
    misspoken: Cell<Option<[u8; 5]>>,
    read_alarm: Alarm,
    write_alarm: Alarm,
    /// From accept, or from the first byte of a later head, to its end.
    pub(crate) head_timeout: Cell<ReadTimeout>,
    /// Tick at which it began.
    head_began: Cell<u64>,
    /// Of a whole body, as far as the client is the one to send.
    pub(crate) body_timeout: Cell<ReadTimeout>,
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
    /// Of the connection's task, which does not change.
    task: OnceCell<Waker>,
    /// The connection was silent for [`PARK_AFTER`] since the last request.
    rested: Cell<bool>,
    /// The client said that the current request is its last.
    pub(crate) parting: Cell<bool>,
    /// hyper may hold bytes of a response.
    unflushed: Cell<bool>,
    /// The client has closed its side.
    ended: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    /// Its id in logs, once it had a request; 0: none yet.
    log_id: Cell<u64>,
    /// The error log has a line of one of its requests.
    mentioned: Cell<bool>,
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
    /// A member has agreed to another protocol; hyper is to let go of the connection.
    switching: RefCell<Option<Box<Tunnel>>>,
    /// Virtual hosts for the local address, of the generation with this number.
    candidates: RefCell<(u64, Rc<[usize]>)>,
    /// The peer's address as X-Forwarded-For has it, once it was asked for.
    forwarded_for: OnceCell<HeaderValue>,
    /// The last host that was asked for: mostly the next one too.
    asked: RefCell<Option<Rc<Asked>>>,
}

/// The host a request is for.
pub(crate) struct Asked {
    /// Lower case, without port.
    pub(crate) name: String,
    /// Port, if one was named.
    pub(crate) port: Option<u16>,
    /// As it stands in the Host field, or in an absolute target. A copy: the field itself would
    /// keep hyper's read buffer.
    pub(crate) value: HeaderValue,
}

impl Asked {
    /// Reads a Host field's value. `None`: it is empty.
    fn read(value: &[u8]) -> Result<Option<Self>, BadHost> {
        let Some(name) = vhost::normalise(value)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            name,
            port: vhost::port(value),
            value: HeaderValue::from_bytes(value).map_err(|_| BadHost)?,
        }))
    }
}

/// Hosts that were asked for lately on whichever connection: few names are asked for again and
/// again, and each new connection would read its own anew. One for each place, so that whoever asks
/// for many names displaces others' and no more.
#[derive(Default)]
pub(crate) struct KnownHosts([RefCell<Option<Rc<Asked>>>; 16]);

impl KnownHosts {
    /// Longest value that is remembered, bytes.
    const LONGEST: usize = 255;

    fn asked(&self, value: &[u8]) -> Result<Option<Rc<Asked>>, BadHost> {
        // Names of one server differ in their beginnings more than in their ends.
        let ahead = value.iter().take(8);
        let place = ahead.fold(value.len(), |sum, &byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        let mut known = self.0[place % self.0.len()].borrow_mut();
        if let Some(asked) = &*known
            && asked.value.as_bytes() == value
        {
            return Ok(Some(Rc::clone(asked)));
        }
        let asked = Asked::read(value)?.map(Rc::new);
        if asked.is_some() && value.len() <= Self::LONGEST {
            known.clone_from(&asked);
        }
        Ok(asked)
    }
}

/// Timeouts that hold before a virtual host is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// [`Client::head_timeout`].
    pub(crate) head: ReadTimeout,
    /// [`Client::body_timeout`].
    pub(crate) body: ReadTimeout,
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
        opening: Opening,
        peer: SocketAddr,
        local: SocketAddr,
        limits: Limits,
        timeouts: Timeouts,
        candidates: (u64, Rc<[usize]>),
    ) -> Rc<Self> {
        let (wire, tls, misspoken) = match opening {
            Opening::Fresh(stream) => (Wire::Plain(Socket::Fresh(Some(stream))), None, None),
            Opening::Cleartext(stream) => (Wire::Plain(stream.into()), None, None),
            Opening::Secure(stream, session) => (Wire::Tls(stream), Some(session), None),
            Opening::Misspoken(stream, first) => (Wire::Plain(stream.into()), None, Some(first)),
        };
        Rc::new(Self {
            peer,
            local,
            limits,
            stream: RefCell::new(wire),
            tls,
            misspoken: Cell::new(misspoken),
            read_alarm: shard.wheel.alarm(),
            write_alarm: shard.wheel.alarm(),
            head_timeout: Cell::new(timeouts.head),
            head_began: Cell::new(shard.wheel.now()),
            body_timeout: Cell::new(timeouts.body),
            idle_timeout: Cell::new(timeouts.idle),
            io_timeout: Cell::new(timeouts.io),
            in_flight: Cell::new(false),
            body_open: Cell::new(false),
            held: Cell::new(false),
            reader: RefCell::new(None),
            task: OnceCell::new(),
            rested: Cell::new(false),
            parting: Cell::new(false),
            unflushed: Cell::new(false),
            ended: Cell::new(false),
            refusal: Cell::new(None),
            log_id: Cell::new(0),
            mentioned: Cell::new(false),
            requests: Cell::new(0),
            taken: Cell::new(0),
            taken_before: Cell::new(0),
            sent: Cell::new(0),
            sent_before: Cell::new(0),
            reset: Cell::new(false),
            finished: RefCell::new(Vec::new()),
            switching: RefCell::new(None),
            candidates: RefCell::new(candidates),
            forwarded_for: OnceCell::new(),
            asked: RefCell::new(None),
        })
    }

    /// Requests on this connection before the current one.
    pub(crate) fn keepalives(&self) -> u32 {
        self.requests.get().saturating_sub(1)
    }

    /// The connection's id in logs.
    pub(crate) fn log_id(&self, shard: &Shard) -> u64 {
        if self.log_id.get() == 0 {
            self.log_id.set(shard.request_id());
        }
        self.log_id.get()
    }

    /// The error log has a line of one of its requests.
    pub(crate) fn log_mentions(&self) {
        self.mentioned.set(true);
    }

    /// [`Client::log_id`] where it leads to lines, else 0.
    pub(crate) fn log_id_if_mentioned(&self) -> u64 {
        if self.mentioned.get() {
            self.log_id.get()
        } else {
            0
        }
    }

    /// The name that the client gave in its TLS handshake.
    pub(crate) fn sni(&self) -> Option<&str> {
        self.tls.as_ref()?.name.as_deref()
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
        self.unflushed.set(true);
        let reader = self.reader.borrow();
        let Some(reader) = reader.as_ref() else {
            return;
        };
        // What nobody watches is read from anew, unless it is closed now.
        let unwatched = !self.parting.get() && self.stream.borrow().is_fresh();
        if self.held.take() || unwatched {
            // It was for the client's end while the response was made.
            self.read_alarm.clear();
            reader.wake_by_ref();
        } else {
            // hyper does not read again before something comes in, so the wait for the next
            // request is begun here in its name.
            self.await_request();
            let _ = self.read_alarm.poll(&mut Context::from_waker(reader));
        }
    }

    /// Sets the deadline between requests, or its first part.
    fn await_request(&self) {
        self.rested.set(false);
        self.read_alarm.set(self.idle_timeout.get().min(PARK_AFTER));
    }

    /// The time that [`Self::await_request`] set is over: whether there is a second part of it.
    fn rest(&self) -> bool {
        let left = self.idle_timeout.get().saturating_sub(PARK_AFTER);
        if self.rested.replace(true) || left.is_zero() {
            return false;
        }
        self.read_alarm.set(left);
        true
    }

    /// Whether nothing would be lost without hyper: the last response is with the kernel, nothing
    /// of a next request came for a while.
    fn may_rest(&self) -> bool {
        self.rested.get()
            && !self.in_flight.get()
            && !self.unflushed.get()
            && !self.body_open.get()
            && !self.held.get()
            && !self.ended.get()
            && !self.write_alarm.is_set()
    }

    /// Log lines of responses that were flushed by now. Called by the connection's task after hyper
    /// had its turn.
    pub(crate) fn settle(&self) {
        if self.finished.borrow().is_empty() {
            return;
        }
        let mut finished = self.finished.take();
        let sent = self.sent.get();
        let mut bytes = sent - self.sent_before.replace(sent);
        for one in &finished {
            one.log(self, bytes);
            bytes = 0;
        }
        // Its room is for the next request's.
        finished.clear();
        self.finished.replace(finished);
    }

    /// The peer's address for X-Forwarded-For: made once, for it costs more than all else in that
    /// field.
    pub(crate) fn forwarded_for(&self) -> &HeaderValue {
        self.forwarded_for.get_or_init(|| {
            let mut text = Vec::with_capacity(15);
            address(&mut text, self.peer.ip());
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
        })
    }

    /// What `value` asks for, read anew only if the request before asked for another. `None`: it
    /// is empty.
    pub(crate) fn asked(
        &self,
        value: &[u8],
        known: &KnownHosts,
    ) -> Result<Option<Rc<Asked>>, BadHost> {
        let mut last = self.asked.borrow_mut();
        if let Some(asked) = &*last
            && asked.value.as_bytes() == value
        {
            return Ok(Some(Rc::clone(asked)));
        }
        let asked = known.asked(value)?;
        if asked.is_some() {
            last.clone_from(&asked);
        }
        Ok(asked)
    }

    /// Virtual hosts for this connection in generation `number`.
    pub(crate) fn candidates(
        &self,
        number: u64,
        look_up: impl FnOnce() -> Rc<[usize]>,
    ) -> Rc<[usize]> {
        let mut known = self.candidates.borrow_mut();
        if known.0 != number {
            *known = (number, look_up());
        }
        Rc::clone(&known.1)
    }

    /// How long the rest of a head may take of which `bytes` are here.
    fn head_left(&self, bytes: usize) -> Duration {
        let waited = self.read_alarm.now() - self.head_began.get();
        left(self.head_timeout.get(), bytes as u64, waited).unwrap_or(self.io_timeout.get())
    }

    /// Whether bytes wait in the kernel.
    fn has_unread(&self) -> bool {
        let stream = self.stream.borrow();
        stream.socket().is_some_and(|socket| {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            rustix::net::recv(socket, &mut [0], flags).is_ok_and(|(read, _)| read > 0)
        })
    }

    /// What the connection is doing, for a drain.
    pub(crate) fn activity(&self) -> Activity {
        if self.in_flight.get() {
            Activity::Busy
        } else if self.held.get() || self.has_unread() {
            Activity::Beginning
        } else if self.requests.get() == 0 {
            Activity::Fresh
        } else {
            Activity::Idle
        }
    }

    /// Whether closing the socket now loses the client nothing, without a look at the socket: the
    /// client said that no other request follows (RFC 9112 section 9.6), and this one was read to
    /// its end.
    fn may_part(&self) -> bool {
        self.tls.is_none() && !self.reset.get() && self.parting.get() && !self.body_open.get()
    }

    /// The process drains: shortens the wait for a first request to `fresh`, and lets the task see
    /// what else there is to end.
    pub(crate) fn drain(&self, fresh: Duration) {
        if self.activity() == Activity::Fresh {
            self.head_timeout.set(ReadTimeout::fixed(fresh));
            self.head_began.set(self.read_alarm.now());
            self.read_alarm.set(fresh);
        }
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    /// Ends the connection so that the client gets the whole response even if it still sends: ours
    /// is closed first, what comes in is thrown away, for 2 seconds at most. Closing with unread
    /// bytes would send a reset, which destroys what the client has not read.
    pub(crate) async fn linger(&self, shard: &Shard) {
        if self.reset.get() {
            let stream = self.stream.borrow();
            if let Some(socket) = stream.socket() {
                // Best effort: without it the cut is merely harder to see.
                let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            return;
        }
        if self.tls.is_some() {
            let alarm = shard.wheel.alarm();
            let goodbye = std::future::poll_fn(|cx| self.stream.borrow_mut().poll_goodbye(cx));
            // Who does not take it is left without.
            let _ = alarm.limit(LINGER, goodbye).await;
        }
        if self.ended.get() {
            return;
        }
        if !self.body_open.get() && !self.has_unread() {
            return;
        }
        let shut = self.stream.borrow().socket().is_some_and(|socket| {
            rustix::net::shutdown(socket, rustix::net::Shutdown::Write).is_ok()
        });
        if !shut {
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

    /// The connection becomes a tunnel when hyper is done with it.
    pub(crate) fn switch(&self, tunnel: Box<Tunnel>) {
        self.switching.replace(Some(tunnel));
    }

    /// Ends a tunnel that never began: it holds the client, and the client it.
    pub(crate) fn give_up_switch(&self) {
        if self.switching.take().is_some() {
            self.settle();
        }
    }

    /// Tells the client that nothing more comes, and goes on reading.
    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.borrow_mut().poll_goodbye(cx))?;
        let stream = self.stream.borrow();
        let socket = stream.socket().ok_or(io::ErrorKind::NotConnected)?;
        rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
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
        ready!(self.stream.borrow_mut().poll_read(cx, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

/// What is left of a time to read once `bytes` came and `waited` ticks passed. `None`: no limit.
fn left(timeout: ReadTimeout, bytes: u64, waited: u64) -> Option<Duration> {
    let waited = TICK.saturating_mul(u32::try_from(waited).unwrap_or(u32::MAX));
    Some(timeout.allowed(bytes)?.saturating_sub(waited))
}

/// Silence after a response until the connection is put to rest: hyper goes, with its buffers. A
/// client that asks again after that pays for a new one, some thousand instructions.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// Longest time that a closed connection is read from.
const LINGER: Duration = Duration::from_secs(2);
