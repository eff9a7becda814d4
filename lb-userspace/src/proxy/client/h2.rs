//! A client's connection that speaks HTTP/2: hyper's state machine, what it may cost, and when it
//! ends. Requests are answered by the same code as those of HTTP/1; what belongs to one of them
//! alone is in [`Stream`].

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use tokio::net::TcpStream;
use tracing::{debug, info};

use super::Client;
use crate::{
    config::spec::Protocols,
    proxy::{
        forward,
        gate::MAX_HEAD,
        reason::Reason,
        shard::{Counted, Served, Shard},
        wheel::TICK,
    },
    telemetry::counters::Number,
};

mod floods;
mod frames;
mod head;
mod stream;
mod transport;

use floods::{Budgets, Flood};
use frames::{Frame, PREFACE, Walker, kind};
pub(crate) use stream::Stream;

/// A connection's window for request bodies, bytes, unless `H2WindowSize` is more.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of response that a stream may have in the library's buffer, one piece more at most.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that the client has reset before they were looked at.
const PENDING_RESETS: usize = 20;
/// Streams that were reset for what the client did wrong, over the connection's life.
const ERROR_RESETS: usize = 512;
/// RFC 9113 section 7: `ENHANCE_YOUR_CALM`.
const CALM: u32 = 0xb;

/// What an HTTP/2 connection's task, transport and streams share.
pub(crate) struct Session {
    pub(super) shard: Rc<Shard>,
    pub(super) client: Rc<Client>,
    /// `H2MaxDataFrameLen`; 0: none.
    data_frame: usize,
    /// The stream whose task hyper is about to start.
    newest: RefCell<Option<Rc<Stream>>>,
    /// Streams with a task.
    open: Cell<usize>,
    /// A stream was there.
    was_used: Cell<bool>,
    /// No new streams are taken.
    leaving: Cell<bool>,
    /// Set while no stream is open.
    silence: super::Alarm,
    /// Set while a block of fields is there in part.
    block: super::Alarm,
    inbound: RefCell<Walker>,
    outbound: RefCell<Walker>,
    budgets: RefCell<Budgets>,
    flood: Cell<Option<Flood>>,
    /// The library told the client to calm down.
    calmed: Cell<bool>,
    /// The last stream that the client opened.
    last_stream: Cell<u32>,
}

/// Starts streams' tasks on the shard's own thread.
#[derive(Clone)]
struct Spawner(Rc<Session>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        // hyper calls the service for a stream and starts its task right after.
        match self.0.newest.take() {
            Some(stream) => tokio::task::spawn_local(stream::Watch::new(stream, task)),
            None => tokio::task::spawn_local(task),
        };
    }
}

/// How a connection ended.
enum End {
    /// As the protocol has it, or broken.
    Served(hyper::Result<()>),
    /// The client was silent for too long.
    Silent,
}

impl Session {
    fn new(shard: &Rc<Shard>, client: &Rc<Client>, protocols: &Protocols) -> Rc<Self> {
        Rc::new(Self {
            shard: Rc::clone(shard),
            client: Rc::clone(client),
            data_frame: protocols.data_frame as usize,
            newest: RefCell::default(),
            open: Cell::new(0),
            was_used: Cell::new(false),
            leaving: Cell::new(false),
            silence: shard.wheel.alarm(),
            block: shard.wheel.alarm(),
            inbound: RefCell::new(Walker::of_client()),
            outbound: RefCell::default(),
            budgets: RefCell::default(),
            flood: Cell::new(None),
            calmed: Cell::new(false),
            last_stream: Cell::new(0),
        })
    }

    fn stream_begins(self: &Rc<Self>) -> Rc<Stream> {
        self.shard.tally.up(Number::H2Streams);
        self.open.set(self.open.get() + 1);
        self.was_used.set(true);
        self.silence.clear();
        let stream = Stream::new(self);
        self.newest.replace(Some(Rc::clone(&stream)));
        stream
    }

    fn stream_ended(&self) {
        self.open.set(self.open.get() - 1);
        self.await_next();
    }

    /// Sets the deadline of a connection without open streams.
    fn await_next(&self) {
        if self.open.get() > 0 {
            return;
        }
        if self.leaving.get() {
            self.silence.set(self.client.io_timeout.get());
        } else if self.was_used.get() {
            self.silence.set(self.client.idle_timeout.get());
        } else {
            self.await_head(&self.silence);
        }
    }

    /// Sets the deadline of a head that is to come: the upper end of `RequestReadTimeout header=`,
    /// and where that is 0, `Timeout`.
    fn await_head(&self, alarm: &super::Alarm) {
        let limit = self.client.head_timeout.get().longest();
        alarm.set(if limit.is_zero() {
            self.client.io_timeout.get()
        } else {
            limit
        });
    }

    /// What the transport may go on with.
    fn verdict(&self) -> io::Result<()> {
        match self.flood.get() {
            None => Ok(()),
            Some(flood) => Err(io::Error::other(format!("too many {}", flood.name()))),
        }
    }

    /// Counts what the client sent.
    fn came(&self, bytes: &[u8]) -> io::Result<()> {
        let now = self.shard.wheel.now();
        let mut inbound = self.inbound.borrow_mut();
        let mut budgets = self.budgets.borrow_mut();
        inbound.walk(bytes, |frame: Frame| {
            match frame.kind {
                kind::HEADERS => self
                    .last_stream
                    .set(self.last_stream.get().max(frame.stream)),
                kind::RST_STREAM => self.shard.tally.up(Number::H2Resets),
                _ => {}
            }
            if let Err(flood) = budgets.came(frame, now) {
                self.flood.set(Some(flood));
            }
        });
        if !inbound.is_inside_block() {
            self.block.clear();
        } else if !self.block.is_set() {
            self.await_head(&self.block);
        }
        self.verdict()
    }

