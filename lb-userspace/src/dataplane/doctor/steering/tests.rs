//! What the doctor says of steering.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn link(index: u32, name: &str, mtu: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        up: true,
        running: true,
        mtu,
        ..Link::default()
    }
}

fn route(interface: u32, gateway: Option<&str>, local: bool) -> Route {
    Route {
        interface,
        gateway: gateway.map(ip),
        source: None,
        local,
    }
}

fn neighbour(interface: u32, address: &str, last: u8) -> Neighbour {
    Neighbour {
        interface,
        address: ip(address),
        mac: [2, 0, 0, 0, 0, last],
        state: 2,
        managed: false,
    }
}

const VIP: &str = "203.0.113.10";

/// eth0 with 203.0.113.1/24 to clients and members, lo.
fn host() -> Host {
    Host {
        links: [(1, link(1, "lo", 65536)), (2, link(2, "eth0", 1500))].into(),
        addresses: vec![(1, ip("127.0.0.1")), (2, ip("203.0.113.1"))],
        ..Host::default()
    }
}

fn judged(host: &Host) -> Check {
    let members = [("tcp://203.0.113.21", Ok(ip("203.0.113.21")))].into();
    owner(ip(VIP), &["eth0"], host, &members)
}

#[test]
fn vip_is_held_where_the_link_is_asked_for_it() {
    let mut on_eth0 = host();
    on_eth0.addresses.push((2, ip(VIP)));
    assert_eq!(judged(&on_eth0).verdict, Verdict::Ok);
    let mut on_lo = host();
    on_lo.addresses.push((1, ip(VIP)));
    assert_eq!(judged(&on_lo).verdict, Verdict::Ok);
    // As on a member: then it is as silent as one.
    on_lo.arp_ignore = [("eth0".to_owned(), 1)].into();
    let silent = judged(&on_lo);
    assert_eq!(silent.verdict, Verdict::Warn);
    assert!(silent.found.contains("arp_ignore"), "{silent:?}");
    let mut elsewhere = host();
    elsewhere.links.insert(3, link(3, "eth1", 1500));
    elsewhere.addresses.push((3, ip(VIP)));
    let elsewhere = judged(&elsewhere);
    assert_eq!(elsewhere.verdict, Verdict::Fail);
    assert!(
        elsewhere.fix.starts_with("XDPInterface eth1"),
        "{elsewhere:?}"
    );
}

#[test]
fn vip_of_nobody_on_the_link_is_a_failure_and_behind_a_router_it_is_not() {
    let mut on_link = host();
    on_link.routes.insert(ip(VIP), route(2, None, false));
    let nobody = judged(&on_link);
    assert_eq!(nobody.verdict, Verdict::Fail);
    assert_eq!(nobody.fix, "ip address add 203.0.113.10/32 dev eth0");
    let mut routed = host();
    routed
        .routes
        .insert(ip(VIP), route(2, Some("203.0.113.254"), false));
    let routed = judged(&routed);
    assert_eq!(routed.verdict, Verdict::Ok);
    assert!(
        routed.found.contains("a route by 203.0.113.1"),
        "{routed:?}"
    );
    assert_eq!(
        judged(&host()).verdict,
        Verdict::Ok,
        "no route from here says nothing"
    );
}

#[test]
fn member_that_answers_for_the_vip_is_named() {
    let mut host = host();
    host.routes.insert(ip(VIP), route(2, None, false));
    host.routes
        .insert(ip("203.0.113.21"), route(2, None, false));
    host.neighbours = vec![neighbour(2, VIP, 7), neighbour(2, "203.0.113.21", 7)];
    let wrong = judged(&host);
    assert_eq!(wrong.verdict, Verdict::Fail);
    assert!(
        wrong
            .found
            .contains("tcp://203.0.113.21 (02:00:00:00:00:07 on eth0)"),
        "{wrong:?}"
    );
    assert!(wrong.fix.contains("arp_ignore=1"), "{wrong:?}");
    // Another host: the active one of two balancers, perhaps.
    host.neighbours[0].mac[5] = 8;
    assert_eq!(judged(&host).verdict, Verdict::Warn);
}

