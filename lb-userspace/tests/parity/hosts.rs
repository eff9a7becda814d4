//! Which virtual host serves a request (apache.md 1.5), and that balancers of the main server are one
//! for all of them.

use super::{
    peers::{exchange, seen},
    stage::{Side, Stage, name_of},
};

/// Two addresses and two ports: names, an address of its own, wildcards for port and for all.
const CONFIGURATION: &str = "Listen 127.0.0.2:{port}\nListen 127.0.0.1:{other}\nListen 127.0.0.2:{other}\n\
    ProxyPass / http://{m}/main/\n\
    <VirtualHost *:{port}>\nServerName one.test\nServerAlias alias.test *.wild.test q?.test two.test\n\
    Header set X-Host one\n</VirtualHost>\n\
    <VirtualHost *:{port}>\nServerName two.test:99\nServerAlias onlytwo.test\nHeader set X-Host two\n</VirtualHost>\n\
    <VirtualHost *:{port}>\nServerName three.test:99\nHeader set X-Host three\n</VirtualHost>\n\
    <VirtualHost *:{port}>\nServerName three.test\nHeader set X-Host never\n</VirtualHost>\n\
    <VirtualHost *>\nServerName any.test\nServerAlias one.test\nHeader set X-Host any\n</VirtualHost>\n\
    <VirtualHost 127.0.0.2:{port}>\nServerName address.test\nHeader set X-Host address\n</VirtualHost>\n\
    <VirtualHost 127.0.0.2>\nServerName anyport.test\nHeader set X-Host anyport\n</VirtualHost>\n";

/// Start lines and fields, without what ends a connection.
const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: one.test",
    "GET / HTTP/1.1\r\nHost: ONE.Test",
    "GET / HTTP/1.1\r\nHost: one.test.",
    "GET / HTTP/1.1\r\nHost: one.test:99",
    "GET / HTTP/1.1\r\nHost: alias.test",
    "GET / HTTP/1.1\r\nHost: a.wild.test",
    "GET / HTTP/1.1\r\nHost: a.b.wild.test",
    "GET / HTTP/1.1\r\nHost: wild.test",
    "GET / HTTP/1.1\r\nHost: q1.test",
    "GET / HTTP/1.1\r\nHost: q12.test",
    "GET / HTTP/1.1\r\nHost: two.test",
    "GET / HTTP/1.1\r\nHost: onlytwo.test:1",
    "GET / HTTP/1.1\r\nHost: three.test",
    "GET / HTTP/1.1\r\nHost: three.test:99",
    "GET / HTTP/1.1\r\nHost: any.test",
    "GET / HTTP/1.1\r\nHost: address.test",
    "GET / HTTP/1.1\r\nHost: anyport.test",
    "GET / HTTP/1.1\r\nHost: nobody.test",
    "GET / HTTP/1.1\r\nHost: main.test",
    "GET / HTTP/1.1\r\nHost: 127.0.0.1",
    "GET / HTTP/1.1\r\nHost: [::1]",
    "GET / HTTP/1.1\r\nHost:",
    "GET / HTTP/1.1\r\nX: y",
    "GET / HTTP/1.0\r\nX: y",
    "GET / HTTP/1.0\r\nHost: onlytwo.test",
    "GET http://onlytwo.test/ HTTP/1.1\r\nHost: one.test",
    "GET http://onlytwo.test:7/ HTTP/1.1\r\nHost: one.test",
    "GET HTTP://ONLYTWO.test/ HTTP/1.1\r\nHost: one.test",
    "GET / HTTP/1.1\r\nHost: one.test\r\nHost: onlytwo.test",
    "GET / HTTP/1.1\r\nHost: one.test, onlytwo.test",
    "GET / HTTP/1.1\r\nHost: a b",
    "GET / HTTP/1.1\r\nHost: a/b",
    "GET / HTTP/1.1\r\nHost: one.test:x",
    "GET / HTTP/1.1\r\nHost: user@one.test",
];

