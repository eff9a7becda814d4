//! The lab: network namespaces, real HTTP members, clients and attackers, in which sluice is tried.
//!
//! The tests in `tests/` and `cargo xtask demo` stand on it. It needs root and iproute2; what it
//! makes carries the process id in its name, so that labs run side by side and what a crashed run
//! left behind can be told from what is in use. It never touches an interface, a namespace or a bpf
//! filesystem that it did not make.
//!
//! Nothing here knows how sluice works inside: it starts the program, reads what the program and
//! the kernel's tables tell anybody, and talks to it over the network.

pub mod apache;
pub mod curl;
pub mod dns;
pub mod flood;
pub mod kernel;
pub mod member;
pub mod model;
pub mod netns;
pub mod packet;
pub mod pass;
pub mod scene;
pub mod sluice;
pub mod sweep;
pub mod tables;
pub mod topology;
pub mod unwrap;
pub mod vip;
pub mod wait;
pub mod xdp_cases;

pub use curl::Curl;
pub use member::Member;
pub use netns::Namespace;
pub use scene::Scene;
pub use sluice::Sluice;
pub use topology::{Lab, LabOptions};

use std::path::PathBuf;

/// The folder of the clone that this was built in: where examples/ and lb-ebpf/ are.
pub fn workspace_root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// Why the lab cannot run here, or `None` if it can: not root, or no iproute2.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for tool in ["ip", "curl"] {
        if !has_tool(tool) {
            return Some(format!(
                "{tool} is not installed (cargo xtask setup installs it)"
            ));
        }
    }
    None
}

/// Whether this is a CI run, where what is missing is a failure.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// What a test says when it cannot run for want of `reason`: in CI an error, else a loud line.
pub fn skip(reason: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!is_ci(), "in CI nothing may be skipped: {reason}");
    eprintln!("SKIPPED: {reason}");
    Ok(())
}

/// Fails, showing both, unless what was seen is what was wanted.
pub fn same(seen: &str, wanted: &str) -> anyhow::Result<()> {
    anyhow::ensure!(seen == wanted, "seen {seen:?}, wanted {wanted:?}");
    Ok(())
}

/// Whether a program of this name is on the path or in the folders of system programs.
pub fn has_tool(name: &str) -> bool {
    tool_path(name).is_some()
}

/// Where a program is: the path first, then the folders that only root's path has.
pub fn tool_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
