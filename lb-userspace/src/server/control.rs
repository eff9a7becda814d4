//! The control process: start, the event loop, supervision of the proxy, stop.

use std::{
    fs,
    os::fd::AsFd as _,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};

use super::{
    RunOptions, StartError,
    backoff::Backoff,
    certificates::{self, Watch},
    child::{ChildError, Delivery, ProxyChild},
    ledger::Ledger,
    link::FromProxy,
    listeners::Listeners,
    manager,
    notify::{Notice, notify},
    preflight::{self, Logs},
    privileges::Identity,
    scrape::Scrape,
    signals::{Asked, Signals},
    socket::{Ask, ControlSocket},
};
use crate::{
    admin::{manager::kept::Kept, protocol::Response},
    config::spec::Spec,
    dataplane::{Dataplane, Desired, KernelLog, Published},
    proxy::tls::Certificates,
    telemetry::error_log,
};

/// How long requests in flight may take at TERM.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Heartbeat of the maps and of expired denies.
const TICK: Duration = Duration::from_secs(1);
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
    /// Of certificate and key files.
    pub(super) watch: Watch,
    /// Ticks since the last look at them.
    watched: u32,
    pub(super) identity: Option<Identity>,
    pub(super) shards: usize,
    pub(super) proxy: Option<ProxyChild>,
    pub(super) started: Instant,
    pub(super) restarts: u32,
    pub(super) notices: Vec<String>,
    /// What was changed in the balancer-manager.
    pub(super) kept: Kept,
    pub(super) ledger: Ledger,
    /// `SluiceMetrics`.
    pub(super) scrape: Option<Scrape>,
    /// For what is asked beside the control socket.
    pub(super) ask: mpsc::Sender<Ask>,
    backoff: Backoff,
    /// When a dead proxy is started again.
    restart_at: Option<Instant>,
    stop: Option<Stop>,
    socket: ControlSocket,
    asks: mpsc::Receiver<Ask>,
    signals: Signals,
    tick: Interval,
}

/// The service is ending.
struct Stop {
    /// The proxy is ended by force then; `None`: it may take as long as it takes.
    deadline: Option<Instant>,
}

enum Event {
    Proxy(std::io::Result<Option<FromProxy>>),
    Ask(Ask),
    Signal(Asked),
    RestartProxy,
    StopDeadline,
    Tick,
}

