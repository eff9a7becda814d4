//! `SteerPass`, `SteerNatSource` and `SteerDecap` as services of the packet path, with what the host
//! knows of the ways to members. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    addr::Address,
    forward::{Forward, GUE_PORT, dscp, hash_kind, mode, on_empty},
    quic::ServerIdKey,
    service::{flag, kind, proto},
};

use super::{Desired, Image, ServiceKey, WantedService};
use crate::{
    config::spec::{self, FlowHash, Steer, Transport},
    dataplane::{DataplaneError, ring},
};

/// What the host says of its ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Our address towards each member.
    pub sources: HashMap<IpAddr, IpAddr>,
    /// Largest packet of the interface towards each member, bytes.
    pub mtus: HashMap<IpAddr, u32>,
    /// Ports that this host's own connections take, first and last.
    pub ephemeral: (u16, u16),
    /// Addresses of this host.
    pub local: Vec<IpAddr>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            sources: HashMap::new(),
            mtus: HashMap::new(),
            ephemeral: (32768, 60999),
            local: Vec::new(),
        }
    }
}

/// A member by its QUIC server id: index into [`Image::members`].
pub(in crate::dataplane) type WantedServerIds = Vec<(usize, ServerIdKey, usize)>;

/// Adds what is steered.
pub(super) fn steered(
    desired: &Desired,
    facts: &Facts,
    image: &mut Image,
) -> Result<(), DataplaneError> {
    let sluice = &desired.spec.sluice;
    let mut vips: BTreeSet<Address> = BTreeSet::new();
    for steer in &sluice.steers {
        let addresses = desired.addresses.get(steer.balancer);
        let members: &[SocketAddr] = addresses.map_or(&[], Vec::as_slice);
        let resolved: Vec<SocketAddr> = (members.iter().copied())
            .filter(|member| !member.ip().is_unspecified())
            .collect();
        let forward = forward(desired, steer, &resolved, facts, image)?;
        let address = steer.address.map_or(Address::ANY, Address::from);
        let key = ServiceKey {
            address,
            port: steer.first_port,
            last: if steer.last_port == steer.first_port {
                0
            } else {
                steer.last_port
            },
            proto: transport(steer),
        };
        let wide = key.last != 0 || address.is_any();
        image.services.insert(
            key,
            WantedService {
                kind: kind::FORWARDED,
                balancer: Some(steer.balancer),
                flags: if wide { flag::WIDE } else { 0 },
                forward: Some(forward),
                ..WantedService::default()
            },
        );
        if !address.is_any() {
            vips.insert(address);
        }
        server_ids(desired, steer, members, image)?;
    }
    for address in vips {
        let key = ServiceKey {
            address,
            port: 0,
            last: 0,
            proto: 0,
        };
        let vip = WantedService {
            kind: kind::VIP,
            flags: flag::ECHO,
            ..WantedService::default()
        };
        image.services.insert(key, vip);
    }
    answers(desired, facts, image)?;
    if !sluice.decap_from.is_empty() {
        unpacking(image);
    }
    ranges_fit(image)
}

const fn transport(steer: &Steer) -> u8 {
    match steer.transport {
        Transport::Tcp => proto::TCP,
        Transport::Udp => proto::UDP,
    }
}

/// As a person writes it.
pub(in crate::dataplane) fn shown(steer: &Steer) -> String {
    let transport = match steer.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let address = match steer.address {
        Some(ip) => SocketAddr::new(ip, steer.first_port).to_string(),
        None => format!("*:{}", steer.first_port),
    };
    if steer.last_port == steer.first_port {
        format!("SteerPass {transport}://{address}")
    } else {
        format!("SteerPass {transport}://{address}-{}", steer.last_port)
    }
}

fn forward(
    desired: &Desired,
    steer: &Steer,
    members: &[SocketAddr],
    facts: &Facts,
    image: &mut Image,
) -> Result<Forward, DataplaneError> {
    let balancer = &desired.spec.balancers[steer.balancer];
    let (hash, quic_len) = match steer.hash {
        FlowHash::FiveTuple => (hash_kind::FIVE_TUPLE, 0),
        FlowHash::Source => (hash_kind::SOURCE, 0),
        FlowHash::Quic { server_id } => (hash_kind::QUIC, server_id),
    };
    let mode = match steer.forward {
        spec::Forward::Dsr => mode::DSR,
        spec::Forward::IpIp => mode::IPIP,
        spec::Forward::Gue => mode::GUE,
        spec::Forward::Nat => mode::NAT,
    };
    let mut forward = Forward {
        seed: ring::flow_seed(&balancer.name),
        mode,
        hash,
        quic_len,
        on_empty: if steer.reset_on_empty {
            on_empty::RESET
        } else {
            on_empty::DROP
        },
        dscp: dscp::COPY,
        gue_port: GUE_PORT.to_be_bytes(),
        mtu: members
            .iter()
            .filter_map(|member| facts.mtus.get(&member.ip()))
            .min()
            .map_or(0, |mtu| u16::try_from(*mtu).unwrap_or(u16::MAX)),
        ..Forward::default()
    };
    // Our address of each family, towards the first member of that family.
    for member in members {
        match facts.sources.get(&member.ip()) {
            Some(IpAddr::V4(ip)) if forward.source4 == [0; 4] => forward.source4 = ip.octets(),
            Some(IpAddr::V6(ip)) if forward.source6 == [0; 16] => forward.source6 = ip.octets(),
            _ => {}
        }
    }
    if mode == mode::NAT {
        nat(desired, steer, members, facts, &mut forward, image)?;
    }
    Ok(forward)
}

