//! Balancers, members and ProxyPass, and the Spec they make.

use super::*;
use crate::config::spec::{ReverseTarget, Upgrade, policy::Handler};

#[test]
fn a_balancer_with_all_its_keys() {
    let spec = spec(&format!(
        "{L}<Proxy balancer://App>\n\
         BalancerMember http://A.test:80/x/ loadfactor=1.5 lbset=2 route=r1 redirect=r2 status=+H-D retry=5 \\\n\
         timeout=7 connectiontimeout=300ms ttl=9 max=20 acquire=250 keepalive=On disablereuse=on responsefieldsize=100\n\
         BalancerMember http://[2001:DB8::1]:8080\n\
         ProxySet stickysession=C|p stickysessionsep=! scolonpathdelim=on nofailover=On timeout=3 maxattempts=2\n\
         ProxySet failonstatus=503,500,503 failontimeout=On forcerecovery=Off lbmethod=byrequests\n\
         </Proxy>\nProxyPass / balancer://app/\n"
    ));
    let app = balancer(&spec, "app");
    assert!(!app.direct && app.nofailover && app.failontimeout && !app.forcerecovery);
    assert_eq!(app.timeout, Duration::from_secs(3));
    assert_eq!(
        (app.maxattempts, app.failonstatus.as_slice()),
        (Some(2), &[500, 503][..])
    );
    let sticky = app.sticky.as_ref().expect("sticky");
    assert_eq!((sticky.cookie.as_str(), sticky.path.as_str()), ("C", "p"));
    assert_eq!(
        (sticky.separator, sticky.scolonpathdelim),
        (Some('!'), true)
    );
    let [a, b] = app.members.as_slice() else {
        panic!("two members: {:?}", app.members)
    };
    assert_eq!(
        (a.url.as_str(), a.host.as_str(), a.port, a.path.as_str()),
        ("http://a.test/x/", "a.test", 80, "/x/")
    );
    assert_eq!(
        (a.lbfactor, a.lbset, a.route.as_str(), a.redirect.as_str()),
        (150, 2, "r1", "r2")
    );
    assert_eq!(a.status, lb_common::member::MemberState::STANDBY);
    assert_eq!(
        (a.retry, a.timeout),
        (Duration::from_secs(5), Some(Duration::from_secs(7)))
    );
    assert_eq!(a.connection_timeout, Some(Duration::from_millis(300)));
    assert_eq!((a.ttl, a.max), (Some(Duration::from_secs(9)), Some(20)));
    assert_eq!(a.acquire, Some(Duration::from_millis(250)));
    assert!(a.keepalive && a.disablereuse);
    assert_eq!((a.response_field_size, a.at.line), (100, 4));
    assert_eq!(
        (b.url.as_str(), b.host.as_str(), b.port),
        ("http://[2001:db8::1]:8080", "2001:db8::1", 8080)
    );
    assert_eq!(
        (b.lbfactor, b.retry, b.status),
        (100, Duration::from_mins(1), 0)
    );
}

#[test]
fn separator_and_cookie_may_come_in_any_order() {
    let spec = spec(&format!(
        "{L}<Proxy balancer://a>\nProxySet stickysessionsep=off\nProxySet stickysession=S\nBalancerMember http://h\n</Proxy>"
    ));
    let sticky = balancer(&spec, "a").sticky.as_ref().expect("sticky");
    assert_eq!((sticky.path.as_str(), sticky.separator), ("S", None));
}

#[test]
fn routes_keep_their_order_the_main_servers_first_and_locations_before_all() {
    let spec = spec(&format!(
        "{L}ProxyPass /m http://m\n<Location /lm>\nProxyPass http://lm\n</Location>\n\
         <VirtualHost *:80>\nProxyPass /x/ !\nProxyPass /v/ http://v/s/ nocanon\n\
         <Location /l1>\nProxyPass http://l1\n</Location>\n<Location /l2>\nProxyPass !\n</Location>\n</VirtualHost>\n"
    ));
    assert_eq!(
        routes(&spec, 1),
        [
            "/l2 !",
            "/l1 http://l1 ",
            "/lm http://lm ",
            "/m http://m ",
            "/x/ !",
            "/v/ http://v/s/ /s/"
        ]
    );
    assert!(spec.hosts[1].routes[5].nocanon && !spec.hosts[1].routes[3].nocanon);
    assert_eq!(routes(&spec, 0), ["/lm http://lm ", "/m http://m "]);
}

