//! As many services and members as there may be: that they load, what a change of one member
//! touches, and what it all costs. `cargo test -p sluice --test dataplane_kernel many -- --nocapture`

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use lb_common::{
    abi::{MAX_MEMBERS, MAX_SERVICES, SERVICE_SETS, map},
    forward::Forward as HowTo,
    limit::ServiceLimits,
    member::{MemberName, MemberSlot, MemberState},
    service::ServiceSet,
};
use sluice::{
    config::spec::{Forward, Scheme, Steer, Transport},
    dataplane::{Dataplane, Desired, Tuple, explain},
};

use crate::lab::{Lab, auto, ip, run, steering};

/// Services that are steered.
const SERVICES: usize = 512;
/// Balancers: one for each ring there may be.
const BALANCERS: usize = 511;
/// Members: one for each slot there may be, of which the last balancer has what is left.
const MEMBERS: usize = MAX_MEMBERS as usize - 1;
/// Members of every other balancer.
const EACH: usize = MEMBERS / BALANCERS;
/// How long a ring may take from a member's change until it is published (docs/l4.md).
const IN_TIME: Duration = Duration::from_millis(60);

/// The address of a member by its number, behind one router: every neighbour of its own would fill
/// the host's table of them.
fn address(number: usize) -> SocketAddr {
    let number = u32::try_from(number).expect("a number of 12 bits");
    (Ipv4Addr::from(0x0a00_0000 + number), 0).into()
}

fn vip(service: usize) -> IpAddr {
    Ipv4Addr::new(
        203,
        0,
        113,
        u8::try_from(service / 8).expect("64 addresses"),
    )
    .into()
}

/// [`SERVICES`] services to [`BALANCERS`] balancers with [`MEMBERS`] members: of single ports, and
/// of ranges and of every address among them.
fn many() -> Desired {
    let mut desired = steering(&[auto("v0")]);
    let spec = Arc::make_mut(&mut desired.spec);
    let pattern = spec.balancers[0].clone();
    let mut number = 0;
    spec.balancers.clear();
    desired.addresses.clear();
    for index in 0..BALANCERS {
        let mut balancer = pattern.clone();
        balancer.name = format!("b{index}");
        let member = balancer.members.remove(0);
        let last = index + 1 == BALANCERS;
        let count = if last { MEMBERS - number } else { EACH };
        let mut addresses = Vec::new();
        for _ in 0..count {
            let mut member = member.clone();
            member.scheme = Scheme::Tcp;
            member.url = format!("tcp://m{number}");
            addresses.push(address(number));
            balancer.members.push(member);
            number += 1;
        }
        spec.balancers.push(balancer);
        desired.addresses.push(addresses);
    }
    assert_eq!(number, MEMBERS);
    let pattern: Steer = spec.sluice.steers[0].clone();
    spec.sluice.steers = (0..SERVICES)
        .map(|service| {
            let port = 8000 + 100 * u16::try_from(service % 8).expect("8 ports of an address");
            let (is_range, is_wild) = (service % 16 == 0, service % 128 == 1);
            Steer {
                transport: if service % 2 == 0 {
                    Transport::Udp
                } else {
                    Transport::Tcp
                },
                address: (!is_wild).then(|| vip(service)),
                // A port of its own for each that is on every address.
                first_port: port
                    + if is_wild {
                        10 + port_of_wild(service)
                    } else {
                        0
                    },
                last_port: port
                    + if is_wild {
                        10 + port_of_wild(service)
                    } else {
                        0
                    }
                    + if is_range { 99 } else { 0 },
                balancer: service % BALANCERS,
                forward: Forward::IpIp,
                ..pattern.clone()
            }
        })
        .collect();
    desired
}

fn port_of_wild(service: usize) -> u16 {
    u16::try_from(service / 128).expect("four of them")
}

/// What the maps hold that control writes: which entries differ says what a change touched.
struct Seen {
    members: Vec<MemberSlot>,
    names: Vec<MemberName>,
    forwards: Vec<HowTo>,
    limits: Vec<ServiceLimits>,
    services: Vec<ServiceSet>,
    /// The kernel's id of each ring: another one with every write.
    rings: BTreeMap<u64, u64>,
}

