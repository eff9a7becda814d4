//! The allocator, beyond allocating.

/// Gives the system back what this thread's heap has free. Walks the heap's pages: not for the way
/// of a request. Does nothing where mimalloc is not the allocator, as in tests of the library.
pub fn trim_heap() {
    // SAFETY: no arguments that could be wrong; it may be called at any time by any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