    /// Counts what was sent.
    fn went(&self, bytes: &[u8]) {
        let now = self.shard.wheel.now();
        let mut moved = false;
        self.outbound.borrow_mut().walk(bytes, |frame| {
            match frame.kind {
                kind::DATA | kind::HEADERS => moved = true,
                kind::GOAWAY if frame.code == CALM => self.calmed.set(true),
                _ => {}
            }
            if let Err(flood) = self.budgets.borrow_mut().went(frame, now) {
                self.flood.set(Some(flood));
            }
        });
        // Its streams' tasks have ended and the client still takes what they left.
        if moved && self.leaving.get() {
            self.await_next();
        }
    }

    /// Says why the connection ends, where the library has not: one frame, if it fits in.
    fn send_goaway(&self) {
        if self.outbound.borrow().is_inside() {
            return;
        }
        let mut frame = vec![0, 0, 8, kind::GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.get().to_be_bytes());
        frame.extend(CALM.to_be_bytes());
        let mut cx = Context::from_waker(Waker::noop());
        // Best effort: a client that does not read is not told.
        let _ = self.client.stream.borrow_mut().poll_write(&mut cx, &frame);
    }
}

/// Serves a connection until its end. It is not in the shard's list: its own task sees a drain.
pub(crate) async fn serve(
    shard: Rc<Shard>,
    client: Rc<Client>,
    protocols: Protocols,
    _counted: Counted,
) {
    shard.tally.up(Number::H2Connections);
    let _served = Served::new(&shard);
    let session = Session::new(&shard, &client, &protocols);
    let mut http = http2::Builder::new(Spawner(Rc::clone(&session)));
    http.max_concurrent_streams(protocols.max_streams)
        .initial_stream_window_size(protocols.window)
        .initial_connection_window_size(protocols.window.max(CONNECTION_WINDOW))
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD as u32)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS);
    let service = service_fn(|request| {
        let stream = session.stream_begins();
        let (shard, client) = (Rc::clone(&shard), Rc::clone(&client));
        forward::answer_stream(shard, client, stream, request)
    });
    let io = transport::Io(Rc::clone(&session));
    let mut served = Box::pin(http.serve_connection(io, service));
    let mut drain = shard.drained();
    let mut drain = Box::pin(async move {
        // The sender lives in the shard, which this task keeps.
        let _ = drain.changed().await;
    });
    session.await_next();
    let mut armed = false;
    let end = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = served.as_mut().poll(cx) {
                return Poll::Ready(End::Served(result));
            }
            // Polled once: its waker is this task's, which does not change.
            if !std::mem::replace(&mut armed, true) {
                let _ = drain.as_mut().poll(cx);
            }
            if session.block.poll(cx).is_ready() {
                return Poll::Ready(End::Silent);
            }
            let silent = session.silence.poll(cx).is_ready();
            // One that has not said a word is not told anything either.
            let mute = !session.was_used.get() && session.inbound.borrow().is_inside();
            if silent && (session.leaving.get() || mute) {
                return Poll::Ready(End::Silent);
            }
            if !silent && (session.leaving.get() || !shard.is_draining()) {
                return Poll::Pending;
            }
            // Streams that are open finish, then the connection ends.
            session.leaving.set(true);
            session.silence.clear();
            session.await_next();
            served.as_mut().graceful_shutdown();
        }
    })
    .await;
    drop(served);
    finish(&session, end);
    // What a flood still sends is not waited for.
    if session.flood.get().is_none() && !session.calmed.get() {
        client.linger(&shard).await;
    }
}

/// Logs and counts the end of a connection.
fn finish(session: &Session, end: End) {
    let peer = session.client.peer;
    if let Some(flood) = session.flood.get() {
        session.shard.tally.up(Number::H2Floods);
        info!(
            target: "sluice::proxy",
            reason = Reason::Http2Flood.name(),
            "[client {peer}] connection closed: too many {}", flood.name()
        );
        return session.send_goaway();
    }
    match end {
        End::Served(Ok(())) => {}
        End::Served(Err(error)) if session.calmed.get() => {
            session.shard.tally.up(Number::H2Floods);
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            info!(
                target: "sluice::proxy",
                reason = Reason::Http2Flood.name(),
                "[client {peer}] connection closed: {}", cause.unwrap_or_default()
            );
        }
        End::Served(Err(error)) => {
            debug!(target: "sluice::proxy", "[client {peer}] {error}");
        }
        End::Silent => {
            debug!(target: "sluice::proxy", "[client {peer}] silent for too long: closed");
        }
    }
}

/// Whether a connection in clear begins with HTTP/2's preface. Looks at the bytes and leaves them
/// where they are; `false` also for one that says nothing for `limit`, which is HTTP/1's to answer.
pub(crate) async fn begins(shard: &Shard, stream: &TcpStream, limit: Duration) -> bool {
    let mut drain = shard.drained();
    let (deadline, step) = (shard.wheel.alarm(), shard.wheel.alarm());
    deadline.set(limit);
    let mut seen = [0; PREFACE.len()];
    loop {
        let peeked = tokio::select! {
            biased;
            peeked = stream.peek(&mut seen) => peeked,
            _ = drain.changed() => return false,
            () = deadline.reached() => return false,
        };
        match peeked {
            Ok(count) if count == PREFACE.len() => return seen == *PREFACE,
            Ok(count) if count > 0 && PREFACE.starts_with(&seen[..count]) => {
                // The socket stays readable: nothing says when the rest is there.
                step.set(TICK);
                tokio::select! {
                    () = step.reached() => {}
                    () = deadline.reached() => return false,
                }
            }
            _ => return false,
        }
    }
}
