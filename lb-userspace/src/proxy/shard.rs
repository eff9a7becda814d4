//! A shard: one thread, one current-thread runtime, its own listeners, pools, deadlines and logs.
//! A request never leaves the shard that accepted its connection.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc as acks,
    },
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::sync::{mpsc, watch};
use tracing::error;

mod counted;
mod listener;

use counted::Accepting;
pub(crate) use counted::{Counted, Registered, Served};
use listener::{Arrival, Listener, is_transient};

use super::{
    body::Progress,
    client::{Client, KnownHosts, Timeouts, h2, task},
    manager::Office,
    plan::{Key, Plan},
    pool::Pools,
    tls::accept::{self, Opening},
    vhost,
    wheel::{TICK, Wheel},
};
use crate::{
    balancer::heartbeat::Heartbeats,
    dataplane::{sys::trim_heap, table::MemberTable},
    names::Further,
    telemetry::{
        access::{Buffer, Clock, Entry, Format},
        counters::{Counters, Number, Tally},
    },
};

/// What the shards of a process share.
pub(crate) struct Shared {
    pub(crate) table: Arc<MemberTable>,
    pub(crate) office: Office,
    pub(crate) column: u32,
    pub(crate) counters: Arc<Counters>,
    pub(crate) heartbeats: Arc<Heartbeats>,
    pub(crate) further: Arc<Further>,
    /// As many connections as there may be.
    pub(crate) clients: usize,
    pub(crate) connections: AtomicUsize,
    /// Sockets that are accepted from.
    pub(crate) accepting: AtomicUsize,
}

/// An order from the process's main thread.
pub(crate) enum Command {
    /// Switch to a plan and these listeners; then acknowledge.
    Apply(Arc<Plan>, Vec<std::net::TcpListener>, acks::Sender<()>),
    /// Accept no more, finish what is there. `politely`: idle connections may make one more request.
    Drain { politely: bool },
    /// End at once.
    Stop,
}

/// One shard's state, for its tasks.
pub(crate) struct Shard {
    pub(crate) shared: Arc<Shared>,
    /// What is counted here.
    pub(crate) tally: Tally,
    /// Of the next request; ids of a process's shards are far apart.
    next_request: Cell<u64>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) pools: Pools,
    /// Every read goes through it, small writes are joined in it.
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// Hosts that clients asked for.
    pub(crate) hosts: KnownHosts,
    /// How far the upload of a request without a body is.
    pub(crate) no_upload: Rc<Progress>,
    current: RefCell<Option<Rc<Current>>>,
    /// Generations before the current one that still have requests.
    former: RefCell<Vec<Weak<Current>>>,
    clients: RefCell<Slab<Weak<Client>>>,
    /// Connections that hyper serves, and the most of them since the heap was trimmed.
    served: Cell<usize>,
    most_served: Cell<usize>,
    draining: Cell<bool>,
    /// Those that are idle too.
    closes_idle: Cell<bool>,
    drain: watch::Sender<()>,
}

/// A plan as one shard runs it.
pub(crate) struct Current {
    pub(crate) plan: Arc<Plan>,
    logs: Vec<RefCell<Buffer>>,
    clock: RefCell<Clock>,
    /// Room for the request line that is being logged.
    pub(crate) line: RefCell<String>,
    candidates: RefCell<Option<(SocketAddr, Rc<[usize]>)>>,
    /// How long idle connections to each member are kept.
    ttls: HashMap<Key, Option<Duration>>,
}

impl Current {
    /// Appends a line to one of the plan's logs.
    pub(crate) fn log(&self, buffer: usize, format: &Format, entry: &Entry<'_>) {
        self.logs[buffer]
            .borrow_mut()
            .push(format, entry, &mut self.clock.borrow_mut());
    }

    /// Virtual hosts for a local address. Mostly that of the connection before.
    pub(crate) fn candidates(&self, local: SocketAddr) -> Rc<[usize]> {
        let mut last = self.candidates.borrow_mut();
        match &*last {
            Some((address, known)) if *address == local => Rc::clone(known),
            _ => {
                let found: Rc<[usize]> = vhost::candidates(&self.plan.spec.hosts, local).into();
                *last = Some((local, Rc::clone(&found)));
                found
            }
        }
    }

