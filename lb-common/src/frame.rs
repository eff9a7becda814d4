//! Reading a frame: the one seam between the parser and whatever holds the bytes.
//!
//! The host reads slices; the XDP program reads packet memory behind bounds checks that the
//! verifier can follow. Nothing here interprets a byte.

/// No read begins beyond this offset, so that the verifier can bound every variable offset. Link
/// layer, two tags, IPv6 and the longest walk over extension headers that is followed lie below it.
pub const MAX_OFFSET: usize = 4096;

/// A received Ethernet frame.
pub trait Frame {
    /// Copies the `N` bytes at `off`, or `None` where they do not all lie in the frame's first
    /// buffer or `off` is beyond [`MAX_OFFSET`].
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]>;

    /// Bytes in the first buffer: what [`read`](Self::read) can reach.
    fn len(&self) -> usize;

    /// Bytes of the whole frame. Dearer than [`len`](Self::len) where a frame has several buffers.
    fn total_len(&self) -> usize;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
