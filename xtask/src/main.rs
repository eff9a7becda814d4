//! `cargo xtask`: everything that is done to the project, one verb each. No verb's work is here.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod abi;
mod bench;
mod demo;
mod dist;
mod ebpf;
mod exec;
mod lint;
mod setup;
mod test;
mod tidy;
mod vm;

/// Builds, shows, tests and checks sluice.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows what the tests need and installs what is missing
    Setup(setup::Arguments),
    /// Builds the XDP object from source and refreshes the committed one
    Ebpf {
        /// Change nothing; fail if the committed object is not what the source builds, byte for byte
        #[arg(long)]
        check: bool,
    },
    /// Balances real requests in network namespaces and prints what happened
    Demo(demo::Arguments),
    /// Runs all tests that CI runs
    Test(test::Arguments),
    /// Runs sluice on Linux 6.1 in a guest of qemu: XDP by virtio-net's driver, stock tunnels
    Vm(vm::Arguments),
    /// Checks formatting, lints and dependencies
    Lint,
    /// Checks the house rules that no compiler knows
    Tidy,
    /// Compares the map layouts with lb-common/abi.txt
    Abi {
        /// Write the layouts to lb-common/abi.txt instead
        #[arg(long)]
        bless: bool,
    },
    /// Measures the XDP program, and the proxy beside its peers
    Bench(bench::Arguments),
    /// Builds the release that is published, with a profile of traffic, and packs it
    Dist(dist::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let (name, outcome) = run(arguments.verb);
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Ok(code) => {
            eprintln!("xtask {name}: {seconds:.1} s");
            code
        }
        Err(error) => {
            eprintln!("xtask {name}: failed after {seconds:.1} s: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> (&'static str, Result<ExitCode>) {
    let done = |outcome: Result<()>| outcome.map(|()| ExitCode::SUCCESS);
    let root = match root() {
        Ok(root) => root,
        Err(error) => return ("start", Err(error)),
    };
    match verb {
        Verb::Setup(arguments) => ("setup", done(setup::run(&root, &arguments))),
        Verb::Ebpf { check } => ("ebpf", done(ebpf::run(&root, check))),
        Verb::Demo(arguments) => ("demo", done(demo::run(&root, &arguments))),
        Verb::Test(arguments) => ("test", done(test::run(&root, &arguments))),
        Verb::Vm(arguments) => ("vm", done(vm::run(&root, &arguments))),
        Verb::Lint => ("lint", done(lint::run(&root))),
        Verb::Tidy => ("tidy", done(tidy::run(&root))),
        Verb::Abi { bless } => ("abi", done(abi::run(&root, bless))),
        Verb::Bench(arguments) => ("bench", done(bench::run(&root, &arguments))),
        Verb::Dist(arguments) => ("dist", done(dist::run(&root, &arguments))),
    }
}

/// The clone's top folder, which every verb works in whatever folder it is called from.
fn root() -> Result<PathBuf> {
    let root = lab::workspace_root();
    std::env::set_current_dir(&root).with_context(|| format!("going to {}", root.display()))?;
    Ok(root)
}
