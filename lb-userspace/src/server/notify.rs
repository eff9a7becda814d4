//! Telling the service manager: sd_notify(3), by hand.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use crate::dataplane::table::monotonic_ns;

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Serving; also the end of a reload.
    Ready,
    /// A reload begins.
    Reloading,
    /// On the way out.
    Stopping,
}

/// Tells it, when a service manager listens (`NOTIFY_SOCKET`). Failure is a warning: service goes on.
pub(crate) fn notify(notice: Notice) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let text = match notice {
        Notice::Ready => "READY=1".to_owned(),
        Notice::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000),
        Notice::Stopping => "STOPPING=1".to_owned(),
    };
    let sent = address(path.as_bytes())
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!("service manager not told {text:?}: {error}");
    }
}

/// A path, or with `@` in front a name in the abstract namespace.
fn address(path: &[u8]) -> io::Result<SocketAddr> {
    match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_at_sign_is_the_abstract_namespace() {
        let abstract_name = address(b"@sluice").expect("address");
        assert_eq!(abstract_name.as_abstract_name(), Some(&b"sluice"[..]));
        let path = address(b"/run/x").expect("address");
        assert_eq!(path.as_pathname(), Some("/run/x".as_ref()));
    }
}
