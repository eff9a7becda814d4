//! What a configuration becomes.

use super::{steer::server_id, *};
use crate::{
    config::spec::{Balancer, LbMethod, Member, Place, Scheme, Sluice},
    dataplane::diff::has_limit,
};
use std::time::Duration;

/// A member with the defaults of the configuration.
pub(in crate::dataplane) fn member(url: &str) -> Member {
    Member {
        url: url.to_owned(),
        scheme: Scheme::Http,
        tls: None,
        host: "127.0.0.1".to_owned(),
        port: 80,
        path: String::new(),
        lbfactor: 100,
        lbset: 0,
        route: String::new(),
        redirect: String::new(),
        status: 0,
        retry: Duration::from_mins(1),
        timeout: None,
        connection_timeout: None,
        ttl: None,
        max: None,
        acquire: None,
        keepalive: false,
        disablereuse: false,
        address_ttl: crate::config::spec::AddressTtl::Record,
        response_field_size: 8192,
        receive_buffer: None,
        source: None,
        ping: None,
        ramp_up: None,
        socket: None,
        upgrade: crate::config::spec::Upgrade::Never,
        health: crate::config::spec::Health::default(),
        at: Place::default(),
    }
}

/// A balancer with the defaults of the configuration.
pub(in crate::dataplane) fn balancer(name: &str, members: Vec<Member>) -> Balancer {
    Balancer {
        name: name.to_owned(),
        direct: false,
        members,
        lbmethod: LbMethod::ByRequests,
        sticky: None,
        nofailover: false,
        timeout: Duration::ZERO,
        maxattempts: None,
        failonstatus: Vec::new(),
        failontimeout: false,
        forcerecovery: true,
        beyond: crate::config::spec::Beyond::default(),
        manage: crate::config::spec::Manage::default(),
        at: Place::default(),
    }
}

/// A configuration of these balancers, every member at `127.0.0.1` with a port by its URL.
pub(in crate::dataplane) fn desired(balancers: Vec<Balancer>) -> Desired {
    let port = |url: &str| {
        url.bytes()
            .fold(0, |sum: u16, byte| sum * 3 % 9973 + u16::from(byte))
    };
    let addresses = (balancers.iter())
        .map(|balancer| {
            (balancer.members.iter())
                .map(|member| SocketAddr::from(([127, 0, 0, 1], 1000 + port(&member.url))))
                .collect()
        })
        .collect();
    let spec = Spec {
        balancers,
        ..Spec::default()
    };
    Desired::of(Arc::new(spec), addresses).expect("as many addresses as members")
}

fn listener(address: &str, dual: bool) -> Listener {
    Listener {
        address: address.parse().expect("address"),
        dual,
        deferred: false,
        at: Place::default(),
    }
}

fn limit(rate: u32, burst: u32, addresses: Option<Vec<HostAddress>>) -> GuardLimit {
    GuardLimit {
        kind: LimitKind::SYN.0,
        rate,
        burst,
        per: Per::Source { v4: 32, v6: 64 },
        action: 0,
        addresses,
        at: Place::default(),
    }
}

fn host(ip: Option<&str>, port: Option<u16>) -> HostAddress {
    HostAddress {
        ip: ip.map(|ip| ip.parse().expect("ip")),
        port,
    }
}

fn image_of(listeners: Vec<Listener>, limits: Vec<GuardLimit>) -> Image {
    let spec = Spec {
        listeners,
        sluice: Sluice {
            limits,
            ..Sluice::default()
        },
        ..Spec::default()
    };
    Desired::of(Arc::new(spec), Vec::new())
        .and_then(|desired| desired.image(&Facts::default()))
        .expect("no members to resolve")
}

fn service(address: &str, port: u16) -> ServiceKey {
    ServiceKey {
        address: match address {
            "*" => Address::ANY,
            ip => ip.parse::<IpAddr>().expect("ip").into(),
        },
        port,
        last: 0,
        proto: proto::TCP,
    }
}

