//! Reading a frame: the one seam between the parser and whatever holds the bytes.
//!
//! The host reads slices; the XDP program reads packet memory behind bounds checks that the
//! verifier can follow. Nothing here interprets a byte.

/// No read begins beyond this offset, so that the verifier can bound every variable offset. Link
/// layer, two tags, IPv6 and the longest walk over extension headers that is followed lie below it.
pub const MAX_OFFSET: usize = 4096;

/// A protocol header of `N` bytes as a network-types struct: plain integers and byte arrays, so that
/// every `N` bytes are one. Sealed, because a [`Frame`] may copy those bytes as they stand.
pub trait Header<const N: usize>: Copy + sealed::Sealed {
    /// The header in its bytes as on the wire.
    fn from_bytes(bytes: [u8; N]) -> Self;
}

/// A received Ethernet frame.
pub trait Frame {
    /// Copies the `N` bytes at `off`, or `None` where they do not all lie in the frame's first
    /// buffer or `off` is beyond [`MAX_OFFSET`].
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]>;

    /// Copies the header at `off`.
    #[inline(always)]
    fn header<H: Header<N>, const N: usize>(&self, off: usize) -> Option<H> {
        self.read(off).map(H::from_bytes)
    }

    /// Bytes in the first buffer: what [`read`](Self::read) can reach.
    fn len(&self) -> usize;

    /// Bytes of the whole frame. Dearer than [`len`](Self::len) where a frame has several buffers.
    fn total_len(&self) -> usize;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame that can be rewritten. Every method leaves the frame as it was when it returns `None`.
pub trait Edit: Frame {
    /// Writes `N` bytes at `off`, where [`read`](Frame::read) could read as many.
    fn write<const N: usize>(&mut self, off: usize, bytes: [u8; N]) -> Option<()>;
    /// Writes words, little-endian, at `off`.
    #[inline(always)]
    fn write_words<const N: usize>(&mut self, off: usize, words: [u64; N]) -> Option<()> {
        let end = off + N * 8;
        self.read::<1>(end.checked_sub(1)?)?;
        for (i, word) in words.iter().enumerate() {
            self.write(off + i * 8, word.to_le_bytes())?;
        }
        Some(())
    }
    /// Makes room for `bytes` in front of the frame: what was at 0 is at `bytes` then. What the room
    /// holds is undefined.
    fn push(&mut self, bytes: usize) -> Option<()>;
    /// Cuts `bytes` off the front.
    fn pull(&mut self, bytes: usize) -> Option<()>;
    /// Cuts or lengthens the frame at its end; what is added is zero.
    fn resize(&mut self, bytes: usize) -> Option<()>;
}

impl Frame for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]> {
        if off > MAX_OFFSET {
            return None;
        }
        self.get(off..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        <[u8]>::len(self)
    }
}

/// Ethernet, IPv4 without options and the ports behind it, as they lie in an untagged frame: whole
/// words where they are wanted as such, in memory order.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug)]
pub struct PlainHdr {
    /// Both MACs.
    pub macs: [u8; 12],
    /// Type of what follows.
    pub ether_type: u16,
    /// The five words of the IPv4 header: version, length, TOS, total length;
    pub begin: u32,
    /// identification, flags and fragment offset;
    pub middle: u32,
    /// time to live, protocol, checksum;
    pub times: u32,
    /// source;
    pub from: u32,
    /// destination.
    pub to: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length and checksum, if it is UDP.
    pub udp_len: u16,
    /// As above.
    pub udp_check: u16,
}

const _: () = assert!(size_of::<PlainHdr>() == 42);

/// Keeps [`Header`] to this crate.
mod sealed {
    /// See [`super::Header`].
    #[expect(unnameable_types, reason = "that is what sealing is")]
    pub trait Sealed {}
}

mod headers {
    //! The headers of network-types from their bytes, field by field.

    use network_types::{
        eth::EthHdr,
        icmp::Icmpv4Hdr,
        ip::{Ipv4Hdr, Ipv6Hdr},
        udp::UdpHdr,
        vlan::VlanHdr,
    };

    use super::{Header, PlainHdr, sealed::Sealed};

    /// The bytes `at..at + M` of `bytes`, a range that every caller has from a struct's layout.
    #[inline(always)]
    fn part<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
        core::array::from_fn(|i| bytes[at + i])
    }

    macro_rules! header {
        ($type:ident, |$b:ident| $value:expr) => {
            impl Sealed for $type {}
            impl Header<{ size_of::<$type>() }> for $type {
                #[inline(always)]
                fn from_bytes($b: [u8; size_of::<$type>()]) -> Self {
                    $value
                }
            }
        };
    }

    header!(EthHdr, |b| EthHdr {
        dst_addr: part(&b, 0),
        src_addr: part(&b, 6),
        ether_type: u16::from_ne_bytes(part(&b, 12)),
    });
    header!(PlainHdr, |b| PlainHdr {
        macs: part(&b, 0),
        ether_type: u16::from_ne_bytes(part(&b, 12)),
        begin: u32::from_ne_bytes(part(&b, 14)),
        middle: u32::from_ne_bytes(part(&b, 18)),
        times: u32::from_ne_bytes(part(&b, 22)),
        from: u32::from_ne_bytes(part(&b, 26)),
        to: u32::from_ne_bytes(part(&b, 30)),
        source_port: u16::from_ne_bytes(part(&b, 34)),
        destination_port: u16::from_ne_bytes(part(&b, 36)),
        udp_len: u16::from_ne_bytes(part(&b, 38)),
        udp_check: u16::from_ne_bytes(part(&b, 40)),
    });
    header!(VlanHdr, |b| VlanHdr {
        tci: part(&b, 0),
        ether_type: u16::from_ne_bytes(part(&b, 2)),
    });
    header!(Ipv4Hdr, |b| Ipv4Hdr {
        vihl: b[0],
        tos: b[1],
        tot_len: part(&b, 2),
        id: part(&b, 4),
        frags: part(&b, 6),
        ttl: b[8],
        proto: b[9],
        check: part(&b, 10),
        src_addr: part(&b, 12),
        dst_addr: part(&b, 16),
    });
    header!(Ipv6Hdr, |b| Ipv6Hdr {
        vcf: part(&b, 0),
        payload_len: part(&b, 4),
        next_hdr: b[6],
        hop_limit: b[7],
        src_addr: part(&b, 8),
        dst_addr: part(&b, 24),
    });
    header!(UdpHdr, |b| UdpHdr {
        src: part(&b, 0),
        dst: part(&b, 2),
        len: part(&b, 4),
        check: part(&b, 6),
    });
    header!(Icmpv4Hdr, |b| Icmpv4Hdr {
        type_: b[0],
        code: b[1],
        check: part(&b, 2),
        data: part(&b, 4),
    });
}
