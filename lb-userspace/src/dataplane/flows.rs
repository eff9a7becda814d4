//! The flow tables as people read them: straight from the pinned maps, with the daemon or without
//! it. Nothing is written.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
};

use lb_common::{
    addr::Address,
    flow_table::State,
    member::{MemberId, MemberState},
    service::{kind, proto},
};
use serde::{Deserialize, Serialize};

use super::{
    DataplaneError, Place, kernel,
    store::{Flow, Store},
    table::monotonic_ns,
    tables::Beat,
    view,
};

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Client.
    pub source: SocketAddr,
    /// The service as the client named it.
    pub destination: String,
    /// Service id.
    pub service: u16,
    /// Its balancer.
    pub balancer: String,
    /// URL of the member; empty: the member it was with is gone.
    pub member: String,
    /// Member id.
    pub member_id: u16,
    /// `new`: one packet seen; `seen`: another; `live`: it went on; `closing`: FIN or RST was seen.
    pub state: String,
    /// Seconds since its last packet, about.
    pub idle_seconds: u64,
    /// Whether its next packet goes to that member: it is neither stopped nor failed nor gone.
    pub stays: bool,
}

/// Which flows.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// From this client.
    pub source: Option<IpAddr>,
    /// From this port of it.
    pub port: Option<u16>,
    /// Service id.
    pub service: Option<u16>,
    /// Member's URL, or its address and port.
    pub member: Option<String>,
}

/// Flows that are listed, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// As many as were asked for.
    pub flows: Vec<FlowView>,
    /// That match, by state.
    pub by_state: BTreeMap<String, u64>,
    /// Places for flows of IPv4 and of one port, for other flows, for rewritten connections.
    pub places: [usize; 3],
}

/// Names that flows are shown with.
struct Names {
    members: HashMap<u32, Member>,
    services: HashMap<u16, (SocketAddr, u8)>,
}

struct Member {
    balancer: String,
    url: String,
    address: SocketAddr,
    incarnation: u8,
    state: MemberState,
}

/// Reads the flows of an instance; at most `most` are listed, all that match are counted.
pub fn read_flows(
    place: &Place,
    filter: &FlowFilter,
    most: usize,
) -> Result<FlowList, DataplaneError> {
    let store = kernel::open_pins(place)?;
    let names = Names::of(&store)?;
    let meta = store.meta().load();
    let beat = Beat {
        tick: meta.beat_tick,
        shift: meta.beat_shift,
        offset: meta.beat_offset,
    };
    let now = beat.at(monotonic_ns());
    let [sets4, sets6, nat] = store.l4.sizes();
    let ways = lb_common::flow_table::WAYS;
    let mut list = FlowList {
        places: [sets4 * ways, sets6 * ways, nat],
        ..FlowList::default()
    };
    for flow in store.l4.flows() {
        let view = names.view(&flow, beat, now);
        if !matches(filter, &flow, &view, &names) {
            continue;
        }
        *list.by_state.entry(view.state.clone()).or_default() += 1;
        if list.flows.len() < most {
            list.flows.push(view);
        }
    }
    Ok(list)
}

/// How many flows an instance's packets may still come for: those that are live or were seen twice.
pub fn living_flows(place: &Place) -> Result<u64, DataplaneError> {
    let store = kernel::open_pins(place)?;
    let living = |flow: &Flow| matches!(flow.entry.state(), State::SEEN | State::LIVE);
    Ok(store.l4.flows().filter(living).count() as u64)
}

fn matches(filter: &FlowFilter, flow: &Flow, view: &FlowView, names: &Names) -> bool {
    filter.source.is_none_or(|ip| ip == flow.source.ip())
        && filter.port.is_none_or(|port| port == flow.source.port())
        && filter.service.is_none_or(|service| service == flow.service)
        && filter.member.as_ref().is_none_or(|wanted| {
            let address = names.members.get(&u32::from(flow.entry.member()));
            view.member == *wanted
                || address.is_some_and(|member| member.address.to_string() == *wanted)
        })
}

impl Names {
    fn of(store: &Store) -> Result<Self, DataplaneError> {
        let mut members = HashMap::new();
        for id in (1..lb_common::abi::MAX_MEMBERS).map(MemberId) {
            let used = |cell: &&super::sys::MemberCell| cell.identity()[0] != 0;
            let Some(cell) = store.table.cell(id).filter(used) else {
                continue;
            };
            let name = store.rest.name(id)?;
            let member = Member {
                balancer: view::text(&name.balancer),
                url: view::text(&name.url),
                address: cell.address(),
                incarnation: cell.incarnation.load(Relaxed) as u8,
                state: cell.state(),
            };
            members.insert(id.0, member);
        }
        let services = (store.ways().iter())
            .filter(|way| way.value.kind == kind::FORWARDED)
            .map(|way| {
                let ip = IpAddr::from(way.value.address);
                let address = SocketAddr::new(ip, way.value.port.to_u16());
                (way.value.id, (address, way.value.proto))
            })
            .collect();
        Ok(Self { members, services })
    }

    fn view(&self, flow: &Flow, beat: Beat, now: u32) -> FlowView {
        let entry = flow.entry;
        let member = self.members.get(&u32::from(entry.member()));
        let member = member.filter(|member| member.incarnation == entry.incarnation());
        let service = self.services.get(&flow.service);
        let destination = match (flow.destination, service) {
            (Some(known), _) => known.to_string(),
            (None, Some((address, _))) => address.to_string(),
            (None, None) => String::new(),
        };
        let state = State::NAMES.get(usize::from(entry.state().0));
        let leaves = MemberState::STOPPED | MemberState::HEALTH_FAILED;
        FlowView {
            proto: match service.map(|(_, proto)| *proto) {
                Some(proto::TCP) => "tcp",
                Some(proto::UDP) => "udp",
                _ => "",
            }
            .to_owned(),
            source: unmapped(flow.source),
            destination,
            service: flow.service,
            balancer: member.map_or_else(String::new, |m| m.balancer.clone()),
            member: member.map_or_else(String::new, |m| m.url.clone()),
            member_id: entry.member(),
            state: state.copied().unwrap_or("unknown").to_owned(),
            idle_seconds: beat.whole_seconds(entry.age(now)),
            stays: member.is_some_and(|m| !m.state.has(leaves)),
        }
    }
}

/// IPv4 written as such.
fn unmapped(address: SocketAddr) -> SocketAddr {
    let ip = IpAddr::from(Address::from(address.ip()));
    SocketAddr::new(ip, address.port())
}