#[test]
fn identity_is_of_balancer_and_url_together() {
    let of = |balancer, url| identity(balancer, url, 0);
    assert_eq!(of("app", "http://a"), of("app", "http://a"));
    assert_ne!(of("app", "http://a"), of("app", "http://b"));
    assert_ne!(of("app", "http://a"), of("api", "http://a"));
    // The boundary is part of it.
    assert_ne!(of("ab", "c"), of("a", "bc"));
    assert_ne!(
        identity("app", "http://a", 0),
        identity("app", "http://a", 1)
    );
}

#[test]
fn members_of_one_name_and_url_are_told_apart_and_reported() {
    let twice = desired(vec![
        balancer("app", vec![member("http://a")]),
        balancer("app", vec![member("http://a")]),
    ]);
    let image = twice.image(&Facts::default()).expect("image");
    assert_ne!(image.members[0].identity, image.members[1].identity);
    assert!(image.notices[0].contains("http://a"), "{:?}", image.notices);
}

#[test]
fn an_unresolved_member_is_refused() {
    let spec = Spec {
        balancers: vec![balancer(
            "app",
            vec![member("http://a"), member("http://b")],
        )],
        ..Spec::default()
    };
    let one = vec![vec![SocketAddr::from(([127, 0, 0, 1], 1))]];
    let error = Desired::of(Arc::new(spec), one).expect_err("one address of two");
    assert!(
        error.to_string().contains("app has 2 members and 1"),
        "{error}"
    );
}

#[test]
fn names_are_cut_at_a_character() {
    let name: [u8; 4] = text("aéé");
    assert_eq!(name, *b"a\xc3\xa9\0");
    let exact: [u8; 3] = text("abc");
    assert_eq!(exact, *b"abc");
}

#[test]
fn every_wildcard_is_one_service() {
    let listeners = vec![
        listener("[::]:80", true),
        listener("0.0.0.0:80", false),
        listener("192.0.2.1:443", false),
    ];
    let image = image_of(listeners, Vec::new());
    let keys: Vec<_> = image.services.keys().copied().collect();
    assert_eq!(keys, [service("*", 80), service("192.0.2.1", 443)]);
}

#[test]
fn a_limited_address_of_a_wildcard_listener_becomes_a_service() {
    let at = Some(vec![host(Some("192.0.2.1"), Some(80))]);
    let image = image_of(vec![listener("[::]:80", true)], vec![limit(10, 20, at)]);
    assert!(has_limit(&image.services[&service("192.0.2.1", 80)].limits));
    assert!(!has_limit(&image.services[&service("*", 80)].limits));
}

#[test]
fn an_address_no_listener_takes_becomes_no_service() {
    let at = Some(vec![host(Some("2001:db8::1"), Some(80))]);
    let image = image_of(vec![listener("0.0.0.0:80", false)], vec![limit(10, 20, at)]);
    assert_eq!(image.services.len(), 1);
}

#[test]
fn a_virtual_hosts_limit_goes_before_the_servers() {
    let at = Some(vec![host(None, Some(81))]);
    let listeners = vec![listener("0.0.0.0:80", false), listener("0.0.0.0:81", false)];
    let image = image_of(listeners, vec![limit(5, 5, at), limit(100, 100, None)]);
    let rate = |port| image.services[&service("*", port)].limits.source[0].rate;
    assert_eq!((rate(80), rate(81)), (100, 5));
}

#[test]
fn icmp_limits_are_the_hosts() {
    let mut icmp = limit(10, 10, None);
    icmp.kind = LimitKind::ICMP.0;
    let image = image_of(vec![listener("0.0.0.0:80", false)], vec![icmp]);
    assert!(has_limit(&image.host_limits));
    assert!(!has_limit(&image.services[&service("*", 80)].limits));
}

