//! apt-get, with a policy in place that lets no package start a service.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::exec;

/// What Debian's maintainer scripts ask before they start, restart or stop a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Exit code 101: action forbidden by policy.
const FORBID: &str = "#!/bin/sh\n# Placed by cargo xtask setup, which removes it.\nexit 101\n";

/// Packages whose units Debian enables when it installs them.
const SERVICES: [&str; 2] = ["nginx", "haproxy"];

/// Installs packages, none of which was there, without what they merely recommend. What they would
/// have started at the next boot is disabled.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if !lab::has_tool("apt-get") {
        bail!(
            "this host has no apt-get; install by its own means: {}",
            packages.join(" ")
        );
    }
    let _policy = Policy::place()?;
    update()?;
    exec::run(
        apt()?
            .args([
                "install",
                "-qq",
                "--yes",
                "--no-install-recommends",
                "--no-upgrade",
            ])
            .args(packages),
    )?;
    for service in SERVICES.iter().filter(|name| packages.contains(name)) {
        let unit = format!("{service}.service");
        exec::run(root("deb-systemd-helper")?.args(["disable", &unit]))?;
        exec::run(root("update-rc.d")?.args([service, "disable"]))?;
    }
    Ok(())
}

/// Renews apt's lists, which may be stale or absent. Those that cannot be renewed may still do.
pub(crate) fn update() -> Result<()> {
    if let Err(error) = exec::run(apt()?.args(["update", "-qq"])) {
        eprintln!("    {error:#}; going on with the lists as they are");
    }
    Ok(())
}

fn root(program: &str) -> Result<Command> {
    exec::as_root(program).context("installing packages needs root or sudo")
}

fn apt() -> Result<Command> {
    // Through env, because sudo passes no variables on.
    let mut command = root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

/// The policy, for as long as this lives. One that was there before stays as it was.
struct Policy {
    ours: bool,
}

impl Policy {
    fn place() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut command = exec::as_root("sh").context("installing packages needs root or sudo")?;
        command.args([
            "-c",
            "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"",
            POLICY,
            FORBID,
        ]);
        exec::run(&mut command)?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let removed = exec::as_root("rm").is_some_and(|mut command| {
            command
                .args(["-f", POLICY])
                .status()
                .is_ok_and(|status| status.success())
        });
        if !removed {
            eprintln!("WARNING: {POLICY} could not be removed: it keeps services from starting");
        }
    }
}
