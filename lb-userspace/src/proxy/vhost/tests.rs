//! Virtual host lookup against apache.md 1.5.

use std::time::Duration;

use super::*;
use crate::config::spec::{LogLevels, Place, ReadTimeout, RequestLimits, Via};

fn host(addresses: &[&str], name: Option<&str>, aliases: &[&str]) -> Host {
    Host {
        addresses: addresses
            .iter()
            .map(|address| {
                let (ip, port) = address.rsplit_once(':').expect("ip:port");
                HostAddress {
                    ip: (ip != "*").then(|| ip.parse().expect("ip")),
                    port: (port != "*").then(|| port.parse().expect("port")),
                }
            })
            .collect(),
        server_name: name.map(str::to_owned),
        server_port: None,
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        routes: Vec::new(),
        reverses: Vec::new(),
        encoded_slashes: crate::config::spec::Slashes::Refused,
        preserve_host: false,
        add_headers: true,
        bad_header: crate::config::spec::BadHeader::default(),
        via: Via::Off,
        max_forwards: None,
        naming: crate::config::spec::Naming::default(),
        forwards_expect: true,
        policies: Vec::new(),
        locations: Vec::new(),
        proxies: Vec::new(),
        tls: None,
        protocols: crate::config::spec::Protocols::default(),
        timeout: Duration::from_mins(1),
        proxy_timeout: None,
        keep_alive: true,
        keep_alive_timeout: Duration::from_secs(5),
        max_keep_alive_requests: 100,
        header_timeout: ReadTimeout::fixed(Duration::from_secs(20)),
        body_timeout: ReadTimeout::fixed(Duration::from_secs(20)),
        request_limits: RequestLimits::default(),
        access_logs: Vec::new(),
        error_log: None,
        error_log_format: None,
        log_levels: LogLevels::default(),
        at: Place::default(),
    }
}

fn at(local: &str) -> SocketAddr {
    local.parse().expect("address")
}

#[test]
fn address_lookup_prefers_the_most_exact() {
    let hosts = [
        host(&[], None, &[]),
        host(&["*:80"], Some("one"), &[]),
        host(&["*:*"], Some("any"), &[]),
        host(&["192.0.2.7:80"], Some("exact"), &[]),
        host(&["192.0.2.7:*"], Some("ip"), &[]),
        host(&["*:80"], Some("two"), &[]),
    ];
    assert_eq!(candidates(&hosts, at("192.0.2.7:80")), [3]);
    assert_eq!(candidates(&hosts, at("192.0.2.7:81")), [4]);
    assert_eq!(candidates(&hosts, at("192.0.2.8:80")), [1, 5]);
    assert_eq!(candidates(&hosts, at("[::ffff:192.0.2.7]:80")), [3]);
    assert_eq!(candidates(&hosts, at("[2001:db8::1]:99")), [2]);
    assert_eq!(candidates(&hosts[..2], at("192.0.2.8:99")), [0]);
}

#[test]
fn names_are_tried_host_by_host_and_the_first_host_is_the_default() {
    let hosts = [
        host(&[], None, &[]),
        host(&["*:80"], Some("one.test"), &["*.alias.test", "t?o.test"]),
        host(&["*:80"], Some("two.test"), &[]),
        host(&["*:80"], Some("one.test"), &["three.test"]),
    ];
    let set = candidates(&hosts, at("192.0.2.1:80"));
    let selected = |name: &str| {
        let name = normalise(name.as_bytes()).expect("valid name");
        select(&hosts, &set, name.as_deref())
    };
    assert_eq!(selected("one.test"), 1);
    assert_eq!(
        selected("two.test:99"),
        1,
        "an earlier alias beats a later name"
    );
    assert_eq!(selected("TWO.test."), 1);
    assert_eq!(selected("three.test"), 3);
    assert_eq!(selected("a.b.alias.test"), 1);
    assert_eq!(selected("unknown.test"), 1);
    assert_eq!(select(&hosts, &set, None), 1);
}

#[test]
fn alias_patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("*", "", true),
        ("*", "a.b", true),
        ("*.a", "b.a", true),
        ("*.a", ".a", true),
        ("*.a", "a", false),
        ("a*b*c", "aXbXbYc", true),
        ("a*b*c", "aXcXb", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("a", "ab", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn host_values_that_httpd_refuses_are_refused() {
    for bad in [
        "a b", "a/b", "a:b", "a:99999", "[::1", "[x]", "[::1]x", "a@b", "a,b", "..", "a..b",
        "\u{e9}",
    ] {
        assert_eq!(normalise(bad.as_bytes()), Err(BadHost), "{bad}");
    }
    assert_eq!(normalise(b"[::1]:80"), Ok(Some("[::1]".to_owned())));
    assert_eq!(normalise(b"A.b:"), Ok(Some("a.b".to_owned())));
    assert_eq!(normalise(b""), Ok(None));
}

proptest::proptest! {
    #[test]
    fn the_index_selects_what_a_walk_does(
        hosts in proptest::collection::vec(
            (
                proptest::option::of("[ab]{1,2}"),
                proptest::collection::vec("[ab*?]{1,3}", 0..3),
                proptest::prelude::any::<bool>(),
            ),
            1..12,
        ),
        names in proptest::collection::vec("[abc]{1,3}", 1..8),
    ) {
        let mut candidates = Vec::new();
        let mut all = Vec::new();
        for (name, aliases, takes_part) in &hosts {
            if *takes_part {
                candidates.push(all.len());
            }
            let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
            all.push(host(&["*:80"], name.as_deref(), &aliases));
        }
        let index = Names::new(&all);
        for name in names.iter().map(|name| Some(name.as_str())).chain([None]) {
            proptest::prop_assert_eq!(
                index.select(&all, &candidates, name),
                select(&all, &candidates, name)
            );
        }
    }
}
