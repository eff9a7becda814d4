//! The maps of one instance behind one face, kernel's or in memory: reading them as they are, and
//! applying [`Op`]s one by one with their inverses at hand. Decides nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
};

use lb_common::{
    abi::{MAX_MEMBERS, MAX_SERVICES, SERVICE_SETS, SERVICE_WAYS},
    addr::{Address, Be16},
    capture::Capture,
    deny::PrefixEntry,
    forward::{Forward, MemberCounter},
    limit::ServiceLimits,
    maglev::SLOTS,
    member::{
        MemberElection, MemberHead, MemberId, MemberName, MemberRecord, MemberSlot, MemberState,
        MemberTraffic,
    },
    meta::{self, Meta},
    quic::{ServerIdKey, ServerIdValue},
    ring::RingRow,
    settings::Settings,
    verdict::{Counter, Reason},
};

use super::{
    DataplaneError,
    diff::{Actual, ActualMember, Op, PlacedWay, Tune, is_forgotten, is_settled},
    prefix::PrefixKey,
    sys::{Mapping, MemberCell, MetaCell, ServiceCell, WayCell, memory_file},
    table::MemberTable,
};

mod l4;
mod memory;
mod way;

pub(super) use l4::{Flow, L4};
use memory::Memory;

/// Between looks at which members flows are with.
const FLOWS_LOOK_NS: u64 = 30_000_000_000;

/// Counters of one service, by reason.
pub(super) type Row = [Counter; Reason::COUNT as usize];

/// What is not mapped into this process: reached by system calls, or in a vector.
pub(super) trait Rest: Send {
    fn name(&self, id: MemberId) -> Result<MemberName, DataplaneError>;
    fn set_name(&mut self, id: MemberId, name: &MemberName) -> Result<(), DataplaneError>;
    fn limits(&self, service: u16) -> Result<ServiceLimits, DataplaneError>;
    fn set_limits(&mut self, service: u16, limits: &ServiceLimits) -> Result<(), DataplaneError>;
    fn settings(&self) -> Result<Settings, DataplaneError>;
    fn set_settings(&mut self, settings: &Settings) -> Result<(), DataplaneError>;
    fn prefixes(&self) -> Result<BTreeMap<PrefixKey, PrefixEntry>, DataplaneError>;
    /// `None` removes; removing what is not there is no error.
    fn set_prefix(
        &mut self,
        key: &PrefixKey,
        entry: Option<PrefixEntry>,
    ) -> Result<(), DataplaneError>;
    /// Summed over CPUs.
    fn counters(&self, service: u16) -> Result<Row, DataplaneError>;
    /// Zeroes a service's counters and windows.
    fn clear_traffic(&mut self, service: u16) -> Result<(), DataplaneError>;
    fn forward(&self, service: u16) -> Result<Forward, DataplaneError>;
    fn set_forward(&mut self, service: u16, forward: &Forward) -> Result<(), DataplaneError>;
    fn server_ids(&self) -> Result<HashMap<ServerIdKey, ServerIdValue>, DataplaneError>;
    /// `None` removes; removing what is not there is no error.
    fn set_server_id(
        &mut self,
        key: &ServerIdKey,
        value: Option<ServerIdValue>,
    ) -> Result<(), DataplaneError>;
    /// Swaps whole rings, in order; returns how many, and why no more.
    fn set_rings(&mut self, rings: &[(u16, &[u16; SLOTS])]) -> (usize, Result<(), DataplaneError>);
    /// Takes a ring away.
    fn remove_ring(&mut self, ring: u16) -> Result<(), DataplaneError>;
    /// Swaps a whole ring; `None` takes it away.
    fn set_ring(&mut self, ring: u16, slots: Option<&[u16; SLOTS]>) -> Result<(), DataplaneError> {
        match slots {
            Some(slots) => self.set_rings(&[(ring, slots)]).1,
            None => self.remove_ring(ring),
        }
    }
    /// A ring's slots; `None`: there is none.
    fn ring(&self, ring: u16) -> Result<Option<Vec<u16>>, DataplaneError>;
    /// Four slots of a ring; `None`: there is no ring, or no such row.
    fn ring_row(&self, ring: u16, row: u32) -> Result<Option<RingRow>, DataplaneError> {
        let at = row as usize * 4;
        Ok(self.ring(ring)?.and_then(|slots| {
            let mut slots = slots.get(at..)?.iter().copied();
            Some(RingRow([0; 4].map(|zero| slots.next().unwrap_or(zero))))
        }))
    }
    /// Summed over CPUs.
    fn member_counter(&self, id: MemberId) -> Result<MemberCounter, DataplaneError>;
    /// Which packets are sampled while the gate is open.
    fn set_capture(&mut self, capture: &Capture) -> Result<(), DataplaneError>;
    /// Zeroes a member's packet counters.
    fn clear_member(&mut self, id: MemberId) -> Result<(), DataplaneError>;
}

