//! Names of clients, and addresses of names that clients are compared with: for `Require host`,
//! `Require forward-dns` and `Allow from NAME`.
//!
//! A thread of the proxy process asks the hosts file and the name servers; each shard keeps what it
//! was told, for as long as it holds, and only the request that asks for something unknown waits.
//! The hosts file and the name servers alone are asked: nothing that can block a thread for long.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::IpAddr,
    rc::Rc,
    sync::OnceLock,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error};

use super::{
    LONGEST, SHORTEST,
    lookup::{self, Lookup, LookupError},
};

const LOG: &str = "sluice::names";
/// What one shard keeps, at most.
const MOST_KNOWN: usize = 4096;
/// Lookups at the same time; what is asked beyond counts as unknown for [`FAILED`].
const MOST_OPEN: usize = 256;
/// Orders that wait for the thread to take them.
const MOST_ORDERS: usize = 1024;
/// How long it is believed that there is nothing, and that nothing can be found out.
const NOTHING: Duration = Duration::from_secs(10);
const FAILED: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// The name of an address.
    Client(IpAddr),
    /// The addresses of a name.
    Name(String),
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// In lower case; a name that has this address, which a name server's word for an address alone
    /// does not say.
    Client(Option<String>),
    /// Of both families; may be none.
    Name(Vec<IpAddr>),
}

impl Question {
    fn nothing(&self) -> Reply {
        match self {
            Self::Client(_) => Reply::Client(None),
            Self::Name(_) => Reply::Name(Vec::new()),
        }
    }
}

thread_local! {
    /// Of the shard whose thread this is.
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// What a shard was told.
#[derive(Default)]
struct Known(HashMap<Question, (Reply, Instant)>);

impl Known {
    fn reply(&self, question: &Question, now: Instant) -> Option<Reply> {
        let (reply, until) = self.0.get(question)?;
        (now < *until).then(|| reply.clone())
    }

    fn keep(&mut self, question: Question, reply: Reply, holds: Duration, now: Instant) {
        if self.0.len() >= MOST_KNOWN {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= MOST_KNOWN {
            // Whoever is asked for again is looked up again.
            self.0.clear();
        }
        self.0.insert(question, (reply, now + holds));
    }
}

/// What this shard knows; `None`: it has to [`ask`].
pub(crate) fn known(question: &Question) -> Option<Reply> {
    KNOWN.with_borrow(|known| known.reply(question, Instant::now()))
}

/// Waits until all of this is known to this shard. Bounded in time.
pub(crate) async fn ask(questions: Vec<Question>) {
    let mut told = Vec::with_capacity(questions.len());
    for question in questions {
        let (tell, hear) = oneshot::channel();
        let order = Order {
            question: question.clone(),
            tell,
        };
        let sent = office().is_some_and(|office| office.try_send(order).is_ok());
        told.push((question, sent.then_some(hear)));
    }
    for (question, hear) in told {
        let heard = match hear {
            Some(hear) => hear.await.ok(),
            None => None,
        };
        let (reply, holds) = heard.unwrap_or_else(|| (question.nothing(), FAILED));
        KNOWN.with_borrow_mut(|known| known.keep(question, reply, holds, Instant::now()));
    }
}

type Told = (Reply, Duration);

struct Order {
    question: Question,
    tell: oneshot::Sender<Told>,
}

/// Where orders go; the thread behind it starts with the first and ends with the process. `None`: it
/// could not start.
fn office() -> Option<&'static mpsc::Sender<Order>> {
    static OFFICE: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let started = OFFICE.get_or_init(|| match start() {
        Ok(office) => Some(office),
        Err(error) => {
            error!(target: LOG, "names of clients cannot be looked up: {error}");
            None
        }
    });
    started.as_ref()
}

fn start() -> io::Result<mpsc::Sender<Order>> {
    let (office, orders) = mpsc::channel(MOST_ORDERS);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("client names".to_owned())
        .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve(orders)))?;
    Ok(office)
}

