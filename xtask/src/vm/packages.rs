//! What the guest is made of: Debian's packages of the kernel, busybox and qemu, unpacked under
//! `target/vm`. Nothing is installed on the host, and downloading needs no root; `apt-get` checks
//! what it downloads as it always does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{exec, setup};

/// Depends on the kernel of today's security fixes, and is empty itself.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Whatever of these, and of what they need, the host has not installed is unpacked.
const PROGRAMS: [&str; 2] = ["qemu-system-x86", "busybox-static"];
const QEMU: &str = "qemu-system-x86_64";

/// Unpacked packages.
#[derive(Debug)]
pub(super) struct Packages {
    /// As if it were `/`.
    root: PathBuf,
    /// Of the kernel, as in `/lib/modules`.
    pub(super) version: String,
}

/// Where everything of the guest is kept between runs.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(exec::target_dir()?.join("vm"))
}

impl Packages {
    /// What was unpacked before; `None` if that is nothing, or not all.
    pub(super) fn find() -> Option<Self> {
        let root = folder().ok()?.join("root");
        let version = fs::read_dir(root.join("lib/modules"))
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .max()?;
        let packages = Self { root, version };
        (packages.kernel().is_file() && packages.busybox().is_ok()).then_some(packages)
    }

    /// Downloads and unpacks, in place of what was there.
    pub(super) fn fetch() -> Result<()> {
        if !lab::has_tool("apt-get") || !lab::has_tool("dpkg-deb") {
            bail!(
                "this host has no apt-get and dpkg-deb: only Debian and its kin have the packages"
            );
        }
        // Without root the lists stay as they are: downloading needs none.
        if exec::root() != exec::Root::No {
            setup::apt::update()?;
        }
        let folder = folder()?;
        let new = folder.join("new");
        let _ = fs::remove_dir_all(&new);
        let archives = new.join("archives");
        fs::create_dir_all(&archives)?;
        let mut names = missing()?;
        names.push(kernel()?);
        exec::run(
            Command::new("apt-get")
                .args(["download", "-qq"])
                .args(&names)
                .current_dir(&archives),
        )?;
        let root = new.join("root");
        fs::create_dir(&root)?;
        for archive in fs::read_dir(&archives)? {
            let archive = archive?.path();
            let unpacked = Command::new("dpkg-deb")
                .arg("--extract")
                .args([&archive, &root])
                .status()
                .context("running dpkg-deb")?;
            if !unpacked.success() {
                bail!("{} cannot be unpacked", archive.display());
            }
        }
        let place = folder.join("root");
        let _ = fs::remove_dir_all(&place);
        fs::rename(&root, &place)?;
        fs::remove_dir_all(&new)?;
        Ok(())
    }

    /// The kernel's image.
    pub(super) fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The kernel's modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.root
            .join(format!("lib/modules/{}/kernel", self.version))
    }

    /// busybox without shared libraries.
    pub(super) fn busybox(&self) -> Result<PathBuf> {
        let places = [&self.root, Path::new("/")].map(|root| root.join("bin/busybox"));
        let found = places.into_iter().find(|path| path.is_file());
        found.context("busybox is neither unpacked nor installed")
    }

    /// qemu: the unpacked one, told where its parts are, or the host's.
    pub(super) fn qemu(&self) -> Command {
        let program = self.root.join("usr/bin").join(QEMU);
        if !program.is_file() {
            return Command::new(QEMU);
        }
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| self.root.join(folder).display().to_string());
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", libraries.join(":")).env(
            "QEMU_MODULE_DIR",
            self.root.join("usr/lib/x86_64-linux-gnu/qemu"),
        );
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command
    }
}

/// What apt-get would install for [`PROGRAMS`]; it is only asked.
fn missing() -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command
        .args(["--simulate", "install", "--no-install-recommends"])
        .args(PROGRAMS)
        .env("LC_ALL", "C");
    let plan = exec::output(&mut command)
        .with_context(|| format!("apt-get knows no way to install {}", PROGRAMS.join(" ")))?;
    let names = plan.lines().filter_map(|line| {
        let name = line.strip_prefix("Inst ")?.split(' ').next()?;
        Some(name.to_owned())
    });
    Ok(names.collect())
}

/// The package that [`KERNEL`] stands for.
fn kernel() -> Result<String> {
    let said = exec::output(Command::new("apt-cache").args(["depends", KERNEL]))
        .with_context(|| format!("apt-cache knows no {KERNEL}"))?;
    said.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|rest| format!("linux-image-{rest}"))
        .with_context(|| format!("{KERNEL} depends on no kernel"))
}
