//! The shared maps: the kernel's by aya, or the same layout in anonymous memory.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed, Release},
    },
};

use lb_common::{
    abi::{ABI_VERSION, BUSY_COLUMNS, MAX_SERVICES},
    deny::{PrefixEntry, origin},
    limit::{self, Limit, LimitKind},
    member::MemberId,
    meta::{MAGIC, phase},
    service::flag,
    settings::{Settings, gate},
};

use crate::{
    admin::protocol::{InterfaceView, Snapshot},
    config::spec::{Prefix, Sluice},
};

mod desired;
mod diff;
pub mod doctor;
mod error;
mod events;
mod explain;
mod flows;
mod heritage;
mod hook;
mod hops;
mod interfaces;
mod kernel;
mod log;
mod maps;
mod netlink;
mod pin;
mod place;
mod prefix;
mod publish;
pub(crate) mod ring;
mod steering;
mod store;
mod tables;
mod view;

#[allow(
    unsafe_code,
    reason = "the one module that maps memory and calls the kernel"
)]
pub mod sys;
pub mod table;

pub use desired::{Desired, Facts, limit_of};
use diff::{FileLimits, Op, Persist, PlacedWay};
pub use error::DataplaneError;
pub use events::{Captured, Events};
pub use explain::{Explanation, Tuple, explain};
pub use flows::{FlowFilter, FlowList, FlowView, living_flows, read_flows};
use heritage::Undo;
pub(crate) use heritage::{Inheritance, layouts};
use hops::Hops;
use interfaces::Interfaces;
use kernel::{Kernel, Opened};
pub use log::KernelLog;
pub use netlink::Watch;
pub(crate) use pin::Holder;
use pin::{Lock, PinDir};
use prefix::PrefixKey;
use steering::Steering;
use store::Store;
use table::MemberTable;
pub use table::monotonic_ns;

/// Where an instance keeps its things.
#[derive(Clone, Debug)]
pub struct Place {
    /// Instance's name.
    pub instance: String,
    /// A mounted bpf filesystem; pins go to `<bpffs>/sluice/<instance>/`.
    pub bpffs: PathBuf,
    /// Lock file and control socket: `<run_dir>/<instance>.lock`, `<run_dir>/<instance>.sock`.
    pub run_dir: PathBuf,
}

/// Result of publishing.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its number.
    pub generation: u64,
    /// `ids[b][m]` is the slot of `spec.balancers[b].members[m]`.
    pub ids: Vec<Vec<MemberId>>,
    /// The program was loaded anew: what read its log reads nothing any more.
    pub program: bool,
    /// For the operator: members adopted with their drains, a repair, a capacity near its end.
    pub notices: Vec<String>,
}

/// The maps of one instance, owned by control.
pub struct Dataplane {
    place: Place,
    store: Store,
    /// What the lists hold: control alone writes them.
    prefixes: BTreeMap<PrefixKey, PrefixEntry>,
    file_limits: FileLimits,
    /// What the next publish keeps of run-time changes.
    persist: Persist,
    /// Proxy processes started here: column and process id.
    proxies: Vec<(u32, u32)>,
    /// Told with the first publish.
    notices: Vec<String>,
    /// How to take the last publish back.
    undo: Option<Undo>,
    kernel: Option<Kernel>,
    steering: Steering,
    hops: Hops,
    interfaces: Interfaces,
    /// The generation that is on; `None`: none of this process's.
    desired: Option<Desired>,
    /// What the host said of the ways to its members.
    facts: Facts,
    /// The program was loaded anew, and no [`Published`] has told so yet.
    reloaded: bool,
    /// Until when packets are sampled; 0: they are not.
    capture_until: u64,
    /// Held until this is dropped, and by nobody else.
    lock: Lock,
}

/// Proxy incarnations count up in `META`; the column is the incarnation modulo the columns.
fn column_of(incarnation: u64) -> u32 {
    u32::try_from(incarnation % u64::from(BUSY_COLUMNS)).unwrap_or(0)
}

