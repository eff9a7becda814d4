//! The control process: the event loop, supervision of the proxy, stop. How it starts is in
//! [`super::start`].

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, mpsc},
    time::Interval,
};

use super::{
    RunOptions, StartError,
    backoff::Backoff,
    certificates::Watch,
    child::{ChildError, Delivery, ProxyChild},
    cpus::Cpus,
    follow::News,
    foundlings::Foundlings,
    inbox::{Came, Inbox},
    ledger::Ledger,
    link::FromProxy,
    listeners::Listeners,
    names::Names,
    notify::{Notice, notify},
    preflight::Logs,
    privileges::Identity,
    scrape::Scrape,
    signals::Asked,
    socket::{Ask, ControlSocket},
    start::{begin, enlist},
    steering::Balance,
};
use crate::{
    admin::{manager::kept::Kept, protocol::Response},
    dataplane::{Dataplane, Desired, Published, table::monotonic_ns},
    proxy::tls::{Certificates, TicketKeys, tickets},
    telemetry::error_log,
};

/// How long requests in flight may take at TERM.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Heartbeat of the maps and of expired denies.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Ticks between looks at certificate files.
const WATCH_TICKS: u32 = 2;

/// The control process.
pub(crate) struct Control {
    pub(super) options: RunOptions,
    pub(super) dataplane: Dataplane,
    /// The generation that is on.
    pub(super) desired: Desired,
    pub(super) published: Published,
    pub(super) listeners: Listeners,
    pub(super) logs: Logs,
    /// For a proxy process that has to be started again.
    pub(super) certificates: Certificates,
    /// Keys of session tickets, the same in all its proxies.
    pub(super) tickets: TicketKeys,
    /// Of certificate and key files.
    pub(super) watch: Watch,
    /// Ticks since the last look at them.
    pub(super) watched: u32,
    pub(super) identity: Option<Identity>,
    pub(super) cpus: Cpus,
    /// The CPU of each shard.
    pub(super) pins: Vec<Option<u32>>,
    /// The CPU whose connections each shard's sockets get: the same, until that leaves shards idle.
    pub(super) steered: Vec<Option<u32>>,
    pub(super) balance: Balance,
    pub(super) proxy: Option<ProxyChild>,
    /// Proxies that another has taken over from, and that still have requests.
    pub(super) retired: Vec<Retired>,
    pub(super) started: Instant,
    pub(super) restarts: u32,
    pub(super) notices: Vec<String>,
    /// What was changed in the balancer-manager.
    pub(super) kept: Kept,
    pub(super) names: Names,
    pub(super) ledger: Ledger,
    /// Children of the program that this process was.
    pub(super) foundlings: Foundlings,
    /// `SluiceMetrics`.
    pub(super) scrape: Option<Scrape>,
    /// For what is asked beside the control socket.
    pub(super) ask: mpsc::Sender<Ask>,
    pub(super) backoff: Backoff,
    /// When a dead proxy is started again.
    pub(super) restart_at: Option<Instant>,
    pub(super) stop: Option<Stop>,
    pub(super) socket: ControlSocket,
    /// Locked by whoever waits for something, which is one at a time.
    pub(super) inbox: Mutex<Inbox>,
    /// When to look at the states of members that are steered to.
    pub(super) looks: Interval,
    /// Of interfaces, routes and neighbours.
    pub(super) news: Arc<News>,
}

/// A proxy that drains while another serves.
pub(super) struct Retired {
    pub(super) proxy: ProxyChild,
    /// It is ended by force then; `None`: it may take as long as it takes.
    pub(super) deadline: Option<Instant>,
}

/// The service is ending.
pub(super) struct Stop {
    /// The proxy is ended by force then; `None`: it may take as long as it takes.
    deadline: Option<Instant>,
}

enum Event {
    Proxy(std::io::Result<Option<FromProxy>>),
    /// Of the one at this place.
    Retired(usize, std::io::Result<Option<FromProxy>>),
    Came(Came),
    RestartProxy,
    StopDeadline,
    RetiredDeadline,
    /// Members' states are to be looked at.
    Rings,
    /// Neighbours changed, or (`true`) interfaces or routes did.
    Host(bool),
    /// Members are to move to where their names are.
    Names,
}

