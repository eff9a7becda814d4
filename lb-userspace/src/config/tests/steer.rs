//! The Steer directives: what they give, and what is refused.

use super::*;
use crate::config::spec::{FlowHash, Forward, Steer, Transport};

/// Lines before the one that a case is about: it is line 8.
const HEAD: &str = "XDPInterface eth0\n\
    <Proxy balancer://b>\n\
    BalancerMember tcp://10.0.0.21:8443\n\
    BalancerMember http://10.0.0.22:8443\n\
    </Proxy>\n\
    Listen 10.0.0.1:80\n\
    Listen 81\n";

fn steer(line: &str) -> Steer {
    let spec = spec(&format!("{HEAD}{line}"));
    spec.sluice
        .steers
        .into_iter()
        .next()
        .expect("one SteerPass")
}

#[test]
fn steer_pass_has_defaults() {
    let steer = steer("SteerPass tcp://192.0.2.1:8443 balancer://B");
    assert_eq!(steer.transport, Transport::Tcp);
    assert_eq!(steer.address, Some("192.0.2.1".parse().expect("ip")));
    assert_eq!((steer.first_port, steer.last_port), (8443, 8443));
    assert_eq!((steer.balancer, steer.forward), (0, Forward::Dsr));
    assert_eq!(
        (steer.hash, steer.reset_on_empty),
        (FlowHash::FiveTuple, false)
    );
    assert_eq!(steer.at.line, 8);
}

#[test]
fn every_parameter_is_taken_in_any_case() {
    let whole = steer(
        "SteerPass TCP://[2001:DB8::1]:8443 balancer://b FORWARD=GUE hash=source onempty=reset",
    );
    assert_eq!(whole.address, Some("2001:db8::1".parse().expect("ip")));
    assert_eq!(
        (whole.forward, whole.hash),
        (Forward::Gue, FlowHash::Source)
    );
    assert!(whole.reset_on_empty);
    for any in ["*", "0.0.0.0", "[::]"] {
        assert_eq!(
            steer(&format!("SteerPass tcp://{any}:8443 balancer://b")).address,
            None
        );
    }
}

