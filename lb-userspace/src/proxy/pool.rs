//! Connections to members: one pool per shard and member, newest first.
//!
//! A pooled connection is a hyper client connection whose task goes on reading: a member that
//! closes or speaks out of turn is noticed there, and the connection is not given out again.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    client::conn::http1::{self, SendRequest},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use rustix::{io::Errno, net::RecvFlags};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{TcpSocket, TcpStream, UnixStream},
    sync::Notify,
};

use super::{
    body::RequestBody,
    plan::{Destination, Key, Place},
    shard::Shard,
    tls::member::{self, Line, Peer},
    wheel::{Alarm, TICK},
};
use crate::telemetry::counters::Number;

/// What a connection's user and its transport share.
pub(crate) struct Link {
    stream: RefCell<Line>,
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
    leftover: Cell<Bytes>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shard.tally.down(Number::Open);
        self.place = None;
        self.shard.pools.freed.notify_waiters();
    }
}

/// One connection to a member.
pub(crate) struct Upstream {
    /// hyper's handle.
    pub(crate) sender: SendRequest<RequestBody>,
    /// Counters and deadline.
    pub(crate) link: Rc<Link>,
    /// It carried a request before.
    pub(crate) reused: bool,
    /// It may carry another request.
    pub(crate) reusable: bool,
    key: Key,
    /// Who is at the other end of a TLS connection.
    peer: Option<Arc<Peer>>,
    /// Tick since when it is idle.
    idle_since: u64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel says no.
    #[error("{0}")]
    Refused(#[source] io::Error),
    /// This process or this machine is out of descriptors or memory: not the member's fault.
    #[error("{0}")]
    Local(#[source] io::Error),
    /// The member's name has no address.
    #[error("no address is known for its name")]
    Nowhere,
    /// `connectiontimeout`.
    #[error("connection timed out")]
    TimedOut,
    /// TCP connects, TLS does not.
    #[error("{0}")]
    Tls(#[source] member::HandshakeError),
    /// `max` connections and `acquire` is over.
    #[error("no connection became free")]
    Exhausted,
}

/// The pools of one shard.
#[derive(Default)]
pub(crate) struct Pools {
    /// By slot: the life of it that the connections belong to, and they.
    idle: RefCell<Vec<(u32, Vec<Upstream>)>>,
    /// A connection came back, or a place became free.
    freed: Notify,
    /// Requests of this shard that wait for one.
    waiting: Cell<usize>,
}

/// Most that is read at once, bytes, and the largest head of a response. A body of 64 KiB comes with
/// its head in one read and goes in one write: the few bytes that would be left over cost a call and
/// a packet on each side.
const PIECE: usize = 80 << 10;

/// Bytes of interim responses and the head after which a member's answer is none; hyper may read
/// nearly [`PIECE`] of a body together with the head.
const HEAD_BOUND: u64 = 128 << 10;

/// Idle connections to a member beyond which those of other names than the last give way: with
/// ProxyPreserveHost names are the clients' to invent.
const SHARED_BY_NAMES: usize = 256;

impl Pools {
    fn pop(&self, key: Key, peer: Option<&Arc<Peer>>) -> Option<Upstream> {
        let mut pools = self.idle.borrow_mut();
        let (incarnation, idle) = pools.get_mut(key.id.0 as usize)?;
        if *incarnation != key.incarnation {
            return None;
        }
        // Over TLS a connection is for one name and one set of settings. Others stay: with
        // ProxyPreserveHost a member has many names.
        let at = idle.iter().rposition(|own| own.peer.as_ref() == peer)?;
        Some(idle.remove(at))
    }

    /// Takes a connection back. Only what ended cleanly may come here.
    pub(crate) fn put(&self, mut upstream: Upstream, now: u64) {
        // Somebody of another shard waits for a place and could not use this connection.
        let wanted_elsewhere = self.waiting.get() == 0 && upstream.link.is_wanted();
        if !upstream.reusable || upstream.sender.is_closed() || wanted_elsewhere {
            return;
        }
        upstream.reused = true;
        upstream.idle_since = now;
        upstream.link.alarm.clear();
        let index = upstream.key.id.0 as usize;
        let mut pools = self.idle.borrow_mut();
        if pools.len() <= index {
            pools.resize_with(index + 1, || (0, Vec::new()));
        }
        let (incarnation, idle) = &mut pools[index];
        if *incarnation != upstream.key.incarnation {
            *incarnation = upstream.key.incarnation;
            idle.clear();
        }
        let crowded = idle.len() >= SHARED_BY_NAMES;
        if crowded && idle.first().is_some_and(|old| old.peer != upstream.peer) {
            idle.remove(0);
        }
        idle.push(upstream);
        if self.waiting.get() > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Once a second: drops what is closed, what is older than `ttl` says, and one of those whose
    /// place somebody else waits for.
    pub(crate) fn sweep(&self, now: u64, ttl: impl Fn(Key) -> Option<Duration>) {
        let mut dropped = Vec::new();
        for (_, idle) in self.idle.borrow_mut().iter_mut() {
            let Some(key) = idle.first().map(|first| first.key) else {
                continue;
            };
            let ttl = ttl(key);
            dropped.extend(idle.extract_if(.., |upstream| {
                upstream.sender.is_closed() || is_older(now, upstream.idle_since, ttl)
            }));
            if idle.first().is_some_and(|first| first.link.is_wanted()) {
                dropped.push(idle.remove(0));
            }
        }
    }

    /// Connections that are idle.
    pub(crate) fn idle(&self) -> usize {
        let pools = self.idle.borrow();
        pools.iter().map(|(_, idle)| idle.len()).sum()
    }

    /// Drops every idle connection.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

fn is_older(now: u64, since: u64, ttl: Option<Duration>) -> bool {
    ttl.is_some_and(|ttl| {
        u128::from(now.saturating_sub(since)) * TICK.as_millis() > ttl.as_millis()
    })
}

impl Link {
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
        if let Poll::Ready(Ok(count)) = written {
            self.sent.set(self.sent.get() + count as u64);
            self.moved.set(self.shard.wheel.now());
        }
        written
    }

    /// Whether somebody waits for a place with this member.
    fn is_wanted(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.places().is_wanted())
    }
}

impl Upstream {
    /// Whether nothing came in on an idle connection: bytes that the runtime has not seen yet would be
    /// taken for the next response. One system call for each reuse, 0.4 µs, as in httpd.
    fn is_silent(&self) -> bool {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.link.stream.borrow().socket(), &mut byte, flags);
        matches!(peeked, Err(Errno::AGAIN))
    }
}

/// A connection to the member: a pooled one that is open and silent, else a new one.
pub(crate) async fn acquire(
    shard: &Rc<Shard>,
    member: &Destination,
    peer: Option<&Arc<Peer>>,
    address: SocketAddr,
    connect_timeout: Duration,
) -> Result<Upstream, ConnectError> {
    let mut waiting = None;
    let mut deadline = None;
    let mut cleared = false;
    loop {
        while let Some(mut upstream) = shard.pools.pop(member.key, peer) {
            if is_older(shard.wheel.now(), upstream.idle_since, member.spec.ttl) {
                continue;
            }
            // Not ready yet is the rule right after a response: hyper's task has to go idle first.
            let ready = upstream.sender.ready().await.is_ok();
            if ready && upstream.is_silent() {
                return Ok(upstream);
            }
        }
        if let Some(place) = member.places.take(member.spec.max) {
            // Boxed: rare, and large.
            let opening = connect(shard, member, peer, address, place, connect_timeout);
            let connected = Box::pin(opening).await;
            if matches!(connected, Err(ConnectError::Local(_))) && !cleared {
                // Idle connections to other members can do without their descriptors.
                cleared = true;
                shard.pools.clear();
                tokio::task::yield_now().await;
                continue;
            }
            return connected;
        }
        waiting.get_or_insert_with(|| (member.places.wait(), LocalWait::new(shard)));
        let deadline = deadline.get_or_insert_with(|| {
            let alarm = shard.wheel.alarm();
            if let Some(acquire) = member.spec.acquire {
                alarm.set(acquire);
            }
            alarm
        });
        if !Box::pin(place_freed(shard, deadline)).await {
            return Err(ConnectError::Exhausted);
        }
    }
}

/// Waits for a place; `false`: the deadline came first.
async fn place_freed(shard: &Shard, deadline: &Alarm) -> bool {
    // Another shard's place is seen at the next tick only.
    let retry = shard.wheel.alarm();
    retry.set(TICK);
    let freed = shard.pools.freed.notified();
    tokio::select! {
        () = freed => true,
        () = retry.reached() => true,
        () = deadline.reached() => false,
    }
}

/// One more request of this shard waits; one less when it is dropped.
struct LocalWait<'a>(&'a Shard);

impl<'a> LocalWait<'a> {
    fn new(shard: &'a Shard) -> Self {
        shard.pools.waiting.set(shard.pools.waiting.get() + 1);
        shard.tally.up(Number::Waiting);
        Self(shard)
    }
}

impl Drop for LocalWait<'_> {
    fn drop(&mut self) {
        self.0.tally.down(Number::Waiting);
        let pools = &self.0.pools;
        pools.waiting.set(pools.waiting.get() - 1);
    }
}