impl Control {
    /// Checks everything, opens the maps, binds, publishes, starts the proxy; returns when it
    /// serves. On error nothing of it is left but what was there before.
    pub(super) async fn start(
        mut options: RunOptions,
        spec: Arc<Spec>,
    ) -> Result<Self, StartError> {
        if !options.instance_given {
            options.place.instance.clone_from(&spec.sluice.instance);
        }
        // First of all: until then USR1 is the end of a process.
        let mut signals = Signals::new()?;
        make_run_dir(&options.place.run_dir)?;
        let spec = without_dataplane(spec, options.no_xdp);
        let host = |error: preflight::PreflightError| StartError::Host(error.to_string());
        let mut said = Vec::new();
        let mut kept = manager::load(&options.place, &spec, &mut said);
        let (spec, more) = manager::put_over(spec, &mut kept);
        said.extend(more);
        let identity = preflight::identity(&spec).map_err(host)?;
        preflight::interfaces(&spec).map_err(host)?;
        let logs = Logs::open(&spec, None).map_err(host)?;
        let tls = certificates::load(&spec)
            .map_err(|errors| StartError::Host(certificates::lines(&errors)))?;
        let watch = Watch::new(&tls);
        let addresses = tokio::select! {
            resolved = preflight::resolve(&spec) => resolved.map_err(host)?,
            () = signals.stop() => return Err(StartError::Stopped),
        };
        let shards = shards(&spec);

        let mut notices = tls.warnings.clone();
        notices.extend(said);
        let dataplane = open_dataplane(&options, &spec, &mut notices)?;
        // From here on there may be pins that were not there before.
        let mut undo = Undo(Some(dataplane));
        let opened = undo.dataplane();
        // Before anything can be seen of this start: who asks now is answered when it serves.
        let (ask, asks) = mpsc::channel(64);
        let socket = ControlSocket::bind(&options.place, &spec.sluice, ask.clone())?;
        let scrape = Scrape::of(&spec.sluice, None, &ask)
            .map_err(|error| StartError::Host(error.to_string()))?;
        let mut ledger = Ledger::new(shards)?;
        let orphan = opened.orphan();
        if let Some(pid) = orphan {
            notices.push(format!(
                "the control before this one died; its proxy, process {pid}, still serves and is \
                 taken over from"
            ));
        }
        let listeners = Listeners::beside(orphan.is_some())
            .rebind(&spec.listeners, shards, spec.listen_backlog)
            .await
            .map_err(|error| StartError::Host(error.to_string()))?;
        let desired = Desired {
            addresses,
            spec: Arc::clone(&spec),
        };
        let published = opened.publish(&desired)?;
        notices.extend(published.notices.iter().cloned());
        notices.extend(ledger.published(&spec, &published, &opened.table()));

        let mut proxy =
            ProxyChild::spawn().map_err(|error| StartError::Proxy(error.to_string()))?;
        let begun = begin(
            &mut proxy,
            opened,
            &mut ledger,
            shards,
            identity.clone(),
            Delivery {
                number: published.generation,
                spec: &spec,
                ids: &published.ids,
                listeners: &listeners,
                logs: &logs,
                certificates: &tls.certificates,
            },
        )
        .await;
        if let Err(error) = begun {
            proxy.bury();
            return Err(StartError::Proxy(error.to_string()));
        }
        if let Some(log) = opened.log() {
            follow(log)?;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            dataplane: undo.keep(),
            options,
            desired,
            published,
            listeners,
            logs,
            certificates: tls.certificates,
            watch,
            watched: 0,
            identity,
            shards,
            proxy: Some(proxy),
            started: Instant::now(),
            restarts: 0,
            notices,
            kept,
            ledger,
            scrape,
            ask,
            backoff: Backoff::default(),
            restart_at: None,
            stop: None,
            socket,
            asks,
            signals,
            tick,
        })
    }

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
            count(self.shards, "shard"),
            self.dataplane_kind(),
        );
        notify(Notice::Ready);
        loop {
            match self.next_event().await {
                Event::Proxy(Ok(Some(FromProxy::Connections(n)))) => {
                    if let Some(proxy) = &mut self.proxy {
                        proxy.connections = n;
                    }
                }
                Event::Proxy(Ok(Some(FromProxy::Change {
                    number,
                    client,
                    submission,
                }))) => self.manage(number, client, &submission).await,
                Event::Proxy(Ok(Some(_))) => {}
                Event::Proxy(Ok(None)) => self.proxy_ended(None),
                Event::Proxy(Err(error)) => self.proxy_ended(Some(&error.to_string())),
                Event::Ask(ask) => self.answer(ask).await,
                // The answer is in the log.
                Event::Signal(Asked::Reload) => drop(self.reload().await),
                Event::Signal(Asked::Stop { graceful }) => self.begin_stop(graceful).await,
                Event::RestartProxy => self.restart_proxy().await,
                Event::StopDeadline => {
                    if let Some(proxy) = &mut self.proxy {
                        tracing::warn!("requests still in flight: ending the proxy");
                        proxy.bury();
                    }
                    self.proxy = None;
                }
                Event::Tick => {
                    self.dataplane.tick();
                    self.logs.tend();
                    self.look_at_certificates().await;
                }
            }
            if self.stop.is_some() && self.proxy.is_none() {
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
        let restart_at = self.restart_at;
        let deadline = self.stop.as_ref().and_then(|stop| stop.deadline);
        tokio::select! {
            message = async {
                match proxy {
                    Some(proxy) => proxy.next().await,
                    None => std::future::pending().await,
                }
            } => Event::Proxy(message),
            asked = self.signals.next() => Event::Signal(asked),
            Some(ask) = self.asks.recv() => Event::Ask(ask),
            () = at(restart_at) => Event::RestartProxy,
            () = at(deadline) => Event::StopDeadline,
            _ = self.tick.tick() => Event::Tick,
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
        if let Some(proxy) = &mut self.proxy
            && proxy.drain().await.is_err()
        {
            proxy.bury();
            self.proxy = None;
        }
    }

    /// The proxy's link has ended.
    pub(super) fn proxy_ended(&mut self, error: Option<&str>) {
        let Some(mut proxy) = self.proxy.take() else {
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
        let spec = Arc::clone(&self.desired.spec);
        let delivery = Delivery {
            number: self.published.generation,
            spec: &spec,
            ids: &self.published.ids,
            listeners: &self.listeners,
            logs: &self.logs,
            certificates: &self.certificates,
        };
        let begun = begin(
            &mut proxy,
            &mut self.dataplane,
            &mut self.ledger,
            self.shards,
            self.identity.clone(),
            delivery,
        )
        .await;
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

/// Sets a new process up and gives it its first generation.
async fn begin(
    proxy: &mut ProxyChild,
    dataplane: &mut Dataplane,
    ledger: &mut Ledger,
    shards: usize,
    identity: Option<Identity>,
    delivery: Delivery<'_>,
) -> Result<(), ChildError> {
    let column = dataplane.proxy_started(proxy.pid());
    ledger.proxy_started(column);
    let lock = dataplane.lock_reader()?;
    proxy
        .set_up(
            column,
            shards,
            identity,
            dataplane.table_fds(),
            lock.as_fd(),
            ledger.file(),
        )
        .await?;
    proxy.deliver(delivery).await?;
    Ok(dataplane.announce(proxy.pid())?)
}

/// A thread that hands on what the XDP program logs, for as long as this process lives.
fn follow(mut log: KernelLog) -> std::io::Result<()> {
    /// Long enough to cost nothing while the log is off.
    const WAIT_MS: u32 = 60_000;
    std::thread::Builder::new()
        .name("xdp-log".to_owned())
        .spawn(move || {
            while let Ok(()) = log.wait(WAIT_MS) {}
            tracing::warn!("the program's log can no longer be read");
        })?;
    Ok(())
}

fn make_run_dir(path: &std::path::Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| StartError::RunDir {
            path: path.to_owned(),
            source,
        })
}

/// With `--no-xdp` no interface is looked for.
pub(super) fn without_dataplane(spec: Arc<Spec>, no_xdp: bool) -> Arc<Spec> {
    if !no_xdp || spec.sluice.interfaces.is_empty() {
        return spec;
    }
    let mut spec = Arc::unwrap_or_clone(spec);
    spec.sluice.interfaces.clear();
    Arc::new(spec)
}

/// Kernel maps where they can be had; memory where the file can do without and the host has none.
fn open_dataplane(
    options: &RunOptions,
    spec: &Spec,
    notices: &mut Vec<String>,
) -> Result<Dataplane, StartError> {
    if options.no_xdp {
        if let Some(at) = &spec.sluice.needs_dataplane {
            notices.push(format!(
                "--no-xdp: the directives of XDP, Steer and Guard (first: {}:{}) have no effect",
                at.file.display(),
                at.line
            ));
        }
        return Ok(Dataplane::anonymous(&options.place)?);
    }
    match Dataplane::open(&options.place, &spec.sluice.interfaces) {
        Ok(dataplane) => Ok(dataplane),
        Err(error) if error.exit_code() != 3 => Err(error.into()),
        Err(source) => {
            if let Some(at) = &spec.sluice.needs_dataplane {
                return Err(StartError::NeedsDataplane {
                    at: at.clone(),
                    source,
                });
            }
            notices.push(format!(
                "no kernel maps ({source}): members' state is kept in memory and ends with this process"
            ));
            Ok(Dataplane::anonymous(&options.place)?)
        }
    }
}

/// `SluiceShards`, else one per CPU that this process may use.
pub(super) fn shards(spec: &Spec) -> usize {
    let configured = spec.sluice.shards.and_then(|n| usize::try_from(n).ok());
    configured
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .max(1)
}

/// Takes back what an unfinished start pinned and attached; what an earlier run left stays.
struct Undo(Option<Dataplane>);

impl Undo {
    fn dataplane(&mut self) -> &mut Dataplane {
        self.0
            .as_mut()
            .expect("taken by keep() only, which consumes self")
    }

    fn keep(mut self) -> Dataplane {
        self.0
            .take()
            .expect("taken by keep() only, which consumes self")
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(dataplane) = self.0.take() {
            dataplane.abandon();
        }
    }
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
