//! What control leaves to the program that it becomes in an upgrade, and how that gets there.
//!
//! Everything lies in a socket pair of which the other end is the successor's standard input: one
//! message with the state (a memory file) and its descriptors, further ones with the listening
//! sockets, one that ends them. The state carries a format number; a successor that does not know it
//! was refused before anything was changed. A successor that cannot go on becomes the old program
//! again, with all it was left and a reason.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt as _, net::UnixStream},
    },
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    ledger::LedgerState,
    link::{self, MAX_FDS, Parcel},
    listeners::{Key, Listeners},
};
use crate::{
    admin::{manager::kept::Handed, protocol::Response},
    dataplane::{
        Inheritance,
        sys::{exec, hold_signals},
    },
    proxy::tls::TicketKeys,
};

/// Version of [`State`] and of how it travels.
pub(super) const FORMAT: u32 = 2;
/// Set for a successor.
const MARK: &str = "SLUICE_HANDOVER";
/// How long a client may be slow to take its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left that is not a descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// The program that was.
    pub(super) old_binary: PathBuf,
    /// The one that is to be.
    pub(super) new_binary: PathBuf,
    /// Proxies in the order of their links: the one that serves, then those that drain.
    pub(super) proxies: Vec<HandedProxy>,
    /// Where the members of the generation that is on are.
    pub(super) addresses: Vec<Vec<SocketAddr>>,
    /// Shards of the counters.
    pub(super) shards: usize,
    /// Whose counters they are.
    pub(super) ledger: LedgerState,
    /// How long control has run, ms.
    pub(super) uptime_ms: u64,
    /// Times the proxy crashed.
    pub(super) restarts: u32,
    /// How long the proxy that serves may drain, ms; `None`: as long as it takes.
    pub(super) deadline_ms: Option<u64>,
    /// What was changed in the balancer-manager.
    #[serde(default)]
    pub(super) kept: Handed,
    /// Keys of session tickets, so that clients' sessions outlast the upgrade. A build that leaves none
    /// or takes none has clients make new ones: no reason to be refused.
    #[serde(default)]
    pub(super) tickets: Option<TicketKeys>,
    /// Why the successor could not go on: this is the old program again.
    pub(super) failed: Option<String>,
}

/// One proxy process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct HandedProxy {
    /// Process id.
    pub(super) pid: u32,
    /// Its column of `BUSY`.
    pub(super) column: u32,
    /// Of one that drains: how long it still may, ms.
    pub(super) left_ms: Option<u64>,
}

/// Messages to the successor.
#[derive(Debug, Serialize, Deserialize)]
enum Letter {
    /// Descriptors: those of [`Legacy`] in the order of its fields.
    State {
        /// With the client's connection.
        reply: bool,
        /// With the three memory files of an instance without kernel maps.
        memory: bool,
        /// With the socket of `SluiceMetrics`.
        scrape: bool,
    },
    /// Listening sockets of these addresses; one address may come in several letters.
    Listeners(Vec<Key>),
    /// There is no more.
    End,
}

/// Everything that is left.
#[derive(Debug)]
pub(super) struct Legacy {
    pub(super) state: State,
    /// What standard input was.
    pub(super) stdin: OwnedFd,
    /// The listening control socket.
    pub(super) socket: OwnedFd,
    /// The shards' counters.
    pub(super) counters: OwnedFd,
    /// The old program, for a way back.
    pub(super) old: OwnedFd,
    /// The generation that is on, as the proxy got it: for the old program alone.
    pub(super) parcel: OwnedFd,
    /// The instance's lock and, without kernel maps, its memory; the proxies are in the state.
    pub(super) inheritance: Inheritance,
    /// Whom to answer.
    pub(super) reply: Option<OwnedFd>,
    /// The listening socket of `SluiceMetrics`.
    pub(super) scrape: Option<OwnedFd>,
    /// Of the proxies, in the order of the state.
    pub(super) links: Vec<OwnedFd>,
    pub(super) listeners: Listeners,
}

