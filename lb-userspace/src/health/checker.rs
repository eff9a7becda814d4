//! The checker: a thread of the proxy process with a task for each member that is checked.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use lb_common::member::{MemberId, MemberState};
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use super::{Change, Progress, is_checked, pause, probe};
use crate::{
    config::spec::{Check, Health, Spec},
    dataplane::table::{MemberTable, monotonic_ns},
    names::Further,
    proxy::tls::{Peers, member::Peer},
};

/// Target of the events: httpd's `proxy_hcheck`.
const LOG: &str = "sluice::proxy_hcheck";

/// Checks that run at the same time at most: descriptors are the proxy's.
const MOST_AT_ONCE: usize = 64;

/// The running checks. Dropping it ends them.
pub struct Checker {
    orders: Option<mpsc::UnboundedSender<Vec<Target>>>,
    thread: Option<JoinHandle<()>>,
}

/// A member that is checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) id: MemberId,
    /// The life of the slot.
    pub(super) incarnation: u32,
    pub(super) address: SocketAddr,
    /// Its name, where further addresses of it are tried.
    pub(super) name: Option<String>,
    /// `unix:`: where it is instead.
    pub(super) socket: Option<PathBuf>,
    /// Whom to expect over TLS; `None`: cleartext.
    pub(super) peer: Option<Arc<Peer>>,
    /// `Host`: name and port, as httpd sends it.
    pub(super) host: String,
    /// Of the member's URL, may be empty.
    pub(super) path: String,
    /// Its URL, for the log.
    pub(super) url: String,
    pub(super) connect_timeout: Duration,
    /// Where the connection comes from, if that is said.
    pub(super) source: Option<std::net::IpAddr>,
    /// For the whole exchange.
    pub(super) timeout: Duration,
    pub(super) health: Health,
}

