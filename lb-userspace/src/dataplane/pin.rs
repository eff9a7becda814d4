//! Where an instance keeps its things: the lock that makes it one, the directory of its pins, and
//! the question whether a pin is ours.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use lb_common::abi::{self, map};
use rustix::fs::FlockOperation;

use super::{DataplaneError, Place};

/// The instance's lock, held as long as this lives. The file stays: unlinking it would let two
/// processes lock two files of one name.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// The proxy that an earlier control announced and that may have outlived it.
    earlier_proxy: Option<u32>,
    /// Columns of `BUSY` of that one and of those that drained then, with their process ids.
    earlier_columns: Vec<(u32, u32)>,
}

impl Lock {
    /// Takes `<run_dir>/<instance>.lock` and writes this process's id into it.
    pub(super) fn take(place: &Place) -> Result<Self, DataplaneError> {
        check_name(&place.instance)?;
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| DataplaneError::Path { what, path, source }
        };
        fs::create_dir_all(&place.run_dir).map_err(failed("create", &place.run_dir))?;
        let path = place.run_dir.join(format!("{}.lock", place.instance));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(failed("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Unreadable is as good as empty: the message then says 0.
                let _ = file.read_to_string(&mut text);
                return Err(DataplaneError::AlreadyRunning {
                    instance: place.instance.clone(),
                    pid: Holder::parse(&text).control,
                });
            }
            Err(errno) => return Err(failed("lock", &path)(errno.into())),
        }
        let mut text = String::new();
        // Unreadable is as good as empty: nobody is taken over from.
        let _ = file.read_to_string(&mut text);
        let before = Holder::parse(&text);
        let lock = Self {
            file,
            path: path.clone(),
            earlier_proxy: before.proxy.or(before.orphan),
            earlier_columns: columns(&text),
        };
        // A start that fails must not forget the proxy that serves meanwhile: the next would find
        // its addresses taken.
        let orphan = lock
            .earlier_proxy
            .map(|pid| format!("orphan {pid}\n"))
            .unwrap_or_default();
        let columns = columns_line(&lock.earlier_columns);
        lock.write(&format!("{}\n{orphan}{columns}", std::process::id()))
            .map_err(failed("write", &path))?;
        Ok(lock)
    }

    /// The lock of a predecessor, which became this process.
    pub(super) fn inherit(place: &Place, file: File) -> Self {
        Self {
            file,
            path: place.run_dir.join(format!("{}.lock", place.instance)),
            earlier_proxy: None,
            earlier_columns: Vec::new(),
        }
    }

    /// The lock itself, for a successor.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Empties the file after a clean stop: there is no proxy left to be taken over from, and its
    /// process id will be another's.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Never leaves the file empty, not for a moment: a control that is killed here would be
    /// forgotten with the proxy that serves on, and proxies read while this writes. What is left of
    /// a longer text before comes after everything that is looked for.
    fn write(&self, text: &str) -> io::Result<()> {
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }

    /// Writes that this control serves through `proxy`: the sign for a proxy whose control died to
    /// leave. `proxies` are all that run, with their columns of `BUSY`: should this control die, the
    /// next must know whose they are.
    pub(super) fn announce(&self, proxy: u32, proxies: &[(u32, u32)]) -> io::Result<()> {
        let columns = columns_line(proxies);
        self.write(&format!(
            "{}\nserving {proxy}\n{columns}",
            std::process::id()
        ))
    }

    /// Columns that proxies of an earlier control had, with their process ids.
    pub(super) fn earlier_columns(&self) -> &[(u32, u32)] {
        &self.earlier_columns
    }

    /// The file, opened anew for reading: a duplicate of our descriptor would hold the lock.
    pub(super) fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The proxy that an earlier control announced.
    pub(super) const fn earlier_proxy(&self) -> Option<u32> {
        self.earlier_proxy
    }
}

/// `columns 3:4711 4:4712`, a line of the lock file.
fn columns_line(proxies: &[(u32, u32)]) -> String {
    let entries: Vec<String> = (proxies.iter())
        .map(|(column, pid)| format!(" {column}:{pid}"))
        .collect();
    format!("columns{}\n", entries.concat())
}

/// The columns that a lock file tells of.
fn columns(text: &str) -> Vec<(u32, u32)> {
    let line = text.lines().find_map(|line| line.strip_prefix("columns "));
    (line.unwrap_or_default().split(' '))
        .filter_map(|entry| {
            let (column, pid) = entry.split_once(':')?;
            let column = column.parse().ok().filter(|c| *c < abi::BUSY_COLUMNS)?;
            Some((column, pid.parse().ok()?))
        })
        .collect()
}

