//! Steering with real packets where the other l4 tests do not look: a member behind another
//! interface, connection ids, services that refuse, ICMP errors about translated connections.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
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
        "<Proxy balancer://f>\n    BalancerMember tcp://198.51.100.2\n</Proxy>\n\
         SteerPass tcp://{VIP4}:{PORT} balancer://f forward=dsr\n"
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
    let said = sluice.cli(&["service", "list", "--json"])?.ok()?.json()?;
    ensure!(said.to_string().contains("steered_new"), "{said}");
    Ok(())
}

/// Asks from a fresh port with these bytes, and says who answers.
fn ask(from: &Namespace, to: SocketAddr, bytes: &[u8]) -> Result<String> {
    let socket = from.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        std::io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0; 64];
    wait::until("an answer by datagram", wait::PATIENCE, || {
        socket.send(bytes).ok()?;
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })
}

#[test]
fn connection_id_names_its_member_from_any_port() -> Result<()> {
    let lab = Lab::new()?;
    vip::share(&lab)?;
    let members: Vec<String> = (0..3)
        .map(|index| {
            let address = topology::address(topology::MEMBERS + index);
            format!("    BalancerMember udp://{address}\n")
        })
        .collect();
    let service = SocketAddr::from((VIP4, 4433));
    let _echoes: Vec<Echo> = (lab.members.iter().zip(["a", "b", "c"]))
        .map(|(home, name)| Echo::start(home, name, service))
        .collect::<Result<_>>()?;
    let steer = format!(
        "<Proxy balancer://q>\n{}</Proxy>\n\
         SteerPass udp://{service} balancer://q forward=dsr hash=quic:2\n",
        members.concat(),
    );
    let _sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    for (index, name) in (0..).zip(["a", "b", "c"]) {
        // A short header, the id's first octet, the server id (the address's last two bytes), a
        // number that nobody looks at.
        let last = topology::MEMBERS + index;
        for nonce in 0..12 {
            let packet = [0x40, 0x07, 2, last, nonce, 9, 9, 9, 1, 2, 3, 4];
            lab::same(&ask(&lab.client, service, &packet)?, name)?;
        }
    }
    // Ids that nobody has are the ring's: all members get some.
    let mut seen = std::collections::BTreeSet::new();
    let begin = Instant::now();
    while seen.len() < 3 && begin.elapsed() < wait::PATIENCE {
        let packet = [0x40, 0x07, 7, 77, 1, 9, 9, 9, 1, 2, 3, 4];
        seen.insert(ask(&lab.client, service, &packet)?);
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
    let one = topology::address(topology::MEMBERS);
    let steer = format!(
        "<Proxy balancer://t>\n    BalancerMember tcp://{one} status=+S\n</Proxy>\n\
         <Proxy balancer://u>\n    BalancerMember udp://{one} status=+S\n</Proxy>\n\
         SteerPass tcp://{VIP4}:{PORT} balancer://t onempty=reset\n\
         SteerPass tcp://{VIP4}:81 balancer://t\n\
         SteerPass udp://{VIP4}:4433 balancer://u onempty=reset\n"
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

    let socket = lab.client.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((IpAddr::from(VIP4), 4433))?;
        std::io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 64];
    wait::until("an unreachable port", wait::PATIENCE, || {
        // What ICMP said of one packet is told at the next call.
        let sent = socket.send(b"who").err();
        let error = sent.or_else(|| socket.recv(&mut buffer).err())?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })?;
    let said = sluice.cli(&["service", "list", "--json"])?.ok()?.json()?;
    let text = said.to_string();
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
        "<Proxy balancer://u>\n    BalancerMember udp://{one}:5353\n</Proxy>\n\
         SteerPass udp://{VIP4}:53 balancer://u forward=nat\n"
    );
    let sluice = Sluice::start(&lab, &site(&lab::scene::three(""), &steer))?;
    let socket = lab.client.inside(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((IpAddr::from(VIP4), 53))?;
        std::io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 64];
    // The client's kernel gives the error to the socket only if what it quotes is the socket's own.
    wait::until("an unreachable port", wait::PATIENCE, || {
        let sent = socket.send(b"who").err();
        let error = sent.or_else(|| socket.recv(&mut buffer).err())?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    })?;
    let said = sluice.cli(&["service", "list", "--json"])?.ok()?.json()?;
    ensure!(said.to_string().contains("returned"), "{said}");
    Ok(())
}