impl Control {
    /// Serves until the service has stopped.
    pub(super) async fn serve(&mut self) {
        let spec = Arc::clone(&self.desired.spec);
        error_log::configure(self.logs.error_targets(&spec));
        for notice in &self.notices {
            tracing::info!(notice = true, "{notice}");
        }
        tracing::info!(
            notice = true,
            "sluice/{} instance {} (generation {}, {}, {}) configured -- resuming normal operations",
            env!("CARGO_PKG_VERSION"),
            self.options.place.instance,
            self.published.generation,
            count(self.pins.len(), "shard"),
            self.dataplane_kind(),
        );
        notify(Notice::Ready);
        loop {
            match self.next_event().await {
                Event::Proxy(Ok(Some(FromProxy::Change {
                    number,
                    client,
                    submission,
                }))) => self.manage(number, client, &submission).await,
                Event::Proxy(Ok(Some(FromProxy::Resolved { host, answer }))) => {
                    self.resolved(&host, answer);
                }
                Event::Proxy(Ok(Some(_))) | Event::Retired(_, Ok(Some(_))) => {}
                Event::Proxy(Ok(None)) => self.proxy_ended(None),
                Event::Proxy(Err(error)) => self.proxy_ended(Some(&error.to_string())),
                Event::Retired(index, Ok(None) | Err(_)) => self.retired_ended(index),
                Event::Came(Came::Ask(ask)) => self.answer(ask).await,
                // The answer is in the log.
                Event::Came(Came::Signal(Asked::Reload)) => drop(self.reload().await),
                Event::Came(Came::Signal(Asked::Stop { graceful })) => {
                    self.begin_stop(graceful).await;
                }
                Event::Came(Came::Tick) => {
                    self.dataplane.tick();
                    self.logs.tend();
                    self.foundlings.tend();
                    self.look_at_steering();
                    self.look_at_tickets().await;
                    self.look_at_certificates().await;
                }
                Event::RestartProxy => self.restart_proxy().await,
                Event::StopDeadline => {
                    for proxy in self
                        .proxy
                        .iter()
                        .chain(self.retired.iter().map(|r| &r.proxy))
                    {
                        tracing::warn!("requests still in flight: ending proxy {}", proxy.pid());
                        proxy.bury();
                    }
                    self.proxy = None;
                    self.retired.clear();
                }
                Event::Rings => self.dataplane.refresh_rings(),
                Event::Host(ways) => self.dataplane.follow_host(ways),
                Event::Names => self.follow_names().await,
                Event::RetiredDeadline => self.end_overdue(Instant::now()),
            }
            if self.stop.is_some() && self.proxy.is_none() && self.retired.is_empty() {
                return;
            }
        }
    }

    /// Marks the maps as cleanly stopped and removes the control socket.
    pub(super) fn finish(self) -> Result<(), StartError> {
        let closed = self.dataplane.close();
        tracing::info!(notice = true, "stopped");
        // Last: its end is what `sluice stop` waits for.
        drop(self.socket);
        Ok(closed?)
    }

    async fn next_event(&mut self) -> Event {
        let proxy = self.proxy.as_ref();
        let retired = &self.retired;
        let overdue = retired.iter().filter_map(|retired| retired.deadline).min();
        let restart_at = self.restart_at;
        let names_due = self.names.due;
        let deadline = self.stop.as_ref().and_then(|stop| stop.deadline);
        let steers = self.dataplane.is_steering();
        tokio::select! {
            message = async {
                match proxy {
                    Some(proxy) => proxy.next().await,
                    None => std::future::pending().await,
                }
            } => Event::Proxy(message),
            (index, message) = next_of(retired) => Event::Retired(index, message),
            came = self.inbox.get_mut().next() => Event::Came(came),
            () = at(restart_at) => Event::RestartProxy,
            () = at(deadline) => Event::StopDeadline,
            () = at(overdue) => Event::RetiredDeadline,
            _ = self.looks.tick(), if steers => Event::Rings,
            ways = self.news.next() => Event::Host(ways),
            () = at(names_due) => Event::Names,
        }
    }

