//! Listening sockets: one per shard and `Listen`, all in one SO_REUSEPORT group per address, kept
//! by control so that a proxy can die without a connection being refused.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    config::spec::{Listener, Place},
    dataplane::sys::defer_accept,
};

/// A `Listen` that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}:{}: Listen {address}: {what}", at.file.display(), at.line)]
pub(crate) struct BindError {
    address: SocketAddr,
    at: Place,
    what: String,
    #[source]
    source: io::Error,
}

/// Sockets by address; those of one address by shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listeners {
    bound: HashMap<Key, Arc<Vec<TcpListener>>>,
    /// A proxy whose control died holds the addresses until this one serves.
    shared: bool,
}

/// Address, dual, deferred: a socket stays what it is, so that a reload that fails changes none.
pub(crate) type Key = (SocketAddr, bool, bool);

fn key(listener: &Listener) -> Key {
    (listener.address, listener.dual, listener.deferred)
}

/// How long an address in use is tried again: a proxy whose control died is closing its sockets.
const IN_USE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the kernel keeps a silent connection to itself, seconds; httpd's.
const DEFER: u32 = 30;
const IN_USE_RETRY: Duration = Duration::from_millis(50);

impl Listeners {
    /// None yet; with `shared`, addresses that another process of this user shares are taken as
    /// they are.
    pub(crate) fn beside(shared: bool) -> Self {
        Self {
            bound: HashMap::new(),
            shared,
        }
    }

    /// From a predecessor, several of one address by shard in the order given.
    pub(crate) fn inherited(sockets: impl IntoIterator<Item = (Key, TcpListener)>) -> Self {
        let mut bound: HashMap<_, Vec<TcpListener>> = HashMap::new();
        for (key, socket) in sockets {
            bound.entry(key).or_default().push(socket);
        }
        Self {
            bound: (bound.into_iter())
                .map(|(key, sockets)| (key, Arc::new(sockets)))
                .collect(),
            shared: false,
        }
    }

    /// Every socket with its address.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Key, &TcpListener)> {
        (self.bound.iter()).flat_map(|(key, all)| all.iter().map(|socket| (*key, socket)))
    }

    /// Gives each shard's sockets the connections of another CPU.
    pub(crate) fn steer(&self, pins: &[Option<u32>]) {
        for sockets in self.bound.values() {
            for (index, socket) in sockets.iter().enumerate() {
                steer(&SockRef::from(socket), pins[index % pins.len()]);
            }
        }
    }

    /// Brings inherited sockets in line with these shards: as many at least (the sockets of fewer
    /// shards stay and are given to those there are, or their accept queues would be lost), each
    /// steered to its shard's CPU.
    pub(crate) fn fit(
        self,
        wanted: &[Listener],
        pins: &[Option<u32>],
        backlog: u32,
    ) -> io::Result<Self> {
        let mut bound = HashMap::new();
        for (key, sockets) in self.bound {
            let mut sockets = (sockets.iter())
                .map(TcpListener::try_clone)
                .collect::<io::Result<Vec<_>>>()?;
            for (index, held) in sockets.iter().enumerate() {
                steer(&SockRef::from(held), pins[index % pins.len()]);
            }
            let listener = wanted.iter().find(|listener| self::key(listener) == key);
            if let Some(listener) = listener {
                for pin in pins.iter().skip(sockets.len()) {
                    sockets.push(listening(listener, *pin, backlog)?);
                }
            }
            bound.insert(key, Arc::new(sockets));
        }
        Ok(Self {
            bound,
            shared: self.shared,
        })
    }

    /// Sockets for `wanted`: those of `self` where there are some, new ones for the rest. `self`
    /// stays whole: whoever drops it closes what is no longer wanted.
    pub(crate) async fn rebind(
        &self,
        wanted: &[Listener],
        pins: &[Option<u32>],
        backlog: u32,
    ) -> Result<Self, BindError> {
        let mut bound = HashMap::new();
        for listener in wanted {
            let key = key(listener);
            let sockets = match self.bound.get(&key) {
                Some(sockets) => Arc::clone(sockets),
                None => Arc::new(self.bind(listener, pins, backlog).await.map_err(|source| {
                    BindError {
                        address: listener.address,
                        at: listener.at.clone(),
                        what: describe(&source, listener.address),
                        source,
                    }
                })?),
            };
            bound.insert(key, sockets);
        }
        Ok(Self {
            bound,
            shared: false,
        })
    }

    /// Sockets of one `Listen`, by shard.
    pub(crate) fn sockets(&self, listener: &Listener) -> &[TcpListener] {
        self.bound
            .get(&key(listener))
            .map_or(&[], |sockets| sockets.as_slice())
    }

    async fn bind(
        &self,
        listener: &Listener,
        pins: &[Option<u32>],
        backlog: u32,
    ) -> io::Result<Vec<TcpListener>> {
        // SO_REUSEPORT shares an address with whatever else of the same user has set it, another
        // sluice for one; a socket without it finds that out. Our own sockets on that port are no
        // obstacle: a reload may narrow `*:80` to one address.
        let port = listener.address.port();
        let ours = self.bound.keys().any(|(bound, ..)| bound.port() == port);
        if !self.shared && !ours && port != 0 {
            let deadline = Instant::now() + IN_USE_PATIENCE;
            while let Err(error) = socket(listener, false).map(drop) {
                if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= deadline {
                    return Err(error);
                }
                tokio::time::sleep(IN_USE_RETRY).await;
            }
        }
        pins.iter()
            .map(|pin| listening(listener, *pin, backlog))
            .collect()
    }
}

