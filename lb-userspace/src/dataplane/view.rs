//! The maps as people and scripts read them: every text that `status`, `member list` and the rest
//! print is made here, with the daemon or without it.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::Ordering::Relaxed};

use lb_common::{
    abi::MAX_MEMBERS,
    addr::Address,
    deny::{PrefixEntry, origin},
    limit::{self, Limit, LimitKind, ServiceLimits},
    member::{MemberId, MemberName, MemberSlot, MemberState},
    meta,
    service::{kind, proto},
    settings::{Settings, gate},
    verdict::{Action, Reason},
};

use super::{
    DataplaneError,
    diff::PlacedWay,
    prefix::{List, PrefixKey},
    store::{Row, Store},
    table::monotonic_ns,
};
use crate::admin::protocol::{MemberView, PrefixView, ReasonView, ServiceView, Snapshot};

/// Everything that the maps tell; the caller fills in what only the daemon knows.
pub(super) fn snapshot(
    store: &Store,
    prefixes: &BTreeMap<PrefixKey, PrefixEntry>,
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
        members: members(store, now)?,
        services: services(store)?,
        prefixes: prefixes
            .iter()
            .filter(|(_, entry)| entry.expires == 0 || entry.expires > now)
            .map(|(key, entry)| prefix(key, entry, now))
            .collect(),
        settings: settings(&store.rest.settings()?),
        ..Snapshot::default()
    })
}

fn members(store: &Store, now: u64) -> Result<Vec<MemberView>, DataplaneError> {
    let mut views = Vec::new();
    for id in (1..MAX_MEMBERS).map(MemberId) {
        let Some(cell) = store.table.cell(id).filter(|cell| cell.is_wanted()) else {
            continue;
        };
        let name = store.rest.name(id)?;
        views.push(member(
            id,
            &cell.load(),
            &name,
            store.table.busy_sum(id),
            now,
        ));
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
    }
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
        let port = value.port.to_u16();
        views.push(ServiceView {
            id,
            proto: match value.proto {
                proto::TCP => "tcp".to_owned(),
                proto::UDP => "udp".to_owned(),
                other => other.to_string(),
            },
            address: if value.address.is_any() {
                format!("*:{port}")
            } else {
                std::net::SocketAddr::new(value.address.into(), port).to_string()
            },
            kind: match value.kind {
                kind::LOCAL => "local",
                kind::FORWARDED => "forwarded",
                _ => "unknown",
            }
            .to_owned(),
            limits: limits(&store.rest.limits(id)?),
            counters: counters(&store.rest.counters(id)?),
        });
    }
    Ok(views)
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
