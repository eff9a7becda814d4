//! From a configuration to what the maps shall hold: members, services with their limits, lists.
//! Pure; which slot and which set each takes is decided in `diff`.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::{
    addr::{Address, Be16},
    forward::Forward,
    limit::{Limit, LimitKind, ServiceLimits},
    member::MemberName,
    service::{kind, proto},
};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::{DataplaneError, prefix::PrefixKey};
use crate::config::spec::{GuardLimit, HostAddress, Listener, Per, Spec};

mod steer;
#[cfg(test)]
pub(super) mod tests;

pub use steer::Facts;
pub(super) use steer::{WantedServerIds, shown};

/// What a generation wants the maps to hold: a [`Spec`] and where its members are.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Per balancer, per member: where it is; the unspecified address: nowhere, or not known yet.
    /// Parallel to `spec.balancers[b].members[m]`.
    pub addresses: Vec<Vec<SocketAddr>>,
    /// The configuration it was made from.
    pub spec: Arc<Spec>,
}

/// A member as the file wants it.
#[derive(Clone, Debug)]
pub(super) struct WantedMember {
    /// Index of its balancer in the configuration.
    pub(super) balancer: usize,
    /// See [`identity`].
    pub(super) identity: [u64; 2],
    pub(super) name: MemberName,
    pub(super) address: SocketAddr,
    /// `loadfactor` times 100.
    pub(super) weight: u32,
    pub(super) lbset: u8,
    /// `status=`.
    pub(super) status: u64,
}

/// By what a service is found: address ([`Address::ANY`] for all), port, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceKey {
    pub(super) address: Address,
    /// Host order.
    pub(super) port: u16,
    /// Last port of a service on many, host order; 0: on `port` alone.
    pub(super) last: u16,
    pub(super) proto: u8,
}

/// What a service is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WantedService {
    pub(super) limits: ServiceLimits,
    /// A constant of [`kind`].
    pub(super) kind: u8,
    /// Index of its balancer in the configuration.
    pub(super) balancer: Option<usize>,
    /// [`lb_common::service::flag`] bits but for that of limits.
    pub(super) flags: u32,
    /// Of a forwarded one; its balancer's ring is filled in later.
    pub(super) forward: Option<Forward>,
}

impl Default for WantedService {
    fn default() -> Self {
        Self {
            limits: ServiceLimits::default(),
            kind: kind::LOCAL,
            balancer: None,
            flags: 0,
            forward: None,
        }
    }
}

/// What a configuration wants the maps to hold, without places.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// In the order of the configuration.
    pub(super) members: Vec<WantedMember>,
    pub(super) services: BTreeMap<ServiceKey, WantedService>,
    /// Source addresses of `forward=nat` by protocol, with their ports.
    pub(super) answers: BTreeMap<(Address, u8), (u16, u16)>,
    pub(super) server_ids: WantedServerIds,
    /// ICMP limits of the host.
    pub(super) host_limits: ServiceLimits,
    pub(super) prefixes: Vec<PrefixKey>,
    pub(super) notices: Vec<String>,
}

impl Desired {
    /// Takes a configuration and one address for each member, in its order.
    pub fn of(spec: Arc<Spec>, addresses: Vec<Vec<SocketAddr>>) -> Result<Self, DataplaneError> {
        let desired = Self { addresses, spec };
        desired.image(&Facts::default())?;
        Ok(desired)
    }

    pub(super) fn image(&self, facts: &Facts) -> Result<Image, DataplaneError> {
        let mut image = Image::default();
        self.members(&mut image)?;
        services(&self.spec, &mut image);
        steer::steered(self, facts, &mut image)?;
        limits(&self.spec, &mut image);
        let sluice = &self.spec.sluice;
        image.prefixes = (sluice.deny.iter().map(|p| PrefixKey::deny(*p)))
            .chain(sluice.allow.iter().map(|p| PrefixKey::allow(*p)))
            .chain(sluice.decap_from.iter().map(|p| PrefixKey::decap(*p)))
            .collect();
        image.prefixes.sort_unstable();
        image.prefixes.dedup();
        Ok(image)
    }

    fn members(&self, image: &mut Image) -> Result<(), DataplaneError> {
        // A name may occur twice: balancers of two virtual hosts are two balancers in httpd.
        let mut twins: HashMap<(&str, &str), u32> = HashMap::new();
        for (index, balancer) in self.spec.balancers.iter().enumerate() {
            let addresses = self.addresses.get(index).map_or(&[][..], Vec::as_slice);
            if addresses.len() != balancer.members.len() {
                return Err(DataplaneError::Unresolved {
                    balancer: balancer.name.clone(),
                    members: balancer.members.len(),
                    addresses: addresses.len(),
                });
            }
            for (member, address) in balancer.members.iter().zip(addresses) {
                let twin = twins.entry((&balancer.name, &member.url)).or_default();
                if *twin == 1 {
                    image.notices.push(format!(
                        "member {} of balancer {} is configured more than once: its copies are told \
                         apart by their order alone",
                        member.url, balancer.name
                    ));
                }
                image.members.push(WantedMember {
                    balancer: index,
                    identity: identity(&balancer.name, &member.url, *twin),
                    name: MemberName {
                        balancer: text(&balancer.name),
                        url: text(&member.url),
                        route: text(&member.route),
                    },
                    address: *address,
                    weight: member.lbfactor,
                    lbset: member.lbset,
                    status: member.status,
                });
                *twin += 1;
            }
        }
        Ok(())
    }
}

