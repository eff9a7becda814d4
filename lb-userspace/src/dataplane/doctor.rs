//! `sluice doctor`: what this host can do for the dataplane, what is in the way, and what to do
//! about it. Looks only; changes nothing. Printing is the command line's.

use std::{fs, path::Path};

use aya::util::KernelVersion;
use caps::{CapSet, Capability};

use super::{
    Place, hook,
    netlink::{self, Link},
    pin, sys,
};

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

/// Interfaces of this network namespace but the loopback.
fn present() -> Vec<String> {
    // This list alone is per namespace of the reader, unlike a sysfs mounted elsewhere.
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    (table.lines().skip(2))
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .filter(|name| name != "lo")
        .collect()
}

/// `wanted`: somebody named it.
fn interface(name: &str, wanted: bool, checks: &mut Vec<Check>) {
    const WHY: &str = "the program is attached to it";
    let link = match netlink::by_name(name) {
        Ok(Some(link)) => link,
        Ok(None) => {
            checks.push(
                check(name, Verdict::Fail, "no such interface", WHY)
                    .fix("`ip link` lists those there are in this network namespace"),
            );
            return;
        }
        Err(error) => {
            checks.push(check(name, Verdict::Fail, error.to_string(), WHY));
            return;
        }
    };
    if !wanted && !link.up {
        // A host has such: tunnels' templates, ports without a cable. Nobody asked about it.
        let name = format!("{name}: state");
        checks.push(check(&name, Verdict::Ok, "down, and not in use", WHY));
        return;
    }
    checks.push(state(&link));
    let driver = sys::driver(name).ok();
    checks.push(mode(&link, driver.as_deref()));
    checks.push(queues(&link));
    checks.extend(offloads(name));
    checks.push(mtu(&link, driver.as_deref()));
    checks.extend(master(&link));
}

fn state(link: &Link) -> Check {
    const WHY: &str = "no packet reaches the program of an interface that is down";
    let name = format!("{}: state", link.name);
    match (link.up, link.running) {
        (true, true) => check(&name, Verdict::Ok, "up", WHY),
        (true, false) => check(&name, Verdict::Warn, "up, no carrier", WHY)
            .fix("check the cable, the switch port or the peer"),
        (false, _) => {
            check(&name, Verdict::Fail, "down", WHY).fix(format!("ip link set {} up", link.name))
        }
    }
}

/// Drivers with native XDP in Linux 6.1, by the name that ethtool shows.
const NATIVE: [&str; 34] = [
    "atlantic",
    "bnxt_en",
    "cpsw",
    "dpaa2-eth",
    "e1000e",
    "ena",
    "fec",
    "fsl_dpaa",
    "fsl_enetc",
    "fun",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "lan966x",
    "mlx4_en",
    "mlx5_core",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "octeontx2",
    "qede",
    "sfc",
    "stmmac",
    "tsnep",
    "tun",
    "virtio_net",
];

fn mode(link: &Link, driver: Option<&str>) -> Check {
    const WHY: &str = "native runs before the kernel spends anything on the packet, generic after";
    let name = format!("{}: XDP", link.name);
    let driver = driver.unwrap_or("unknown");
    if let Some(running) = link.xdp {
        let (program, tag) = hook::describe(running.program);
        let found = format!(
            "program {} \"{program}\" (tag {tag}) in {} mode; driver {driver}",
            running.program, running.mode
        );
        let ours = program == super::kernel::PROGRAM;
        return match (ours, running.mode) {
            (true, "native" | "offloaded") => check(&name, Verdict::Ok, found, WHY),
            (true, _) => check(&name, Verdict::Warn, found, WHY)
                .fix("a driver with native XDP makes it faster"),
            (false, _) => check(
                &name,
                Verdict::Fail,
                found,
                "one program only can run there",
            )
            .fix(format!("ip link set dev {} xdp off", link.name)),
        };
    }
    let native = driver == "veth" || NATIVE.contains(&driver);
    let verdict = if native { Verdict::Ok } else { Verdict::Warn };
    let found = if native {
        format!(
            "no program; driver {driver} can run it natively{}",
            carrier(driver)
        )
    } else {
        format!("no program; driver {driver} is not known to run XDP natively")
    };
    check(&name, verdict, found, WHY).fix("it is attached in generic mode, which is slower")
}

