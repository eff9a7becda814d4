//! Virtual hosts, routes, redirects, access logs.

use sluice::config::spec::{
    HostAddress, LogCondition, LogTarget, Mapping, ReverseTarget, Route, Target,
};

use sluice::expr::{Dialect, Expr};

use crate::support::{
    Lab, Member, access_log, dead_address, eventually, host, named_host, respond, reverse,
};

#[test]
fn name_selects_the_virtual_host_and_absolute_targets_win() {
    let (one, two) = (Member::named("one"), Member::named("two"));
    let mut lab = Lab::new(1);
    lab.add_balancer("one", &[one.address]);
    lab.add_balancer("two", &[two.address]);
    for (index, name) in ["one.test", "two.test"].into_iter().enumerate() {
        let mut host = named_host(name);
        host.routes.push(Route {
            path: "/".to_owned(),
            pattern: None,
            target: Target::Balancer {
                balancer: index,
                path: "/".to_owned(),
            },
            nocanon: false,
            mapping: Mapping::default(),
            interpolate: false,
            at: host.at.clone(),
        });
        lab.spec.hosts.push(host);
    }
    lab.spec.hosts[2].aliases.push("*.two.test".to_owned());
    lab.apply();
    let ask = |target: &str, host: &str| {
        let mut client = lab.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.receive().text()
    };
    assert_eq!(ask("/", "one.test"), "one");
    assert_eq!(ask("/", "TWO.test.:99"), "two");
    assert_eq!(ask("/", "a.two.test"), "two");
    assert_eq!(ask("/", "unknown"), "one");
    assert_eq!(ask("http://two.test/x", "one.test"), "two");
    assert_eq!(two.last().path(), "/x");
    assert_eq!(
        two.last().field("x-forwarded-host").as_deref(),
        Some("two.test")
    );
    assert_eq!(
        lab.raw("GET / HTTP/1.0\r\n\r\n").lines().last(),
        Some("one")
    );
}

#[test]
fn exact_address_hides_wildcards() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/", 0, "/");
    let exact = sluice::config::spec::Host {
        addresses: vec![HostAddress {
            ip: Some(lab.address.ip()),
            port: Some(lab.address.port()),
        }],
        ..host()
    };
    lab.spec.hosts.push(named_host("h.test"));
    lab.spec.hosts.push(exact);
    lab.spec.hosts[1].routes = lab.spec.hosts[0].routes.clone();
    lab.apply();
    assert_eq!(lab.get("/", "").status, 404, "the exact host has no route");
}

#[test]
fn paths_reach_the_member_as_httpd_sends_them() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.spec.balancers[0].members[0].path = "/app".to_owned();
    lab.add_balancer("direct", &[a.address]);
    lab.spec.balancers[1].direct = true;
    lab.spec.balancers[1].members[0].path = "/d/".to_owned();
    let local = Route {
        path: "/local".to_owned(),
        pattern: None,
        target: Target::Local,
        nocanon: false,
        mapping: Mapping::default(),
        interpolate: false,
        at: host().at,
    };
    lab.spec.hosts[0].routes.push(local);
    lab.route("/d/", 1, "/d/");
    lab.route("/sub/", 0, "/sub/");
    lab.route("/", 0, "/");
    lab.apply();
    for (path, expected) in [
        ("/k?q=%zz&r", "/app/k?q=%zz&r"),
        ("/sub/a", "/app/sub/a"),
        ("/d/x?y", "/d/x?y"),
        ("//a//b", "/app/a/b"),
        ("/a/%2e%2e/b", "/app/b"),
        ("/a%7Eb%20%3F", "/app/a~b%20%3F"),
    ] {
        assert_eq!(lab.get(path, "").status, 200);
        assert_eq!(a.last().path(), expected);
    }
    for (path, status) in [
        ("/local/x", 404),
        ("/../x", 400),
        ("/a%zz", 400),
        ("/a%2fb", 404),
        ("/a%00b", 404),
    ] {
        assert_eq!(lab.get(path, "").status, status, "{path}");
    }
}

#[test]
fn second_member_gets_its_own_path_and_not_the_first_ones() {
    let b = Member::named("b");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[dead_address(), b.address]);
    lab.spec.balancers[0].members[0].path = "/one".to_owned();
    lab.spec.balancers[0].members[1].path = "/two".to_owned();
    lab.route("/", 0, "/");
    lab.apply();
    assert_eq!(lab.get("/p?q", "").status, 200);
    assert_eq!(b.last().path(), "/two/p?q");
}

#[test]
fn unchanged_path_is_passed_on_as_it_is() {
    let a = Member::named("a");
    let lab = Lab::balancing(&[a.address]);
    lab.get("/a/b;c=d?e=f", "");
    assert_eq!(a.last().line(), "GET /a/b;c=d?e=f HTTP/1.1");
}

#[test]
fn redirects_of_any_member_become_the_clients() {
    let a = Member::with(|seen, stream| {
        let host = seen.field("host").expect("host");
        respond(
            stream,
            "302 Found",
            &format!("Location: http://{host}/to?q\r\n"),
            b"",
        )
    });
    let lab = Lab::configured(&[a.address], |spec| {
        let target = ReverseTarget::Balancer {
            balancer: 0,
            path: "/".to_owned(),
        };
        spec.hosts[0].reverses.push(reverse("/", target));
    });
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: www.example:99\r\n\r\n");
    let reply = client.receive();
    assert_eq!(reply.status, 302);
    assert_eq!(
        reply.field("location").as_deref(),
        Some("http://www.example:99/to?q")
    );
}

