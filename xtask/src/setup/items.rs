//! The list: what is needed, what for, how to tell that it is there, where it comes from.

use std::{path::Path, process::Command};

use crate::{exec, vm};

/// One thing that is needed.
pub(super) struct Item {
    /// What it is called.
    pub(super) name: &'static str,
    /// What does not work without it.
    pub(super) purpose: &'static str,
    /// Where it comes from.
    pub(super) source: Source,
    present: fn() -> bool,
}

/// Where an item comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// A package of Debian and its kin.
    Apt(&'static str),
    /// A rustup component.
    Component {
        /// Of which toolchain.
        toolchain: &'static str,
        /// Its name.
        component: &'static str,
    },
    /// A whole toolchain, with the components that it is wanted for.
    Toolchain(&'static str),
    /// A program that cargo builds.
    Crate {
        /// Its name.
        name: &'static str,
        /// The version that is known to work.
        version: &'static str,
    },
    /// Debian's packages, unpacked under `target` and not installed.
    Guest,
    /// bpf-linker, which has to be built against the pinned toolchain's LLVM.
    BpfLinker,
    /// The host's kernel or administrator.
    Host,
}

/// Whether an item is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It is.
    There,
    /// It is not.
    Missing,
}

/// The toolchain of rust-toolchain.toml; `items_name_the_pinned_toolchain` keeps them equal.
const PINNED: &str = "1.95.0";
const NIGHTLY: &str = "nightly";

impl Item {
    /// Looks now.
    pub(super) fn state(&self) -> State {
        if (self.present)() {
            State::There
        } else {
            State::Missing
        }
    }

    /// What to type to get it.
    pub(super) fn fix(&self) -> String {
        match self.source {
            Source::Apt(package) => {
                format!("apt-get install --no-install-recommends {package}")
            }
            Source::Component {
                toolchain,
                component,
            } => {
                format!("rustup component add {component} --toolchain {toolchain}")
            }
            Source::Toolchain(toolchain) => format!(
                "rustup toolchain install {toolchain} --profile minimal -c miri -c rust-src"
            ),
            Source::Crate { name, version } => {
                format!("cargo install {name} --version {version} --locked")
            }
            Source::BpfLinker | Source::Guest => "cargo xtask setup".to_owned(),
            Source::Host => "the host's administrator".to_owned(),
        }
    }
}

/// Everything, in the order of the table: host, building, the lab, the checks.
pub(super) fn all() -> Vec<Item> {
    let item = |name, purpose, source, present| Item {
        name,
        purpose,
        source,
        present,
    };
    let tool = |name, purpose, package, present| item(name, purpose, Source::Apt(package), present);
    vec![
        item(
            "Linux 6.1 or newer",
            "the XDP program",
            Source::Host,
            || kernel() >= (6, 1),
        ),
        item("bpf filesystem", "pinned maps", Source::Host, has_bpffs),
        item(
            "root or sudo",
            "demo and tests in namespaces",
            Source::Host,
            || exec::root() != exec::Root::No,
        ),
        tool("C compiler", "cargo build", "gcc", || lab::has_tool("cc")),
        tool("C++ compiler", "fuzz targets", "g++", || {
            lab::has_tool("c++")
        }),
        tool("ip", "namespaces of the lab", "iproute2", || {
            lab::has_tool("ip")
        }),
        tool("curl", "the lab's client", "curl", || lab::has_tool("curl")),
        tool("h2load", "HTTP/2 clients", "nghttp2-client", || {
            lab::has_tool("h2load") && lab::has_tool("nghttp")
        }),
        tool("openssl", "certificates and TLS clients", "openssl", || {
            lab::has_tool("openssl")
        }),
        tool("promtool", "reads the metrics", "prometheus", || {
            lab::has_tool("promtool")
        }),
        tool("ethtool", "checksums in the lab", "ethtool", || {
            lab::has_tool("ethtool")
        }),
        tool("bpftool", "maps with field names", "bpftool", || {
            lab::has_tool("bpftool")
        }),
        tool("dnsmasq", "a real name server", "dnsmasq-base", || {
            lab::dns::Dns::missing().is_none()
        }),
        tool("httpd", "a real member; parity", "apache2-bin", || {
            lab::apache::Apache::missing().is_none()
        }),
        tool(
            "chromium",
            "the balancer-manager's page",
            "chromium",
            || lab::has_tool("chromium"),
        ),
        item(
            "guest of Linux 6.1",
            "cargo xtask vm",
            Source::Guest,
            vm::is_ready,
        ),
        item(
            "rust-src",
            "cargo xtask ebpf",
            Source::Component {
                toolchain: PINNED,
                component: "rust-src",
            },
            || has_rust_src(PINNED),
        ),
        item("bpf-linker", "cargo xtask ebpf", Source::BpfLinker, || {
            exec::output(Command::new("bpf-linker").arg("--version")).is_some()
        }),
        item(
            "nightly Rust",
            "Miri, fuzzing",
            Source::Toolchain(NIGHTLY),
            || sysroot(NIGHTLY).is_some(),
        ),
        item(
            "Miri",
            "undefined behaviour",
            Source::Component {
                toolchain: NIGHTLY,
                component: "miri",
            },
            || {
                exec::output(Command::new("cargo").args(["+nightly", "miri", "--version"]))
                    .is_some()
            },
        ),
        item(
            "nightly rust-src",
            "Miri",
            Source::Component {
                toolchain: NIGHTLY,
                component: "rust-src",
            },
            || has_rust_src(NIGHTLY),
        ),
        item(
            "cargo-deny",
            "licences, duplicates, advisories",
            Source::Crate {
                name: "cargo-deny",
                version: "0.20.2",
            },
            || exec::output(Command::new("cargo").args(["deny", "--version"])).is_some(),
        ),
        item(
            "cargo-fuzz",
            "fuzzing",
            Source::Crate {
                name: "cargo-fuzz",
                version: "0.13.2",
            },
            || exec::output(Command::new("cargo").args(["fuzz", "--version"])).is_some(),
        ),
    ]
}