/// Who waits for what.
type Waiting = Rc<RefCell<HashMap<Question, Vec<oneshot::Sender<Told>>>>>;

async fn serve(mut orders: mpsc::Receiver<Order>) {
    let lookup = Rc::new(RefCell::new(Lookup::default()));
    let waiting = Waiting::default();
    while let Some(Order { question, tell }) = orders.recv().await {
        let mut open = waiting.borrow_mut();
        if let Some(others) = open.get_mut(&question) {
            others.push(tell);
            continue;
        }
        if open.len() >= MOST_OPEN {
            // Who asked hears that nobody will tell.
            debug!(target: LOG, "too many names are being looked up: {question:?} is not");
            continue;
        }
        open.insert(question.clone(), vec![tell]);
        let (waiting, lookup) = (Rc::clone(&waiting), Rc::clone(&lookup));
        tokio::task::spawn_local(async move {
            let resolver = lookup.borrow_mut().resolver();
            let found = tokio::time::timeout(lookup::TIMEOUT, find(&resolver, &question)).await;
            let told = found.unwrap_or(Err(LookupError::TimedOut));
            let told = told.unwrap_or_else(|error| {
                debug!(target: LOG, "{question:?}: {error}");
                if matches!(error, LookupError::Io(_) | LookupError::TimedOut) {
                    // Connections to name servers begin anew.
                    lookup.borrow_mut().forget();
                }
                (question.nothing(), FAILED)
            });
            for tell in waiting.borrow_mut().remove(&question).unwrap_or_default() {
                // Whoever waited may be gone.
                let _ = tell.send(told.clone());
            }
        });
    }
}

async fn find(resolver: &lookup::Resolver, question: &Question) -> Result<Told, LookupError> {
    let holds = |time: Duration| time.clamp(SHORTEST, LONGEST);
    match question {
        Question::Name(name) => {
            let (addresses, ttl) = lookup::addresses(resolver, name).await?;
            let holds = if addresses.is_empty() {
                NOTHING
            } else {
                holds(ttl)
            };
            Ok((Reply::Name(addresses), holds))
        }
        Question::Client(address) => {
            let nothing = (Reply::Client(None), NOTHING);
            let Some((name, of_name)) = lookup::name(resolver, *address).await? else {
                return Ok(nothing);
            };
            let (addresses, of_addresses) = lookup::addresses(resolver, &name).await?;
            if !addresses.contains(address) {
                return Ok(nothing);
            }
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            Ok((Reply::Client(Some(name)), holds(of_name.min(of_addresses))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shard_keeps_ends_and_is_bounded() {
        let mut known = Known::default();
        let now = Instant::now();
        let client = |last: u32| Question::Client(IpAddr::from(last.to_be_bytes()));
        let hold = Duration::from_secs(10);
        known.keep(client(1), Reply::Client(None), hold, now);
        assert_eq!(known.reply(&client(1), now), Some(Reply::Client(None)));
        assert_eq!(known.reply(&client(2), now), None);
        assert_eq!(known.reply(&client(1), now + hold), None);
        for last in 0..=MOST_KNOWN as u32 {
            known.keep(client(last), Reply::Client(None), hold, now);
            assert!(known.0.len() <= MOST_KNOWN);
            assert!(known.reply(&client(last), now).is_some());
        }
    }

    #[test]
    fn this_host_has_the_name_that_its_hosts_file_says() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let local = Question::Client([127, 0, 0, 1].into());
        let name = Question::Name("localhost".to_owned());
        runtime.block_on(ask(vec![local.clone(), name.clone(), name.clone()]));
        let Some(Reply::Client(Some(found))) = known(&local) else {
            panic!("{:?}", known(&local));
        };
        assert!(found.contains("localhost"), "{found}");
        let Some(Reply::Name(addresses)) = known(&name) else {
            panic!("{:?}", known(&name));
        };
        assert!(addresses.contains(&[127, 0, 0, 1].into()), "{addresses:?}");
    }
}
