//! `cargo xtask bench l7`: sluice beside nginx, HAProxy and httpd on the same requests, one worker
//! each, driven in turn within each round.
//!
//! The figure is CPU per request of the peer's whole process tree: client and members share the
//! machine with the peer, so requests per second mean little here.

mod calls;
mod client;
mod cost;
mod drive;
mod idle;
mod peers;
mod report;
mod steady;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

use self::{
    calls::Calls,
    drive::Sample,
    idle::Idle,
    peers::{Kind, Members, Peer, Site},
    steady::Latencies,
};
use super::machine::Machine;
use crate::exec::step;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; each drives every peer once for every case
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each drive
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these peers (sluice is always there)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Kind>,
    /// Only cases whose name contains this
    #[arg(long)]
    case: Option<String>,
    /// Idle connections for the memory of one; 0 leaves that out
    #[arg(long, default_value_t = 5000)]
    idle: u32,
    /// Leave out the drives at a fixed rate
    #[arg(long)]
    no_latency: bool,
    /// Leave out counting system calls
    #[arg(long)]
    no_calls: bool,
    /// This sluice, instead of a release build made now
    #[arg(long, value_name = "FILE")]
    sluice: Option<PathBuf>,
    /// Also write everything measured to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is asked of every peer alike.
#[derive(Debug)]
struct Case {
    name: &'static str,
    path: &'static str,
    connections: u32,
    /// A new connection for each request.
    is_closing: bool,
    is_logged: bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "small, keep-alive",
        path: "/small",
        connections: 64,
        is_closing: false,
        is_logged: false,
    },
    Case {
        name: "64 kB body, keep-alive",
        path: "/64k",
        connections: 32,
        is_closing: false,
        is_logged: false,
    },
    Case {
        name: "small, new connection per request",
        path: "/small",
        connections: 64,
        is_closing: true,
        is_logged: false,
    },
    Case {
        name: "small, keep-alive, access log",
        path: "/small",
        connections: 64,
        is_closing: false,
        is_logged: true,
    },
];

/// Share of the slowest peer's closed-loop rate at which latency is measured: below every knee.
const STEADY_SHARE: f64 = 0.4;
const STEADY_SECONDS: f64 = 3.0;
const STEADY_ROUNDS: u32 = 3;

/// Least share of answers with a line in the log. A buffer that is only written when it is full
/// holds some back.
const LOGGED_SHARE: f64 = 0.99;

/// Everything of one run.
struct Outcome {
    machine: Machine,
    peers: Vec<Described>,
    cases: Vec<Measured>,
    /// Rate, requests/s, and by peer; the last row is a member asked directly.
    steady: Option<(f64, Vec<(&'static str, Latencies)>)>,
    idle: Vec<(Kind, Idle)>,
    idle_connections: u32,
}

struct Described {
    kind: Kind,
    version: String,
    configuration: String,
}

struct Measured {
    case: &'static Case,
    /// By peer, in the order of `Outcome::peers`: rounds.
    samples: Vec<Vec<Sample>>,
    calls: Vec<Option<Calls>>,
}

/// Measures and prints.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let kinds = wanted(arguments)?;
    raise_descriptor_limit();
    let sluice = match &arguments.sluice {
        Some(path) => path.canonicalize().context("--sluice")?,
        None => peers::build_release(root)?,
    };
    let dir = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
    peers::make_dir(&dir)?;
    let outcome = measure(arguments, &kinds, &dir, sluice);
    let _ = std::fs::remove_dir_all(&dir);
    let mut outcome = outcome?;
    let json = report::print(&mut outcome, arguments);
    match &arguments.json {
        Some(path) => super::write_json(path, &json),
        None => Ok(()),
    }
}

/// The peers, ourselves first; fails naming the packages of those that are missing.
fn wanted(arguments: &Arguments) -> Result<Vec<Kind>> {
    let kinds: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| {
            *kind == Kind::Sluice || arguments.peers.is_empty() || arguments.peers.contains(kind)
        })
        .collect();
    let mut missing: Vec<_> = kinds
        .iter()
        .filter_map(|kind| kind.package())
        // nginx is also what the members run on.
        .chain([("nginx", "nginx"), ("wrk", "wrk")])
        .chain((!arguments.no_calls).then_some(("strace", "strace")))
        .filter(|(program, _)| !lab::has_tool(program))
        .map(|(_, package)| package)
        .collect();
    missing.dedup();
    ensure!(
        missing.is_empty(),
        "not installed: {}; `cargo xtask setup --bench` installs them",
        missing.join(", ")
    );
    Ok(kinds)
}

