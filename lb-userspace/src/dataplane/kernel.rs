//! The kernel's maps and program, by aya: adopting pinned maps or making new ones, loading the
//! program. Where the program runs is in `hook.rs`, single maps are in `maps.rs`.

use std::{
    fs, io,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{ProgramError, Xdp},
    util::KernelVersion,
};
use lb_common::{
    abi::{ABI_VERSION, map},
    journey::Then,
    meta::{MAGIC, Meta},
};

use super::{
    DataplaneError, Place,
    hook::{Change, Hooks, Standing},
    maps::{self, map_error},
    pin::{self, Layout, Object, PinDir},
    store::Store,
    sys::{self, Mapping},
    tables::{Beat, TableSizes},
};
use crate::{
    admin::protocol::InterfaceView,
    config::spec::{Interface, Sluice},
};

/// The program and the object it comes from, put there by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.bpf.o"));

/// Name of the program that guards.
pub(super) const PROGRAM: &str = "sluice_xdp";

/// What opening gave.
pub(super) struct Opened {
    pub(super) kernel: Kernel,
    pub(super) store: Store,
    /// For the operator.
    pub(super) notices: Vec<String>,
}

/// The loaded program and where it runs.
pub(super) struct Kernel {
    ebpf: Ebpf,
    hooks: Hooks,
    pins: PinDir,
    /// Maps that this process pinned where none was.
    made: Vec<&'static str>,
}

impl Kernel {
    /// `interfaces`: those of `sluice`'s that are to be attached to.
    ///
    /// Maps first (adopted where they fit, made anew where they do not), then the program, then the
    /// pins of what is new, then the hooks, then the pins of what is replaced. What was made is
    /// taken away again when a later step fails.
    pub(super) fn open(
        place: &Place,
        interfaces: &[Interface],
        sluice: &Sluice,
    ) -> Result<Opened, DataplaneError> {
        sys::bpf_probe().map_err(|source| no_bpf("creating a map", source))?;
        pin::check_bpffs(&place.bpffs)?;
        let pins = PinDir::of(place);
        pins.ensure()?;
        let opened = Self::load(&pins, interfaces, sluice);
        if opened.is_err() {
            pins.remove_if_empty();
        }
        opened
    }

    fn load(
        pins: &PinDir,
        interfaces: &[Interface],
        sluice: &Sluice,
    ) -> Result<Opened, DataplaneError> {
        let tables = TableSizes::of(sluice);
        let Checked {
            adopt,
            replace,
            mut notices,
        } = check(pins, tables)?;
        let beat = Beat::of_host();
        let sizes = tables.sizes(beat.shift);
        let mut loader = EbpfLoader::new();
        for (name, entries) in tables.entries() {
            loader.map_max_entries(name, entries);
        }
        loader.override_global("SIZES", &sizes, true);
        for name in &adopt {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(not_parsed)?;
        program(&mut ebpf)?.load().map_err(not_loaded)?;
        load_steps(&mut ebpf)?;

        if !adopt.contains(&map::META) {
            maps::write_meta(&mut ebpf, &first_meta())?;
        }
        let mut kernel = Self {
            ebpf,
            hooks: Hooks::new(pins.clone())?,
            pins: pins.clone(),
            made: Vec::new(),
        };
        let done = pin_new(&kernel.ebpf, pins, &adopt, &replace, &mut kernel.made)
            .and_then(|()| kernel.attach_missing(interfaces, sluice, &mut notices))
            .and_then(|_| replace_old(&kernel.ebpf, pins, &replace));
        let store = done.and_then(|()| maps::store(|name| Ok(kernel.ebpf.take_map(name))));
        let store = match store {
            Ok(store) => store,
            Err(error) => {
                kernel.abandon();
                return Err(error);
            }
        };
        // Only now: a start that dies before makes the replaced maps anew once more.
        let meta = store.meta();
        for (cell, hash) in meta.layouts.iter().zip(layout_hashes()) {
            cell.store(hash, Relaxed);
        }
        meta.abi.store(ABI_VERSION, Relaxed);
        meta.build.store(build(), Relaxed);
        meta.beat_tick.store(beat.tick, Relaxed);
        meta.beat_shift.store(beat.shift, Relaxed);
        meta.beat_offset.store(beat.offset, Relaxed);
        meta.boot.store(boot(), Release);
        Ok(Opened {
            kernel,
            store,
            notices,
        })
    }

    /// Takes away what this process made; what it found stays.
    pub(super) fn abandon(mut self) {
        self.hooks.detach_new();
        for name in self.made {
            // A pin that stays is adopted by the next start.
            let _ = fs::remove_file(self.pins.map(name));
        }
        self.pins.remove_if_empty();
    }

    /// Attaches to those of `wanted` that it is not attached to, or not in their mode; returns what
    /// it did. On error all is as before.
    pub(super) fn attach_missing(
        &mut self,
        wanted: &[Interface],
        sluice: &Sluice,
        notices: &mut Vec<String>,
    ) -> Result<Vec<Change>, DataplaneError> {
        let steering = !sluice.steers.is_empty() || !sluice.decap_from.is_empty();
        let program = program(&mut self.ebpf)?;
        (self.hooks).attach_missing(program, wanted, steering, notices)
    }

    /// Sees to it that the program runs on one of the `wanted` interfaces, whatever became of it.
    pub(super) fn follow(
        &mut self,
        interface: &Interface,
        wanted: &[Interface],
    ) -> Result<Standing, DataplaneError> {
        let program = program(&mut self.ebpf)?;
        Ok(self.hooks.follow(program, interface, wanted))
    }

    /// Undoes what [`Kernel::attach_missing`] did.
    pub(super) fn take_back(&mut self, changes: Vec<Change>) -> Result<(), DataplaneError> {
        let program = program(&mut self.ebpf)?;
        self.hooks.take_back(program, changes);
        Ok(())
    }

    /// Takes the program off every interface of this network namespace that is not wanted.
    pub(super) fn detach_others(&mut self, wanted: &[Interface], notices: &mut Vec<String>) {
        self.hooks.detach_others(wanted, notices);
    }

    /// Takes the program off every interface.
    pub(super) fn detach_all(&mut self) -> Result<Vec<InterfaceView>, DataplaneError> {
        self.hooks.detach_all()
    }

    /// Where the program runs.
    pub(super) fn views(&self) -> Vec<InterfaceView> {
        self.hooks.views()
    }

    /// The object, for reading its log.
    pub(super) const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// The program that guards.
fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    (ebpf.program_mut(PROGRAM))
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| DataplaneError::Program {
            reason: format!("the object has no XDP program {PROGRAM}"),
        })
}

