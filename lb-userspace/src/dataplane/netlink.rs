//! What the kernel says of a network interface, by rtnetlink: whatever is asked is of the caller's
//! own network namespace, which sysfs, mounted elsewhere, is not.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

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
    /// Receive queues.
    pub(super) rx_queues: u32,
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
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_INFO_KIND: u16 = 1;
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
    let mut attribute = attribute_header(IFLA_IFNAME, name.len() + 1);
    attribute.extend_from_slice(name.as_bytes());
    attribute.push(0);
    while !attribute.len().is_multiple_of(4) {
        attribute.push(0);
    }
    ask(0, &attribute)
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

fn ask(index: u32, attributes: &[u8]) -> io::Result<Option<Link>> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_ROUTE)),
    )?;
    let len = u32::try_from(32 + attributes.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(32 + attributes.len());
    request.extend_from_slice(&len.to_ne_bytes());
    request.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request.extend_from_slice(&[0; 8]); // sequence, port
    request.extend_from_slice(&[0; 4]); // family, type
    request.extend_from_slice(&index.to_ne_bytes());
    request.extend_from_slice(&[0; 8]); // flags, change
    request.extend_from_slice(attributes);
    socket.send(&request)?;
    // One message answers one interface; with many virtual functions it is large.
    let mut answer = vec![0; 256 * 1024];
    let len = socket.read(&mut answer)?;
    parse(&answer[..len])
}

fn parse(answer: &[u8]) -> io::Result<Option<Link>> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let kind = half(answer, 4).ok_or_else(short)?;
    match kind {
        NLMSG_ERROR => {
            let code = word(answer, 16).ok_or_else(short)?.cast_signed();
            match -code {
                libc::ENODEV => Ok(None),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
        RTM_NEWLINK => {
            let flags = word(answer, 24).ok_or_else(short)?;
            let mut link = Link {
                index: word(answer, 20).ok_or_else(short)?,
                up: flags & IFF_UP != 0,
                running: flags & IFF_RUNNING != 0,
                ..Link::default()
            };
            let total = word(answer, 0).ok_or_else(short)? as usize;
            let body = answer.get(32..total).ok_or_else(short)?;
            for (kind, value) in Attributes(body) {
                link.take(kind, value);
            }
            Ok(Some(link))
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

impl Link {
    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            IFLA_IFNAME => self.name = string(value),
            IFLA_MTU => self.mtu = word(value, 0).unwrap_or(0),
            IFLA_MASTER => self.master = word(value, 0),
            IFLA_NUM_RX_QUEUES => self.rx_queues = word(value, 0).unwrap_or(0),
            IFLA_LINKINFO => {
                self.kind = Attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, value)| string(value));
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
        assert_eq!((same.name, same.index), (lo.name, lo.index));
    }

    #[test]
    fn a_missing_interface_is_none() {
        assert_eq!(by_name("no-such-if0").expect("netlink"), None);
        assert_eq!(by_name("").expect("netlink"), None);
        assert_eq!(by_name("name-too-long-for-it").expect("netlink"), None);
    }

    #[test]
    fn a_cut_answer_is_an_error_and_not_a_panic() {
        let answer = [40u8, 0, 0, 0, 16, 0, 0, 0];
        for len in 0..answer.len() {
            assert!(parse(&answer[..len]).is_err());
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).next(), None);
        assert_eq!(Attributes(&[9, 0, 1, 0, 7]).next(), None);
    }
}
