//! What an idle connection holds: memory before and after many clients that asked once and then
//! say nothing.

use std::{net::TcpStream, sync::Arc, thread, time::Duration};

use anyhow::Result;
use rustls::ClientConfig;

use super::{client::Client, cost, peers::Peer};

/// Memory of one idle connection, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// In the peer's processes.
    pub(super) pss: f64,
    /// In the kernel's socket buffers, client's end and members' included; mostly 0.
    pub(super) sockets: f64,
}

/// Connections before the first look, so that pools and tables are warm.
const WARM: u32 = 200;
/// Longer than a proxy takes to notice that a connection is idle.
const SETTLE: Duration = Duration::from_secs(3);

/// The row's name.
pub(super) const fn name(is_tls: bool) -> &'static str {
    if is_tls {
        "memory of an idle TLS connection"
    } else {
        "memory of an idle cleartext connection"
    }
}

/// Opens `connections`, with TLS if there is a client for it, and looks at the difference they make.
pub(super) fn measure(
    peer: &Peer,
    connections: u32,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Idle> {
    let mut held = open(peer, WARM, tls)?;
    thread::sleep(SETTLE);
    let (pss, sockets) = (cost::pss(peer.pid)?, cost::socket_memory());
    held.extend(open(peer, connections, tls)?);
    thread::sleep(SETTLE);
    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
    Ok(Idle {
        pss: each(pss, cost::pss(peer.pid)?),
        sockets: each(sockets, cost::socket_memory()),
    })
}

fn open(peer: &Peer, connections: u32, tls: Option<&Arc<ClientConfig>>) -> Result<Vec<TcpStream>> {
    (0..connections)
        .map(|_| {
            let mut client = match tls {
                None => Client::connect(peer.address, "/small")?,
                Some(tls) => Client::connect_tls(peer.tls, "/small", tls)?,
            };
            client.ask()?;
            Ok(client.into_stream())
        })
        .collect()
}
