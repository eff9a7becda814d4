//! An independent end of tunnels: takes IP in IP and GUE apart in a member's namespace, as the
//! kernel's ipip, sit, ip6tnl and fou do where it has them, and hands what was inside to the stack.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Namespace;

/// Port of GUE.
const GUE: u16 = 6080;

/// Tunnels of one host, open until it is dropped.
#[derive(Debug)]
pub struct Unwrap {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

enum Tunnel {
    /// The outer IPv4 header comes along.
    Four(Socket),
    /// The outer IPv6 header does not.
    Six(Socket),
    Gue(UdpSocket),
    /// Datagrams over IPv6 with their UDP headers: those without a checksum, which RFC 6935 allows a
    /// tunnel and an ordinary socket does not take.
    Gue6(Socket),
}

impl Unwrap {
    /// Opens tunnels of every kind in `home`.
    pub fn start(home: &Namespace) -> Result<Self> {
        let raw = |domain, protocol: i32| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_recv_buffer_size(1 << 20)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            io::Result::Ok(socket)
        };
        let open = || -> io::Result<Vec<Tunnel>> {
            let gue = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, GUE))?;
            gue.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(vec![
                Tunnel::Four(raw(Domain::IPV4, 4)?),
                Tunnel::Four(raw(Domain::IPV4, 41)?),
                Tunnel::Six(raw(Domain::IPV6, 4)?),
                Tunnel::Six(raw(Domain::IPV6, 41)?),
                Tunnel::Gue(gue),
                Tunnel::Gue6(raw(Domain::IPV6, 17)?),
            ])
        };
        let tunnels = home.inside(open)?.context("opening tunnels")?;
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let threads = (tunnels.into_iter())
            .map(|tunnel| {
                let (stop, taken) = (Arc::clone(&stop), Arc::clone(&taken));
                // Inside, so that what was inside the tunnel stays inside.
                let work = move || tunnel.serve(&stop, &taken);
                let handle = home.spawn(work)?;
                Ok(thread::spawn(move || drop(handle.join())))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            stop,
            taken,
            threads,
        })
    }

    /// Packets taken out of tunnels so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}

impl Drop for Unwrap {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Tunnel {
    fn serve(&self, stop: &AtomicBool, taken: &AtomicU64) {
        // IPPROTO_RAW: the header is in the packet.
        let out = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255)));
        let (Ok(four), Ok(six)) = (out(Domain::IPV4), out(Domain::IPV6)) else {
            return;
        };
        let mut buffer = vec![0; 65536];
        while !stop.load(Relaxed) {
            let Ok(inner) = self.next(&mut buffer) else {
                continue;
            };
            let done = match inner.first().map(|byte| byte >> 4) {
                Some(4) if inner.len() >= 20 => {
                    let to = Ipv4Addr::new(inner[16], inner[17], inner[18], inner[19]);
                    four.send_to(inner, &SocketAddr::new(IpAddr::V4(to), 0).into())
                }
                Some(6) if inner.len() >= 40 => {
                    let to: [u8; 16] = inner[24..40].try_into().unwrap_or_default();
                    six.send_to(inner, &SocketAddr::new(IpAddr::from(to), 0).into())
                }
                _ => continue,
            };
            if done.is_ok() {
                taken.fetch_add(1, Relaxed);
            }
        }
    }

    fn next<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        use io::Read as _;
        match self {
            Self::Four(socket) => {
                let mut socket = socket;
                let len = socket.read(buffer)?;
                let head = usize::from(buffer[0] & 15) * 4;
                Ok(buffer.get(head..len).unwrap_or_default())
            }
            Self::Six(socket) => {
                let mut socket = socket;
                let len = socket.read(buffer)?;
                Ok(&buffer[..len])
            }
            Self::Gue6(socket) => {
                let mut socket = socket;
                let len = socket.read(buffer)?;
                let ours = len >= 8 && buffer[2..4] == GUE.to_be_bytes() && buffer[6..8] == [0; 2];
                Ok(if ours { &buffer[8..len] } else { &[] })
            }
            Self::Gue(socket) => {
                let len = socket.recv(buffer)?;
                Ok(&buffer[..len])
            }
        }
    }
}
