//! Connections to members: how many, who is told to wait, what is asked before a body (apache.md 4, 6.1,
//! 6.3, 6.5).

use super::{
    cast::field,
    harness::wait_until,
    stage::{Side, Stage, name_of},
};

const CONFIGURATION: &str = "ProxyPass /kept/ http://{a}/kept/\nProxyPass /closed/ http://{b}/closed/ disablereuse=On\n\
    ProxyPass /match/ http://{c}/match/\nProxyPassMatch ^/filled/(.*)$ http://{d}/filled/$1\n\
    <Proxy balancer://kept>\nBalancerMember http://{e}\n</Proxy>\nProxyPass /balanced/ balancer://kept/\n";

#[test]
fn connections_to_members_are_kept_alike() {
    let Some(stage) = Stage::start(&["a", "b", "c", "d", "e"], &[], CONFIGURATION) else {
        return;
    };
    let counts = stage.sides.each_ref().map(|side| {
        let paths = ["/kept/x", "/closed/x", "/filled/x", "/balanced/x"];
        for path in paths {
            for _ in 0..5 {
                assert_eq!(side.ask(&format!("GET {path}"), &[]).status, 200, "{path}");
            }
        }
        // What a member closed meanwhile is not noticed.
        for _ in 0..3 {
            assert_eq!(side.ask("GET /match/x?c=last", &[]).status, 200);
        }
        ["a", "b", "c", "d", "e"].map(|name| side.actor(name).connections())
    });
    // httpd keeps none of a ProxyPassMatch with $1 (docs/differences.md).
    assert_eq!(counts[0], [1, 5, 3, 5, 1], "httpd");
    assert_eq!(counts[1], [1, 5, 3, 1, 1], "sluice");
}

/// The fields of the last request that a member got, in order of name; `Connection` is told apart.
fn received(side: &Side, actor: &str) -> Vec<String> {
    let heads = side.actor(actor).heads();
    let head = heads.last().expect("a request");
    let mut fields: Vec<String> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| format!("{}: {}", name.to_ascii_lowercase(), value.trim()))
        .filter(|field| !field.starts_with("connection:"))
        .map(|field| side.without_ports(&field))
        .collect();
    fields.sort();
    fields
}

#[test]
fn members_receive_the_same_fields() {
    let Some(stage) = Stage::start(
        &["a"],
        &[],
        "ProxyPass / http://{a}/\n<VirtualHost *:{port}>\nServerName keep.test\nProxyPreserveHost On\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName bare.test:99\nProxyAddHeaders Off\nProxyVia On\n</VirtualHost>\n\
         <VirtualHost *:{port}>\nServerName block.test\nProxyVia Block\n</VirtualHost>\n",
    ) else {
        return;
    };
    let requests: &[&[&str]] = &[
        &[],
        &["Host: keep.test:99"],
        &["Host: bare.test"],
        &["Host: block.test", "Via: 1.0 before"],
        &["Host: bare.test", "Via: 1.0 before"],
        &[
            "X-Forwarded-For: 10.0.0.1",
            "X-Forwarded-Host: before",
            "X-Forwarded-Server: before",
        ],
        &["X-Forwarded-For: 10.0.0.1, 10.0.0.2"],
        &["X-Forwarded-For:"],
        &["Connection: close, X-Named", "X-Named: 1", "X-Stays: 1"],
        &[
            "Connection: close",
            "Keep-Alive: timeout=1",
            "Proxy-Connection: keep-alive",
        ],
        &[
            "Connection: close",
            "TE: trailers",
            "Trailer: X-T",
            "Upgrade: h2c",
        ],
        &[
            "Proxy-Authorization: Basic eDp5",
            "Authorization: Basic eDp5",
        ],
        &[
            "Accept-Encoding: gzip",
            "Cookie: a=b",
            "User-Agent: x",
            "Referer: y",
            "If-None-Match: \"z\"",
        ],
        &["X-Empty:", "X-Blanks:   a  b  ", "x-CASE: c"],
        &[
            "Range: bytes=0-1",
            "If-Range: \"x\"",
            "If-Modified-Since: Wed, 09 Jun 2021 10:18:14 GMT",
        ],
        &[
            "Max-Forwards: 5",
            "Cache-Control: no-cache",
            "Pragma: no-cache",
        ],
    ];
    let mut failures = Vec::new();
    for fields in requests {
        let [theirs, ours] = stage.sides.each_ref().map(|side| {
            let seen = side.ask("GET /x", fields);
            (name_of(&seen), received(side, "a"))
        });
        if theirs != ours {
            failures.push(format!("{fields:?}\nhttpd:  {theirs:?}\nsluice: {ours:?}"));
        }
    }
    stage.end(&failures);
}