/// Sources and ports of `forward=nat`.
fn nat(
    desired: &Desired,
    steer: &Steer,
    members: &[SocketAddr],
    facts: &Facts,
    forward: &mut Forward,
    image: &mut Image,
) -> Result<(), DataplaneError> {
    let vip = steer.address;
    if let Some(other) = members
        .iter()
        .find(|member| vip.is_some_and(|vip| vip.is_ipv4() != member.is_ipv4()))
    {
        return Err(DataplaneError::Refused(format!(
            "{}: member {} is of the other address family, which forward=nat does not translate",
            shown(steer),
            other.ip()
        )));
    }
    let four = vip.is_none_or(|vip| vip.is_ipv4());
    let named = (desired.spec.sluice.nat_sources.iter()).find(|s| s.address.is_ipv4() == four);
    let ports = named.and_then(|source| source.ports);
    match named.map(|source| source.address) {
        Some(IpAddr::V4(ip)) => forward.source4 = ip.octets(),
        Some(IpAddr::V6(ip)) => forward.source6 = ip.octets(),
        None => {}
    }
    let source = if four {
        Address::from_v4(forward.source4)
    } else {
        Address::from_v6(forward.source6)
    };
    let unset = if four {
        forward.source4 == [0; 4]
    } else {
        forward.source6 == [0; 16]
    };
    if unset {
        // No member has an address yet, or there is no way to any: its packets are dropped until
        // there is one (`Dataplane::follow_ways`).
        return Ok(());
    }
    let own = facts.local.contains(&IpAddr::from(source));
    let (first, last) = match ports {
        Some((first, last)) => {
            let (low, high) = facts.ephemeral;
            if own && first <= high && low <= last {
                return Err(DataplaneError::Refused(format!(
                    "SteerNatSource: ports {first}-{last} of {} meet those that this host's own \
                     connections take ({low}-{high}); move one of the two \
                     (net.ipv4.ip_local_port_range)",
                    IpAddr::from(source)
                )));
            }
            (first, last)
        }
        // An address of nobody else's: all that no service is known by.
        None if !own => (1024, 65535),
        None => beside(facts.ephemeral).ok_or_else(|| {
            DataplaneError::Refused(format!(
                "{}: this host's own connections take nearly every port; name some with \
                 SteerNatSource, or make net.ipv4.ip_local_port_range smaller",
                shown(steer)
            ))
        })?,
    };
    forward.nat_first = first;
    forward.nat_ports = (last - first).saturating_add(1);
    let proto = transport(steer);
    image.answers.insert((source, proto), (first, last));
    Ok(())
}

/// The larger of the port ranges above 1023 that are not ephemeral; at least 1024 of them.
pub(super) fn beside((low, high): (u16, u16)) -> Option<(u16, u16)> {
    let below = (1024, low.saturating_sub(1));
    let above = (high.saturating_add(1), 65535);
    // Above first: servers listen on low ports.
    [above, below].into_iter().find(|(first, last)| {
        last > first && last - first >= 1023 && (*first > high || *last < low)
    })
}

/// Where members' answers come to: ports that are theirs alone.
fn answers(desired: &Desired, facts: &Facts, image: &mut Image) -> Result<(), DataplaneError> {
    for ((address, proto), (first, last)) in image.answers.clone() {
        // Where nothing is known of the host the ports are not those that will be taken.
        let is_own = facts.local.contains(&IpAddr::from(address));
        let met = (image.services.iter()).find(|(key, service)| {
            key.proto == proto
                && matches!(service.kind, kind::LOCAL | kind::FORWARDED)
                && (key.address == address || is_own && key.address.is_any())
                && key.port <= last
                && first <= key.port.max(key.last)
        });
        if let Some((key, service)) = met.filter(|_| !facts.local.is_empty()) {
            return Err(meeting(desired, (address, first, last), key, service));
        }
        let key = ServiceKey {
            address,
            port: first,
            last,
            proto,
        };
        let service = WantedService {
            kind: kind::NAT,
            ..WantedService::default()
        };
        image.services.insert(key, service);
    }
    Ok(())
}

