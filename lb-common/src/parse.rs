//! From a frame to the headers that decide its fate.
//!
//! [`parse`] only *locates*: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with extension
//! headers, TCP, UDP, ICMP, fragments. It judges nothing, so that traffic of no service costs no
//! more than finding that out; what is malformed is [`crate::guard`]'s question.

use core::hint::black_box;

use network_types::{
    eth::{EthHdr, EtherType},
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    addr::{Address, Be16},
    frame::Frame,
    service::proto,
};

/// IPv6 extension headers that are followed. RFC 8200 section 4.1 recommends an order of seven
/// headers of which ESP hides what follows: a longer chain is not one that a stack sends.
pub const MAX_EXTENSIONS: usize = 6;

/// How far the parser came.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Reach {
    /// Not IP, or more VLAN tags than two, or too short to say.
    #[default]
    NotIp,
    /// IP with both addresses, but where the transport header begins cannot be told (or lies
    /// beyond the first buffer).
    Addresses,
    /// A fragment other than the first: no transport header.
    LaterFragment,
    /// A transport without ports that is not ICMP.
    OtherProtocol,
    /// ICMP or ICMPv6, with type and code.
    Icmp,
    /// TCP or UDP, with both ports.
    Ports,
}

/// What the parser found. Fields beyond [`reach`](Self::reach) are zero.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    /// How far it came.
    pub reach: Reach,
    /// 4 or 6; 0: not IP.
    pub version: u8,
    /// Transport protocol (IANA), behind any extension headers.
    pub proto: u8,
    /// Whether this is a fragment, the first or a later one. An IPv6 fragment header around a whole
    /// datagram (RFC 6946) does not make one.
    pub is_fragment: bool,
    /// TCP flags as on the wire: [`tcp`].
    pub tcp_flags: u8,
    /// Type of ICMP or ICMPv6.
    pub icmp_type: u8,
    /// Code of ICMP or ICMPv6.
    pub icmp_code: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// Offset of the IP header, bytes.
    pub l3: usize,
    /// Offset of the transport header, bytes.
    pub l4: usize,
    /// Where the datagram ends by its IP header, bytes from the start of the frame. The frame
    /// itself may be longer (Ethernet padding) or, if malformed, shorter.
    pub end: usize,
    /// TCP's header length or UDP's length field, bytes; 0 where the header is cut short.
    pub transport_len: usize,
}

/// TCP flags (RFC 9293 section 3.1), the low byte.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// IPv6 next-header values (IANA) that are followed.
pub(crate) mod next {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTHENTICATION: u8 = 51;
    pub(crate) const DESTINATION: u8 = 60;
    pub(crate) const MOBILITY: u8 = 135;
    pub(crate) const HIP: u8 = 139;
    pub(crate) const SHIM6: u8 = 140;
}

impl Headers {
    /// Whether this opens a TCP connection: SYN without ACK.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.proto == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether this is ICMPv6 133..=137 (RFC 4861).
    #[inline(always)]
    #[must_use]
    pub const fn is_neighbour_discovery(&self) -> bool {
        self.proto == proto::ICMPV6 && self.icmp_type >= 133 && self.icmp_type <= 137
    }

    /// Whether this is an ICMP message that quotes the packet it is about: unreachable, too big, time
    /// exceeded, parameter problem.
    #[inline(always)]
    #[must_use]
    pub const fn is_icmp_error(&self) -> bool {
        let kind = self.icmp_type;
        if self.version == 4 {
            kind == 3 || kind == 11 || kind == 12
        } else {
            kind >= 1 && kind <= 4
        }
    }

    /// Whether the host's own reachability hangs on this message: neighbour discovery (ICMPv6
    /// 133..=137, RFC 4861), packet too big (ICMPv6 2) or fragmentation needed (ICMP 3 code 4,
    /// RFC 1191). Never denied, never limited.
    #[inline(always)]
    #[must_use]
    pub const fn is_vital(&self) -> bool {
        if !matches!(self.reach, Reach::Icmp) {
            return false;
        }
        if self.proto == proto::ICMPV6 {
            self.icmp_type == 2 || (self.icmp_type >= 133 && self.icmp_type <= 137)
        } else {
            self.icmp_type == 3 && self.icmp_code == 4
        }
    }
}

/// Finds the headers of `frame`.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Headers {
    let mut headers = Headers::default();
    parse_into(frame, &mut headers);
    headers
}

/// [`parse`] into `headers`, which must be [`Headers::default`]: for a caller who wants them in
/// memory and not in registers, of which the XDP program has too few.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) {
    let Some(eth) = frame.header::<EthHdr, _>(0) else {
        return;
    };
    let mut ether_type = eth.ether_type;
    let mut l3 = EthHdr::LEN;
    for _ in 0..2 {
        if !is_tag(ether_type) {
            break;
        }
        let Some(tag) = frame.header::<VlanHdr, _>(l3) else {
            return;
        };
        ether_type = tag.ether_type;
        l3 += VlanHdr::LEN;
    }
    headers.l3 = l3;
    let has_transport = if ether_type == EtherType::Ipv4 as u16 {
        parse_v4(frame, headers)
    } else if ether_type == EtherType::Ipv6 as u16 {
        parse_v6(frame, headers)
    } else {
        false
    };
    if has_transport {
        parse_transport(frame, headers);
    }
}

/// 802.1Q, 802.1ad, and 0x9100, which older switches put on the outer tag.
#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    ether_type == EtherType::Ieee8021q as u16
        || ether_type == EtherType::Ieee8021ad as u16
        || ether_type == EtherType::Ieee8021QinQ1 as u16
}

