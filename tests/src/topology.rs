//! Which namespaces a lab has and how they are wired.
//!
//! ```text
//!   client   member 1..n   attacker 1..n        balancer (sluice; XDP on eth0)
//!     |          |              |                   |
//!     +----------+------- br0 --+-------------------+      (br0 in a namespace of its own)
//! ```
//!
//! Every host has one interface, eth0, with the IPv4 and IPv6 address of the functions below. All
//! labs use the same addresses: they cannot reach one another, nor the machine's own networks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{Namespace, has_tool, netns, pass, sweep::LabId};

/// How many hosts of each kind.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// Namespaces for HTTP members, at most 100.
    pub members: u8,
    /// Namespaces for attackers, at most 50.
    pub attackers: u8,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            members: 3,
            attackers: 1,
        }
    }
}

/// A running lab. Dropping it takes everything away.
#[derive(Debug)]
pub struct Lab {
    /// Where requests come from.
    pub client: Namespace,
    /// Where sluice runs.
    pub balancer: Namespace,
    /// Where members run.
    pub members: Vec<Namespace>,
    /// Where floods come from.
    pub attackers: Vec<Namespace>,
    /// Where the bridge is: link faults are made here, on the port `p-HOST`.
    pub bridge: Namespace,
    bpffs: PathBuf,
    id: LabId,
    pass: pass::Pass,
}

impl Lab {
    /// A client, a balancer, three members and one attacker.
    pub fn new() -> Result<Self> {
        Self::with(LabOptions::default())
    }

    /// Builds the lab, or nothing.
    pub fn with(options: LabOptions) -> Result<Self> {
        let id = LabId::take()?;
        Self::build(id, options).inspect_err(|_| id.clean())
    }

    fn build(id: LabId, options: LabOptions) -> Result<Self> {
        let bpffs = id.mount_bpffs()?;
        let create = |host: &str| Namespace::create(format!("{}-{host}", id.prefix()));
        let bridge = create("bridge")?;
        // Multicast snooping off: with it, neighbour solicitations wait for a querier.
        bridge.ip(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set br0 up\n",
        )?;
        let plug_in = |host: &str, last: u8| -> Result<Namespace> {
            let namespace = create(host)?;
            plug(&bridge, &namespace, host, last)?;
            Ok(namespace)
        };
        let client = plug_in("client", CLIENT)?;
        let balancer = plug_in("balancer", BALANCER)?;
        // Floods claim to come from here: the answers must have somewhere to go.
        balancer.ip(&format!("route add {SPOOFED} via {}\n", address(CLIENT)))?;
        balancer.ip(&format!("route add {SPOOFED6} via {}\n", address6(CLIENT)))?;
        let members = (0..options.members)
            .map(|index| plug_in(&format!("member{}", index + 1), MEMBERS + index))
            .collect::<Result<_>>()?;
        let attackers = (0..options.attackers)
            .map(|index| plug_in(&format!("attacker{}", index + 1), ATTACKERS + index))
            .collect::<Result<_>>()?;
        let pass = prepare(&bridge)?;
        Ok(Self {
            client,
            balancer,
            members,
            attackers,
            bridge,
            bpffs,
            id,
            pass,
        })
    }

    /// What the lab's names begin with.
    pub fn prefix(&self) -> String {
        self.id.prefix()
    }

    /// A private folder for configurations and logs, removed with the lab.
    pub fn dir(&self) -> PathBuf {
        self.id.dir()
    }

    /// The lab's private bpf filesystem (`sluice --bpffs`).
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Takes the balancer's interface away and makes another in its place, with its addresses.
    pub fn replug_balancer(&mut self) -> Result<()> {
        self.unplug_balancer()?;
        self.plug_balancer()
    }

    /// Takes the balancer's interface away.
    pub fn unplug_balancer(&self) -> Result<()> {
        self.bridge.ip("link delete p-balancer\n")
    }

    /// Gives the balancer an interface with its addresses, after [`Self::unplug_balancer`].
    pub fn plug_balancer(&mut self) -> Result<()> {
        plug(&self.bridge, &self.balancer, "balancer", BALANCER)?;
        self.pass = prepare(&self.bridge)?;
        Ok(())
    }

    /// Cuts a host off, or plugs it in again: `host` is `client`, `member1`, ...
    pub fn set_link(&self, host: &str, up: bool) -> Result<()> {
        self.bridge.ip(&format!(
            "link set p-{host} {}\n",
            if up { "up" } else { "down" }
        ))
    }
}

/// A pair of interfaces: eth0 of the host, with its addresses, and `p-HOST`, a port of the bridge.
fn plug(bridge: &Namespace, namespace: &Namespace, host: &str, last: u8) -> Result<()> {
    bridge.ip(&format!(
        "link add p-{host} type veth peer name eth0 netns {}\n\
         link set p-{host} master br0 up\n",
        namespace.name()
    ))?;
    namespace.ip(&format!(
        "address add {}/24 dev eth0\n\
         address add {}/64 dev eth0 nodad\n\
         link set eth0 up\n",
        address(last),
        address6(last)
    ))
}

/// Makes the side that faces the balancer's XDP take what it sends.
fn prepare(bridge: &Namespace) -> Result<pass::Pass> {
    // Packets that a local stack sends over veth carry half a checksum. What XDP forwards goes out
    // as it is, so the side that faces the XDP device finishes the sums.
    if has_tool("ethtool") {
        netns::run(
            bridge
                .command("ethtool")
                .args(["-K", "p-balancer", "tx", "off"]),
        )?;
    }
    // veth accepts what its peer sends from XDP only if it runs a program itself.
    pass::Pass::attach(bridge, "p-balancer")
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.id.clean();
    }
}

/// IPv4 address of the host with this last octet: 192.0.2.0/24 is kept for documentation.
pub const fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

/// IPv6 address of the same host. The number is written with the same digits: 21 is `::21`.
pub const fn address6(last: u8) -> Ipv6Addr {
    let last = last as u16;
    let digits = ((last / 100) << 8) | ((last / 10 % 10) << 4) | (last % 10);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, digits)
}

/// The balancer's addresses, IPv4 first.
pub fn balancer_addresses() -> [IpAddr; 2] {
    [address(BALANCER).into(), address6(BALANCER).into()]
}

/// Last octet of the balancer's addresses.
pub const BALANCER: u8 = 1;
/// Last octet of the client's addresses.
pub const CLIENT: u8 = 10;
/// Last octet of the first member's addresses; the others follow.
pub const MEMBERS: u8 = 21;
/// Last octet of the first attacker's addresses; the others follow.
pub const ATTACKERS: u8 = 201;
/// Where spoofed IPv4 sources are taken from: a range kept for measurements.
pub const SPOOFED: &str = "198.18.0.0/15";
/// Where spoofed IPv6 sources are taken from.
pub const SPOOFED6: &str = "2001:db8:ffff::/48";