impl Dataplane {
    /// Takes the lock, checks, adopts or creates the pinned maps, loads the program and attaches it
    /// to the interfaces named (replacing our own earlier program in place). Nothing is left behind on error.
    pub fn open(place: &Place, sluice: &Sluice) -> Result<Self, DataplaneError> {
        let lock = Lock::take(place)?;
        let Opened {
            kernel,
            store,
            notices,
        } = Kernel::open(place, &sluice.interfaces, sluice)?;
        Self::over(place, lock, store, Some(kernel), notices, None)
    }

    /// The same slots in anonymous memory, still under the instance's lock.
    pub fn anonymous(place: &Place) -> Result<Self, DataplaneError> {
        let lock = Lock::take(place)?;
        let store = Store::anonymous()?;
        store.meta().magic.store(MAGIC, Relaxed);
        store.meta().abi.store(ABI_VERSION, Relaxed);
        Self::over(place, lock, store, None, Vec::new(), None)
    }

    fn over(
        place: &Place,
        lock: Lock,
        store: Store,
        kernel: Option<Kernel>,
        mut notices: Vec<String>,
        inherited: Option<Vec<(u32, u32)>>,
    ) -> Result<Self, DataplaneError> {
        let meta = store.meta();
        let left = meta.phase.load(Relaxed);
        if matches!(left, phase::APPLYING | phase::APPLYING_STOPPED) {
            notices.push(format!(
                "the last process died while it published generation {}; the maps are repaired from \
                 the configuration",
                meta.generation.load(Relaxed) + 1
            ));
        }
        let proxies = inherited.unwrap_or_else(|| {
            // A proxy that outlived its control still counts in its column.
            let earlier = lock.earlier_columns().iter().copied();
            let earlier: Vec<_> = earlier.filter(|(_, pid)| is_proxy_process(*pid)).collect();
            if !earlier.is_empty() {
                return earlier;
            }
            let owner = column_of(meta.proxy_incarnation.load(Relaxed));
            let orphan = Some(meta.proxy_pid.load(Relaxed)).filter(|pid| is_running(*pid));
            orphan.map(|pid| (owner, pid)).into_iter().collect()
        });
        for column in 0..BUSY_COLUMNS {
            if !proxies.iter().any(|(used, _)| *used == column) {
                store.table.clear_busy(column);
            }
        }
        meta.control_pid.store(std::process::id(), Relaxed);
        meta.heartbeat.store(monotonic_ns(), Relaxed);
        Ok(Self {
            place: place.clone(),
            prefixes: store.rest.prefixes()?,
            store,
            file_limits: FileLimits::new(),
            persist: Persist::after(left),
            proxies,
            notices,
            undo: None,
            kernel,
            steering: Steering::new(),
            hops: Hops::default(),
            interfaces: Interfaces::default(),
            desired: None,
            facts: Facts::default(),
            reloaded: false,
            capture_until: 0,
            lock,
        })
    }

    /// Whether there are kernel maps.
    pub const fn is_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// The member table, mapped in this process.
    pub fn table(&self) -> Arc<MemberTable> {
        Arc::clone(&self.store.table)
    }

