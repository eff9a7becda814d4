//! A connection that stopped speaking HTTP: bytes both ways between a client and a member.
//!
//! An idle tunnel has no buffer. What is read goes through the shard's scratch memory to the other
//! side at once; only what that does not take is kept, one piece for each way, and nothing more is
//! read that way meanwhile. So the slower side sets the pace.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::ReadBuf;
use tracing::{debug, info};

use super::Client;
use crate::{
    proxy::{
        exchange::Exchange,
        pool::{Link, Upstream},
        reason::Reason,
        shard::Shard,
        wheel::TICK,
    },
    telemetry::counters::Number,
};

/// Longest time that one side of a WebSocket has after the other's end: the protocol knows no half
/// of a connection (RFC 6455 section 7.1.1).
const FAREWELL: Duration = Duration::from_secs(2);

/// Pieces that are moved before other connections have their turn.
const TURN: usize = 16;

/// A tunnel that waits for hyper to be done with the client, or runs.
pub(crate) struct Tunnel {
    exchange: Box<Exchange>,
    link: Rc<Link>,
    /// What the member sent behind its 101.
    early: Bytes,
    /// What hyper still wrote to the client: the end of the response before, and the 101.
    head: Vec<u8>,
    /// Longest silence.
    timeout: Duration,
    /// One side's end is the other's, soon.
    is_websocket: bool,
}

impl Tunnel {
    /// Of a member that has answered 101.
    pub(crate) fn new(
        exchange: Box<Exchange>,
        mut upstream: Box<Upstream>,
        timeout: Duration,
        is_websocket: bool,
    ) -> Self {
        Self {
            exchange,
            link: Rc::clone(&upstream.link),
            early: upstream.take_surplus(),
            head: Vec::new(),
            timeout,
            is_websocket,
        }
    }

    /// Takes what hyper writes to the client from now on: it may leave with some of it unwritten.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
    }
}

/// How a tunnel ended.
enum End {
    /// Both sides said so.
    Both,
    /// One side did, and the other had its time.
    One,
    /// Nothing moved for too long.
    Silence,
    /// The client's connection broke.
    Client(io::Error),
    /// The member's connection broke.
    Member(io::Error),
}

/// One way of a tunnel.
#[derive(Default)]
struct Way {
    /// What the receiver has not taken yet, from `at` on.
    held: Bytes,
    /// The sender's end was seen.
    ended: bool,
    /// The receiver was told of it.
    told: bool,
    /// TLS may hold records.
    unflushed: bool,
}

/// A tunnel that runs; its end is counted and logged whatever ends it.
struct Running {
    tunnel: Option<Box<Tunnel>>,
    client: Rc<Client>,
    shard: Rc<Shard>,
    up: Way,
    down: Way,
    /// Tick of the last byte.
    moved: u64,
    /// Tick at which the first side ended.
    farewell: Option<u64>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shard.tally.down(Number::Tunnels);
        self.tunnel = None;
        self.client.settle();
    }
}

/// Runs the tunnel that the client's connection was switched to, to its end. `unread`: what the client sent behind its request.
pub(super) async fn run(shard: &Rc<Shard>, client: &Rc<Client>, unread: Vec<u8>) {
    let Some(mut tunnel) = client.switching.take() else {
        return;
    };
    client.read_alarm.clear();
    client.write_alarm.clear();
    shard.tally.up(Number::Tunnels);
    let link = Rc::clone(&tunnel.link);
    let early = std::mem::take(&mut tunnel.early);
    let mut head = std::mem::take(&mut tunnel.head);
    tunnel.exchange.sent_body(early.len());
    head.extend_from_slice(&early);
    let timeout = tunnel.timeout;
    let mut running = Running {
        tunnel: Some(tunnel),
        client: Rc::clone(client),
        shard: Rc::clone(shard),
        up: Way {
            held: unread.into(),
            ended: client.ended.get(),
            ..Way::default()
        },
        down: Way {
            held: head.into(),
            ..Way::default()
        },
        moved: shard.wheel.now(),
        farewell: None,
    };
    let behind = running.up.held.len() as u64;
    client.taken.set(client.taken.get() + behind);

    link.alarm.set(timeout);
    let end = std::future::poll_fn(|cx| running.poll(cx, &link, timeout)).await;
    let Some(tunnel) = running.tunnel.as_mut() else {
        return;
    };
    let exchange = &mut tunnel.exchange;
    let peer = client.peer;
    let before = exchange.enter_log();
    let complete = match end {
        End::Both | End::One => true,
        End::Silence => {
            let reason = Reason::TunnelIdle;
            exchange.fail(reason);
            info!(
                target: "sluice::proxy",
                reason = reason.name(),
                "[client {peer}] nothing came through the tunnel for {} s", timeout.as_secs()
            );
            true
        }
        End::Client(error) => {
            debug!(target: "sluice::proxy", "[client {peer}] tunnel: client: {error}");
            link.reset_on_close();
            false
        }
        End::Member(error) => {
            let reason = Reason::Truncated;
            exchange.fail(reason);
            info!(
                target: "sluice::proxy",
                reason = reason.name(),
                "[client {peer}] tunnel: member: {error}"
            );
            client.reset.set(true);
            false
        }
    };
    exchange.leave_log(before);
    exchange.end(complete);
    drop(running);
    drop(link);
    client.linger(shard).await;
}