impl Legacy {
    /// What the program that this process was has left, if it was one. Standard input is as it was.
    pub(super) fn of_predecessor() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if std::env::var_os(MARK).is_none()
            || rustix::net::sockopt::socket_type(&stdin) != Ok(rustix::net::SocketType::SEQPACKET)
        {
            return Ok(None);
        }
        // The name would be that of the descriptor it was started by. Only ps(1) and top(1) care.
        let _ = rustix::thread::set_name(c"sluice");
        let mut legacy = Self::receive(stdin.as_fd())?;
        legacy.inheritance.proxies = (legacy.state.proxies.iter())
            .map(|proxy| (proxy.column, proxy.pid))
            .collect();
        rustix::stdio::dup2_stdin(&legacy.stdin)?;
        Ok(Some(legacy))
    }

    fn receive(from: BorrowedFd<'_>) -> io::Result<Self> {
        let short = || io::Error::other("what the control before this one left is incomplete");
        let received = link::receive_now(from)?;
        let Some((
            Letter::State {
                reply,
                memory,
                scrape,
            },
            fds,
        )) = received
        else {
            return Err(short());
        };
        let mut fds = fds.into_iter();
        let mut take = || fds.next().ok_or_else(short);
        let state: State = link::read_file(take()?)?;
        if state.format != FORMAT {
            return Err(short());
        }
        let (stdin, socket, counters) = (take()?, take()?, take()?);
        let (old, parcel, lock) = (take()?, take()?, File::from(take()?));
        let reply = if reply { Some(take()?) } else { None };
        let memory = if memory {
            Some([take()?, take()?, take()?])
        } else {
            None
        };
        let scrape = if scrape { Some(take()?) } else { None };
        let links: Vec<OwnedFd> = fds.collect();
        if links.len() != state.proxies.len() {
            return Err(short());
        }
        let mut bound: Vec<(Key, TcpListener)> = Vec::new();
        loop {
            match link::receive_now(from)? {
                Some((Letter::Listeners(keys), fds)) if keys.len() == fds.len() => {
                    bound.extend(keys.into_iter().zip(fds.into_iter().map(TcpListener::from)));
                }
                Some((Letter::End, _)) => break,
                _ => return Err(short()),
            }
        }
        Ok(Self {
            state,
            stdin,
            socket,
            counters,
            old,
            parcel,
            inheritance: Inheritance {
                lock,
                proxies: Vec::new(),
                memory,
            },
            reply,
            scrape,
            links,
            listeners: Listeners::inherited(bound),
        })
    }

    /// A socket that holds all of it.
    fn send(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = link::pair()?;
        // Nobody reads before all is written. The kernel bounds what can be asked for.
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4 << 20)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let state = link::write_file("sluice-state", &self.state)?;
        let mut fds = vec![
            state.as_fd(),
            self.stdin.as_fd(),
            self.socket.as_fd(),
            self.counters.as_fd(),
            self.old.as_fd(),
            self.parcel.as_fd(),
            self.inheritance.lock.as_fd(),
        ];
        fds.extend(self.reply.iter().map(|fd| fd.as_fd()));
        fds.extend((self.inheritance.memory.iter().flatten()).map(|fd| fd.as_fd()));
        fds.extend(self.scrape.iter().map(|fd| fd.as_fd()));
        fds.extend(self.links.iter().map(|fd| fd.as_fd()));
        let letter = Letter::State {
            reply: self.reply.is_some(),
            memory: self.inheritance.memory.is_some(),
            scrape: self.scrape.is_some(),
        };
        link::send_now(ours.as_fd(), &letter, &fds)?;
        let sockets: Vec<_> = self.listeners.all().collect();
        for batch in sockets.chunks(MAX_FDS) {
            let (keys, fds): (Vec<_>, Vec<_>) = (batch.iter())
                .map(|(key, socket)| (*key, socket.as_fd()))
                .unzip();
            link::send_now(ours.as_fd(), &Letter::Listeners(keys), &fds)?;
        }
        link::send_now(ours.as_fd(), &Letter::End, &[])?;
        Ok(theirs)
    }

    /// Becomes `image`, with the words that this process was started with. Returns only when that
    /// failed: then nothing is changed. Signals are held back until the successor takes them.
    pub(super) fn become_program(&self, image: BorrowedFd<'_>) -> io::Error {
        let becoming = || -> io::Result<io::Error> {
            let letters = self.send()?;
            let program = CString::new(format!("/proc/self/fd/{}", image.as_raw_fd()))?;
            let text = |text: OsString| Ok(CString::new(text.into_vec())?);
            let arguments = std::env::args_os()
                .map(text)
                .collect::<io::Result<Vec<_>>>()?;
            let environment = (std::env::vars_os())
                .filter(|(name, _)| name != MARK)
                .chain([(MARK.into(), FORMAT.to_string().into())])
                .map(|(mut entry, value)| {
                    entry.push("=");
                    entry.push(value);
                    text(entry)
                })
                .collect::<io::Result<Vec<_>>>()?;
            rustix::stdio::dup2_stdin(&letters)?;
            hold_signals(true)?;
            Ok(exec(&program, &arguments, &environment))
        };
        let error = becoming().unwrap_or_else(|error| error);
        let _best_effort = rustix::stdio::dup2_stdin(&self.stdin);
        drop(hold_signals(false));
        error
    }

    /// Becomes the old program again, which goes on as if nothing had been. Returns when even that
    /// fails.
    pub(super) fn give_back(mut self, why: String) -> io::Error {
        self.state.failed = Some(why);
        let old = match self.old.try_clone() {
            Ok(old) => old,
            Err(error) => return error,
        };
        self.become_program(old.as_fd())
    }

    /// The generation that was on.
    pub(super) fn parcel(&self) -> io::Result<Parcel> {
        Parcel::open(self.parcel.try_clone()?)
    }

    /// Answers whoever asked for the upgrade.
    pub(super) fn answer(&mut self, response: &Response) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        let stream = UnixStream::from(reply);
        let sent = (stream.set_nonblocking(false))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| {
                let mut text = serde_json::to_vec(response)?;
                text.push(b'\n');
                (&stream).write_all(&text)
            });
        if let Err(error) = sent {
            tracing::warn!("who asked for the upgrade was not told its end: {error}");
        }
    }

    /// Copies of what the dataplane takes.
    pub(super) fn inheritance(&self) -> io::Result<Inheritance> {
        let memory = match &self.inheritance.memory {
            None => None,
            Some([members, busy, meta]) => {
                Some([members.try_clone()?, busy.try_clone()?, meta.try_clone()?])
            }
        };
        Ok(Inheritance {
            lock: self.inheritance.lock.try_clone()?,
            proxies: self.inheritance.proxies.clone(),
            memory,
        })
    }
}