    fn flush(&self) {
        for buffer in &self.logs {
            buffer.borrow_mut().flush();
        }
    }
}

/// Bytes that are read at once.
const SCRATCH: usize = 64 << 10;

/// How long an accepted connection that was silent so far is waited for in a drain.
const FRESH_GRACE: Duration = Duration::from_secs(1);

/// Pause after an accept that failed for want of descriptors or memory, or while there are as many
/// connections as may be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ticks between two messages about that.
const TROUBLE_TICKS: u64 = 600;

/// Ticks between sweeps of pools and flushes of logs.
const SWEEP_TICKS: u64 = 10;

/// By so many has the number of served connections to sink before a sweep gives their memory back:
/// a crowd that comes and goes needs it again.
const TRIM_AFTER: usize = 64;

/// A shard's thread: runs until told to stop.
pub(crate) fn run(
    runtime: &tokio::runtime::LocalRuntime,
    number: usize,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut seed = [0; 8];
    // Without randomness ids may come again after a restart: logs are no worse than without them.
    let _ = getrandom::fill(&mut seed);
    let shard = Rc::new(Shard {
        tally: Tally::new(Arc::clone(&shared.counters), shared.column, number),
        next_request: Cell::new(u64::from_ne_bytes(seed)),
        shared,
        wheel: Wheel::new(),
        pools: Pools::default(),
        scratch: RefCell::new(vec![0; SCRATCH]),
        hosts: KnownHosts::default(),
        no_upload: Progress::none(),
        current: RefCell::new(None),
        former: RefCell::new(Vec::new()),
        clients: RefCell::new(Slab::new()),
        served: Cell::new(0),
        most_served: Cell::new(0),
        draining: Cell::new(false),
        closes_idle: Cell::new(false),
        drain: watch::Sender::new(()),
    });
    let _vital = Vital;
    runtime.block_on(async {
        tokio::task::spawn_local(tick(Rc::clone(&shard)));
        Rc::clone(&shard).obey(commands).await;
    });
    // Lines of requests that end with the runtime are written when their buffers are dropped.
    shard.flush_logs();
}

/// Held by what a shard cannot do without. A panic in a request's task ends that connection alone;
/// one in here would leave a shard that looks alive without deadlines or without listeners, so it
/// ends the process, which control restarts with the same listeners.
struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Turns the wheel; once a second sweeps and flushes.
async fn tick(shard: Rc<Shard>) {
    let _vital = Vital;
    let start = Instant::now();
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut swept = 0;
    loop {
        interval.tick().await;
        let ticks = start.elapsed().as_millis() / TICK.as_millis();
        let now = u64::try_from(ticks).unwrap_or(u64::MAX);
        shard.wheel.advance(now);
        if now >= swept + SWEEP_TICKS {
            swept = now;
            shard.sweep(now);
        }
    }
}

impl Shard {
    /// The generation that new requests take; `None` before the first.
    pub(crate) fn current(&self) -> Option<Rc<Current>> {
        self.current.borrow().clone()
    }

    /// An id for one more request, never 0.
    pub(crate) fn request_id(&self) -> u64 {
        let id = self.next_request.get().max(1);
        self.next_request.set(id.wrapping_add(1));
        id
    }

    /// Whether connections are to be closed after their request.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether connections that wait for a request are to be closed.
    pub(crate) fn closes_idle(&self) -> bool {
        self.closes_idle.get()
    }

    /// Changes when connections are to be closed after their request.
    pub(crate) fn drained(&self) -> watch::Receiver<()> {
        self.drain.subscribe()
    }

