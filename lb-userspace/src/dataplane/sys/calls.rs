//! System calls for which neither aya nor rustix has a safe wrapper: what a pin is, which interface
//! a link is on, when a connection is handed over. Network drivers are asked in `ethtool.rs`.

use std::{
    ffi::CString,
    io,
    net::TcpListener,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use tokio::io::{Interest, unix::AsyncFd};

/// Commands of bpf(2) used here (`enum bpf_cmd`).
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

/// The arguments of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The arguments of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of the kernel's `struct bpf_link_info`, as far as an XDP link's part goes.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    /// The union that follows is 8-aligned.
    pad: u32,
    /// Of an XDP link.
    interface: u32,
    rest: [u32; 11],
}

/// The beginning of the arguments of `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// What an XDP link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct LinkInfo {
    /// Program id.
    pub(in crate::dataplane) program: u32,
    /// Interface index in the link's network namespace; 0: the interface is gone.
    pub(in crate::dataplane) interface: u32,
}

/// bpf(2) with an argument block of one of the types above.
fn bpf<T>(command: libc::c_int, arguments: &mut T) -> io::Result<libc::c_long> {
    let size = size_of::<T>();
    // SAFETY: the block is `size` bytes of initialised integers; pointers inside it were made by
    // the caller from memory that outlives this call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(arguments),
            libc::c_ulong::try_from(size).unwrap_or(0),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// A descriptor the kernel has just given.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(fd).map_err(|_| io::Error::other("descriptor out of range"))?;
    // SAFETY: bpf(2) returned it to this call and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens whatever is pinned at `path`: a map, a program or a link.
pub(in crate::dataplane) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut arguments = ObjectGet {
        pathname: path.as_ptr() as u64,
        ..ObjectGet::default()
    };
    owned(bpf(BPF_OBJ_GET, &mut arguments)?)
}

/// What a link is attached to; `None` when it is not an XDP link.
pub(in crate::dataplane) fn link_info(link: BorrowedFd<'_>) -> io::Result<Option<LinkInfo>> {
    let mut info = RawLinkInfo::default();
    let mut arguments = InfoByFd {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: size_of::<RawLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut arguments)?;
    Ok((info.kind == LINK_TYPE_XDP).then_some(LinkInfo {
        program: info.program,
        interface: info.interface,
    }))
}

/// Takes a link's program off at once. Removing the pin does so too, but some time after the call.
pub(in crate::dataplane) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut arguments = link.as_raw_fd();
    bpf(BPF_LINK_DETACH, &mut arguments).map(drop)
}

/// The arguments of `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_DELETE_ELEM`.
#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The arguments of `BPF_MAP_GET_FD_BY_ID`.
#[repr(C)]
struct MapById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The arguments of `BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH`.
#[repr(C)]
#[derive(Default)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Removes one element of a map with 4-byte keys. What is not there is no error.
pub(in crate::dataplane) fn map_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut arguments = MapElement {
        map_fd: map.as_raw_fd().unsigned_abs(),
        key: std::ptr::from_ref(&key) as u64,
        ..MapElement::default()
    };
    match bpf(BPF_MAP_DELETE_ELEM, &mut arguments) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done.map(drop),
    }
}

/// Writes an array of 8-byte values from its beginning, in one call (Linux 5.6).
pub(in crate::dataplane) fn map_write_all(map: BorrowedFd<'_>, values: &[u64]) -> io::Result<()> {
    let count =
        u32::try_from(values.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let keys: Vec<u32> = (0..count).collect();
    let mut arguments = MapBatch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.as_raw_fd().unsigned_abs(),
        ..MapBatch::default()
    };
    bpf(BPF_MAP_UPDATE_BATCH, &mut arguments).map(drop)
}

/// Reads an array of `count` 8-byte values in one call. The map's values must have that size.
pub(in crate::dataplane) fn map_read_all(map: BorrowedFd<'_>, count: u32) -> io::Result<Vec<u64>> {
    let mut keys = vec![0u32; count as usize];
    let mut values = vec![0u64; count as usize];
    let mut next = 0u32;
    let mut arguments = MapBatch {
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map_fd: map.as_raw_fd().unsigned_abs(),
        ..MapBatch::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut arguments) {
        // It says so at the end of the map.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        _ => {}
    }
    let read = arguments.count.min(count) as usize;
    values.truncate(read);
    Ok(values)
}