/// The maps of one instance.
pub(super) struct Store {
    pub(super) table: Arc<MemberTable>,
    /// `MEMBERS`.
    pub(super) members: OwnedFd,
    /// `BUSY`.
    pub(super) busy: OwnedFd,
    services: Mapping<ServiceCell>,
    meta: Mapping<MetaCell>,
    pub(super) l4: L4,
    /// Members that flows were with, and when that was looked at.
    kept: (u64, HashSet<u16>),
    /// What `META` is mapped from, where it is memory of processes: for a successor.
    pub(super) meta_file: Option<OwnedFd>,
    pub(super) rest: Box<dyn Rest>,
}

impl Store {
    /// Maps the four mmapable maps from their descriptors.
    pub(super) fn of(
        members: OwnedFd,
        busy: OwnedFd,
        services: impl AsFd,
        meta: impl AsFd,
        l4: L4,
        rest: Box<dyn Rest>,
    ) -> Result<Self, DataplaneError> {
        let failed = |map| {
            move |source| DataplaneError::Map {
                map,
                what: "mapping",
                source,
            }
        };
        Ok(Self {
            table: Arc::new(
                MemberTable::map(members.as_fd(), busy.as_fd()).map_err(failed("MEMBERS"))?,
            ),
            members,
            busy,
            services: Mapping::of(services.as_fd(), SERVICE_SETS as usize)
                .map_err(failed("SERVICES"))?,
            meta: Mapping::of(meta.as_fd(), 1).map_err(failed("META"))?,
            l4,
            kept: (0, HashSet::new()),
            meta_file: None,
            rest,
        })
    }

    /// All in memory of this process, shareable by descriptor as the kernel's maps are.
    pub(super) fn anonymous() -> Result<Self, DataplaneError> {
        let (_, members, busy) =
            MemberTable::anonymous().map_err(|source| DataplaneError::Map {
                map: "MEMBERS",
                what: "creating memory for",
                source,
            })?;
        let meta = new_file("META", size_of::<MetaCell>())?;
        Self::in_memory(members, busy, meta)
    }

    /// Over the memory of a predecessor; what it had beside that (names, services, limits, lists)
    /// comes with the next publish, and where there is no kernel map none of it has an effect.
    pub(super) fn in_memory(
        members: OwnedFd,
        busy: OwnedFd,
        meta: OwnedFd,
    ) -> Result<Self, DataplaneError> {
        let services = new_file("SERVICES", SERVICE_SETS as usize * size_of::<ServiceCell>())?;
        let rest = Box::new(Memory::default());
        let mut store = Self::of(members, busy, services, &meta, L4::anonymous()?, rest)?;
        store.meta_file = Some(meta);
        Ok(store)
    }

    /// `META`'s only cell.
    pub(super) fn meta(&self) -> &MetaCell {
        self.meta.cell(0).expect("META was mapped with one cell")
    }

    /// Everything that a publish compares with what is wanted.
    pub(super) fn actual(&self) -> Result<Actual, DataplaneError> {
        let meta = self.meta().load();
        let members = (0..MAX_MEMBERS)
            .map(|id| self.actual_member(MemberId(id)))
            .collect::<Result<_, _>>()?;
        Ok(Actual {
            phase: meta.phase,
            generation: meta.generation,
            members,
            ways: self.ways(),
            limits: (0..MAX_SERVICES as u16)
                .map(|service| self.rest.limits(service))
                .collect::<Result<_, _>>()?,
            settings: self.rest.settings()?,
            prefixes: self.rest.prefixes()?,
            forwards: (0..MAX_SERVICES as u16)
                .map(|service| self.rest.forward(service))
                .collect::<Result<_, _>>()?,
            server_ids: self.rest.server_ids()?,
        })
    }