async fn connect(
    shard: &Rc<Shard>,
    member: &Destination,
    peer: Option<&Arc<Peer>>,
    address: SocketAddr,
    place: Place,
    timeout: Duration,
) -> Result<Upstream, ConnectError> {
    let alarm = shard.wheel.alarm();
    let connected = Cell::new(false);
    // One deadline for both.
    let opening = async {
        if let Some(path) = &member.spec.socket {
            return connect_unix(shard, path).await.map(Line::Unix);
        }
        if address.ip().is_unspecified() {
            // The kernel would take it for this host.
            return Err(ConnectError::Nowhere);
        }
        let stream = connect_tcp(address, member.spec.receive_buffer)
            .await
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(ConnectError::Refused)?;
        if member.spec.keepalive {
            socket2::SockRef::from(&stream)
                .set_keepalive(true)
                .map_err(ConnectError::Refused)?;
        }
        let Some(peer) = peer else {
            return Ok(Line::Plain(stream));
        };
        connected.set(true);
        // Boxed: a handshake is large, and rare.
        Box::pin(member::open(shard, peer, stream))
            .await
            .map_err(ConnectError::Tls)
    };
    let opened = alarm.limit(timeout, opening).await;
    let stream = match opened {
        Some(opened) => opened?,
        None if connected.get() => {
            return Err(ConnectError::Tls(member::late(shard)));
        }
        None => return Err(ConnectError::TimedOut),
    };
    shard.tally.up(Number::Open);
    let link = Rc::new(Link {
        stream: RefCell::new(stream),
        received: Cell::new(0),
        sent: Cell::new(0),
        head_bound: Cell::new(u64::MAX),
        moved: Cell::new(shard.wheel.now()),
        alarm,
        shard: Rc::clone(shard),
        place: Some(place),
        leftover: Cell::default(),
    });
    let io = LinkIo {
        link: Rc::clone(&link),
    };
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(PIECE)
        .handshake(io)
        .await
        .map_err(|error| ConnectError::Refused(io::Error::other(error)))?;
    let own = Rc::clone(&link);
    tokio::task::spawn_local(async move {
        let mut connection = connection;
        match (&mut connection).await {
            // For a tunnel, which waits for this task's turn.
            Ok(()) => own.leftover.set(connection.into_parts().read_buf),
            // Whoever uses the connection gets the error; on an idle one there is nobody to tell.
            Err(error) => {
                tracing::trace!(target: "sluice::proxy", "member {address}: {error}");
            }
        }
    });
    Ok(Upstream {
        sender,
        link,
        reused: false,
        reusable: !member.spec.disablereuse,
        key: member.key,
        peer: peer.cloned(),
        idle_since: 0,
    })
}

