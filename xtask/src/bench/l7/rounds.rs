//! What is done to the peers in turn: idle connections, a case's rounds, the drives at a fixed rate.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{
    Arguments, Driven, Held, Measured, Outcome, calls,
    cases::{Case, Drive},
    drive::{self, Sample},
    idle,
    peers::{Members, Peer},
    steady::{self, Latencies},
    tls::Tls,
};
use crate::{bench::figures::Spread, exec::step};

/// Share of the slowest peer's closed-loop rate at which latency is measured: below every knee.
pub(super) const STEADY_SHARE: f64 = 0.4;
pub(super) const STEADY_SECONDS: f64 = 3.0;
pub(super) const STEADY_ROUNDS: u32 = 3;

/// Least share of answers with a line in the log. A buffer that is only written when it is full
/// holds some back.
const LOGGED_SHARE: f64 = 0.99;

/// Memory of idle connections, peer by peer.
pub(super) fn hold(is_tls: bool, connections: u32, peers: &[Peer], tls: &Tls) -> Result<Held> {
    let client = is_tls.then(|| tls.client(false)).transpose()?;
    let mut held = Held {
        is_tls,
        connections,
        peers: Vec::new(),
    };
    for peer in peers {
        let kind = if is_tls { "TLS" } else { "cleartext" };
        step(&format!(
            "{}: {connections} idle {kind} connections",
            peer.kind.name()
        ));
        // A peer that cannot hold so many has a row that says so.
        let idle = idle::measure(peer, connections, client.as_ref());
        let idle = idle.map_err(|error| format!("{error:#}"));
        held.peers.push((peer.kind, idle));
    }
    Ok(held)
}

/// One case: a warming drive of each peer, the rounds, then one drive whose calls are counted.
pub(super) fn drive(
    arguments: &Arguments,
    case: &'static Case,
    peers: &[Peer],
    dir: &Path,
    tls: &Tls,
) -> Result<Measured> {
    step(&format!("{}: {} rounds", case.name, arguments.rounds));
    let mut rows: Vec<_> = peers
        .iter()
        .map(|peer| Driven {
            refusal: case.refusal(peer, tls),
            samples: Vec::new(),
            calls: None,
        })
        .collect();
    for (row, peer) in rows.iter_mut().zip(peers) {
        if row.refusal.is_none()
            && let Err(error) = drive::peer(peer, case, 1, tls)
        {
            row.refusal = Some(format!("{error:#}"));
        }
        if let Some(refusal) = &row.refusal {
            eprintln!("    {}: {refusal}", peer.kind.name());
        }
    }
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..peers.len()).collect();
        // There and back, so that whoever follows whom changes.
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            if rows[index].refusal.is_some() {
                continue;
            }
            // One peer's failure is a row without figures, not the end of the run.
            match drive::peer(&peers[index], case, arguments.seconds, tls) {
                Ok(sample) => rows[index].samples.push(sample),
                Err(error) => rows[index].refusal = Some(format!("{error:#}")),
            }
        }
    }
    if case.is_logged {
        check_logs(peers, &rows)?;
    }
    for (row, peer) in rows.iter_mut().zip(peers) {
        if arguments.no_calls || row.refusal.is_some() {
            continue;
        }
        row.calls = calls::count(peer, case, dir, tls)
            .inspect_err(|error| {
                eprintln!("    system calls of {}: {error:#}", peer.kind.name());
            })
            .ok();
    }
    Ok(Measured { case, rows })
}

/// Every peer's log has a line for each answer, once its buffer was written.
fn check_logs(peers: &[Peer], rows: &[Driven]) -> Result<()> {
    for (peer, row) in peers.iter().zip(rows) {
        let requests: f64 = row.samples.iter().map(|sample| sample.requests).sum();
        lab::wait::until("an access log to be complete", lab::wait::PATIENCE, || {
            (peer.lines() as f64 > requests * LOGGED_SHARE).then_some(())
        })
        .with_context(|| {
            let (name, lines) = (peer.kind.name(), peer.lines());
            format!("{name} logged {lines} of {requests} requests")
        })?;
    }
    Ok(())
}

/// The slowest peer's median rate on kept cleartext connections.
pub(super) fn slowest(outcome: &Outcome) -> Option<f64> {
    outcome
        .cases
        .iter()
        .find(|measured| measured.case.drive == Drive::Kept && !measured.case.is_tls)?
        .rows
        .iter()
        .filter_map(|row| {
            let rates = row.samples.iter().map(Sample::rate).collect();
            Some(Spread::new(rates)?.median())
        })
        .min_by(f64::total_cmp)
}

pub(super) fn steady(
    rate: f64,
    peers: &[Peer],
    members: &Members,
) -> Result<(f64, Vec<(&'static str, Latencies)>)> {
    step(&format!("latency at {rate:.0} requests/s"));
    let mut targets: Vec<_> = peers
        .iter()
        .map(|peer| (peer.kind.name(), peer.address))
        .collect();
    targets.extend(
        members
            .addresses
            .first()
            .map(|address| ("(member itself)", *address)),
    );
    let mut found: Vec<_> = targets
        .iter()
        .map(|(name, _)| (*name, Latencies::default()))
        .collect();
    for _ in 0..STEADY_ROUNDS {
        for ((_, address), (_, latencies)) in targets.iter().zip(&mut found) {
            latencies.add(steady::run(*address, "/small", rate, STEADY_SECONDS)?);
        }
    }
    Ok((rate, found))
}
