//! Connections to members: one pool per shard and member, newest first.
//!
//! Nobody reads from a pooled connection. A member that closes it or speaks out of turn is noticed
//! when the connection is to be given out again, and by a look at all of them each second.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use lb_common::member::MemberId;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};
use tokio::{
    net::{TcpSocket, TcpStream, UnixStream},
    sync::Notify,
};
use tracing::debug;

mod link;
mod upload;
mod upstream;

pub(crate) use self::{
    link::Link,
    upstream::{NoAnswer, Said, Upstream},
};
use super::{
    plan::{Destination, Key, Place},
    shard::Shard,
    tls::member::{self, Line, Peer},
    wheel::{Alarm, TICK},
};
use crate::{config::spec, dataplane::sys::bind_without_port, telemetry::counters::Number};

/// Target of the events: httpd's `proxy`.
const LOG: &str = "sluice::proxy";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel says no.
    #[error("{0}")]
    Refused(#[source] io::Error),
    /// This process or this machine is out of descriptors, ports or memory: not the member's fault.
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

impl ConnectError {
    /// Another address of the name may do better.
    fn is_of_the_address(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::TimedOut)
    }
}

/// The pools of one shard.
#[derive(Default)]
pub(crate) struct Pools {
    /// By slot: the life of it that the connections belong to, and they.
    #[expect(clippy::vec_box, reason = "connections come and go in their boxes")]
    idle: RefCell<Vec<(u32, Vec<Box<Upstream>>)>>,
    /// By slot: requests of this shard that wait for a connection or a place.
    queues: RefCell<HashMap<MemberId, Rc<Queue>>>,
}

/// Who waits for one member.
#[derive(Default)]
struct Queue {
    /// A connection came back, or a place became free: one goes on.
    freed: Notify,
    waiting: Cell<usize>,
}

/// How long a connection keeps its buffers after a request.
const ROOM_KEPT: Duration = Duration::from_secs(1);

/// Idle connections to a member beyond which those of other names than the last give way: with
/// ProxyPreserveHost names are the clients' to invent.
const SHARED_BY_NAMES: usize = 256;