fn steer(forward: Forward) -> Steer {
    Steer {
        transport: crate::config::spec::Transport::Tcp,
        address: Some(ip(VIP)),
        first_port: 80,
        last_port: 80,
        balancer: 0,
        forward,
        hash: crate::config::spec::FlowHash::FiveTuple,
        reset_on_empty: false,
        at: crate::config::spec::Place::default(),
    }
}

#[test]
fn clients_packets_fit_with_their_outer_headers() {
    let mut host = host();
    host.links.insert(3, link(3, "eth1", 1500));
    let (four, six) = (ip("10.0.0.21"), ip("2001:db8::21"));
    for member in [four, six] {
        host.routes.insert(member, route(3, None, false));
    }
    let looked = |host: &Host, forward, members: &[IpAddr]| {
        room(&steer(forward), members.iter(), &["eth0"], host)
    };
    assert_eq!(looked(&host, Forward::Dsr, &[four]), None);
    let tight = looked(&host, Forward::IpIp, &[four]).expect("a check");
    assert_eq!(tight.verdict, Verdict::Warn);
    assert!(
        tight.fix.starts_with("ip link set eth1 mtu 1520"),
        "{tight:?}"
    );
    let tight = looked(&host, Forward::Gue, &[four, six]).expect("a check");
    assert!(
        tight.fix.starts_with("ip link set eth1 mtu 1548"),
        "{tight:?}"
    );
    host.links.insert(3, link(3, "eth1", 1520));
    assert_eq!(
        looked(&host, Forward::IpIp, &[four])
            .expect("a check")
            .verdict,
        Verdict::Ok
    );
}

#[test]
fn way_into_a_vlan_is_told_with_what_it_takes() {
    let mut spec = Spec::default();
    spec.balancers
        .push(crate::dataplane::desired::tests::balancer(
            "b",
            vec![crate::dataplane::desired::tests::member("tcp://10.7.0.21")],
        ));
    let steer = Steer {
        transport: crate::config::spec::Transport::Tcp,
        address: Some(ip(VIP)),
        first_port: 80,
        last_port: 80,
        balancer: 0,
        forward: Forward::Dsr,
        hash: crate::config::spec::FlowHash::FiveTuple,
        reset_on_empty: false,
        at: crate::config::spec::Place::default(),
    };
    let mut host = host();
    let vlan = Link {
        kind: Some("vlan".to_owned()),
        lower: Some(2),
        vlan: Some(7),
        ..link(3, "eth0.7", 1500)
    };
    host.links.insert(3, vlan);
    host.routes.insert(ip("10.7.0.21"), route(3, None, false));
    host.neighbours.push(neighbour(3, "10.7.0.21", 21));
    let member = &spec.balancers[0].members[0];
    let judged = |xdp| way(&steer, member, &Ok(ip("10.7.0.21")), &[xdp], &host);
    let trunk = judged("eth0");
    assert_eq!(trunk.verdict, Verdict::Warn);
    assert!(trunk.found.contains("VLAN 7"), "{trunk:?}");
    // There frames come without the tag, and leave so.
    assert_eq!(judged("eth0.7").verdict, Verdict::Ok);
}

#[test]
fn table_of_neighbours_must_hold_the_next_hops() {
    assert!(table("ipv4", 700, 1024).is_none());
    let near = table("ipv4", 1000, 1024).expect("told");
    assert_eq!(near.verdict, Verdict::Warn);
    let over = table("ipv6", 2000, 1024).expect("told");
    assert_eq!(over.verdict, Verdict::Fail);
    assert!(
        over.fix.contains("net.ipv6.neigh.default.gc_thresh3=8000"),
        "{over:?}"
    );
}
