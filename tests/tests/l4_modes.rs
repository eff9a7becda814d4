//! Every way to forward, in both families, with real connections.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    Lab, LabOptions, Member, Sluice,
    scene::site,
    sluice::Place,
    topology,
    unwrap::Unwrap,
    vip::{self, Connection, Echo, PORT, VIP4, VIP6},
    wait,
};

/// Members at their IPv4 or IPv6 addresses, for packets alone.
fn balancer(name: &str, scheme: &str, six: bool) -> String {
    let hosts = (topology::MEMBERS..).take(3).map(|last| {
        if six {
            format!("[{}]", topology::address6(last))
        } else {
            topology::address(last).to_string()
        }
    });
    vip::balancer(name, scheme, hosts)
}

struct Run {
    lab: Lab,
    sluice: Sluice,
    _members: Vec<Member>,
    _tunnels: Vec<Unwrap>,
}

/// Members of one family, services of both, all by one mode.
fn start(forward: &str, six: bool) -> Result<Run> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let members = vip::members(&lab)?;
    let tunnels = (lab.members.iter())
        .map(Unwrap::start)
        .collect::<Result<_>>()?;
    let steer = format!(
        "{}{}SteerPass tcp://{VIP4}:{PORT} balancer://l4 forward={forward}\n\
         SteerPass tcp://[{VIP6}]:{PORT} balancer://l4 forward={forward}\n\
         SteerPass udp://{VIP4}:5300-5309 balancer://u4 forward={forward}\n\
         SteerPass udp://[{VIP6}]:5300-5309 balancer://u4 forward={forward}\n",
        balancer("l4", "tcp", six),
        balancer("u4", "udp", six),
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    Ok(Run {
        lab,
        sluice,
        _members: members,
        _tunnels: tunnels,
    })
}

/// Connections reach all members, and stay; datagrams to a range of ports do.
fn check(forward: &str, six: bool) -> Result<()> {
    let run = start(forward, six)?;
    let client = &run.lab.client;
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let service = SocketAddr::new(vip, PORT);
        let mut kept = vip::one_of_each(client, service, &["a", "b", "c"])?;
        let seen = vip::answers(client, service, 60)?;
        ensure!(seen.len() == 3, "{service} by {forward}: {seen:?}");
        let names: Vec<String> = kept
            .iter_mut()
            .map(Connection::name)
            .collect::<Result<_>>()?;
        ensure!(
            names == ["a", "b", "c"],
            "{service} by {forward}: {names:?}"
        );

        let udp = SocketAddr::new(vip, 5305);
        let echoes: Vec<Echo> = (run.lab.members.iter().zip(["a", "b", "c"]))
            .map(|(home, name)| Echo::start(home, name, udp))
            .collect::<Result<_>>()?;
        let mut who: Vec<String> = Vec::new();
        for _ in 0..60 {
            who.push(vip::ask_by_datagram(client, udp)?);
        }
        who.sort();
        who.dedup();
        ensure!(who == ["a", "b", "c"], "{udp} by {forward}: {who:?}");
        drop(echoes);
    }
    let text = vip::counted(&run.sluice)?;
    ensure!(
        text.contains("steered_new") && text.contains("\"steered\""),
        "{text}"
    );
    Ok(())
}

#[test]
fn dsr_reaches_members_on_the_link() -> Result<()> {
    check("dsr", false)
}

#[test]
fn ipip_reaches_members_by_ipv4() -> Result<()> {
    check("ipip", false)
}

#[test]
fn ipip_reaches_members_by_ipv6() -> Result<()> {
    check("ipip", true)
}

#[test]
fn gue_reaches_members_by_ipv4() -> Result<()> {
    check("gue", false)
}

#[test]
fn gue_reaches_members_by_ipv6() -> Result<()> {
    check("gue", true)
}