    fn actual_member(&self, id: MemberId) -> Result<ActualMember, DataplaneError> {
        let slot = self
            .table
            .cell(id)
            .map(MemberCell::load)
            .unwrap_or_default();
        let used = slot.head.identity[0] != 0;
        Ok(ActualMember {
            slot,
            busy: self.table.busy_sum(id),
            name: if used {
                self.rest.name(id)?
            } else {
                MemberName::default()
            },
        })
    }

    /// Every service in the table.
    pub(super) fn ways(&self) -> Vec<PlacedWay> {
        let mut ways = Vec::new();
        for set in 0..SERVICE_SETS {
            for way in 0..SERVICE_WAYS {
                if let Some(value) = self.way(set, way).map(WayCell::load).filter(|w| w.id != 0) {
                    ways.push(PlacedWay { set, way, value });
                }
            }
        }
        ways
    }

    fn way(&self, set: u32, way: usize) -> Option<&WayCell> {
        self.services.cell(set as usize)?.ways.get(way)
    }

    /// Gives up the slots of members that are no longer configured and no longer in use.
    pub(super) fn free_settled(&mut self, now: u64) {
        for id in (1..MAX_MEMBERS).map(MemberId) {
            let Some(cell) = self.table.cell(id) else {
                continue;
            };
            let retired = cell.retired.load(Relaxed);
            let settled = cell.identity()[0] != 0 && is_settled(retired, now);
            if !settled || self.table.busy_sum(id) > 0 {
                continue;
            }
            // Flows of a member that was removed go on until they end, for a day at most.
            if !is_forgotten(retired, now) {
                // The whole table is looked through: only where some slot waits for it, and not often.
                if now >= self.kept.0.saturating_add(FLOWS_LOOK_NS) {
                    self.kept = (now, self.l4.members_of_flows());
                }
                if self.kept.1.contains(&(id.0 as u16)) {
                    continue;
                }
            }
            cell.free(retired);
        }
    }

