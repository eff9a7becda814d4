//! News of interfaces, addresses, routes and neighbours: that something changed, and whether it was
//! more than neighbours, which change all the time. Whoever hears of it looks again.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use rustix::net::{bind, netlink::SocketAddrNetlink};
use socket2::Socket;

use super::{half, word};

/// A socket that hears what changes.
#[derive(Debug)]
pub struct Watch(Socket);

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`,
/// `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;
/// News come in bursts: they are told together.
const SETTLE: Duration = Duration::from_millis(50);
const MOST_READS: usize = 256;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

impl Watch {
    /// Begins to listen in the caller's network namespace.
    pub fn new() -> io::Result<Self> {
        let socket = super::open()?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits until something has changed, and a little longer; whether it was more than neighbours.
    pub fn wait(&self) -> io::Result<bool> {
        let mut buffer = vec![0; 32 * 1024];
        let mut more = match (&self.0).read(&mut buffer) {
            Ok(len) => more_than_neighbours(&buffer[..len]),
            // More came than there was room for: whatever it was.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => true,
            Err(error) => return Err(error),
        };
        std::thread::sleep(SETTLE);
        self.0.set_nonblocking(true)?;
        // As much as the socket can have held: what comes meanwhile is heard of next time.
        for _ in 0..MOST_READS {
            match (&self.0).read(&mut buffer) {
                Ok(len) => more |= more_than_neighbours(&buffer[..len]),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => more = true,
                Err(_) => break,
            }
        }
        self.0.set_nonblocking(false)?;
        Ok(more)
    }
}

/// Whether some message is of another kind than neighbours'. What cannot be read is.
fn more_than_neighbours(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let (Some(total), Some(kind)) = (word(rest, 0), half(rest, 4)) else {
            return true;
        };
        if !matches!(kind, RTM_NEWNEIGH | RTM_DELNEIGH) || total < 16 {
            return true;
        }
        let next = (total as usize).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, len: u32) -> Vec<u8> {
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize((len as usize).max(6).next_multiple_of(4), 0);
        message
    }

    #[test]
    fn neighbours_alone_are_no_news_of_routes() {
        const RTM_NEWLINK: u16 = 16;
        let neighbours = [message(RTM_NEWNEIGH, 30), message(RTM_DELNEIGH, 16)].concat();
        assert!(!more_than_neighbours(&neighbours));
        let link = [neighbours.clone(), message(RTM_NEWLINK, 20)].concat();
        assert!(more_than_neighbours(&link));
        assert!(!more_than_neighbours(&[]));
    }

    #[test]
    fn cut_news_are_news_and_end() {
        for bytes in [
            &[1u8, 2, 3][..],
            &[0; 16],
            &message(RTM_NEWNEIGH, 8),
            &[0xff; 40],
        ] {
            assert!(more_than_neighbours(bytes), "{bytes:?}");
        }
        // Longer than what came: the rest is not there.
        let mut long = message(RTM_NEWNEIGH, 16);
        long[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(!more_than_neighbours(&long));
    }
}