#[test]
fn workers_are_shared_by_url_prefix_within_a_host() {
    let text = format!(
        "{L}ProxyPass /a http://h/a retry=5\nProxyPass /ab http://h/ab retry=6\nProxyPass /c http://h:81/a\n"
    );
    let loaded = read(text);
    assert_eq!(
        said(&loaded, Severity::Warning)[0],
        (
            3,
            "Ignoring parameter 'retry=6' for worker 'http://h/a' because of worker sharing"
        )
    );
    let spec = loaded.spec.expect("accepted");
    assert_eq!(
        routes(&spec, 0),
        [
            "/a http://h/a /a",
            "/ab http://h/a /ab",
            "/c http://h:81/a /a"
        ]
    );
    let worker = balancer(&spec, "http://h/a");
    assert!(worker.direct);
    assert_eq!(
        (worker.members[0].path.as_str(), worker.members[0].retry),
        ("", Duration::from_secs(5))
    );
}

#[test]
fn equal_workers_of_two_hosts_are_one_and_others_are_told_apart() {
    let host = |name: &str, retry: u32| {
        format!(
            "<VirtualHost *:80>\nServerName {name}\nProxyPass /a http://h/ retry={retry}\n</VirtualHost>\n"
        )
    };
    let spec = spec(&format!(
        "{L}{}{}{}",
        host("a", 1),
        host("b", 1),
        host("c", 2)
    ));
    let names: Vec<&str> = spec.balancers.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["http://h/", "http://h/@c:80"]);
    assert_eq!(spec.balancers[1].members[0].retry, Duration::from_secs(2));
}

#[test]
fn balancers_of_the_main_server_are_shared_and_those_of_hosts_are_their_own() {
    let host = |name: &str| {
        format!(
            "<VirtualHost *:80>\nServerName {name}\n<Proxy balancer://own>\nBalancerMember http://{name}\n</Proxy>\n\
                 ProxyPass /o balancer://own\nProxyPass / balancer://shared/\n</VirtualHost>\n"
        )
    };
    let spec = spec(&format!(
        "{L}{}{}<Proxy balancer://shared>\nBalancerMember http://s\n</Proxy>\n",
        host("a"),
        host("b")
    ));
    assert_eq!(routes(&spec, 1), ["/o own@a:80 ", "/ shared /"]);
    assert_eq!(routes(&spec, 2), ["/o own@b:80 ", "/ shared /"]);
    assert_eq!(spec.balancers.len(), 3);
}

#[test]
fn a_hosts_parameters_apply_to_the_main_servers_balancer() {
    let text = |second: &str| {
        format!(
            "{L}<Proxy balancer://b>\nBalancerMember http://s\nProxySet stickysession=S\n</Proxy>\n\
                 <VirtualHost *:80>\nServerName a\nProxyPass / balancer://b/ failontimeout=On\n</VirtualHost>\n\
                 <VirtualHost *:80>\nServerName b\nProxyPass / balancer://b/ {second}\n</VirtualHost>\n"
        )
    };
    let both = spec(&text("failontimeout=On"));
    let shared = balancer(&both, "b");
    assert!(shared.failontimeout && shared.sticky.is_some());
    let conflict = read(text("nofailover=On"));
    let errors = said(&conflict, Severity::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].0, 12);
    assert!(
        errors[0]
            .1
            .contains("other parameters in one virtual host than in another")
    );
}

#[test]
fn an_undefined_balancer_is_empty_with_a_warning() {
    let loaded = read(format!("{L}ProxyPass / balancer://nobody/\n"));
    assert_eq!(
        said(&loaded, Severity::Warning),
        [(
            2,
            "balancer://nobody is not defined: it has no members, and requests for it are answered with 503"
        )]
    );
    assert!(
        balancer(&loaded.spec.expect("accepted"), "nobody")
            .members
            .is_empty()
    );
}

#[test]
fn a_member_named_twice_is_one() {
    let loaded = read(format!(
        "{L}<Proxy balancer://b>\nBalancerMember http://h:80 retry=5\nBalancerMember HTTP://H retry=6\n</Proxy>"
    ));
    let warnings = said(&loaded, Severity::Warning);
    assert_eq!(
        warnings[0],
        (
            4,
            "Ignoring parameter 'retry=6' for worker 'http://h' because of worker sharing"
        )
    );
    let spec = loaded.spec.expect("accepted");
    assert_eq!(balancer(&spec, "b").members.len(), 1);
}

#[test]
fn members_and_sets_may_stand_outside_sections() {
    let spec = spec(&format!(
        "{L}BalancerMember balancer://b http://h1 route=1\nBalancerMember balancer://b http://h2\nProxySet balancer://b nofailover=On\n\
         ProxyPass /d http://d/\nProxySet http://d/x retry=1\n<Proxy http://e/>\nProxySet timeout=3\n</Proxy>\nProxyPass /e http://e/\n"
    ));
    assert_eq!(balancer(&spec, "b").members.len(), 2);
    assert!(balancer(&spec, "b").nofailover);
    assert_eq!(
        balancer(&spec, "http://d/").members[0].retry,
        Duration::from_secs(1)
    );
    assert_eq!(
        balancer(&spec, "http://e/").members[0].timeout,
        Some(Duration::from_secs(3))
    );
}

