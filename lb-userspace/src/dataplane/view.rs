//! The maps as people and scripts read them: every text that `status`, `member list` and the rest
//! print is made here, with the daemon or without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::Ordering::Relaxed,
};

use lb_common::{
    abi::MAX_MEMBERS,
    addr::Address,
    deny::{PrefixEntry, origin},
    forward::{hash_kind, mode, on_empty},
    limit::{self, Limit, LimitKind, ServiceLimits},
    member::{MemberId, MemberName, MemberSlot, MemberState},
    meta,
    service::{ServiceWay, kind, proto},
    settings::{Settings, gate},
    verdict::{Action, Reason},
};

use super::{
    DataplaneError,
    diff::PlacedWay,
    netlink,
    prefix::{List, PrefixKey},
    store::{Row, Store},
    table::monotonic_ns,
};
use crate::admin::protocol::{
    ForwardView, MemberView, PrefixView, ReasonView, ServiceView, Snapshot, SteeredView,
};

/// Everything that the maps tell; the caller fills in what only the daemon knows.
pub(super) fn snapshot(
    store: &Store,
    prefixes: &BTreeMap<PrefixKey, PrefixEntry>,
    rings: &dyn Fn(u16) -> Option<BTreeMap<u16, u32>>,
) -> Result<Snapshot, DataplaneError> {
    let now = monotonic_ns();
    let meta = store.meta().load();
    Ok(Snapshot {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_pid: meta.control_pid,
        proxy_pid: meta.proxy_pid,
        generation: meta.generation,
        phase: store.meta().phase_name().to_owned(),
        heartbeat_age_seconds: Some(now.saturating_sub(meta.heartbeat) / 1_000_000_000),
        dataplane: "kernel".to_owned(),
        members: members(store, now, rings)?,
        services: services(store)?,
        prefixes: prefixes
            .iter()
            .filter(|(key, _)| key.list != List::Decap)
            .filter(|(_, entry)| entry.expires == 0 || entry.expires > now)
            .map(|(key, entry)| prefix(key, entry, now))
            .collect(),
        settings: settings(&store.rest.settings()?),
        ..Snapshot::default()
    })
}

fn members(
    store: &Store,
    now: u64,
    rings: &dyn Fn(u16) -> Option<BTreeMap<u16, u32>>,
) -> Result<Vec<MemberView>, DataplaneError> {
    let mut views = Vec::new();
    let steered: BTreeSet<u16> = (store.ways().iter())
        .filter(|way| way.value.kind == kind::FORWARDED)
        .map(|way| way.value.balancer)
        .collect();
    let mut slots: BTreeMap<u16, Option<BTreeMap<u16, u32>>> = BTreeMap::new();
    for id in (1..MAX_MEMBERS).map(MemberId) {
        let Some(cell) = store.table.cell(id).filter(|cell| cell.is_wanted()) else {
            continue;
        };
        let name = store.rest.name(id)?;
        let slot = cell.load();
        let mut view = member(id, &slot, &name, store.table.busy_sum(id), now);
        let counter = store.rest.member_counter(id)?;
        let balancer = slot.head.balancer;
        if steered.contains(&balancer) || counter.packets > 0 {
            let ring = slots.entry(balancer).or_insert_with(|| {
                steered
                    .contains(&balancer)
                    .then(|| rings(balancer))
                    .flatten()
            });
            let part = |ring: &BTreeMap<u16, u32>| ring.get(&(id.0 as u16)).copied().unwrap_or(0);
            view.steered = Some(SteeredView {
                packets: counter.packets,
                bytes: counter.bytes,
                flows: counter.flows,
                by_ring: counter.by_ring,
                slots: ring.as_ref().map(part),
                next_hop: next_hop(store, id),
            });
        }
        views.push(view);
    }
    Ok(views)
}