    /// The link of a retired proxy has ended: it is done.
    fn retired_ended(&mut self, index: usize) {
        let Retired { proxy, .. } = self.retired.swap_remove(index);
        let status = proxy.bury();
        self.dataplane.table().clear_busy(proxy.column);
        self.ledger.proxy_ended(proxy.column);
        let pid = proxy.pid();
        tracing::info!(
            notice = true,
            "proxy process {pid} has drained and left ({status})"
        );
    }

    /// Ends retired proxies whose time is over.
    fn end_overdue(&mut self, now: Instant) {
        for retired in &mut self.retired {
            if retired.deadline.is_some_and(|deadline| deadline <= now) {
                retired.deadline = None;
                tracing::warn!(
                    "proxy process {} still has {}: ending it",
                    retired.proxy.pid(),
                    count(
                        usize::try_from(retired.proxy.connections()).unwrap_or(usize::MAX),
                        "connection"
                    )
                );
                // Its link ends with it.
                retired.proxy.bury();
            }
        }
    }

    /// Changes the keys of session tickets when it is time.
    async fn look_at_tickets(&mut self) {
        if self.tickets.turn(monotonic_ns(), &mut tickets::fresh)
            && let Some(proxy) = &self.proxy
        {
            // One that did not hear of it changes to the same key, and whose link is broken is dead.
            drop(proxy.change_tickets(&self.tickets).await);
        }
    }

    /// Reloads when certificate or key files were replaced. What cannot be used is logged, and looked
    /// at again when it changes again.
    async fn look_at_certificates(&mut self) {
        self.watched += 1;
        if self.watched < WATCH_TICKS || self.is_stopping() {
            return;
        }
        self.watched = 0;
        if self.watch.has_changed() {
            tracing::info!(notice = true, "certificate files have changed: reloading");
            // The answer is in the log.
            drop(self.reload().await);
        }
    }

    /// Leaves it to the kernel's hash which shard gets a connection, when the CPUs that receive packets
    /// are too few for the shards.
    fn look_at_steering(&mut self) {
        if self.steered.len() < 2 || self.steered.iter().all(Option::is_none) {
            return;
        }
        let accepted: Vec<u64> = (0..self.pins.len())
            .map(|shard| self.ledger.accepted_by(shard))
            .collect();
        if !self.balance.leaves_shards_idle(&accepted) {
            return;
        }
        self.steered.fill(None);
        self.listeners.steer(&self.steered);
        let notice = "packets arrive on fewer CPUs than there are shards: connections are spread by \
                      the kernel's hash instead; `sluice doctor` shows receive queues";
        tracing::info!(notice = true, "{notice}");
        self.notices.push(notice.to_owned());
    }

    async fn answer(&mut self, ask: Ask) {
        let response = self.carry_out(&ask).await;
        if let Response::Refused { message } = &response {
            tracing::info!("uid {}: refused: {message}", ask.uid);
        }
        // The client may have left.
        drop(ask.reply.send(response));
    }

    /// Begins to stop, or hurries a stop that was begun.
    pub(super) async fn begin_stop(&mut self, graceful: bool) {
        let now = Instant::now();
        let limit = self.desired.spec.graceful_shutdown_timeout;
        let deadline = match (graceful, limit.is_zero()) {
            (false, _) => Some(now + STOP_GRACE),
            (true, true) => None,
            (true, false) => Some(now + limit),
        };
        if self.stop.is_some() {
            if !graceful {
                // Asked twice: now.
                self.stop = Some(Stop {
                    deadline: Some(now),
                });
            }
            return;
        }
        notify(Notice::Stopping);
        let how = if graceful {
            "graceful stop: finishing requests in flight"
        } else {
            "stopping"
        };
        tracing::info!(notice = true, "{how}");
        self.stop = Some(Stop { deadline });
        self.restart_at = None;
        // Control's copies first: a connection that only they can hold would wait for ever.
        self.listeners = Listeners::default();
        for retired in &self.retired {
            // One whose link is broken is dead, and heard of so.
            drop(retired.proxy.drain().await);
        }
        if let Some(proxy) = &self.proxy
            && proxy.drain().await.is_err()
        {
            proxy.bury();
            self.proxy = None;
        }
    }