    async fn obey(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        // The accept loops of one generation end when their sender does.
        let mut accepting: Option<watch::Sender<()>> = None;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Apply(plan, listeners, done) => {
                    self.switch(plan);
                    let (keep, stop) = watch::channel(());
                    for listener in listeners {
                        self.listen(listener, stop.clone());
                    }
                    // The new loops are there before the old ones empty their queues and end.
                    accepting = (!self.is_draining()).then_some(keep);
                    // The main thread may have given up waiting.
                    let _ = done.send(());
                }
                Command::Drain { politely } => {
                    self.draining.set(true);
                    accepting = None;
                    self.pools.clear();
                    if politely {
                        continue;
                    }
                    self.closes_idle.set(true);
                    self.drain.send_replace(());
                    for (_, client) in self.clients.borrow().iter() {
                        if let Some(client) = client.upgrade() {
                            client.drain(FRESH_GRACE);
                        }
                    }
                }
                Command::Stop => return,
            }
        }
        drop(accepting);
    }

    fn switch(&self, plan: Arc<Plan>) {
        let current = Rc::new(Current {
            logs: plan
                .sinks
                .iter()
                .map(|sink| RefCell::new(Buffer::new(sink.clone())))
                .collect(),
            clock: RefCell::default(),
            line: RefCell::default(),
            candidates: RefCell::default(),
            ttls: (plan
                .balancers
                .iter()
                .flat_map(|balancing| &balancing.members))
            .map(|member| (member.key, member.spec.ttl))
            .collect(),
            plan,
        });
        if let Some(former) = self.current.borrow_mut().replace(current) {
            former.flush();
            self.former.borrow_mut().push(Rc::downgrade(&former));
        }
    }

    fn sweep(&self, now: u64) {
        self.flush_logs();
        let served = self.served.get();
        if self.most_served.get() >= served + TRIM_AFTER {
            trim_heap();
            self.most_served.set(served);
        }
        let idle = u64::try_from(self.pools.idle()).unwrap_or(u64::MAX);
        self.tally.set(Number::Idle, idle);
        // Whoever comes first counts those of the whole process.
        let lost = crate::telemetry::sink::take_lost();
        if lost > 0 {
            self.tally.count(Number::LinesLost, lost);
        }
        let Some(current) = self.current() else {
            return;
        };
        self.pools.sweep(now, |key| {
            // Nobody's any more: nothing will ask for it again.
            let of_nobody = Some(Duration::ZERO);
            current.ttls.get(&key).copied().unwrap_or(of_nobody)
        });
    }

    fn flush_logs(&self) {
        if let Some(current) = self.current() {
            current.flush();
        }
        self.former
            .borrow_mut()
            .retain(|former| former.upgrade().inspect(|former| former.flush()).is_some());
    }

    /// Starts accepting on a socket, until `stop` closes.
    fn listen(self: &Rc<Self>, socket: std::net::TcpListener, stop: watch::Receiver<()>) {
        // Accepted sockets inherit it.
        let nodelay = socket2::SockRef::from(&socket).set_tcp_nodelay(true);
        let listener = nodelay
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| Listener::new(socket));
        match listener {
            Ok(listener) => {
                let accepting = Accepting::new(&self.shared);
                tokio::task::spawn_local(Rc::clone(self).accept(listener, stop, accepting));
            }
            Err(error) => error!(target: "sluice::proxy", "listening socket unusable: {error}"),
        }
    }

    async fn accept(
        self: Rc<Self>,
        listener: Listener,
        mut stop: watch::Receiver<()>,
        _accepting: Accepting,
    ) {
        let _vital = Vital;
        let mut quiet_until = 0;
        loop {
            let full = self.shared.connections.load(Relaxed) >= self.shared.clients;
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept(), if !full => accepted,
                () = tokio::time::sleep(ACCEPT_PAUSE), if full => {
                    Err(io::Error::other(format!("{} connections, the limit", self.shared.clients)))
                }
                // Never sent to: an error says that the generation's sender is gone.
                _ = stop.changed() => break,
            };
            match accepted {
                Ok(arrival) => self.serve(arrival),
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    let now = self.wheel.now();
                    if now >= quiet_until {
                        quiet_until = now + TROUBLE_TICKS;
                        error!(target: "sluice::proxy", "no connection accepted: {error}");
                    }
                    if !full {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        // What the kernel has accepted already would be reset with the socket.
        while let Ok(arrival) = listener.accept_now() {
            self.serve(arrival);
        }
    }

    /// Starts the task of a client's connection.
    fn serve(self: &Rc<Self>, arrival: Arrival) {
        let Some(current) = self.current() else {
            return;
        };
        let Arrival {
            stream,
            peer,
            local,
            deferred,
        } = arrival;
        let candidates = current.candidates(local);
        let plan = &current.plan;
        let host = &plan.spec.hosts[candidates[0]];
        let timeouts = Timeouts {
            head: host.header_timeout,
            body: host.body_timeout,
            idle: host.keep_alive_timeout,
            io: host.timeout,
        };
        // Before a name is known those of the address's first host count, as in httpd.
        let limits = plan.hosts[candidates[0]].limits;
        let fields = limits.fields;
        // Counted here: the task's first turn comes after further accepts.
        let counted = Counted::new(self);
        let shard = Rc::clone(self);
        let is_clear = plan.hosts[candidates[0]].tls.is_none();
        if is_clear && deferred && !host.protocols.has_h2c() {
            let opening = Opening::Fresh(stream);
            let known = (plan.number, candidates);
            let client = Client::new(self, opening, peer, local, limits, timeouts, known);
            tokio::task::spawn_local(task::http1(shard, client, fields, counted));
            return;
        }
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
            return;
        };
        if is_clear && host.protocols.has_h2c() {
            tokio::task::spawn_local(async move {
                let host = &current.plan.spec.hosts[candidates[0]];
                let limit = host.header_timeout.longest();
                let limit = if limit.is_zero() { host.timeout } else { limit };
                let is_h2 = Box::pin(h2::begins(&shard, &stream, limit)).await;
                let protocols = is_h2.then(|| host.protocols.clone());
                let opening = Opening::Cleartext(stream);
                let known = (current.plan.number, candidates);
                drop(current);
                let client = Client::new(&shard, opening, peer, local, limits, timeouts, known);
                if let Some(protocols) = protocols {
                    Box::pin(h2::serve(shard, client, protocols, counted)).await;
                } else {
                    if shard.is_draining() {
                        client.drain(FRESH_GRACE);
                    }
                    Box::pin(task::http1(shard, client, fields, counted)).await;
                }
            });
            return;
        }
        if plan.hosts[candidates[0]].tls.is_none() {
            let opening = Opening::Cleartext(stream);
            let known = (plan.number, candidates);
            let client = Client::new(self, opening, peer, local, limits, timeouts, known);
            tokio::task::spawn_local(task::http1(shard, client, fields, counted));
            return;
        }
        tokio::task::spawn_local(async move {
            // Each state boxed for itself: a handshake's size must not stay with the connection.
            let opening = accept::open(&shard, &current, &candidates, stream, peer);
            let Some(opening) = Box::pin(opening).await else {
                return;
            };
            let protocols = opening.h2().map(|session| {
                let hosts = &current.plan.spec.hosts;
                let host = current
                    .plan
                    .names
                    .select(hosts, &candidates, session.name.as_deref());
                hosts[host].protocols.clone()
            });
            let known = (current.plan.number, candidates);
            drop(current);
            let client = Client::new(&shard, opening, peer, local, limits, timeouts, known);
            if let Some(protocols) = protocols {
                Box::pin(h2::serve(shard, client, protocols, counted)).await;
            } else {
                Box::pin(task::http1(shard, client, fields, counted)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    /// Panics in a task of a shard's runtime, in a process of its own.
    fn status_after_panic_in_task(test: &str, vital: bool) -> Option<std::process::ExitStatus> {
        const ALONE: &str = "SLUICE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let output = std::process::Command::new(std::env::current_exe().expect("own path"))
                .args(["--exact", test])
                .env(ALONE, "1")
                .output()
                .expect("test program runs");
            return Some(output.status);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("runtime");
        let ended = runtime.block_on(async {
            tokio::task::spawn_local(async move {
                let _vital = vital.then_some(Vital);
                panic!("for the test");
            })
            .await
        });
        assert!(ended.is_err_and(|error| error.is_panic()));
        None
    }

    #[test]
    fn panic_in_a_request_ends_neither_shard_nor_process() {
        let name = "proxy::shard::tests::panic_in_a_request_ends_neither_shard_nor_process";
        let status = status_after_panic_in_task(name, false);
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
    }

    #[test]
    fn panic_in_what_a_shard_lives_on_ends_the_process() {
        let name = "proxy::shard::tests::panic_in_what_a_shard_lives_on_ends_the_process";
        let status = status_after_panic_in_task(name, true);
        let aborted = status.expect("the other process ended").signal();
        assert_eq!(aborted, Some(rustix::process::Signal::ABORT.as_raw()));
    }
}
