//! Ways to members: the kernel's route, the neighbour at its end, and asking the kernel to keep that
//! neighbour known.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Attributes, NLM_F_ACK, NLM_F_DUMP, answers, attribute, half, word};

/// How the kernel would reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct Route {
    /// Interface.
    pub(in crate::dataplane) interface: u32,
    /// Next hop; `None`: the address is on the link itself.
    pub(in crate::dataplane) gateway: Option<IpAddr>,
    /// Our address towards it.
    pub(in crate::dataplane) source: Option<IpAddr>,
    /// The address is this host's own.
    pub(in crate::dataplane) local: bool,
}

/// A neighbour with its Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct Neighbour {
    pub(in crate::dataplane) interface: u32,
    pub(in crate::dataplane) address: IpAddr,
    /// Zeroes: not known.
    pub(in crate::dataplane) mac: [u8; 6],
    /// `NUD_*`.
    pub(in crate::dataplane) state: u16,
    /// The kernel keeps it known by itself (`NTF_EXT_MANAGED`).
    pub(in crate::dataplane) managed: bool,
}

const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const RTN_LOCAL: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 1;
const NTF_EXT_MANAGED: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `NUD_INCOMPLETE` and `NUD_FAILED`: there is no address, or it is no longer believed.
const UNKNOWN: u16 = 0x01 | 0x20;
/// `NUD_PERMANENT` and `NUD_NOARP`: an operator's.
const FIXED: u16 = 0x80 | 0x40;

impl Neighbour {
    /// Whether frames can be sent there.
    pub(in crate::dataplane) const fn is_known(&self) -> bool {
        self.state & UNKNOWN == 0 && self.state != 0
    }

    /// Whether somebody wrote it down for good: nobody else is to touch it.
    pub(in crate::dataplane) const fn is_fixed(&self) -> bool {
        self.state & FIXED != 0
    }
}

const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// How the kernel would reach `to`; `None`: not at all.
pub(in crate::dataplane) fn route_to(to: IpAddr) -> io::Result<Option<Route>> {
    let octets = octets(to);
    let bits = (octets.len() * 8) as u8;
    let mut body = vec![family(to), bits, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&[0; 4]); // flags
    body.extend_from_slice(&attribute(RTA_DST, &octets));
    match answers(RTM_GETROUTE, 0, &body) {
        Ok(all) => Ok(all.first().and_then(|body| route(body))),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ESRCH | libc::EACCES) => Ok(None),
            _ => Err(error),
        },
    }
}

fn route(body: &[u8]) -> Option<Route> {
    let kind = *body.get(7)?;
    let mut route = Route {
        interface: 0,
        gateway: None,
        source: None,
        local: kind == RTN_LOCAL,
    };
    for (kind, value) in Attributes(body.get(12..)?) {
        match kind {
            RTA_OIF => route.interface = word(value, 0)?,
            RTA_GATEWAY => route.gateway = address(value),
            // A gateway of the other family: its own, then the address.
            RTA_VIA => route.gateway = address(value.get(2..)?),
            RTA_PREFSRC => route.source = address(value),
            _ => {}
        }
    }
    (route.interface != 0 && matches!(body.get(7)?, 1 | 2)).then_some(route)
}

/// Every neighbour of the interfaces, both families.
pub(in crate::dataplane) fn neighbours() -> io::Result<Vec<Neighbour>> {
    // An `ndmsg` of no family: both.
    let all = answers(RTM_GETNEIGH, NLM_F_DUMP, &[0; 12])?;
    Ok(all.iter().filter_map(|body| neighbour(body)).collect())
}

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let mut found = None;
    let mut mac = [0; 6];
    let mut managed = false;
    for (kind, value) in Attributes(body.get(12..)?) {
        match kind {
            NDA_DST => found = address(value),
            NDA_LLADDR => mac = value.try_into().unwrap_or_default(),
            NDA_FLAGS_EXT => managed = word(value, 0)? & NTF_EXT_MANAGED != 0,
            _ => {}
        }
    }
    Some(Neighbour {
        interface: word(body, 4)?,
        address: found?,
        mac,
        state: half(body, 8)?,
        managed,
    })
}

/// Has the kernel learn the neighbour and keep it known as long as it is there, traffic or none
/// (Linux 5.17).
pub(in crate::dataplane) fn manage(interface: u32, ip: IpAddr) -> io::Result<()> {
    change(interface, ip, NTF_EXT_MANAGED)
}

/// Leaves the neighbour to live as others do.
pub(in crate::dataplane) fn release(interface: u32, ip: IpAddr) -> io::Result<()> {
    change(interface, ip, 0)
}

fn change(interface: u32, ip: IpAddr, flags: u32) -> io::Result<()> {
    let mut body = vec![family(ip), 0, 0, 0];
    body.extend_from_slice(&interface.to_ne_bytes());
    body.extend_from_slice(&[0, 0]); // state
    // Without a state the kernel takes an entry only for using it.
    body.extend_from_slice(&[if flags == 0 { NTF_USE } else { 0 }, 0]);
    body.extend_from_slice(&attribute(NDA_DST, &octets(ip)));
    body.extend_from_slice(&attribute(NDA_FLAGS_EXT, &flags.to_ne_bytes()));
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    answers(RTM_NEWNEIGH, flags, &body).map(drop)
}

/// Addresses of this host, with the interface that each is on.
pub(in crate::dataplane) fn local_addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let all = answers(RTM_GETADDR, NLM_F_DUMP, &[0; 8])?;
    Ok(all
        .iter()
        .filter_map(|body| {
            let mut found = None;
            for (kind, value) in Attributes(body.get(8..)?) {
                // On a point-to-point link the first is the peer's.
                if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
                    found = address(value);
                }
            }
            Some((word(body, 4)?, found?))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_locally() {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let route = route_to(ip).expect("netlink").expect("a route");
        assert!(route.local && route.gateway.is_none());
        assert_eq!(route.source, Some(ip));
        let all = local_addresses().expect("netlink");
        assert!(all.contains(&(route.interface, ip)), "{all:?}");
    }

    #[test]
    fn neighbours_can_be_listed() {
        for neighbour in neighbours().expect("netlink") {
            assert!(neighbour.interface > 0);
        }
    }

    #[test]
    fn cut_messages_are_nothing_and_no_panic() {
        let body = [2u8; 40];
        for len in 0..body.len() {
            let _ = (route(&body[..len]), neighbour(&body[..len]));
        }
    }
}
