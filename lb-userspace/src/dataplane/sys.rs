//! Memory shared between processes: the only place that maps it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64},
};

use rustix::{
    fs::MemfdFlags,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

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

/// [`lb_common::member::MemberSlot`] through atomics; same offsets, checked below.
#[repr(C, align(64))]
pub struct MemberCell {
    /// `head.identity`.
    pub identity: [AtomicU64; 2],
    /// `head.state`.
    pub state: AtomicU64,
    /// `head.address`, as two native words of its 16 bytes.
    pub address: [AtomicU64; 2],
    /// `head.incarnation`.
    pub incarnation: AtomicU32,
    /// `head.weight`.
    pub weight: AtomicU32,
    /// `head.balancer`.
    pub balancer: AtomicU16,
    /// `head.port`: native word of its 2 network-order bytes.
    pub port: AtomicU16,
    /// `head.lbset` and padding, in memory order.
    pub lbset_pad: AtomicU16,
    /// `head.mac`, three native words.
    pub mac: [AtomicU16; 3],
    /// `election.lbstatus`.
    pub lbstatus: AtomicI64,
    /// `election.elected`.
    pub elected: AtomicU64,
    /// `election.error_since`.
    pub error_since: AtomicU64,
    /// `election.retries`.
    pub retries: AtomicU64,
    /// `election.failed`.
    pub failed: AtomicU64,
    election_reserved: [AtomicU64; 3],
    /// `traffic.read`.
    pub read: AtomicU64,
    /// `traffic.transferred`.
    pub transferred: AtomicU64,
    /// `traffic.responses`.
    pub responses: AtomicU64,
    traffic_reserved: [AtomicU64; 5],
    reserved: [AtomicU64; 8],
}

// SAFETY: repr(C), atomics only; the assertions below leave no gap.
unsafe impl Cell for MemberCell {}
// SAFETY: an atomic integer.
unsafe impl Cell for AtomicU64 {}

const _: () = {
    use lb_common::member::{MemberElection, MemberHead, MemberSlot, MemberTraffic};
    use std::mem::offset_of;
    let head = offset_of!(MemberSlot, head);
    let election = offset_of!(MemberSlot, election);
    let traffic = offset_of!(MemberSlot, traffic);
    assert!(size_of::<MemberCell>() == size_of::<MemberSlot>());
    assert!(offset_of!(MemberCell, identity) == head + offset_of!(MemberHead, identity));
    assert!(offset_of!(MemberCell, state) == head + offset_of!(MemberHead, state));
    assert!(offset_of!(MemberCell, address) == head + offset_of!(MemberHead, address));
    assert!(offset_of!(MemberCell, incarnation) == head + offset_of!(MemberHead, incarnation));
    assert!(offset_of!(MemberCell, weight) == head + offset_of!(MemberHead, weight));
    assert!(offset_of!(MemberCell, balancer) == head + offset_of!(MemberHead, balancer));
    assert!(offset_of!(MemberCell, port) == head + offset_of!(MemberHead, port));
    assert!(offset_of!(MemberCell, lbset_pad) == head + offset_of!(MemberHead, lbset));
    assert!(offset_of!(MemberCell, mac) == head + offset_of!(MemberHead, mac));
    assert!(offset_of!(MemberCell, lbstatus) == election + offset_of!(MemberElection, lbstatus));
    assert!(offset_of!(MemberCell, elected) == election + offset_of!(MemberElection, elected));
    assert!(
        offset_of!(MemberCell, error_since) == election + offset_of!(MemberElection, error_since)
    );
    assert!(offset_of!(MemberCell, retries) == election + offset_of!(MemberElection, retries));
    assert!(offset_of!(MemberCell, failed) == election + offset_of!(MemberElection, failed));
    assert!(offset_of!(MemberCell, read) == traffic + offset_of!(MemberTraffic, read));
    assert!(
        offset_of!(MemberCell, transferred) == traffic + offset_of!(MemberTraffic, transferred)
    );
    assert!(offset_of!(MemberCell, responses) == traffic + offset_of!(MemberTraffic, responses));
};