/// Loads the programs that go on where the first one ends, and tells it of them. The table of steps
/// is each load's own: what one program leaves for the next must be read by the one it was left for.
fn load_steps(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    let missing = |name: &str| DataplaneError::Program {
        reason: format!("the object has no {name}"),
    };
    for (step, name) in Then::PROGRAMS {
        let program: &mut Xdp = (ebpf.program_mut(name))
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| missing(name))?;
        program.load().map_err(not_loaded)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.map_err(not_loaded)?;
        let steps = ebpf
            .map_mut(map::STEPS)
            .ok_or_else(|| missing(map::STEPS))?;
        ProgramArray::try_from(steps)
            .and_then(|mut steps| steps.set(*step as u32, &fd, 0))
            .map_err(|error| map_error(map::STEPS, "writing", error))?;
    }
    Ok(())
}

/// Pins what is not there yet, `META` first: pins without it belong to nobody.
fn pin_new(
    ebpf: &Ebpf,
    pins: &PinDir,
    adopt: &[&'static str],
    replace: &[&'static str],
    made: &mut Vec<&'static str>,
) -> Result<(), DataplaneError> {
    for name in map::ALL {
        if !adopt.contains(&name) && !replace.contains(&name) {
            pin_map(ebpf, name, &pins.map(name))?;
            made.push(name);
        }
    }
    Ok(())
}

/// Puts new maps in the place of those whose layout is another's, one by one and each at once.
fn replace_old(ebpf: &Ebpf, pins: &PinDir, replace: &[&'static str]) -> Result<(), DataplaneError> {
    for name in replace {
        let path = pins.map(name);
        let beside = pins.map(&format!("{name}_new"));
        // Left by a start that died here.
        let _ = fs::remove_file(&beside);
        pin_map(ebpf, name, &beside)?;
        fs::rename(&beside, &path).map_err(|source| DataplaneError::Path {
            what: "replace",
            path,
            source,
        })?;
    }
    Ok(())
}

fn pin_map(ebpf: &Ebpf, name: &'static str, path: &Path) -> Result<(), DataplaneError> {
    let map = ebpf.map(name).ok_or_else(|| DataplaneError::Program {
        reason: format!("the object has no map {name}"),
    })?;
    map.pin(path).map_err(|error| DataplaneError::Path {
        what: "pin a map at",
        path: path.to_owned(),
        source: maps::pin_error(error),
    })
}

/// What becomes of each pinned map.
struct Checked {
    adopt: Vec<&'static str>,
    replace: Vec<&'static str>,
    notices: Vec<String>,
}

/// Looks at every pin before anything is changed.
fn check(pins: &PinDir, tables: TableSizes) -> Result<Checked, DataplaneError> {
    let mut checked = Checked {
        adopt: Vec::new(),
        replace: Vec::new(),
        notices: Vec::new(),
    };
    let mut recorded = None;
    for ((name, expected), hash) in (map::ALL.into_iter().zip(pin::layouts())).zip(layout_hashes())
    {
        let path = pins.map(name);
        if !pin::is_pinned(&path)? {
            continue;
        }
        let is = open_map(name, &path)?;
        if name == map::META {
            let ours = magic(&is, &path)?;
            recorded = (ours && is.layout.fits(&expected))
                .then(|| maps::read_meta(is.data))
                .transpose()?;
            if recorded.is_some() {
                checked.adopt.push(name);
            } else {
                checked.notices.push(
                    "the pinned maps are of another version of sluice: all are made anew, members \
                     and counters begin again"
                        .to_owned(),
                );
                checked.replace.push(name);
            }
            continue;
        }
        if checked.adopt.is_empty() && checked.replace.is_empty() {
            return Err(DataplaneError::ForeignPin {
                path: pins.path().to_owned(),
                found: format!("it holds a pin named {name} but no {}", map::META),
            });
        }
        let same = is.layout.fits(&expected);
        if name == map::STEPS {
            checked.replace.push(name);
            continue;
        }
        let entries = tables.entries().into_iter().find(|(of, _)| *of == name);
        if same && entries.is_some_and(|(_, entries)| entries != is.layout.entries) {
            if is.layout.entries > 1 {
                checked.notices.push(format!(
                    "map {name} is made anew with another size: what it held is forgotten, and the \
                     ring alone steers those flows"
                ));
            }
            checked.replace.push(name);
            continue;
        }
        let known = recorded.is_some_and(|meta| record_of(&meta, name) == hash);
        match (same, known) {
            (true, true) => checked.adopt.push(name),
            // META says that a map of this very layout was put there, and it is another now.
            (false, true) => {
                return Err(DataplaneError::ForeignPin {
                    path,
                    found: format!("expected {expected:?}, found {:?}", is.layout),
                });
            }
            (_, false) => {
                if recorded.is_some() {
                    checked.notices.push(format!(
                        "map {name} has the layout of another version of sluice and is made anew"
                    ));
                }
                checked.replace.push(name);
            }
        }
    }
    Ok(checked)
}

fn record_of(meta: &Meta, name: &str) -> u32 {
    let index = map::ALL.iter().position(|n| *n == name);
    index.map_or(0, |index| meta.layouts[index])
}

/// A pinned map and what the kernel says of it.
struct Pinned {
    layout: Layout,
    data: MapData,
}

/// Opens a pin that must be a map of this name.
fn open_map(name: &'static str, path: &Path) -> Result<Pinned, DataplaneError> {
    let fd = sys::open_pin(path).map_err(|source| DataplaneError::Path {
        what: "open",
        path: path.to_owned(),
        source,
    })?;
    let foreign = |found: String| DataplaneError::ForeignPin {
        path: path.to_owned(),
        found,
    };
    match pin::object_of(fd.as_fd()) {
        Object::Map => {}
        Object::Program => return Err(foreign("it is a program".to_owned())),
        Object::Link => return Err(foreign("it is a link".to_owned())),
        Object::Other => return Err(foreign("it is no map".to_owned())),
    }
    let failed = |error| map_error(name, "asking about", error);
    let data = MapData::from_fd(fd).map_err(failed)?;
    let info = data.info().map_err(failed)?;
    if info.name() != name.as_bytes() {
        return Err(foreign(format!(
            "it is a map named \"{}\"",
            String::from_utf8_lossy(info.name())
        )));
    }
    let layout = Layout {
        kind: info.map_type().map_err(failed)? as u32,
        key: info.key_size(),
        value: info.value_size(),
        entries: info.max_entries(),
        flags: info.map_flags(),
    };
    Ok(Pinned { layout, data })
}

/// Whether the pinned `META` carries our magic word. Anything else there is not ours to touch.
fn magic(is: &Pinned, path: &Path) -> Result<bool, DataplaneError> {
    let words: Option<Mapping<AtomicU64>> = (is.layout.value >= 16)
        .then(|| Mapping::of(is.data.fd().as_fd(), 1).ok())
        .flatten();
    let word = words.as_ref().and_then(|words| words.cell(0));
    match word.map(|word| word.load(Relaxed)) {
        Some(MAGIC) => Ok(true),
        found => Err(DataplaneError::ForeignPin {
            path: path.to_owned(),
            found: match found {
                Some(word) => format!("it begins with {word:#x}, not with sluice's mark"),
                None => "it does not have the form of sluice's META".to_owned(),
            },
        }),
    }
}

fn layout_hashes() -> [u32; map::ALL.len()] {
    let layouts = pin::layouts();
    std::array::from_fn(|index| layouts[index].hash(map::REVISIONS[index]))
}

fn first_meta() -> Meta {
    Meta {
        magic: MAGIC,
        abi: ABI_VERSION,
        build: build(),
        boot: boot(),
        layouts: layout_hashes(),
        ..Meta::default()
    }
}

/// First 8 bytes of the object's hash.
fn build() -> u64 {
    let hash = env!("SLUICE_BPF_HASH");
    u64::from_str_radix(hash.get(..16).unwrap_or("0"), 16).unwrap_or(0)
}

/// First 8 bytes of the boot id, 0 where there is none.
fn boot() -> u64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Opens an instance's maps by their pins alone: nothing is loaded, attached or written.
pub(super) fn open_pins(place: &Place) -> Result<Store, DataplaneError> {
    let pins = PinDir::of(place);
    let none = || DataplaneError::NoPins {
        instance: place.instance.clone(),
        path: pins.path().to_owned(),
    };
    if !pin::is_pinned(&pins.map(map::META))? {
        return Err(none());
    }
    let expected = pin::layouts();
    let hashes = layout_hashes();
    let mut recorded = None;
    maps::store(|name| {
        let path = pins.map(name);
        if !pin::is_pinned(&path)? {
            return Ok(None);
        }
        let is = open_map(name, &path)?;
        let index = map::ALL.iter().position(|n| *n == name);
        let other = || DataplaneError::OtherLayout {
            map: name,
            path: path.clone(),
        };
        let index = index.ok_or_else(other)?;
        if !is.layout.fits(&expected[index]) {
            return Err(other());
        }
        if name == map::META {
            magic(&is, &path)?;
            let data = MapData::from_pin(&path).map_err(|e| map_error(name, "opening", e))?;
            recorded = Some(maps::read_meta(data)?);
        }
        if recorded.is_none_or(|meta: Meta| meta.layouts[index] != hashes[index]) {
            return Err(other());
        }
        Map::from_map_data(is.data)
            .map(Some)
            .map_err(|error| map_error(name, "opening", error))
    })
}

/// `EPERM` and `ENOSYS` have remedies of their own.
pub(super) fn no_bpf(what: &str, source: io::Error) -> DataplaneError {
    let advice = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run it as root, or give it CAP_BPF and CAP_NET_ADMIN (and, in a container, allow bpf(2) \
             in its seccomp profile)"
        }
        Some(libc::ENOSYS) => "this kernel was built without CONFIG_BPF_SYSCALL",
        _ => "Linux 6.1 or newer is needed; see `sluice doctor`",
    };
    DataplaneError::NoBpf {
        what: what.to_owned(),
        cause: source,
        advice,
    }
}

fn not_parsed(error: EbpfError) -> DataplaneError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            no_bpf(&format!("creating map {name}"), io_error)
        }
        error => DataplaneError::Program {
            reason: chain(&error),
        },
    }
}

fn not_loaded(error: ProgramError) -> DataplaneError {
    // Below the oldest kernel it is tested on, the kernel is the likelier culprit.
    let old = KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(6, 1, 0));
    match error {
        ProgramError::LoadError { io_error, .. }
            if old || io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            no_bpf("loading the program", io_error)
        }
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => DataplaneError::Program {
            reason: format!("{io_error}; {}", tail(&verifier_log.to_string())),
        },
        error => DataplaneError::Program {
            reason: chain(&error),
        },
    }
}

/// The end of a verifier's log, which may be megabytes: the last lines say what is wrong.
fn tail(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES);
    let mut text = if from > 0 {
        format!("end of the verifier's log ({from} lines before it left out):\n")
    } else {
        "verifier's log:\n".to_owned()
    };
    for line in &lines[from..] {
        text.extend(line.chars().take(200));
        text.push('\n');
    }
    text.trim_end().to_owned()
}

/// An error with all that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().take(4000).collect()
}
