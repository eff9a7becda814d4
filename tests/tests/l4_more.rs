//! Steering with real packets where the other l4 tests do not look: a member behind another
//! interface, connection ids, services that refuse, ICMP errors about translated connections.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Lab, Member, Namespace, Sluice,
    pass::Pass,
    scene::site,
    topology,
    vip::{self, Echo, PORT, VIP4},
    wait,
};

/// A service that has no address to come from drops its packets until there is a way to its member.
#[test]
fn nat_without_a_way_waits_for_one() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let steer = format!(
        "{}SteerPass tcp://{VIP4}:{PORT} balancer://f forward=nat\n",
        vip::balancer("f", "tcp", [format!("198.51.100.2:{PORT}")]),
    );
    // Answers come in where the member is, by an interface that comes with the way.
    let text = site(&lab::scene::three(""), &steer)
        .replace("XDPInterface eth0", "XDPInterface eth0\nXDPInterface eth1");
    let sluice = Sluice::start(&lab, &text)?;
    let service = SocketAddr::from((VIP4, PORT));
    wait::until("a dropped packet", wait::PATIENCE, || {
        let patience = Duration::from_millis(200);
        let tried = (lab.client).inside(|| TcpStream::connect_timeout(&service, patience));
        let is_silent = tried
            .ok()?
            .is_err_and(|error| error.kind() == ErrorKind::TimedOut);
        (is_silent && vip::counted(&sluice).ok()?.contains("not_forwarded")).then_some(())
    })
    .with_context(|| sluice.log())?;
    let said = sluice.log();
    ensure!(said.contains("there is no route to 198.51.100.2"), "{said}");

    let (far, _pass) = far(&lab)?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let _member = Member::start(&far, "far", any)?;
    wait::until("an answer from afar", wait::PATIENCE, || {
        let mut connection = vip::Connection::open(&lab.client, service).ok()?;
        (connection.name().ok()? == "far").then_some(())
    })
    .with_context(|| format!("{:?} {}", vip::counted(&sluice), sluice.log()))?;
    let said = vip::counted(&sluice)?;
    ensure!(
        said.contains("returned") && said.contains("\"sources\":[\"198.51.100.1\"]"),
        "{said}"
    );
    Ok(())
}

/// A host on a link of its own with the balancer, and the program that lets it take what XDP sends.
fn far(lab: &Lab) -> Result<(Namespace, Pass)> {
    let far = Namespace::create(format!("{}-far", lab.prefix()))?;
    lab.balancer.ip(&format!(
        "link add eth1 type veth peer name eth0 netns {}\n\
         address add 198.51.100.1/24 dev eth1\nlink set eth1 up\n",
        far.name()
    ))?;
    far.ip(&format!(
        "address add 198.51.100.2/24 dev eth0\nlink set eth0 up\n\
         route add default via 198.51.100.1\naddress add {VIP4}/32 dev lo\n"
    ))?;
    // Or its checksums are left to a card that there is not, and translation cannot mend them.
    lab::netns::run((far.command("ethtool")).args(["-K", "eth0", "tx", "off"]))?;
    lab.balancer.set_sysctl("net/ipv4/ip_forward", "1")?;
    let pass = Pass::attach(&far, "eth0")?;
    Ok((far, pass))
}

/// The kernel's route to the member leads out by eth1: packets come in by eth0 and leave there.
#[test]
fn member_behind_another_interface_is_redirected_to() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let (far, _pass) = far(&lab)?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let _member = Member::start(&far, "far", any)?;
    let steer = format!(
        "{}SteerPass tcp://{VIP4}:{PORT} balancer://f forward=dsr\n",
        vip::balancer("f", "tcp", ["198.51.100.2".to_owned()]),
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let service = SocketAddr::from((VIP4, PORT));
    // The kernel may have to ask for the member's link address first.
    let name = wait::until("an answer from afar", wait::PATIENCE, || {
        let mut connection = vip::Connection::open(&lab.client, service).ok()?;
        connection.name().ok()
    })?;
    lab::same(&name, "far")?;
    let seen = vip::answers(&lab.client, service, 10)?;
    ensure!(seen.get("far") == Some(&10), "{seen:?}");
    let said = vip::counted(&sluice)?;
    ensure!(said.contains("steered_new"), "{said}");
    Ok(())
}