#[test]
fn access_log_tells_requests_refusals_and_members() {
    let a = Member::named("a");
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("access.log");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/", 0, "/");
    let format =
        "%h \"%r\" %>s %b %B %k %X %I %O %{X-A}i %{Content-Type}o %{BALANCER_WORKER_ROUTE}e %f";
    lab.spec.hosts[0]
        .access_logs
        .push(access_log(&path, format));
    let open = || {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .expect("log")
    };
    lab.apply_logging(vec![(LogTarget::File(path.clone()), open())]);
    let mut client = lab.client();
    let request = "GET /p?q HTTP/1.1\r\nHost: h\r\nX-A: \"v\"\r\n\r\n";
    client.send(request);
    let reply = client.receive();
    client.send("GET /.. HTTP/1.1\r\nHost: h\r\n\r\n");
    let page = client.receive();
    lab.raw("GET / HTTP/1.1\r\n\r\n");
    eventually("three lines", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 3)
    });
    let text = std::fs::read_to_string(&path).expect("log");
    let lines: Vec<_> = text.lines().collect();
    let sent = reply.head.len() + 4 + 1;
    let url = format!("http://{}", a.address);
    assert_eq!(
        lines[0],
        format!(
            "127.0.0.1 \"GET /p?q HTTP/1.1\" 200 1 1 0 + {} {sent} \\\"v\\\" - n0 proxy:{url}/p",
            request.len()
        )
    );
    let body = page.body.len();
    assert!(lines[1].starts_with(&format!(
        "127.0.0.1 \"GET /.. HTTP/1.1\" 400 {body} {body} 1 - "
    )));
    assert!(lines[2].starts_with("127.0.0.1 \"-\" 400 "));
}

#[test]
fn access_log_has_the_requests_of_its_condition() {
    let a = Member::named("a");
    let directory = tempfile::tempdir().expect("directory");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/app", 0, "/");
    let variable = |present| LogCondition::Variable {
        name: "SLUICE_REASON".to_owned(),
        present,
    };
    let holds = |text: &str| {
        let condition = Expr::condition(text, Dialect::Request);
        LogCondition::Expr(condition.expect("a condition"))
    };
    let conditions = [
        None,
        Some(variable(true)),
        Some(variable(false)),
        Some(holds("%{REQUEST_STATUS} -ge 400")),
        Some(holds("req('X-A') == 'b' && resp('Content-Length') -eq 1")),
        Some(holds(
            "reqenv('BALANCER_WORKER_ROUTE') == 'n0' && %{HTTPS} == 'off'",
        )),
    ];
    let mut logs = Vec::new();
    let paths = conditions.map(|condition| {
        let path = directory.path().join(logs.len().to_string());
        let mut log = access_log(&path, "%s %R %{end:msec_frac}t%{tid}P");
        log.condition = condition;
        lab.spec.hosts[0].access_logs.push(log);
        let file = std::fs::File::create(&path).expect("log");
        logs.push((LogTarget::File(path.clone()), file));
        path
    });
    lab.apply_logging(logs);
    assert_eq!(lab.get("/app", "X-A: b\r\n").status, 200);
    assert_eq!(lab.get("/elsewhere", "").status, 404);
    let lines = |path: &std::path::Path| -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| {
                let (words, number) = line.rsplit_once(' ').expect("three words");
                assert!(number.len() > 3 && number.bytes().all(|b| b.is_ascii_digit()));
                words.to_owned()
            })
            .collect()
    };
    let (fine, failed) = ("200 proxy-server", "404 -");
    let expected: [&[&str]; 6] = [
        &[fine, failed],
        &[failed],
        &[fine],
        &[failed],
        &[fine],
        &[fine],
    ];
    eventually("both lines", || lines(&paths[0]).len() == 2);
    for (path, expected) in paths.iter().zip(expected) {
        eventually("its lines", || lines(path) == expected);
    }
}

#[test]
fn a_name_that_is_no_hosts_is_refused_where_the_first_host_says_so() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/", 0, "/");
    let route = lab.spec.hosts[0].routes[0].clone();
    for name in ["one.test", "two.test"] {
        let mut host = named_host(name);
        host.routes.push(route.clone());
        lab.spec.hosts.push(host);
    }
    lab.spec.hosts[1].aliases.push("*.one.test".to_owned());
    lab.spec.hosts[2].addresses[0].ip = None;
    let set = |lab: &mut Lab, host: usize| {
        for (index, spec) in lab.spec.hosts.iter_mut().enumerate() {
            spec.naming.strict_host = index == host;
        }
        lab.apply();
    };
    let status = |lab: &Lab, name: &str| {
        let mut client = lab.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        client.receive().status
    };
    // As observed of httpd.
    set(&mut lab, 1);
    for (name, expected) in [
        ("one.test", 200),
        ("a.one.test:81", 200),
        ("two.test", 200),
        ("main.test", 400),
        ("other.test", 400),
        ("127.0.0.1", 400),
    ] {
        assert_eq!(status(&lab, name), expected, "{name}");
    }
    let nameless = lab.raw("GET / HTTP/1.0\r\n\r\n");
    assert!(nameless.contains(" 200 OK\r\n"), "{nameless}");
    set(&mut lab, 2);
    assert_eq!(status(&lab, "other.test"), 200, "the second does not count");
    lab.spec.hosts[1].addresses[0].ip = Some(lab.address.ip());
    lab.spec.hosts[2].addresses[0].ip = Some(lab.address.ip());
    set(&mut lab, 1);
    assert_eq!(status(&lab, "127.0.0.1"), 200, "their address");
    assert_eq!(status(&lab, "127.0.0.2"), 400);
    // Without virtual hosts the main server's name alone is one.
    lab.spec.hosts.truncate(1);
    set(&mut lab, 0);
    assert_eq!(
        (status(&lab, "main.test"), status(&lab, "one.test")),
        (200, 400)
    );
}
