//! `cargo xtask bench`: what is measured, and, as honestly, what is not yet.

use std::process::ExitCode;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Nothing yet: see what the verb prints
    what: Option<String>,
}

/// Exit code for "asked for what there is not".
const USAGE: u8 = 2;

/// Says that there is nothing to measure with yet, and fails, so that no script takes silence for a
/// result.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if let Some(what) = &arguments.what {
        eprintln!("bench {what}: there is no such measurement yet.");
    }
    eprintln!(
        "There are no benchmarks in this version. Missing, in the order in which they are to come:\n\
         \x20 xdp   ns per packet of the program beside the floor programs (drop, pass, minimal balancer)\n\
         \x20 l7    CPU per request beside nginx, HAProxy and httpd on the same requests\n\
         Until then no figure about speed in this repository is a measurement of it."
    );
    ExitCode::from(USAGE)
}