#[test]
fn reverses_name_urls_balancers_and_locations() {
    let spec = spec(&format!(
        "{L}<Proxy balancer://b>\nBalancerMember http://h\n</Proxy>\nProxyPassReverse /a/ balancer://B/s/\n\
         ProxyPassReverse /u http://U/\n<Location /l>\nProxyPassReverse /inner/\n</Location>\n"
    ));
    let [a, b, c] = spec.hosts[0].reverses.as_slice() else {
        panic!("three")
    };
    assert_eq!(
        a.target,
        ReverseTarget::Balancer {
            balancer: 0,
            path: "/s/".to_owned()
        }
    );
    assert_eq!(
        (b.path.as_str(), &b.target),
        ("/u", &ReverseTarget::Url("http://U/".to_owned()))
    );
    assert_eq!((c.path.as_str(), c.location.as_deref()), ("/l", Some("/l")));
}

#[test]
fn a_status_page_that_is_not_there_keeps_its_path_from_the_members() {
    let loaded = read(format!(
        "{L}<Location /server-status>\nSetHandler server-status\nRequire local\n</Location>\nProxyPass / http://h/\n"
    ));
    assert_eq!(said(&loaded, Severity::Warning).len(), 1);
    let spec = loaded.spec.expect("accepted");
    let section = spec.hosts[0].locations[0].policy;
    let handler = spec.policies[section].handler;
    assert_eq!(handler, Some(Handler::Absent));
}

#[test]
fn websocket_members_are_http_members_that_may_switch() {
    let spec = spec(&format!(
        "{L}SSLProxyEngine on\n<Proxy balancer://b>\n\
         BalancerMember ws://h/chat\nBalancerMember wss://h\nBalancerMember http://h upgrade=Foo,bar\n\
         BalancerMember http://i upgrade=any\nBalancerMember ws://i upgrade=NONE\nBalancerMember http://j\n\
         </Proxy>\nProxyPass / balancer://b/\n"
    ));
    let to = |names: &[&str]| Upgrade::To(names.iter().map(|name| (*name).to_owned()).collect());
    let members = &balancer(&spec, "b").members;
    let seen: Vec<_> = members
        .iter()
        .map(|m| (m.url.as_str(), m.port, m.tls.is_some(), m.upgrade.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            ("ws://h/chat", 80, false, to(&["websocket"])),
            ("wss://h", 443, true, to(&["websocket"])),
            ("http://h", 80, false, to(&["foo", "bar"])),
            ("http://i", 80, false, Upgrade::Any),
            ("ws://i", 80, false, Upgrade::Never),
            ("http://j", 80, false, Upgrade::Never),
        ]
    );
}

#[test]
fn a_unix_socket_is_part_of_a_members_identity() {
    let spec = spec(&format!(
        "{L}<Proxy balancer://b>\nBalancerMember unix:/run/A.sock|http://Name/x\n\
         BalancerMember unix:/run/b.sock|http://name/x\n</Proxy>\nProxyPass /b balancer://b/\n\
         ProxyPass /a/ unix:/run/A.sock|http://Name:81/\n"
    ));
    let members = &balancer(&spec, "b").members;
    assert_eq!(members[0].url, "unix:/run/A.sock|http://name/x");
    assert_eq!(members[1].url, "unix:/run/b.sock|http://name/x");
    let direct = &balancer(&spec, "unix:/run/A.sock|http://name:81/").members[0];
    assert_eq!(direct.socket.as_deref(), Some("/run/A.sock".as_ref()));
    assert_eq!((direct.host.as_str(), direct.port), ("name", 81));
}

#[test]
fn a_written_cookie_gives_every_member_a_route_of_its_own() {
    let spec = spec(&format!(
        "{L}<Proxy balancer://b>\nBalancerMember http://10.0.0.1:8080\nBalancerMember http://10.0.0.2:8080 route=two\n\
         BalancerMember http://10.0.0.3:8080\nProxySet stickysession=SID stickycookie=On\n</Proxy>\nProxyPass / balancer://b/\n\
         <Proxy balancer://c>\nBalancerMember http://10.0.0.1:8080\nProxySet stickysession=SID\n</Proxy>\nProxyPass /c balancer://c/\n"
    ));
    let app = balancer(&spec, "b");
    assert!(
        app.sticky
            .as_ref()
            .is_some_and(|sticky| sticky.cookie_written)
    );
    let routes: Vec<_> = app.members.iter().map(|m| m.route.as_str()).collect();
    // The same on every host and in every version: sessions outlive an upgrade.
    assert_eq!(routes, ["7a18f5490b5d614f", "two", "e5ae72edf2ceeae5"]);
    assert_eq!(
        balancer(&spec, "c").members[0].route,
        "",
        "without it there is none"
    );
}