#[test]
fn members_are_asked_before_a_body_as_ping_and_expect_say() {
    let Some(stage) = Stage::start(
        &["a", "b"],
        &[],
        "<Proxy balancer://p>\nBalancerMember http://{a} ping=1 retry=600\nBalancerMember http://{b} ping=1 retry=600\n</Proxy>\n\
         ProxyPass /ping/ balancer://p/\nProxyPass /plain/ http://{a}/plain/\n",
    ) else {
        return;
    };
    let results = stage.sides.each_ref().map(|side| {
        let post = |path: &str, more: &[&str]| {
            let mut fields = vec!["Content-Length: 3"];
            fields.extend(more);
            let before = ["a", "b"].map(|name| side.actor(name).heads().len());
            let mut seen = side.send(&format!("POST {path}"), &fields, b"abc");
            // An interim response may or may not stand before the answer: the body is there already.
            if let Some(rest) = (seen.status == 100).then(|| seen.body.clone()) {
                seen = side.read(rest.as_bytes());
            }
            let heads = ["a", "b"].into_iter().zip(before);
            let asked = heads.flat_map(|(name, before)| side.actor(name).heads().split_off(before));
            let asked = asked.map(|head| field(&head, "expect").unwrap_or_default());
            let asked = asked.map(|expect| expect.to_ascii_lowercase());
            (name_of(&seen), asked.collect::<Vec<_>>())
        };
        let get = name_of(&side.ask("GET /ping/x", &[]));
        let heads = side.actor("a").heads();
        let of_get = heads.last().and_then(|head| field(head, "expect"));
        [
            (get, of_get.into_iter().collect()),
            post("/ping/x", &[]),
            post("/ping/x?a=hold", &[]),
            post("/ping/x", &[]),
            post("/plain/x", &[]),
            post("/plain/x", &["Expect: 100-continue"]),
        ]
    });
    let names = results[0].each_ref().map(|(name, _)| name.as_str());
    assert_eq!(names[..5], ["a", "b", "b", "b", "a"], "httpd");
    // sluice asks a silent member once more, on another connection (docs/differences.md).
    let [mut theirs, ours] = results;
    assert_eq!((theirs[2].1.len(), ours[2].1.len()), (2, 3));
    theirs[2].1.push("100-continue".to_owned());
    assert_eq!(theirs, ours, "httpd, sluice");
}

#[test]
fn member_without_a_free_connection_is_passed_over() {
    let Some(stage) = Stage::start(
        &["a", "b"],
        &[],
        "<Proxy balancer://m>\nBalancerMember http://{a} max=1 acquire=100 retry=600\nBalancerMember http://{b}\n</Proxy>\n\
         ProxyPass /m/ balancer://m/\n",
    ) else {
        return;
    };
    let sequences = stage.sides.each_ref().map(|side| {
        let get = |line: &str| name_of(&side.ask(line, &[]));
        std::thread::scope(|scope| {
            let held = scope.spawn(|| get("GET /m/x?a=hold"));
            wait_until("a has the request", || !side.actor("a").heads().is_empty());
            let during = [(); 4].map(|()| get("GET /m/x"));
            side.actor("a").release();
            let held = held.join().expect("answered");
            let after = [(); 2].map(|()| get("GET /m/x"));
            (held, during, after)
        })
    });
    assert_eq!(sequences[0].0, "a", "httpd");
    assert_eq!(sequences[0], sequences[1], "httpd, sluice");
}

/// `no-proxy` and sockets that are not there.
#[test]
fn requests_that_are_not_sent_on_are_answered_alike() {
    let Some(stage) = Stage::start(
        &["a"],
        &[],
        "SetEnvIf X-Not . no-proxy\nProxyPass /socket/ unix:/nothing/here.sock|http://name.test/\n\
         <Proxy balancer://s>\nBalancerMember unix:/nothing/here.sock|http://name.test retry=600\n\
         BalancerMember http://{a}\n</Proxy>\nProxyPass /both/ balancer://s/\n\
         ProxyPass /undefined/ balancer://undefined/\nProxyPass / http://{a}/\n",
    ) else {
        return;
    };
    let mut failures = Vec::new();
    for (line, fields) in [
        ("GET /x", &[][..]),
        ("GET /x", &["X-Not: 1"]),
        ("GET /socket/x", &[]),
        ("GET /both/x", &[]),
        ("GET /both/x", &[]),
        ("GET /undefined/x", &[]),
        ("GET /a%0ab", &[]),
        ("GET /a%7fb", &[]),
        ("GET /x?a%0ab", &[]),
    ] {
        failures.extend(stage.differs(line, fields));
    }
    stage.end(&failures);
}