    /// Descriptors of `MEMBERS` and `BUSY`, for the proxy process.
    pub fn table_fds(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.store.members.as_fd(), self.store.busy.as_fd())
    }

    /// A new proxy process: picks its column of `BUSY`, empties it, writes `META`.
    pub fn proxy_started(&mut self, pid: u32) -> u32 {
        let meta = self.store.meta();
        let incarnation = meta.proxy_incarnation.fetch_add(1, AcqRel) + 1;
        let column = column_of(incarnation);
        self.store.table.clear_busy(column);
        self.proxies.retain(|(old, _)| *old != column);
        self.forget_dead_proxies();
        self.proxies.push((column, pid));
        self.store.meta().proxy_pid.store(pid, Release);
        column
    }

    /// Empties the columns of proxies that are gone: what they had in flight is in flight no more.
    fn forget_dead_proxies(&mut self) {
        let table = &self.store.table;
        self.proxies.retain(|(column, pid)| {
            let running = is_running(*pid);
            if !running {
                table.clear_busy(*column);
            }
            running
        });
    }

    /// Tells that control lives.
    pub fn heartbeat(&self) {
        self.store.meta().heartbeat.store(monotonic_ns(), Relaxed);
    }

    /// Once a second: heartbeat, expired denies, slots of members that are no longer configured.
    pub fn tick(&mut self) {
        let now = monotonic_ns();
        self.store.meta().heartbeat.store(now, Relaxed);
        let over: Vec<PrefixKey> = (self.prefixes.iter())
            .filter(|(_, entry)| entry.expires != 0 && entry.expires <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            if let Err(error) = self.set_prefix(key, None) {
                tracing::warn!(prefix = %key, %error, "an expired deny entry could not be removed");
            }
        }
        if self.capture_until != 0
            && self.capture_until <= now
            && let Err(error) = self.capture(None)
        {
            tracing::warn!(%error, "sampling packets could not be ended");
        }
        self.forget_dead_proxies();
        // Control serves, and goes back to no earlier process.
        self.steering.forget_found();
        self.store.free_settled(now);
        if self.kernel.is_some() && !self.interfaces.detached {
            self.follow_interfaces();
            self.hops.look_at_neighbours(&self.store);
        }
    }

    /// Adds or replaces a deny entry. `seconds` `None`: for ever. An entry of the configuration,
    /// which lasts for ever, stays as it is.
    pub fn deny(&mut self, prefix: Prefix, seconds: Option<u64>) -> Result<(), DataplaneError> {
        let key = PrefixKey::deny(prefix);
        let old = self.prefixes.get(&key);
        if old.is_some_and(|entry| entry.origin == origin::FILE) {
            return Ok(());
        }
        if old.is_none() {
            let same = self.prefixes.keys().filter(|k| k.map() == key.map());
            diff::check_trie(key.map(), same.count() + 1)?;
        }
        let expires = seconds.map_or(0, |seconds| {
            monotonic_ns().saturating_add(seconds.saturating_mul(1_000_000_000))
        });
        self.set_prefix(key, Some(key.entry(origin::COMMAND, expires)))
    }

    /// Removes a deny entry; whether there was one. One of the configuration comes back with the
    /// next publish.
    pub fn undeny(&mut self, prefix: Prefix) -> Result<bool, DataplaneError> {
        let key = PrefixKey::deny(prefix);
        if !self.prefixes.contains_key(&key) {
            return Ok(false);
        }
        self.set_prefix(key, None)?;
        Ok(true)
    }

    /// Writes the entry before the gate opens, and closes the gate before the last entry goes.
    fn set_prefix(
        &mut self,
        key: PrefixKey,
        entry: Option<PrefixEntry>,
    ) -> Result<(), DataplaneError> {
        let old = self.prefixes.get(&key).copied();
        let left = self
            .prefixes
            .keys()
            .filter(|k| entry.is_some() || **k != key);
        let lists = diff::list_gates(left.chain(entry.is_some().then_some(&key)));
        let was = self.store.rest.settings()?;
        let all = gate::DENY4 | gate::DENY6 | gate::ALLOW4 | gate::ALLOW6 | gate::DECAP;
        let settings = Op::Settings(Settings {
            gates: was.gates & !all | lists,
            ..was
        });
        let write = Op::Prefix { key, entry, old };
        let ops = if entry.is_some() {
            [write, settings]
        } else {
            [settings, write]
        };
        self.store.apply_all(&ops)?;
        match entry {
            Some(entry) => self.prefixes.insert(key, entry),
            None => self.prefixes.remove(&key),
        };
        Ok(())
    }

    /// Replaces (or with `None` removes) one limit of one service at run time. It stays until the
    /// file's own value changes or sluice is stopped cleanly.
    pub fn set_limit(
        &mut self,
        service: u16,
        kind: u8,
        per_service: bool,
        limit: Option<Limit>,
    ) -> Result<(), DataplaneError> {
        let ways = self.store.ways();
        let placed: Vec<PlacedWay> = ways.into_iter().filter(|w| w.value.id == service).collect();
        if service != 0 && placed.is_empty() || u32::from(service) >= MAX_SERVICES {
            return Err(DataplaneError::Refused(format!(
                "there is no service {service}; `sluice service list` shows those there are"
            )));
        }
        let icmp = kind == LimitKind::ICMP.0;
        if usize::from(kind) >= LimitKind::COUNT || icmp != (service == 0) {
            return Err(DataplaneError::Refused(
                "service 0, the host, has icmp limits; every other service has the other kinds"
                    .to_owned(),
            ));
        }
        let mut limits = self.store.rest.limits(service)?;
        let rows = if per_service {
            &mut limits.service
        } else {
            &mut limits.source
        };
        rows[usize::from(kind)] = Limit {
            origin: limit::origin::COMMAND,
            ..limit.unwrap_or_default()
        };
        let limited = diff::has_limit(&limits);
        let mut ops = vec![Op::Limits {
            service,
            limits: Box::new(limits),
        }];
        for mut way in placed {
            way.value.flags =
                way.value.flags & !flag::LIMITED | if limited { flag::LIMITED } else { 0 };
            ops.push(Op::Way(way));
        }
        let was = self.store.rest.settings()?;
        let bit = if service == 0 {
            gate::ICMP_LIMITS
        } else {
            gate::LIMITS
        };
        // The gate of the services is left open when the last limit goes: it costs a test.
        let gates = match (limited, service) {
            (true, _) => was.gates | bit,
            (false, 0) => was.gates & !bit,
            (false, _) => was.gates,
        };
        ops.push(Op::Settings(Settings { gates, ..was }));
        self.store.apply_all(&ops).map(drop)
    }

    /// Changes a run-time setting: `guard on|off`, `log on|off`, `log_every N`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), DataplaneError> {
        let mut settings = self.store.rest.settings()?;
        let refused = |expected: &str| {
            DataplaneError::Refused(format!("setting {name} takes {expected}, not `{value}`"))
        };
        match name {
            "guard" | "log" => {
                let bit = if name == "guard" {
                    gate::GUARD
                } else {
                    gate::LOG
                };
                match value {
                    "on" => settings.gates |= bit,
                    "off" => settings.gates &= !bit,
                    _ => return Err(refused("on or off")),
                }
            }
            "log_every" => {
                settings.log_every = (value.parse().ok())
                    .filter(|every| (1..=u64::from(u32::MAX)).contains(every))
                    .ok_or_else(|| refused("a number from 1 to 4294967295"))?;
            }
            _ => {
                return Err(DataplaneError::Refused(format!(
                    "there is no setting {name}; there are guard, log and log_every"
                )));
            }
        }
        self.store.apply_all(&[Op::Settings(settings)]).map(drop)
    }

    /// The program's log, to be read by a thread while `log` is on. There is one, and none without
    /// kernel maps.
    pub fn log(&mut self) -> Option<KernelLog> {
        KernelLog::of(self.kernel.as_mut()?.ebpf())
    }

    /// Tells that a member's state changed (`META.state_sequence`).
    pub fn state_changed(&self) {
        self.store.meta().state_sequence.fetch_add(1, Release);
    }

    /// Takes the program off every interface and unpins the links; the maps stay. It stays off, on
    /// interfaces that come back too, until a generation is published.
    pub fn detach(&mut self) -> Result<Vec<InterfaceView>, DataplaneError> {
        self.hops.release();
        self.interfaces.detach();
        match &mut self.kernel {
            Some(kernel) => kernel.detach_all(),
            None => Ok(Vec::new()),
        }
    }

    /// After a start that failed: takes away the pins and the attachments that this process made, and
    /// leaves what it found. What it published is taken back: packets are steered and guarded as by
    /// the process of before.
    pub fn abandon(mut self) {
        if let Some(undo) = self.undo.take() {
            if let Err(error) = self.store.take_back(undo.steps, monotonic_ns()) {
                tracing::error!("the maps are between two generations: {error}");
            }
            self.steering.put_back_found(&mut self.store);
        }
        if let Some(kernel) = self.kernel {
            kernel.abandon();
        }
    }

    /// Clean stop: marks `META`; pins and attached program stay, so that the services stay guarded
    /// while nobody runs. Call [`Dataplane::detach`] first to end that too.
    pub fn close(self) -> Result<(), DataplaneError> {
        let meta = self.store.meta();
        meta.control_pid.store(0, Relaxed);
        meta.proxy_pid.store(0, Relaxed);
        // Forwarding goes on while nobody runs: neighbours stay kept.
        // What was never published has nothing to be stopped.
        if meta.phase.load(Relaxed) == phase::READY {
            meta.phase.store(phase::STOPPED, Release);
        }
        self.lock.clear().map_err(|source| DataplaneError::Path {
            what: "empty",
            path: self.lock.path().to_owned(),
            source,
        })
    }

    /// Members, services, lists, settings, interfaces as the maps hold them now; what only the
    /// daemon knows is left at its default for the caller to fill in.
    pub fn snapshot(&self) -> Result<Snapshot, DataplaneError> {
        let rings = |ring| self.steering.slots(ring).cloned();
        let mut snapshot = view::snapshot(&self.store, &self.prefixes, &rings)?;
        snapshot.instance.clone_from(&self.place.instance);
        snapshot.daemon = true;
        if let Some(kernel) = &self.kernel {
            snapshot.interfaces = kernel.views();
            snapshot.interfaces.extend(self.interfaces.alarms());
        } else {
            "memory".clone_into(&mut snapshot.dataplane);
            snapshot.heartbeat_age_seconds = None;
        }
        Ok(snapshot)
    }
}

