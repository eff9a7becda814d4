//! The proxy: shards that accept, route, elect, forward and answer.
//!
//! [`Proxy`] is what the process's main thread holds; the work is done in the shards' threads. Pure
//! parts (`answer`, `gate`, `path`, `vhost`, `fields`, `reverse`, `wheel`, `page`) decide; `client`, `pool`,
//! `body`, `forward` and `shard` do.

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed},
        },
        mpsc as acks,
    },
    thread::JoinHandle,
    time::Duration,
};

use lb_common::member::MemberId;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::mpsc;

use crate::{
    balancer::heartbeat::Heartbeats,
    config::spec::Spec,
    dataplane::table::{MemberTable, monotonic_ns},
    names::Further,
    telemetry::counters::Counters,
};

pub mod answer;
mod body;
mod client;
mod exchange;
pub(crate) mod explain;
pub mod fields;
mod forward;
pub mod gate;
pub mod manager;
pub mod page;
pub mod path;
mod plan;
mod policy;
pub(crate) mod pool;
pub mod reason;
pub mod reverse;
mod shard;
pub mod tls;
pub mod vhost;
pub mod wheel;

use plan::Plan;
use shard::{Command, Shared};

/// What one generation runs on.
#[derive(Clone)]
pub struct Generation {
    /// Its number, from `META`.
    pub number: u64,
    /// The configuration.
    pub spec: Arc<Spec>,
    /// `ids[b][m]` is the slot of `spec.balancers[b].members[m]`.
    pub ids: Vec<Vec<MemberId>>,
    /// Certificates of hosts with TLS.
    pub certificates: tls::Certificates,
}

