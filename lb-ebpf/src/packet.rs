//! The packet as `lb_common` reads it. Every pointer into packet memory is made in this file.

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use lb_common::{
    frame::{Frame, Header, MAX_OFFSET},
    parse::Headers,
};

/// A received frame: the first buffer by address, the rest by asking the kernel.
pub(crate) struct Packet<'a> {
    ctx: &'a XdpContext,
    data: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Frame for Packet<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]> {
        if off > MAX_OFFSET || self.data + off + N > self.end {
            return None;
        }
        // SAFETY: `data..end` stays readable while the program runs, and the read ends at or
        // before `end` by the test above; a byte array has alignment 1 and no invalid values.
        Some(unsafe { ((self.data + off) as *const [u8; N]).read() })
    }

    #[inline(always)]
    fn header<H: Header<N>, const N: usize>(&self, off: usize) -> Option<H> {
        const { assert!(size_of::<H>() == N) };
        if off > MAX_OFFSET || self.data + off + N > self.end {
            return None;
        }
        // SAFETY: readable as in `read`, `H` is `N` bytes long, and by the trait's promise any `N`
        // bytes are an `H`.
        Some(unsafe { ((self.data + off) as *const H).read_unaligned() })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // Opaque, or LLVM turns comparisons of the difference into arithmetic on `end` itself,
        // which the verifier forbids.
        black_box(self.end) - black_box(self.data)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: a pure question about the frame that this program was called for.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize }
    }
}

/// Makes `headers` [`Headers::default`], word by word and in place: left to itself the compiler
/// calls a memset that goes byte by byte.
#[inline(always)]
pub(crate) fn clear(headers: &mut MaybeUninit<Headers>) -> &mut Headers {
    const WORDS: usize = size_of::<Headers>() / 8;
    const { assert!(WORDS * 8 == size_of::<Headers>() && align_of::<Headers>() == 8) };
    let words = headers.as_mut_ptr().cast::<u64>();
    for i in 0..WORDS {
        // SAFETY: the structure is this many aligned words long.
        unsafe { words.wrapping_add(i).write_volatile(0) };
    }
    // SAFETY: all of it was written, and zero is a value of every field (`Reach::NotIp` is the
    // first of its kind).
    unsafe { headers.assume_init_mut() }
}