/// Of ports that `nat` sends from and a service on one of them.
fn meeting(
    desired: &Desired,
    (address, first, last): (Address, u16, u16),
    key: &ServiceKey,
    service: &WantedService,
) -> DataplaneError {
    let at = |place: &spec::Place| format!("{}:{}", place.file.display(), place.line);
    let of_family = |steer: &&Steer| {
        let ours = IpAddr::from(address);
        steer.forward == spec::Forward::Nat
            && transport(steer) == key.proto
            && steer
                .address
                .is_none_or(|vip| vip.is_ipv4() == ours.is_ipv4())
    };
    let sluice = &desired.spec.sluice;
    let nat = (sluice.steers.iter().find(of_family)).map_or_else(String::new, |steer| {
        format!("{} ({})", shown(steer), at(&steer.at))
    });
    let other = if service.kind == kind::FORWARDED {
        let is = |steer: &&Steer| {
            steer.address.map_or(Address::ANY, Address::from) == key.address
                && (steer.first_port, transport(steer)) == (key.port, key.proto)
        };
        (sluice.steers.iter().find(is)).map(|steer| format!("{} ({})", shown(steer), at(&steer.at)))
    } else {
        let is = |listener: &&spec::Listener| {
            let ip = listener.address.ip();
            listener.address.port() == key.port
                && (ip.is_unspecified() || Address::from(ip) == key.address)
        };
        (desired.spec.listeners.iter().find(is))
            .map(|listener| format!("Listen {} ({})", listener.address, at(&listener.at)))
    };
    DataplaneError::Refused(format!(
        "{nat}: forward=nat takes ports {first}-{last} of {} for itself, and {} is on one of them; \
         name others with SteerNatSource",
        IpAddr::from(address),
        other.unwrap_or_else(|| "a service".to_owned())
    ))
}

/// The member's side: encapsulated packets to whatever address is this host's.
fn unpacking(image: &mut Image) {
    for (port, proto) in [(0, proto::IPIP), (0, proto::IPV6), (GUE_PORT, proto::UDP)] {
        let key = ServiceKey {
            address: Address::ANY,
            port,
            last: 0,
            proto,
        };
        let service = WantedService {
            kind: kind::DECAP,
            ..WantedService::default()
        };
        image.services.entry(key).or_insert(service);
    }
}

/// A set holds all port ranges of one address and protocol.
fn ranges_fit(image: &Image) -> Result<(), DataplaneError> {
    let mut count: BTreeMap<(Address, u8), usize> = BTreeMap::new();
    for key in image.services.keys().filter(|key| key.last != 0) {
        let ranges = count.entry((key.address, key.proto)).or_default();
        *ranges += 1;
        if *ranges > lb_common::abi::SERVICE_WAYS {
            return Err(DataplaneError::Capacity {
                what: "port ranges of one address and protocol",
                wanted: *ranges,
                free: lb_common::abi::SERVICE_WAYS,
                capacity: lb_common::abi::SERVICE_WAYS,
                hint: "; make fewer, wider ranges",
            });
        }
    }
    Ok(())
}

/// A member's QUIC server id: the last bytes of its address, with zeroes before a short one.
pub(in crate::dataplane) fn server_id(member: IpAddr, len: u8) -> [u8; 16] {
    let mut padded = [0; 32];
    let octets = match member {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    padded[32 - octets.len()..].copy_from_slice(&octets);
    let len = usize::from(len).min(16);
    let mut id = [0; 16];
    id[..len].copy_from_slice(&padded[32 - len..]);
    id
}

fn server_ids(
    desired: &Desired,
    steer: &Steer,
    members: &[SocketAddr],
    image: &mut Image,
) -> Result<(), DataplaneError> {
    let FlowHash::Quic { server_id: len } = steer.hash else {
        return Ok(());
    };
    let first = (image.members.iter()).position(|member| member.balancer == steer.balancer);
    let mut seen: HashMap<[u8; 16], IpAddr> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        if member.ip().is_unspecified() {
            continue;
        }
        let id = server_id(member.ip(), len);
        if let Some(other) = seen.insert(id, member.ip()) {
            return Err(DataplaneError::Refused(format!(
                "{}: members {other} and {} of balancer {} have the same last {len} bytes, which are \
                 their QUIC server id; use hash=quic:LEN with a greater LEN",
                shown(steer),
                member.ip(),
                desired.spec.balancers[steer.balancer].name
            )));
        }
        let key = ServerIdKey {
            len: u16::from(len),
            id,
            ..ServerIdKey::default()
        };
        let known = image
            .server_ids
            .iter()
            .any(|(balancer, known, _)| *balancer == steer.balancer && *known == key);
        if !known {
            let member = first.unwrap_or(0) + index;
            image.server_ids.push((steer.balancer, key, member));
        }
    }
    Ok(())
}
