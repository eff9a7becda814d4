//! `FORWARD`, `HOPS` and `MEMBER_STATS`: how a steered service's packets are sent on, to whom on the
//! link, and what each member got.

use crate::addr::Address;

/// How packets reach a member.
pub mod mode {
    /// Layer 2: the frame as it came, to the member's MAC. The member holds the service's address.
    pub const DSR: u8 = 0;
    /// IP in IP: an outer IPv4 (RFC 2003) or IPv6 (RFC 2473) header by the member's family.
    pub const IPIP: u8 = 1;
    /// As [`IPIP`] with a UDP header between (draft-ietf-intarea-gue variant 1: no GUE header).
    pub const GUE: u8 = 2;
    /// Both addresses rewritten; the member answers to us.
    pub const NAT: u8 = 3;
    /// Names as the configuration spells them, by value.
    pub const NAMES: [&str; 4] = ["dsr", "ipip", "gue", "nat"];
}

/// What picks a flow's place in the ring.
pub mod hash_kind {
    /// Both addresses, both ports, protocol.
    pub const FIVE_TUPLE: u8 = 0;
    /// The source address alone.
    pub const SOURCE: u8 = 1;
    /// The server id in a QUIC connection id, else as [`FIVE_TUPLE`].
    pub const QUIC: u8 = 2;
    /// Names as the configuration spells them, by value.
    pub const NAMES: [&str; 3] = ["5tuple", "source", "quic"];
}

/// What a packet meets that no member may take.
pub mod on_empty {
    /// Dropped and counted.
    pub const DROP: u8 = 0;
    /// TCP: a reset; UDP: ICMP port unreachable. Rate-limited.
    pub const RESET: u8 = 1;
}

/// DSCP of outer headers (RFC 2983).
pub mod dscp {
    /// The inner header's.
    pub const COPY: u8 = 0xff;
}

/// Value of `FORWARD`, one cache line: what the packet path must know of a steered service. Index:
/// service id. Written by control before the service's way.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forward {
    /// Seed of the ring hash: equal on every host that serves this balancer.
    pub seed: u64,
    /// Outer source, and with [`mode::NAT`] the source, towards IPv6 members.
    pub source6: [u8; 16],
    /// Outer source, and with [`mode::NAT`] the source, towards IPv4 members.
    pub source4: [u8; 4],
    /// Index of `RINGS`; 0: none.
    pub balancer: u16,
    /// A constant of [`mode`].
    pub mode: u8,
    /// A constant of [`hash_kind`].
    pub hash: u8,
    /// A constant of [`on_empty`].
    pub on_empty: u8,
    /// 0..=63: every outer header's DSCP; [`dscp::COPY`].
    pub dscp: u8,
    /// Bytes of the server id with [`hash_kind::QUIC`], 1..=[`crate::quic::MAX_ID`].
    pub quic_len: u8,
    /// Zero.
    pub pad: u8,
    /// Largest IP packet that may be sent to a member, bytes; 0: 1500.
    pub mtu: u16,
    /// Destination port of [`mode::GUE`], network order.
    pub gue_port: [u8; 2],
    /// Beats (see [`crate::flow_table`]) after which an idle TCP flow may be displaced; 0: as
    /// [`DEFAULT_TCP_IDLE`].
    pub tcp_idle: u16,
    /// Beats after which an idle UDP flow is steered anew; 0: as [`DEFAULT_UDP_IDLE`].
    pub udp_idle: u16,
    /// First source port of [`mode::NAT`], host order.
    pub nat_first: u16,
    /// Source ports of [`mode::NAT`] from the first on; 0: none.
    pub nat_ports: u16,
    /// Zero.
    pub reserved: [u8; 16],
}

impl Forward {
    /// The address that packets to members of a family come from.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self, is_v4: bool) -> Address {
        if is_v4 {
            Address::from_v4(self.source4)
        } else {
            Address::from_v6(self.source6)
        }
    }
}

/// About an hour.
pub const DEFAULT_TCP_IDLE: u16 = 3600;
/// About half a minute.
pub const DEFAULT_UDP_IDLE: u16 = 30;
/// UDP port of draft-ietf-intarea-gue.
pub const GUE_PORT: u16 = 6080;

/// Value of `HOPS`, one cache line: where frames for a member go on the link. Index: member id.
///
/// The packet path asks the kernel's routes and neighbours once a beat and writes what it learns
/// into [`learned`](Self::learned); while the kernel knows no neighbour it uses what it learned
/// last, and before it learned anything what control wrote into [`given`](Self::given). Each word
/// is written at once, so no MAC is ever half of one and half of another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hop {
    /// Control's.
    pub given: Link,
    /// The packet path's.
    pub learned: Link,
    /// Beat of the last question to the kernel, plus 1; 0: never asked. The packet path's.
    pub asked: u64,
    /// Zero.
    pub reserved: u64,
}

/// A next hop, 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Bytes 0..6: destination MAC; byte 6: 1 if the rest counts for every frame, else 0; byte 7, in
    /// what control gives: bit 0 if the kernel's routes shall not be asked, bit 1 if the rest counts
    /// for frames of one VLAN alone.
    pub to: [u8; 8],
    /// Bytes 0..6: source MAC; 6..8: that VLAN, network order.
    pub from: [u8; 8],
    /// Interface to send from; 0: the one the packet came in by.
    pub ifindex: u32,
    /// Largest IP packet there, bytes; 0: not known.
    pub mtu: u32,
}

impl Link {
    /// A next hop.
    #[must_use]
    pub const fn new(to: [u8; 6], from: [u8; 6], ifindex: u32, mtu: u32) -> Self {
        Self {
            to: [to[0], to[1], to[2], to[3], to[4], to[5], 1, 0],
            from: [from[0], from[1], from[2], from[3], from[4], from[5], 0, 0],
            ifindex,
            mtu,
        }
    }

    /// The same for frames that bear the tag of this VLAN, and no other, alone.
    #[must_use]
    pub const fn in_vlan(mut self, vlan: u16) -> Self {
        let [a, b] = vlan.to_be_bytes();
        (self.to[6], self.to[7]) = (0, 3);
        (self.from[6], self.from[7]) = (a, b);
        self
    }

    /// Nothing, and the kernel's routes shall not be asked either.
    #[must_use]
    pub const fn withheld() -> Self {
        let mut link = Self::new([0; 6], [0; 6], 0, 0);
        (link.to[6], link.to[7]) = (0, 1);
        link
    }

    /// Whether it says anything, and that for every frame.
    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.to[6] != 0
    }

    /// Whether it says anything, were it for frames of one VLAN.
    #[inline(always)]
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.is_set() || self.is_tagged()
    }

    /// Whether it is for frames of one VLAN.
    #[inline(always)]
    #[must_use]
    pub const fn is_tagged(&self) -> bool {
        self.to[7] & 2 != 0
    }
}

/// Cell of `MEMBER_STATS`, per CPU: what was sent to a member. Index: member id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MemberCounter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames as they came.
    pub bytes: u64,
    /// Flows that were steered to it anew, whether entered or not.
    pub flows: u64,
    /// Packets that only the ring sent there: new, and not entered.
    pub by_ring: u64,
}

const _: () = assert!(size_of::<Forward>() == 64);
const _: () = assert!(size_of::<Hop>() == 64);
const _: () = assert!(size_of::<Link>() == 24);
const _: () = assert!(size_of::<MemberCounter>() == 32);
