//! The maps of steering that are mapped into this process: next hops, flows, rewritten connections.
//! Reading them is reading what the packet path writes at this moment: a flow that changes
//! meanwhile is left out.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use lb_common::{
    abi::MAX_MEMBERS,
    addr::Address,
    flow_table::{Entry, Flow4Key, State, WAYS},
    forward::{Hop, Link},
    member::MemberId,
    nat::NatEntry,
    send,
};

use crate::dataplane::{
    DataplaneError,
    sys::{Flow4Cell, Flow6Cell, HopCell, Mapping, NatCell, memory_file},
};

/// `HOPS`, `FLOWS4`, `FLOWS6` and `NAT`.
pub(in crate::dataplane) struct L4 {
    hops: Mapping<HopCell>,
    flows4: Mapping<Flow4Cell>,
    flows6: Mapping<Flow6Cell>,
    nat: Mapping<NatCell>,
}

/// A flow of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct Flow {
    pub(in crate::dataplane) source: SocketAddr,
    /// `None`: as its service is called.
    pub(in crate::dataplane) destination: Option<SocketAddr>,
    pub(in crate::dataplane) service: u16,
    pub(in crate::dataplane) entry: Entry,
}

impl L4 {
    /// Maps them; each with the number of its entries.
    pub(in crate::dataplane) fn of(
        hops: &(OwnedFd, usize),
        flows4: &(OwnedFd, usize),
        flows6: &(OwnedFd, usize),
        nat: &(OwnedFd, usize),
    ) -> Result<Self, DataplaneError> {
        let failed = |map| {
            move |source| DataplaneError::Map {
                map,
                what: "mapping",
                source,
            }
        };
        Ok(Self {
            hops: Mapping::of(hops.0.as_fd(), hops.1).map_err(failed("HOPS"))?,
            flows4: Mapping::of(flows4.0.as_fd(), flows4.1).map_err(failed("FLOWS4"))?,
            flows6: Mapping::of(flows6.0.as_fd(), flows6.1).map_err(failed("FLOWS6"))?,
            nat: Mapping::of(nat.0.as_fd(), nat.1).map_err(failed("NAT"))?,
        })
    }

    /// In memory of this process, where nothing is steered.
    pub(super) fn anonymous() -> Result<Self, DataplaneError> {
        let file = |map, entries: usize, size: usize| {
            let file = memory_file(map, (entries * size) as u64);
            file.map(|file| (file, entries))
                .map_err(|source| DataplaneError::Map {
                    map,
                    what: "creating memory for",
                    source,
                })
        };
        Self::of(
            &file("HOPS", MAX_MEMBERS as usize, size_of::<HopCell>())?,
            &file("FLOWS4", 1, size_of::<Flow4Cell>())?,
            &file("FLOWS6", 1, size_of::<Flow6Cell>())?,
            &file("NAT", 1, size_of::<NatCell>())?,
        )
    }

    /// Sets of `FLOWS4` and `FLOWS6`, entries of `NAT`.
    pub(in crate::dataplane) const fn sizes(&self) -> [usize; 3] {
        [self.flows4.len(), self.flows6.len(), self.nat.len()]
    }

    fn hop(&self, id: MemberId) -> Option<&HopCell> {
        self.hops.cell(id.0 as usize)
    }

    /// What control wrote down of the next hop to a member.
    pub(in crate::dataplane) fn given(&self, id: MemberId) -> Link {
        self.hop(id)
            .map_or_else(Link::default, |cell| link(&cell.given))
    }

    /// The one that the packet path uses until it asks anew.
    pub(in crate::dataplane) fn hop_in_use(&self, id: MemberId) -> Option<Link> {
        let hop = self.hop(id).map(|cell| Hop {
            given: link(&cell.given),
            learned: link(&cell.learned),
            ..Hop::default()
        })?;
        Some(send::known(&hop)).filter(Link::is_usable)
    }

    /// Writes the next hop to use while the kernel knows none.
    pub(in crate::dataplane) fn give_hop(&self, id: MemberId, hop: &Link) {
        let Some(cell) = self.hop(id) else { return };
        let mut tail = [0; 8];
        tail[..4].copy_from_slice(&hop.ifindex.to_ne_bytes());
        tail[4..].copy_from_slice(&hop.mtu.to_ne_bytes());
        // The destination last: its mark says that the rest counts.
        cell.given[1].store(u64::from_ne_bytes(hop.from), Relaxed);
        cell.given[2].store(u64::from_ne_bytes(tail), Relaxed);
        cell.given[0].store(u64::from_ne_bytes(hop.to), Release);
    }

