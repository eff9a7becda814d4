//! What can go wrong with the maps, the program, the hook or the pins, and the advice that goes
//! with it.

use std::{io, path::PathBuf};

/// Why the dataplane could not do what was asked. Each message is whole: operand, cause, remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel has no bpf, or refuses it to this process.
    #[error("no usable bpf: {what}: {cause}; {advice}")]
    NoBpf {
        /// What was tried.
        what: String,
        /// What the kernel said. Not the `source`: it is in the message already.
        cause: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The directory for pins is not a bpf filesystem.
    #[error("{path} is not a bpf filesystem; mount one: `mount -t bpf bpf {path}`")]
    NoBpffs {
        /// Where it was expected.
        path: PathBuf,
    },
    /// Another process holds the instance's lock.
    #[error(
        "instance {instance} is already running as process {pid}; stop it, or give this one another \
         name with SluiceInstance"
    )]
    AlreadyRunning {
        /// Instance's name.
        instance: String,
        /// Its control process, 0 when the lock file does not say.
        pid: u32,
    },
    /// The instance's name cannot be a file name.
    #[error("instance name `{instance}` must be 1 to 64 ASCII letters, digits, `-` or `_`")]
    BadInstance {
        /// As given.
        instance: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {what} {path}: {source}")]
    Path {
        /// What was tried: `create`, `lock`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something on the bpf filesystem is not ours. It is neither adopted nor removed.
    #[error(
        "{path} is not this instance's: {found}; remove it by hand if nothing needs it, or choose \
         another name with SluiceInstance"
    )]
    ForeignPin {
        /// Its path.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The verifier or the loader refused the program.
    #[error("the kernel refused the program: {reason}")]
    Program {
        /// The end of the verifier's log, or the loader's message.
        reason: String,
    },
    /// Another program is on the interface.
    #[error(
        "interface {interface} already runs XDP program {id} \"{name}\" (tag {tag}); take it off \
         ({by}) or leave this interface out",
        by = take_off(interface, name)
    )]
    HookTaken {
        /// Interface.
        interface: String,
        /// Program id; 0: gone meanwhile.
        id: u32,
        /// Its name.
        name: String,
        /// Its tag, as bpftool prints it.
        tag: String,
    },
    /// The NIC takes VLAN tags off, and cannot be told not to.
    #[error(
        "interface {interface} takes VLAN tags off before XDP sees a packet ({feature}), its driver \
         does not let that be switched off, and it has VLANs: steered packets would lose their tags; \
         steer on another interface, or take the VLANs off this one"
    )]
    Offload {
        /// Interface.
        interface: String,
        /// What cannot be switched off.
        feature: String,
    },
    /// The driver cannot do what `mode=` asks for.
    #[error(
        "interface {interface} cannot run XDP in {mode} mode: {source}; use mode=auto or \
         mode=generic, or see `sluice doctor`"
    )]
    Mode {
        /// Interface.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Attaching or detaching failed otherwise.
    #[error("cannot {what} interface {interface}: {source}")]
    Hook {
        /// `attach to`, `detach from`.
        what: &'static str,
        /// Interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// More is configured than a map holds. Nothing was written.
    #[error("{what}: {wanted} are needed and {free} are free of {capacity}{hint}")]
    Capacity {
        /// Of what.
        what: &'static str,
        /// How many.
        wanted: usize,
        /// How many fit.
        free: usize,
        /// Of how many in all.
        capacity: usize,
        /// `; ...`, or nothing.
        hint: &'static str,
    },
    /// No seed places every service in its set.
    #[error(
        "{services} services do not fit into the service table ({capacity} at most, fewer when \
         unlucky); use wildcard listeners instead of one per address"
    )]
    ServiceTable {
        /// How many.
        services: usize,
        /// Upper bound.
        capacity: usize,
    },
    /// `Desired` does not name one address for each member.
    #[error("balancer {balancer} has {members} members and {addresses} addresses were resolved")]
    Unresolved {
        /// Balancer's name.
        balancer: String,
        /// In the configuration.
        members: usize,
        /// Given.
        addresses: usize,
    },
    /// Reading or writing a map failed.
    #[error("map {map}: {what} failed: {source}")]
    Map {
        /// Map's name.
        map: &'static str,
        /// `reading`, `writing`, `mapping`.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The operator named something that is not there or not possible.
    #[error("{0}")]
    Refused(String),
    /// There is nothing to read.
    #[error(
        "instance {instance} has no pins at {path}: it never ran with kernel maps, or they were \
         removed (--instance, --run-dir and --bpffs say where to look)"
    )]
    NoPins {
        /// Instance's name.
        instance: String,
        /// Where they would be.
        path: PathBuf,
    },
    /// The pins were written by a build with another layout.
    #[error(
        "map {map} at {path} has the layout of another version of sluice; read it with that \
         version, or start this one, which makes the map anew"
    )]
    OtherLayout {
        /// Map's name.
        map: &'static str,
        /// Its path.
        path: PathBuf,
    },
}

/// How a program comes off an interface: one of ours by its own command, which knows the link.
fn take_off(interface: &str, program: &str) -> String {
    if program == super::kernel::PROGRAM {
        "it is sluice's: `sluice detach --instance NAME` of the instance that attached it"
            .to_owned()
    } else {
        format!("`ip link set dev {interface} xdp off`, or `bpftool link detach id LINK`")
    }
}

impl DataplaneError {
    /// 3: no usable dataplane; 4: no pins to read; 1: anything else (DESIGN section 8).
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::NoBpf { .. } | Self::NoBpffs { .. } => 3,
            Self::NoPins { .. } => 4,
            _ => 1,
        }
    }
}