/// A member's identity: a hash of its balancer's name and its configured URL. `twin` counts earlier
/// members of the same name and URL. Its first word is never zero, which marks a free slot.
pub(super) fn identity(balancer: &str, url: &str, twin: u32) -> [u64; 2] {
    let mut hasher = SipHasher13::new();
    hasher.write(balancer.as_bytes());
    hasher.write_u8(0);
    hasher.write(url.as_bytes());
    if twin > 0 {
        hasher.write_u8(0);
        hasher.write(&twin.to_le_bytes());
    }
    let hash = hasher.finish128();
    [hash.h1.max(1), hash.h2]
}

/// `s`, cut at a character boundary and zero-filled.
pub(super) fn text<const N: usize>(s: &str) -> [u8; N] {
    let mut end = s.len().min(N);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = [0; N];
    out[..end].copy_from_slice(&s.as_bytes()[..end]);
    out
}

/// Every listener is a TCP service. Where a virtual host limits one address of a wildcard listener,
/// that address becomes a service of its own, which XDP finds before the wildcard.
fn services(spec: &Spec, image: &mut Image) {
    let key = |ip: IpAddr, port: u16| ServiceKey {
        address: if ip.is_unspecified() {
            Address::ANY
        } else {
            ip.into()
        },
        port,
        last: 0,
        proto: proto::TCP,
    };
    for listener in &spec.listeners {
        let service = key(listener.address.ip(), listener.address.port());
        image.services.entry(service).or_default();
    }
    for limit in &spec.sluice.limits {
        for address in limit.addresses.iter().flatten() {
            let Some(ip) = address.ip else { continue };
            for listener in spec.listeners.iter().filter(|l| takes(l, address)) {
                let service = key(ip, listener.address.port());
                image.services.entry(service).or_default();
            }
        }
    }
}

/// Limits of the services that are there. What a virtual host says goes before what the whole server
/// says, so it is applied last.
fn limits(spec: &Spec, image: &mut Image) {
    let mut limits: Vec<&GuardLimit> = spec.sluice.limits.iter().collect();
    limits.sort_by_key(|limit| limit.addresses.is_some());
    for limit in limits {
        if limit.kind == LimitKind::ICMP.0 {
            set(&mut image.host_limits, limit);
            continue;
        }
        let takers = (image.services.iter_mut())
            .filter(|(_, wanted)| matches!(wanted.kind, kind::LOCAL | kind::FORWARDED));
        for (service, wanted) in takers {
            let applies = limit
                .addresses
                .as_ref()
                .is_none_or(|addresses| addresses.iter().any(|a| covers(a, service)));
            if applies {
                set(&mut wanted.limits, limit);
            }
        }
    }
}

/// Whether connections to the host's address arrive on the listener.
fn takes(listener: &Listener, host: &HostAddress) -> bool {
    let port = host.port.is_none_or(|p| p == listener.address.port());
    let wildcard = listener.address.ip();
    let ip = host.ip.is_none_or(|ip| {
        ip == wildcard
            || (wildcard.is_unspecified() && (listener.dual || ip.is_ipv4() == wildcard.is_ipv4()))
    });
    port && ip
}

fn covers(host: &HostAddress, service: &ServiceKey) -> bool {
    host.port.is_none_or(|port| port == service.port)
        && host.ip.is_none_or(|ip| {
            Address::from(ip) == service.address
                || (ip.is_unspecified() && service.address.is_any())
        })
}

fn set(limits: &mut ServiceLimits, configured: &GuardLimit) {
    let rows = match configured.per {
        Per::Source { .. } => &mut limits.source,
        Per::Service => &mut limits.service,
    };
    if let Some(row) = rows.get_mut(usize::from(configured.kind)) {
        *row = limit_of(configured);
    }
}

/// Shortest and longest window, ns: ten ticks of the packet path's coarse clock at 250 Hz, below
/// which a window would be skipped, and the 73 minutes that its arithmetic holds.
const WINDOW_NS: std::ops::RangeInclusive<u64> = 40_000_000..=4_380_000_000_000;

/// A configured limit as `LIMITS` holds it: `burst` packets in a window of `burst / rate` seconds.
///
/// Where that window would be shorter or longer than the packet path can count, the rate is kept
/// and the burst gives way.
pub fn limit_of(configured: &GuardLimit) -> Limit {
    let rate = configured.rate.max(1);
    let window_ns = u64::from(configured.burst.max(1)) * 1_000_000_000 / u64::from(rate);
    let (window_ns, packets) = if WINDOW_NS.contains(&window_ns) {
        (window_ns, configured.burst.max(1))
    } else {
        let window_ns = window_ns.clamp(*WINDOW_NS.start(), *WINDOW_NS.end());
        // Cannot overflow: 2^32 * 4.4e12 needs 75 bits, hence the wider product.
        let packets = u128::from(window_ns) * u128::from(rate) / 1_000_000_000;
        let packets = packets.clamp(1, 0x7fff_ffff);
        (window_ns, u32::try_from(packets).unwrap_or(0x7fff_ffff))
    };
    let (prefix4, prefix6) = match configured.per {
        Per::Source { v4, v6 } => (v4, v6),
        Per::Service => (0, 0),
    };
    Limit {
        window_ns,
        packets,
        rate,
        action: configured.action,
        prefix4,
        prefix6,
        ..Limit::default()
    }
}

impl ServiceKey {
    /// As a way holds it: 0 for a range.
    pub(super) const fn be_port(&self) -> Be16 {
        Be16::new(if self.last == 0 { self.port } else { 0 })
    }

    /// As a way holds it.
    pub(super) const fn range(&self) -> [u16; 2] {
        if self.last == 0 {
            [0; 2]
        } else {
            [self.port, self.last]
        }
    }
}