impl Checker {
    /// Starts the thread; it checks nobody before the first [`Checker::apply`].
    pub(crate) fn start(table: Arc<MemberTable>, further: Arc<Further>) -> io::Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, check_all(table, further, received));
            })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Checks the members of a generation, each with the slot in `ids`, and nobody else. Counts of
    /// members that stay are kept.
    pub fn apply(&self, spec: &Spec, ids: &[Vec<MemberId>], table: &MemberTable, peers: &Peers) {
        let targets = targets(spec, ids, table, peers);
        if let Some(orders) = &self.orders {
            // A thread that has ended says so where it panicked.
            let _ = orders.send(targets);
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Members with an `hcmethod`; those of direct workers are none, as in httpd.
fn targets(spec: &Spec, ids: &[Vec<MemberId>], table: &MemberTable, peers: &Peers) -> Vec<Target> {
    let default = spec.hosts.first().map_or(Duration::from_mins(1), |host| {
        host.proxy_timeout.unwrap_or(host.timeout)
    });
    // A member for L4 alone may have no port: it takes those of the service.
    let steered_port = |index: usize| {
        let mut steers = spec.sluice.steers.iter();
        let steer = steers.find(|steer| steer.balancer == index)?;
        Some(steer.first_port)
    };
    let balancers = spec.balancers.iter().zip(ids).enumerate();
    balancers
        .filter(|(_, (balancer, _))| !balancer.direct)
        .flat_map(|(index, (balancer, ids))| {
            let members = balancer.members.iter().zip(ids);
            members.map(move |(member, id)| (index, member, id))
        })
        .filter(|(_, member, _)| member.health.check.is_some())
        .filter_map(|(index, member, &id)| {
            let cell = table.cell(id)?;
            if member.socket.is_none() && cell.address().ip().is_unspecified() {
                // Its name has no address yet.
                return None;
            }
            let timeout = member.timeout.unwrap_or(default);
            let port = match (member.port, &member.socket) {
                (0, None) => steered_port(index)?,
                (port, _) => port,
            };
            let mut address = cell.address();
            address.set_port(port);
            let host = if member.host.contains(':') {
                format!("[{}]:{port}", member.host)
            } else {
                format!("{}:{port}", member.host)
            };
            Some(Target {
                id,
                incarnation: cell.incarnation.load(Relaxed),
                address,
                // What packets meet at the one address that they know must be seen.
                name: (member.name().filter(|_| steered_port(index).is_none())).map(str::to_owned),
                socket: member.socket.clone(),
                peer: peers.of(id),
                host,
                path: member.path.clone(),
                url: member.url.clone(),
                connect_timeout: member.connection_timeout.unwrap_or(timeout),
                source: member.source,
                timeout,
                health: member.health.clone(),
            })
        })
        .collect()
}

/// Carries out orders until there will be no more.
async fn check_all(
    table: Arc<MemberTable>,
    further: Arc<Further>,
    mut orders: mpsc::UnboundedReceiver<Vec<Target>>,
) {
    let mut running: HashMap<(MemberId, u32), Running> = HashMap::new();
    let places = Rc::new(Semaphore::new(MOST_AT_ONCE));
    while let Some(targets) = orders.recv().await {
        let mut next = HashMap::new();
        for target in targets {
            let key = (target.id, target.incarnation);
            let task = match running.remove(&key) {
                Some(task) if *task.target == target => task,
                former => Running::start(
                    Rc::new(target),
                    former.map_or_else(Rc::default, |former| Rc::clone(&former.progress)),
                    (&table, &further),
                    Rc::clone(&places),
                ),
            };
            next.insert(key, task);
        }
        // What is left is checked no more: its tasks end with it.
        running = next;
    }
}

/// The task of one member; it ends with this.
struct Running {
    target: Rc<Target>,
    progress: Rc<std::cell::Cell<Progress>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(
        target: Rc<Target>,
        progress: Rc<std::cell::Cell<Progress>>,
        (table, further): (&Arc<MemberTable>, &Arc<Further>),
        places: Rc<Semaphore>,
    ) -> Self {
        let check = check_one(
            Rc::clone(&target),
            Rc::clone(&progress),
            (Arc::clone(table), Arc::clone(further)),
            places,
        );
        let task = tokio::task::spawn_local(check).abort_handle();
        Self {
            target,
            progress,
            task,
        }
    }
}

/// Checks a member for as long as it has its slot. The first check comes after one interval, as in
/// httpd.
async fn check_one(
    target: Rc<Target>,
    progress: Rc<std::cell::Cell<Progress>>,
    (table, further): (Arc<MemberTable>, Arc<Further>),
    places: Rc<Semaphore>,
) {
    let (Some(cell), Some(check)) = (table.cell(target.id), target.health.check) else {
        return;
    };
    loop {
        let mut seed = [0];
        // Without randomness checks do not spread, no more.
        let _ = getrandom::fill(&mut seed);
        tokio::time::sleep(pause(target.health.interval, u64::from(seed[0]))).await;
        if cell.incarnation.load(Relaxed) != target.incarnation {
            return;
        }
        if !is_checked(cell.state()) {
            continue;
        }
        let Ok(_place) = places.acquire().await else {
            return;
        };
        let outcome = probe::probe(&target, check, &further).await;
        let url = &target.url;
        if let Err(error) = &outcome
            && error.is_ours()
        {
            warn!(target: LOG, "health check of {url} not made: {error}");
            continue;
        }
        match &outcome {
            Ok(()) => debug!(target: LOG, "AH03251: Health check {check} passed for {url}"),
            Err(error) => {
                debug!(target: LOG, "AH03251: Health check {check} failed for {url}: {error}");
            }
        }
        // A member that was given up while it was asked is nobody's business any more.
        if cell.incarnation.load(Relaxed) != target.incarnation {
            return;
        }
        let state = cell.state();
        let mut counts = progress.get();
        let change = counts.observe(&target.health, state, outcome.is_ok());
        progress.set(counts);
        if outcome.is_err() && !state.has(MemberState::HEALTH_FAILED | MemberState::ERROR) {
            // As in httpd: should a request put it into error now, its retry counts from here.
            cell.error_since.store(monotonic_ns().max(1), Relaxed);
        }
        match (change, outcome) {
            (Some(Change::Disabled), Err(error)) => {
                cell.set_state(MemberState::HEALTH_FAILED);
                info!(target: LOG, notice = true, "AH03303: Health check DISABLING {url}: {error}");
            }
            (Some(_), _) => {
                cell.clear_state(MemberState::HEALTH_FAILED | MemberState::ERROR);
                info!(target: LOG, notice = true, "AH03302: Health check ENABLING {url}");
            }
            (None, _) => {}
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Tcp => "TCP",
            Self::Options => "OPTIONS",
            Self::Head => "HEAD",
            Self::Get => "GET",
            Self::Options11 => "OPTIONS11",
            Self::Head11 => "HEAD11",
            Self::Get11 => "GET11",
        })
    }
}