/// What a lock file says: the process id of control and, once it serves, that of its proxy; before
/// that, the one of the proxy that an earlier control may have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Control; 0: unreadable.
    pub(crate) control: u32,
    /// Its proxy, once it serves.
    pub(crate) proxy: Option<u32>,
    /// A proxy of an earlier control, not taken over from yet.
    pub(crate) orphan: Option<u32>,
}

impl Holder {
    /// Reads the text of a lock file.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let control = lines.next().and_then(|line| line.trim().parse().ok());
        let second = lines.next().unwrap_or_default();
        let pid = |word| {
            let pid = second.strip_prefix(word)?;
            pid.trim().parse().ok()
        };
        Self {
            control: control.unwrap_or(0),
            proxy: pid("serving "),
            orphan: pid("orphan "),
        }
    }
}

/// An instance's name becomes a file name on two file systems, and a bpf file system refuses dots.
fn check_name(instance: &str) -> Result<(), DataplaneError> {
    let fits = (1..=64).contains(&instance.len())
        && (instance.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if fits {
        Ok(())
    } else {
        Err(DataplaneError::BadInstance {
            instance: instance.to_owned(),
        })
    }
}

/// What the kernel must say of a pinned map for this build to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Bytes.
    pub(super) key: u32,
    /// Bytes.
    pub(super) value: u32,
    /// Entries.
    pub(super) entries: u32,
    /// `BPF_F_*`.
    pub(super) flags: u32,
}

impl Layout {
    /// Whether a map of this layout may be used where `expected` is: of a map that is sized at
    /// load any power of two does.
    pub(super) fn fits(&self, expected: &Self) -> bool {
        let sized = expected.entries == SIZED_AT_LOAD && self.entries.is_power_of_two();
        let entries = if sized { SIZED_AT_LOAD } else { self.entries };
        Self { entries, ..*self } == *expected
    }

    /// The layout together with its revision, for `META`.
    pub(super) fn hash(&self, revision: u32) -> u32 {
        let fields = [
            revision,
            self.kind,
            self.key,
            self.value,
            self.entries,
            self.flags,
        ];
        // FNV-1a: told apart are versions of one layout, not adversaries.
        (fields.iter().flat_map(|field| field.to_le_bytes()))
            .fold(0x811c_9dc5, |hash: u32, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            })
    }
}

/// The directory of an instance's pins.
#[derive(Clone, Debug)]
pub(super) struct PinDir {
    path: PathBuf,
}

/// Magic number of bpffs (`BPF_FS_MAGIC`).
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;

impl PinDir {
    /// `<bpffs>/sluice/<instance>`, not looked at yet.
    pub(super) fn of(place: &Place) -> Self {
        Self {
            path: place.bpffs.join("sluice").join(&place.instance),
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a map's pin.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Path of the pinned link of an interface of this network namespace.
    pub(super) fn link(&self, netns: u64, interface: u32) -> PathBuf {
        self.path.join(format!("link_{netns}_{interface}"))
    }

    /// Where it is written down which offloads of that interface were switched off.
    pub(super) fn offloads(&self, netns: u64, interface: u32) -> PathBuf {
        self.path.join(format!("offloads_{netns}_{interface}"))
    }

    /// Makes the directory where it is missing; refuses one that another user could fill.
    pub(super) fn ensure(&self) -> Result<(), DataplaneError> {
        let Some(parent) = self.path.parent() else {
            return Ok(());
        };
        for directory in [parent, &self.path] {
            match fs::DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(DataplaneError::Path {
                        what: "create",
                        path: directory.to_owned(),
                        source,
                    });
                }
            }
            trusted(directory)?;
        }
        Ok(())
    }

    /// Removes the directory if nothing is pinned in it: after a start that failed.
    pub(super) fn remove_if_empty(&self) {
        // Not empty, or never made: then it stays as it is.
        let _ = fs::remove_dir(&self.path);
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
    }

    /// Links pinned here: namespace, interface, path.
    pub(super) fn links(&self) -> Result<Vec<(u64, u32, PathBuf)>, DataplaneError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(DataplaneError::Path {
                    what: "list",
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let mut links: Vec<_> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name();
                let (netns, interface) = name.to_str()?.strip_prefix("link_")?.split_once('_')?;
                Some((netns.parse().ok()?, interface.parse().ok()?, entry.path()))
            })
            .collect();
        links.sort();
        Ok(links)
    }
}

