//! The kernel's maps one by one: what is mapped goes to the store, the rest is reached by system
//! calls from here.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
    pin::PinError,
    util::nr_cpus,
};
use lb_common::{
    abi::map,
    capture::Capture,
    deny::PrefixEntry,
    forward::{Forward, MemberCounter},
    limit::{ServiceLimits, ServiceWindows},
    maglev::SLOTS,
    member::{MemberId, MemberName},
    meta::Meta,
    quic::{ServerIdKey, ServerIdValue},
    ring::RING_ROWS,
    settings::Settings,
    verdict::{Counter, Reason},
};

use super::{
    DataplaneError,
    prefix::{List, PrefixKey},
    store::{L4, Rest, Row, Store},
    sys,
};

/// Puts a store together of maps that `take` hands over by name.
pub(super) fn store(
    mut take: impl FnMut(&'static str) -> Result<Option<Map>, DataplaneError>,
) -> Result<Store, DataplaneError> {
    let mut of = |name: &'static str| {
        take(name)?.ok_or(DataplaneError::Map {
            map: name,
            what: "finding",
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    };
    let meta = descriptor(map::META, of(map::META)?)?;
    let members = descriptor(map::MEMBERS, of(map::MEMBERS)?)?;
    let busy = descriptor(map::BUSY, of(map::BUSY)?)?;
    let services = descriptor(map::SERVICES, of(map::SERVICES)?)?;
    let rest = Maps {
        names: typed(map::NAMES, of(map::NAMES)?)?,
        limits: typed(map::LIMITS, of(map::LIMITS)?)?,
        windows: typed(map::WINDOWS, of(map::WINDOWS)?)?,
        counters: typed(map::COUNTERS, of(map::COUNTERS)?)?,
        forwards: typed(map::FORWARD, of(map::FORWARD)?)?,
        member_stats: typed(map::MEMBER_STATS, of(map::MEMBER_STATS)?)?,
        rings: descriptor(map::RINGS, of(map::RINGS)?)?,
        capture: typed(map::CAPTURE, of(map::CAPTURE)?)?,
        server_ids: typed(map::SERVER_IDS, of(map::SERVER_IDS)?)?,
        settings: typed(map::SETTINGS, of(map::SETTINGS)?)?,
        four: [
            (List::Deny, typed(map::DENY4, of(map::DENY4)?)?),
            (List::Allow, typed(map::ALLOW4, of(map::ALLOW4)?)?),
            (List::Decap, typed(map::DECAP4, of(map::DECAP4)?)?),
        ],
        six: [
            (List::Deny, typed(map::DENY6, of(map::DENY6)?)?),
            (List::Allow, typed(map::ALLOW6, of(map::ALLOW6)?)?),
            (List::Decap, typed(map::DECAP6, of(map::DECAP6)?)?),
        ],
    };
    let l4 = L4::of(
        &sized(map::HOPS, of(map::HOPS)?)?,
        &sized(map::FLOWS4, of(map::FLOWS4)?)?,
        &sized(map::FLOWS6, of(map::FLOWS6)?)?,
        &sized(map::NAT, of(map::NAT)?)?,
    )?;
    Store::of(members, busy, services, meta, l4, Box::new(rest))
}

fn typed<T>(name: &'static str, map: Map) -> Result<T, DataplaneError>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(map).map_err(|error| map_error(name, "opening", error))
}

/// A map's descriptor, on its own.
fn descriptor(name: &'static str, map: Map) -> Result<OwnedFd, DataplaneError> {
    let (Map::Array(data) | Map::ArrayOfMaps(data)) = map else {
        return Err(DataplaneError::Map {
            map: name,
            what: "opening",
            source: io::Error::from(io::ErrorKind::InvalidData),
        });
    };
    (data.fd().as_fd().try_clone_to_owned()).map_err(|source| DataplaneError::Map {
        map: name,
        what: "opening",
        source,
    })
}

/// A map's descriptor and the number of its entries.
fn sized(name: &'static str, map: Map) -> Result<(OwnedFd, usize), DataplaneError> {
    let entries = match &map {
        Map::Array(data) => data.info().map_err(reading(name))?.max_entries(),
        _ => 0,
    };
    Ok((descriptor(name, map)?, entries as usize))
}

/// Writes the only entry of a `META` that nobody else sees yet.
pub(super) fn write_meta(ebpf: &mut Ebpf, meta: &Meta) -> Result<(), DataplaneError> {
    let map = ebpf.map_mut(map::META).ok_or(DataplaneError::Map {
        map: map::META,
        what: "finding",
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    let failed = |error| map_error(map::META, "writing", error);
    let mut array = Array::<_, Meta>::try_from(map).map_err(failed)?;
    array.set(0, meta, 0).map_err(failed)
}

/// Reads the only entry of `META`.
pub(super) fn read_meta(data: MapData) -> Result<Meta, DataplaneError> {
    let failed = |error| map_error(map::META, "reading", error);
    let map = Map::from_map_data(data).map_err(failed)?;
    let array = Array::<_, Meta>::try_from(map).map_err(failed)?;
    array.get(&0, 0).map_err(failed)
}

/// What is behind a map error.
pub(super) fn map_error(map: &'static str, what: &'static str, error: MapError) -> DataplaneError {
    let source = match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        MapError::KeyNotFound | MapError::ElementNotFound => {
            io::Error::from(io::ErrorKind::NotFound)
        }
        error => io::Error::other(error),
    };
    DataplaneError::Map { map, what, source }
}

/// What is behind a pin error.
pub(super) fn pin_error(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}

type Trie<const N: usize> = LpmTrie<MapData, [u8; N], PrefixEntry>;

/// Maps that are not mapped into memory.
struct Maps {
    names: Array<MapData, MemberName>,
    limits: Array<MapData, ServiceLimits>,
    windows: Array<MapData, ServiceWindows>,
    counters: PerCpuArray<MapData, Counter>,
    forwards: Array<MapData, Forward>,
    member_stats: PerCpuArray<MapData, MemberCounter>,
    rings: OwnedFd,
    capture: Array<MapData, Capture>,
    server_ids: HashMap<MapData, ServerIdKey, ServerIdValue>,
    settings: Array<MapData, Settings>,
    four: [(List, Trie<4>); 3],
    six: [(List, Trie<16>); 3],
}

fn reading(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| map_error(map, "reading", error)
}

fn writing(map: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| map_error(map, "writing", error)
}

/// Cells of a service's row.
fn cells(service: u16) -> impl Iterator<Item = u32> {
    let first = u32::from(service) * Reason::COUNT;
    first..first + Reason::COUNT
}

/// Writes or removes one prefix.
fn set<const N: usize>(
    tries: &mut [(List, Trie<N>)],
    key: &PrefixKey,
    octets: [u8; N],
    entry: Option<PrefixEntry>,
) -> Result<(), DataplaneError> {
    let Some((_, trie)) = tries.iter_mut().find(|(list, _)| *list == key.list) else {
        return Ok(());
    };
    let at = Key::new(u32::from(key.len), octets);
    let done = match entry {
        Some(entry) => trie.insert(&at, entry, 0),
        None => trie.remove(&at),
    };
    match done.map_err(writing(key.map())) {
        Err(DataplaneError::Map { source, .. })
            if entry.is_none() && source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Every entry of a pair of tries.
fn entries<const N: usize>(
    tries: &[(List, Trie<N>)],
    of: impl Fn([u8; N]) -> IpAddr,
    out: &mut BTreeMap<PrefixKey, PrefixEntry>,
) -> Result<(), DataplaneError> {
    for (list, trie) in tries {
        for entry in trie {
            let (key, value) = entry.map_err(reading(match list {
                List::Deny => "DENY",
                List::Allow => "ALLOW",
                List::Decap => "DECAP",
            }))?;
            out.insert(
                PrefixKey {
                    list: *list,
                    network: of(key.data()),
                    len: key.prefix_len().min(128) as u8,
                },
                value,
            );
        }
    }
    Ok(())
}

fn ring_failed(what: &'static str) -> impl Fn(io::Error) -> DataplaneError {
    move |source| DataplaneError::Map {
        map: map::RINGS,
        what,
        source,
    }
}

/// A ring that nobody reads yet.
fn new_ring(slots: &[u16; SLOTS]) -> Result<OwnedFd, DataplaneError> {
    let made = sys::array_create(RING_ROWS).map_err(ring_failed("making a ring for"))?;
    let mut rows = vec![0u64; RING_ROWS as usize];
    for (row, slots) in rows.iter_mut().zip(slots.chunks(4)) {
        let mut bytes = [0; 8];
        for (to, slot) in bytes.chunks_exact_mut(2).zip(slots) {
            to.copy_from_slice(&slot.to_ne_bytes());
        }
        *row = u64::from_ne_bytes(bytes);
    }
    sys::map_write_all(made.as_fd(), &rows).map_err(ring_failed("filling a ring of"))?;
    Ok(made)
}

impl Rest for Maps {
    fn name(&self, id: MemberId) -> Result<MemberName, DataplaneError> {
        self.names.get(&id.0, 0).map_err(reading(map::NAMES))
    }

    fn set_name(&mut self, id: MemberId, name: &MemberName) -> Result<(), DataplaneError> {
        (self.names.set(id.0, name, 0)).map_err(writing(map::NAMES))
    }

    fn limits(&self, service: u16) -> Result<ServiceLimits, DataplaneError> {
        (self.limits.get(&u32::from(service), 0)).map_err(reading(map::LIMITS))
    }

    fn set_limits(&mut self, service: u16, limits: &ServiceLimits) -> Result<(), DataplaneError> {
        (self.limits.set(u32::from(service), limits, 0)).map_err(writing(map::LIMITS))
    }

    fn settings(&self) -> Result<Settings, DataplaneError> {
        self.settings.get(&0, 0).map_err(reading(map::SETTINGS))
    }

    fn set_settings(&mut self, settings: &Settings) -> Result<(), DataplaneError> {
        (self.settings.set(0, settings, 0)).map_err(writing(map::SETTINGS))
    }

    fn prefixes(&self) -> Result<BTreeMap<PrefixKey, PrefixEntry>, DataplaneError> {
        let mut out = BTreeMap::new();
        entries(&self.four, IpAddr::from, &mut out)?;
        entries(&self.six, IpAddr::from, &mut out)?;
        Ok(out)
    }

    fn set_prefix(
        &mut self,
        key: &PrefixKey,
        entry: Option<PrefixEntry>,
    ) -> Result<(), DataplaneError> {
        match key.network {
            IpAddr::V4(ip) => set(&mut self.four, key, ip.octets(), entry),
            IpAddr::V6(ip) => set(&mut self.six, key, ip.octets(), entry),
        }
    }

    fn counters(&self, service: u16) -> Result<Row, DataplaneError> {
        let mut row = [Counter::default(); Reason::COUNT as usize];
        for (sum, cell) in row.iter_mut().zip(cells(service)) {
            let values = self
                .counters
                .get(&cell, 0)
                .map_err(reading(map::COUNTERS))?;
            for value in values.iter() {
                sum.packets += value.packets;
                sum.bytes += value.bytes;
            }
        }
        Ok(row)
    }

    fn clear_traffic(&mut self, service: u16) -> Result<(), DataplaneError> {
        (self.windows)
            .set(u32::from(service), ServiceWindows::default(), 0)
            .map_err(writing(map::WINDOWS))?;
        let failed = |source| DataplaneError::Map {
            map: map::COUNTERS,
            what: "writing",
            source,
        };
        let cpus = nr_cpus().map_err(|(_, source)| failed(source))?;
        for cell in cells(service) {
            let zeroes = PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(failed)?;
            (self.counters.set(cell, zeroes, 0)).map_err(writing(map::COUNTERS))?;
        }
        Ok(())
    }

    fn forward(&self, service: u16) -> Result<Forward, DataplaneError> {
        (self.forwards.get(&u32::from(service), 0)).map_err(reading(map::FORWARD))
    }

    fn set_forward(&mut self, service: u16, forward: &Forward) -> Result<(), DataplaneError> {
        (self.forwards.set(u32::from(service), forward, 0)).map_err(writing(map::FORWARD))
    }

    fn server_ids(
        &self,
    ) -> Result<std::collections::HashMap<ServerIdKey, ServerIdValue>, DataplaneError> {
        let entries = self.server_ids.iter();
        entries
            .map(|entry| entry.map_err(reading(map::SERVER_IDS)))
            .collect()
    }

    fn set_server_id(
        &mut self,
        key: &ServerIdKey,
        value: Option<ServerIdValue>,
    ) -> Result<(), DataplaneError> {
        let done = match value {
            Some(value) => self.server_ids.insert(key, value, 0),
            None => self.server_ids.remove(key),
        };
        match done.map_err(writing(map::SERVER_IDS)) {
            Err(DataplaneError::Map { source, .. })
                if value.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn set_rings(&mut self, rings: &[(u16, &[u16; SLOTS])]) -> (usize, Result<(), DataplaneError>) {
        let (mut made, mut done) = (Vec::with_capacity(rings.len()), Ok(()));
        for (ring, slots) in rings {
            match new_ring(slots) {
                Ok(map) => made.push((u32::from(*ring), map)),
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        let (put, all) = sys::inner_put_all(self.rings.as_fd(), &made);
        (put, all.map_err(ring_failed("writing")).and(done))
    }

    fn remove_ring(&mut self, ring: u16) -> Result<(), DataplaneError> {
        let removed = sys::map_delete(self.rings.as_fd(), u32::from(ring));
        removed.map_err(ring_failed("removing from"))
    }

    fn ring(&self, ring: u16) -> Result<Option<Vec<u16>>, DataplaneError> {
        let failed = ring_failed("reading");
        let Some(found) = sys::inner_of(self.rings.as_fd(), u32::from(ring)).map_err(&failed)?
        else {
            return Ok(None);
        };
        let rows = sys::map_read_all(found.as_fd(), RING_ROWS).map_err(&failed)?;
        let slots = rows.iter().flat_map(|row| {
            let bytes = row.to_ne_bytes();
            [0, 2, 4, 6].map(|at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]))
        });
        Ok(Some(slots.take(SLOTS).collect()))
    }

    fn member_counter(&self, id: MemberId) -> Result<MemberCounter, DataplaneError> {
        let values = (self.member_stats.get(&id.0, 0)).map_err(reading(map::MEMBER_STATS))?;
        let mut sum = MemberCounter::default();
        for value in values.iter() {
            sum.packets += value.packets;
            sum.bytes += value.bytes;
            sum.flows += value.flows;
            sum.by_ring += value.by_ring;
        }
        Ok(sum)
    }

    fn set_capture(&mut self, capture: &Capture) -> Result<(), DataplaneError> {
        self.capture
            .set(0, capture, 0)
            .map_err(writing(map::CAPTURE))
    }

    fn clear_member(&mut self, id: MemberId) -> Result<(), DataplaneError> {
        let failed = |source| DataplaneError::Map {
            map: map::MEMBER_STATS,
            what: "writing",
            source,
        };
        let cpus = nr_cpus().map_err(|(_, source)| failed(source))?;
        let zeroes =
            PerCpuValues::try_from(vec![MemberCounter::default(); cpus]).map_err(failed)?;
        (self.member_stats.set(id.0, zeroes, 0)).map_err(writing(map::MEMBER_STATS))
    }
}