impl Pools {
    fn pop(&self, key: Key, peer: Option<&Arc<Peer>>) -> Option<Box<Upstream>> {
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
    pub(crate) fn put(&self, mut upstream: Box<Upstream>, now: u64) {
        let id = upstream.key.id;
        // Somebody of another shard waits for a place and could not use this connection.
        let wanted_elsewhere = !self.is_waited_for(id) && upstream.link.is_wanted();
        if !upstream.may_rest() || wanted_elsewhere {
            return;
        }
        upstream.rest(now);
        let index = id.0 as usize;
        let mut pools = self.idle.borrow_mut();
        if pools.len() <= index {
            pools.resize_with(index + 1, || (0, Vec::new()));
        }
        let (incarnation, idle) = &mut pools[index];
        if *incarnation != upstream.key.incarnation {
            let age = incarnation.wrapping_sub(upstream.key.incarnation);
            if !idle.is_empty() && age < u32::MAX / 2 {
                // The slot has another member by now.
                return;
            }
            *incarnation = upstream.key.incarnation;
            idle.clear();
        }
        let crowded = idle.len() >= SHARED_BY_NAMES;
        if crowded && idle.first().is_some_and(|old| old.peer != upstream.peer) {
            idle.remove(0);
        }
        idle.push(upstream);
        self.freed(id);
    }

    fn is_waited_for(&self, id: MemberId) -> bool {
        self.queues.borrow().contains_key(&id)
    }

    /// There is a connection or a place: one of those who wait for it goes on.
    fn freed(&self, id: MemberId) {
        if let Some(queue) = self.queues.borrow().get(&id) {
            queue.freed.notify_one();
        }
    }

    /// Once a second: drops what is closed, what is older than `ttl` says, one of those whose place
    /// somebody else waits for, and the buffers of those that rest.
    pub(crate) fn sweep(&self, now: u64, ttl: impl Fn(Key) -> Option<Duration>) {
        let mut dropped = Vec::new();
        for (_, idle) in self.idle.borrow_mut().iter_mut() {
            let Some(key) = idle.first().map(|first| first.key) else {
                continue;
            };
            let ttl = ttl(key);
            dropped.extend(idle.extract_if(.., |upstream| {
                upstream.is_over() || is_older(now, upstream.idle_since, ttl)
            }));
            for upstream in &mut *idle {
                if is_older(now, upstream.idle_since, Some(ROOM_KEPT)) {
                    upstream.slim();
                }
            }
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

/// A connection to the member: a pooled one that is open and silent, else a new one. `again`: the
/// request is one that can be sent again. `address` is tried first; it becomes that which was tried
/// last.
pub(crate) async fn acquire(
    shard: &Rc<Shard>,
    member: &Destination,
    peer: Option<&Arc<Peer>>,
    address: &mut SocketAddr,
    connect_timeout: Duration,
    again: bool,
) -> Result<Box<Upstream>, ConnectError> {
    let mut waiting = None;
    let mut deadline = None;
    let mut cleared = false;
    let first = *address;
    loop {
        while let Some(upstream) = shard.pools.pop(member.key, peer) {
            if is_older(shard.wheel.now(), upstream.idle_since, member.spec.ttl) {
                continue;
            }
            // An address that has left the answer is the member's no more.
            if let (Some(ip), Some(name)) = (upstream.further, &member.name)
                && !shard.shared.further.has(name, ip)
            {
                continue;
            }
            if upstream.is_silent(again) {
                return Ok(upstream);
            }
        }
        if let Some(place) = member.places.take(member.spec.max) {
            // Boxed: rare, and large.
            *address = first;
            let opening = connect(shard, member, peer, address, place, connect_timeout);
            let connected = Box::pin(opening).await;
            // A port that was let go is not free for a minute.
            let wants = |error: &io::Error| error.kind() != io::ErrorKind::AddrNotAvailable;
            if matches!(&connected, Err(ConnectError::Local(error)) if wants(error)) && !cleared {
                // Idle connections to other members can do without their descriptors.
                cleared = true;
                shard.pools.clear();
                tokio::task::yield_now().await;
                continue;
            }
            return connected;
        }
        let id = member.key.id;
        let (_, own) =
            waiting.get_or_insert_with(|| (member.places.wait(), LocalWait::new(shard, id)));
        let deadline = deadline.get_or_insert_with(|| {
            let alarm = shard.wheel.alarm();
            if let Some(acquire) = member.spec.acquire {
                alarm.set(acquire);
            }
            alarm
        });
        if !Box::pin(place_freed(shard, own, deadline)).await {
            return Err(ConnectError::Exhausted);
        }
    }
}

/// Waits for a place; `false`: the deadline came first.
async fn place_freed(shard: &Shard, own: &LocalWait<'_>, deadline: &Alarm) -> bool {
    // Another shard's place is seen at the next tick only.
    let retry = shard.wheel.alarm();
    retry.set(TICK);
    tokio::select! {
        () = own.queue.freed.notified() => true,
        () = retry.reached() => true,
        () = deadline.reached() => false,
    }
}

/// One more request of this shard waits for a member; one less when it is dropped.
struct LocalWait<'a> {
    shard: &'a Shard,
    id: MemberId,
    queue: Rc<Queue>,
}

impl<'a> LocalWait<'a> {
    fn new(shard: &'a Shard, id: MemberId) -> Self {
        shard.tally.up(Number::Waiting);
        let mut queues = shard.pools.queues.borrow_mut();
        let queue = Rc::clone(queues.entry(id).or_default());
        queue.waiting.set(queue.waiting.get() + 1);
        Self { shard, id, queue }
    }
}

impl Drop for LocalWait<'_> {
    fn drop(&mut self) {
        self.shard.tally.down(Number::Waiting);
        self.queue.waiting.set(self.queue.waiting.get() - 1);
        if self.queue.waiting.get() == 0 {
            self.shard.pools.queues.borrow_mut().remove(&self.id);
        }
    }
}

async fn connect(
    shard: &Rc<Shard>,
    member: &Destination,
    peer: Option<&Arc<Peer>>,
    address: &mut SocketAddr,
    place: Place,
    timeout: Duration,
) -> Result<Box<Upstream>, ConnectError> {
    let alarm = shard.wheel.alarm();
    let first = address.ip();
    let mut opened = open(shard, member, peer, *address, &alarm, timeout).await;
    if let Some(name) = &member.name
        && opened.as_ref().is_err_and(ConnectError::is_of_the_address)
    {
        // As httpd: in turn, each with the whole time, and the last one's failure counts.
        let further = shard.shared.further.beside(name, first);
        for ip in alarm.limit(timeout, further).await.unwrap_or_default() {
            if let Err(error) = &opened {
                debug!(target: LOG, "AH00957: attempt to connect to {address} ({name}) failed: {error}");
            }
            address.set_ip(ip);
            opened = open(shard, member, peer, *address, &alarm, timeout).await;
            if !opened.as_ref().is_err_and(ConnectError::is_of_the_address) {
                break;
            }
        }
    }
    let link = Link::new(shard, opened?, alarm, place, member.key.id);
    let reusable = !member.spec.disablereuse;
    let mut upstream = Upstream::new(link, member.key, peer.cloned(), reusable);
    upstream.further = (address.ip() != first).then_some(address.ip());
    Ok(upstream)
}

/// Opens a connection to one address, or through the member's Unix socket.
async fn open(
    shard: &Rc<Shard>,
    member: &Destination,
    peer: Option<&Arc<Peer>>,
    address: SocketAddr,
    alarm: &Alarm,
    timeout: Duration,
) -> Result<Line, ConnectError> {
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
        let stream = connect_tcp(address, &member.spec).await?;
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
    match alarm.limit(timeout, opening).await {
        Some(opened) => opened,
        None if connected.get() => Err(ConnectError::Tls(member::late(shard))),
        None => Err(ConnectError::TimedOut),
    }
}

async fn connect_tcp(
    address: SocketAddr,
    member: &spec::Member,
) -> Result<TcpStream, ConnectError> {
    if member.receive_buffer.is_none() && member.source.is_none() {
        let connected = TcpStream::connect(address).await;
        return connected.map_err(|error| failed(Some(address), error));
    }
    let failed = |error| failed(Some(address), error);
    let socket = bound(address, member.source).map_err(ConnectError::Local)?;
    if let Some(bytes) = member.receive_buffer {
        // Before the handshake, which tells the member of the window.
        socket.set_recv_buffer_size(bytes).map_err(failed)?;
    }
    socket.connect(address).await.map_err(failed)
}

/// A socket for connections to an address, which come from `source` where that is of its family. An
/// error says nothing of who is to be connected to.
pub(crate) fn bound(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        // The port is chosen by connect(2): one is taken for each pair of ends, not for this one alone.
        bind_without_port(socket.as_fd())?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// Connects to a Unix socket. A full queue is waited for as TCP waits: the kernel says so at once.
async fn connect_unix(shard: &Shard, path: &Path) -> Result<UnixStream, ConnectError> {
    let pause = shard.wheel.alarm();
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected.map_err(|error| failed(None, error)),
        }
        pause.set(TICK);
        pause.reached().await;
    }
}

fn failed(address: Option<SocketAddr>, error: io::Error) -> ConnectError {
    if is_local(address, &error) {
        ConnectError::Local(error)
    } else {
        ConnectError::Refused(error)
    }
}

/// Whether a failed connect(2) says nothing about the member, at this address if it has one.
pub(crate) fn is_local(address: Option<SocketAddr>, error: &io::Error) -> bool {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => true,
        Some(Errno::ADDRNOTAVAIL) => address.is_some_and(has_way),
        _ => false,
    }
}