#[test]
fn where_members_without_a_port_are_checked_is_told() {
    let said = |members: &str, steers: &str| {
        let text = format!(
            "XDPInterface eth0\nListen 81\n<Proxy balancer://n>\n{members}\n</Proxy>\n{steers}"
        );
        let loaded = read(text.as_str());
        assert!(loaded.spec.is_some(), "{text}: {:?}", loaded.reports);
        (loaded.reports.iter().map(Report::render))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let tcp = "BalancerMember tcp://10.0.0.1 hcmethod=TCP hcpath=direct";
    let one = said(tcp, "SteerPass tcp://192.0.2.1:8443 balancer://n");
    assert!(!one.contains("are checked"), "there is one port: {one}");
    let range = said(tcp, "SteerPass tcp://192.0.2.1:8443-8450 balancer://n");
    assert!(
        range.contains("members without a port are checked at port 8443"),
        "{range}"
    );
    let udp = "BalancerMember udp://10.0.0.1 hcmethod=TCP";
    let udp = said(udp, "SteerPass udp://192.0.2.1:53 balancer://n");
    assert!(udp.contains("made by TCP, to port 53"), "{udp}");
}

#[test]
fn ranges_and_udp_take_members_without_a_port() {
    let text = "XDPInterface eth0\n<Proxy balancer://u>\nBalancerMember udp://10.0.0.21\n</Proxy>\n\
        SteerPass udp://192.0.2.1:5000-5099 balancer://u hash=quic:4 forward=ipip\n\
        SteerPass udp://192.0.2.1:443 balancer://u hash=quic\n";
    let spec = spec(text);
    assert!(spec.listeners.is_empty(), "no Listen is needed to steer");
    let [range, quic] = &spec.sluice.steers[..] else {
        panic!("{:?}", spec.sluice.steers)
    };
    assert_eq!((range.first_port, range.last_port), (5000, 5099));
    assert_eq!(range.hash, FlowHash::Quic { server_id: 4 });
    assert_eq!(quic.hash, FlowHash::Quic { server_id: 2 });
    let member = &spec.balancers[0].members[0];
    assert_eq!((member.url.as_str(), member.port), ("udp://10.0.0.21", 0));
}

#[test]
fn balancer_of_one_virtual_host_can_be_steered_to() {
    let text = "XDPInterface eth0\nListen 80\n<VirtualHost *:80>\n<Proxy balancer://v>\n\
        BalancerMember http://10.0.0.21:443\n</Proxy>\nProxyPass / balancer://v/\n</VirtualHost>\n\
        SteerPass tcp://192.0.2.1:443 balancer://v\n";
    let spec = spec(text);
    assert_eq!(spec.balancers[spec.sluice.steers[0].balancer].name, "v");
}

#[test]
fn tables_sources_and_nat_are_read() {
    let spec = spec(&format!(
        "{HEAD}SteerFlowTable 4096\nSteerDecap from=192.0.2.0/24,2001:db8::/32\n\
         SteerNatSource 192.0.2.9\nSteerNatSource [2001:db8::9]:20000-29999\n\
         SteerPass tcp://192.0.2.1:443 balancer://b forward=nat"
    ));
    let sluice = &spec.sluice;
    assert_eq!(sluice.flow_table, Some(4096));
    assert_eq!(sluice.decap_from.len(), 2);
    assert_eq!(sluice.nat_sources[0].ports, None);
    assert_eq!(sluice.nat_sources[1].ports, Some((20000, 29999)));
    assert_eq!(sluice.steers[0].forward, Forward::Nat);
}

/// Lines after [`HEAD`], each with what is said of it.
const REFUSED: &[(&str, &str)] = &[
    ("SteerPass", "SteerPass requires at least one argument"),
    (
        "SteerPass tcp://192.0.2.1:8443",
        "SteerPass must name a balancer",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 http://b",
        "SteerPass must name a balancer",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b/x",
        "a balancer without a path",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://none",
        "there is no balancer://none",
    ),
    (
        "SteerPass 192.0.2.1:8443 balancer://b",
        "neither tcp:// nor udp://",
    ),
    (
        "SteerPass http://192.0.2.1:8443 balancer://b",
        "neither tcp:// nor udp://",
    ),
    ("SteerPass tcp://192.0.2.1 balancer://b", "has no port"),
    ("SteerPass tcp://192.0.2.1:0 balancer://b", "neither a port"),
    (
        "SteerPass tcp://192.0.2.1:65536 balancer://b",
        "neither a port",
    ),
    (
        "SteerPass tcp://192.0.2.1:9-8 balancer://b",
        "neither a port",
    ),
    (
        "SteerPass tcp://192.0.2.1:1- balancer://b",
        "neither a port",
    ),
    (
        "SteerPass tcp://192.0.2.1:+80 balancer://b",
        "neither a port",
    ),
    ("SteerPass tcp://vip:80 balancer://b", "not an IP address"),
    (
        "SteerPass tcp://2001:db8::1:80 balancer://b",
        "not an IP address",
    ),
    (
        "SteerPass tcp://127.0.0.1:8443 balancer://b",
        "cannot be a service's address",
    ),
    (
        "SteerPass tcp://224.0.0.1:8443 balancer://b",
        "cannot be a service's address",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b dsr",
        "is not KEY=VALUE",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b foward=dsr",
        "unknown SteerPass parameter 'foward'",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b forward=gre",
        "no way to forward",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b forward=dsr forward=gue",
        "given twice",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b hash=dest",
        "is no hash",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b hash=quic",
        "hash=quic is for udp://",
    ),
    (
        "SteerPass udp://192.0.2.1:443 balancer://b hash=quic:0",
        "is no hash",
    ),
    (
        "SteerPass udp://192.0.2.1:443 balancer://b hash=quic:16",
        "is no hash",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443 balancer://b onempty=pass",
        "nothing to do on empty",
    ),
    (
        "SteerPass tcp://*:8443 balancer://b forward=nat",
        "forward=nat needs an address",
    ),
    (
        "SteerPass tcp://[2001:db8::1]:8443 balancer://b forward=nat",
        "other address family",
    ),
    (
        "SteerPass tcp://192.0.2.1:443 balancer://b",
        "has port 8443, and dsr, ipip and gue keep",
    ),
    (
        "SteerPass tcp://192.0.2.1:8443-8444 balancer://b",
        "has port 8443, and dsr, ipip and gue keep",
    ),
    (
        "SteerPass udp://192.0.2.1:8443 balancer://b",
        "does not speak udp",
    ),
    (
        "SteerPass tcp://10.0.0.1:80 balancer://b forward=nat",
        "the proxy listens there",
    ),
    (
        "SteerPass tcp://*:81 balancer://b",
        "the proxy listens there",
    ),
    (
        "SteerPass tcp://192.0.2.1:1-99 balancer://b forward=nat\nSteerPass tcp://192.0.2.1:99 balancer://b forward=nat",
        "steers some of these ports",
    ),
    ("ProxyPass / balancer://b/", "is for SteerPass alone"),
    ("ProxyPass / tcp://10.0.0.1/", "not supported"),
    (
        "BalancerMember balancer://c tcp://10.0.0.1/x",
        "has no path",
    ),
    (
        "BalancerMember balancer://c tcp://10.0.0.1:1 hcpath=tunnel",
        "hcpath=tunnel cannot be had: a member answers",
    ),
    (
        "<Proxy balancer://n>\nBalancerMember tcp://10.0.0.1\n</Proxy>\nSteerPass tcp://192.0.2.1:8443 balancer://n forward=nat",
        "needs a port: forward=nat",
    ),
    ("SteerFlowTable 1023", "not a number of flows"),
    ("SteerFlowTable 16777217", "not a number of flows"),
    ("SteerFlowTable many", "not a number of flows"),
    (
        "SteerFlowTable 2048\nSteerFlowTable 2048",
        "there is one already",
    ),
    ("SteerDecap 192.0.2.0/24", "is not from=PREFIX"),
    ("SteerDecap from=", "SteerDecap: '' is not an IP address"),
    ("SteerDecap from=0.0.0.0/0", "is everybody"),
    ("SteerDecap from=192.0.2.1/24", "bits beyond its length"),
    ("SteerNatSource name", "not an IP address"),
    ("SteerNatSource 127.0.0.1", "cannot be a source"),
    (
        "SteerNatSource 192.0.2.9:80-9000",
        "not a range of at least 64 ports",
    ),
    (
        "SteerNatSource 192.0.2.9:2000-2010",
        "not a range of at least 64 ports",
    ),
    (
        "SteerNatSource 192.0.2.9\nSteerNatSource 192.0.2.10",
        "one of this family already",
    ),
    (
        "<VirtualHost *:81>\nSteerPass tcp://192.0.2.1:8443 balancer://b\n</VirtualHost>",
        "cannot occur within",
    ),
];

#[test]
fn what_is_refused_is_said_with_its_line() {
    for (line, expected) in REFUSED {
        let loaded = read(format!("{HEAD}{line}"));
        assert!(loaded.spec.is_none(), "accepted: {line}");
        let errors = said(&loaded, Severity::Error);
        let found = errors
            .iter()
            .any(|(at, message)| *at >= 8 && message.contains(expected));
        assert!(found, "{line}: {errors:?}");
    }
}

#[test]
fn steering_without_an_interface_is_refused() {
    let loaded = read(
        "<Proxy balancer://b>\nBalancerMember tcp://10.0.0.1\n</Proxy>\nSteerPass tcp://192.0.2.1:1 balancer://b",
    );
    assert_eq!(
        said(&loaded, Severity::Error),
        [(4, "SteerPass without an XDPInterface steers nothing")]
    );
}

#[test]
fn wildcard_beside_an_address_and_lbmethod_are_noticed() {
    let loaded = read(format!(
        "{HEAD}<Proxy balancer://c>\nBalancerMember tcp://10.0.0.9\nProxySet lbmethod=byrequests\n</Proxy>\n\
         SteerPass tcp://192.0.2.1:81 balancer://c\nSteerPass tcp://192.0.2.1:8443 balancer://b"
    ));
    let notices = said(&loaded, Severity::Notice);
    let has = |part: &str| notices.iter().any(|(_, text)| text.contains(part));
    assert!(has("packets to 192.0.2.1:81 are steered"), "{notices:?}");
    assert!(has("lbmethod is for requests"), "{notices:?}");
}

#[test]
fn member_that_no_packet_goes_to_is_warned_of() {
    let loaded = read(format!("{HEAD}SteerFlowTable 2048"));
    let warnings = said(&loaded, Severity::Warning);
    assert!(
        warnings
            .iter()
            .any(|(line, text)| *line == 3 && text.contains("no SteerPass names")),
        "{warnings:?}"
    );
}
