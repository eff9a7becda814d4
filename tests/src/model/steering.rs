//! The maps of steering in ordinary memory.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

use lb_common::{
    addr::Address,
    detour::Detours,
    flow_table::{Flow4Key, Flow6Key, WAYS},
    forward::{Forward, Hop, Link},
    fragment::{FragmentKey, FragmentValue},
    frame::{Edit, Frame},
    journey::{self, Outcome},
    member::MemberHead,
    nat::NatEntry,
    parse::parse,
    quic::{ServerIdKey, ServerIdValue},
    ring::{RING_SLOTS, RingRow},
    send::SendTables,
    service::{ServiceWay, kind},
    steer::{FlowSet, Spend, SteerTables},
    verdict::Reason,
};

use super::{Model, Setup, service};

/// Members, rings and how services forward.
#[derive(Clone, Debug)]
pub struct Steering {
    /// By service id.
    pub forward: Vec<(u16, Forward)>,
    /// By balancer: the members that its ring names, in turn.
    pub rings: Vec<(u16, Vec<u16>)>,
    /// By id.
    pub members: Vec<(u16, MemberHead)>,
    /// By member id.
    pub hops: Vec<(u16, Link)>,
    /// Server ids.
    pub server_ids: Vec<(ServerIdKey, ServerIdValue)>,
    /// Prefixes that may send encapsulated packets.
    pub decap: Vec<super::Prefix>,
    /// Sets of each flow table; a power of two.
    pub sets: u32,
    /// Entries of the table of rewritten connections; a power of two.
    pub nat: u32,
    /// `Settings::inserts`; 0: no flows are kept.
    pub inserts: u32,
    /// `Settings::promotions`.
    pub promotions: u32,
    /// `Settings::answers`.
    pub answers: u32,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            forward: Vec::new(),
            rings: Vec::new(),
            members: Vec::new(),
            hops: Vec::new(),
            server_ids: Vec::new(),
            decap: Vec::new(),
            sets: 1024,
            nat: 4096,
            inserts: 1_000_000,
            promotions: 1_000_000,
            answers: 1_000_000,
        }
    }
}

impl Steering {
    /// The rows of a ring whose slots name `members` in turn.
    #[must_use]
    pub fn rows(members: &[u16]) -> Vec<RingRow> {
        let mut slots: Vec<u16> = members
            .iter()
            .copied()
            .cycle()
            .take(if members.is_empty() {
                0
            } else {
                RING_SLOTS as usize
            })
            .collect();
        slots.resize((RING_SLOTS as usize).next_multiple_of(4), 0);
        slots
            .chunks(4)
            .map(|four| RingRow([four[0], four[1], four[2], four[3]]))
            .collect()
    }
}

/// A forwarded service of `balancer`.
#[must_use]
pub fn forwarded(id: u16, address: &str, port: u16, proto: u8, balancer: u16) -> ServiceWay {
    ServiceWay {
        kind: kind::FORWARDED,
        balancer,
        ..service(id, address, port, proto)
    }
}

/// The address of forwarded services.
#[must_use]
pub fn vip(id: u16, address: &str, flags: u32) -> ServiceWay {
    ServiceWay {
        kind: kind::VIP,
        flags,
        ..service(id, address, 0, 0)
    }
}

/// A member of balancer 1 in good health, and the next hop to it.
#[must_use]
pub fn member(id: u16, address: &str, port: u16) -> ((u16, MemberHead), (u16, Link)) {
    let address: IpAddr = address.parse().expect("a test's address is right");
    let head = MemberHead {
        identity: [u64::from(id), 1],
        address: Address::from(address).0,
        port: port.to_be_bytes(),
        balancer: 1,
        incarnation: 1,
        ..MemberHead::default()
    };
    let [high, low] = id.to_be_bytes();
    let mut link = Link::new([2, 0, 0, 1, high, low], [2, 0, 0, 0, 0, 1], 0, 1500);
    // There are no routes to ask in a test.
    link.to[7] = 1;
    ((id, head), (id, link))
}

/// A frame with room in front of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Buffer {
    room: usize,
    /// The frame.
    pub bytes: Vec<u8>,
}

impl Buffer {
    /// A frame as XDP gets it: with 256 bytes of room.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            room: 256,
            bytes: bytes.to_vec(),
        }
    }
}

