//! The pinned maps, read straight from the kernel by the layouts that lb-common publishes.
//!
//! What sluice says of itself is checked against this: neither its daemon nor its commands have a
//! part in it.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use lb_common::{
    abi::{MAX_MEMBERS, MAX_SERVICES, map},
    member::{MemberName, MemberSlot, MemberState},
    meta::Meta,
    verdict::{Action, Counter, Reason},
};

/// One member of the table, in words.
#[derive(Clone, Debug)]
pub struct MemberRow {
    /// Its id: the key in `MEMBERS`.
    pub id: u32,
    /// Balancer's name.
    pub balancer: String,
    /// URL as configured.
    pub url: String,
    /// `route=`.
    pub route: String,
    /// The whole slot.
    pub slot: MemberSlot,
}

impl MemberRow {
    /// Letters of the state bits that are set, in httpd's order.
    pub fn letters(&self) -> String {
        let state = MemberState(self.slot.head.state);
        MemberState::LETTERS
            .iter()
            .filter(|(_, bit)| state.has(*bit))
            .map(|(letter, _)| letter)
            .collect()
    }
}

/// How many packets met which end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdicts {
    rows: Vec<(Reason, u64)>,
}

impl Verdicts {
    /// Packets counted under a reason, over all services.
    pub fn of(&self, reason: Reason) -> u64 {
        self.rows
            .iter()
            .find(|(candidate, _)| *candidate == reason)
            .map_or(0, |(_, n)| *n)
    }

    /// Packets dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.rows
            .iter()
            .filter(|(r, _)| r.action() == Action::Drop)
            .map(|(_, n)| n)
            .sum()
    }

    /// Packets counted since `earlier`, by reason; those of which there were none are left out.
    pub fn since(&self, earlier: &Self) -> Vec<(Reason, u64)> {
        self.rows
            .iter()
            .map(|(reason, now)| (*reason, now.saturating_sub(earlier.of(*reason))))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }
}

/// Members that are in the table below `pins`.
pub fn members(pins: &Path) -> Result<Vec<MemberRow>> {
    let slots = Array::<_, MemberSlot>::try_from(open(pins, map::MEMBERS)?)?;
    let names = Array::<_, MemberName>::try_from(open(pins, map::NAMES)?)?;
    let mut rows = Vec::new();
    for id in 1..MAX_MEMBERS {
        let slot = slots.get(&id, 0)?;
        if slot.head.identity == [0; 2] {
            continue;
        }
        let name = names.get(&id, 0)?;
        rows.push(MemberRow {
            id,
            balancer: text(&name.balancer),
            url: text(&name.url),
            route: text(&name.route),
            slot,
        });
    }
    Ok(rows)
}

/// The member with this route.
pub fn member(pins: &Path, balancer: &str, route: &str) -> Result<MemberRow> {
    members(pins)?
        .into_iter()
        .find(|row| row.balancer == balancer && row.route == route)
        .with_context(|| format!("no member {route} of {balancer} below {}", pins.display()))
}

/// Packets by reason, over all services and CPUs.
pub fn verdicts(pins: &Path) -> Result<Verdicts> {
    let counters = PerCpuArray::<_, Counter>::try_from(open(pins, map::COUNTERS)?)?;
    let mut rows = Vec::new();
    for reason in Reason::ALL {
        let mut packets = 0;
        for service in 0..MAX_SERVICES {
            let cell = service * Reason::COUNT + u32::from(reason.0);
            packets += counters
                .get(&cell, 0)?
                .iter()
                .map(|counter| counter.packets)
                .sum::<u64>();
        }
        rows.push((*reason, packets));
    }
    Ok(Verdicts { rows })
}

/// What `META` says.
pub fn meta(pins: &Path) -> Result<Meta> {
    let map = Array::<_, Meta>::try_from(open(pins, map::META)?)?;
    Ok(map.get(&0, 0)?)
}

fn open(pins: &Path, name: &str) -> Result<Map> {
    let path = pins.join(name);
    let data = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Map::from_map_data(data)?)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