/// Reads an instance's pins without its daemon: no lock, nothing written.
pub fn read_pins(place: &Place) -> Result<Snapshot, DataplaneError> {
    let store = kernel::open_pins(place)?;
    let prefixes = store.rest.prefixes()?;
    let rings = |ring| {
        let slots = store.rest.ring(ring).ok().flatten()?;
        Some(ring::count(&slots))
    };
    let mut snapshot = view::snapshot(&store, &prefixes, &rings)?;
    snapshot.instance.clone_from(&place.instance);
    snapshot.interfaces = hook::views_here(&PinDir::of(place))?;
    if view::is_alive(&store) {
        snapshot.notices.push(format!(
            "control (process {}) is alive and was not asked: in-flight counts may be a moment old",
            snapshot.control_pid
        ));
    }
    Ok(snapshot)
}

/// `sluice detach` with no daemon: unpins the links of a dead instance. A living one is not
/// touched: its lock is held.
pub fn detach_dead(place: &Place) -> Result<Vec<InterfaceView>, DataplaneError> {
    let pins = PinDir::of(place);
    if !pins.path().is_dir() {
        return Err(DataplaneError::NoPins {
            instance: place.instance.clone(),
            path: pins.path().to_owned(),
        });
    }
    let _lock = Lock::take(place)?;
    hook::detach_pinned(&pins)
}

