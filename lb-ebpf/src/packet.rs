//! The packet as `lb_common` reads it. Every pointer into packet memory is made in this file.

use core::{arch::asm, intrinsics::is_val_statically_known, mem::MaybeUninit};

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{
    frame::{Edit, Frame, Header, MAX_OFFSET},
    parse::Headers,
};

/// A received frame that is only read: the first buffer by address, the rest by asking the kernel.
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
        opaque(self.end) - opaque(self.data)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: a pure question about the frame that this program was called for.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize }
    }
}

/// A frame that is rewritten, by a step that has the offsets from memory: the verifier knows nothing
/// of them.
pub(crate) struct Editable<'a> {
    ctx: &'a XdpContext,
    data: usize,
    end: usize,
}

impl<'a> Editable<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// Reads the bounds, which every helper that moves them makes void.
    #[inline(always)]
    fn look(&mut self) {
        self.data = self.ctx.data();
        self.end = self.ctx.data_end();
    }

    /// Address of `off`, if `len` bytes of the first buffer follow it.
    #[inline(always)]
    fn at(&self, off: usize, len: usize) -> Option<usize> {
        if is_val_statically_known(off) {
            let at = self.data + off;
            return if at + len > self.end { None } else { Some(at) };
        }
        // Each bound is tested on the register that is used then, or the verifier does not see what
        // the test is for: LLVM likes to add up other sums than those that were written.
        let off = opaque(off);
        if off > MAX_OFFSET {
            return None;
        }
        let at = opaque(self.data + off);
        if at + len > self.end { None } else { Some(at) }
    }

    #[inline(always)]
    fn change(&mut self, failed: i64) -> Option<()> {
        self.look();
        (failed == 0).then_some(())
    }
}

/// The same, of which LLVM knows nothing.
#[inline(always)]
fn opaque(mut word: usize) -> usize {
    // SAFETY: copies a register to itself (an instruction there must be: the kernel refuses a line of
    // source without one).
    unsafe { asm!("{0} = {0}", inout(reg) word, options(pure, nomem, nostack, preserves_flags)) };
    word
}

impl Frame for Editable<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]> {
        let at = self.at(off, N)?;
        // SAFETY: as in `Packet`.
        Some(unsafe { (at as *const [u8; N]).read() })
    }

    #[inline(always)]
    fn header<H: Header<N>, const N: usize>(&self, off: usize) -> Option<H> {
        const { assert!(size_of::<H>() == N) };
        let at = self.at(off, N)?;
        // SAFETY: as in `Packet`.
        Some(unsafe { (at as *const H).read_unaligned() })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        opaque(self.end) - opaque(self.data)
    }

    #[inline(always)]
    fn total_len(&self) -> usize {
        // SAFETY: as in `Packet`.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize }
    }
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "what is pushed, pulled and cut is a frame's bytes"
)]
impl Edit for Editable<'_> {
    #[inline(always)]
    fn write<const N: usize>(&mut self, off: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.at(off, N)?;
        let word = |i: usize| {
            let b = &bytes[i..i + 8];
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
        };
        // Word by word: copied as a whole it would go byte by byte.
        let mut i = 0;
        while i + 8 <= N {
            // SAFETY: as in `Packet`; packet memory is ours to write.
            unsafe { ((at + i) as *mut u64).write_unaligned(word(i)) };
            i += 8;
        }
        while i + 4 <= N {
            let b = &bytes[i..i + 4];
            let word = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
            // SAFETY: as above.
            unsafe { ((at + i) as *mut u32).write_unaligned(word) };
            i += 4;
        }
        while i + 2 <= N {
            // SAFETY: as above.
            unsafe {
                ((at + i) as *mut u16)
                    .write_unaligned(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
            };
            i += 2;
        }
        while i < N {
            // SAFETY: as above.
            unsafe { ((at + i) as *mut u8).write(bytes[i]) };
            i += 1;
        }
        Some(())
    }

    #[inline(always)]
    fn write_words<const N: usize>(&mut self, off: usize, words: [u64; N]) -> Option<()> {
        let at = self.at(off, N * 8)?;
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as in `write`.
            unsafe { ((at + i * 8) as *mut u64).write_unaligned(word.to_le()) };
        }
        Some(())
    }

    #[inline(always)]
    fn push(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: moves the packet's bounds, which are read anew before the next access.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -(bytes as i32)) };
        self.change(failed)
    }

    #[inline(always)]
    fn pull(&mut self, bytes: usize) -> Option<()> {
        // SAFETY: as in `push`.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, bytes as i32) };
        self.change(failed)
    }

    #[inline(always)]
    fn resize(&mut self, bytes: usize) -> Option<()> {
        let change = bytes as i32 - self.total_len() as i32;
        // SAFETY: as in `push`; the kernel zeroes what it adds.
        let failed = unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, change) };
        self.change(failed)
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