/// What a proxy process is given once.
pub struct Setup {
    /// The shared member table.
    pub table: Arc<MemberTable>,
    /// Its column of `BUSY`.
    pub column: u32,
    /// Shards to run, at least 1.
    pub shards: usize,
    /// The CPU that each shard is pinned to; a shard without one runs anywhere.
    pub cpus: Vec<Option<u32>>,
    /// What the shards count, made for as many.
    pub counters: Arc<Counters>,
    /// Client connections at most, all shards together; further ones wait in the listen queues.
    pub clients: usize,
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
pub type LogFiles = Vec<(crate::config::spec::LogTarget, std::fs::File)>;

/// The running shards.
pub struct Proxy {
    shared: Arc<Shared>,
    shards: Vec<Handle>,
    plan: Mutex<Option<Arc<Plan>>>,
    changes: Mutex<Option<mpsc::Receiver<manager::Ask>>>,
    /// For the life of the process: a reload ends no session.
    resumption: tls::Resumption,
}

/// One shard's thread.
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// How long the end waits for log lines to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// Longest time that a shard may take to switch: it does so between two turns of its loop.
const SWITCH_LIMIT: Duration = Duration::from_secs(10);

impl Proxy {
    /// Starts the shard threads; they accept nothing before the first [`Proxy::apply`].
    pub fn start(setup: Setup) -> io::Result<Self> {
        if setup.shards == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a proxy needs at least one shard",
            ));
        }
        let (office, changes) = manager::Office::open()?;
        let shared = Arc::new(Shared {
            office,
            heartbeats: Arc::new(Heartbeats::new(Arc::clone(&setup.table), monotonic_ns())),
            further: Arc::default(),
            table: setup.table,
            column: setup.column,
            counters: setup.counters,
            clients: setup.clients,
            connections: AtomicUsize::new(0),
            accepting: AtomicUsize::new(0),
        });
        let shards = (0..setup.shards)
            .map(|number| {
                let cpu = setup.cpus.get(number).copied().flatten();
                Handle::start(number, cpu, Arc::clone(&shared))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            shared,
            shards,
            plan: Mutex::new(None),
            changes: Mutex::new(Some(changes)),
            resumption: tls::Resumption::default(),
        })
    }

    /// Switches every shard to a generation and returns when all have. Listeners not listed any
    /// more are closed after their accept queues were emptied; listed ones replace their
    /// predecessors without a gap. Requests in flight finish in the generation that began them.
    ///
    /// Nothing changes when it fails before the first shard has switched: slots that do not fit the
    /// configuration, a log that was not opened.
    pub fn apply(
        &self,
        generation: Generation,
        listeners: Vec<ShardListener>,
        logs: LogFiles,
    ) -> io::Result<()> {
        let mut current = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = Plan::new(
            generation,
            logs,
            &self.shared,
            &self.resumption,
            current.as_deref(),
        )
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let plan = Arc::new(plan);
        let mut sockets: Vec<Vec<TcpListener>> = self.shards.iter().map(|_| Vec::new()).collect();
        for listener in listeners {
            sockets
                .get_mut(listener.shard)
                .ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!(
                            "listener for shard {} of {}",
                            listener.shard,
                            self.shards.len()
                        ),
                    )
                })?
                .push(listener.socket);
        }
        let (done, switched) = acks::channel();
        for (shard, sockets) in self.shards.iter().zip(sockets) {
            shard
                .commands
                .send(Command::Apply(Arc::clone(&plan), sockets, done.clone()))
                .map_err(|_| shard_ended())?;
        }
        drop(done);
        for _ in &self.shards {
            switched
                .recv_timeout(SWITCH_LIMIT)
                .map_err(|error| match error {
                    acks::RecvTimeoutError::Timeout => {
                        io::Error::new(io::ErrorKind::TimedOut, "a shard does not switch")
                    }
                    acks::RecvTimeoutError::Disconnected => shard_ended(),
                })?;
        }
        *current = Some(plan);
        Ok(())
    }

    /// Takes the keys of session tickets from whoever shares them out. Without any the proxy makes its
    /// own.
    pub fn take_ticket_keys(&self, keys: tls::TicketKeys) {
        self.resumption.take(keys);
    }

    /// Whom the members of the generation that is on are expected to be, over TLS.
    pub fn peers(&self) -> tls::Peers {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let balancers = plan.iter().flat_map(|plan| &plan.balancers);
        let members = balancers.flat_map(|balancing| &balancing.members);
        tls::Peers::new(
            members.filter_map(|member| Some((member.key.id, Arc::clone(member.peer.as_ref()?)))),
        )
    }

    /// Where members' heartbeats are remembered.
    pub fn heartbeats(&self) -> Arc<Heartbeats> {
        Arc::clone(&self.shared.heartbeats)
    }

    /// Where further addresses of members' names are kept.
    pub(crate) fn further(&self) -> Arc<Further> {
        Arc::clone(&self.shared.further)
    }

    /// Changes that are asked for in the balancer-manager, for who carries them out; once.
    pub fn changes(&self) -> Option<mpsc::Receiver<manager::Ask>> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.take()
    }

    /// Stops accepting, closes idle connections, lets requests finish.
    pub fn drain(&self) {
        self.order_drain(false);
    }

    /// Stops accepting; every response closes its connection. Idle connections stay until they have
    /// made one more request or `KeepAliveTimeout` closes them: closed now, they might cross a
    /// request on its way.
    pub fn retire(&self) {
        self.order_drain(true);
    }

    fn order_drain(&self, politely: bool) {
        for shard in &self.shards {
            // A shard that has ended accepts nothing either.
            let _ = shard.commands.send(Command::Drain { politely });
        }
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Relaxed)
    }

    /// Whether any listening socket is accepted from. A shard that has not obeyed the order to drain
    /// yet still accepts.
    pub fn is_accepting(&self) -> bool {
        self.shared.accepting.load(Acquire) != 0
    }

    /// Whether nothing accepts any more and the last connection is gone.
    pub fn has_drained(&self) -> bool {
        // In this order: who accepts counts the connection before it ends.
        !self.is_accepting() && self.connections() == 0
    }

    /// Ends the shards at once.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for shard in &self.shards {
            let _ = shard.commands.send(Command::Stop);
        }
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take() {
                // A shard that panicked said so on standard error.
                let _ = thread.join();
            }
        }
        // Their last lines.
        crate::telemetry::settle(LOG_PATIENCE);
    }
}

impl Handle {
    fn start(number: usize, cpu: Option<u32>, shared: Arc<Shared>) -> io::Result<Self> {
        let (commands, orders) = mpsc::unbounded_channel();
        // The runtime is made in its thread, which it must not leave; its error comes back here.
        let (made, ready) = acks::channel();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                if let Some(cpu) = cpu {
                    pin(number, cpu);
                }
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default());
                match runtime {
                    Ok(runtime) => {
                        let _ = made.send(Ok(()));
                        shard::run(&runtime, number, shared, orders);
                    }
                    Err(error) => {
                        let _ = made.send(Err(error));
                    }
                }
            })?;
        ready.recv().map_err(|_| shard_ended())??;
        Ok(Self {
            commands,
            thread: Some(thread),
        })
    }
}

/// Pins this thread to a CPU. Without it the shard works as well, only farther from its packets.
fn pin(shard: usize, cpu: u32) {
    let mut mask = CpuSet::new();
    let cpu = cpu as usize;
    if cpu < CpuSet::MAX_CPU {
        mask.set(cpu);
    }
    if let Err(error) = sched_setaffinity(None, &mask) {
        tracing::warn!("shard {shard} not pinned to CPU {cpu}: {error}");
    }
}

fn shard_ended() -> io::Error {
    io::Error::other("a shard has ended")
}
