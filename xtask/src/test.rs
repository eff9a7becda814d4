//! `cargo xtask test`: every test, cheapest first.
//!
//! What cannot run for want of a tool is told twice, where it would have run and at the end; in CI
//! it is a failure.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    exec::{self, Root, step},
    vm,
};

/// How much to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Also what takes long: ignored tests, every fuzz target, and five minutes for each of them
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this; leaves out Miri and fuzzing
    filter: Option<String>,
}

/// Seconds of fuzzing for each target: a smoke test, and with `--all`.
const FUZZ_SMOKE: u32 = 10;
const FUZZ_LONG: u32 = 300;
/// Targets that need the whole of sluice, which takes minutes to build with the sanitizer: `--all`.
const FUZZ_SLOW: [&str; 8] = [
    "answer",
    "config",
    "expr",
    "http_head",
    "log_format",
    "reverse",
    "rewrite",
    "session",
];
/// Labs at once. They mostly wait, but each has a sluice and its peers.
const LABS_AT_ONCE: &str = "4";
/// Cases of each property under Miri, which is some hundred times slower than the machine.
const MIRI_CASES: &str = "4";

/// What has been run.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
    skipped: Vec<String>,
}

/// Runs the stages, goes on after a failing one, and sums up.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let mut tally = Tally::default();
    host(&mut tally, arguments)?;
    if arguments.filter.is_none() {
        miri(&mut tally)?;
        fuzz(&mut tally, root, arguments.all)?;
    }
    let programs = lab(&mut tally, arguments)?;
    if arguments.filter.is_none() {
        guest(&mut tally, root, &programs);
    }

    println!();
    for skipped in &tally.skipped {
        println!("SKIPPED: {skipped}");
    }
    for failure in &tally.failures {
        println!("FAILED: {failure}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.ignored
    );
    if !tally.failures.is_empty() {
        bail!("failed: {}", tally.failures.join(", "));
    }
    if lab::is_ci() && !tally.skipped.is_empty() {
        bail!("in CI nothing may be skipped: {}", tally.skipped.join("; "));
    }
    Ok(())
}

impl Tally {
    /// Runs a stage and counts its `test result:` lines.
    fn stage(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let succeeded = exec::watch(command, |line| self.count(line))?;
        if !succeeded {
            self.failures.push(name.to_owned());
        }
        Ok(())
    }

    /// `test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn count(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in result.split(['.', ';']) {
            if let Some((number, what)) = part.trim().split_once(' ') {
                let number: u64 = number.parse().unwrap_or(0);
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        }
    }

    fn skip(&mut self, what: &str, why: &str) {
        let text = format!("{what}: {why}");
        eprintln!("SKIPPED: {text}");
        self.skipped.push(text);
    }
}

/// Unit and property tests of what runs on any host.
fn host(tally: &mut Tally, arguments: &Arguments) -> Result<()> {
    step("unit and property tests");
    let mut command = Command::new("cargo");
    // The user feature's Pod impls are part of what the host runs.
    command.args(["test", "--no-fail-fast", "--features", "lb-common/user"]);
    if let Some(filter) = &arguments.filter {
        command.arg(filter);
    }
    if arguments.all {
        command.args(["--", "--include-ignored"]);
    }
    tally.stage("unit and property tests", &mut command)
}