#[test]
fn rate_is_kept_where_the_window_is_not() {
    let exact = limit_of(&limit(100, 200, None));
    assert_eq!((exact.window_ns, exact.packets), (2_000_000_000, 200));
    // 10 packets at 100 000/s would be a window of 0.1 ms: the burst grows instead.
    let fast = limit_of(&limit(100_000, 10, None));
    assert_eq!((fast.window_ns, fast.packets), (40_000_000, 4000));
    // 10 000 packets at 1/s would be hours: the burst shrinks.
    let slow = limit_of(&limit(1, 10_000, None));
    assert_eq!((slow.window_ns, slow.packets), (4_380_000_000_000, 4380));
    let most = limit_of(&limit(0x7fff_ffff, 0x7fff_ffff, None));
    assert_eq!((most.window_ns, most.packets), (1_000_000_000, 0x7fff_ffff));
}

/// A service on the VIP, steered to a balancer of two.
fn steered(more: impl FnOnce(&mut Sluice)) -> Desired {
    let members = ["tcp://10.0.0.21", "tcp://10.0.0.22"].map(member).to_vec();
    let mut wanted = desired(vec![balancer("l4", members)]);
    let mut spec = (*wanted.spec).clone();
    spec.sluice.steers.push(crate::config::spec::Steer {
        transport: crate::config::spec::Transport::Tcp,
        address: Some([192, 0, 2, 100].into()),
        first_port: 443,
        last_port: 443,
        balancer: 0,
        forward: crate::config::spec::Forward::Nat,
        hash: crate::config::spec::FlowHash::FiveTuple,
        reset_on_empty: true,
        at: Place::default(),
    });
    more(&mut spec.sluice);
    wanted.addresses = vec![vec![
        SocketAddr::from(([10, 0, 0, 21], 443)),
        SocketAddr::from(([10, 0, 0, 22], 443)),
    ]];
    wanted.spec = Arc::new(spec);
    wanted
}

/// A host that is 10.0.0.1 towards its members.
fn host_facts() -> Facts {
    let ours = IpAddr::from([10, 0, 0, 1]);
    Facts {
        sources: [21, 22].map(|last| ([10, 0, 0, last].into(), ours)).into(),
        local: vec![ours],
        ..Facts::default()
    }
}

#[test]
fn steered_service_has_its_address_and_where_answers_come() {
    let image = steered(|_| ()).image(&host_facts()).expect("image");
    let of = |kind: u8| -> Vec<_> {
        let all = image.services.iter();
        all.filter(|(_, s)| s.kind == kind)
            .map(|(key, _)| *key)
            .collect()
    };
    assert_eq!(of(kind::FORWARDED), [service("192.0.2.100", 443)]);
    assert_eq!(of(kind::VIP).len(), 1);
    let [answers] = of(kind::NAT)[..] else {
        panic!("{image:?}")
    };
    assert_eq!(IpAddr::from(answers.address), IpAddr::from([10, 0, 0, 1]));
    // Beside the host's own ports, 32768 to 60999.
    assert_eq!((answers.port, answers.last), (61000, 65535));
    let forward = image.services[&service("192.0.2.100", 443)]
        .forward
        .expect("forward");
    assert_eq!((forward.source4, forward.nat_first), ([10, 0, 0, 1], 61000));
    assert_eq!(forward.nat_ports, 4536);
}

#[test]
fn nat_without_a_way_to_its_members_has_no_source_yet() {
    let image = steered(|_| ()).image(&Facts::default()).expect("image");
    assert!(image.answers.is_empty());
    let forward = image.services[&service("192.0.2.100", 443)].forward;
    assert_eq!(forward.expect("forward").nat_ports, 0);
}

