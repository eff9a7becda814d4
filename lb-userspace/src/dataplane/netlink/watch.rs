//! News of interfaces, addresses, routes and neighbours: that something changed, not what. Whoever
//! hears of it looks again.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use rustix::net::{bind, netlink::SocketAddrNetlink};
use socket2::Socket;

/// A socket that becomes readable when something changed.
#[derive(Debug)]
pub struct Watch(Socket);

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`,
/// `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

impl Watch {
    /// Begins to listen in the caller's network namespace.
    pub fn new() -> io::Result<Self> {
        let socket = super::open()?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Takes what has come so far; whether there was anything, news lost for want of room included.
    pub fn drain(&self) -> bool {
        let mut any = false;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        loop {
            match self.0.recv(&mut buffer) {
                Ok(_) => any = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_is_nothing() {
        let watch = Watch::new().expect("netlink");
        // Other tests may change something meanwhile: what is taken is taken.
        watch.drain();
        assert!(watch.as_raw_fd() > 2);
    }
}
