//! The watcher: a thread of the proxy process with a task for each name of a member.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::{Mutex, mpsc};

use super::{Answer, Further, holds, lookup::Lookup, pause};
use crate::config::spec::{AddressTtl, Spec};

/// Names that are asked for at the same time at most.
const MOST_AT_ONCE: usize = 8;
/// Outcomes that wait to be told; who has more to say waits.
const MOST_UNTOLD: usize = 64;

/// One lookup's outcome.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The name as the configuration has it.
    pub(crate) host: String,
    /// What was said, or why nothing was.
    pub(crate) answer: Result<Answer, String>,
}

/// The running lookups. Dropping it ends them.
pub(crate) struct Watcher {
    orders: Option<mpsc::UnboundedSender<Names>>,
    further: Arc<Further>,
    thread: Option<JoinHandle<()>>,
}

/// Names with how long an answer holds.
type Names = BTreeMap<String, AddressTtl>;

impl Watcher {
    /// Starts the thread; it asks for nothing before the first [`Watcher::apply`]. What it hears is
    /// kept in `further`.
    pub(crate) fn start(further: Arc<Further>) -> io::Result<(Self, mpsc::Receiver<Resolved>)> {
        let (orders, received) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::channel(MOST_UNTOLD);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MOST_AT_ONCE)
            .build()?;
        let kept = Arc::clone(&further);
        let thread = std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, watch_all(received, tell, kept));
                // The C library may be asking still, and cannot be interrupted.
                runtime.shutdown_background();
            })?;
        let watcher = Self {
            orders: Some(orders),
            further,
            thread: Some(thread),
        };
        Ok((watcher, told))
    }

    /// Asks for the names of a generation's members and no others. Those that stay go on as they are.
    pub(crate) fn apply(&self, spec: &Spec) {
        if let Some(orders) = &self.orders {
            let names = names(spec);
            self.further.expect(names.keys());
            self.further.keep(|name| names.contains_key(name));
            // A thread that has ended says so where it panicked.
            let _ = orders.send(names);
        }
    }

    /// Says that the names of a generation are asked for soon, before anybody connects by it.
    pub(crate) fn expect(&self, spec: &Spec) {
        self.further.expect(names(spec).keys());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.further.settle();
    }
}

/// The names of a configuration; one that several members have is asked for as often as the most
/// impatient of them wants.
fn names(spec: &Spec) -> Names {
    let mut names = Names::new();
    for member in spec.balancers.iter().flat_map(|b| &b.members) {
        let Some(host) = member.name() else { continue };
        let rule = member.address_ttl;
        names
            .entry(host.to_owned())
            .and_modify(|known| *known = sooner(*known, rule))
            .or_insert(rule);
    }
    names
}

fn sooner(a: AddressTtl, b: AddressTtl) -> AddressTtl {
    match (a, b) {
        (AddressTtl::Every(a), AddressTtl::Every(b)) => AddressTtl::Every(a.min(b)),
        (AddressTtl::Forever, other) | (other, AddressTtl::Forever) => other,
        // Which of the two is shorter is not known before the answer.
        (AddressTtl::Record, other) | (other, AddressTtl::Record) => match other {
            AddressTtl::Every(time) if time < super::LONGEST => other,
            _ => AddressTtl::Record,
        },
    }
}

/// Carries out orders until there will be no more.
async fn watch_all(
    mut orders: mpsc::UnboundedReceiver<Names>,
    tell: mpsc::Sender<Resolved>,
    further: Arc<Further>,
) {
    let mut running: HashMap<String, Running> = HashMap::new();
    let askers: Rc<Vec<Mutex<Lookup>>> =
        Rc::new((0..MOST_AT_ONCE).map(|_| Mutex::default()).collect());
    while let Some(names) = orders.recv().await {
        let mut next = HashMap::new();
        for (place, (host, rule)) in names.into_iter().enumerate() {
            let task = match running.remove(&host) {
                Some(task) if task.rule == rule => task,
                _ => Running::start(&host, rule, place, &askers, (&tell, &further)),
            };
            next.insert(host, task);
        }
        // What is left is asked for no more: its tasks end with it.
        running = next;
    }
}

/// The task of one name; it ends with this.
struct Running {
    rule: AddressTtl,
    task: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(
        host: &str,
        rule: AddressTtl,
        place: usize,
        askers: &Rc<Vec<Mutex<Lookup>>>,
        (tell, further): (&mpsc::Sender<Resolved>, &Arc<Further>),
    ) -> Self {
        let watch = watch(
            host.to_owned(),
            rule,
            place,
            Rc::clone(askers),
            (tell.clone(), Arc::clone(further)),
        );
        let task = tokio::task::spawn_local(watch).abort_handle();
        Self { rule, task }
    }
}

/// Asks for a name for as long as anybody wants to know.
async fn watch(
    host: String,
    rule: AddressTtl,
    place: usize,
    askers: Rc<Vec<Mutex<Lookup>>>,
    (tell, further): (mpsc::Sender<Resolved>, Arc<Further>),
) {
    let mut failures = 0_u32;
    loop {
        let found = {
            let asker = &askers[place % askers.len()];
            asker.lock().await.ask(&host).await
        };
        further.tell(&host, found.as_ref().ok());
        let outcome = if let Ok(answer) = &found {
            failures = 0;
            Ok(holds(rule, answer.ttl))
        } else {
            failures = failures.saturating_add(1);
            Err(failures)
        };
        let done = rule == AddressTtl::Forever && found.is_ok();
        let resolved = Resolved {
            host: host.clone(),
            answer: found.map_err(|error| error.to_string()),
        };
        if tell.send(resolved).await.is_err() || done {
            return;
        }
        let mut seed = [0];
        // Without randomness lookups do not spread, no more.
        let _ = getrandom::fill(&mut seed);
        tokio::time::sleep(pause(outcome, seed[0])).await;
    }
}