/// Ports at the other end of the connections that are open to a host's port [`PORT`].
fn peers(home: &lab::Namespace) -> Result<Vec<u16>> {
    let text = home.inside(|| std::fs::read_to_string("/proc/thread-self/net/tcp6"))??;
    let port = |end: &str| u16::from_str_radix(end.rsplit(':').next()?, 16).ok();
    Ok((text.lines().skip(1))
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
            (port(local)? == PORT && state == "01").then(|| port(remote))?
        })
        .collect())
}

/// As [`start`], by nat: the members have ports of their own and hold no shared address.
fn nat(six: bool) -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    for member in &lab.members {
        member.ip(&format!(
            "address delete {VIP4}/32 dev lo\naddress delete {VIP6}/128 dev lo\n"
        ))?;
    }
    let _members = vip::members(&lab)?;
    let vip = if six { IpAddr::from(VIP6) } else { VIP4.into() };
    let member_of = |index: u8| -> IpAddr {
        let last = topology::MEMBERS + index;
        if six {
            topology::address6(last).into()
        } else {
            topology::address(last).into()
        }
    };
    let list = |scheme: &str, port: u16| -> String {
        let lines: Vec<String> = (0..3)
            .map(|index| {
                let address = SocketAddr::new(member_of(index), port);
                format!("    BalancerMember {scheme}://{address}\n")
            })
            .collect();
        lines.concat()
    };
    let (tcp, udp) = (SocketAddr::new(vip, 443), SocketAddr::new(vip, 53));
    let steer = format!(
        "<Proxy balancer://n>\n{}</Proxy>\n<Proxy balancer://u>\n{}</Proxy>\n\
         SteerPass tcp://{tcp} balancer://n forward=nat\n\
         SteerPass udp://{udp} balancer://u forward=nat\n",
        list("tcp", PORT),
        list("udp", 5353),
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let mut kept = vip::one_of_each(&lab.client, tcp, &["a", "b", "c"])?;
    let seen = vip::answers(&lab.client, tcp, 60)?;
    ensure!(seen.len() == 3, "{seen:?}");
    let first = format!("tcp://{}", SocketAddr::new(member_of(0), PORT));
    sluice.cli(&["member", "drain", "n", &first])?.ok()?;
    let seen = vip::answers(&lab.client, tcp, 20)?;
    ensure!(!seen.contains_key("a"), "{seen:?}");
    let names: Vec<String> = (kept.iter_mut().map(Connection::name)).collect::<Result<_>>()?;
    ensure!(names == ["a", "b", "c"], "{names:?}");

    // Whose answers come to a port of ours: b's, from where its client's packets seem to be.
    let from = SocketAddr::new(member_of(1), PORT).to_string();
    let steer = |port: u16| -> Result<String> {
        let ours = SocketAddr::new(topology::balancer_addresses()[usize::from(six)], port);
        Ok(sluice
            .cli(&["steer", "tcp", &from, &ours.to_string()])?
            .ok()?
            .out)
    };
    let open = peers(&lab.members[1])?;
    ensure!(!open.is_empty());
    for port in &open {
        let said = steer(*port)?;
        ensure!(
            said.contains("(returned)") && said.contains("nat: an answer to "),
            "{port}: {said}"
        );
    }
    let free = (61_000..65_535).find(|port| !open.contains(port));
    let said = steer(free.unwrap_or(0))?;
    ensure!(said.contains("dropped (no_connection)"), "{said}");

    let _echoes: Vec<Echo> = (lab.members.iter().zip(["a", "b", "c"]).zip(0..))
        .map(|((home, name), index)| {
            Echo::start(home, name, SocketAddr::new(member_of(index), 5353))
        })
        .collect::<Result<_>>()?;
    let mut who = (0..60)
        .map(|_| vip::ask_by_datagram(&lab.client, udp))
        .collect::<Result<Vec<_>>>()?;
    who.sort();
    who.dedup();
    ensure!(who == ["a", "b", "c"], "{who:?}");
    Ok(())
}

#[test]
fn nat_rewrites_both_addresses_in_ipv4() -> Result<()> {
    nat(false)
}

#[test]
fn nat_rewrites_both_addresses_in_ipv6() -> Result<()> {
    nat(true)
}

