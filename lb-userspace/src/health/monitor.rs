//! The heart monitor: a thread of the proxy process that takes heartbeats from the network, or reads
//! them from the file where somebody else writes them (mod_heartmonitor).
//!
//! What they mean is [`crate::balancer::heartbeat`]'s business.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tracing::{debug, error, info};

use crate::{
    balancer::heartbeat::{Beat, Heartbeats, MOST_BYTES, MOST_FILE_BYTES, parse_file},
    config::spec::Heartbeat,
    dataplane::table::monotonic_ns,
};

/// Target of the events: httpd's modules in one.
const LOG: &str = "sluice::lbmethod_heartbeat";

/// How often the file is looked at, a failed socket is tried again, and orders are.
const LOOK: Duration = Duration::from_millis(250);
/// How often the same trouble is logged.
const TROUBLE: Duration = Duration::from_mins(1);

/// The running monitor. Dropping it ends it.
pub struct Monitor {
    orders: Option<mpsc::Sender<Heartbeat>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts the thread; it listens to nobody before the first [`Monitor::apply`].
    pub fn start(heartbeats: Arc<Heartbeats>) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("heartmonitor".to_owned())
            .spawn(move || Listening::new(heartbeats).run(&received))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Listens where a configuration says, and nowhere else.
    pub fn apply(&self, wanted: &Heartbeat) {
        if let Some(orders) = &self.orders {
            // A thread that has ended says so where it panicked.
            let _ = orders.send(wanted.clone());
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Listening {
    heartbeats: Arc<Heartbeats>,
    wanted: Heartbeat,
    socket: Option<UdpSocket>,
    /// When something was logged that may be said again after a while.
    complained: Option<SystemTime>,
}

impl Listening {
    fn new(heartbeats: Arc<Heartbeats>) -> Self {
        Self {
            heartbeats,
            wanted: Heartbeat::default(),
            socket: None,
            complained: None,
        }
    }

    fn run(mut self, orders: &mpsc::Receiver<Heartbeat>) {
        loop {
            let pause = match (&self.wanted.listen, &self.wanted.storage) {
                // Nothing to do until somebody wants something.
                (None, None) => Duration::from_hours(1),
                // It is the socket that is waited for.
                _ if self.socket.is_some() => Duration::ZERO,
                _ => LOOK,
            };
            match orders.recv_timeout(pause) {
                Ok(wanted) if wanted != self.wanted => {
                    if wanted.listen != self.wanted.listen {
                        self.socket = None;
                    }
                    self.wanted = wanted;
                    self.complained = None;
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.wanted.listen {
                Some(address) => self.listen(address),
                None => self.read(),
            }
        }
    }

    /// Takes what has come, or waits for it for a moment.
    fn listen(&mut self, address: SocketAddr) {
        let Some(socket) = &self.socket else {
            match open(address) {
                Ok(socket) => {
                    debug!(target: LOG, "AH02091: heartbeats are taken at {address}");
                    self.socket = Some(socket);
                }
                Err(error) => self.complain(&format!(
                    "AH02090: Unable to listen for connections! HeartbeatListen {address}: {error}"
                )),
            }
            return;
        };
        let mut buffer = [0; MOST_BYTES];
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => self.take(from, &buffer[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                self.socket = None;
                self.complain(&format!("AH02089: recvfrom failed: {error}"));
            }
        }
    }

    fn take(&mut self, from: SocketAddr, message: &[u8]) {
        match Beat::parse(message) {
            Ok(beat) => {
                let Beat { busy, ready } = beat;
                debug!(target: LOG, "AH02086: {from} busy={busy} ready={ready}");
                if !self.heartbeats.hear(from.ip(), beat, 0, monotonic_ns()) {
                    debug!(target: LOG, "heartbeat of {from}, which is no member");
                }
            }
            // At most now and then: whoever can reach the port can send many.
            Err(error) => self.complain(&format!("AH02087: {error}, from {from}")),
        }
    }

    fn read(&mut self) {
        let Some(path) = &self.wanted.storage else {
            return;
        };
        match read(path) {
            Ok(lines) => {
                let now = monotonic_ns();
                for (ip, beat, seconds_ago) in lines {
                    self.heartbeats.hear(ip, beat, seconds_ago, now);
                }
            }
            Err(error) => {
                let path = path.display();
                self.complain(&format!(
                    "lb_heartbeat: Unable to read heartbeats at '{path}': {error}"
                ));
            }
        }
    }

    fn complain(&mut self, what: &str) {
        let now = SystemTime::now();
        let quiet = self
            .complained
            .is_some_and(|at| now.duration_since(at).is_ok_and(|gone| gone < TROUBLE));
        if quiet {
            info!(target: LOG, "{what}");
        } else {
            self.complained = Some(now);
            error!(target: LOG, "{what}");
        }
    }
}

/// What the file says now.
fn read(path: &Path) -> io::Result<Vec<(IpAddr, Beat, u64)>> {
    let mut text = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    file.take(MOST_FILE_BYTES).read_to_end(&mut text)?;
    Ok(parse_file(&text))
}

/// A socket that takes datagrams to a group or to an address of this host.
fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(ipproto::UDP),
    )?;
    // Several processes of a host hear one group; while one proxy follows another both are there.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    let socket = UdpSocket::from(socket);
    match address.ip() {
        IpAddr::V4(group) if group.is_multicast() => {
            socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let scope = match address {
                SocketAddr::V6(address) => address.scope_id(),
                SocketAddr::V4(_) => 0,
            };
            socket.join_multicast_v6(&group, scope)?;
        }
        _ => {}
    }
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}