/// What `cargo xtask bench l7` needs beyond that: the peers, and what drives and counts them.
pub(super) fn bench() -> Vec<Item> {
    let tool = |name, purpose, present| Item {
        name,
        purpose,
        source: Source::Apt(name),
        present,
    };
    vec![
        tool("nginx", "bench l7: peer and members", || {
            lab::has_tool("nginx")
        }),
        tool("haproxy", "bench l7: peer", || lab::has_tool("haproxy")),
        tool("wrk", "bench l7: the client", || lab::has_tool("wrk")),
        tool("nghttp2-client", "bench l7: h2load", || {
            lab::has_tool("h2load")
        }),
        tool("linux-perf", "bench l7: counts system calls", || {
            lab::has_tool("perf")
        }),
        tool("strace", "bench l7: counts them where perf may not", || {
            lab::has_tool("strace")
        }),
    ]
}

/// What `cargo xtask dist` needs beyond [`all`].
pub(super) fn dist() -> Vec<Item> {
    vec![Item {
        name: "llvm-tools",
        purpose: "dist: merges profiles",
        source: Source::Component {
            toolchain: PINNED,
            component: "llvm-tools",
        },
        present: || has_profdata(PINNED),
    }]
}

/// Whether llvm-profdata of the toolchain's own LLVM is there: no other reads its profiles.
fn has_profdata(toolchain: &str) -> bool {
    let Some(sysroot) = sysroot(toolchain) else {
        return false;
    };
    let hosts = std::fs::read_dir(Path::new(sysroot.trim()).join("lib/rustlib"));
    hosts
        .into_iter()
        .flatten()
        .flatten()
        .any(|host| host.path().join("bin/llvm-profdata").is_file())
}

fn has_rust_src(toolchain: &str) -> bool {
    sysroot(toolchain).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .is_file()
    })
}

fn sysroot(toolchain: &str) -> Option<String> {
    // RUSTUP_AUTO_INSTALL: asking must not install.
    exec::output(
        Command::new("rustc")
            .arg(format!("+{toolchain}"))
            .args(["--print", "sysroot"])
            .env("RUSTUP_AUTO_INSTALL", "0"),
    )
}

/// Major and minor version of the running kernel; zeros if they cannot be read.
fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let mut numbers = uname
        .release()
        .to_str()
        .unwrap_or("")
        .split(['.', '-'])
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn has_bpffs() -> bool {
    std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.trim_end().ends_with("\tbpf")))
}

#[cfg(test)]
mod tests {
    use super::PINNED;

    #[test]
    fn items_name_the_pinned_toolchain() {
        let pinned = include_str!("../../../rust-toolchain.toml");
        assert!(pinned.contains(&format!("channel = \"{PINNED}\"")));
    }
}
