//! A closed loop of TLS connections, one request each: our own client, because wrk never resumes a
//! session and no packaged tool both resumes and counts what it asked for.
//!
//! A connection that did not do what the row is about (resume, or not) counts as an error.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustls::ClientConfig;

use super::{client::Client, drive::Count, tls::Tls};

/// Clients that wait to be let loose on one peer.
pub(super) struct Handshakes {
    address: SocketAddr,
    path: &'static str,
    resumes: bool,
    /// One for each thread, and with it that thread's sessions.
    clients: Vec<Arc<ClientConfig>>,
}

/// A thread that fails so often in a row gives up: a dead peer is an error, not a busy loop.
const FAILURES: u32 = 100;

impl Handshakes {
    /// Makes `connections` clients; those that resume get a session each, which is not timed.
    pub(super) fn prepare(
        address: SocketAddr,
        path: &'static str,
        connections: u32,
        resumes: bool,
        tls: &Tls,
    ) -> Result<Self> {
        let clients: Vec<_> = (0..connections)
            .map(|_| tls.client(resumes))
            .collect::<Result<_>>()?;
        if resumes {
            for client in &clients {
                Client::once(address, path, client).context("the session to resume")?;
            }
        }
        Ok(Self {
            address,
            path,
            resumes,
            clients,
        })
    }

    /// Connects and asks until `length` has passed.
    pub(super) fn run(&self, length: Duration) -> Count {
        let start = Instant::now();
        let (mut answers, mut errors) = (0, 0);
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .clients
                .iter()
                .map(|client| scope.spawn(|| self.repeat(client, start + length)))
                .collect();
            for thread in threads {
                // A thread that panicked has told why.
                let (more, failed) = thread.join().unwrap_or((0, 1));
                answers += more;
                errors += failed;
            }
        });
        Count {
            requests: f64::from(answers),
            errors,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    /// Answers and errors of one client.
    fn repeat(&self, client: &Arc<ClientConfig>, end: Instant) -> (u32, u64) {
        let (mut answers, mut errors, mut failures) = (0, 0, 0);
        while Instant::now() < end && failures < FAILURES {
            if let Ok(resumed) = Client::once(self.address, self.path, client) {
                answers += 1;
                errors += u64::from(resumed != self.resumes);
                failures = 0;
            } else {
                errors += 1;
                failures += 1;
            }
        }
        (answers, errors)
    }
}
