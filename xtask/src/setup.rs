//! `cargo xtask setup`: what building, the demo and the tests need; what of it is there; and
//! installing the rest.
//!
//! It starts and enables no service: no package that the tests need brings one (httpd is
//! `apache2-bin`, the program without its unit), and while apt runs, a policy forbids what
//! dependencies might start. The benchmark's peers do bring units; those are disabled at once.

pub(crate) mod apt;
mod items;

use std::{
    io::{BufRead, Write},
    path::Path,
    process::Command,
};

use anyhow::{Result, bail};

use self::items::{Item, Source, State};
use crate::{
    ebpf,
    exec::{self, step},
    vm,
};

/// How to go about it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Install without asking, and fail if something cannot be had (also when CI is set)
    #[arg(long, short)]
    yes: bool,
    /// Also what `cargo xtask bench l7` needs: nginx, HAProxy, wrk, h2load, perf, strace
    #[arg(long)]
    bench: bool,
    /// Also what `cargo xtask dist` needs: llvm-tools
    #[arg(long)]
    dist: bool,
}

/// Prints the table, installs what is missing if that is wanted, and looks again.
pub(crate) fn run(_root: &Path, arguments: &Arguments) -> Result<()> {
    let strict = arguments.yes || lab::is_ci();
    let mut items = items::all();
    if arguments.bench {
        items.extend(items::bench());
    }
    if arguments.dist {
        items.extend(items::dist());
    }
    let missing = table(&items);
    if missing.is_empty() {
        eprintln!("Everything is there.");
        return Ok(());
    }
    let (installable, others): (Vec<_>, Vec<_>) = missing
        .into_iter()
        .partition(|item| item.source != Source::Host);
    if !installable.is_empty() && (strict || agreed(&installable)?) {
        install(&installable, strict)?;
        let left: Vec<_> = installable
            .iter()
            .filter(|item| item.state() == State::Missing)
            .collect();
        for item in &left {
            eprintln!(
                "still missing: {} ({}); to get it: {}",
                item.name,
                item.purpose,
                item.fix()
            );
        }
        if strict && !left.is_empty() {
            bail!(
                "{} things that the tests need could not be installed",
                left.len()
            );
        }
    }
    if !others.is_empty() && lab::is_ci() {
        bail!("this host lacks {}", names(&others));
    }
    Ok(())
}

/// Prints every item with its state and returns those that are missing.
fn table(items: &[Item]) -> Vec<&Item> {
    let width = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
    let purposes = items
        .iter()
        .map(|item| item.purpose.len())
        .max()
        .unwrap_or(0);
    let mut missing = Vec::new();
    println!(
        "{:width$}  {:7}  {:purposes$}  to get it",
        "what", "there?", "for"
    );
    for item in items {
        let state = item.state();
        let (word, fix) = match state {
            State::There => ("yes", String::new()),
            State::Missing => ("MISSING", item.fix()),
        };
        println!(
            "{:width$}  {word:7}  {:purposes$}  {fix}",
            item.name, item.purpose
        );
        if state == State::Missing {
            missing.push(item);
        }
    }
    missing
}

/// Asks whether to install. Without anybody to ask, says how to go on and installs nothing.
fn agreed(items: &[&Item]) -> Result<bool> {
    if !exec::is_interactive() {
        eprintln!(
            "Not installed: {}. `cargo xtask setup --yes` installs them.",
            names(items)
        );
        return Ok(false);
    }
    eprint!("Install {}? [y/N] ", names(items));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// Installs, source by source. What fails is told and, unless `strict`, does not keep the others
/// from being installed.
fn install(items: &[&Item], strict: bool) -> Result<()> {
    let attempt = |what: &str, outcome: Result<()>| match outcome {
        Err(error) if strict => Err(error.context(format!("installing {what}"))),
        Err(error) => {
            eprintln!("could not install {what}: {error:#}");
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    let packages: Vec<_> = items
        .iter()
        .filter_map(|item| match item.source {
            Source::Apt(package) => Some(package),
            _ => None,
        })
        .collect();
    if !packages.is_empty() {
        step(&format!("Debian packages: {}", packages.join(" ")));
        attempt("packages", apt::install(&packages))?;
    }
    for item in items {
        match item.source {
            Source::Component {
                toolchain,
                component,
            } => {
                step(&format!("{component} for {toolchain}"));
                let mut command = Command::new("rustup");
                command.args(["component", "add", component, "--toolchain", toolchain]);
                attempt(item.name, exec::run(&mut command))?;
            }
            Source::Toolchain(toolchain) => {
                step(&format!("the {toolchain} toolchain"));
                let mut command = Command::new("rustup");
                command.args(["toolchain", "install", toolchain, "--profile", "minimal"]);
                command.args(["--component", "miri", "--component", "rust-src"]);
                attempt(item.name, exec::run(&mut command))?;
            }
            Source::Crate { name, version } => {
                step(&format!("{name} {version} from source (minutes, once)"));
                let mut command = Command::new("cargo");
                command.args(["install", name, "--version", version, "--locked", "--quiet"]);
                attempt(name, exec::run(&mut command))?;
            }
            Source::BpfLinker => {
                step("bpf-linker, built against the pinned toolchain's LLVM");
                attempt(item.name, ebpf::install_bpf_linker())?;
            }
            Source::Guest => {
                step("a guest: Debian's kernel, qemu and busybox, unpacked under target/vm");
                attempt(item.name, vm::fetch())?;
            }
            Source::Apt(_) | Source::Host => {}
        }
    }
    Ok(())
}

fn names(items: &[&Item]) -> String {
    items
        .iter()
        .map(|item| item.name)
        .collect::<Vec<_>>()
        .join(", ")
}
