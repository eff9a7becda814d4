//! `cargo xtask vm`: the oldest kernel that sluice promises, Debian's 6.1, as a guest of qemu without
//! hardware help: every program is loaded and run there, XDP attached by virtio-net's own driver, and
//! flows forwarded to hosts that take them apart with the kernel's stock tunnels.
//!
//! What the guest does is `vm/init.sh`, what it is made of `vm/packages.rs`, its image
//! `vm/image.rs`. Needs no root, and touches no network of the host's.

mod image;
mod packages;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use self::packages::Packages;
use crate::exec::{self, step};

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds until the guest is given up
    #[arg(long, default_value_t = DEADLINE.as_secs())]
    deadline: u64,
}

/// Twice what it took on two CPUs that twenty compilers shared; it is less than two minutes of
/// processor time.
pub(crate) const DEADLINE: Duration = Duration::from_mins(10);

/// Tests of the lab that run in the guest: those that load the object and attach nothing.
const TESTS: [(&str, &[&str]); 2] = [
    (
        "xdp_table",
        &[
            "table_holds_in_the_kernel",
            "frame_of_several_buffers_is_counted_whole",
            "program_has_room_to_the_verifiers_limit",
        ],
    ),
    (
        "xdp_steering",
        &["captured_packets_are_those_wanted_as_they_left"],
    ),
];
/// Network cards: `init.sh` says what each is.
const CARDS: usize = 4;
/// Lines of the guest's console to show when it did not end as it should.
const CONSOLE_LINES: usize = 40;

/// What the guest said.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    /// The kernel's version.
    pub(crate) kernel: String,
    /// Checks that passed.
    pub(crate) passed: u64,
    /// Names of those that did not.
    pub(crate) failed: Vec<String>,
    /// It came to its end.
    ended: bool,
}

/// Whether all that a guest is made of is there.
pub(crate) fn is_ready() -> bool {
    Packages::find().is_some()
}

/// Downloads what a guest is made of.
pub(crate) fn fetch() -> Result<()> {
    Packages::fetch()
}

/// Builds, runs the guest and fails unless all its checks pass.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    exec::run(Command::new("cargo").args(["build", "--package", "sluice"]))?;
    let programs = crate::test::build_lab(&TESTS.map(|(program, _)| program))?;
    let report = guest(root, &programs, Duration::from_secs(arguments.deadline))?;
    println!(
        "Linux {}: {} passed, {} failed",
        report.kernel,
        report.passed,
        report.failed.len()
    );
    if !report.failed.is_empty() {
        bail!("failed: {}", report.failed.join(", "));
    }
    Ok(())
}

/// Boots the guest with the programs of this build, and gives what it said. An error: it did not come
/// to its end.
pub(crate) fn guest(
    root: &Path,
    programs: &[(String, PathBuf)],
    deadline: Duration,
) -> Result<Report> {
    let packages = Packages::find().context("there is no guest yet (cargo xtask setup)")?;
    let folder = packages::folder()?;
    step(&format!("a guest with Linux {}", packages.version));
    let wanted = |name: &str| TESTS.iter().any(|(program, _)| *program == name);
    let tests: Vec<_> = (programs.iter())
        .filter(|(name, _)| wanted(name))
        .cloned()
        .collect();
    let list: Vec<_> = (TESTS.iter())
        .flat_map(|(program, tests)| tests.iter().map(move |test| format!("{program}:{test}")))
        .collect();
    let contents = image::Contents {
        sluice: &lab::sluice::program()?,
        object: &root.join("lb-ebpf/prebuilt/sluice.bpf.o"),
        tests: &tests,
        list: &list,
    };
    let image = image::pack(&folder, &packages, &contents)?;
    let console = folder.join("console.log");
    let mut command = packages.qemu();
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", "1024", "-nodefaults", "-display", "none"])
        .arg("-no-reboot")
        .arg("-kernel")
        .arg(packages.kernel())
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg("console=ttyS0 loglevel=4 panic=-1 mitigations=off")
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .args(cards());
    let report = attend(&mut command, deadline)?;
    if !report.ended {
        bail!(
            "the guest did not come to its end within {} s ({} passed, failed: {}); the end of {}:\n{}",
            deadline.as_secs(),
            report.passed,
            report.failed.join(", "),
            console.display(),
            tail(&console)
        );
    }
    Ok(report)
}

/// Cards of one link, which leads nowhere else.
fn cards() -> Vec<String> {
    (0..CARDS)
        .flat_map(|card| {
            [
                "-netdev".to_owned(),
                format!("hubport,hubid=0,id=port{card}"),
                "-device".to_owned(),
                format!("virtio-net-pci,netdev=port{card},mac=52:54:00:00:00:0{card},romfile="),
            ]
        })
        .collect()
}

/// Runs it, shows what it says with the seconds since its start, and ends it at the deadline.
fn attend(command: &mut Command, deadline: Duration) -> Result<Report> {
    let start = Instant::now();
    let mut qemu = Running(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("running qemu")?,
    );
    let output = qemu.0.stdout.take().context("its output is a pipe")?;
    let (told, hear) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if told.send(line).is_err() {
                break;
            }
        }
    });
    let mut report = Report::default();
    loop {
        match hear.recv_timeout(deadline.saturating_sub(start.elapsed())) {
            Ok(line) => {
                println!("{:7.1} s  {line}", start.elapsed().as_secs_f64());
                report.hear(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                qemu.end();
                break;
            }
        }
    }
    qemu.end();
    drop(hear);
    let _ = reader.join();
    Ok(report)
}

impl Report {
    /// A line of the guest's. What is none of ours is what a check said.
    fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("PASS", _)) => self.passed += 1,
            Some(("FAIL", name)) => self.failed.push(name.to_owned()),
            Some(("KERNEL", version)) => version.clone_into(&mut self.kernel),
            _ => self.ended |= line == "END",
        }
    }
}

/// qemu, which ends with this at the latest.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}