    /// Applies all of `ops`; after a failure undoes those that were applied and reports it. Returns
    /// the steps that take all of it back, in the order of `ops`.
    pub(super) fn apply_all(&mut self, ops: &[Op]) -> Result<Vec<Op>, DataplaneError> {
        let mut undo: Vec<Op> = Vec::with_capacity(ops.len());
        for op in ops {
            match self.apply(op) {
                Ok(inverse) => undo.extend(inverse),
                Err(error) => {
                    for op in undo.iter().rev() {
                        if let Err(second) = self.apply(op) {
                            tracing::error!(%second, "undoing a failed publish failed too");
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(undo)
    }

    /// Applies steps that [`Store::apply_all`] returned, last one first. A slot that was free becomes
    /// free again, but keeps its incarnation: what counted for its short-lived member must not count
    /// for the next one.
    pub(super) fn take_back(&mut self, undo: Vec<Op>, now: u64) -> Result<(), DataplaneError> {
        for mut op in undo.into_iter().rev() {
            if let Op::Slot { id, slot } = &mut op
                && slot.head.identity[0] == 0
                && let Some(cell) = self.table.cell(*id)
            {
                slot.head.incarnation = cell.incarnation.load(Relaxed);
                slot.head.state = MemberState::STOPPED;
                slot.record.retired = now;
            }
            self.apply(&op)?;
        }
        Ok(())
    }

    /// Applies one step; returns the step that takes it back, where there is something to take back.
    pub(super) fn apply(&mut self, op: &Op) -> Result<Option<Op>, DataplaneError> {
        match op {
            Op::Phase(phase) => {
                let old = self.meta().phase.swap(*phase, Release);
                Ok(Some(Op::Phase(old)))
            }
            Op::Generation(generation) => {
                let old = self.meta().generation.swap(*generation, Release);
                Ok(Some(Op::Generation(old)))
            }
            Op::Name { id, name } => {
                let old = Box::new(self.rest.name(*id)?);
                self.rest.set_name(*id, name)?;
                Ok(Some(Op::Name { id: *id, name: old }))
            }
            Op::Slot { id, slot } => {
                let Some(cell) = self.table.cell(*id) else {
                    return Ok(None);
                };
                let old = Box::new(cell.load());
                if old.head.identity != slot.head.identity {
                    self.rest.clear_member(*id)?;
                    self.l4.forget_hop(*id);
                }
                cell.store(slot);
                Ok(Some(Op::Slot { id: *id, slot: old }))
            }
            Op::Forward { service, forward } => {
                let old = Box::new(self.rest.forward(*service)?);
                self.rest.set_forward(*service, forward)?;
                Ok(Some(Op::Forward {
                    service: *service,
                    forward: old,
                }))
            }
            Op::ServerId { key, value, old } => {
                self.rest.set_server_id(key, *value)?;
                Ok(Some(Op::ServerId {
                    key: *key,
                    value: *old,
                    old: *value,
                }))
            }
            Op::Tune { id, tune } => Ok(self.table.cell(*id).map(|cell| Op::Tune {
                id: *id,
                tune: Box::new(cell.tune(tune)),
            })),
            Op::Limits { service, limits } => {
                let old = Box::new(self.rest.limits(*service)?);
                self.rest.set_limits(*service, limits)?;
                Ok(Some(Op::Limits {
                    service: *service,
                    limits: old,
                }))
            }
            Op::ClearTraffic { service } => {
                self.rest.clear_traffic(*service)?;
                Ok(None)
            }
            Op::ForgetFlows { services } => {
                self.l4.forget_flows(services);
                Ok(None)
            }
            Op::Way(placed) => Ok(self.way(placed.set, placed.way).map(|cell| {
                let old = cell.load();
                cell.store(&placed.value);
                Op::Way(PlacedWay {
                    value: old,
                    ..*placed
                })
            })),
            Op::Prefix { key, entry, old } => {
                self.rest.set_prefix(key, *entry)?;
                Ok(Some(Op::Prefix {
                    key: *key,
                    entry: *old,
                    old: *entry,
                }))
            }
            Op::Settings(settings) => {
                let old = self.rest.settings()?;
                self.rest.set_settings(settings)?;
                Ok(Some(Op::Settings(old)))
            }
        }
    }
}

fn new_file(map: &'static str, bytes: usize) -> Result<OwnedFd, DataplaneError> {
    memory_file(map, bytes as u64).map_err(|source| DataplaneError::Map {
        map,
        what: "creating memory for",
        source,
    })
}

fn words(address: Address) -> [u64; 2] {
    let a = address.0;
    [
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

fn address(words: [u64; 2]) -> Address {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].to_ne_bytes());
    Address(bytes)
}

impl MemberCell {
    /// A copy. Fields that others write may be of different moments.
    pub(super) fn load(&self) -> MemberSlot {
        let [lbset, pad] = self.lbset_pad.load(Relaxed).to_ne_bytes();
        let mac = self.mac.each_ref().map(|w| w.load(Relaxed).to_ne_bytes());
        MemberSlot {
            head: MemberHead {
                identity: self.identity(),
                state: self.state.load(Acquire),
                address: address(self.address.each_ref().map(|w| w.load(Relaxed))).0,
                incarnation: self.incarnation.load(Relaxed),
                weight: self.weight.load(Relaxed),
                balancer: self.balancer.load(Relaxed),
                port: self.port.load(Relaxed).to_ne_bytes(),
                lbset,
                pad,
                mac: [
                    mac[0][0], mac[0][1], mac[1][0], mac[1][1], mac[2][0], mac[2][1],
                ],
            },
            election: MemberElection {
                lbstatus: self.lbstatus.load(Relaxed),
                elected: self.elected.load(Relaxed),
                error_since: self.error_since.load(Relaxed),
                retries: self.retries.load(Relaxed),
                failed: self.failed.load(Relaxed),
                ..MemberElection::default()
            },
            traffic: MemberTraffic {
                read: self.read.load(Relaxed),
                transferred: self.transferred.load(Relaxed),
                responses: self.responses.load(Relaxed),
                ..MemberTraffic::default()
            },
            record: self.record(),
        }
    }

    fn record(&self) -> MemberRecord {
        MemberRecord {
            status: self.record_status.load(Relaxed),
            weight: self.record_weight.load(Relaxed),
            lbset: self.record_lbset_pad.load(Relaxed).to_ne_bytes()[0],
            retired: self.retired.load(Relaxed),
            ..MemberRecord::default()
        }
    }

    fn store_record(&self, record: &MemberRecord) {
        self.record_status.store(record.status, Relaxed);
        self.record_weight.store(record.weight, Relaxed);
        self.record_lbset_pad
            .store(u32::from_ne_bytes([record.lbset, 0, 0, 0]), Relaxed);
        self.retired.store(record.retired, Relaxed);
    }

    /// Whether a configuration still names its member.
    pub(super) fn is_wanted(&self) -> bool {
        self.identity()[0] != 0 && self.retired.load(Relaxed) == 0
    }

    /// Writes a whole slot. Another member's identity is taken off first and the new one put on
    /// last, so that whoever finds an identity finds its member.
    fn store(&self, slot: &MemberSlot) {
        let MemberSlot {
            head,
            election,
            traffic,
            record,
        } = slot;
        if self.identity() != head.identity {
            self.identity[0].store(0, Release);
            self.identity[1].store(0, Release);
        }
        self.incarnation.store(head.incarnation, Release);
        for (cell, word) in self.address.iter().zip(words(Address(head.address))) {
            cell.store(word, Relaxed);
        }
        self.port.store(u16::from_ne_bytes(head.port), Relaxed);
        self.weight.store(head.weight, Relaxed);
        self.balancer.store(head.balancer, Relaxed);
        self.set_lbset(head.lbset);
        for (cell, pair) in self.mac.iter().zip(head.mac.as_chunks::<2>().0) {
            cell.store(u16::from_ne_bytes(*pair), Relaxed);
        }
        self.lbstatus.store(election.lbstatus, Relaxed);
        self.elected.store(election.elected, Relaxed);
        self.error_since.store(election.error_since, Relaxed);
        self.retries.store(election.retries, Relaxed);
        self.failed.store(election.failed, Relaxed);
        self.read.store(traffic.read, Relaxed);
        self.transferred.store(traffic.transferred, Relaxed);
        self.responses.store(traffic.responses, Relaxed);
        self.store_record(record);
        self.state.store(head.state, Release);
        self.identity[1].store(head.identity[1], Release);
        self.identity[0].store(head.identity[0], Release);
    }

    /// Changes what control owns of a member that stays; returns the change back.
    fn tune(&self, tune: &Tune) -> Tune {
        let head = self.load().head;
        let inverse = Tune {
            address: Address(head.address),
            port: Be16(head.port),
            weight: head.weight,
            balancer: head.balancer,
            lbset: head.lbset,
            set: head.state & (tune.set | tune.clear),
            clear: !head.state & (tune.set | tune.clear),
            record: self.record(),
        };
        if inverse.address != tune.address || inverse.port != tune.port {
            self.set_address(tune.address.into(), tune.port.to_u16());
        }
        self.weight.store(tune.weight, Relaxed);
        self.balancer.store(tune.balancer, Relaxed);
        self.set_lbset(tune.lbset);
        if tune.set != 0 {
            self.set_state(tune.set);
        }
        if tune.clear != 0 {
            self.clear_state(tune.clear);
        }
        self.store_record(&tune.record);
        inverse
    }

    /// Gives the slot up. It stays unusable, and where it was stays readable, for a request that
    /// still remembers the id.
    fn free(&self, at: u64) {
        self.state.store(MemberState::STOPPED, Release);
        self.identity[0].store(0, Release);
        self.identity[1].store(0, Release);
        self.retired.store(at, Relaxed);
    }
}

impl MetaCell {
    /// A copy.
    pub(super) fn load(&self) -> Meta {
        Meta {
            magic: self.magic.load(Relaxed),
            abi: self.abi.load(Relaxed),
            phase: self.phase.load(Acquire),
            generation: self.generation.load(Acquire),
            heartbeat: self.heartbeat.load(Relaxed),
            control_pid: self.control_pid.load(Relaxed),
            proxy_pid: self.proxy_pid.load(Relaxed),
            proxy_incarnation: self.proxy_incarnation.load(Relaxed),
            state_sequence: self.state_sequence.load(Relaxed),
            build: self.build.load(Relaxed),
            boot: self.boot.load(Relaxed),
            beat_tick: self.beat_tick.load(Relaxed),
            beat_shift: self.beat_shift.load(Relaxed),
            beat_offset: self.beat_offset.load(Relaxed),
            layouts: self.layouts.each_ref().map(|hash| hash.load(Relaxed)),
        }
    }

    /// Name of a phase, for people.
    pub(super) fn phase_name(&self) -> &'static str {
        match self.phase.load(Acquire) {
            meta::phase::APPLYING | meta::phase::APPLYING_STOPPED => "applying",
            meta::phase::READY => "ready",
            meta::phase::STOPPED => "stopped",
            _ => "empty",
        }
    }
}