/// Whether bpf(2) is there and this process may use it: makes the smallest map and forgets it.
pub(in crate::dataplane) fn bpf_probe() -> io::Result<()> {
    let mut arguments = MapCreate {
        map_type: 2, // BPF_MAP_TYPE_ARRAY
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: 0,
    };
    owned(bpf(BPF_MAP_CREATE, &mut arguments)?).map(drop)
}

/// Makes an mmapable array of `entries` 8-byte values: a part of a map of maps.
pub(in crate::dataplane) fn array_create(entries: u32) -> io::Result<OwnedFd> {
    let mut arguments = MapCreate {
        map_type: 2, // BPF_MAP_TYPE_ARRAY
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        map_flags: 1 << 10, // BPF_F_MMAPABLE
    };
    owned(bpf(BPF_MAP_CREATE, &mut arguments)?)
}

/// Puts maps into a map of maps with 4-byte keys, each in the place of another at once, in one call
/// (Linux 5.14). Returns how many it put, from the first on, and why no more.
///
/// The kernel waits until nobody reads what was replaced: newer ones (Linux 6.8) once for all of
/// them, which is tens of milliseconds on a busy machine.
pub(in crate::dataplane) fn inner_put_all(
    outer: BorrowedFd<'_>,
    inner: &[(u32, OwnedFd)],
) -> (usize, io::Result<()>) {
    let Ok(count) = u32::try_from(inner.len()) else {
        return (0, Err(io::Error::from_raw_os_error(libc::E2BIG)));
    };
    let (keys, values): (Vec<u32>, Vec<u32>) = (inner.iter())
        .map(|(key, map)| (*key, map.as_raw_fd().unsigned_abs()))
        .unzip();
    let mut arguments = MapBatch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: outer.as_raw_fd().unsigned_abs(),
        ..MapBatch::default()
    };
    match bpf(BPF_MAP_UPDATE_BATCH, &mut arguments) {
        Ok(_) => (inner.len(), Ok(())),
        // What is refused before it began leaves the count as it was given.
        Err(error) if arguments.count >= count => (0, Err(error)),
        Err(error) => (arguments.count as usize, Err(error)),
    }
}

/// The map in a map of maps with 4-byte keys; `None`: there is none.
pub(in crate::dataplane) fn inner_of(
    outer: BorrowedFd<'_>,
    key: u32,
) -> io::Result<Option<OwnedFd>> {
    let mut id = 0u32;
    let mut arguments = MapElement {
        map_fd: outer.as_raw_fd().unsigned_abs(),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_mut(&mut id) as u64,
        ..MapElement::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut arguments) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        done => done?,
    };
    let mut arguments = MapById {
        id,
        next: 0,
        flags: 0,
    };
    owned(bpf(BPF_MAP_GET_FD_BY_ID, &mut arguments)?).map(Some)
}

/// Marks every descriptor above standard error close-on-exec: what this process was started with is
/// no business of the processes it starts. For the beginning of a process; std marks its own.
pub(in crate::dataplane) fn keep_descriptors_to_ourselves() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: no pointers; nothing is closed, and no descriptor changes its meaning here.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Keeps connections in the kernel until their clients have sent something, for about so many
/// seconds (tcp(7), `TCP_DEFER_ACCEPT`). `socket`: one that listens or will.
pub fn defer_accept(socket: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has a bind(2) to port 0 leave the port to connect(2), which takes one that is free for its pair of
/// ends (ip(7), `IP_BIND_ADDRESS_NO_PORT`; IPv6 sockets take it as well).
pub fn bind_without_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether [`defer_accept`] was asked for on a socket.
pub fn defers_accept(socket: BorrowedFd<'_>) -> bool {
    let mut seconds: u32 = 0;
    let mut size = size_of::<u32>() as libc::socklen_t;
    // SAFETY: value and size outlive the call, and the kernel writes no more than the size says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw mut seconds).cast(),
            &raw mut size,
        )
    };
    result == 0 && seconds > 0
}

/// Has the current runtime watch a listening socket for connections, which the caller accepts: the
/// runtime's own listener would watch each of them too.
pub fn watch_listener(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a TcpListener names one open descriptor, which it closes when it is dropped and not
    // before.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
