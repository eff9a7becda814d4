//! The maps of steering, filled as a `Steering` says.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray};
use lb_common::{
    abi::map,
    flow_table::{Flow4Set, Flow6Set},
    forward::{Forward, Hop, MemberCounter},
    fragment::{FragmentKey, FragmentValue},
    member::MemberSlot,
    nat::NatEntry,
    quic::{ServerIdKey, ServerIdValue},
    ring::RING_ROWS,
};

use super::Kernel;
use crate::model::Steering;

/// `BPF_F_MMAPABLE`: the template's.
const MMAPABLE: u32 = 1 << 10;

impl Kernel {
    pub(super) fn apply_steering(&mut self, before: &Steering, now: &Steering) -> Result<()> {
        if before.forward.is_empty() && now.forward.is_empty() && now.decap.is_empty() {
            return Ok(());
        }
        ensure!(
            (now.sets, now.nat) == (self.sets, self.nat),
            "the program was loaded with tables of other sizes"
        );
        let mut forward = self.array::<Forward>(map::FORWARD)?;
        for (id, _) in &before.forward {
            forward.set(u32::from(*id), Forward::default(), 0)?;
        }
        for (id, value) in &now.forward {
            forward.set(u32::from(*id), value, 0)?;
        }
        let mut members = self.array::<MemberSlot>(map::MEMBERS)?;
        for (id, _) in &before.members {
            members.set(u32::from(*id), MemberSlot::default(), 0)?;
        }
        for (id, member) in &now.members {
            let slot = MemberSlot {
                head: *member,
                ..MemberSlot::default()
            };
            members.set(u32::from(*id), slot, 0)?;
        }
        let mut hops = self.array::<Hop>(map::HOPS)?;
        for (id, _) in &before.hops {
            hops.set(u32::from(*id), Hop::default(), 0)?;
        }
        for (id, link) in &now.hops {
            let hop = Hop {
                given: *link,
                ..Hop::default()
            };
            hops.set(u32::from(*id), hop, 0)?;
        }
        self.apply_rings(before, now)?;
        self.apply_server_ids(now)?;
        self.prefixes_of_unpacking(before, now)?;
        self.forget()
    }

    fn apply_rings(&mut self, before: &Steering, now: &Steering) -> Result<()> {
        for (_, members) in &now.rings {
            if self.rings.iter().any(|(known, _)| known == members) {
                continue;
            }
            let mut ring = Array::create(RING_ROWS, MMAPABLE)?;
            for (row, value) in (0..).zip(Steering::rows(members)) {
                ring.set(row, value, 0)?;
            }
            self.rings.push((members.clone(), ring));
        }
        let map = self.ebpf.map_mut(map::RINGS).context(map::RINGS)?;
        let mut rings: ArrayOfMaps<_, Array<MapData, lb_common::ring::RingRow>> =
            ArrayOfMaps::try_from(map)?;
        for (balancer, members) in &now.rings {
            let (_, ring) = self
                .rings
                .iter()
                .find(|(known, _)| known == members)
                .context("made above")?;
            rings.set(u32::from(*balancer), ring, 0)?;
        }
        // A balancer that has no ring any more gets one without members.
        for (balancer, _) in &before.rings {
            if now.rings.iter().all(|(of, _)| of != balancer) {
                let empty: Array<MapData, lb_common::ring::RingRow> =
                    Array::create(RING_ROWS, MMAPABLE)?;
                rings.set(u32::from(*balancer), &empty, 0)?;
            }
        }
        Ok(())
    }

    fn apply_server_ids(&mut self, now: &Steering) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(map::SERVER_IDS)
            .context(map::SERVER_IDS)?;
        let mut ids: HashMap<_, ServerIdKey, ServerIdValue> = HashMap::try_from(map)?;
        let keys: Vec<_> = ids.keys().collect::<Result<_, _>>()?;
        for key in keys {
            ids.remove(&key)?;
        }
        for (key, value) in &now.server_ids {
            ids.insert(key, value, 0)?;
        }
        Ok(())
    }

    fn prefixes_of_unpacking(&mut self, before: &Steering, now: &Steering) -> Result<()> {
        self.prefixes(map::DECAP4, map::DECAP6, &before.decap, &now.decap)
    }

    /// Empties all that the program remembers of flows.
    pub fn forget(&mut self) -> Result<()> {
        for set in 0..self.sets {
            self.array::<Flow4Set>(map::FLOWS4)?
                .set(set, Flow4Set::default(), 0)?;
            self.array::<Flow6Set>(map::FLOWS6)?
                .set(set, Flow6Set::default(), 0)?;
        }
        let mut nat = self.array::<NatEntry>(map::NAT)?;
        for index in 0..nat.len() {
            nat.set(index, NatEntry::default(), 0)?;
        }
        let map = self.ebpf.map_mut(map::FRAGMENTS).context(map::FRAGMENTS)?;
        let mut fragments: HashMap<_, FragmentKey, FragmentValue> = HashMap::try_from(map)?;
        let keys: Vec<_> = fragments.keys().collect::<Result<_, _>>()?;
        for key in keys {
            fragments.remove(&key)?;
        }
        Ok(())
    }

    /// A member's cell of `MEMBER_STATS`, summed over the CPUs.
    pub fn member_counter(&self, member: u16) -> Result<MemberCounter> {
        let map = self
            .ebpf
            .map(map::MEMBER_STATS)
            .context(map::MEMBER_STATS)?;
        let counters: PerCpuArray<_, MemberCounter> = PerCpuArray::try_from(map)?;
        Ok(counters.get(&u32::from(member), 0)?.iter().fold(
            MemberCounter::default(),
            |sum, cpu| MemberCounter {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
                flows: sum.flows + cpu.flows,
                by_ring: sum.by_ring + cpu.by_ring,
            },
        ))
    }
}
