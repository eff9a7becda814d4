//! Where a packet would go, and why: the packet path's own code over the pinned maps, with every
//! write left out. Limits are named, not counted.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use lb_common::{
    abi::{MAX_MEMBERS, MAX_SERVICES, SERVICE_SETS},
    addr::Address,
    deny::PrefixEntry,
    flow::{Flow, slot},
    flow_table::{Entry, Flow4Key, Flow6Key, State},
    forward::{Forward, hash_kind},
    fragment::{FragmentKey, FragmentValue},
    guard::Limited,
    journey::{self, List, Tables, Then},
    limit::{LimitKind, ServiceLimits, SourceKey, Windows},
    member::{MemberHead, MemberId},
    parse::{Headers, parse},
    quic::{ServerIdKey, ServerIdValue},
    ring::{RING_SLOTS, RingRow},
    service::{ServiceSet, proto},
    settings::Settings,
    steer::{self, FlowSet, Question, Spend, SteerTables},
    track::{self, Place as Lies},
    verdict::Reason,
    window::SharedWindows,
};
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError, Place, kernel,
    prefix::{self, PrefixKey},
    store::Store,
    table::monotonic_ns,
    tables::Beat,
    view,
};
use crate::admin::protocol::{MemberView, ServiceView};

mod ways;

/// A packet to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// TCP or UDP: [`proto`].
    pub proto: u8,
    /// Client.
    pub source: SocketAddr,
    /// Where it sends to; of the same family.
    pub destination: SocketAddr,
}

/// What becomes of a packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name of the reason, as counters have it.
    pub reason: String,
    /// `pass`, `drop` or `send`.
    pub action: String,
    /// Its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
    /// The member it would be sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberView>,
    /// The steps that lead there.
    pub steps: Vec<String>,
}

/// Explains a packet over an instance's pinned maps.
pub fn explain(place: &Place, tuple: &Tuple) -> Result<Explanation, DataplaneError> {
    let store = kernel::open_pins(place)?;
    let maps = Maps::of(&store)?;
    let frame = frame(tuple);
    let headers = parse(&frame[..]);
    let decision = journey::judge(&frame[..], &headers, &maps);
    let prefixes = store.rest.prefixes()?;
    let shown = view::snapshot(&store, &prefixes, &|_| None)?;
    let mut out = Explanation {
        service: (shown.services.into_iter()).find(|s| s.id == decision.service && s.id != 0),
        ..Explanation::default()
    };
    let end = |mut out: Explanation, reason: Reason| {
        use lb_common::verdict::Action;
        reason.name().clone_into(&mut out.reason);
        let action = match reason.action() {
            Action::Pass => "pass",
            Action::Drop => "drop",
            Action::Send => "send",
        };
        action.clone_into(&mut out.action);
        out
    };
    match &out.service {
        Some(service) => out.steps.push(format!(
            "service {}: {} {} ({})",
            service.id, service.proto, service.address, service.kind
        )),
        None => out
            .steps
            .push("no service has this address and port".to_owned()),
    }
    for limit in out.service.iter().flat_map(|service| &service.limits) {
        out.steps.push(format!("limit {limit}: taken for kept"));
    }
    match decision.then {
        Then::Steer4 | Then::Steer6 => {}
        Then::Return => {
            let Some(is) = ways::answered(&maps, &headers) else {
                return Ok(end(out, Reason::NO_CONNECTION));
            };
            out.steps.push(ways::client_of(&is));
            let member = u32::from(Entry(is.value).member());
            out.member = (shown.members.into_iter()).find(|m| m.id == member);
            return Ok(end(out, Reason::RETURNED));
        }
        Then::Unpack => {
            out.steps.push(
                "encapsulated: what is inside, which nobody named, decides whether it is unpacked, \
                 looped, bad_inner or passed"
                    .to_owned(),
            );
            return Ok(end(out, decision.reason));
        }
        _ => return Ok(end(out, decision.reason)),
    }
    let Some(forward) = maps.forward(decision.service) else {
        return Ok(end(out, Reason::NOT_FORWARDED));
    };
    let question = Question {
        headers: &headers,
        service: decision.service,
        is_limited: false,
        limited: Limited::WITHIN,
        is_quoted: false,
        forward,
        settings: &maps.settings,
    };
    out.steps.push(known(&question, decision.then, &maps));
    let steered = match decision.then {
        Then::Steer4 => steer::choose4(&question, &maps),
        _ => steer::choose6(&question, &maps),
    };
    let flow = Flow::of(&headers);
    let hash = match forward.hash {
        hash_kind::SOURCE => flow.hash_source(forward.seed),
        _ => flow.hash(forward.seed),
    };
    out.steps.push(format!(
        "ring of balancer {}: slot {} of {RING_SLOTS}, hash {}",
        forward.balancer,
        slot(hash, RING_SLOTS),
        hash_kind::NAMES
            .get(usize::from(forward.hash))
            .unwrap_or(&"unknown")
    ));
    match steered {
        Ok(steered) => {
            out.member = (shown.members.into_iter()).find(|m| m.id == u32::from(steered.member));
            let reason = match steered.reason {
                // Nothing was entered: a real packet would have been, were there room.
                Reason::STEERED_BY_RING => Reason::STEERED_NEW,
                reason => reason,
            };
            if let Some(member) = &out.member {
                let letters: String = member.state.iter().collect();
                let state = if letters.is_empty() { "OK" } else { &letters };
                out.steps.push(format!(
                    "member {}: {} ({state})",
                    member.url, member.address
                ));
            }
            let (said, dropped) = ways::sent(&maps, &headers, forward, steered.member);
            out.steps.push(said);
            Ok(end(out, dropped.unwrap_or(reason)))
        }
        Err(reason) => Ok(end(out, reason)),
    }
}

