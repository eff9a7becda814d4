//! Memory shared between processes, and the few system calls that have no safe wrapper: the only
//! place of this crate with `unsafe`. What the mapped memory looks like is in `cells.rs`, the calls
//! are in `calls.rs`, those to network drivers in `ethtool.rs`, the allocator is in `heap.rs`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use rustix::{
    fs::MemfdFlags,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

mod calls;
mod cells;
mod ethtool;
mod heap;
mod process;

pub(super) use calls::{
    array_create, bpf_probe, inner_of, inner_put_all, keep_descriptors_to_ourselves, link_detach,
    link_info, map_delete, map_read_all, map_write_all, open_pin,
};
pub use calls::{bind_without_port, defer_accept, defers_accept, watch_listener};
pub use cells::MemberCell;
pub(super) use cells::{Flow4Cell, Flow6Cell, HopCell, MetaCell, NatCell, ServiceCell, WayCell};
pub(super) use ethtool::{Feature, channels, driver, features, set_features};
pub use heap::{Allocator, trim_heap};
pub(crate) use process::{exec, hold_signals};

/// A shared, writable mapping of `len` cells of `T`.
pub struct Mapping<T: Cell> {
    base: NonNull<T>,
    len: usize,
}

/// A type that may be looked at through a shared mapping: made of atomics only.
///
/// # Safety
/// `repr(C)`, every byte belongs to an atomic integer, every bit pattern is a value.
pub unsafe trait Cell: Sync {}

// SAFETY: a mapping hands out `&T` only and `T` is made of atomics, which threads may share.
unsafe impl<T: Cell> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Cell> Sync for Mapping<T> {}

impl<T: Cell> Mapping<T> {
    /// Maps `len` cells of `fd` from its beginning: a memory file or an mmapable array map.
    pub fn of(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len * size_of::<T>();
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses a
        // length beyond a map's size, and `memory_file` made the file that long.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<T>())
            .ok_or_else(|| io::Error::other("mmap returned address zero"))?;
        Ok(Self { base, len })
    }

    /// The cell at `index`, if there is one.
    pub fn cell(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        // SAFETY: `index < len` keeps the address inside the mapping.
        let at = unsafe { self.base.add(index) };
        // SAFETY: inside a mapping that lives as long as `self`, page-aligned base and
        // `size_of::<T>()` steps keep the alignment, and atomics allow concurrent writers.
        Some(unsafe { at.as_ref() })
    }

    /// Number of cells.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Cell> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `of` mapped; nothing borrowed from it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping does not fail");
    }
}

/// A memory file of `bytes`, zero-filled, for use where there are no kernel maps.
pub fn memory_file(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    File::from(fd.try_clone()?).set_len(bytes)?;
    Ok(fd)
}

/// Borrowed descriptor of anything that has one.
pub fn fd_of(fd: &impl AsFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

// SAFETY: an atomic integer.
unsafe impl Cell for AtomicU64 {}