impl Running {
    fn poll(&mut self, cx: &mut Context<'_>, link: &Link, timeout: Duration) -> Poll<End> {
        let moved = self.move_up(cx, link).and_then(|up| {
            let down = self.move_down(cx, link)?;
            Ok((up, down))
        });
        match moved {
            Err(end) => return Poll::Ready(end),
            Ok((up, down)) if up || down => {
                // The turn is over, the work is not.
                cx.waker().wake_by_ref();
            }
            Ok(_) => {}
        }
        if self.up.told && self.down.told {
            return Poll::Ready(End::Both);
        }
        let is_websocket = self
            .tunnel
            .as_ref()
            .is_some_and(|tunnel| tunnel.is_websocket);
        if is_websocket && self.farewell.is_none() && (self.up.told || self.down.told) {
            self.farewell = Some(self.shard.wheel.now());
            link.alarm.set(FAREWELL);
        }
        while link.alarm.poll(cx).is_ready() {
            if self.farewell.is_some() {
                return Poll::Ready(End::One);
            }
            let silent = self.shard.wheel.now().saturating_sub(self.moved);
            let silent = TICK.saturating_mul(u32::try_from(silent).unwrap_or(u32::MAX));
            match timeout.checked_sub(silent) {
                Some(left) if !left.is_zero() => link.alarm.set(left),
                _ => return Poll::Ready(End::Silence),
            }
        }
        Poll::Pending
    }

    /// Moves bytes from the client to the member. `true`: there may be more.
    fn move_up(&mut self, cx: &mut Context<'_>, link: &Link) -> Result<bool, End> {
        for _ in 0..TURN {
            while !self.up.held.is_empty() {
                let Poll::Ready(written) = link.poll_write(cx, &self.up.held) else {
                    return Ok(false);
                };
                let written = written.and_then(not_none).map_err(End::Member)?;
                self.moved = self.shard.wheel.now();
                self.up.unflushed = true;
                let _ = self.up.held.split_to(written);
            }
            self.up.held = Bytes::new();
            if self.up.ended {
                if !self.up.told {
                    let Poll::Ready(told) = link.poll_end(cx) else {
                        return Ok(false);
                    };
                    // A member that is gone already says so when it is read from.
                    let _ = told;
                    self.up.told = true;
                }
                return Ok(false);
            }
            let mut scratch = self.shard.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = self.client.stream.borrow_mut().poll_read(cx, &mut buffer);
            let Poll::Ready(read) = read else {
                drop(scratch);
                return flush(&mut self.up, || link.poll_flush(cx)).map_err(End::Member);
            };
            read.map_err(End::Client)?;
            self.moved = self.shard.wheel.now();
            let bytes = buffer.filled();
            let taken = &self.client.taken;
            taken.set(taken.get() + bytes.len() as u64);
            if bytes.is_empty() {
                self.client.ended.set(true);
                self.up.ended = true;
            } else {
                let written = match link.poll_write(cx, bytes) {
                    Poll::Ready(written) => written.map_err(End::Member)?,
                    Poll::Pending => 0,
                };
                self.up.unflushed = true;
                self.up.held = Bytes::copy_from_slice(&bytes[written..]);
            }
        }
        Ok(true)
    }

    /// Moves bytes from the member to the client. `true`: there may be more.
    fn move_down(&mut self, cx: &mut Context<'_>, link: &Link) -> Result<bool, End> {
        let client = Rc::clone(&self.client);
        let count = |count: usize| client.sent.set(client.sent.get() + count as u64);
        for _ in 0..TURN {
            while !self.down.held.is_empty() {
                let written = client.stream.borrow_mut().poll_write(cx, &self.down.held);
                let Poll::Ready(written) = written else {
                    return Ok(false);
                };
                let written = written.and_then(not_none).map_err(End::Client)?;
                count(written);
                self.moved = self.shard.wheel.now();
                self.down.unflushed = true;
                let _ = self.down.held.split_to(written);
            }
            self.down.held = Bytes::new();
            if self.down.ended {
                if !self.down.told {
                    let Poll::Ready(told) = client.poll_end(cx) else {
                        return Ok(false);
                    };
                    // A client that is gone already says so when it is read from.
                    let _ = told;
                    self.down.told = true;
                }
                return Ok(false);
            }
            let mut scratch = self.shard.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            let Poll::Ready(read) = link.poll_read(cx, &mut buffer) else {
                drop(scratch);
                let flushed = flush(&mut self.down, || client.stream.borrow_mut().poll_flush(cx));
                return flushed.map_err(End::Client);
            };
            read.map_err(End::Member)?;
            self.moved = self.shard.wheel.now();
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.down.ended = true;
            } else {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.exchange.sent_body(bytes.len());
                }
                let written = match client.stream.borrow_mut().poll_write(cx, bytes) {
                    Poll::Ready(written) => written.map_err(End::Client)?,
                    Poll::Pending => 0,
                };
                count(written);
                self.down.unflushed = true;
                self.down.held = Bytes::copy_from_slice(&bytes[written..]);
            }
        }
        Ok(true)
    }
}

/// Nothing more to move for now: what TLS still holds goes out.
fn flush(way: &mut Way, flush: impl FnOnce() -> Poll<io::Result<()>>) -> io::Result<bool> {
    if way.unflushed
        && let Poll::Ready(flushed) = flush()
    {
        flushed?;
        way.unflushed = false;
    }
    Ok(false)
}

/// A stream that takes nothing will never take anything.
fn not_none(written: usize) -> io::Result<usize> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(written)
}