/// lb-common, whose code also runs in the kernel, under the interpreter that knows what is undefined.
fn miri(tally: &mut Tally) -> Result<()> {
    step("Miri on lb-common");
    if exec::output(Command::new("cargo").args(["+nightly", "miri", "--version"])).is_none() {
        tally.skip("Miri", "no nightly toolchain with miri (cargo xtask setup)");
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command
        .args([
            "+nightly",
            "miri",
            "test",
            "--package",
            "lb-common",
            "--lib",
        ])
        .env("PROPTEST_CASES", MIRI_CASES)
        // Failing cases are kept in files, which the interpreter's isolation would forbid.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("CARGO_TARGET_DIR", "target/miri");
    tally.stage("Miri on lb-common", &mut command)
}

/// The fuzz targets for a short while; with `long` all of them, for longer.
fn fuzz(tally: &mut Tally, root: &Path, long: bool) -> Result<()> {
    step("fuzz targets");
    if !root.join("fuzz/Cargo.toml").is_file() {
        tally.skip("fuzzing", "there is no fuzz/Cargo.toml");
        return Ok(());
    }
    let Some(list) = exec::output(Command::new("cargo").args(["+nightly", "fuzz", "list"])) else {
        tally.skip(
            "fuzzing",
            "no nightly toolchain with cargo-fuzz (cargo xtask setup)",
        );
        return Ok(());
    };
    let seconds = if long { FUZZ_LONG } else { FUZZ_SMOKE };
    for target in list
        .lines()
        .map(str::trim)
        .filter(|target| !target.is_empty())
        .filter(|target| long || !FUZZ_SLOW.contains(target))
    {
        let name = format!("fuzz target {target}");
        let features: &[&str] = if FUZZ_SLOW.contains(&target) {
            &["--features", "sluice"]
        } else {
            &[]
        };
        tally.stage(
            &name,
            Command::new("cargo")
                .args(["+nightly", "fuzz", "run"])
                .args(features)
                .args([target, "--"])
                .arg(format!("-max_total_time={seconds}"))
                .arg("-print_final_stats=1"),
        )?;
    }
    Ok(())
}

/// The tests in namespaces: built as this user, run as root. The programs that were built.
fn lab(tally: &mut Tally, arguments: &Arguments) -> Result<Vec<(String, PathBuf)>> {
    step("tests in network namespaces");
    exec::run(Command::new("cargo").args(["build", "--package", "sluice"]))?;
    let programs = build_lab(&[])?;
    if exec::root() == Root::No {
        tally.skip(
            "tests in network namespaces",
            "they need root, and there is no sudo",
        );
        return Ok(programs);
    }
    if let Some(tool) = ["ip", "curl", "ethtool"]
        .iter()
        .find(|tool| !lab::has_tool(tool))
    {
        tally.skip(
            "tests in network namespaces",
            &format!("{tool} is missing (cargo xtask setup)"),
        );
        return Ok(programs);
    }
    // sudo passes no variables on, so those that the tests look at go through env.
    let pass_on: Vec<String> = ["CI", "RUST_BACKTRACE", "SLUICE_BIN", "SLUICE_BPF_OBJECT"]
        .iter()
        .filter_map(|name| {
            std::env::var(name)
                .ok()
                .map(|value| format!("{name}={value}"))
        })
        .collect();
    for (name, program) in &programs {
        let mut command = exec::as_root("env").context("root is needed")?;
        command
            .args(&pass_on)
            .arg(program)
            .args(["--test-threads", LABS_AT_ONCE]);
        if let Some(filter) = &arguments.filter {
            command.arg(filter);
        }
        if arguments.all {
            command.arg("--include-ignored");
        }
        tally.stage(&format!("tests/tests/{name}.rs"), &mut command)?;
    }
    Ok(programs)
}

/// `cargo xtask vm`'s guest, with the programs that are there.
fn guest(tally: &mut Tally, root: &Path, programs: &[(String, PathBuf)]) {
    if !vm::is_ready() {
        tally.skip(
            "a guest with Linux 6.1",
            "it is not there (cargo xtask setup)",
        );
        return;
    }
    match vm::guest(root, programs, vm::DEADLINE) {
        Ok(report) => {
            tally.passed += report.passed;
            tally.failed += report.failed.len() as u64;
            let failed = report.failed.into_iter();
            tally
                .failures
                .extend(failed.map(|check| format!("Linux {}: {check}", report.kernel)));
        }
        Err(error) => {
            eprintln!("{error:#}");
            tally.failures.push("a guest with Linux 6.1".to_owned());
        }
    }
}

/// Builds the lab's test programs, or those of these names; their names and where they are.
pub(crate) fn build_lab(only: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let only = only.iter().flat_map(|name| ["--test", name]);
    let output = Command::new("cargo")
        .args([
            "test",
            "--package",
            "tests",
            "--no-run",
            "--message-format",
            "json",
        ])
        .args(["--quiet"])
        .args(only)
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if !output.status.success() {
        for message in &messages {
            if let Some(rendered) = message["message"]["rendered"].as_str() {
                eprint!("{rendered}");
            }
        }
        bail!("the tests in namespaces do not build");
    }
    let mut programs: Vec<_> = messages
        .iter()
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?;
            Some((
                name.to_owned(),
                PathBuf::from(message["executable"].as_str()?),
            ))
        })
        .collect();
    programs.sort();
    if programs.is_empty() {
        bail!("the tests package has no tests");
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn summary_lines_of_cargo_test_are_added_up() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.count("test result: FAILED. 2 passed; 7 failed; 0 ignored; 0 measured; 3 filtered out; finished in 20.30s");
        tally.count("test nothing ... ok");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (8, 7, 1));
    }
}