/// Idle connections need a descriptor each, here and in the peers, which inherit the limit.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn measure(arguments: &Arguments, kinds: &[Kind], dir: &Path, sluice: PathBuf) -> Result<Outcome> {
    let machine = Machine::look();
    let members = Members::start(dir)?;
    let site = Site {
        dir: dir.to_owned(),
        sluice,
        members: members.addresses.clone(),
    };
    let start = |is_logged| -> Result<Vec<Peer>> {
        kinds
            .iter()
            .map(|kind| {
                Peer::start(*kind, &site, is_logged)
                    .with_context(|| format!("starting {}", kind.name()))
            })
            .collect()
    };
    let quiet = start(false)?;
    let logged = start(true)?;
    for peer in quiet.iter().chain(&logged) {
        peer.check()?;
    }
    let mut outcome = Outcome {
        machine,
        peers: quiet
            .iter()
            .map(|peer| Described {
                kind: peer.kind,
                version: peer.kind.version(&site.sluice),
                configuration: peer.configuration.clone(),
            })
            .collect(),
        cases: Vec::new(),
        steady: None,
        idle: Vec::new(),
        idle_connections: arguments.idle,
    };
    // Memory first: a peer that was driven hard holds on to what it then had.
    if arguments.idle > 0 {
        for peer in &quiet {
            step(&format!(
                "{}: {} idle connections",
                peer.kind.name(),
                arguments.idle
            ));
            let idle = idle::measure(peer, arguments.idle)
                .with_context(|| format!("idle connections of {}", peer.kind.name()))?;
            outcome.idle.push((peer.kind, idle));
        }
    }
    let is_wanted = |case: &&Case| {
        let filter = arguments.case.as_deref();
        filter.is_none_or(|part| case.name.contains(part))
    };
    for case in CASES.iter().filter(is_wanted) {
        let peers = if case.is_logged { &logged } else { &quiet };
        outcome.cases.push(drive_case(arguments, case, peers, dir)?);
    }
    if !arguments.no_latency
        && let Some(rate) = slowest(&outcome)
    {
        outcome.steady = Some(steady_rounds(rate * STEADY_SHARE, &quiet, &members)?);
    }
    Ok(outcome)
}

/// One case: a warming drive of each peer, the rounds, then one drive whose calls are counted.
fn drive_case(
    arguments: &Arguments,
    case: &'static Case,
    peers: &[Peer],
    dir: &Path,
) -> Result<Measured> {
    step(&format!("{}: {} rounds", case.name, arguments.rounds));
    for peer in peers {
        drive::peer(peer, case, 1)?;
    }
    let mut samples: Vec<Vec<Sample>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..arguments.rounds {
        let mut order: Vec<usize> = (0..peers.len()).collect();
        // There and back, so that whoever follows whom changes.
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            samples[index].push(drive::peer(&peers[index], case, arguments.seconds)?);
        }
    }
    if case.is_logged {
        check_logs(peers, &samples)?;
    }
    let calls = peers
        .iter()
        .map(|peer| {
            if arguments.no_calls {
                return None;
            }
            calls::count(peer, case, dir)
                .inspect_err(|error| {
                    eprintln!("    system calls of {}: {error:#}", peer.kind.name());
                })
                .ok()
        })
        .collect();
    Ok(Measured {
        case,
        samples,
        calls,
    })
}

/// Every peer's log has a line for each answer, once its buffer was written.
fn check_logs(peers: &[Peer], samples: &[Vec<Sample>]) -> Result<()> {
    for (peer, samples) in peers.iter().zip(samples) {
        let requests: f64 = samples.iter().map(|sample| sample.requests).sum();
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

/// The slowest peer's median rate in the first case.
fn slowest(outcome: &Outcome) -> Option<f64> {
    outcome
        .cases
        .first()?
        .samples
        .iter()
        .filter_map(|samples| {
            let rates = samples.iter().map(Sample::rate).collect();
            Some(super::figures::Spread::new(rates)?.median())
        })
        .min_by(f64::total_cmp)
}

fn steady_rounds(
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