/// Whether `path` is (on) a bpf file system.
pub(super) fn check_bpffs(path: &Path) -> Result<(), DataplaneError> {
    let kind = rustix::fs::statfs(path).map(|stat| stat.f_type);
    // `f_type` is signed or not, and wide or not, by architecture.
    match kind {
        Ok(kind) if i128::from(kind) & 0xffff_ffff == BPF_FS_MAGIC => Ok(()),
        _ => Err(DataplaneError::NoBpffs {
            path: path.to_owned(),
        }),
    }
}

/// A directory that only this user can have filled.
fn trusted(directory: &Path) -> Result<(), DataplaneError> {
    let foreign = |found: String| DataplaneError::ForeignPin {
        path: directory.to_owned(),
        found,
    };
    let stat = fs::symlink_metadata(directory).map_err(|source| DataplaneError::Path {
        what: "look at",
        path: directory.to_owned(),
        source,
    })?;
    let user = rustix::process::geteuid().as_raw();
    if !stat.is_dir() {
        return Err(foreign("it is no directory".to_owned()));
    }
    if stat.uid() != user {
        return Err(foreign(format!(
            "it belongs to user {}, and sluice runs as user {user}",
            stat.uid()
        )));
    }
    if stat.mode() & 0o022 != 0 {
        return Err(foreign(format!(
            "other users may write to it (mode {:o})",
            stat.mode() & 0o7777
        )));
    }
    Ok(())
}

/// What a pinned object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Map,
    Program,
    Link,
    Other,
}

/// Asks the kernel what a descriptor of a pin is: `BPF_OBJ_GET` opens all kinds alike.
pub(super) fn object_of(fd: BorrowedFd<'_>) -> Object {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()));
    let link = link.unwrap_or_default();
    match link.to_string_lossy().as_ref() {
        "anon_inode:bpf-map" => Object::Map,
        "anon_inode:bpf-prog" => Object::Program,
        // The first when it was opened from a pin, the second when it was made.
        "anon_inode:bpf-link" | "anon_inode:bpf_link" => Object::Link,
        _ => Object::Other,
    }
}

