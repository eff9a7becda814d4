//! What an interface can do for the program, and what is in the way.

use std::fs;

use super::{Check, Verdict, check};
use crate::dataplane::{
    hook, kernel,
    netlink::{self, Link},
    sys,
};

/// Interfaces of this network namespace but the loopback.
pub(super) fn present() -> Vec<String> {
    // This list alone is per namespace of the reader, unlike a sysfs mounted elsewhere.
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    (table.lines().skip(2))
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .filter(|name| name != "lo")
        .collect()
}

/// `wanted`: somebody named it.
pub(super) fn interface(name: &str, wanted: bool, checks: &mut Vec<Check>) {
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
        let ours = program == kernel::PROGRAM;
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