impl Frame for Buffer {
    fn read<const N: usize>(&self, off: usize) -> Option<[u8; N]> {
        self.bytes.as_slice().read(off)
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn total_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Edit for Buffer {
    fn write<const N: usize>(&mut self, off: usize, bytes: [u8; N]) -> Option<()> {
        self.read::<N>(off)?;
        self.bytes[off..off + N].copy_from_slice(&bytes);
        Some(())
    }

    fn push(&mut self, bytes: usize) -> Option<()> {
        self.room = self.room.checked_sub(bytes)?;
        self.bytes.splice(0..0, std::iter::repeat_n(0xa5, bytes));
        Some(())
    }

    fn pull(&mut self, bytes: usize) -> Option<()> {
        if self.bytes.len() < bytes + 14 {
            return None;
        }
        self.room += bytes;
        self.bytes.drain(..bytes);
        Some(())
    }

    fn resize(&mut self, bytes: usize) -> Option<()> {
        if bytes < 14 {
            return None;
        }
        self.bytes.resize(bytes, 0);
        Some(())
    }
}

/// Whether this host would send on what comes in by its loopback interface.
#[must_use]
pub fn loopback_forwards() -> bool {
    ["ipv4", "ipv6"].iter().any(|family| {
        let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    })
}

/// What was sent to a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sent {
    packets: u64,
    bytes: u64,
}

/// What steering remembers.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    setup: Steering,
    rings: HashMap<u16, Rc<[RingRow]>>,
    four: RefCell<HashMap<u32, [(Flow4Key, u64); WAYS]>>,
    six: RefCell<HashMap<u32, [(Flow6Key, u64); WAYS]>>,
    spent: RefCell<HashMap<u8, (u32, u32)>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    nat: RefCell<HashMap<u32, NatEntry>>,
    sent: RefCell<HashMap<u16, Sent>>,
    routes_asked: Cell<u32>,
}

/// [`Steering::rows`], made once for all models of a thread: tests make thousands of them.
fn rows_once(members: &[u16]) -> Rc<[RingRow]> {
    thread_local! {
        static MADE: RefCell<HashMap<Vec<u16>, Rc<[RingRow]>>> = RefCell::default();
    }
    MADE.with_borrow_mut(|made| {
        let rows = made.entry(members.to_vec());
        Rc::clone(rows.or_insert_with(|| Steering::rows(members).into()))
    })
}

impl Tracked {
    pub(super) fn new(setup: &Steering) -> Self {
        Self {
            rings: setup
                .rings
                .iter()
                .map(|(balancer, members)| (*balancer, rows_once(members)))
                .collect(),
            setup: setup.clone(),
            ..Self::default()
        }
    }
}

/// A set of a flow table.
#[derive(Debug)]
pub struct Set<'a, K> {
    sets: &'a RefCell<HashMap<u32, [(K, u64); WAYS]>>,
    set: u32,
}

impl<K: Copy + Default + PartialEq> Set<'_, K> {
    fn way<R>(&self, way: usize, f: impl FnOnce(&mut (K, u64)) -> R) -> R {
        f(&mut self.sets.borrow_mut().entry(self.set).or_default()[way])
    }
}

impl<K: Copy + Default + PartialEq> FlowSet<K> for Set<'_, K> {
    fn value(&self, way: usize) -> u64 {
        self.way(way, |(_, value)| *value)
    }

    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        self.way(way, |(_, value)| {
            let is = *value == old;
            if is {
                *value = new;
            }
            is
        })
    }

    fn is(&self, way: usize, key: &K) -> bool {
        self.way(way, |(k, _)| k == key)
    }

    fn fill(&self, way: usize, key: &K) {
        self.way(way, |(k, _)| *k = *key);
    }
}

fn of<T: Copy>(list: &[(u16, T)], id: u16) -> Option<T> {
    list.iter().find(|(of, _)| *of == id).map(|(_, t)| *t)
}

impl SteerTables for Model {
    type Set4<'a> = Set<'a, Flow4Key>;
    type Set6<'a> = Set<'a, Flow6Key>;

    fn forward(&self, service: u16) -> Option<&Forward> {
        static NONE: Forward = Forward {
            seed: 0,
            source6: [0; 16],
            source4: [0; 4],
            balancer: 0,
            mode: 0,
            hash: 0,
            on_empty: 0,
            dscp: 0,
            quic_len: 0,
            pad: 0,
            mtu: 0,
            gue_port: [0; 2],
            tcp_idle: 0,
            udp_idle: 0,
            nat_first: 0,
            nat_ports: 0,
            reserved: [0; 16],
        };
        let found = self
            .tracked
            .setup
            .forward
            .iter()
            .find(|(id, _)| *id == service);
        Some(found.map_or(&NONE, |(_, forward)| forward))
    }

    fn ring_row(&self, balancer: u16, row: u32) -> Option<RingRow> {
        self.tracked
            .rings
            .get(&balancer)?
            .get(row as usize)
            .copied()
    }

    fn member(&self, id: u16) -> Option<&MemberHead> {
        static NONE: MemberHead = MemberHead {
            identity: [0; 2],
            state: 0,
            address: [0; 16],
            incarnation: 0,
            weight: 0,
            balancer: 0,
            port: [0; 2],
            lbset: 0,
            pad: 0,
            mac: [0; 6],
        };
        let members = &self.tracked.setup.members;
        Some(
            members
                .iter()
                .find(|(of, _)| *of == id)
                .map_or(&NONE, |(_, head)| head),
        )
    }