fn all<T: Pod>(lab: &Lab, name: &str, entries: u32) -> Vec<T> {
    let data = MapData::from_pin(lab.pin(name)).expect("pin");
    let map = Array::<_, T>::try_from(Map::from_map_data(data).expect("map")).expect(name);
    (0..entries)
        .map(|index| map.get(&index, 0).expect("entry"))
        .collect()
}

fn bpftool(arguments: &[&str]) -> serde_json::Value {
    let out = run("bpftool", &[&["-j"], arguments].concat()).stdout;
    serde_json::from_slice(&out).expect("json")
}

fn rings(lab: &Lab) -> BTreeMap<u64, u64> {
    let pin = lab.pin(map::RINGS);
    let dump = bpftool(&["map", "dump", "pinned", pin.to_str().expect("utf-8")]);
    // A number as the bytes that lie in memory.
    let number = |bytes: &serde_json::Value| {
        let bytes = bytes.as_array().expect("bytes").iter().rev();
        bytes.fold(0, |sum, byte| {
            let digits = byte.as_str().expect("a byte").trim_start_matches("0x");
            sum << 8 | u64::from_str_radix(digits, 16).expect("a byte")
        })
    };
    let entries = dump.as_array().expect("entries").iter();
    entries
        .filter(|entry| entry["value"].is_array())
        .map(|entry| (number(&entry["key"]), number(&entry["value"])))
        .collect()
}

impl Seen {
    fn of(lab: &Lab) -> Self {
        Self {
            members: all(lab, map::MEMBERS, MAX_MEMBERS),
            names: all(lab, map::NAMES, MAX_MEMBERS),
            forwards: all(lab, map::FORWARD, MAX_SERVICES),
            limits: all(lab, map::LIMITS, MAX_SERVICES),
            services: all(lab, map::SERVICES, SERVICE_SETS),
            rings: rings(lab),
        }
    }

    /// Entries that are not as they were before, by map.
    fn since(&self, before: &Self) -> [BTreeSet<u64>; 6] {
        [
            differing(&before.members, &self.members),
            differing(&before.names, &self.names),
            differing(&before.forwards, &self.forwards),
            differing(&before.limits, &self.limits),
            differing(&before.services, &self.services),
            (self.rings.iter())
                .filter(|(ring, id)| before.rings.get(ring) != Some(id))
                .map(|(ring, _)| *ring)
                .collect(),
        ]
    }
}

fn differing<T: Debug>(before: &[T], after: &[T]) -> BTreeSet<u64> {
    assert_eq!(before.len(), after.len());
    (0..)
        .zip(before.iter().zip(after))
        .filter(|(_, (before, after))| format!("{before:?}") != format!("{after:?}"))
        .map(|(index, _)| index)
        .collect()
}

/// Memory of this process by the kernel's name for it, kB.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = text.lines().find(|line| line.starts_with(field));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words.and_then(|word| word.parse().ok()).expect("a number")
}

/// Bytes of a map as the kernel reckons them.
fn bytes(map: &serde_json::Value) -> u64 {
    let field = &map["bytes_memlock"];
    field
        .as_u64()
        .or_else(|| field.as_str()?.parse().ok())
        .expect("bytes")
}

fn best_of(times: &[Duration]) -> Duration {
    times.iter().min().copied().expect("some")
}

