//! Atomics on map memory, which other CPUs and userspace change at the same time.
//!
//! The BPF target declares no compare-and-swap, so `AtomicU64` has only loads and stores there; the
//! intrinsics compile all the same, to `lock` instructions that every kernel since 5.12 knows.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr,
};

/// Adds to a counter that others change too.
///
/// # Safety
/// `word` is 8-aligned and in a map value that lives while the program runs.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, n: u64) {
    // SAFETY: the caller's promise. The result stays unused: with it LLVM would emit an
    // instruction that costs more.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, n) };
}

/// Puts `new` where `old` still stands; whether it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    done
}

/// Reads a word once, whole.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { ptr::read_volatile(word) }
}
