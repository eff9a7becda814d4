//! The maps in ordinary memory: `lb_common::journey::Tables` for tests and fuzzing, written for
//! plainness and not for speed.
//!
//! Also compiled into lb-common's own tests and into the fuzz targets, so it uses nothing but the
//! standard library and lb-common.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::atomic::AtomicU64,
};

use lb_common::{
    abi::{MAX_SERVICES, SERVICE_SETS},
    addr::{Address, Be16},
    deny::{PrefixEntry, origin},
    journey::{List, Tables},
    limit::{Limit, LimitKind, ServiceLimits, SourceKey, Windows},
    service::{ServiceSet, ServiceWay, flag, kind, range_bit, service_set},
    settings::{Settings, gate},
    window::SharedWindows,
};

#[path = "model/steering.rs"]
mod steering;

pub use steering::{Buffer, Steering, forwarded, loopback_forwards, member, vip};

/// What the maps hold: the same for a [`Model`] and for a loaded program.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `gate::GUARD`.
    pub is_guarded: bool,
    /// Seed of the service table.
    pub seed: u64,
    /// Services.
    pub services: Vec<ServiceWay>,
    /// Denied prefixes.
    pub deny: Vec<Prefix>,
    /// Allowed prefixes.
    pub allow: Vec<Prefix>,
    /// Limits by service; 0 is the host.
    pub limits: Vec<(u16, ServiceLimits)>,
    /// Members, rings and how services forward.
    pub steering: Steering,
}

/// An entry of a prefix list.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    /// Its address, as the maps hold it.
    pub address: Address,
    /// 4 or 6.
    pub version: u8,
    /// Its length in its own family, bits.
    pub bits: u32,
    /// When it runs out, ns; 0: never.
    pub expires: u64,
}

impl Prefix {
    /// Reads `10.0.0.0/8`.
    #[must_use]
    pub fn new(text: &str, expires: u64) -> Self {
        let (address, bits) = text.split_once('/').expect("a test's prefix has a length");
        let address: IpAddr = address.parse().expect("a test's prefix has an address");
        Self {
            address: address.into(),
            version: if address.is_ipv4() { 4 } else { 6 },
            bits: bits.parse().expect("a length is a number"),
            expires,
        }
    }

    /// Its value in the trie.
    #[must_use]
    pub fn entry(&self) -> PrefixEntry {
        PrefixEntry {
            expires: self.expires,
            origin: origin::FILE,
            prefix: self.bits,
        }
    }

    /// Whether its bits are the first of `address`.
    pub(crate) fn covers(&self, version: u8, address: &Address) -> bool {
        if self.version != version {
            return false;
        }
        let skipped = if version == 4 { 96 } else { 0 };
        let shift = 128 - (self.bits + skipped);
        let cut = |a: &Address| u128::from_be_bytes(a.0).checked_shr(shift).unwrap_or(0);
        cut(&self.address) == cut(address)
    }
}

/// A local service, `id` 1 or more. `address` may be `*`.
#[must_use]
pub fn service(id: u16, address: &str, port: u16, proto: u8) -> ServiceWay {
    let address = if address == "*" {
        Address::ANY
    } else {
        address
            .parse::<IpAddr>()
            .expect("a test's address is right")
            .into()
    };
    ServiceWay {
        address,
        port: Be16::new(port),
        proto,
        kind: kind::LOCAL,
        id,
        ..Default::default()
    }
}

/// A limit of `packets` in a window longer than any test.
#[must_use]
pub fn limit(packets: u32, action: u8) -> Limit {
    Limit {
        window_ns: LONG_WINDOW,
        packets,
        rate: 1,
        action,
        prefix4: 32,
        prefix6: 64,
        ..Limit::default()
    }
}

/// 73 minutes: the longest window there may be, so that none ends within a test.
pub const LONG_WINDOW: u64 = 1 << 42;

impl Setup {
    /// A guarded host.
    #[must_use]
    pub fn guarded(services: &[ServiceWay]) -> Self {
        Self {
            is_guarded: true,
            seed: 7,
            services: services.to_vec(),
            ..Self::default()
        }
    }

    /// Sets one limit of a service as a whole.
    #[must_use]
    pub fn limit_service(mut self, id: u16, kind: LimitKind, limit: Limit) -> Self {
        self.limits_of(id).service[usize::from(kind.0)] = limit;
        self
    }

    /// Sets one limit of a service's sources.
    #[must_use]
    pub fn limit_source(mut self, id: u16, kind: LimitKind, limit: Limit) -> Self {
        self.limits_of(id).source[usize::from(kind.0)] = limit;
        self
    }

    fn limits_of(&mut self, id: u16) -> &mut ServiceLimits {
        for way in self.services.iter_mut().filter(|way| way.id == id) {
            way.flags |= flag::LIMITED;
        }
        let at = self
            .limits
            .iter()
            .position(|(of, _)| *of == id)
            .unwrap_or_else(|| {
                self.limits.push((id, ServiceLimits::default()));
                self.limits.len() - 1
            });
        &mut self.limits[at].1
    }

    /// Denies a prefix for good.
    #[must_use]
    pub fn deny(self, prefix: &str) -> Self {
        self.deny_until(prefix, 0)
    }

    /// Denies a prefix until `expires`, ns.
    #[must_use]
    pub fn deny_until(mut self, prefix: &str, expires: u64) -> Self {
        self.deny.push(Prefix::new(prefix, expires));
        self
    }

