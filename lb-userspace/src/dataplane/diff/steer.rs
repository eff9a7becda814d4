//! Steps of steering: how services forward, QUIC server ids, what the settings must say. Pure.

use std::collections::HashMap;

use lb_common::{
    forward::{Forward, mode},
    quic::{ServerIdKey, ServerIdValue},
    service::{ServiceWay, kind, range_bit},
    settings::{Settings, gate},
};

use super::{Actual, Op, members::Members};
use crate::dataplane::{DataplaneError, desired::Image, place::Placement};

/// Steps of a table: what comes before services lead there, and what goes when they no longer do.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) write: Vec<Op>,
    pub(super) remove: Vec<Op>,
}

pub(super) fn forwards(
    actual: &Actual,
    image: &Image,
    placement: &Placement,
    balancers: &HashMap<usize, u16>,
) -> Steps {
    let mut wanted: HashMap<u16, Forward> = HashMap::new();
    for (key, id) in &placement.ids {
        let service = &image.services[key];
        let Some(forward) = service.forward else {
            continue;
        };
        let balancer = service.balancer.and_then(|index| balancers.get(&index));
        let balancer = balancer.copied().unwrap_or(0);
        wanted.insert(
            *id,
            Forward {
                balancer,
                ..forward
            },
        );
    }
    let mut steps = Steps::default();
    for (id, is) in actual.forwards.iter().enumerate() {
        let service = id as u16;
        let forward = wanted.get(&service).copied().unwrap_or_default();
        if *is == forward {
            continue;
        }
        let step = Op::Forward {
            service,
            forward: Box::new(forward),
        };
        if wanted.contains_key(&service) {
            steps.write.push(step);
        } else {
            steps.remove.push(step);
        }
    }
    steps
}

/// Steps of the QUIC server ids.
#[derive(Default)]
pub(super) struct ServerIds {
    pub(super) add: Vec<Op>,
    pub(super) remove: Vec<Op>,
}

pub(super) fn server_ids(actual: &Actual, image: &Image, members: &Members) -> ServerIds {
    let mut wanted: HashMap<ServerIdKey, ServerIdValue> = HashMap::new();
    for (balancer, key, member) in &image.server_ids {
        let (Some(balancer), Some(id)) =
            (members.balancers.get(balancer), members.ids.get(*member))
        else {
            continue;
        };
        let key = ServerIdKey {
            balancer: *balancer,
            ..*key
        };
        let value = ServerIdValue {
            member: id.0 as u16,
            incarnation: members.incarnations[*member] as u8,
            ..ServerIdValue::default()
        };
        wanted.insert(key, value);
    }
    let mut steps = ServerIds::default();
    for (key, value) in &wanted {
        let old = actual.server_ids.get(key).copied();
        if old != Some(*value) {
            steps.add.push(Op::ServerId {
                key: *key,
                value: Some(*value),
                old,
            });
        }
    }
    for (key, old) in &actual.server_ids {
        if !wanted.contains_key(key) {
            steps.remove.push(Op::ServerId {
                key: *key,
                value: None,
                old: Some(*old),
            });
        }
    }
    steps
}

/// Of the steps to an image of the same configuration those that only other ways to members ask
/// for: the rest is a publish's, for what an operator changed since is not to be undone.
///
/// Where `ipip` and `gue` come from follows the routes; a connection of `nat` would break, so of
/// those services only the ones change that had no address to come from. `Err`: the table of services
/// would have to be laid out anew.
pub(in crate::dataplane) fn of_ways(
    ops: Vec<Op>,
    actual: &Actual,
) -> Result<Vec<Op>, DataplaneError> {
    let had_none = |service: u16| {
        let is = actual.forwards.get(usize::from(service));
        is.is_some_and(|is| is.mode == mode::NAT && is.nat_ports == 0)
    };
    let (mut forwards, mut sources) = (Vec::new(), Vec::new());
    for op in &ops {
        let Op::Forward { service, forward } = op else {
            continue;
        };
        let is_new = forward.mode == mode::NAT && forward.nat_ports != 0 && had_none(*service);
        if is_new {
            sources.extend([true, false].map(|is_v4| forward.source(is_v4)));
        }
        if is_new || [mode::IPIP, mode::GUE].contains(&forward.mode) {
            forwards.push(op.clone());
        }
    }
    let answers = |way: &ServiceWay| way.kind == kind::NAT && sources.contains(&way.address);
    let ids: Vec<u16> = (ops.iter())
        .filter_map(|op| match op {
            Op::Way(placed) if answers(&placed.value) => Some(placed.value.id),
            _ => None,
        })
        .collect();
    let mut out = Vec::new();
    for op in ops {
        match op {
            Op::ClearTraffic { service } if ids.contains(&service) => out.push(op),
            Op::Way(placed) if answers(&placed.value) => out.push(op),
            Op::Settings(wanted) if !ids.is_empty() => {
                if wanted.service_seed != actual.settings.service_seed {
                    return Err(DataplaneError::Refused(
                        "the service table has to be laid out anew for where answers of members \
                         come to"
                            .to_owned(),
                    ));
                }
                out.push(Op::Settings(Settings {
                    gates: actual.settings.gates | wanted.gates & gate::RANGES,
                    range_filter: wanted.range_filter,
                    ..actual.settings
                }));
            }
            _ => {}
        }
    }
    // Last: a member's answer must find its way back.
    out.extend(forwards);
    Ok(out)
}

/// Flows that each CPU may enter in a beat: a table of the default size takes two beats of it.
const INSERTS: u32 = 131_072;
/// Flows that each CPU may take for live in a beat: far beyond what real clients open.
const PROMOTIONS: u32 = 32_768;
/// Answers that each CPU may send in a beat.
const ANSWERS: u32 = 1_000;

/// What steering needs of the settings.
pub(super) fn steer_settings(
    settings: &mut Settings,
    image: &Image,
    draw: &mut dyn FnMut() -> u64,
) {
    let has = |kind: u8| image.services.values().any(|service| service.kind == kind);
    let mut gates = 0;
    if has(kind::FORWARDED) {
        gates |= gate::STEER | gate::FLOWS;
    }
    settings.range_filter = (image.services.keys())
        .filter(|key| key.last != 0)
        .fold(0, |all, key| all | range_bit(key.address, key.proto));
    if settings.range_filter != 0 {
        gates |= gate::RANGES;
    }
    // The list's gate says that somebody may send; this one would be open without senders too.
    settings.gates |= gates;
    // Flows lie where the seed puts them: kept as long as the table is.
    if settings.flow_seed == [0; 2] && has(kind::FORWARDED) {
        settings.flow_seed = [draw(), draw()];
    }
    settings.inserts = INSERTS;
    settings.promotions = PROMOTIONS;
    settings.answers = ANSWERS;
}
