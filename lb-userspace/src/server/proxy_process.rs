//! The proxy process: what `sluice run` starts and talks to over a [`Link`] on standard input.
//!
//! It gives up its privileges before it touches anything from the network, hosts the shards, and
//! when control is gone it serves on until another control does.

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::TcpListener,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use lb_common::member::MemberId;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::{
    child::MOST_CHANGES,
    link::{self, FromProxy, Link, Parcel, ToProxy},
    preflight::Logs,
    privileges,
    succession::Succession,
};
use crate::{
    dataplane::table::MemberTable,
    health::{Checker, Monitor},
    names::{Resolved, Watcher},
    proxy::{
        Generation, LogFiles, Proxy, Setup, ShardListener,
        manager::{Answer, Ask},
    },
    telemetry::{counters::Counters, error_log},
};

/// Why the process ends early.
#[derive(Debug, thiserror::Error)]
pub enum ProxyProcessError {
    /// Started by hand.
    #[error("this command is for sluice's own use: `sluice run` starts it")]
    NotAChild,
    /// The link broke or said something strange.
    #[error("link to control")]
    Link(#[from] io::Error),
    /// Capabilities, user or group.
    #[error("privileges not given up")]
    Privileges(#[source] io::Error),
    /// The shards.
    #[error("shards not started")]
    Start(#[source] io::Error),
}

/// How long requests in flight may take once control has died: there is nobody left to ask.
const ORPHAN_PATIENCE: Duration = Duration::from_mins(1);
/// How often connections are told, and looked at when draining.
const LOOK: Duration = Duration::from_secs(1);
/// How often a proxy without control looks for another one.
const SUCCESSION_LOOK: Duration = Duration::from_millis(100);
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Runs the process; returns when it has drained or control said so.
pub fn main() -> Result<(), ProxyProcessError> {
    error_log::start();
    // Started by way of /proc/self/exe, it would be called `exe`. Only ps(1) and top(1) care.
    let _ = rustix::thread::set_name(c"sluice-proxy");
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    if rustix::net::sockopt::socket_type(&stdin) != Ok(rustix::net::SocketType::SEQPACKET) {
        return Err(ProxyProcessError::NotAChild);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(host(stdin))
}

async fn host(stdin: OwnedFd) -> Result<(), ProxyProcessError> {
    let link = Link::new(stdin)?;
    let Some((
        ToProxy::Setup {
            column,
            cpus,
            identity,
        },
        fds,
    )) = link.receive().await?
    else {
        return Err(io::Error::other("first message is not the setup").into());
    };
    // Still one thread: no blocking work was given to the runtime.
    privileges::give_up(identity.as_ref()).map_err(ProxyProcessError::Privileges)?;
    let [members, busy, lock, counters] = <[OwnedFd; 4]>::try_from(fds).map_err(|_| {
        io::Error::other("setup without the member table, the lock and the counters")
    })?;
    let counters = Arc::new(Counters::map(counters.as_fd(), cpus.len())?);
    let succession = Succession::new(lock)?;
    let table = Arc::new(MemberTable::map(members.as_fd(), busy.as_fd())?);
    let mut signals = Signals::new()?;
    let proxy = Proxy::start(Setup {
        table: Arc::clone(&table),
        column,
        shards: cpus.len(),
        cpus,
        counters,
        clients: privileges::client_limit(),
    })
    .map_err(ProxyProcessError::Start)?;
    let checker = Checker::start(Arc::clone(&table), proxy.further());
    let checker = checker.map_err(ProxyProcessError::Start)?;
    let (watcher, resolved) = Watcher::start(proxy.further()).map_err(ProxyProcessError::Start)?;
    let monitor = Monitor::start(proxy.heartbeats()).map_err(ProxyProcessError::Start)?;
    let changes = proxy.changes();
    link.send(&FromProxy::Ready, &[]).await?;
    let mut process = Process {
        link,
        proxy,
        checker: Some(checker),
        monitor,
        watcher: Some(watcher),
        resolved,
        table,
        succession,
        listeners: Vec::new(),
        logs: Vec::new(),
        changes,
        open_changes: HashMap::new(),
        next_change: 0,
    };
    process.serve(&mut signals).await
}

/// The next change that somebody asks for; for ever none once nobody can make any.
async fn next_change(changes: &mut Option<mpsc::Receiver<Ask>>) -> Option<Ask> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// What becomes of idle connections.
#[derive(Clone, Copy)]
enum Drain {
    /// They are closed.
    Now,
    /// They may make one more request.
    Politely,
}

struct Process {
    link: Link,
    proxy: Proxy,
    /// `None`: draining, another process checks.
    checker: Option<Checker>,
    /// The same, of members' names.
    watcher: Option<Watcher>,
    resolved: mpsc::Receiver<Resolved>,
    /// Goes on while draining: elections do.
    monitor: Monitor,
    table: Arc<MemberTable>,
    succession: Succession,
    /// Received for the generation to come.
    listeners: Vec<ShardListener>,
    logs: LogFiles,
    /// From the balancer-manager; `None`: nobody could carry them out any more.
    changes: Option<mpsc::Receiver<Ask>>,
    /// Asked of control.
    open_changes: HashMap<u64, oneshot::Sender<Answer>>,
    next_change: u64,
}

impl Process {
    async fn serve(&mut self, signals: &mut Signals) -> Result<(), ProxyProcessError> {
        let mut look = tokio::time::interval(LOOK);
        let mut told = 0;
        let (patience, how) = loop {
            tokio::select! {
                message = self.link.receive() => match message {
                    Ok(Some((ToProxy::Drain, _))) => break (None, Drain::Now),
                    Ok(Some((ToProxy::Retire, _))) => break (None, Drain::Politely),
                    Ok(Some((message, fds))) => self.take(message, fds).await?,
                    Ok(None) => break self.orphaned("it ended", signals).await,
                    Err(error) => break self.orphaned(&error.to_string(), signals).await,
                },
                () = signals.terminate() => break (Some(ORPHAN_PATIENCE), Drain::Now),
                Some(ask) = next_change(&mut self.changes) => self.pass_on(ask).await,
                Some(Resolved { host, answer }) = self.resolved.recv() => {
                    // When control is gone the next receive tells.
                    drop(self.link.send(&FromProxy::Resolved { host, answer }, &[]).await);
                }
                _ = look.tick() => {
                    let now = self.proxy.connections() as u64;
                    // When control is gone the next receive tells.
                    if now != told && self.link.send(&FromProxy::Connections(now), &[]).await.is_ok() {
                        told = now;
                    }
                }
            }
        };
        self.checker = None;
        self.watcher = None;
        self.ask_no_more();
        self.drain(patience, how, signals).await;
        Ok(())
    }

    /// Nobody makes changes any more: who asks is told so.
    fn ask_no_more(&mut self) {
        self.changes = None;
        self.open_changes.clear();
    }

    /// Gives a change to control. What cannot be sent is answered by dropping it.
    async fn pass_on(&mut self, ask: Ask) {
        let number = self.next_change;
        self.next_change += 1;
        let change = FromProxy::Change {
            number,
            client: ask.client,
            submission: ask.submission,
        };
        // Those whose clients have left count: control still has them to do.
        if self.open_changes.len() < MOST_CHANGES && self.link.send(&change, &[]).await.is_ok() {
            self.open_changes.insert(number, ask.reply);
        }
    }

    /// Control is gone: serves on until another one does, or somebody says TERM.
    async fn orphaned(&mut self, why: &str, signals: &mut Signals) -> (Option<Duration>, Drain) {
        self.ask_no_more();
        tracing::error!("control is gone ({why}): serving on until another control does");
        let mut look = tokio::time::interval(SUCCESSION_LOOK);
        loop {
            tokio::select! {
                () = signals.terminate() => return (Some(ORPHAN_PATIENCE), Drain::Now),
                _ = look.tick() => if self.succession.has_happened() {
                    tracing::info!(notice = true, "another control serves: leaving");
                    return (Some(ORPHAN_PATIENCE), Drain::Politely);
                }
            }
        }
    }

    async fn take(&mut self, message: ToProxy, fds: Vec<OwnedFd>) -> io::Result<()> {
        let cut_short = || io::Error::other("descriptors do not match their message");
        match message {
            ToProxy::Listeners(places) => {
                if places.len() != fds.len() {
                    return Err(cut_short());
                }
                for ((shard, listener), fd) in places.into_iter().zip(fds) {
                    self.listeners.push(ShardListener {
                        shard,
                        listener,
                        socket: TcpListener::from(fd),
                    });
                }
            }
            ToProxy::Logs(targets) => {
                if targets.len() != fds.len() {
                    return Err(cut_short());
                }
                self.logs
                    .extend(targets.into_iter().zip(fds.into_iter().map(File::from)));
            }
            ToProxy::Apply { listeners, logs } => {
                if listeners != self.listeners.len() || logs != self.logs.len() {
                    return Err(cut_short());
                }
                let [parcel] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| cut_short())?;
                let parcel = Parcel::open(parcel)?;
                let generation = parcel.number;
                let answer = match self.apply(parcel) {
                    Ok(()) => FromProxy::Applied(generation),
                    Err(error) => FromProxy::Failed {
                        generation,
                        message: error.to_string(),
                    },
                };
                // When control is gone the next receive tells; this process may serve already.
                drop(self.link.send(&answer, &[]).await);
            }
            ToProxy::Tickets => {
                let [keys] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| cut_short())?;
                self.proxy.take_ticket_keys(link::read_file(keys)?);
            }
            ToProxy::Changed { number, answer } => {
                if let Some(reply) = self.open_changes.remove(&number) {
                    // The client may have left.
                    drop(reply.send(answer));
                }
            }
            ToProxy::Setup { .. } | ToProxy::Drain | ToProxy::Retire => return Err(cut_short()),
        }
        Ok(())
    }

    fn apply(&mut self, parcel: Parcel) -> io::Result<()> {
        let ids: Vec<Vec<MemberId>> = parcel
            .ids
            .into_iter()
            .map(|ids| ids.into_iter().map(MemberId).collect())
            .collect();
        let listeners = std::mem::take(&mut self.listeners);
        let logs = std::mem::take(&mut self.logs);
        let spec = Arc::new(parcel.spec);
        let targets = Logs::received(&logs)?.error_targets(&spec);
        self.proxy.take_ticket_keys(parcel.tickets);
        if let Some(watcher) = &self.watcher {
            watcher.expect(&spec);
        }
        self.proxy.apply(
            Generation {
                number: parcel.number,
                spec: Arc::clone(&spec),
                certificates: parcel.certificates,
                ids: ids.clone(),
            },
            listeners,
            logs,
        )?;
        error_log::configure(targets);
        self.monitor.apply(&spec.heartbeat);
        if let Some(checker) = &self.checker {
            checker.apply(&spec, &ids, &self.table, &self.proxy.peers());
        }
        if let Some(watcher) = &self.watcher {
            watcher.apply(&spec);
        }
        Ok(())
    }

    /// Accepts no more and waits for the last connection: at most `patience`, counted from now or
    /// (`None`) from the moment control is gone. While there is a control it bounds the wait itself.
    async fn drain(&self, patience: Option<Duration>, how: Drain, signals: &mut Signals) {
        match how {
            Drain::Now => self.proxy.drain(),
            Drain::Politely => self.proxy.retire(),
        }
        let done = async {
            while self.proxy.is_accepting() {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
            // Control may be gone, or too busy to hear it: that keeps nobody here.
            drop(tokio::time::timeout(LOOK, self.link.send(&FromProxy::Quiet, &[])).await);
            while !self.proxy.has_drained() {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        let too_long = async {
            if patience.is_none() {
                loop {
                    tokio::select! {
                        message = self.link.receive::<ToProxy>() => match message {
                            // The whole service ends now.
                            Ok(Some((ToProxy::Drain, _))) => self.proxy.drain(),
                            Ok(Some(_)) => {}
                            Ok(None) | Err(_) => break,
                        },
                        () = signals.terminate() => self.proxy.drain(),
                    }
                }
            }
            tokio::time::sleep(patience.unwrap_or(ORPHAN_PATIENCE)).await;
        };
        tokio::select! {
            () = done => {}
            () = too_long => {}
        }
    }
}

/// Signals of the proxy: TERM drains; those that mean something to control are ignored, so that
/// sending one to the whole service does no harm.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _ignored: [Signal; 3],
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _ignored: [
                signal(SignalKind::hangup())?,
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::window_change())?,
            ],
        })
    }

    async fn terminate(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
