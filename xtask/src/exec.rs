//! Running programs: said before, timed after, and what went before is named when one fails.

use std::{
    io::{BufRead, BufReader, IsTerminal},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Whether somebody is there to be asked.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && !lab::is_ci()
}

/// Announces a step.
pub(crate) fn step(text: &str) {
    eprintln!("==> {text}");
}

/// Runs a command with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("running {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    eprintln!(
        "    {} took {:.1} s",
        name(command),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Runs a command, shows its output line by line and gives each line to `look` as well. Says
/// whether it succeeded.
pub(crate) fn watch(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {}", name(command)))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            look(&line);
        }
    }
    Ok(child.wait()?.success())
}

/// Runs a command silently; its standard output, or `None` if it fails or does not exist.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder that cargo builds in: the one above the profile's, which this program lies in.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let target = here
        .ancestors()
        .nth(2)
        .context("this program is not where cargo puts programs")?;
    Ok(target.to_owned())
}

/// How to become root: nothing to add, `sudo`, or no way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Root {
    /// This process is root.
    Already,
    /// sudo may ask for a password, or does not need to.
    Sudo,
    /// Not root, and no sudo that would answer.
    No,
}

/// Finds out how to become root.
pub(crate) fn root() -> Root {
    if rustix::process::geteuid().is_root() {
        return Root::Already;
    }
    if !lab::has_tool("sudo") {
        return Root::No;
    }
    if is_interactive() || output(Command::new("sudo").args(["-n", "true"])).is_some() {
        Root::Sudo
    } else {
        Root::No
    }
}

/// A command that runs as root; `None` if there is no way.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Option<Command> {
    match root() {
        Root::Already => Some(Command::new(program)),
        Root::Sudo => {
            let mut command = Command::new("sudo");
            command.arg("--").arg(program);
            Some(command)
        }
        Root::No => None,
    }
}

fn announce(command: &Command) {
    eprintln!("    $ {}", line(command));
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let mut text = name(command);
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
