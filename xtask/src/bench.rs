//! `cargo xtask bench`: what is measured, beside whom, and as honestly what is not.
//!
//! Peers and floors run in the same rounds as sluice, in turn, so that what else the machine does
//! meets all alike. What each figure is made of stands in docs/benchmarks.md.

mod figures;
mod floors;
mod l7;
mod machine;
mod markdown;
mod placement;
mod table;
mod xdp;

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// ns per packet of the XDP program beside floor programs (root)
    Xdp(xdp::Arguments),
    /// CPU per request beside nginx, HAProxy and httpd, on the same requests
    L7(l7::Arguments),
}

/// Measures, prints tables, and writes JSON where that was asked for.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Xdp(arguments) => xdp::run(root, arguments),
        What::L7(arguments) => l7::run(root, arguments),
    }
}

/// Writes all that was measured, raw rounds included.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    eprintln!("    written: {}", path.display());
    Ok(())
}
