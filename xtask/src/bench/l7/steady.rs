//! Latency at a fixed rate, open loop: requests are due at instants set beforehand, and a request's
//! time begins when it was due, not when a busy connection got round to it.
//!
//! Each connection has a thread. What the client's own wake-ups cost is in every figure; the row of
//! a member asked directly shows how much that is.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::client::Client;
use crate::bench::figures::index;

/// Latencies of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    /// Of answers, us.
    micros: Vec<u32>,
    /// Requests without an answer.
    pub(super) errors: u64,
}

impl Latencies {
    /// Takes in another round.
    pub(super) fn add(&mut self, other: Self) {
        self.micros.extend(other.micros);
        self.errors += other.errors;
    }

    /// The latency that a share of the requests was below, us.
    pub(super) fn at(&mut self, share: f64) -> u32 {
        self.micros.sort_unstable();
        let last = self.micros.len().saturating_sub(1);
        let place = index((share * last as f64).round());
        self.micros.get(place).copied().unwrap_or(0)
    }

    /// Requests answered.
    pub(super) fn count(&self) -> usize {
        self.micros.len()
    }
}

/// The row's name.
pub(super) const NAME: &str = "latency at a fixed rate";
/// Connections, each with a thread.
const CONNECTIONS: u32 = 16;

/// Asks at `rate` requests a second for `seconds`.
pub(super) fn run(address: SocketAddr, path: &str, rate: f64, seconds: f64) -> Result<Latencies> {
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| Client::connect(address, path))
        .collect::<Result<_>>()?;
    let between = f64::from(CONNECTIONS) / rate;
    // All threads wait for this.
    let start = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            let path = path.to_owned();
            thread::spawn(move || {
                // A timer's usual slack of 50 us would be most of what is measured.
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                let first = between * number as f64 / f64::from(CONNECTIONS);
                let mut latencies = Latencies::default();
                let mut n = 0u32;
                loop {
                    let offset = first + between * f64::from(n);
                    if offset >= seconds {
                        return latencies;
                    }
                    n += 1;
                    let due = start + Duration::from_secs_f64(offset);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    if client.ask().is_ok() {
                        let micros = due.elapsed().as_micros();
                        latencies.micros.push(micros.try_into().unwrap_or(u32::MAX));
                    } else {
                        latencies.errors += 1;
                        if let Ok(fresh) = Client::connect(address, &path) {
                            client = fresh;
                        }
                    }
                }
            })
        })
        .collect();
    let mut all = Latencies::default();
    for thread in threads {
        all.add(thread.join().unwrap_or_default());
    }
    Ok(all)
}