/// A member's own sluice, which unwraps what these sources send.
fn unwrapper(lab: &Lab, index: usize, sources: &str) -> Result<Sluice> {
    let mut place = Place::in_lab(lab, &format!("member{index}"))?;
    place.namespace = Some(lab.members[index].clone());
    place.listen = SocketAddr::from((topology::address(topology::MEMBERS + index as u8), 81));
    let text = unwrapping(place.listen, sources);
    Sluice::start_in(place, &text, &[])
}

fn unwrapping(own: SocketAddr, sources: &str) -> String {
    format!(
        "Listen {own}\nUser nobody\nGroup nogroup\nServerName x\n<IfModule sluice_module>\n\
         XDPInterface eth0\nSteerDecap from={sources}\n</IfModule>\n",
    )
}

/// What the balancer sends is unwrapped once `SteerDecap` names it, and is the stack's before.
#[test]
fn steer_decap_unwraps_for_sources_that_it_names_alone() -> Result<()> {
    let lab = Lab::with(LabOptions {
        members: 1,
        attackers: 0,
    })?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let member = topology::address(topology::MEMBERS);
    let steer = format!(
        "{}SteerPass tcp://{VIP4}:{PORT} balancer://l4 forward=ipip\n",
        vip::balancer("l4", "tcp", [member.to_string()]),
    );
    let _sluice = Sluice::start(&lab, &site(&lab::scene::member(0, ""), &steer))?;
    let service = SocketAddr::from((VIP4, PORT));
    let other = topology::address(topology::CLIENT).to_string();
    let unwrapper = unwrapper(&lab, 0, &other)?;
    let packets = |reason: &str| -> Result<u64> {
        let said = unwrapper.json(&["service", "list"])?;
        let all = said["services"].as_array().into_iter().flatten();
        let counters = all
            .filter(|service| service["kind"] == "decap")
            .flat_map(|service| service["counters"].as_array().into_iter().flatten());
        Ok(counters
            .filter(|counter| counter["reason"] == reason)
            .filter_map(|counter| counter["packets"].as_u64())
            .sum())
    };
    wait::until("a packet that is not unwrapped", wait::PATIENCE, || {
        let patience = Duration::from_millis(200);
        let tried = (lab.client).inside(|| TcpStream::connect_timeout(&service, patience));
        (tried.ok()?.is_err() && packets("not_a_service").ok()? > 0).then_some(())
    })?;
    ensure!(packets("unpacked")? == 0);

    let sources = topology::address(topology::BALANCER).to_string();
    let own = SocketAddr::from((member, 81));
    unwrapper.reload(&unwrapping(own, &sources))?.ok()?;
    let seen = vip::answers(&lab.client, service, 5)?;
    ensure!(seen.len() == 1 && packets("unpacked")? > 0, "{seen:?}");
    Ok(())
}

/// sluice on both sides: the members unwrap by `SteerDecap`.
fn decap(forward: &str, six: bool) -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let steer = format!(
        "{}SteerPass tcp://{VIP4}:{PORT} balancer://l4 forward={forward}\n\
         SteerPass tcp://[{VIP6}]:{PORT} balancer://l4 forward={forward}\n",
        balancer("l4", "tcp", six),
    );
    let _sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let sources = topology::balancer_addresses().map(|ip| ip.to_string());
    let _unwrappers: Vec<Sluice> = (0..lab.members.len())
        .map(|index| unwrapper(&lab, index, &sources.join(",")))
        .collect::<Result<_>>()?;
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let seen = vip::answers(&lab.client, SocketAddr::new(vip, PORT), 60)?;
        ensure!(seen.len() == 3, "{vip} by {forward}: {seen:?}");
    }
    Ok(())
}

#[test]
fn steer_decap_unwraps_ipip() -> Result<()> {
    decap("ipip", false)
}

#[test]
fn steer_decap_unwraps_gue_over_ipv6() -> Result<()> {
    decap("gue", true)
}
