//! News of interfaces, addresses, routes and neighbours: that something changed, not what. Whoever
//! hears of it looks again.

use std::{io, mem::MaybeUninit, time::Duration};

use rustix::net::{bind, netlink::SocketAddrNetlink};
use socket2::Socket;

/// A socket that hears what changes.
#[derive(Debug)]
pub struct Watch(Socket);

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`,
/// `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;
/// News come in bursts: they are told together.
const SETTLE: Duration = Duration::from_millis(50);

impl Watch {
    /// Begins to listen in the caller's network namespace.
    pub fn new() -> io::Result<Self> {
        let socket = super::open()?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits until something has changed, and a little longer.
    pub fn wait(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        match self.0.recv(&mut buffer) {
            // More came than there was room for: that is news too.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            done => drop(done?),
        }
        std::thread::sleep(SETTLE);
        while (self.0.recv_with_flags(&mut buffer, libc::MSG_DONTWAIT)).is_ok() {}
        Ok(())
    }
}
