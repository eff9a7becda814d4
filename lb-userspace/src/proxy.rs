//! The proxy: shards that accept, route, elect, forward and answer.

use std::{io, net::TcpListener, sync::Arc};

use lb_common::member::MemberId;

pub mod gate;
pub mod path;
pub mod reverse;
pub mod vhost;
pub mod wheel;

use crate::{config::spec::Spec, dataplane::table::MemberTable};

/// What one generation runs on.
#[derive(Clone)]
pub struct Generation {
    /// Its number, from `META`.
    pub number: u64,
    /// The configuration.
    pub spec: Arc<Spec>,
    /// `ids[b][m]` is the slot of `spec.balancers[b].members[m]`.
    pub ids: Vec<Vec<MemberId>>,
}

/// What a proxy process is given once.
pub struct Setup {
    /// The shared member table.
    pub table: Arc<MemberTable>,
    /// Its column of `BUSY`.
    pub column: u32,
    /// Shards to run, at least 1.
    pub shards: usize,
}

/// A bound, listening socket of one shard.
pub struct ShardListener {
    /// Shard, from 0.
    pub shard: usize,
    /// Index into `spec.listeners`.
    pub listener: usize,
    /// The socket.
    pub socket: TcpListener,
}

/// Open log files by path, opened by control (which may, where the proxy's user may not).
pub type LogFiles = Vec<(std::path::PathBuf, std::fs::File)>;

/// The running shards.
pub struct Proxy {
    _private: (),
}

impl Proxy {
    /// Starts the shard threads; they accept nothing before the first [`Proxy::apply`].
    pub fn start(_setup: Setup) -> io::Result<Self> {
        unimplemented!("proxy")
    }

    /// Switches every shard to a generation and returns when all have. Listeners not listed any
    /// more are closed after their accept queues were emptied; listed ones replace their
    /// predecessors without a gap. Requests in flight finish in the generation that began them.
    pub fn apply(
        &self,
        _generation: Generation,
        _listeners: Vec<ShardListener>,
        _logs: LogFiles,
    ) -> io::Result<()> {
        unimplemented!("proxy")
    }

    /// Stops accepting, closes idle connections, lets requests finish.
    pub fn drain(&self) {
        unimplemented!("proxy")
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        unimplemented!("proxy")
    }

    /// Ends the shards at once.
    pub fn stop(self) {
        unimplemented!("proxy")
    }
}