#[test]
fn connection_id_names_its_member_from_any_port() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let hosts = (0..3).map(|index| topology::address(topology::MEMBERS + index).to_string());
    let service = SocketAddr::from((VIP4, 4433));
    let _echoes: Vec<Echo> = (lab.members.iter().zip(["a", "b", "c"]))
        .map(|(home, name)| Echo::start(home, name, service))
        .collect::<Result<_>>()?;
    let steer = format!(
        "{}SteerPass udp://{service} balancer://q forward=dsr hash=quic:2\n",
        vip::balancer("q", "udp", hosts),
    );
    let _sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    for (index, name) in (0..).zip(["a", "b", "c"]) {
        // A short header, the id's first octet, the server id (the address's last two bytes), a
        // number that nobody looks at.
        let last = topology::MEMBERS + index;
        for nonce in 0..12 {
            let packet = [0x40, 0x07, 2, last, nonce, 9, 9, 9, 1, 2, 3, 4];
            lab::same(&vip::ask_with(&lab.client, service, &packet)?, name)?;
        }
    }
    // Ids that nobody has are the ring's: all members get some.
    let mut seen = std::collections::BTreeSet::new();
    let begin = Instant::now();
    while seen.len() < 3 && begin.elapsed() < wait::PATIENCE {
        let packet = [0x40, 0x07, 7, 77, 1, 9, 9, 9, 1, 2, 3, 4];
        seen.insert(vip::ask_with(&lab.client, service, &packet)?);
    }
    ensure!(seen.len() == 3, "{seen:?}");
    Ok(())
}

/// With nobody left: TCP meets a reset, UDP is told that the port is unreachable; or, without
/// `onempty`, nothing comes.
#[test]
fn service_without_members_refuses_if_it_shall() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let _members = vip::members(&lab)?;
    let one = format!("{} status=+S", topology::address(topology::MEMBERS));
    let steer = format!(
        "{}{}SteerPass tcp://{VIP4}:{PORT} balancer://t onempty=reset\n\
         SteerPass tcp://{VIP4}:81 balancer://t\n\
         SteerPass udp://{VIP4}:4433 balancer://u onempty=reset\n",
        vip::balancer("t", "tcp", [one.clone()]),
        vip::balancer("u", "udp", [one]),
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let connect = |port: u16, patience: Duration| -> Result<ErrorKind> {
        let to = SocketAddr::from((VIP4, port));
        let tried = (lab.client).inside(|| TcpStream::connect_timeout(&to, patience))?;
        Ok(tried.err().context("somebody answered")?.kind())
    };
    let refused = connect(PORT, Duration::from_secs(10))?;
    ensure!(refused == ErrorKind::ConnectionRefused, "{refused:?}");
    let silent = connect(81, Duration::from_millis(700))?;
    ensure!(silent == ErrorKind::TimedOut, "{silent:?}");

    vip::until_unreachable(&lab.client, (VIP4, 4433).into())?;
    let text = vip::counted(&sluice)?;
    ensure!(
        text.contains("refused") && text.contains("no_member"),
        "{text}"
    );
    Ok(())
}

/// A member where nobody listens says so by ICMP to the balancer, which tells the client.
#[test]
fn unreachable_port_of_a_translated_member_comes_to_the_client() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let one = topology::address(topology::MEMBERS);
    let steer = format!(
        "{}SteerPass udp://{VIP4}:53 balancer://u forward=nat\n",
        vip::balancer("u", "udp", [format!("{one}:5353")]),
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    // The client's kernel gives the error to the socket only if what it quotes is the socket's own.
    vip::until_unreachable(&lab.client, (VIP4, 53).into())?;
    let said = vip::counted(&sluice)?;
    ensure!(said.contains("returned"), "{said}");
    Ok(())
}