/// Whether something is pinned at `path`; symbolic links and directories are not ours.
pub(super) fn is_pinned(path: &Path) -> Result<bool, DataplaneError> {
    match fs::symlink_metadata(path) {
        Ok(stat) if stat.file_type().is_file() => Ok(true),
        Ok(stat) => Err(DataplaneError::ForeignPin {
            path: path.to_owned(),
            found: if stat.is_dir() {
                "it is a directory".to_owned()
            } else {
                "it is a symbolic link".to_owned()
            },
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DataplaneError::Path {
            what: "look at",
            path: path.to_owned(),
            source,
        }),
    }
}

/// `enum bpf_map_type`.
mod kind {
    pub(super) const ARRAY: u32 = 2;
    pub(super) const PROGRAM_ARRAY: u32 = 3;
    pub(super) const PER_CPU_ARRAY: u32 = 6;
    pub(super) const HASH: u32 = 1;
    pub(super) const LRU_HASH: u32 = 9;
    pub(super) const LPM_TRIE: u32 = 11;
    pub(super) const ARRAY_OF_MAPS: u32 = 12;
    pub(super) const RING_BUFFER: u32 = 27;
}

const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Entries of a map whose size the loader chooses: any power of two.
const SIZED_AT_LOAD: u32 = 0;

/// What this build expects of each pinned map, parallel to [`map::ALL`].
pub(super) fn layouts() -> [Layout; map::ALL.len()] {
    use lb_common::{
        capture::Capture,
        deny::PrefixEntry,
        flow_table::{Budget, Flow4Set, Flow6Set},
        forward::{Forward, Hop, MemberCounter},
        fragment::{FragmentKey, FragmentValue},
        journey::Then,
        limit::{ServiceLimits, ServiceWindows, SourceKey, SourceWindow},
        member::{MemberName, MemberSlot},
        meta::Meta,
        nat::NatEntry,
        quic::{ServerIdKey, ServerIdValue},
        ring::MAX_RINGS,
        service::ServiceSet,
        settings::Settings,
        verdict::{Counter, Reason},
    };
    const fn array<T>(entries: u32, flags: u32) -> Layout {
        Layout {
            kind: kind::ARRAY,
            key: 4,
            value: size_of::<T>() as u32,
            entries,
            flags,
        }
    }
    const fn hash<K, V>(kind: u32, entries: u32) -> Layout {
        Layout {
            kind,
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            entries,
            flags: 0,
        }
    }
    const fn trie(address: u32, entries: u32) -> Layout {
        Layout {
            kind: kind::LPM_TRIE,
            key: 4 + address,
            value: size_of::<PrefixEntry>() as u32,
            entries,
            flags: NO_PREALLOC,
        }
    }
    map::ALL.map(|name| match name {
        map::META => array::<Meta>(1, MMAPABLE),
        map::SETTINGS => array::<Settings>(1, 0),
        map::MEMBERS => array::<MemberSlot>(abi::MAX_MEMBERS, MMAPABLE),
        map::NAMES => array::<MemberName>(abi::MAX_MEMBERS, 0),
        map::BUSY => array::<u64>(abi::BUSY_COLUMNS * abi::MAX_MEMBERS, MMAPABLE),
        map::SERVICES => array::<ServiceSet>(abi::SERVICE_SETS, MMAPABLE),
        map::LIMITS => array::<ServiceLimits>(abi::MAX_SERVICES, 0),
        map::WINDOWS => array::<ServiceWindows>(abi::MAX_SERVICES, 0),
        map::SOURCES => hash::<SourceKey, SourceWindow>(kind::LRU_HASH, abi::MAX_SOURCES),
        map::COUNTERS => Layout {
            kind: kind::PER_CPU_ARRAY,
            ..array::<Counter>(abi::MAX_SERVICES * Reason::COUNT, 0)
        },
        map::DENY4 | map::ALLOW4 => trie(4, abi::MAX_PREFIXES),
        map::DENY6 | map::ALLOW6 => trie(16, abi::MAX_PREFIXES),
        map::RINGS => Layout {
            kind: kind::ARRAY_OF_MAPS,
            ..array::<u32>(MAX_RINGS, 0)
        },
        map::FORWARD => array::<Forward>(abi::MAX_SERVICES, MMAPABLE),
        map::HOPS => array::<Hop>(abi::MAX_MEMBERS, MMAPABLE),
        map::FLOWS4 => array::<Flow4Set>(SIZED_AT_LOAD, MMAPABLE),
        map::FLOWS6 => array::<Flow6Set>(SIZED_AT_LOAD, MMAPABLE),
        map::MEMBER_STATS => Layout {
            kind: kind::PER_CPU_ARRAY,
            ..array::<MemberCounter>(abi::MAX_MEMBERS, 0)
        },
        map::BUDGETS => Layout {
            kind: kind::PER_CPU_ARRAY,
            ..array::<Budget>(1, 0)
        },
        map::FRAGMENTS => hash::<FragmentKey, FragmentValue>(kind::LRU_HASH, abi::MAX_FRAGMENTS),
        map::NAT => array::<NatEntry>(SIZED_AT_LOAD, MMAPABLE),
        map::DECAP4 => trie(4, abi::MAX_DECAP),
        map::DECAP6 => trie(16, abi::MAX_DECAP),
        map::SERVER_IDS => hash::<ServerIdKey, ServerIdValue>(kind::HASH, abi::MAX_SERVER_IDS),
        map::CAPTURE => array::<Capture>(1, 0),
        map::EVENTS => Layout {
            kind: kind::RING_BUFFER,
            key: 0,
            value: 0,
            entries: abi::EVENT_BYTES,
            flags: 0,
        },
        map::STEPS => Layout {
            kind: kind::PROGRAM_ARRAY,
            ..array::<u32>(Then::COUNT, 0)
        },
        other => unreachable!("map {other} of ALL has a layout here"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_while_a_lock_file_is_written_finds_control_and_its_proxy() {
        let place = tempfile::NamedTempFile::new().expect("file");
        let lock = Lock {
            file: place.reopen().expect("open"),
            path: place.path().to_owned(),
            earlier_proxy: None,
            earlier_columns: Vec::new(),
        };
        let own = std::process::id();
        let proxies = [[7, 123_456].as_slice(), &[8]].map(|pids| {
            let columns: Vec<_> = (0..).zip(pids.iter().copied()).collect();
            (pids[0], columns)
        });
        lock.announce(proxies[0].0, &proxies[0].1).expect("write");
        let writing = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20_000 {
                    let (proxy, columns) = &proxies[round % 2];
                    lock.announce(*proxy, columns).expect("write");
                }
                writing.store(false, std::sync::atomic::Ordering::Relaxed);
            });
            while writing.load(std::sync::atomic::Ordering::Relaxed) {
                let text = fs::read_to_string(place.path()).expect("read");
                let holder = Holder::parse(&text);
                assert_eq!(holder.control, own, "{text:?}");
                assert!(matches!(holder.proxy, Some(7 | 8)), "{text:?}");
            }
        });
        let text = fs::read_to_string(place.path()).expect("read");
        assert_eq!(text, format!("{own}\nserving 8\ncolumns 0:8\n"));
    }
}