/// Whether this host has an address to come from. The kernel has one word (EADDRNOTAVAIL) for no port
/// that is left for a destination and for no address of its family, as where IPv6 is switched off.
/// That of a datagram socket goes the same way, has ports of its own and sends nothing.
fn has_way(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC;
    let tried = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &address));
    tried != Err(Errno::ADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    #[test]
    fn what_becomes_free_wakes_one_of_those_who_wait_for_that_member() {
        let pools = Pools::default();
        let (member, other) = (MemberId(1), MemberId(2));
        let queue = Rc::clone(pools.queues.borrow_mut().entry(member).or_default());
        let (mut first, mut second) = (pin!(queue.freed.notified()), pin!(queue.freed.notified()));
        let mut woken = || {
            let mut cx = Context::from_waker(Waker::noop());
            [first.as_mut(), second.as_mut()].map(|waiter| waiter.poll(&mut cx).is_ready())
        };
        assert_eq!(woken(), [false, false]);
        pools.freed(other);
        assert_eq!(woken(), [false, false]);
        pools.freed(member);
        let woken = woken();
        assert_eq!(woken, [true, false]);
    }

    #[test]
    fn want_of_descriptors_is_not_the_members_fault() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let here = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let is_local = |at, errno| is_local(at, &error(errno));
        assert!(is_local(here, Errno::MFILE) && is_local(None, Errno::NOBUFS));
        assert!(!is_local(here, Errno::CONNREFUSED) && !is_local(here, Errno::HOSTUNREACH));
        assert!(!super::is_local(here, &io::ErrorKind::TimedOut.into()));
        // There is a way to it, so it was a port that was wanting.
        assert!(is_local(here, Errno::ADDRNOTAVAIL));
        assert!(!is_local(None, Errno::ADDRNOTAVAIL));
    }
}