/// Whether a process is there and not a corpse: one that was killed with its parent stays in the
/// process table until init looks. 0 is none.
fn is_running(pid: u32) -> bool {
    let state = |stat: String| {
        // The name, field 2, may hold anything; nothing after its parenthesis does.
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned());
        fields.is_some_and(|fields| !fields.starts_with(['Z', 'X']))
    };
    pid != 0 && std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(state)
}

/// Whether the process runs and looks like a proxy of ours: process ids are used again.
fn is_proxy_process(pid: u32) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    is_running(pid) && arguments.split(|b| *b == 0).nth(1) == Some(b"proxy-process")
}

/// The proxy of an instance whose control is dead, if it still serves. Takes no lock.
pub fn orphan_of(place: &Place) -> Option<u32> {
    let path = place.run_dir.join(format!("{}.lock", place.instance));
    let holder = Holder::parse(&std::fs::read_to_string(path).ok()?);
    if is_running(holder.control) {
        return None;
    }
    let proxy = holder.proxy.or(holder.orphan);
    proxy.filter(|pid| is_proxy_process(*pid))
}

/// At the start of control: what it inherited stays with it, see [`sys`].
pub(crate) fn keep_descriptors_to_ourselves() {
    // Linux 5.11; before it the proxy inherits what control was started with, as from any parent.
    if let Err(error) = sys::keep_descriptors_to_ourselves() {
        tracing::warn!("inherited descriptors not marked close-on-exec: {error}");
    }
}

/// A seed. Never zero, which means "none yet".
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Where the kernel has no randomness to give, the clock must do: a guessed seed lets somebody
    // who also chooses the listeners crowd a set, which is then refused, not wrong.
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes).max(1),
        Err(_) => monotonic_ns().max(1),
    }
}