/// What becomes of the link when a program is attached natively for the first time.
fn carrier(driver: &str) -> &'static str {
    match driver {
        "veth" | "tun" | "virtio_net" => "",
        _ => ", and may reset the link for a moment when the first is attached",
    }
}

fn queues(link: &Link) -> Check {
    const WHY: &str = "each receive queue is one CPU's work: with one, one CPU does it all";
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let channels = sys::channels(&link.name).ok();
    let queues = channels.map_or(link.rx_queues, |channels| channels.rx);
    let name = format!("{}: queues", link.name);
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let found = format!(
        "{}, {}",
        plural(queues as usize, "receive queue"),
        plural(cpus, "CPU")
    );
    // Where the interface cannot have more there is nothing to advise.
    let more = channels.filter(|channels| channels.most > queues);
    let (Some(more), true) = (more, queues <= 1 && cpus > 1) else {
        return check(&name, Verdict::Ok, found, WHY);
    };
    let wanted = (more.most as usize).min(cpus);
    let kind = if more.combined { "combined" } else { "rx" };
    check(&name, Verdict::Warn, found, WHY).fix(format!("ethtool -L {} {kind} {wanted}", link.name))
}

/// What the NIC does to packets before the program sees them, as `ethtool -k` and `ethtool -K` name it,
/// and what of it must be off.
const OFFLOADS: [(&str, &str, &str, bool); 4] = [
    ("rx-lro", "LRO", "lro", false),
    ("rx-gro-hw", "hardware GRO", "rx-gro-hw", false),
    ("rx-vlan-hw-parse", "rx-vlan-offload", "rxvlan", true),
    (
        "rx-vlan-stag-hw-parse",
        "rx-vlan-stag-offload",
        "rx-vlan-stag-hw-parse",
        true,
    ),
];

fn offloads(name: &str) -> Vec<Check> {
    const MERGES: &str =
        "merged segments are not what came over the wire; most drivers refuse XDP with it";
    const UNTAGS: &str = "a tag that the NIC takes off is not seen by the program, nor on what it sends on; \
                          without VLANs it does not matter";
    let Ok(features) = sys::features(name) else {
        return Vec::new();
    };
    (OFFLOADS.into_iter())
        .filter_map(|(feature, title, option, tags)| {
            let feature = features.iter().find(|f| f.name == feature)?;
            let title = format!("{name}: {title}");
            let why = if tags { UNTAGS } else { MERGES };
            Some(match (feature.on, feature.changeable) {
                (false, _) => check(&title, Verdict::Ok, "off", why),
                (true, true) => {
                    let when = if tags { "packets are steered" } else { "the program is attached" };
                    check(
                        &title,
                        Verdict::Ok,
                        format!("on; switched off while {when}, and on again afterwards"),
                        why,
                    )
                }
                (true, false) => {
                    let verdict = if tags { Verdict::Warn } else { Verdict::Fail };
                    check(&title, verdict, "on, and the driver does not let it be off", why)
                        .fix(format!("ethtool -K {name} {option} off, if another driver or firmware lets you; else use another interface"))
                }
            })
        })
        .collect()
}

fn mtu(link: &Link, driver: Option<&str>) -> Check {
    const WHY: &str = "some drivers run XDP natively only while a frame fits into one page";
    // Frames of up to a page less headroom and the skb's tail; drivers differ by a few bytes.
    let large = link.mtu > 3498 && driver != Some("veth");
    let verdict = if large { Verdict::Warn } else { Verdict::Ok };
    check(
        &format!("{}: MTU", link.name),
        verdict,
        link.mtu.to_string(),
        WHY,
    )
    .fix(format!(
        "if native mode is refused: ip link set {} mtu 3498 or less",
        link.name
    ))
}

fn master(link: &Link) -> Option<Check> {
    let index = link.master?;
    let master = netlink::by_index(index).ok().flatten();
    let (name, kind) = master.map_or_else(
        || (index.to_string(), String::new()),
        |master| (master.name, master.kind.unwrap_or_default()),
    );
    let mut check = check(
        &format!("{}: port of", link.name),
        Verdict::Warn,
        format!("{kind} {name}"),
        "the program of a port sees the packets before its bridge or bond does",
    );
    check.fix = match kind.as_str() {
        "bond" => format!("attach to every port, or to {name} if all its ports can run XDP"),
        _ => format!("attach to every port through which clients come, not to {name}"),
    };
    Some(check)
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