#[test]
fn nat_source_that_meets_the_hosts_own_ports_is_refused() {
    let with = |address: [u8; 4], ports| {
        steered(|sluice| {
            sluice.nat_sources.push(crate::config::spec::NatSource {
                address: address.into(),
                ports,
                at: Place::default(),
            });
        })
        .image(&host_facts())
    };
    let error = with([10, 0, 0, 1], Some((30_000, 40_000))).expect_err("refused");
    assert!(error.to_string().contains("32768-60999"), "{error}");
    assert!(with([10, 0, 0, 1], Some((20_000, 30_000))).is_ok());
    // An address that is nobody's but ours has all its ports.
    let image = with([10, 0, 0, 9], None).expect("image");
    let ports: Vec<_> = image.answers.values().collect();
    assert_eq!(ports, [&(1024, 65535)]);
}

#[test]
fn ports_that_nat_sends_from_are_nobody_elses() {
    let listener = |ip: [u8; 4], port| Listener {
        address: SocketAddr::from((ip, port)),
        dual: false,
        deferred: false,
        at: Place {
            file: "l.conf".into(),
            line: 7,
        },
    };
    let with = |listener: Listener| {
        let mut wanted = steered(|_| ());
        let mut spec = (*wanted.spec).clone();
        spec.listeners.push(listener);
        wanted.spec = Arc::new(spec);
        wanted.image(&host_facts())
    };
    // 61000 to 65535 of 10.0.0.1.
    for ip in [[10, 0, 0, 1], [0; 4]] {
        for port in [61000, 65535] {
            let error = with(listener(ip, port)).expect_err("refused").to_string();
            assert!(
                error.contains("SteerPass tcp://192.0.2.100:443")
                    && error.contains(&format!("Listen {}", listener(ip, port).address))
                    && error.contains("l.conf:7")
                    && error.contains("61000-65535 of 10.0.0.1"),
                "{error}"
            );
        }
        assert!(with(listener(ip, 60999)).is_ok());
    }
    assert!(with(listener([10, 0, 0, 2], 61000)).is_ok());

    // Another line's, which needs no answers: a range that ends where those begin.
    let beside = |address: Option<IpAddr>, last_port, nat: [u8; 4]| {
        steered(|sluice| {
            let mut other = sluice.steers[0].clone();
            (other.address, other.first_port, other.last_port) = (address, 2000, last_port);
            other.forward = crate::config::spec::Forward::Dsr;
            sluice.steers.push(other);
            sluice.nat_sources.push(crate::config::spec::NatSource {
                address: nat.into(),
                ports: Some((3000, 3999)),
                at: Place::default(),
            });
        })
        .image(&host_facts())
    };
    let (ours, foreign) = ([10, 0, 0, 1], [10, 0, 0, 9]);
    for (address, last, nat) in [
        (Some(ours.into()), 3000, ours),
        (None, 3000, ours),
        (Some(foreign.into()), 3000, foreign),
    ] {
        let error = beside(address, last, nat).expect_err("refused").to_string();
        assert!(error.contains("2000-3000 ("), "{error}");
        assert!(beside(address, last - 1, nat).is_ok());
    }
    // Nobody but members sends to an address that is not this host's.
    assert!(beside(None, 3000, foreign).is_ok());
}

#[test]
fn guard_limits_are_for_steered_services_too() {
    let wanted = steered(|sluice| sluice.limits.push(limit(10, 10, None)));
    let image = wanted.image(&host_facts()).expect("image");
    assert!(has_limit(
        &image.services[&service("192.0.2.100", 443)].limits
    ));
    let others = image
        .services
        .values()
        .filter(|s| s.kind != kind::FORWARDED);
    assert!(others.into_iter().all(|s| !has_limit(&s.limits)));
}

#[test]
fn server_id_is_the_end_of_the_address() {
    let of = |ip: &str, len| server_id(ip.parse().expect("ip"), len);
    assert_eq!(of("10.1.2.3", 2)[..3], [2, 3, 0]);
    assert_eq!(of("10.1.2.3", 6)[..6], [0, 0, 10, 1, 2, 3]);
    assert_eq!(of("2001:db8::a:b", 4)[..5], [0, 10, 0, 11, 0]);
}
