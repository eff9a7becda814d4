//! `sluice doctor`: what this host can do for the dataplane, what is in the way, and what to do
//! about it. Looks only; changes nothing, but that it asks the links for the neighbours it wants to
//! know. Printing is the command line's.

use std::{fs, path::Path};

use aya::util::KernelVersion;
use caps::{CapSet, Capability};

use super::{Place, pin, sys};

mod interface;
mod member;
mod steering;

use interface::{interface, present};
pub use member::examine_member;
pub use steering::examine_steering;

/// Outcome of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// In the way.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: `kernel`, `eth0: mode`.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do; empty when it is [`Verdict::Ok`].
    pub fix: String,
}

fn check(name: &str, verdict: Verdict, found: impl Into<String>, why: &'static str) -> Check {
    Check {
        name: name.to_owned(),
        verdict,
        found: found.into(),
        why,
        fix: String::new(),
    }
}

impl Check {
    /// Says what to do, where there is something to do.
    fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.verdict != Verdict::Ok {
            self.fix = fix.into();
        }
        self
    }
}

/// Looks at the host, the instance's places and the named interfaces (all that are not loopback
/// where none is named).
pub fn examine(place: &Place, interfaces: &[String]) -> Vec<Check> {
    let mut checks = vec![
        kernel(),
        btf(),
        bpf(),
        jit(),
        capabilities(),
        memlock(),
        bpffs(&place.bpffs),
        run_dir(&place.run_dir),
    ];
    let found;
    let names = if interfaces.is_empty() {
        found = present();
        &found
    } else {
        interfaces
    };
    for name in names {
        interface(name, !interfaces.is_empty(), &mut checks);
    }
    checks
}

fn kernel() -> Check {
    const WHY: &str = "the program and its links are made for Linux 6.1 and newer";
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let verdict = match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(6, 1, 0) => Verdict::Ok,
        _ => Verdict::Fail,
    };
    check("kernel", verdict, release, WHY).fix("boot a kernel of 6.1 or newer")
}

fn btf() -> Check {
    const WHY: &str = "bpftool shows the maps with field names by the kernel's type information";
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        check("BTF", Verdict::Ok, "/sys/kernel/btf/vmlinux", WHY)
    } else {
        check("BTF", Verdict::Warn, "none", WHY).fix("use a kernel with CONFIG_DEBUG_INFO_BTF")
    }
}

fn bpf() -> Check {
    const WHY: &str = "without bpf(2) sluice runs as a proxy alone (--no-xdp)";
    match sys::bpf_probe() {
        Ok(()) => check("bpf", Verdict::Ok, "a map can be made", WHY),
        Err(error) => {
            let fix = match error.raw_os_error() {
                Some(libc::ENOSYS) => "use a kernel with CONFIG_BPF_SYSCALL",
                _ => {
                    "run as root or with CAP_BPF; in a container allow bpf(2) in its seccomp profile"
                }
            };
            check("bpf", Verdict::Fail, error.to_string(), WHY).fix(fix)
        }
    }
}

fn jit() -> Check {
    const WHY: &str = "interpreted, a program takes several times as long per packet";
    let path = "/proc/sys/net/core/bpf_jit_enable";
    match fs::read_to_string(path).as_deref().map(str::trim) {
        Ok("0") => {
            check("bpf JIT", Verdict::Warn, "off", WHY).fix("sysctl -w net.core.bpf_jit_enable=1")
        }
        Ok("2") => check("bpf JIT", Verdict::Warn, "on, dumping every program", WHY)
            .fix("sysctl -w net.core.bpf_jit_enable=1"),
        Ok(_) => check("bpf JIT", Verdict::Ok, "on", WHY),
        // Only the first network namespace has the file, or the kernel has the JIT always on.
        Err(_) => check("bpf JIT", Verdict::Ok, "not switchable from here", WHY),
    }
}

