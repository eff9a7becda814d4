//! `cargo xtask bench l7`: sluice beside nginx, HAProxy and httpd on the same requests, one worker
//! each, driven in turn within each round.
//!
//! The figure is CPU per request of the peer's whole process tree: client and members share the
//! machine with the peer, so requests per second mean little here.

mod calls;
mod cases;
mod client;
mod cost;
mod drive;
mod handshakes;
mod idle;
mod peers;
mod report;
mod rounds;
mod script;
mod setup;
mod steady;
mod streams;
mod tls;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};

use self::{
    calls::Calls,
    cases::{CASES, Case},
    drive::Sample,
    idle::Idle,
    peers::{Kind, Members, Site, Standing, Started},
    setup::{PLAIN, Setup},
    steady::Latencies,
    tls::Tls,
};
use super::{machine::Machine, placement::Placement};
use crate::dist;

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
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", alias = "case")]
    only: String,
    /// Idle cleartext connections for the memory of one; 0 leaves that out
    #[arg(long, default_value_t = 10_000)]
    idle: u32,
    /// The same over TLS
    #[arg(long, default_value_t = 10_000)]
    idle_tls: u32,
    /// Leave out the drives at a fixed rate
    #[arg(long)]
    no_latency: bool,
    /// Leave out counting system calls
    #[arg(long)]
    no_calls: bool,
    /// This sluice, instead of a release build made now
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Also the build with a profile, in the same rounds: `cargo xtask dist`'s, or this file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[expect(
        clippy::option_option,
        reason = "clap's way to tell no option from one without value"
    )]
    pgo: Option<Option<PathBuf>>,
    /// Also write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the tables to this file; one that has a place for them keeps the rest
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Everything of one run.
struct Outcome {
    machine: Machine,
    /// Who ran where.
    placement: String,
    /// What they say of themselves.
    versions: Vec<(Kind, String)>,
    /// What they were told.
    started: Vec<Started>,
    cases: Vec<Measured>,
    /// Rate, requests/s, and by peer; the last row is a member asked directly.
    steady: Option<(f64, Vec<(&'static str, Latencies)>)>,
    /// Cleartext, then TLS.
    idle: Vec<Held>,
    /// What drove and counted, with versions.
    tools: Vec<String>,
}

/// What idle connections held.
struct Held {
    is_tls: bool,
    connections: u32,
    peers: Vec<(Kind, Result<Idle, String>)>,
}

struct Measured {
    case: &'static Case,
    /// One kind of peer after the other, each in the order of the case's setups.
    rows: Vec<Driven>,
}

/// A peer in a case.
struct Driven {
    kind: Kind,
    setup: Setup,
    /// Why it has no figures, if it has none.
    refusal: Option<String>,
    /// Rounds.
    samples: Vec<Sample>,
    calls: Option<Calls>,
}

/// Measures and prints.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let kinds = wanted(arguments)?;
    let most = raise_descriptor_limit();
    let sluice = match &arguments.binary {
        Some(path) => path.canonicalize().context("--binary")?,
        None => peers::build_release(root)?,
    };
    let pgo = match &arguments.pgo {
        None => None,
        Some(None) => Some(dist::profiled(root)?),
        Some(Some(path)) => Some(path.canonicalize().context("--pgo")?),
    };
    let dir = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
    peers::make_dir(&dir)?;
    let outcome = measure(arguments, &kinds, &dir, (sluice, pgo), most);
    let _ = std::fs::remove_dir_all(&dir);
    let mut outcome = outcome?;
    let (text, json) = report::compose(&mut outcome, arguments);
    print!("{text}");
    if let Some(path) = &arguments.json {
        super::write_json(path, &json)?;
    }
    match &arguments.markdown {
        Some(path) => super::markdown::write(path, "l7", &text),
        None => Ok(()),
    }
}

/// The peers, ourselves first; fails naming the packages of those that are missing.
fn wanted(arguments: &Arguments) -> Result<Vec<Kind>> {
    let kinds: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| match kind {
            Kind::Sluice => true,
            Kind::SluicePgo => arguments.pgo.is_some(),
            _ => arguments.peers.is_empty() || arguments.peers.contains(kind),
        })
        .collect();
    let mut missing: Vec<_> = kinds
        .iter()
        .filter_map(|kind| kind.package())
        // nginx is also what the members run on.
        .chain([("nginx", "nginx"), ("wrk", "wrk"), ("openssl", "openssl")])
        .chain([("h2load", "nghttp2-client")])
        // perf counts better, where it may.
        .chain((!arguments.no_calls && !lab::has_tool("perf")).then_some(("strace", "strace")))
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

/// Descriptors, here and in the peers, which inherit the limit: an idle connection needs one, and
/// HAProxy sets two aside for each that it would take.
const DESCRIPTORS: u64 = 65_536;

/// Raises the limit as far as this user may, and gives the most idle connections that it allows: a
/// proxy may need a descriptor for a member with each, and some for itself.
fn raise_descriptor_limit() -> u32 {
    let mut limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map(|most| most.max(DESCRIPTORS));
    let raised = rustix::process::Rlimit {
        current: enough,
        maximum: enough,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u32::try_from((most / 2).saturating_sub(500)).unwrap_or(u32::MAX)
}

fn measure(
    arguments: &Arguments,
    kinds: &[Kind],
    dir: &Path,
    (sluice, pgo): (PathBuf, Option<PathBuf>),
    most_idle: u32,
) -> Result<Outcome> {
    let machine = Machine::look();
    let is_wanted = |name: &str| name.contains(&arguments.only);
    let cases: Vec<&Case> = CASES.iter().filter(|case| is_wanted(case.name)).collect();
    let setups = |cases: &[&Case]| -> Vec<Setup> {
        let setups = cases.iter().flat_map(|case| case.setups);
        // Latency, the last row, is that of the plain setup.
        setups.chain(&PLAIN).copied().collect()
    };
    let counts = setups(&cases).into_iter().map(|setup| setup.members);
    let placement = Placement::look()?;
    let _held = placement.of_rest()?;
    let members = Members::start(dir, counts.max().unwrap_or(0))?;
    let tls = Tls::make(dir)?;
    let site = Site {
        dir: dir.to_owned(),
        sluice,
        pgo,
        tls: tls.clone(),
        members: members.addresses.clone(),
        placement: placement.clone(),
    };
    let mut outcome = Outcome {
        machine,
        placement: placement.describe(),
        versions: kinds
            .iter()
            .map(|kind| {
                let version = kind.version(&site) + origin(*kind, arguments);
                (*kind, version)
            })
            .collect(),
        started: Vec::new(),
        cases: Vec::new(),
        steady: None,
        idle: Vec::new(),
        tools: tools(),
    };
    let mut standing = Standing::new(site, kinds.to_vec());
    // Memory first: a peer that was driven hard holds on to what it then had.
    for (is_tls, connections) in [(false, arguments.idle), (true, arguments.idle_tls)] {
        let held = connections.min(most_idle);
        if held == 0 || !is_wanted(idle::name(is_tls)) {
            continue;
        }
        if held < connections {
            eprintln!(
                "    {held} idle connections instead of {connections}: more than the limit of open \
                 files allows"
            );
        }
        let stands = standing.of(&PLAIN, |_| true);
        outcome
            .idle
            .push(rounds::hold(is_tls, held, &stands, &tls)?);
    }
    for (number, case) in cases.iter().enumerate() {
        standing.keep(&setups(&cases[number..]));
        let stands = standing.of(case.setups, |kind| case.takes(kind));
        let measured = rounds::drive(arguments, case, &stands, dir, &tls);
        outcome.cases.push(measured);
    }
    if !arguments.no_latency && is_wanted(steady::NAME) {
        let stands = standing.of(&PLAIN, |_| true);
        if let Some(rate) = rounds::slowest(&outcome, &stands, &tls) {
            let rate = rate * rounds::STEADY_SHARE;
            outcome.steady = Some(rounds::steady(rate, &stands, &members)?);
        }
    }
    outcome.started = standing.started;
    ensure!(
        !outcome.started.is_empty(),
        "no row's name contains {:?}, or nobody could be started",
        arguments.only
    );
    Ok(outcome)
}

/// Which build of ours it is, so that nobody takes a debug build's figures for the product's.
fn origin(kind: Kind, arguments: &Arguments) -> &'static str {
    match kind {
        Kind::Sluice if arguments.binary.is_some() => ", a binary that was given",
        Kind::Sluice => ", release build without a profile",
        Kind::SluicePgo if arguments.pgo.as_ref().is_some_and(Option::is_some) => {
            ", a binary that was given as the build with a profile"
        }
        Kind::SluicePgo => ", release build with a profile (cargo xtask dist)",
        Kind::Nginx | Kind::Haproxy | Kind::Httpd => "",
    }
}

/// What drives and counts, by its own word.
fn tools() -> Vec<String> {
    [
        ("wrk", "-v"),
        ("h2load", "--version"),
        ("openssl", "version"),
    ]
    .into_iter()
    .filter_map(|(name, flag)| {
        let path = lab::tool_path(name)?;
        Some(peers::first_line(
            std::process::Command::new(path).arg(flag),
        ))
    })
    .collect()
}