    /// Allows a prefix for good.
    #[must_use]
    pub fn allow(mut self, prefix: &str) -> Self {
        self.allow.push(Prefix::new(prefix, 0));
        self
    }

    /// `SETTINGS` as control would write them.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let has = |list: &[Prefix], version| list.iter().any(|prefix| prefix.version == version);
        let gates = [
            (gate::GUARD, self.is_guarded),
            (gate::DENY4, has(&self.deny, 4)),
            (gate::DENY6, has(&self.deny, 6)),
            (gate::ALLOW4, has(&self.allow, 4)),
            (gate::ALLOW6, has(&self.allow, 6)),
            (gate::LIMITS, self.limits.iter().any(|(id, _)| *id != 0)),
            (
                gate::ICMP_LIMITS,
                self.limits.iter().any(|(id, _)| *id == 0),
            ),
        ];
        let is = |wanted: &[u8]| self.services.iter().any(|way| wanted.contains(&way.kind));
        let steering = [
            (gate::STEER, is(&[kind::FORWARDED, kind::VIP])),
            (gate::DECAP, is(&[kind::DECAP])),
            (
                gate::RANGES,
                self.services.iter().any(|way| way.range != [0; 2]),
            ),
            (gate::FLOWS, self.steering.inserts > 0),
        ];
        let gates = gates
            .iter()
            .chain(&steering)
            .filter(|(_, on)| *on)
            .fold(0, |all, (bit, _)| all | bit);
        Settings {
            gates,
            service_seed: self.seed,
            flow_seed: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
            inserts: self.steering.inserts,
            promotions: self.steering.promotions,
            answers: self.steering.answers,
            range_filter: (self.services.iter())
                .filter(|way| way.range != [0; 2])
                .fold(0, |all, way| all | range_bit(way.address, way.proto)),
            ..Settings::default()
        }
    }

    /// The sets of `SERVICES` that hold something.
    #[must_use]
    pub fn sets(&self) -> HashMap<u32, ServiceSet> {
        let mut sets: HashMap<u32, ServiceSet> = HashMap::new();
        for way in &self.services {
            let set = service_set(way.address, way.port, way.proto, self.seed);
            assert!(set < SERVICE_SETS && u32::from(way.id) < MAX_SERVICES);
            let ways = &mut sets.entry(set).or_default().ways;
            *ways
                .iter_mut()
                .find(|way| way.id == 0)
                .expect("a test's sets do not overflow") = *way;
        }
        sets
    }
}

/// Windows that several holders share.
#[derive(Clone, Debug, Default)]
pub struct Shared(Rc<[AtomicU64; 2]>);

impl SharedWindows for Shared {
    fn load(&self, index: usize) -> u64 {
        self.0.load(index)
    }

    fn increment(&self, index: usize) {
        self.0.increment(index);
    }

    fn replace(&self, index: usize, old: u64, new: u64) -> bool {
        self.0.replace(index, old, new)
    }
}

/// The maps.
#[derive(Debug, Default)]
pub struct Model {
    /// The clock, ns.
    pub now: Cell<u64>,
    /// How often the clock was read.
    pub clock_reads: Cell<u32>,
    settings: Settings,
    setup: Setup,
    sets: HashMap<u32, ServiceSet>,
    limits: HashMap<u16, ServiceLimits>,
    windows: RefCell<HashMap<(u16, u8), Shared>>,
    sources: RefCell<HashMap<SourceKey, Shared>>,
    /// The flow clock.
    pub beat: Cell<u32>,
    tracked: steering::Tracked,
}

impl Model {
    /// Maps that hold `setup`.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self {
            now: Cell::new(LONG_WINDOW),
            settings: setup.settings(),
            setup: setup.clone(),
            sets: setup.sets(),
            limits: setup.limits.iter().copied().collect(),
            tracked: steering::Tracked::new(&setup.steering),
            ..Self::default()
        }
    }

    /// Sources that were entered.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.borrow().len()
    }
}

impl Tables for Model {
    type Windows<'a> = Shared;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn now(&self) -> u64 {
        self.clock_reads.set(self.clock_reads.get() + 1);
        self.now.get()
    }

    fn prefix(&self, list: List, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry> {
        let list = match list {
            List::Deny => &self.setup.deny,
            List::Allow => &self.setup.allow,
        };
        list.iter()
            .filter(|prefix| prefix.bits <= bits && prefix.covers(version, address))
            .max_by_key(|prefix| prefix.bits)
            .map(Prefix::entry)
    }

    fn service_set(&self, set: u32) -> Option<&ServiceSet> {
        static EMPTY: ServiceSet = ServiceSet {
            ways: [ServiceWay::EMPTY; 4],
        };
        Some(self.sets.get(&set).unwrap_or(&EMPTY))
    }

    fn limits(&self, service: u16) -> Option<&ServiceLimits> {
        self.limits.get(&service)
    }

    fn service_windows(&self, service: u16, kind: LimitKind) -> Option<Shared> {
        Some(
            self.windows
                .borrow_mut()
                .entry((service, kind.0))
                .or_default()
                .clone(),
        )
    }

    fn source_windows(&self, key: &SourceKey) -> Option<Shared> {
        self.sources.borrow().get(key).cloned()
    }

    fn add_source(&self, key: &SourceKey, windows: &Windows) {
        let words = windows.words.map(AtomicU64::new);
        self.sources
            .borrow_mut()
            .insert(*key, Shared(Rc::new(words)));
    }
}
