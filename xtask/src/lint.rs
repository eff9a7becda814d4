//! `cargo xtask lint`: rustfmt, clippy on every crate for its own target, and the dependencies.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::exec::{self, step};

/// Runs them all; every complaint is an error.
pub(crate) fn run(root: &Path) -> Result<()> {
    step("formatting");
    exec::run(Command::new("cargo").args(["fmt", "--all", "--check"]))?;

    step("clippy, host crates");
    exec::run(Command::new("cargo").args([
        "clippy",
        "--workspace",
        "--exclude",
        "lb-ebpf",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;

    step("clippy, the XDP program for its own target");
    exec::run(
        Command::new("cargo")
            .args(["clippy", "--package", "lb-ebpf", "--release", "--quiet"])
            .args([
                "--target",
                "bpfel-unknown-none",
                "-Z",
                "build-std=core",
                "--",
                "-D",
                "warnings",
            ])
            // As in `cargo xtask ebpf`: the pinned stable compiler, with what building core needs.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"")
            .env("CARGO_TARGET_DIR", root.join("target/bpf-lint")),
    )?;

    step("dependencies");
    dependencies()
}

/// cargo-deny over deny.toml. The advisory database comes over the network: where it cannot be had,
/// that one check is left out, loudly.
fn dependencies() -> Result<()> {
    if exec::output(Command::new("cargo").args(["deny", "--version"])).is_none() {
        let message = "cargo-deny is not installed: cargo xtask setup";
        if lab::is_ci() {
            bail!(message);
        }
        eprintln!("SKIPPED: licences, duplicates, advisories: {message}");
        return Ok(());
    }
    exec::run(Command::new("cargo").args(["deny", "check", "bans", "licenses", "sources"]))?;
    if exec::output(Command::new("cargo").args(["deny", "fetch", "db"])).is_some() {
        exec::run(Command::new("cargo").args(["deny", "check", "advisories"]))
    } else {
        eprintln!("SKIPPED: advisories: the advisory database cannot be fetched from here");
        Ok(())
    }
}
