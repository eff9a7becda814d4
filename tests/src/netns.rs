//! One network namespace: making it, running programs and closures in it, reading its counters.
//!
//! Which namespaces there are and how they are wired is `topology`'s business.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps the names.
const NAMES: &str = "/run/netns";

/// A network namespace with a name. Dropping this value does not remove it: `sweep` does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace, brings its loopback up and takes the neighbours' patience out of it
    /// (duplicate address detection and router solicitation only cost the tests time).
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let namespace = Self { name: name.into() };
        run(Command::new("ip").args(["netns", "add", &namespace.name]))?;
        namespace.ip("link set lo up\n")?;
        for (key, value) in [
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            namespace.set_sysctl(key, value)?;
        }
        Ok(namespace)
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. The process keeps the id that this program sees: `ip` turns
    /// itself into it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` inside over several lines, one command each, stopping at the first that fails.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-netns", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ip in {}: {}; the commands were:\n{batch}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets opened
    /// there stay in the namespace wherever they are used afterwards.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = self.open()?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                enter(&handle)?;
                Ok(work())
            });
            worker
                .join()
                .map_err(|_| anyhow!("a thread inside {} panicked", self.name))?
        })
    }

    /// Starts `work` on a thread of its own inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let handle = self.open()?;
        Ok(thread::spawn(move || {
            enter(&handle)?;
            Ok(work())
        }))
    }

    /// One number of `/proc/net/snmp`, for example `("Tcp", "InSegs")`.
    pub fn snmp(&self, protocol: &str, counter: &str) -> Result<u64> {
        // Not /proc/net: that is the namespace of the process's first thread.
        let text = self
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?
            .context("snmp")?;
        let prefix = format!("{protocol}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let (names, values) = (lines.next(), lines.next());
        names
            .zip(values)
            .and_then(|(names, values)| {
                names
                    .split(' ')
                    .zip(values.split(' '))
                    .find(|(name, _)| *name == counter)
            })
            .and_then(|(_, value)| value.parse().ok())
            .with_context(|| format!("no {protocol} {counter} in /proc/net/snmp"))
    }

    /// Sets a sysctl of the namespace; `key` with slashes, below /proc/sys.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("/proc/sys").join(key);
        self.inside(|| std::fs::write(&path, value))?
            .with_context(|| format!("writing {value} to {}", path.display()))
    }

    fn open(&self) -> Result<File> {
        File::open(PathBuf::from(NAMES).join(&self.name))
            .with_context(|| format!("opening the namespace {}", self.name))
    }
}

/// Every namespace name that iproute2 knows.
pub fn names() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMES) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Runs a command to its end; its error output is part of the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn enter(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the namespace")
}
