//! The allocator.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// mimalloc: requests allocate in many threads and free in the same one, what it is good at.
///
/// The `mimalloc` crate asks for an alignment each time, and above 1 KiB mimalloc then takes a
/// larger block and looks for a place in it: 300 instructions, for what has it anyway.
#[derive(Debug)]
pub struct Allocator;

/// Whether every block of this size has the alignment: mimalloc.h's `MI_MAX_ALIGN_SIZE` is 16, and
/// 8 for blocks smaller than that.
const fn is_natural(layout: Layout) -> bool {
    layout.align() <= 8 || (layout.align() == 16 && layout.size() >= 16)
}

// SAFETY: blocks have the size and, by `is_natural` or by asking, the alignment that was asked for;
// mimalloc neither unwinds nor moves blocks, and its functions may be called by any thread.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_natural(layout) {
            // SAFETY: any size will do.
            unsafe { mi_malloc(layout.size()) }.cast()
        } else {
            // SAFETY: a layout's alignment is a power of two.
            unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_natural(layout) {
            // SAFETY: any size will do.
            unsafe { mi_zalloc(layout.size()) }.cast()
        } else {
            // SAFETY: a layout's alignment is a power of two.
            unsafe { mi_zalloc_aligned(layout.size(), layout.align()) }.cast()
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller says that it is one of ours.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_natural = is_natural(layout) && (layout.align() <= 8 || size >= 16);
        if is_natural {
            // SAFETY: the caller says that it is one of ours.
            unsafe { mi_realloc(block.cast(), size) }.cast()
        } else {
            // SAFETY: as above; a layout's alignment is a power of two.
            unsafe { mi_realloc_aligned(block.cast(), size, layout.align()) }.cast()
        }
    }
}

/// Gives the system back what this thread's heap has free. Walks the heap's pages: not for the way
/// of a request. Does nothing where mimalloc is not the allocator, as in tests of the library.
pub fn trim_heap() {
    // SAFETY: no arguments that could be wrong; it may be called at any time by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_alignment_that_was_asked_for_and_keep_their_bytes() {
        let sizes = [1, 7, 8, 15, 16, 24, 100, 1000, 1032, 3000, 8192, 70_000];
        let pairs = sizes
            .iter()
            .flat_map(|size| sizes.map(|other| (*size, other)));
        for (size, other) in pairs {
            for align in [1, 2, 4, 8, 16, 32, 128, 4096] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                // SAFETY: the size is not 0.
                let block = unsafe { Allocator.alloc(layout) };
                assert!(block.addr().is_multiple_of(align), "{size} at {align}");
                // SAFETY: a block of this layout.
                unsafe { Allocator.dealloc(block, layout) };
                // SAFETY: the size is not 0.
                let block = unsafe { Allocator.alloc_zeroed(layout) };
                assert!(block.addr().is_multiple_of(align), "{size} at {align}");
                // SAFETY: the block has this size and was zeroed.
                let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
                assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(7);
                // SAFETY: a block of this layout, the new size is not 0.
                let moved = unsafe { Allocator.realloc(block, layout, other) };
                assert!(moved.addr().is_multiple_of(align), "{other} at {align}");
                // SAFETY: the block has at least this size, and these bytes were written.
                let bytes = unsafe { std::slice::from_raw_parts(moved, size.min(other)) };
                assert!(bytes.iter().all(|byte| *byte == 7));
                let layout = Layout::from_size_align(other, align).expect("a layout");
                // SAFETY: a block of this layout, gone after this.
                unsafe { Allocator.dealloc(moved, layout) };
            }
        }
    }
}