    fn mask4(&self) -> u32 {
        self.tracked.setup.sets - 1
    }

    fn mask6(&self) -> u32 {
        self.tracked.setup.sets - 1
    }

    fn set4(&self, set: u32) -> Option<Self::Set4<'_>> {
        Some(Set {
            sets: &self.tracked.four,
            set,
        })
    }

    fn set6(&self, set: u32) -> Option<Self::Set6<'_>> {
        Some(Set {
            sets: &self.tracked.six,
            set,
        })
    }

    fn beat(&self) -> u32 {
        self.beat.get()
    }

    fn spend(&self, what: Spend, limit: u32, beat: u32) -> bool {
        let mut spent = self.tracked.spent.borrow_mut();
        let (of, count) = spent.entry(what as u8).or_default();
        if *of != beat {
            (*of, *count) = (beat, 0);
        }
        let left = *count < limit;
        *count += u32::from(left);
        left
    }

    fn is_spent(&self, what: Spend, limit: u32, beat: u32) -> bool {
        let spent = self.tracked.spent.borrow();
        spent
            .get(&(what as u8))
            .is_some_and(|(of, count)| *of == beat && *count >= limit)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.tracked.fragments.borrow().get(key).copied()
    }

    fn add_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.tracked.fragments.borrow_mut().insert(*key, *value);
    }

    fn server_id(&self, key: &ServerIdKey) -> Option<ServerIdValue> {
        let ids = &self.tracked.setup.server_ids;
        ids.iter().find(|(k, _)| k == key).map(|(_, value)| *value)
    }

    fn count_member(&self, member: u16, bytes: u64, _: Reason) {
        let mut sent = self.tracked.sent.borrow_mut();
        let sent = sent.entry(member).or_default();
        sent.packets += 1;
        sent.bytes += bytes;
    }
}

impl SendTables for Model {
    fn hop(&self, member: u16) -> Option<Hop> {
        let given = of(&self.tracked.setup.hops, member).unwrap_or_default();
        Some(Hop {
            given,
            ..Hop::default()
        })
    }

    fn ask_route(&self, _: u16, _: &Address, _: u32) {
        self.tracked
            .routes_asked
            .set(self.tracked.routes_asked.get() + 1);
    }

    fn nat_mask(&self) -> u32 {
        self.tracked.setup.nat - 1
    }

    fn may_encapsulate(&self, version: u8, source: &Address) -> bool {
        let prefixes = &self.tracked.setup.decap;
        prefixes.iter().any(|prefix| prefix.covers(version, source))
    }

    /// As for a packet that came in by the loopback interface, which is where the kernel runs tests.
    fn is_local(&self, address: &Address) -> bool {
        let ip: IpAddr = (*address).into();
        ip.is_loopback() || !loopback_forwards()
    }

    fn ingress(&self) -> u32 {
        0
    }

    fn nat(&self, index: u32) -> Option<NatEntry> {
        Some(
            self.tracked
                .nat
                .borrow()
                .get(&index)
                .copied()
                .unwrap_or_default(),
        )
    }

    fn replace_nat(&self, index: u32, old: u64, new: u64) -> bool {
        let mut entries = self.tracked.nat.borrow_mut();
        let entry = entries.entry(index).or_default();
        let is = entry.value == old;
        if is {
            entry.value = new;
        }
        is
    }

    fn fill_nat(&self, index: u32, entry: &NatEntry) {
        let mut entries = self.tracked.nat.borrow_mut();
        let to = entries.entry(index).or_default();
        *to = NatEntry {
            value: to.value,
            ..*entry
        };
    }

    fn mark_nat(&self, index: u32, seen: u8) {
        self.tracked.nat.borrow_mut().entry(index).or_default().seen |= seen;
    }
}

impl Detours<Buffer> for Model {}

impl Model {
    /// Members and rings as `setup` has them; what is remembered of flows stays.
    pub fn turn_to(&mut self, setup: &Setup) {
        let new = Tracked::new(&setup.steering);
        (self.tracked.setup, self.tracked.rings) = (new.setup, new.rings);
    }

    /// Has a frame travel: how it left, and its bytes then.
    #[must_use]
    pub fn travel(&self, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let mut buffer = Buffer::new(frame);
        let outcome = journey::travel(&mut buffer, &parse(frame), self);
        (outcome, buffer.bytes)
    }

    /// The same by the long way.
    #[must_use]
    pub fn travel_slowly(&self, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let mut buffer = Buffer::new(frame);
        let outcome = journey::travel_slowly(&mut buffer, &parse(frame), self);
        (outcome, buffer.bytes)
    }

    /// Packets that were sent to a member, as counted.
    #[must_use]
    pub fn sent(&self, member: u16) -> u64 {
        let sent = self.tracked.sent.borrow();
        sent.get(&member).map_or(0, |sent| sent.packets)
    }
}
