//! A service's address that the members of a lab share: the client's route to it leads to the
//! balancer, and each member holds it on its loopback, where nobody asks for it by ARP.
//!
//! ```text
//!   client  -- VIP via the balancer -->  balancer (XDP on eth0)  -- dsr, ipip, gue -->  member (VIP on lo)
//!      ^                                                                                  |
//!      +------------------------------- the member's own answer -------------------------+
//! ```

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use socket2::{Domain, Socket, Type};

use crate::{Lab, Member, Namespace, Sluice, scene::NAMES, topology, wait};

/// The shared IPv4 address.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The shared IPv6 address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);
/// Port of the service, and of the members.
pub const PORT: u16 = 8080;

/// The shared addresses, IPv4 first.
pub fn vips() -> [IpAddr; 2] {
    [VIP4.into(), VIP6.into()]
}

/// Makes the address shared: routes of client and attackers, and the members' loopbacks.
pub fn share(lab: &Lab) -> Result<()> {
    let (four, six) = (
        topology::address(topology::BALANCER),
        topology::address6(topology::BALANCER),
    );
    for from in [&lab.client].into_iter().chain(&lab.attackers) {
        from.ip(&format!("route add {VIP4}/32 via {four}\n"))?;
        from.ip(&format!("route add {VIP6}/128 via {six}\n"))?;
    }
    for member in &lab.members {
        member.ip(&format!(
            "address add {VIP4}/32 dev lo\naddress add {VIP6}/128 dev lo nodad\n"
        ))?;
        // Whoever asks the link for the address must not get a member for an answer.
        member.set_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        member.set_sysctl("net/ipv4/conf/all/arp_announce", "2")?;
        // Floods claim to come from where the client is.
        let (client, client6) = (
            topology::address(topology::CLIENT),
            topology::address6(topology::CLIENT),
        );
        member.ip(&format!("route add {} via {client}\n", topology::SPOOFED))?;
        member.ip(&format!("route add {} via {client6}\n", topology::SPOOFED6))?;
    }
    Ok(())
}

/// HTTP members a, b, c ... on every address of their hosts, port [`PORT`].
pub fn members(lab: &Lab) -> Result<Vec<Member>> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    (lab.members.iter().zip(NAMES))
        .map(|(home, name)| Member::start(home, name, any))
        .collect()
}

/// One connection to a service, kept open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects from inside `from`.
    pub fn open(from: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = from.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Connects from this port.
    pub fn open_from(from: &Namespace, port: u16, to: SocketAddr) -> Result<Self> {
        let connect = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            let any = match to {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            socket.bind(&SocketAddr::new(any, port).into())?;
            socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
            Ok(socket.into())
        };
        let stream = from.inside(connect)??;
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        Ok(Self { stream })
    }

    /// Where it comes from.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Asks who is at the other end.
    pub fn name(&mut self) -> Result<String> {
        self.stream
            .write_all(b"GET /name HTTP/1.1\r\nHost: lab.test\r\n\r\n")?;
        let mut seen = Vec::new();
        loop {
            let mut part = [0; 1024];
            let len = self.stream.read(&mut part).context("reading an answer")?;
            ensure!(len > 0, "the connection ended: {seen:?}");
            seen.extend_from_slice(&part[..len]);
            if let Some(body) = body(&seen) {
                return Ok(body);
            }
        }
    }
}

/// The body of a whole response, by its `Content-Length`.
fn body(seen: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(seen).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let len = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.eq_ignore_ascii_case("content-length"))
            .then(|| value.trim().parse::<usize>().ok())
            .flatten()
    })?;
    (body.len() >= len).then(|| body[..len].to_owned())
}

/// Who answers `count` new connections, and how many each.
pub fn answers(from: &Namespace, to: SocketAddr, count: u32) -> Result<BTreeMap<String, u32>> {
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let name = Connection::open(from, to)?.name()?;
        *seen.entry(name).or_default() += 1;
    }
    Ok(seen)
}

/// Opens connections until each of these names has answered one.
pub fn one_of_each(from: &Namespace, to: SocketAddr, names: &[&str]) -> Result<Vec<Connection>> {
    let mut found: BTreeMap<String, Connection> = BTreeMap::new();
    for _ in 0..200 {
        let mut connection = Connection::open(from, to)?;
        let name = connection.name()?;
        found.entry(name).or_insert(connection);
        if names.iter().all(|name| found.contains_key(*name)) {
            return Ok(found.into_values().collect());
        }
    }
    anyhow::bail!("200 connections reached {:?} alone", found.keys())
}

/// Answers every datagram to an address of a host with the host's name, until it is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    /// Starts it. It answers from the address that was asked, so each has its own socket.
    pub fn start(home: &Namespace, name: &str, address: SocketAddr) -> Result<Self> {
        let socket = home.inside(|| UdpSocket::bind(address))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (asked, name) = (std::sync::Arc::clone(&stop), name.to_owned());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !asked.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    // Whoever asked may be gone.
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket on a fresh port, connected: what ICMP says of its packets is told at its next call.
pub fn datagrams_to(from: &Namespace, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = from.inside(|| {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        std::io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// Sends a datagram from a fresh port, and says who answers.
pub fn ask_by_datagram(from: &Namespace, to: SocketAddr) -> Result<String> {
    ask_with(from, to, b"who")
}

/// As [`ask_by_datagram`], with these bytes.
pub fn ask_with(from: &Namespace, to: SocketAddr, bytes: &[u8]) -> Result<String> {
    let socket = datagrams_to(from, to)?;
    let mut buffer = [0; 2048];
    // The first may wait for a neighbour that is not known yet.
    wait::until("an answer by datagram", wait::PATIENCE, || {
        socket.send(bytes).ok()?;
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })
}

/// Waits until a datagram to this place meets a port that is said to be unreachable.
pub fn until_unreachable(from: &Namespace, to: SocketAddr) -> Result<()> {
    let socket = datagrams_to(from, to)?;
    let mut buffer = [0; 64];
    wait::until("an unreachable port", wait::PATIENCE, || {
        let sent = socket.send(b"who").err();
        let error = sent.or_else(|| socket.recv(&mut buffer).err())?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
}

/// A balancer of members that are for packets alone, by their hosts and what stands behind those.
pub fn balancer(name: &str, scheme: &str, hosts: impl IntoIterator<Item = String>) -> String {
    let members: Vec<String> = (hosts.into_iter())
        .map(|host| format!("    BalancerMember {scheme}://{host}\n"))
        .collect();
    format!("<Proxy balancer://{name}>\n{}</Proxy>\n", members.concat())
}

/// What `service list` says, as one text: reasons are looked for in it.
pub fn counted(sluice: &Sluice) -> Result<String> {
    Ok(sluice.json(&["service", "list"])?.to_string())
}