/// Status and virtual host of a request at an address.
fn host_of(side: &Side, address: &str, request: &str) -> String {
    let request = format!("{request}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes());
    let Some(seen) = seen(&answer) else {
        return "nothing".to_owned();
    };
    let mut fields = seen.fields.iter();
    let host = fields.find(|(name, _)| name == "x-host");
    let host = host.map_or("main", |(_, host)| host);
    match seen.status {
        200 => host.to_owned(),
        status => format!("{status} {}", side.without_ports(&name_of(&seen))),
    }
}

#[test]
fn names_and_addresses_choose_the_virtual_host() {
    let Some(stage) = Stage::start(&["m"], &[], CONFIGURATION) else {
        return;
    };
    let mut failures = Vec::new();
    for (ip, other) in [
        ("127.0.0.1", false),
        ("127.0.0.2", false),
        ("127.0.0.1", true),
        ("127.0.0.2", true),
    ] {
        let mut found = std::collections::BTreeSet::new();
        for request in REQUESTS {
            let [theirs, ours] = stage.sides.each_ref().map(|side| {
                let port = if other { side.other } else { side.port };
                host_of(side, &format!("{ip}:{port}"), request)
            });
            if theirs != ours {
                failures.push(format!(
                    "{ip} {other} {request:?}: httpd {theirs}, sluice {ours}"
                ));
            }
            found.insert(theirs);
        }
        assert!(found.len() > 1, "{ip} {other}: {found:?}");
    }
    stage.end(&failures);
}

/// No virtual host is for the address: the main server answers.
#[test]
fn main_server_serves_what_no_virtual_host_is_for() {
    let Some(stage) = Stage::start(
        &["m"],
        &[],
        "Listen 127.0.0.1:{other}\nProxyPass / http://{m}/main/\n\
         <VirtualHost *:{other}>\nServerName one.test\nHeader set X-Host one\n</VirtualHost>\n",
    ) else {
        return;
    };
    for side in &stage.sides {
        let ask = |port: u16| {
            let address = format!("127.0.0.1:{port}");
            host_of(side, &address, "GET / HTTP/1.1\r\nHost: one.test")
        };
        assert_eq!(ask(side.port), "main", "{}", side.who);
        assert_eq!(ask(side.other), "one", "{}", side.who);
    }
}

#[test]
fn balancer_of_the_main_server_is_one_for_all_hosts() {
    let Some(stage) = Stage::start(
        &["a", "b", "c"],
        &[],
        "<Proxy balancer://shared>\nBalancerMember http://{a}\nBalancerMember http://{b}\n</Proxy>\n\
         ProxyPass /both balancer://shared/main\n\
         <VirtualHost *:{port}>\nServerName v1.test\nProxyPass /s/ balancer://shared/one/\nProxyPass /both http://{c}/never\n\
         ProxyPass /own http://{c}/own\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName v2.test\nProxyPass /s/ balancer://shared/two/\n</VirtualHost>\n",
    ) else {
        return;
    };
    let asks = [
        ("v1", "/s/x"),
        ("v2", "/s/x"),
        ("v1", "/s/x"),
        ("v2", "/s/x"),
        ("v1", "/both"),
        ("v2", "/both/y"),
        ("v1", "/own/z"),
        ("v2", "/own"),
        ("v2", "/s"),
    ];
    let [theirs, ours] = stage.sides.each_ref().map(|side| {
        asks.map(|(host, path)| side.ask(&format!("GET {path}"), &[&format!("Host: {host}.test")]))
    });
    let names = theirs.each_ref().map(name_of);
    assert_eq!(names, ["a", "b", "a", "b", "a", "b", "c", "404", "404"]);
    assert_eq!(theirs, ours, "httpd, sluice");
}

#[test]
fn server_calls_itself_alike() {
    let rules = "RewriteEngine On\nRewriteRule ^/rule /to [R]\nRedirect /redirect /to\n\
         Header always set X-Self \"expr=%{SERVER_NAME}:%{SERVER_PORT}\"\n\
         ProxyPass /r/ http://{a}/\nProxyPassReverse /r/ http://{a}/\nProxyVia On\n";
    let host = |lines: &str, more: &str| {
        format!("<VirtualHost *:{{port}}>\n{lines}\n{rules}{more}</VirtualHost>\n")
    };
    let mixed = "<Location /r/on>\nUseCanonicalName On\nRedirect /r/on/redirect /to\n</Location>\n";
    let text = [
        host("ServerName plain.test", mixed),
        host("ServerName port.test:81\nUseCanonicalName Off", mixed),
        host("ServerAlias none.test", mixed),
        host(
            "ServerName on.test\nServerAlias also.test\nUseCanonicalName On",
            "",
        ),
        host("ServerName onport.test:81\nUseCanonicalName On", ""),
        host("ServerAlias onnone.test\nUseCanonicalName On", ""),
        host("ServerName phys.test\nUseCanonicalPhysicalPort On", mixed),
        host(
            "ServerName physport.test:81\nUseCanonicalPhysicalPort On",
            mixed,
        ),
        host(
            "ServerName onphys.test\nUseCanonicalPhysicalPort On\nUseCanonicalName On",
            "",
        ),
    ]
    .concat();
    let Some(stage) = Stage::start(&["a"], &[], &text) else {
        return;
    };
    let names = [
        "plain", "port", "none", "on", "also", "onport", "onnone", "phys", "physport", "onphys",
    ];
    let mut failures = Vec::new();
    for name in names {
        for asked in [
            format!("{name}.test"),
            format!("{}.TEST:99", name.to_uppercase()),
            format!("{name}.test:80"),
        ] {
            let host = format!("Host: {asked}");
            for path in ["/rule", "/redirect", "/r/x", "/r/on/x", "/r/on/redirect"] {
                let give = "X-Give: Location: http://{a}/there";
                let line = format!("GET {path}");
                failures.extend(stage.differs(&line, &[&host, give]));
            }
        }
    }
    stage.end(&failures);
}