/// Gives a socket of a group the connections whose packets its shard's CPU receives
/// (`SO_INCOMING_CPU`, which groups go by since Linux 6.2; before, it changes nothing). Where no
/// socket of a group is of the CPU, and without a pin, the kernel goes by its hash.
fn steer(socket: &SockRef<'_>, pin: Option<u32>) {
    // What the kernel takes for "none": its -1.
    let cpu = pin.map_or(usize::MAX, |cpu| cpu as usize);
    if let Err(error) = socket.set_cpu_affinity(cpu) {
        tracing::warn!("a listening socket is not steered to the CPU of its shard: {error}");
    }
}

fn listening(listener: &Listener, pin: Option<u32>, backlog: u32) -> io::Result<TcpListener> {
    let socket = socket(listener, true)?;
    if pin.is_some() {
        steer(&SockRef::from(&socket), pin);
    }
    if listener.deferred {
        // Without it connections come earlier, that is all.
        let _ = defer_accept(socket.as_fd(), DEFER);
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

fn socket(listener: &Listener, share: bool) -> io::Result<Socket> {
    let made = bind_to(listener.address, listener.dual, share);
    match made {
        // A kernel without IPv6: `Listen 80` means IPv4 there, as in httpd.
        Err(error) if listener.dual && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let port = listener.address.port();
            bind_to((Ipv4Addr::UNSPECIFIED, port).into(), false, share)
        }
        made => made,
    }
}

fn bind_to(address: SocketAddr, dual: bool, share: bool) -> io::Result<Socket> {
    // socket2 sets close-on-exec.
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn describe(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the address is in use by another program; `ss -ltnp 'sport = :{}'` names it",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => format!("cannot be bound: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::dataplane::sys::defers_accept;

    fn listen(address: SocketAddr) -> Listener {
        Listener {
            address,
            dual: false,
            deferred: false,
            at: Place {
                file: "test.conf".into(),
                line: 3,
            },
        }
    }

    /// Taken by a socket that does not listen: nobody but who names it gets it.
    fn free_address() -> SocketAddr {
        static TAKEN: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = bind_to(any, false, false).expect("bind");
        let address = socket.local_addr().expect("address");
        TAKEN.lock().expect("no panic").push(socket);
        address.as_socket().expect("IPv4")
    }

    #[tokio::test]
    async fn kept_addresses_keep_their_sockets() {
        let kept = listen(free_address());
        let first = Listeners::default()
            .rebind(std::slice::from_ref(&kept), &[None, None], 16)
            .await
            .expect("bind");
        let other = listen(free_address());
        let second = first
            .rebind(&[kept.clone(), other.clone()], &[None, None], 16)
            .await
            .expect("bind");
        assert_eq!(second.sockets(&other).len(), 2);
        assert!(std::ptr::eq(
            first.sockets(&kept).as_ptr(),
            second.sockets(&kept).as_ptr()
        ));
    }

    #[tokio::test]
    async fn changed_accept_filter_takes_new_sockets() {
        let plain = listen(free_address());
        let deferred = Listener {
            deferred: true,
            ..plain.clone()
        };
        let first = Listeners::default()
            .rebind(std::slice::from_ref(&plain), &[None], 16)
            .await
            .expect("bind");
        let second = first
            .rebind(std::slice::from_ref(&deferred), &[None], 16)
            .await
            .expect("bind beside it");
        assert!(!defers_accept(first.sockets(&plain)[0].as_fd()));
        assert!(defers_accept(second.sockets(&deferred)[0].as_fd()));
    }

    #[tokio::test]
    async fn a_foreign_listener_is_an_error_naming_the_directive_even_with_reuseport() {
        let address = free_address();
        let foreign = socket(&listen(address), true).expect("bind");
        foreign.listen(1).expect("listen");
        let error = Listeners::default()
            .rebind(&[listen(address)], &[None], 16)
            .await
            .expect_err("in use")
            .to_string();
        assert!(
            error.starts_with("test.conf:3: Listen 127.0.0.1:"),
            "{error}"
        );
        assert!(error.contains("in use"), "{error}");
    }

    #[tokio::test]
    async fn a_port_of_ours_may_be_narrowed_to_one_address() {
        let port = free_address().port();
        let wide = listen(SocketAddr::from(([0, 0, 0, 0], port)));
        let first = Listeners::default()
            .rebind(&[wide], &[None], 16)
            .await
            .expect("bind");
        let narrow = listen(SocketAddr::from(([127, 0, 0, 1], port)));
        first
            .rebind(&[narrow], &[None], 16)
            .await
            .expect("bind beside it");
    }
}