    /// The proxy's link has ended.
    pub(super) fn proxy_ended(&mut self, error: Option<&str>) {
        let Some(proxy) = self.proxy.take() else {
            return;
        };
        let status = proxy.bury();
        self.dataplane.table().clear_busy(proxy.column);
        self.ledger.proxy_ended(proxy.column);
        if self.stop.is_some() {
            return;
        }
        let wait = self.backoff.after_death(proxy.born, Instant::now());
        self.restarts += 1;
        self.restart_at = Some(Instant::now() + wait);
        let detail = error.map(|e| format!(", link: {e}")).unwrap_or_default();
        tracing::error!(
            "proxy process {} ended ({status}{detail}); restarting it in {} ms, its listeners are kept",
            proxy.pid(),
            wait.as_millis()
        );
    }

    async fn restart_proxy(&mut self) {
        self.restart_at = None;
        let born = Instant::now();
        if let Err(error) = self.start_proxy().await {
            let wait = self
                .backoff
                .after_death(born, Instant::now())
                .max(Duration::from_millis(100));
            self.restart_at = Some(Instant::now() + wait);
            tracing::error!(
                "proxy process not restarted: {error}; again in {} ms",
                wait.as_millis()
            );
        }
    }

    async fn start_proxy(&mut self) -> Result<(), ChildError> {
        let mut proxy = ProxyChild::spawn()?;
        enlist(&mut proxy, &mut self.dataplane, &mut self.ledger);
        let spec = Arc::clone(&self.desired.spec);
        let identity = self.identity.clone();
        let delivery = self.delivery(&spec);
        let begun = begin(
            &proxy,
            &self.dataplane,
            &self.ledger,
            &self.pins,
            identity,
            delivery,
        );
        let begun = match self.attend(begun).await {
            Ok(begun) => begun,
            Err(stopped) => Err(ChildError::Died(stopped.to_string())),
        };
        if let Err(error) = begun {
            proxy.bury();
            self.dataplane.table().clear_busy(proxy.column);
            self.ledger.proxy_ended(proxy.column);
            return Err(error);
        }
        tracing::info!(notice = true, "proxy process {} serves", proxy.pid());
        self.proxy = Some(proxy);
        Ok(())
    }

    /// The generation that is on, for a proxy. `spec` is its own.
    pub(super) fn delivery<'a>(&'a self, spec: &'a crate::config::spec::Spec) -> Delivery<'a> {
        Delivery {
            number: self.published.generation,
            spec,
            ids: &self.published.ids,
            listeners: &self.listeners,
            logs: &self.logs,
            certificates: &self.certificates,
            tickets: &self.tickets,
            shards: self.pins.len(),
        }
    }

    /// A stop was begun.
    pub(super) const fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// `kernel` or `memory`.
    pub(super) fn dataplane_kind(&self) -> &'static str {
        if self.dataplane.is_kernel() {
            "kernel"
        } else {
            "memory"
        }
    }
}

/// The next message of any of these.
async fn next_of(retired: &[Retired]) -> (usize, std::io::Result<Option<FromProxy>>) {
    let mut all: Vec<Pin<Box<_>>> = (retired.iter())
        .map(|retired| Box::pin(retired.proxy.next()))
        .collect();
    std::future::poll_fn(|cx| {
        for (index, next) in all.iter_mut().enumerate() {
            if let Poll::Ready(message) = next.as_mut().poll(cx) {
                return Poll::Ready((index, message));
            }
        }
        Poll::Pending
    })
    .await
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// A number of things, in words.
pub(crate) fn count(n: usize, thing: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{s}")
}

/// The path of the control socket, wherever `SluiceControl` puts it: clients look here.
pub(super) fn socket_path(place: &crate::dataplane::Place) -> PathBuf {
    place.run_dir.join(format!("{}.sock", place.instance))
}
