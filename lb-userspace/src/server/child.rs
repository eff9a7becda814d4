//! Control's side of one proxy process: starting it, giving it a generation, hearing its death.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{
    link::{FromProxy, Link, MAX_FDS, Parcel, ToProxy, pair, write_file},
    listeners::Listeners,
    preflight::Logs,
    privileges::Identity,
};
use crate::{
    config::spec::Spec,
    proxy::{
        manager::Answer,
        tls::{Certificates, TicketKeys},
    },
};

/// Hidden subcommand that makes this binary the proxy.
pub const SUBCOMMAND: &str = "proxy-process";

/// What can go wrong between control and proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// No process.
    #[error("proxy process not started: {0}")]
    Spawn(#[source] io::Error),
    /// The link broke.
    #[error("talking to the proxy process failed: {0}")]
    Link(#[from] io::Error),
    /// It is gone.
    #[error("the proxy process ended before it served ({0})")]
    Died(String),
    /// It said no.
    #[error("the proxy refused the configuration: {0}")]
    Refused(String),
    /// It said nothing.
    #[error("the proxy did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// Changes of the balancer-manager that a proxy may have asked for and not been answered.
pub(super) const MOST_CHANGES: usize = 64;
/// Those, and a word on each name of a large configuration.
const MOST_WAITING: usize = MOST_CHANGES + 4096;

/// How long a generation may take to be applied.
const APPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the link may refuse an order: a process that reads nothing has it full some day.
const ORDER_TIMEOUT: Duration = Duration::from_secs(1);

/// One proxy process.
#[derive(Debug)]
pub(crate) struct ProxyChild {
    /// A child of this process, which may have been another program when it was started.
    pid: Pid,
    /// How it ended, once it was waited for: after that its id is another's.
    ended: RefCell<Option<String>>,
    link: Link,
    /// When it was started.
    pub(crate) born: Instant,
    /// Its column of `BUSY`.
    pub(crate) column: u32,
    /// Connections it last told.
    connections: Cell<u64>,
    /// What was asked for or told while something else was waited for.
    waiting: RefCell<VecDeque<FromProxy>>,
}

/// Everything of a generation that is sent.
#[derive(Clone, Copy)]
pub(crate) struct Delivery<'a> {
    /// Its number.
    pub(crate) number: u64,
    /// The configuration.
    pub(crate) spec: &'a Spec,
    /// Slots of its members.
    pub(crate) ids: &'a [Vec<lb_common::member::MemberId>],
    /// Its sockets.
    pub(crate) listeners: &'a Listeners,
    /// Its logs.
    pub(crate) logs: &'a Logs,
    /// Its certificates.
    pub(crate) certificates: &'a Certificates,
    /// Keys of session tickets.
    pub(crate) tickets: &'a TicketKeys,
    /// Shards that there are.
    pub(crate) shards: usize,
}

impl ProxyChild {
    /// Starts the process; it waits for [`ProxyChild::set_up`].
    pub(crate) fn spawn() -> Result<Self, ChildError> {
        let (ours, theirs) = pair().map_err(ChildError::Spawn)?;
        let child = Command::new("/proc/self/exe")
            .arg0("sluice")
            .arg(SUBCOMMAND)
            // Of control's environment nothing but the time zone of log lines and what a crash
            // prints; of its file system no directory that is to be unmounted some day.
            .env_clear()
            .envs(
                ["TZ", "TZDIR", "RUST_BACKTRACE"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .current_dir("/")
            // The link is its standard input: the one descriptor besides output that it inherits.
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Ctrl-C is for control, which then stops the proxy in order.
            .process_group(0)
            .spawn()
            .map_err(ChildError::Spawn)?;
        // The standard library's handle is of no use: dropped, it leaves the process alone.
        Self::adopt(child.id(), 0, ours).map_err(ChildError::Spawn)
    }

    /// A process that this one's predecessor started, by its end of the link.
    pub(crate) fn adopt(pid: u32, column: u32, link: OwnedFd) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.ok_or_else(|| io::Error::other("no process id"))?,
            ended: RefCell::default(),
            link: Link::new(link)?,
            born: Instant::now(),
            column,
            connections: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Our end of the link, for a successor.
    pub(crate) fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Gives it the member table and who to be; returns when its shards run.
    pub(crate) async fn set_up(
        &self,
        cpus: &[Option<u32>],
        identity: Option<Identity>,
        table: (BorrowedFd<'_>, BorrowedFd<'_>),
        lock: BorrowedFd<'_>,
        counters: BorrowedFd<'_>,
    ) -> Result<(), ChildError> {
        let setup = ToProxy::Setup {
            column: self.column,
            cpus: cpus.to_vec(),
            identity,
        };
        self.link
            .send(&setup, &[table.0, table.1, lock, counters])
            .await?;
        self.answer(|message| matches!(message, FromProxy::Ready))
            .await
    }

    /// Sends a generation and waits until every shard is on it.
    pub(crate) async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), ChildError> {
        let (listeners, logs) = self.send_descriptors(delivery).await?;
        let parcel = Parcel {
            number: delivery.number,
            spec: delivery.spec.clone(),
            ids: delivery
                .ids
                .iter()
                .map(|ids| ids.iter().map(|id| id.0).collect())
                .collect(),
            certificates: delivery.certificates.clone(),
            tickets: delivery.tickets.clone(),
        }
        .seal()?;
        let apply = ToProxy::Apply { listeners, logs };
        self.link.send(&apply, &[parcel.as_fd()]).await?;
        let number = delivery.number;
        self.answer(|message| matches!(message, FromProxy::Applied(n) if *n == number))
            .await
    }

    async fn send_descriptors(&self, delivery: Delivery<'_>) -> Result<(usize, usize), ChildError> {
        let mut sockets = Vec::new();
        for (index, listener) in delivery.spec.listeners.iter().enumerate() {
            // There may be more of them than shards, after an upgrade to fewer.
            for (place, socket) in delivery.listeners.sockets(listener).iter().enumerate() {
                sockets.push(((place % delivery.shards, index), socket.as_fd()));
            }
        }
        for batch in sockets.chunks(MAX_FDS) {
            let (places, fds): (Vec<_>, Vec<_>) = batch.iter().copied().unzip();
            self.link.send(&ToProxy::Listeners(places), &fds).await?;
        }
        let files: Vec<_> = delivery.logs.iter().collect();
        // Fewer at once than descriptors allow: paths are long and a message is bounded.
        for batch in files.chunks(MAX_FDS / 16) {
            let targets = batch.iter().map(|(target, _)| (*target).clone()).collect();
            let fds: Vec<_> = batch.iter().map(|(_, file)| file.as_fd()).collect();
            self.link.send(&ToProxy::Logs(targets), &fds).await?;
        }
        Ok((sockets.len(), files.len()))
    }

    /// Asks it to finish and exit: idle connections are closed.
    pub(crate) async fn drain(&self) -> Result<(), ChildError> {
        self.order(&ToProxy::Drain, &[]).await
    }

    /// Asks it to leave the field to another: as [`ProxyChild::drain`], but an idle connection may
    /// make one more request.
    pub(crate) async fn retire(&self) -> Result<(), ChildError> {
        self.order(&ToProxy::Retire, &[]).await
    }

    /// Gives it the keys of session tickets, which have changed.
    pub(crate) async fn change_tickets(&self, keys: &TicketKeys) -> Result<(), ChildError> {
        let keys = write_file("sluice-tickets", keys)?;
        self.order(&ToProxy::Tickets, &[keys.as_fd()]).await
    }

    /// Waits until a proxy that was told to retire accepts no more: whoever connects after that
    /// meets its successor. Not for ever: a build before this one does not tell, and one that hangs
    /// is ended by its deadline.
    pub(crate) async fn quiet(&self) {
        let told = self.answer(|message| matches!(message, FromProxy::Quiet));
        drop(tokio::time::timeout(ORDER_TIMEOUT, told).await);
    }

    async fn order(&self, order: &ToProxy, fds: &[BorrowedFd<'_>]) -> Result<(), ChildError> {
        tokio::time::timeout(ORDER_TIMEOUT, self.link.send(order, fds))
            .await
            .map_err(|_| ChildError::Silent(ORDER_TIMEOUT))?
            .map_err(ChildError::Link)
    }

    /// The next message; an error or the end of the link means that the process is lost.
    pub(crate) async fn next(&self) -> io::Result<Option<FromProxy>> {
        let waiting = self.waiting.borrow_mut().pop_front();
        if waiting.is_some() {
            return Ok(waiting);
        }
        self.receive().await
    }

    async fn receive(&self) -> io::Result<Option<FromProxy>> {
        let message = self.link.receive().await?.map(|(message, _)| message);
        if let Some(FromProxy::Connections(n)) = message {
            self.connections.set(n);
        }
        Ok(message)
    }

    /// Connections that it last told of.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.get()
    }

    /// Tells it what became of a change.
    pub(crate) async fn changed(&self, number: u64, answer: Answer) -> Result<(), ChildError> {
        let message = ToProxy::Changed { number, answer };
        self.order(&message, &[]).await
    }

    /// Waits for the message that `is_it`, for [`APPLY_TIMEOUT`].
    async fn answer(&self, is_it: impl Fn(&FromProxy) -> bool) -> Result<(), ChildError> {
        let deadline = tokio::time::Instant::now() + APPLY_TIMEOUT;
        loop {
            let message = tokio::time::timeout_at(deadline, self.receive())
                .await
                .map_err(|_| ChildError::Silent(APPLY_TIMEOUT))??;
            match message {
                None => return Err(ChildError::Died(self.bury())),
                Some(FromProxy::Failed { message, .. }) => {
                    return Err(ChildError::Refused(message));
                }
                Some(message) if is_it(&message) => return Ok(()),
                Some(later @ (FromProxy::Change { .. } | FromProxy::Resolved { .. })) => {
                    let mut waiting = self.waiting.borrow_mut();
                    // A proxy that is well never has more to say; what one that is not says is lost.
                    if waiting.len() < MOST_WAITING {
                        waiting.push_back(later);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Ends what is left of the process and says how it ended.
    pub(crate) fn bury(&self) -> String {
        // It has closed its link: it is dead, about to be, or broken. The wait is short.
        self.ended
            .borrow_mut()
            .get_or_insert_with(|| {
                if let Some(status) = reap(self.pid, WaitOptions::NOHANG) {
                    return status;
                }
                let _gone_already = kill_process(self.pid, Signal::KILL);
                reap(self.pid, WaitOptions::empty()).unwrap_or_default()
            })
            .clone()
    }
}

/// How a child ended; `None`: not yet.
fn reap(pid: Pid, options: WaitOptions) -> Option<String> {
    loop {
        match waitpid(Some(pid), options) {
            Ok(found) => {
                let (_, status) = found?;
                return Some(ExitStatus::from_raw(status.as_raw()).to_string());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::link::{read_file, receive_now},
        *,
    };
    use crate::proxy::tls::tickets;

    #[tokio::test]
    async fn ticket_keys_that_changed_reach_the_proxy_in_a_memory_file() {
        let (ours, theirs) = pair().expect("socketpair");
        let child = ProxyChild::adopt(std::process::id(), 0, ours).expect("a process");
        let mut keys = TicketKeys::new(0, &mut tickets::fresh).expect("randomness");
        assert!(keys.turn(7 * 3600 * 1_000_000_000, &mut tickets::fresh));
        child.change_tickets(&keys).await.expect("sent");
        let received = receive_now::<ToProxy>(theirs.as_fd()).expect("received");
        let (message, mut fds) = received.expect("a message");
        assert!(matches!(message, ToProxy::Tickets));
        let back: TicketKeys = read_file(fds.pop().expect("a descriptor")).expect("keys");
        assert_eq!(back, keys);
        assert!(fds.is_empty());
    }
}
