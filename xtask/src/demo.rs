//! `cargo xtask demo`: sluice at its main job, on real traffic, with a report of what happened.
//!
//! Everything is built as the user who calls; only the part that makes namespaces runs as root,
//! in a second life of this program that is told what was built.

mod floods;
mod l4;
mod loopback;
mod namespaces;
mod report;
mod shop;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::exec::{self, Root, step};

/// How to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// `l4`: packets steered at the interface, beside requests; without it the proxy and the guard
    #[arg(value_parser = ["l4"])]
    what: Option<String>,
    /// Leave everything running after the report, until Ctrl-C, and print commands to try
    #[arg(long)]
    keep: bool,
    /// The part that needs no root: loopback, no XDP
    #[arg(long)]
    loopback: bool,
    /// The sluice that was built; set when the demo runs itself anew as root
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Builds, then shows; fails if anything was not as promised.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let program = match &arguments.built {
        Some(program) => program.clone(),
        None => build(root)?,
    };
    let l4 = arguments.what.is_some();
    if l4 && matches!(exec::root(), Root::No) {
        bail!("packets are steered between network namespaces, which need root");
    }
    if arguments.loopback {
        return loopback::run(root, &program, arguments.keep);
    }
    match exec::root() {
        Root::Already => {
            if let Some(reason) = lab::missing() {
                bail!("{reason}");
            }
            if l4 {
                return l4::run(root, &program);
            }
            namespaces::run(root, &program, arguments.keep)
        }
        Root::Sudo => again_as_root(&program, arguments),
        Root::No => {
            eprintln!(
                "Network namespaces need root, and there is no sudo that would answer: what follows \
                 is the part that needs neither."
            );
            loopback::run(root, &program, arguments.keep)
        }
    }
}

/// Builds sluice as the calling user.
fn build(root: &Path) -> Result<PathBuf> {
    step("building sluice");
    exec::run(Command::new("cargo").args(["build", "--package", "sluice"]))?;
    // Where cargo put this program is where it put that one.
    let here = std::env::current_exe().context("finding this program")?;
    let program = here.with_file_name("sluice");
    if !program.is_file() {
        bail!(
            "cargo built no {} (in {})",
            program.display(),
            root.display()
        );
    }
    Ok(program)
}

/// Runs the lab as root: this program again, with what was built.
fn again_as_root(program: &Path, arguments: &Arguments) -> Result<()> {
    step("the lab makes network namespaces: running only that with sudo");
    let here = std::env::current_exe().context("finding this program")?;
    let mut command = exec::as_root(here).context("root is needed")?;
    command.arg("demo").arg("--built").arg(program);
    command.args(&arguments.what);
    if arguments.keep {
        command.arg("--keep");
    }
    exec::run(&mut command)
}