/// Whether a transport header follows at `headers.l4`.
#[inline(always)]
fn parse_v4<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) -> bool {
    let Some(ip) = frame.header::<Ipv4Hdr, _>(headers.l3) else {
        return false;
    };
    if ip.version() != 4 {
        return false;
    }
    headers.reach = Reach::Addresses;
    headers.version = 4;
    headers.proto = ip.proto;
    headers.source = Address::from_v4(ip.src_addr);
    headers.destination = Address::from_v4(ip.dst_addr);
    headers.end = headers.l3 + u16::from_be_bytes(ip.tot_len) as usize;
    let header_len = ip.ihl() as usize;
    if header_len < Ipv4Hdr::LEN {
        return false;
    }
    headers.l4 = headers.l3 + header_len;
    // RFC 791: bit 13 of the word is "more fragments", the low 13 bits the offset.
    let word = u16::from_be_bytes(ip.frags);
    headers.is_fragment = word & 0x3fff != 0;
    if word & 0x1fff != 0 {
        headers.reach = Reach::LaterFragment;
        return false;
    }
    true
}

/// As [`parse_v4`].
#[inline(always)]
fn parse_v6<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) -> bool {
    let Some(ip) = frame.header::<Ipv6Hdr, _>(headers.l3) else {
        return false;
    };
    if ip.version() != 6 {
        return false;
    }
    headers.reach = Reach::Addresses;
    headers.version = 6;
    headers.source = by_words(ip.src_addr);
    headers.destination = by_words(ip.dst_addr);
    let payload = u16::from_be_bytes(ip.payload_len) as usize;
    headers.end = headers.l3 + Ipv6Hdr::LEN + payload;
    if payload == 0 && ip.next_hdr == next::HOP_BY_HOP {
        // A jumbogram (RFC 2675) has its length in an option; only the frame's own is left.
        headers.end = frame.total_len();
    }

    let mut proto = ip.next_hdr;
    let mut off = headers.l3 + Ipv6Hdr::LEN;
    let mut later_fragment = false;
    for _ in 0..black_box(MAX_EXTENSIONS) {
        if !is_extension(proto) {
            break;
        }
        let Some(start) = frame.read::<4>(off) else {
            return false;
        };
        off += match proto {
            next::FRAGMENT => {
                // RFC 8200 section 4.5: 13 bits of offset, 2 reserved, "more fragments".
                let word = u16::from_be_bytes([start[2], start[3]]);
                headers.is_fragment = word & 0xfff9 != 0;
                later_fragment = word & 0xfff8 != 0;
                8
            }
            // RFC 4302 section 2.2 counts in 4-byte words, less 2.
            next::AUTHENTICATION => (start[1] as usize + 2) * 4,
            _ => (start[1] as usize + 1) * 8,
        };
        proto = start[0];
        if later_fragment {
            break;
        }
    }
    headers.proto = proto;
    headers.l4 = off;
    if later_fragment {
        headers.reach = Reach::LaterFragment;
    }
    !later_fragment && !is_extension(proto)
}

/// [`Address::from_v6`] through two registers: as a copy of 16 bytes it becomes a call there that
/// goes byte by byte.
#[inline(always)]
fn by_words(address: [u8; 16]) -> Address {
    let [a, b] = Address::from_v6(address).words();
    let ([a0, a1, a2, a3, a4, a5, a6, a7], [b0, b1, b2, b3, b4, b5, b6, b7]) =
        (black_box(a).to_ne_bytes(), black_box(b).to_ne_bytes());
    Address([
        a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7,
    ])
}

#[inline(always)]
const fn is_extension(proto: u8) -> bool {
    matches!(
        proto,
        next::HOP_BY_HOP
            | next::ROUTING
            | next::FRAGMENT
            | next::AUTHENTICATION
            | next::DESTINATION
            | next::MOBILITY
            | next::HIP
            | next::SHIM6
    )
}

#[inline(always)]
fn parse_transport<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) {
    let off = headers.l4;
    match headers.proto {
        proto::TCP => {
            // Bytes, for the struct gives length and flags bit by bit only, in a loop.
            if let Some(b) = frame.read::<{ TcpHdr::LEN }>(off) {
                headers.transport_len = (b[12] >> 4) as usize * 4;
                headers.tcp_flags = b[13];
                set_ports(headers, [b[0], b[1]], [b[2], b[3]]);
            } else {
                parse_ports(frame, headers);
            }
        }
        proto::UDP => {
            if let Some(udp) = frame.header::<UdpHdr, _>(off) {
                headers.transport_len = u16::from_be_bytes(udp.len) as usize;
                set_ports(headers, udp.src, udp.dst);
            } else {
                parse_ports(frame, headers);
            }
        }
        // ICMP and ICMPv6 begin alike. One family's ICMP inside the other's IP is neither.
        proto::ICMP | proto::ICMPV6 if (headers.proto == proto::ICMP) == (headers.version == 4) => {
            if let Some(icmp) = frame.header::<Icmpv4Hdr, _>(off) {
                headers.icmp_type = icmp.type_;
                headers.icmp_code = icmp.code;
                headers.reach = Reach::Icmp;
            }
        }
        _ => headers.reach = Reach::OtherProtocol,
    }
}

/// The ports of a transport header that is cut short behind them.
#[inline(always)]
fn parse_ports<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) {
    if let Some([a, b, c, d]) = frame.read::<4>(headers.l4) {
        set_ports(headers, [a, b], [c, d]);
    }
}

#[inline(always)]
fn set_ports(headers: &mut Headers, source: [u8; 2], destination: [u8; 2]) {
    headers.source_port = Be16(source);
    headers.destination_port = Be16(destination);
    headers.reach = Reach::Ports;
}

#[cfg(test)]
mod tests;