    /// Of a slot that goes to another member.
    pub(super) fn forget_hop(&self, id: MemberId) {
        let Some(cell) = self.hop(id) else { return };
        for word in cell.given.iter().chain(&cell.learned) {
            word.store(0, Release);
        }
        cell.asked.store(0, Release);
    }

    /// Has the packet path ask the kernel for a member's next hop at its next packet.
    pub(in crate::dataplane) fn ask_anew(&self, id: MemberId) {
        if let Some(cell) = self.hop(id) {
            for word in &cell.learned {
                word.store(0, Release);
            }
            cell.asked.store(0, Release);
        }
    }

    /// Key and value of a way of `FLOWS4`.
    pub(in crate::dataplane) fn way4(&self, set: u32, way: usize) -> Option<&[AtomicU64; 2]> {
        self.flows4.cell(set as usize)?.ways.get(way)
    }

    /// Value of a way of `FLOWS6`; and its key: ports and service, source, destination.
    pub(in crate::dataplane) fn way6(&self, set: u32, way: usize) -> Option<(u64, [u64; 5])> {
        let set = self.flows6.cell(set as usize)?;
        let value = set.values.get(way)?.load(Acquire);
        let [a, b] = &set.sources[way];
        let [c, d] = &set.destinations[way];
        let words = [&set.tails[way], a, b, c, d].map(|word| word.load(Relaxed));
        Some((value, words))
    }

    /// Every flow of the tables.
    pub(in crate::dataplane) fn flows(&self) -> impl Iterator<Item = Flow> {
        let four = (0..self.flows4.len()).filter_map(|set| self.flows4.cell(set));
        let six = (0..self.flows6.len()).filter_map(|set| self.flows6.cell(set));
        let four = four.flat_map(|set| (0..WAYS).filter_map(|way| flow4(set, way)));
        let six = six.flat_map(|set| (0..WAYS).filter_map(|way| flow6(set, way)));
        four.chain(six)
    }

    /// Members with which some flow still is: one that did not end.
    pub(super) fn members_of_flows(&self) -> HashSet<u16> {
        let all = self.flows().chain(self.rewritten());
        let flows = all.filter(|flow| flow.entry.state() >= State::SEEN);
        flows.map(|flow| flow.entry.member()).collect()
    }

    /// Has the packet path find no flow of these services any more.
    pub(super) fn forget_flows(&self, services: &HashSet<u16>) {
        let of = |id: u64| services.contains(&(id as u16));
        for cell in (0..self.flows4.len()).filter_map(|set| self.flows4.cell(set)) {
            for [key, value] in &cell.ways {
                forget(value, || {
                    of(u64::from(Flow4Key::of_word(key.load(Relaxed)).service))
                });
            }
        }
        for cell in (0..self.flows6.len()).filter_map(|set| self.flows6.cell(set)) {
            for (tail, value) in cell.tails.iter().zip(&cell.values) {
                forget(value, || of(service_of(tail.load(Relaxed), 4)));
            }
        }
        for cell in (0..self.nat.len()).filter_map(|at| self.nat.cell(at)) {
            forget(&cell.words[0], || {
                of(service_of(cell.words[1].load(Relaxed), 6))
            });
        }
    }

    /// Flows of two services in the first set of `FLOWS6` and one of the second in `NAT`.
    #[cfg(test)]
    pub(in crate::dataplane) fn plant(&self, a: u16, b: u16, value: u64) {
        let cell = self.flows6.cell(0).expect("a set");
        for (way, service) in [a, b, a].into_iter().enumerate() {
            let [low, high] = service.to_ne_bytes();
            let tail = u64::from_ne_bytes([0, 1, 0, 2, low, high, 0, 0]);
            cell.tails[way].store(tail, Relaxed);
            cell.values[way].store(value, Relaxed);
        }
        let cell = self.nat.cell(0).expect("an entry");
        let [low, high] = b.to_ne_bytes();
        let ports = u64::from_ne_bytes([0, 1, 0, 2, 0, 3, low, high]);
        cell.words[1].store(ports, Relaxed);
        cell.words[0].store(value, Relaxed);
    }