fn member(id: MemberId, slot: &MemberSlot, name: &MemberName, busy: u64, now: u64) -> MemberView {
    let state = MemberState(slot.head.state);
    let letters = MemberState::LETTERS.iter();
    let ip = IpAddr::from(Address(slot.head.address));
    let port = u16::from_be_bytes(slot.head.port);
    let since = slot.election.error_since;
    MemberView {
        id: id.0,
        incarnation: slot.head.incarnation,
        balancer: text(&name.balancer),
        url: text(&name.url),
        route: text(&name.route),
        address: match text(&name.url).split_once('|') {
            Some((socket, _)) => socket.to_owned(),
            None => std::net::SocketAddr::new(ip, port).to_string(),
        },
        state: letters
            .filter(|(_, bit)| state.has(*bit))
            .map(|(letter, _)| *letter)
            .collect(),
        usable: state.is_usable(),
        lbfactor: f64::from(slot.head.weight) / 100.0,
        lbset: slot.head.lbset,
        lbstatus: slot.election.lbstatus,
        elected: slot.election.elected,
        busy,
        read: slot.traffic.read,
        transferred: slot.traffic.transferred,
        responses: slot.traffic.responses,
        failed: slot.election.failed,
        retries: slot.election.retries,
        error_seconds: (state.has(MemberState::ERROR) && since != 0)
            .then(|| now.saturating_sub(since) / 1_000_000_000),
        steered: None,
    }
}

fn next_hop(store: &Store, id: MemberId) -> String {
    store.l4.hop_in_use(id).map_or_else(String::new, |hop| {
        let mac: Vec<String> = hop.to[..6].iter().map(|b| format!("{b:02x}")).collect();
        let interface = match netlink::by_index(hop.ifindex) {
            Ok(Some(link)) => link.name,
            _ => hop.ifindex.to_string(),
        };
        let vlan = if hop.is_tagged() {
            format!(", VLAN {}", u16::from_be_bytes([hop.from[6], hop.from[7]]))
        } else {
            String::new()
        };
        format!("{} on {interface}{vlan}", mac.join(":"))
    })
}

/// What a zero-filled field holds.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn services(store: &Store) -> Result<Vec<ServiceView>, DataplaneError> {
    let seed = store.rest.settings()?.service_seed;
    let mut placed: BTreeMap<u16, PlacedWay> = BTreeMap::new();
    for way in store.ways() {
        let value = &way.value;
        let set = lb_common::service::service_set(value.address, value.port, value.proto, seed);
        // While a layout is being changed a service may lie in two places.
        if set == way.set || !placed.contains_key(&value.id) {
            placed.insert(value.id, way);
        }
    }
    let mut views = vec![ServiceView {
        limits: limits(&store.rest.limits(0)?),
        counters: counters(&store.rest.counters(0)?),
        ..ServiceView::default()
    }];
    for (id, PlacedWay { value, .. }) in placed {
        views.push(ServiceView {
            id,
            proto: match value.proto {
                0 => String::new(),
                proto::TCP => "tcp".to_owned(),
                proto::UDP => "udp".to_owned(),
                proto::IPIP => "ipip".to_owned(),
                proto::IPV6 => "ipv6".to_owned(),
                other => other.to_string(),
            },
            address: address(&value),
            kind: match value.kind {
                kind::LOCAL => "local",
                kind::FORWARDED => "forwarded",
                kind::VIP => "vip",
                kind::NAT => "nat",
                kind::DECAP => "decap",
                _ => "unknown",
            }
            .to_owned(),
            forward: (value.kind == kind::FORWARDED)
                .then(|| forward(store, value.id))
                .transpose()?,
            limits: limits(&store.rest.limits(id)?),
            counters: counters(&store.rest.counters(id)?),
        });
    }
    Ok(views)
}

/// `192.0.2.1:80`, `*:80`, `192.0.2.1:5000-5099`, `192.0.2.1` where there is no port.
fn address(way: &ServiceWay) -> String {
    let key = super::place::key_of(way);
    let host = match (key.address.is_any(), IpAddr::from(key.address)) {
        (true, _) => "*".to_owned(),
        (false, IpAddr::V6(ip)) if key.port != 0 => format!("[{ip}]"),
        (false, ip) => ip.to_string(),
    };
    match (key.port, key.last) {
        (0, _) => host,
        (port, 0) => format!("{host}:{port}"),
        (first, last) => format!("{host}:{first}-{last}"),
    }
}