fn capabilities() -> Check {
    const WHY: &str = "control binds ports, makes maps and attaches programs; the proxy has none";
    let needed = [
        Capability::CAP_BPF,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_NET_BIND_SERVICE,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
    ];
    let has = |cap| caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false);
    // What CAP_BPF and CAP_NET_ADMIN were split from still stands for CAP_BPF.
    let missing: Vec<String> = (needed.into_iter())
        .filter(|cap| {
            let by_admin = *cap == Capability::CAP_BPF && has(Capability::CAP_SYS_ADMIN);
            !by_admin && !has(*cap)
        })
        .map(|cap| cap.to_string())
        .collect();
    if missing.is_empty() {
        check("capabilities", Verdict::Ok, "all that are needed", WHY)
    } else {
        let found = format!("{} missing", missing.join(", "));
        check("capabilities", Verdict::Fail, found, WHY).fix(
            "run as root, or list them in AmbientCapabilities= and CapabilityBoundingSet= of the \
             unit",
        )
    }
}

fn memlock() -> Check {
    const WHY: &str =
        "before Linux 5.11 maps counted against it; since then it does not matter here";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let found = limit
        .current
        .map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
    let new = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(5, 11, 0));
    let verdict = if new || limit.current.is_none() {
        Verdict::Ok
    } else {
        Verdict::Fail
    };
    check("memlock", verdict, found, WHY).fix("ulimit -l unlimited, or LimitMEMLOCK=infinity")
}

fn bpffs(path: &Path) -> Check {
    const WHY: &str = "pins live there: what makes the maps outlive the process";
    match pin::check_bpffs(path) {
        Ok(()) => check("bpffs", Verdict::Ok, path.display().to_string(), WHY),
        Err(error) => check("bpffs", Verdict::Fail, error.to_string(), WHY)
            .fix(format!("mount -t bpf bpf {}", path.display())),
    }
}

fn run_dir(path: &Path) -> Check {
    const WHY: &str = "lock file and control socket live there";
    let writable = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
    match writable {
        Ok(()) => check(
            "run directory",
            Verdict::Ok,
            path.display().to_string(),
            WHY,
        ),
        Err(rustix::io::Errno::NOENT) => check(
            "run directory",
            Verdict::Ok,
            format!("{}, made at start", path.display()),
            WHY,
        ),
        Err(errno) => check(
            "run directory",
            Verdict::Fail,
            format!("{}: {errno}", path.display()),
            WHY,
        )
        .fix("make it writable for the user that starts sluice"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            instance: "doctor".to_owned(),
            bpffs: "/".into(),
            run_dir: std::env::temp_dir(),
        }
    }

    fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        let found = checks.iter().find(|check| check.name == name);
        found.unwrap_or_else(|| panic!("no check {name}"))
    }

    #[test]
    fn what_is_not_as_it_should_be_comes_with_a_remedy() {
        let checks = examine(&place(), &["no-such-if0".to_owned(), "lo".to_owned()]);
        for check in &checks {
            assert_eq!(
                check.fix.is_empty(),
                check.verdict == Verdict::Ok,
                "{check:?}"
            );
        }
        let bpffs = named(&checks, "bpffs");
        assert_eq!(bpffs.verdict, Verdict::Fail);
        assert_eq!(bpffs.fix, "mount -t bpf bpf /");
        assert_eq!(named(&checks, "no-such-if0").verdict, Verdict::Fail);
        // The loopback has no native XDP.
        assert_eq!(named(&checks, "lo: XDP").verdict, Verdict::Warn);
    }

    #[test]
    fn interface_that_is_down_and_not_named_is_no_failure() {
        let checks = examine(&place(), &[]);
        let down = |check: &&Check| check.found == "down" && check.verdict == Verdict::Fail;
        assert_eq!(checks.iter().find(down), None);
    }

    #[test]
    fn without_names_every_interface_but_the_loopback_is_looked_at() {
        let checks = examine(&place(), &[]);
        assert!(!checks.iter().any(|check| check.name.starts_with("lo:")));
    }
}
