//! What the kernel says of a network interface, by rtnetlink: whatever is asked is of the caller's
//! own network namespace, which sysfs, mounted elsewhere, is not. Routes and neighbours are in
//! `hops.rs`, news of all of them in `watch.rs`.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

mod hops;
mod watch;

pub(super) use hops::{Neighbour, Route, local_addresses, manage, neighbours, release, route_to};
pub use watch::Watch;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Administratively up.
    pub(super) up: bool,
    /// With a carrier and running.
    pub(super) running: bool,
    /// Bytes.
    pub(super) mtu: u32,
    /// Kind of a virtual interface: `veth`, `bridge`, `bond`.
    pub(super) kind: Option<String>,
    /// Index of the bridge or bond it is a port of.
    pub(super) master: Option<u32>,
    /// Index of the interface below: of a VLAN's, its trunk.
    pub(super) lower: Option<u32>,
    /// Of a VLAN's (802.1Q): which.
    pub(super) vlan: Option<u16>,
    /// Times that the carrier came or went.
    pub(super) carrier_changes: u32,
    /// Receive queues.
    pub(super) rx_queues: u32,
    /// Ethernet address; zeroes: none.
    pub(super) mac: [u8; 6],
    pub(super) xdp: Option<Running>,
}

/// A program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// `native`, `generic`, `offloaded` or `several`.
    pub(super) mode: &'static str,
    /// Program id.
    pub(super) program: u32,
}

const NETLINK_ROUTE: i32 = 0;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_XDP: u16 = 43;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Flags of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The interface of that name, if there is one.
pub(super) fn by_name(name: &str) -> io::Result<Option<Link>> {
    // IFNAMSIZ with its terminator.
    if name.is_empty() || name.len() > 15 {
        return Ok(None);
    }
    let mut terminated = name.as_bytes().to_vec();
    terminated.push(0);
    ask(0, &attribute(IFLA_IFNAME, &terminated))
}

/// The interface of that index, if there is one.
pub(super) fn by_index(index: u32) -> io::Result<Option<Link>> {
    ask(index, &[])
}

fn attribute_header(kind: u16, len: usize) -> Vec<u8> {
    let len = u16::try_from(len + 4).unwrap_or(u16::MAX);
    let mut header = len.to_ne_bytes().to_vec();
    header.extend_from_slice(&kind.to_ne_bytes());
    header
}

/// An attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = attribute_header(kind, value.len());
    attribute.extend_from_slice(value);
    while !attribute.len().is_multiple_of(4) {
        attribute.push(0);
    }
    attribute
}

fn open() -> io::Result<Socket> {
    Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_ROUTE)),
    )
}

/// Sends one request; `body` is what follows the message's header.
fn send(socket: &Socket, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(16 + body.len());
    request.extend_from_slice(&len.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend_from_slice(&[0; 8]); // sequence, port
    request.extend_from_slice(body);
    socket.send(&request).map(drop)
}

/// Asks and gives the answers' bodies: all parts of a dump, or the one message of another request;
/// none where an acknowledgement was all.
fn answers(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = open()?;
    // The kernel answers at once; what does not come must not hang control.
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    send(&socket, kind, flags, body)?;
    let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut all = Vec::new();
    // One message answers one interface; with many virtual functions it is large.
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let len = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..len).ok_or_else(short)?;
        if rest.is_empty() {
            return Err(short());
        }
        while !rest.is_empty() {
            let total = word(rest, 0).ok_or_else(short)? as usize;
            let message = rest
                .get(..total)
                .filter(|m| m.len() >= 16)
                .ok_or_else(short)?;
            match half(message, 4).ok_or_else(short)? {
                NLMSG_DONE => return Ok(all),
                NLMSG_ERROR => {
                    let code = word(message, 16).ok_or_else(short)?.cast_signed();
                    return match code {
                        0 => Ok(all),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => all.push(message[16..].to_vec()),
            }
            if !dump && flags & NLM_F_ACK == 0 {
                return Ok(all);
            }
            rest = rest.get(total.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn ask(index: u32, attributes: &[u8]) -> io::Result<Option<Link>> {
    let mut body = vec![0; 4]; // family, type
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&[0; 8]); // flags, change
    body.extend_from_slice(attributes);
    match answers(RTM_GETLINK, 0, &body) {
        Ok(all) => all.first().map(|body| parse(body)).transpose(),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every interface.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let all = answers(RTM_GETLINK, NLM_F_DUMP, &[0; 16])?;
    all.iter().map(|body| parse(body)).collect()
}

/// The interface that a message's body, an `ifinfomsg` with attributes, tells of.
fn parse(body: &[u8]) -> io::Result<Link> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let flags = word(body, 8).ok_or_else(short)?;
    let mut link = Link {
        index: word(body, 4).ok_or_else(short)?,
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        ..Link::default()
    };
    let attributes = body.get(16..).ok_or_else(short)?;
    for (kind, value) in Attributes(attributes) {
        link.take(kind, value);
    }
    Ok(link)
}

/// How frames get to what is behind an interface, where the program sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the interface itself.
    Out,
    /// By the trunk below it, with the tag of this VLAN, which they must have brought along.
    Tagged { trunk: u32, vlan: u16 },
    /// Not at all: several tags, or those of 802.1ad.
    Closed,
}

impl Link {
    /// Whether it is a VLAN of another interface.
    pub(super) fn is_vlan(&self) -> bool {
        self.kind.as_deref() == Some("vlan")
    }

    /// How frames get to what is behind it. `is_ours`: whether the program runs on the interface of
    /// this name, whose frames then come without the tag.
    pub(super) fn way<'a>(
        &self,
        of: impl Fn(u32) -> Option<&'a Self>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Way {
        if !self.is_vlan() || is_ours(&self.name) {
            return Way::Out;
        }
        let trunk = self.lower.and_then(of).filter(|trunk| !trunk.is_vlan());
        match (trunk, self.vlan) {
            (Some(trunk), Some(vlan)) => Way::Tagged {
                trunk: trunk.index,
                vlan,
            },
            _ => Way::Closed,
        }
    }

    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            IFLA_ADDRESS => self.mac = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => self.name = string(value),
            IFLA_MTU => self.mtu = word(value, 0).unwrap_or(0),
            IFLA_LINK => self.lower = word(value, 0),
            IFLA_MASTER => self.master = word(value, 0),
            IFLA_CARRIER_CHANGES => self.carrier_changes = word(value, 0).unwrap_or(0),
            IFLA_NUM_RX_QUEUES => self.rx_queues = word(value, 0).unwrap_or(0),
            IFLA_LINKINFO => {
                let find = |kind| Attributes(value).find(|(k, _)| *k == kind).map(|(_, v)| v);
                self.kind = find(IFLA_INFO_KIND).map(string);
                if self.is_vlan() {
                    self.vlan = find(IFLA_INFO_DATA).and_then(vlan);
                }
            }
            IFLA_XDP => self.xdp = running(value),
            _ => {}
        }
    }
}