/// What the flow table says of the packet.
fn known(question: &Question<'_>, then: Then, maps: &Maps<'_>) -> String {
    let (headers, seed) = (question.headers, maps.settings.flow_seed);
    let entry = if then == Then::Steer4 {
        let a = &headers.source.0;
        let source = [a[12], a[13], a[14], a[15]];
        let key = Flow4Key::new(source, headers.source_port.0, question.service);
        look(&key, &key.place(seed, maps.mask4()), |set| maps.set4(set))
    } else {
        let ports = (headers.source_port.0, headers.destination_port.0);
        let key = track::wide_key(headers.source, headers.destination, ports, question.service);
        look(&key, &key.place(seed, maps.mask6()), |set| maps.set6(set))
    };
    let Some(entry) = entry else {
        return "flow table: not known, so the ring says".to_owned();
    };
    let state = State::NAMES
        .get(usize::from(entry.state().0))
        .unwrap_or(&"unknown");
    let idle = maps.beat.seconds(entry.age(maps.now));
    format!(
        "flow table: {state}, with member {} (incarnation {}), idle {idle:.0} s",
        entry.member(),
        entry.incarnation()
    )
}

fn look<K, S: FlowSet<K>>(key: &K, at: &Lies, set: impl Fn(u32) -> Option<S>) -> Option<Entry> {
    [at.first, at.second()].into_iter().find_map(|number| {
        let (_, entry) = track::find(&set(number)?, key, at.tag);
        (entry.state() != State::EMPTY).then_some(entry)
    })
}

/// The packet as it would come: the first of its connection that is not a SYN, or a datagram.
fn frame(tuple: &Tuple) -> Vec<u8> {
    let mut transport = Vec::with_capacity(20);
    transport.extend(tuple.source.port().to_be_bytes());
    transport.extend(tuple.destination.port().to_be_bytes());
    if tuple.proto == proto::UDP {
        transport.extend(8u16.to_be_bytes());
        transport.extend([0; 2]);
    } else {
        // Sequence numbers, five words, ACK, window, sum, urgent pointer.
        transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    }
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (tuple.source.ip(), tuple.destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let len = (20 + transport.len()) as u16;
            let [high, low] = len.to_be_bytes();
            let mut head = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, tuple.proto, 0, 0];
            head.extend(from.octets());
            head.extend(to.octets());
            let mut sum: u32 = (head.chunks(2))
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
                .sum();
            sum = (sum >> 16) + (sum & 0xffff);
            let [high, low] = (!(((sum >> 16) + sum) as u16)).to_be_bytes();
            (head[10], head[11]) = (high, low);
            frame.extend([8, 0]);
            frame.extend(head);
        }
        (from, to) => {
            let six = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([tuple.proto, 64]);
            frame.extend(six(from));
            frame.extend(six(to));
        }
    }
    frame.extend(transport);
    frame
}

/// The maps as the packet path asks them.
struct Maps<'s> {
    store: &'s Store,
    settings: Settings,
    prefixes: Vec<(PrefixKey, PrefixEntry)>,
    sets: Vec<ServiceSet>,
    limits: Vec<ServiceLimits>,
    forwards: Vec<Forward>,
    members: Vec<MemberHead>,
    beat: Beat,
    now: u32,
}

impl<'s> Maps<'s> {
    fn of(store: &'s Store) -> Result<Self, DataplaneError> {
        let mut sets = vec![ServiceSet::default(); SERVICE_SETS as usize];
        for placed in store.ways() {
            sets[placed.set as usize].ways[placed.way] = placed.value;
        }
        let meta = store.meta().load();
        let beat = Beat {
            tick: meta.beat_tick,
            shift: meta.beat_shift,
            offset: meta.beat_offset,
        };
        let services = 0..MAX_SERVICES as u16;
        Ok(Self {
            settings: store.rest.settings()?,
            prefixes: store.rest.prefixes()?.into_iter().collect(),
            sets,
            limits: (services.clone())
                .map(|service| store.rest.limits(service))
                .collect::<Result<_, _>>()?,
            forwards: services
                .map(|service| store.rest.forward(service))
                .collect::<Result<_, _>>()?,
            members: (0..MAX_MEMBERS)
                .map(|id| {
                    let cell = store.table.cell(MemberId(id));
                    cell.map(|cell| cell.load().head).unwrap_or_default()
                })
                .collect(),
            beat,
            now: beat.at(monotonic_ns()),
            store,
        })
    }
}

