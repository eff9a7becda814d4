//! Frames for tests, byte by byte: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension
//! headers, TCP, UDP, ICMP. Checksums of IPv4 headers are right unless a test spoils them; those of
//! the transports are zero, for nobody here checks them.
//!
//! Also compiled into lb-common's own tests, so it uses nothing but the standard library.

use std::net::{IpAddr, SocketAddr};

/// Where the pieces of a built frame begin, bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offsets {
    /// IP header.
    pub l3: usize,
    /// Transport header.
    pub l4: usize,
}

/// A frame in the making.
#[derive(Clone, Debug)]
pub struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    proto: u8,
    tags: Vec<(u16, u16)>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
    transport: Vec<u8>,
    payload: Vec<u8>,
}

/// TCP flags.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;
}

impl Packet {
    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(from: &str, to: &str, flags: u8) -> Self {
        let mut packet = Self::new(from, to, 6);
        packet.transport = vec![0; 20];
        packet.put_ports();
        packet.transport[12] = 5 << 4;
        packet.transport[13] = flags;
        packet
    }

    /// A UDP datagram with `len` bytes of data.
    #[must_use]
    pub fn udp(from: &str, to: &str, len: usize) -> Self {
        let mut packet = Self::new(from, to, 17).payload(&vec![0x55; len]);
        packet.transport = vec![0; 8];
        packet.put_ports();
        let len = u16::try_from(8 + len).expect("a datagram is shorter");
        packet.transport[4..6].copy_from_slice(&len.to_be_bytes());
        packet
    }

    /// An ICMP or, between IPv6 addresses, ICMPv6 message. Addresses without ports.
    #[must_use]
    pub fn icmp(from: &str, to: &str, kind: u8, code: u8) -> Self {
        let from: IpAddr = from.parse().expect("a test's address is right");
        let to: IpAddr = to.parse().expect("a test's address is right");
        let proto = if from.is_ipv4() { 1 } else { 58 };
        let from = SocketAddr::from((from, 0)).to_string();
        let to = SocketAddr::from((to, 0)).to_string();
        let mut packet = Self::new(&from, &to, proto);
        packet.transport = vec![kind, code, 0, 0, 0, 0, 0, 0];
        packet
    }

    /// A datagram of any protocol; `transport` is what follows the IP header.
    #[must_use]
    pub fn raw(from: &str, to: &str, proto: u8, transport: &[u8]) -> Self {
        let mut packet = Self::new(from, to, proto);
        packet.transport = transport.to_vec();
        packet
    }

    fn new(from: &str, to: &str, proto: u8) -> Self {
        Self {
            from: from.parse().expect("a test's address is right"),
            to: to.parse().expect("a test's address is right"),
            proto,
            tags: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            transport: Vec::new(),
            payload: Vec::new(),
        }
    }

    fn put_ports(&mut self) {
        let (from, to) = (self.from.port(), self.to.port());
        self.transport[..2].copy_from_slice(&from.to_be_bytes());
        self.transport[2..4].copy_from_slice(&to.to_be_bytes());
    }

    /// Data behind the transport header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// One more VLAN tag, inside those already there: its Ethernet type and its control word.
    #[must_use]
    pub fn tag(mut self, ether_type: u16, control: u16) -> Self {
        self.tags.push((ether_type, control));
        self
    }

    /// IPv4 options; a multiple of four bytes, at most 40.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        self.options = options.to_vec();
        self
    }

    /// One more IPv6 extension header: its number and its bytes, of which the first (the next
    /// header's number) is filled in.
    #[must_use]
    pub fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.extensions.push((number, bytes.to_vec()));
        self
    }

    /// Makes it a fragment: offset in units of 8 bytes, and whether more follow. In IPv6 the
    /// fragment header comes behind the extensions given before.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        if self.from.is_ipv6() {
            let word = offset << 3 | u16::from(more);
            let [a, b] = word.to_be_bytes();
            self.extensions.push((44, vec![0, 0, a, b, 1, 2, 3, 4]));
        }
        self.fragment = Some((offset, more));
        self
    }

    /// Sets TCP's data offset, in 4-byte words.
    #[must_use]
    pub fn data_offset(mut self, words: u8) -> Self {
        self.transport[12] = words << 4;
        self
    }

    /// Sets UDP's length field.
    #[must_use]
    pub fn udp_len(mut self, len: u16) -> Self {
        self.transport[4..6].copy_from_slice(&len.to_be_bytes());
        self
    }

    /// Where the headers of the built frame begin.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let l3 = 14 + 4 * self.tags.len();
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        let l4 = l3
            + if self.from.is_ipv4() {
                20 + self.options.len()
            } else {
                40 + extensions
            };
        Offsets { l3, l4 }
    }

    /// The bytes.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (ether_type, control) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend(0x0800u16.to_be_bytes());
                let l3 = frame.len();
                let header = 20 + self.options.len();
                let total = header + self.transport.len() + self.payload.len();
                let (offset, more) = self.fragment.unwrap_or_default();
                let words = u8::try_from(header / 4).expect("at most 15 words");
                frame.extend([0x40 | words, 0]);
                frame.extend(u16::try_from(total).expect("fits").to_be_bytes());
                frame.extend([0x12, 0x34]);
                frame.extend((offset | u16::from(more) << 13).to_be_bytes());
                frame.extend([64, self.proto, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend(&self.options);
                set_checksum(&mut frame[l3..l3 + header]);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend(0x86ddu16.to_be_bytes());
                let extensions: usize = self.extensions.iter().map(|(_, b)| b.len()).sum();
                let payload = extensions + self.transport.len() + self.payload.len();
                let mut numbers: Vec<u8> = self.extensions.iter().map(|(n, _)| *n).collect();
                numbers.push(self.proto);
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(u16::try_from(payload).expect("fits").to_be_bytes());
                frame.extend([numbers[0], 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                for (index, (_, bytes)) in self.extensions.iter().enumerate() {
                    frame.push(numbers[index + 1]);
                    frame.extend(&bytes[1..]);
                }
            }
            _ => panic!("both addresses of a test's packet are of one family"),
        }
        frame.extend(&self.transport);
        frame.extend(&self.payload);
        frame
    }
}

/// Fills in the checksum of an IPv4 header (RFC 1071), whatever else was changed in it.
pub fn set_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let check = !u16::try_from(sum).expect("folded");
    header[10..12].copy_from_slice(&check.to_be_bytes());
}