fn running(value: &[u8]) -> Option<Running> {
    let find = |kind| Attributes(value).find(|(k, _)| *k == kind).map(|(_, v)| v);
    let mode = match find(IFLA_XDP_ATTACHED)?.first()? {
        1 => "native",
        2 => "generic",
        3 => "offloaded",
        4 => "several",
        _ => return None,
    };
    let program = find(IFLA_XDP_PROG_ID).and_then(|value| word(value, 0));
    Some(Running {
        mode,
        program: program.unwrap_or(0),
    })
}

/// The id of a VLAN of 802.1Q.
fn vlan(data: &[u8]) -> Option<u16> {
    let find = |kind| Attributes(data).find(|(k, _)| *k == kind).map(|(_, v)| v);
    let protocol = find(IFLA_VLAN_PROTOCOL).unwrap_or(&[0x81, 0]);
    let id = find(IFLA_VLAN_ID).and_then(|value| half(value, 0));
    id.filter(|_| protocol == [0x81, 0])
}

fn string(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// The attributes in a message; ends at the first that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(half(self.0, 0)?);
        let kind = half(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_by_index() {
        let lo = by_name("lo").expect("netlink").expect("lo");
        assert_eq!(lo.name, "lo");
        assert!(lo.mtu > 0 && lo.rx_queues > 0);
        let same = by_index(lo.index).expect("netlink").expect("lo");
        assert_eq!((&same.name, same.index), (&lo.name, lo.index));
        let all = links().expect("netlink");
        assert!(
            all.iter()
                .any(|link| link.name == lo.name && link.index == lo.index)
        );
    }

    #[test]
    fn a_missing_interface_is_none() {
        assert_eq!(by_name("no-such-if0").expect("netlink"), None);
        assert_eq!(by_name("").expect("netlink"), None);
        assert_eq!(by_name("name-too-long-for-it").expect("netlink"), None);
    }

    #[test]
    fn members_behind_a_vlan_are_reached_by_its_trunk_with_its_tag() {
        let attribute = |kind: u16, value: &[u8]| attribute(kind, value);
        let message = |protocol: [u8; 2]| {
            let data = [
                attribute(IFLA_VLAN_ID, &100u16.to_ne_bytes()),
                attribute(IFLA_VLAN_PROTOCOL, &protocol),
            ];
            let info = [
                attribute(IFLA_INFO_KIND, b"vlan\0"),
                attribute(IFLA_INFO_DATA, &data.concat()),
            ];
            let mut body = vec![0; 16];
            body[4..8].copy_from_slice(&9u32.to_ne_bytes());
            body.extend(attribute(IFLA_IFNAME, b"eth0.100\0"));
            body.extend(attribute(IFLA_LINK, &2u32.to_ne_bytes()));
            body.extend(attribute(IFLA_LINKINFO, &info.concat()));
            parse(&body).expect("whole")
        };
        let vlan = message([0x81, 0]);
        assert_eq!((vlan.vlan, vlan.lower), (Some(100), Some(2)));
        let trunk = Link {
            index: 2,
            name: "eth0".to_owned(),
            ..Link::default()
        };
        let of = |index: u32| (index == 2).then_some(&trunk);
        let only = |name: &'static str| move |is: &str| is == name;
        let tagged = Way::Tagged {
            trunk: 2,
            vlan: 100,
        };
        assert_eq!(vlan.way(of, only("eth0")), tagged);
        assert_eq!(vlan.way(of, only("eth0.100")), Way::Out);
        assert_eq!(trunk.way(of, only("eth0")), Way::Out);
        assert_eq!(message([0x88, 0xa8]).way(of, only("eth0")), Way::Closed);
        let stacked = |index: u32| (index == 2).then_some(&vlan);
        assert_eq!(vlan.way(stacked, only("eth0")), Way::Closed);
        assert_eq!(vlan.way(|_| None, only("eth0")), Way::Closed);
    }

    #[test]
    fn a_cut_answer_is_an_error_and_not_a_panic() {
        let body = [0u8; 15];
        for len in 0..body.len() {
            assert!(parse(&body[..len]).is_err());
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).next(), None);
        assert_eq!(Attributes(&[9, 0, 1, 0, 7]).next(), None);
    }
}