fn forward(store: &Store, service: u16) -> Result<ForwardView, DataplaneError> {
    let forward = store.rest.forward(service)?;
    let name = |names: &[&str], index: u8| {
        (names.get(usize::from(index)).copied().unwrap_or("unknown")).to_owned()
    };
    let hash = name(&hash_kind::NAMES, forward.hash);
    let mut sources = Vec::new();
    if forward.source4 != [0; 4] {
        sources.push(IpAddr::from(forward.source4).to_string());
    }
    if forward.source6 != [0; 16] {
        sources.push(IpAddr::from(forward.source6).to_string());
    }
    let last = u32::from(forward.nat_first) + u32::from(forward.nat_ports.max(1)) - 1;
    Ok(ForwardView {
        balancer: balancer_name(store, forward.balancer)?,
        mode: name(&mode::NAMES, forward.mode),
        hash: if forward.hash == hash_kind::QUIC {
            format!("{hash}:{}", forward.quic_len)
        } else {
            hash
        },
        on_empty: if forward.on_empty == on_empty::RESET {
            "reset".to_owned()
        } else {
            "drop".to_owned()
        },
        sources,
        ports: if forward.nat_ports == 0 {
            String::new()
        } else {
            format!("{}-{last}", forward.nat_first)
        },
    })
}

/// Name of the balancer with this id, from any of its members.
fn balancer_name(store: &Store, balancer: u16) -> Result<String, DataplaneError> {
    for id in (1..MAX_MEMBERS).map(MemberId) {
        let of = |cell: &super::sys::MemberCell| {
            cell.is_wanted() && cell.balancer.load(Relaxed) == balancer
        };
        if balancer != 0 && store.table.cell(id).is_some_and(of) {
            return Ok(text(&store.rest.name(id)?.balancer));
        }
    }
    Ok(String::new())
}

fn counters(row: &Row) -> Vec<ReasonView> {
    (Reason::ALL.iter())
        .filter_map(|reason| {
            let counter = row.get(usize::from(reason.0)).filter(|c| c.packets > 0)?;
            Some(ReasonView {
                reason: reason.name().to_owned(),
                action: match reason.action() {
                    Action::Pass => "pass",
                    Action::Drop => "drop",
                    Action::Send => "send",
                }
                .to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
            })
        })
        .collect()
}

fn limits(limits: &ServiceLimits) -> Vec<String> {
    let rows = (limits.source.iter().map(|l| (l, false)))
        .chain(limits.service.iter().map(|l| (l, true)))
        .enumerate();
    rows.filter(|(_, (limit, _))| limit.packets > 0)
        .map(|(index, (limit, whole))| {
            describe(limit, LimitKind::NAMES[index % LimitKind::COUNT], whole)
        })
        .collect()
}

/// A limit as `GuardLimit` takes it.
fn describe(limit: &Limit, kind: &str, whole_service: bool) -> String {
    let per = if whole_service {
        "service".to_owned()
    } else {
        format!("/{},/{}", limit.prefix4, limit.prefix6)
    };
    let action = match limit.action {
        limit::action::REPORT => " action=report",
        _ => "",
    };
    format!(
        "{kind} {}/s burst={} per={per}{action}",
        limit.rate, limit.packets
    )
}

fn prefix(key: &PrefixKey, entry: &PrefixEntry, now: u64) -> PrefixView {
    let expires = entry.expires;
    PrefixView {
        list: match key.list {
            List::Deny => "deny",
            List::Allow => "allow",
            List::Decap => "decap",
        }
        .to_owned(),
        prefix: key.to_string(),
        origin: match entry.origin {
            origin::FILE => "file",
            _ => "command",
        }
        .to_owned(),
        // Rounded up: what is still there has not 0 s left.
        seconds_left: (expires != 0).then(|| expires.saturating_sub(now).div_ceil(1_000_000_000)),
    }
}

fn settings(settings: &Settings) -> Vec<(String, String)> {
    let on = |bit| {
        if settings.gates & bit != 0 {
            "on"
        } else {
            "off"
        }
    };
    [
        ("guard", on(gate::GUARD).to_owned()),
        ("log", on(gate::LOG).to_owned()),
        ("log_every", settings.log_every.max(1).to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Whether control said it was alive lately and its process is there.
pub(super) fn is_alive(store: &Store) -> bool {
    let meta = store.meta();
    let stopped = meta.phase.load(Relaxed) == meta::phase::STOPPED;
    let age = monotonic_ns().saturating_sub(meta.heartbeat.load(Relaxed));
    !stopped && age < 5_000_000_000 && super::is_running(meta.control_pid.load(Relaxed))
}