    /// Every connection of `NAT`, as a flow.
    pub(in crate::dataplane) fn rewritten(&self) -> impl Iterator<Item = Flow> {
        self.connections().map(|is| {
            let end =
                |address: Address, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
            Flow {
                source: end(is.client, is.client_port),
                destination: Some(end(is.destination, is.service_port)),
                service: is.service,
                entry: Entry(is.value),
            }
        })
    }

    /// Every connection of `NAT`.
    pub(in crate::dataplane) fn connections(&self) -> impl Iterator<Item = NatEntry> {
        (0..self.nat.len()).filter_map(|at| {
            let cell = self.nat.cell(at)?;
            let before = cell.words[0].load(Acquire);
            let words: [u64; 8] = std::array::from_fn(|at| cell.words[at].load(Relaxed));
            if !is_flow(Entry(before)) || cell.words[0].load(Acquire) != before {
                return None;
            }
            let ports = words[1].to_ne_bytes();
            let port = |at: usize| [ports[at], ports[at + 1]];
            let [seen, ifindex @ .., _, _, _, _] = words[6].to_ne_bytes();
            Some(NatEntry {
                value: before,
                client_port: port(0),
                service_port: port(2),
                our_port: port(4),
                service: u16::from_ne_bytes(port(6)),
                client: address(words[2], words[3]),
                destination: address(words[4], words[5]),
                seen,
                ifindex,
                ..NatEntry::default()
            })
        })
    }
}

fn link(words: &[AtomicU64; 3]) -> Link {
    let to = words[0].load(Acquire).to_ne_bytes();
    let from = words[1].load(Relaxed).to_ne_bytes();
    let tail = words[2].load(Relaxed).to_ne_bytes();
    let [ifindex, mtu] =
        [0, 4].map(|at| u32::from_ne_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]));
    Link {
        to,
        from,
        ifindex,
        mtu,
    }
}

/// Empties a place whose key is one of those meant, as the packet path would: by compare-and-swap,
/// the mark of overflow left.
fn forget(value: &AtomicU64, is_meant: impl Fn() -> bool) {
    loop {
        let was = value.load(Acquire);
        if Entry(was).state() == State::EMPTY || !is_meant() {
            return;
        }
        let empty = was & Entry::OVERFLOWED;
        if value.compare_exchange(was, empty, Release, Relaxed).is_ok() {
            return;
        }
    }
}

/// Two bytes of a word, as they lie in memory.
fn service_of(word: u64, at: usize) -> u64 {
    let bytes = word.to_ne_bytes();
    u64::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]))
}

/// Whether the value is that of a flow, and not of a free or half-written place.
fn is_flow(entry: Entry) -> bool {
    entry.state() > State::FILLING
}

fn address(high: u64, low: u64) -> Address {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_ne_bytes());
    bytes[8..].copy_from_slice(&low.to_ne_bytes());
    Address(bytes)
}

fn ip(high: u64, low: u64) -> IpAddr {
    address(high, low).into()
}

fn flow4(set: &Flow4Cell, way: usize) -> Option<Flow> {
    let [key, value] = set.ways.get(way)?;
    let entry = Entry(value.load(Acquire));
    let word = key.load(Relaxed);
    if !is_flow(entry) || Entry(value.load(Acquire)).tag() != entry.tag() {
        return None;
    }
    let key = Flow4Key::of_word(word);
    Some(Flow {
        source: SocketAddr::from((key.source.to_ne_bytes(), u16::from_be(key.port))),
        destination: None,
        service: key.service,
        entry,
    })
}

fn flow6(set: &Flow6Cell, way: usize) -> Option<Flow> {
    let value = set.values.get(way)?;
    let entry = Entry(value.load(Acquire));
    let tail = set.tails[way].load(Relaxed).to_ne_bytes();
    let address = |words: &[AtomicU64; 2]| ip(words[0].load(Relaxed), words[1].load(Relaxed));
    let (source, destination) = (address(&set.sources[way]), address(&set.destinations[way]));
    if !is_flow(entry) || Entry(value.load(Acquire)).tag() != entry.tag() {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([tail[at], tail[at + 1]]);
    Some(Flow {
        source: SocketAddr::new(source, port(0)),
        destination: Some(SocketAddr::new(destination, port(2))),
        service: u16::from_ne_bytes([tail[4], tail[5]]),
        entry,
    })
}
