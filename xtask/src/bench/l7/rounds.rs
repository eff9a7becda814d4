//! What is done to the peers in turn: idle connections, a case's rounds, the drives at a fixed rate.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{
    Arguments, Driven, Held, Measured, Outcome, calls,
    cases::{CASES, Case},
    drive::{self, Sample},
    idle,
    peers::{Members, Peer, Stand},
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
pub(super) fn hold(is_tls: bool, connections: u32, stands: &[&Stand], tls: &Tls) -> Result<Held> {
    let client = is_tls.then(|| tls.client(false)).transpose()?;
    let mut held = Held {
        is_tls,
        connections,
        peers: Vec::new(),
    };
    for stand in stands {
        let name = stand.kind.name();
        step(&format!("{name}: {}, {connections}", idle::name(is_tls)));
        // A peer that cannot hold so many has a row that says so.
        let idle = stand.peer.as_ref().map_err(Clone::clone).and_then(|peer| {
            let idle = idle::measure(peer, connections, client.as_ref());
            idle.map_err(|error| format!("{error:#}"))
        });
        held.peers.push((stand.kind, idle));
    }
    Ok(held)
}

/// One case: a warming drive of each peer, the rounds, then one drive whose calls are counted.
pub(super) fn drive(
    arguments: &Arguments,
    case: &'static Case,
    stands: &[&Stand],
    dir: &Path,
    tls: &Tls,
) -> Measured {
    step(&format!("{}: {} rounds", case.name, arguments.rounds));
    let mut rows: Vec<Driven> = Vec::new();
    let mut logged = Vec::new();
    for stand in stands {
        let lines = stand.peer.as_ref().map_or(0, Peer::lines);
        let (warm, refusal) = match warm(stand, case, tls) {
            Ok(requests) => (requests, None),
            Err(refusal) => {
                eprintln!(
                    "    {}, {}: {refusal}",
                    stand.kind.name(),
                    stand.setup.label
                );
                (0.0, Some(refusal))
            }
        };
        logged.push((lines, warm));
        rows.push(Driven {
            kind: stand.kind,
            setup: stand.setup,
            refusal,
            samples: Vec::new(),
            calls: None,
        });
    }
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // There and back, so that whoever follows whom changes.
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (row, Ok(peer)) = (&mut rows[index], &stands[index].peer) else {
                continue;
            };
            if row.refusal.is_some() {
                continue;
            }
            // One peer's failure is a row without figures, not the end of the run.
            match drive::peer(peer, case, arguments.seconds, tls) {
                Ok(sample) => row.samples.push(sample),
                Err(error) => row.refusal = Some(format!("{error:#}")),
            }
        }
    }
    for ((row, stand), (lines, warm)) in rows.iter_mut().zip(stands).zip(logged) {
        let Ok(peer) = &stand.peer else { continue };
        if row.refusal.is_some() {
            continue;
        }
        if stand.setup.is_logged()
            && let Err(error) = check_log(peer, row, lines, warm)
        {
            row.refusal = Some(format!("{error:#}"));
            continue;
        }
        if !arguments.no_calls {
            row.calls = calls::count(peer, case, dir, tls)
                .inspect_err(|error| {
                    eprintln!("    system calls of {}: {error:#}", peer.kind.name());
                })
                .ok();
        }
    }
    Measured { case, rows }
}

/// A first drive, which is not timed: how many requests it came to, or why the peer has no place.
fn warm(stand: &Stand, case: &Case, tls: &Tls) -> Result<f64, String> {
    let peer = stand.peer.as_ref().map_err(Clone::clone)?;
    if let Some(refusal) = case.refusal(peer, tls) {
        return Err(refusal);
    }
    let sample = drive::peer(peer, case, 1, tls).map_err(|error| format!("{error:#}"))?;
    Ok(sample.requests)
}

/// The peer's log has a line for each answer, once its buffer was written.
fn check_log(peer: &Peer, row: &Driven, before: u64, warm: f64) -> Result<()> {
    let timed: f64 = row.samples.iter().map(|sample| sample.requests).sum();
    let requests = warm + timed;
    let lines = || peer.lines().saturating_sub(before);
    lab::wait::until("an access log to be complete", lab::wait::PATIENCE, || {
        (lines() as f64 > requests * LOGGED_SHARE).then_some(())
    })
    .with_context(|| format!("{} of {requests} requests are in the log", lines()))
}

/// The slowest peer's rate on kept cleartext connections: its median where the row was measured,
/// else what one drive shows.
pub(super) fn slowest(outcome: &Outcome, stands: &[&Stand], tls: &Tls) -> Option<f64> {
    let case = &CASES[0];
    let measured = outcome
        .cases
        .iter()
        .find(|measured| measured.case.name == case.name);
    let rates: Vec<_> = match measured {
        Some(measured) => measured
            .rows
            .iter()
            .filter_map(|row| {
                let rates = row.samples.iter().map(Sample::rate).collect();
                Some(Spread::new(rates)?.median())
            })
            .collect(),
        None => stands
            .iter()
            .filter_map(|stand| {
                let sample = drive::peer(stand.peer.as_ref().ok()?, case, 1, tls);
                Some(sample.ok()?.rate())
            })
            .collect(),
    };
    rates.into_iter().min_by(f64::total_cmp)
}

pub(super) fn steady(
    rate: f64,
    stands: &[&Stand],
    members: &Members,
) -> Result<(f64, Vec<(&'static str, Latencies)>)> {
    step(&format!("latency at {rate:.0} requests/s"));
    let mut targets: Vec<_> = stands
        .iter()
        .filter_map(|stand| Some((stand.kind.name(), stand.peer.as_ref().ok()?.address)))
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