isolated! { fn a_members_change_touches_its_balancers_ring_alone_however_many_there_are(lab) {
    ip("addr add 192.0.2.1/24 dev v0");
    ip("route add 10.0.0.0/16 via 192.0.2.254");
    let mut desired = many();
    let before = status("VmRSS");
    let start = Instant::now();
    let mut plane = Dataplane::open(&lab.place, &desired.spec.sluice).expect("open");
    let opened = start.elapsed();
    let start = Instant::now();
    let published = plane.publish(&desired).expect("publish");
    let first = start.elapsed();
    eprintln!(
        "{SERVICES} services, {BALANCERS} rings, {MEMBERS} members: opened in {opened:?}, published in \
         {first:?}; control holds {} kB more, {} kB at most",
        status("VmRSS") - before,
        status("VmHWM"),
    );
    let loaded = Seen::of(lab);
    assert_eq!(loaded.rings.len(), BALANCERS);
    let ring_bytes: u64 = (loaded.rings.values())
        .map(|id| bytes(&bpftool(&["map", "show", "id", &id.to_string()])))
        .sum();
    let maps = map::ALL.map(|name| {
        let pin = lab.pin(name);
        (name, bytes(&bpftool(&["map", "show", "pinned", pin.to_str().expect("utf-8")])))
    });
    let map_bytes: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    eprintln!("kernel: rings {ring_bytes} bytes, the other maps {map_bytes}: {maps:?}");

    // Each service leads to a member of its balancer, by the packet path's own code.
    for service in [0, 1, 2, 129, 500, SERVICES - 1] {
        let steer = &desired.spec.sluice.steers[service];
        let tuple = Tuple {
            proto: if service % 2 == 0 { 17 } else { 6 },
            source: "198.51.100.9:4000".parse().expect("address"),
            destination: (vip(service), steer.last_port).into(),
        };
        let explained = explain(&lab.place, &tuple).expect("explained");
        let member = explained.member.expect("a member");
        let wanted = &desired.spec.balancers[steer.balancer];
        assert_eq!(member.balancer, wanted.name, "service {service}");
        assert!(wanted.members.iter().any(|m| m.url == member.url), "{member:?}");
    }

    // Nothing changed: nothing is written.
    let idle: Vec<Duration> = (0..5).map(|_| {
        let start = Instant::now();
        plane.refresh_rings();
        start.elapsed()
    }).collect();
    assert_eq!(Seen::of(lab).since(&loaded), <[BTreeSet<u64>; 6]>::default());
    eprintln!("a look at the states of {MEMBERS} members: {:?}", best_of(&idle));

    // A state, as an operator, a request or a health check changes it.
    let mut times = Vec::new();
    let mut last = loaded;
    for turn in [0, 7, 100, 255, BALANCERS - 1] {
        let id = published.ids[turn][turn % EACH];
        let cell = plane.table();
        let cell = cell.cell(id).expect("a slot");
        let start = Instant::now();
        cell.set_state(MemberState::DRAIN);
        plane.refresh_rings();
        times.push(start.elapsed());
        let now = Seen::of(lab);
        let ring = u64::from(cell.balancer.load(Relaxed));
        let id = u64::from(id.0);
        let none = BTreeSet::new;
        assert_eq!(
            now.since(&last),
            [[id].into(), none(), none(), none(), none(), [ring].into()],
        );
        last = now;
    }
    eprintln!("a ring of {EACH} members computed and published: {times:?}");
    // The machine may be busy with something else.
    assert!(best_of(&times) < IN_TIME, "{times:?}");

    // A new configuration, in which one member is another.
    let balancer = 300;
    let spec = Arc::make_mut(&mut desired.spec);
    "tcp://other".clone_into(&mut spec.balancers[balancer].members[0].url);
    desired.addresses[balancer][0] = address(MEMBERS + 1);
    let refused = plane.publish(&desired).expect_err("no slot is free");
    assert!(refused.to_string().contains("member slots"), "{refused}");
    assert_eq!(Seen::of(lab).since(&last), <[BTreeSet<u64>; 6]>::default());
    // One leaves instead.
    let gone = published.ids[balancer][0];
    spec_of(&mut desired, balancer);
    let start = Instant::now();
    let second = plane.publish(&desired).expect("publish");
    eprintln!("a generation in which one member of {MEMBERS} left: {:?}", start.elapsed());
    let now = Seen::of(lab);
    let ring = plane.table().cell(second.ids[balancer][0]).expect("a slot").balancer.load(Relaxed);
    let [members, names, forwards, limits, services, rings] = now.since(&last);
    assert_eq!(members, [u64::from(gone.0)].into(), "its slot drains, and no other is touched");
    assert_eq!(rings, [u64::from(ring)].into());
    assert!([names, forwards, limits, services].iter().all(BTreeSet::is_empty));
    plane.detach().expect("detach");
} }

/// The balancer without its first member.
fn spec_of(desired: &mut Desired, balancer: usize) {
    let spec = Arc::make_mut(&mut desired.spec);
    spec.balancers[balancer].members.remove(0);
    desired.addresses[balancer].remove(0);
}