/// Windows that are never counted in.
struct Uncounted;

impl SharedWindows for Uncounted {
    fn load(&self, _: usize) -> u64 {
        0
    }

    fn increment(&self, _: usize) {}

    fn replace(&self, _: usize, _: u64, _: u64) -> bool {
        false
    }
}

impl Tables for Maps<'_> {
    type Windows<'a>
        = Uncounted
    where
        Self: 'a;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn now(&self) -> u64 {
        monotonic_ns()
    }

    fn prefix(&self, list: List, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry> {
        let list = match list {
            List::Deny => prefix::List::Deny,
            List::Allow => prefix::List::Allow,
        };
        let ip = IpAddr::from(*address);
        (self.prefixes.iter())
            .filter(|(key, _)| key.list == list && key.network.is_ipv4() == (version == 4))
            .filter(|(key, _)| u32::from(key.len) <= bits && key.covers(ip))
            .max_by_key(|(key, _)| key.len)
            .map(|(_, entry)| *entry)
    }

    fn limit(&self, _: &Headers, _: u16) -> Limited {
        Limited::WITHIN
    }

    fn service_set(&self, set: u32) -> Option<&ServiceSet> {
        self.sets.get(set as usize)
    }

    fn limits(&self, service: u16) -> Option<&ServiceLimits> {
        self.limits.get(usize::from(service))
    }

    fn service_windows(&self, _: u16, _: LimitKind) -> Option<Uncounted> {
        None
    }

    fn source_windows(&self, _: &SourceKey) -> Option<Uncounted> {
        None
    }

    fn add_source(&self, _: &SourceKey, _: &Windows) {}
}

/// A set of a flow table, for looking only.
struct Set<'s> {
    store: &'s Store,
    set: u32,
}

impl FlowSet<Flow4Key> for Set<'_> {
    fn value(&self, way: usize) -> u64 {
        (self.store.l4.way4(self.set, way)).map_or(0, |words| words[1].load(Relaxed))
    }

    fn replace(&self, _: usize, _: u64, _: u64) -> bool {
        false
    }

    fn is(&self, way: usize, key: &Flow4Key) -> bool {
        (self.store.l4.way4(self.set, way))
            .is_some_and(|words| words[0].load(Relaxed) == key.word())
    }

    fn fill(&self, _: usize, _: &Flow4Key) {}
}

impl FlowSet<Flow6Key> for Set<'_> {
    fn value(&self, way: usize) -> u64 {
        (self.store.l4.way6(self.set, way)).map_or(0, |(value, _)| value)
    }

    fn replace(&self, _: usize, _: u64, _: u64) -> bool {
        false
    }

    fn is(&self, way: usize, key: &Flow6Key) -> bool {
        let [a, b] = key.source.words();
        let [c, d] = key.destination.words();
        (self.store.l4.way6(self.set, way))
            .is_some_and(|(_, words)| words == [key.tail(), a, b, c, d])
    }

    fn fill(&self, _: usize, _: &Flow6Key) {}
}

impl SteerTables for Maps<'_> {
    type Set4<'a>
        = Set<'a>
    where
        Self: 'a;
    type Set6<'a>
        = Set<'a>
    where
        Self: 'a;

    fn forward(&self, service: u16) -> Option<&Forward> {
        self.forwards.get(usize::from(service))
    }

    fn ring_row(&self, balancer: u16, row: u32) -> Option<RingRow> {
        self.store.rest.ring_row(balancer, row).ok().flatten()
    }

    fn member(&self, id: u16) -> Option<&MemberHead> {
        self.members.get(usize::from(id))
    }

    fn mask4(&self) -> u32 {
        self.store.l4.sizes()[0] as u32 - 1
    }

    fn mask6(&self) -> u32 {
        self.store.l4.sizes()[1] as u32 - 1
    }

    fn set4(&self, set: u32) -> Option<Set<'_>> {
        Some(Set {
            store: self.store,
            set,
        })
    }

    fn set6(&self, set: u32) -> Option<Set<'_>> {
        self.set4(set)
    }

    fn beat(&self) -> u32 {
        self.now
    }

    fn spend(&self, _: Spend, _: u32, _: u32) -> bool {
        true
    }

    fn is_spent(&self, _: Spend, _: u32, _: u32) -> bool {
        false
    }

    fn fragment(&self, _: &FragmentKey) -> Option<FragmentValue> {
        None
    }

    fn add_fragment(&self, _: &FragmentKey, _: &FragmentValue) {}

    fn server_id(&self, _: &ServerIdKey) -> Option<ServerIdValue> {
        None
    }

    fn count_member(&self, _: u16, _: u64, _: Reason) {}
}