async fn connect_tcp(address: SocketAddr, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let Some(bytes) = receive_buffer else {
        return TcpStream::connect(address).await;
    };
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // Before the handshake, which tells the member of the window.
    socket.set_recv_buffer_size(bytes)?;
    socket.connect(address).await
}

/// Connects to a Unix socket. A full queue is waited for as TCP waits: the kernel says so at once.
async fn connect_unix(shard: &Shard, path: &Path) -> Result<UnixStream, ConnectError> {
    let pause = shard.wheel.alarm();
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected.map_err(failed),
        }
        pause.set(TICK);
        pause.reached().await;
    }
}

fn failed(error: io::Error) -> ConnectError {
    if is_local(&error) {
        ConnectError::Local(error)
    } else {
        ConnectError::Refused(error)
    }
}

/// Whether a failed connect says nothing about the member.
fn is_local(error: &io::Error) -> bool {
    let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| own.contains(&errno))
}

/// The transport of a connection to a member.
struct LinkIo {
    link: Rc<Link>,
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
        self.link.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_is_not_the_members_fault() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(is_local(&error(Errno::MFILE)) && is_local(&error(Errno::NOBUFS)));
        assert!(!is_local(&error(Errno::CONNREFUSED)) && !is_local(&error(Errno::HOSTUNREACH)));
        assert!(!is_local(&io::ErrorKind::TimedOut.into()));
    }
}
