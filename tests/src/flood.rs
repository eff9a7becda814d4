//! Floods: bare SYNs or datagrams from one source or from random ones, bounded in count and rate.
//!
//! Packets go through a raw IP socket, so that the kernel finds the way and writes the IP checksum.
//! What no stack sends (bad IP headers, frames cut short) is tried on the program itself by
//! `BPF_PROG_TEST_RUN`, not here.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Namespace;

/// What to send, to whom, how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Where to; the family decides that of the packets.
    pub target: SocketAddr,
    /// Whom they claim to be from.
    pub sources: Sources,
    /// What they are.
    pub kind: Kind,
    /// How many packets; with [`Kind::AckTwice`] pairs of them.
    pub count: u32,
    /// At most this many of those a second; 0: as fast as it goes.
    pub rate: u32,
}

/// Source addresses of a flood.
#[derive(Clone, Copy, Debug)]
pub enum Sources {
    /// All from one address.
    One(IpAddr),
    /// From 131072 IPv4 or 2^80 IPv6 addresses of [`crate::topology::SPOOFED`] and its kin.
    Random,
}

/// Packets of a flood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// TCP connection requests without options.
    Syn,
    /// UDP datagrams of 32 bytes.
    Udp,
    /// TCP segments with no flag at all, which no stack sends.
    Null,
    /// TCP acknowledgements of connections that nobody has, two of each: the first enters a flow, the
    /// second makes it dear to a flow table.
    AckTwice,
}

impl Flood {
    /// Sends it from inside `namespace`; returns when the last packet has gone, with how many did.
    pub fn run(self, namespace: &Namespace) -> Result<u32> {
        namespace.inside(|| self.send())?
    }

    fn send(self) -> Result<u32> {
        let (domain, raw) = match self.target {
            SocketAddr::V4(_) => (Domain::IPV4, 255),
            SocketAddr::V6(_) => (Domain::IPV6, 255),
        };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(raw)))
            .context("opening a raw socket")?;
        // Protocol 255 (IPPROTO_RAW) means that the IP header is ours, in both families.
        let mut to = self.target;
        to.set_port(0);
        let mut random = Xorshift::new(0x5eed_f100_d5ee_d001);
        let start = Instant::now();
        let mut sent = 0;
        for number in 0..self.count {
            let packet = self.packet(number, &mut random);
            let times = if self.kind == Kind::AckTwice { 2 } else { 1 };
            for _ in 0..times {
                match socket.send_to(&packet, &to.into()) {
                    Ok(_) => sent += 1,
                    // The device's queue is full: that packet is lost, as on a real wire.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(error).context("sending a flood"),
                }
            }
            if self.rate > 0 && number % 64 == 63 {
                let due = Duration::from_secs_f64(f64::from(number + 1) / f64::from(self.rate));
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    thread::sleep(early);
                }
            }
        }
        Ok(sent)
    }

    fn packet(self, number: u32, random: &mut Xorshift) -> Vec<u8> {
        let source = match (self.sources, self.target) {
            (Sources::One(address), _) => address,
            (Sources::Random, SocketAddr::V4(_)) => {
                let host = random.next().to_be_bytes();
                Ipv4Addr::new(198, 18 + host[0] % 2, host[1], host[2]).into()
            }
            (Sources::Random, SocketAddr::V6(_)) => {
                let mut octets = [0; 16];
                octets[..6].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff]);
                octets[8..].copy_from_slice(&random.next().to_be_bytes());
                Ipv6Addr::from(octets).into()
            }
        };
        // Ports 1024..=65535, all of them before any comes again.
        let source_port = 1024 + u16::try_from(number % 64_512).unwrap_or(0);
        let (protocol, mut segment) = match self.kind {
            Kind::Syn | Kind::Null | Kind::AckTwice => {
                (6, tcp(source_port, self.target.port(), self.kind, random))
            }
            Kind::Udp => (17, udp(source_port, self.target.port())),
        };
        let sum = checksum(source, self.target.ip(), protocol, &segment);
        let at = if protocol == 6 { 16 } else { 6 };
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut packet = ip_header(source, self.target.ip(), protocol, segment.len());
        packet.append(&mut segment);
        packet
    }
}

fn tcp(source_port: u16, port: u16, kind: Kind, random: &mut Xorshift) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(source_port.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend((random.next() as u32).to_be_bytes());
    segment.extend([0; 4]);
    // Data offset 5 words; then the flags: SYN is 2, ACK is 16.
    let flags = match kind {
        Kind::Syn => 2,
        Kind::AckTwice => 16,
        Kind::Null | Kind::Udp => 0,
    };
    segment.extend([5 << 4, flags]);
    segment.extend(64_240_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment
}

fn udp(source_port: u16, port: u16) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(40);
    datagram.extend(source_port.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend(40_u16.to_be_bytes());
    datagram.extend([0; 34]);
    datagram
}

fn ip_header(source: IpAddr, target: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
    let length = u16::try_from(payload).unwrap_or(u16::MAX);
    let mut header;
    if let (IpAddr::V4(source), IpAddr::V4(target)) = (source, target) {
        header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        // Identification and checksum are left to the kernel; don't fragment.
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(source.octets());
        header.extend(target.octets());
    } else {
        header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([protocol, 64]);
        header.extend(as_v6(source).octets());
        header.extend(as_v6(target).octets());
    }
    header
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Checksum of a TCP or UDP segment with its pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
fn checksum(source: IpAddr, target: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut covered = Vec::with_capacity(40 + segment.len());
    if let (IpAddr::V4(source), IpAddr::V4(target)) = (source, target) {
        covered.extend(source.octets());
        covered.extend(target.octets());
    } else {
        covered.extend(as_v6(source).octets());
        covered.extend(as_v6(target).octets());
    }
    covered.extend([0, protocol]);
    covered.extend(
        u16::try_from(segment.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    covered.extend(segment);
    let mut sum: u32 = covered
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        // UDP: zero means "no checksum", so a sum of zero is sent as its other form.
        0 if protocol == 17 => 0xffff,
        sum => sum,
    }
}

/// A small generator with a fixed seed: floods are the same in every run.
struct Xorshift(u64);

impl Xorshift {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
