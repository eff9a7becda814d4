//! What is accepted, and the Spec it makes.

use super::*;
use crate::config::spec::{HostAddress, LogTarget, Per};

/// Listen for tests that are about something else.
const L: &str = "Listen 80\n";

fn balancer<'a>(spec: &'a Spec, name: &str) -> &'a Balancer {
    let found = spec.balancers.iter().find(|balancer| balancer.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", spec.balancers))
}

/// Routes of a host as `path -> balancer+path`.
fn routes(spec: &Spec, host: usize) -> Vec<String> {
    spec.hosts[host]
        .routes
        .iter()
        .map(|route| match &route.target {
            Target::Local => format!("{} !", route.path),
            Target::Balancer { balancer, path } => {
                format!("{} {} {path}", route.path, spec.balancers[*balancer].name)
            }
        })
        .collect()
}

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
fn settings_are_inherited_and_overridden() {
    let spec = spec(&format!(
        "{L}Timeout 10\nKeepAlive Off\nKeepAliveTimeout 300ms\nProxyPreserveHost On\nServerName main.test:8080\n\
         <VirtualHost *:80>\nTimeout 20\nProxyTimeout 5\nMaxKeepAliveRequests 0\nProxyAddHeaders Off\n</VirtualHost>\n\
         <VirtualHost *:80>\nServerName Two.Test.\nServerAlias A.test *.B.test\nRequestReadTimeout header=10-30,MinRate=1\n</VirtualHost>\n"
    ));
    let [main, one, two] = spec.hosts.as_slice() else {
        panic!("three hosts")
    };
    assert_eq!(
        (main.timeout, one.timeout, two.timeout),
        (
            Duration::from_secs(10),
            Duration::from_secs(20),
            Duration::from_secs(10)
        )
    );
    assert_eq!(
        (main.proxy_timeout, one.proxy_timeout),
        (None, Some(Duration::from_secs(5)))
    );
    assert!(!one.keep_alive && one.preserve_host && !one.add_headers && two.add_headers);
    assert_eq!(two.keep_alive_timeout, Duration::from_millis(300));
    assert_eq!(
        (one.max_keep_alive_requests, two.max_keep_alive_requests),
        (0, 100)
    );
    assert_eq!(
        (main.header_timeout, two.header_timeout),
        (Duration::from_secs(20), Duration::from_secs(30))
    );
    assert_eq!(
        (main.server_name.as_deref(), main.server_port),
        (Some("main.test"), Some(8080))
    );
    assert_eq!(
        (one.server_name.as_deref(), one.server_port),
        (Some("main.test"), Some(8080))
    );
    assert_eq!(
        (two.server_name.as_deref(), two.server_port),
        (Some("two.test"), None)
    );
    assert_eq!(two.aliases, ["a.test", "*.b.test"]);
}

#[test]
fn defaults_are_httpds() {
    let spec = spec(L);
    let host = &spec.hosts[0];
    assert_eq!(
        (host.timeout, host.keep_alive, host.keep_alive_timeout),
        (Duration::from_mins(1), true, Duration::from_secs(5))
    );
    assert_eq!(
        (
            spec.limit_request_line,
            spec.limit_request_fields,
            spec.limit_request_field_size
        ),
        (8190, 100, 8190)
    );
    assert_eq!(
        (spec.listen_backlog, spec.graceful_shutdown_timeout),
        (511, Duration::ZERO)
    );
    assert_eq!(spec.sluice.instance, "default");
    assert_eq!(
        (spec.error_log, spec.server_root),
        (LogTarget::Stderr, "/etc".into())
    );
}

#[test]
fn listeners_are_as_written() {
    let spec = spec(
        "Listen 80\nListen 127.0.0.1:81\nListen [::1]:82\nListen *:83\nListen [::]:84\nListen 0.0.0.0:84 http\n",
    );
    let shown: Vec<String> = spec
        .listeners
        .iter()
        .map(|l| format!("{}{}", l.address, if l.dual { " dual" } else { "" }))
        .collect();
    assert_eq!(
        shown,
        [
            "[::]:80 dual",
            "127.0.0.1:81",
            "[::1]:82",
            "[::]:83 dual",
            "[::]:84",
            "0.0.0.0:84"
        ]
    );
}

#[test]
fn without_listen_the_virtual_hosts_addresses_are_taken() {
    let loaded = read(
        "<VirtualHost *:8080 10.0.0.1:81 10.0.0.1:8080>\n</VirtualHost>\n<VirtualHost [::1]:82 *>\n</VirtualHost>\n",
    );
    let notices = said(&loaded, Severity::Notice);
    assert_eq!(
        notices,
        [(
            0,
            "no Listen: listening on 8080, 10.0.0.1:81, [::1]:82, after the virtual hosts"
        )]
    );
    let spec = loaded.spec.expect("accepted");
    let shown: Vec<String> = spec
        .listeners
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(shown, ["[::]:8080", "10.0.0.1:81", "[::1]:82"]);
}

#[test]
fn addresses_of_virtual_hosts() {
    let spec = spec(
        "ServerName m:81\nListen 80\nListen 81\n<VirtualHost * _default_:80 [::1]:* 10.0.0.1>\n</VirtualHost>\n",
    );
    let address = |ip: Option<&str>, port| HostAddress {
        ip: ip.map(|ip| ip.parse().expect("an address")),
        port,
    };
    assert_eq!(
        spec.hosts[1].addresses,
        [
            address(None, Some(81)),
            address(None, Some(80)),
            address(Some("::1"), None),
            address(Some("10.0.0.1"), Some(81))
        ]
    );
}

#[test]
fn doubtful_things_are_warned_of() {
    for (text, line, needle) in [
        (
            "Listen 80\n<VirtualHost *:81>\n</VirtualHost>",
            2,
            "nothing listens on *:81",
        ),
        (
            "Listen 127.0.0.1:80\n<VirtualHost 10.0.0.1:80>\n</VirtualHost>",
            2,
            "nothing listens on 10.0.0.1:80",
        ),
        (
            "Listen 80\nProxyPass / http://a/\nProxyPass /b http://b",
            3,
            "ProxyPass /b is never reached",
        ),
        (
            "Listen 80\nProxyPass /a http://a\nProxyPass /a/b http://b",
            3,
            "ProxyPass /a/b is never reached",
        ),
        (
            "Listen 80\nProxyPass /a http://a\n<VirtualHost *:80>\nProxyPass /a http://b\n</VirtualHost>",
            4,
            "comes first",
        ),
        (
            "Listen 80\nProxyPass /app/ http://a/x",
            2,
            "/app/x becomes /xx",
        ),
        (
            "Listen 80\nProxyPass /app http://a/x/",
            2,
            "/app/x becomes /x//x",
        ),
        (
            "Listen 80\nProxyPass / http://a",
            2,
            "would become part of the host's name",
        ),
        (
            "Listen 80\nTimeout 5min",
            2,
            "'min' is ignored, as in httpd: this is 5",
        ),
        (
            "Listen 80\nServerAdmin ${NOBODY}",
            2,
            "Config variable ${NOBODY} is not defined",
        ),
        ("Listen 80\nGuardLimit syn 5/s", 0, "guard nothing"),
        (
            "Listen 80\nCustomLog l combined",
            2,
            "no nickname of a LogFormat",
        ),
        (
            "Listen 80\nProxyPassReverse / balancer://no/",
            2,
            "there is no balancer://no",
        ),
        (
            "Listen 80\n<VirtualHost *:80> x\n</VirtualHost>",
            2,
            "what follows the `>` is ignored",
        ),
    ] {
        let loaded = read(text);
        let warnings = said(&loaded, Severity::Warning);
        let hit = warnings
            .iter()
            .any(|(at, message)| *at == line && message.contains(needle));
        assert!(hit, "{text}\n{warnings:?}");
        assert!(loaded.spec.is_some(), "a warning refuses nothing: {text}");
    }
}

#[test]
fn sound_things_are_not_warned_of() {
    for text in [
        "ProxyPass /a http://a\nProxyPass /ab http://b",
        "ProxyPass /a/b http://a\nProxyPass /a http://b",
        "ProxyPass /x !\nProxyPass / http://b/",
        "ProxyPass /a/ http://a/\nProxyPass /a http://b",
        "<Proxy balancer://b>\nBalancerMember http://h\n</Proxy>\nProxyPass /app balancer://b\nProxyPass / balancer://b/",
        "<Proxy balancer://b>\nBalancerMember http://h\n</Proxy>\nProxyPass /app balancer://b/\nProxyPass / balancer://b",
        "<Proxy *>\nOrder allow,deny\nAllow from all\nRequire all granted\n</Proxy>",
        "SSLEngine off\nProxyVia off\nProxyRequests Off\nUseCanonicalName off\nRewriteEngine OFF",
    ] {
        let loaded = read(format!("{L}{text}\n"));
        assert!(loaded.reports.is_empty(), "{}", rendered(&loaded));
    }
}

#[test]
fn conditions_decide_what_is_read() {
    for (condition, holds) in [
        ("IfModule sluice_module", true),
        ("IfModule mod_proxy.c", true),
        ("IfModule !proxy_module", false),
        ("IfModule ssl_module", true),
        ("IfModule mod_gnutls.c", false),
        ("IfModule !mod_gnutls.c", true),
        ("IfDefine X", true),
        ("IfDefine !X", false),
        ("IfDefine Y", false),
        ("IfVersion >= 2.4", true),
        ("IfVersion < 2.4.60", false),
        ("IfVersion !< 2.4.60", true),
        ("IfVersion 2.4.71", true),
        ("IfFile sluice.conf", true),
        ("IfFile /nothing", false),
        ("IfDirective ProxyPass", true),
        ("IfDirective SSLEngine", true),
        ("IfDirective Frobnicate", false),
        ("IfSection VirtualHost", true),
        ("ifmodule SLUICE_MODULE", true),
    ] {
        let name = condition.split(' ').next().unwrap_or_default();
        let text = format!(
            "{L}Define X\n<{condition}>\n<{name} nested>\n</{name}>\nKeepAlive Off\n</{name}>\nProxyTimeout 7\n"
        );
        let loaded = read(text);
        if name == "IfVersion" && loaded.spec.is_none() {
            // `nested` is no version: what is read complains, what is skipped does not.
            assert!(holds, "{condition}");
            continue;
        }
        let spec = loaded
            .spec
            .as_ref()
            .unwrap_or_else(|| panic!("{condition}: {}", rendered(&loaded)));
        assert_eq!(!spec.hosts[0].keep_alive, holds, "{condition}");
        assert_eq!(
            spec.hosts[0].proxy_timeout,
            Some(Duration::from_secs(7)),
            "{condition}"
        );
    }
}

#[test]
fn loadmodule_lines_decide_about_modules_that_sluice_has_not() {
    let text =
        |load: &str| format!("{L}{load}\n<IfModule ssl_module>\nKeepAlive Off\n</IfModule>\n");
    assert!(
        !spec(&text("")).hosts[0].keep_alive,
        "no LoadModule at all: read"
    );
    assert!(
        spec(&text("LoadModule env_module mod_env.so")).hosts[0].keep_alive,
        "not loaded: skipped"
    );
    assert!(
        !spec(&text("LoadModule ssl_module mod_ssl.so")).hosts[0].keep_alive,
        "loaded: read"
    );
}

#[test]
fn variables_come_from_define_then_the_environment_then_envvars() {
    let source = Memory::new(
        "/etc/sluice.conf",
        "Listen ${PORT}\nDefine PORT 81\nErrorLog ${LOG_DIR}/e\nUser ${RUN_USER}\nListen ${PORT}\n",
    )
    .with(
        "/etc/envvars",
        "export PORT=80\nexport RUN_USER=www-data\nexport LOG_DIR=/elsewhere\n",
    );
    let spec = read_from(&source).spec.expect("accepted");
    assert_eq!(
        spec.listeners
            .iter()
            .map(|l| l.address.port())
            .collect::<Vec<_>>(),
        [80, 81]
    );
    assert_eq!(spec.error_log, LogTarget::File("/var/log/sluice/e".into()));
    assert_eq!(spec.user.as_deref(), Some("www-data"));
}

#[test]
fn logs_are_the_hosts_own_or_the_main_servers() {
    let spec = spec(&format!(
        "{L}LogFormat \"%h main\" n\nCustomLog logs/main n\n\
         <VirtualHost *:80>\nLogFormat \"%h own\" n\nCustomLog /abs n\nErrorLog e\n</VirtualHost>\n\
         <VirtualHost *:80>\nTransferLog logs/t\n</VirtualHost>\n<VirtualHost *:80>\n</VirtualHost>\n"
    ));
    let shown = |host: usize| {
        let logs = spec.hosts[host].access_logs.iter();
        logs.map(|l| (l.target.clone(), l.format.as_str()))
            .collect::<Vec<_>>()
    };
    let file = |path: &str| LogTarget::File(path.into());
    assert_eq!(shown(0), [(file("/etc/logs/main"), "%h main")]);
    assert_eq!(shown(1), [(file("/abs"), "%h own")]);
    assert_eq!(
        shown(2),
        [(file("/etc/logs/t"), "%h %l %u %t \"%r\" %>s %b")]
    );
    assert_eq!(shown(3), shown(0));
    assert_eq!(spec.hosts[1].error_log, Some(file("/etc/e")));
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
fn our_own_directives() {
    let source = Memory::new(
        "/etc/sluice.conf",
        "Listen 80\n<IfModule sluice_module>\nXDPInterface eth0\nXDPInterface eth1 mode=generic\n\
         GuardLimit syn 100/s burst=200 per=/24,/56 action=report\nGuardDeny 192.0.2.0/24 2001:db8::1\n\
         GuardAllow 10.0.0.0/8\nGuardDenyFile deny\nSluiceShards 4\nSluiceInstance web-1\n\
         SluiceControl /run/s.sock group=ops\n</IfModule>\n\
         <VirtualHost 10.0.0.1:80>\nGuardLimit packets 9/s per=service\n</VirtualHost>\n",
    )
    .with("/etc/deny", "198.51.100.0/24 # bots\n");
    let spec = read_from(&source).spec.expect("accepted");
    let sluice = &spec.sluice;
    assert_eq!(
        sluice
            .interfaces
            .iter()
            .map(|i| i.name.as_str())
            .collect::<Vec<_>>(),
        ["eth0", "eth1"]
    );
    assert_eq!(sluice.interfaces[1].mode, spec::XdpMode::Generic);
    let [syn, packets] = sluice.limits.as_slice() else {
        panic!("two limits")
    };
    assert_eq!(
        (syn.rate, syn.burst, syn.per, syn.at.line),
        (100, 200, Per::Source { v4: 24, v6: 56 }, 5)
    );
    assert_eq!(syn.addresses, None);
    assert_eq!(
        packets.addresses.as_deref(),
        Some(spec.hosts[1].addresses.as_slice())
    );
    let deny: Vec<String> = sluice.deny.iter().map(ToString::to_string).collect();
    assert_eq!(deny, ["192.0.2.0/24", "2001:db8::1/128", "198.51.100.0/24"]);
    assert_eq!(sluice.allow.len(), 1);
    assert_eq!(
        (sluice.shards, sluice.instance.as_str()),
        (Some(4), "web-1")
    );
    assert_eq!(
        (sluice.control.as_deref(), sluice.control_group.as_deref()),
        (Some(Path::new("/run/s.sock")), Some("ops"))
    );
    assert_eq!(
        sluice.needs_dataplane.as_ref().map(|place| place.line),
        Some(3)
    );
}

#[test]
fn what_tunes_httpd_is_accepted_with_one_notice_a_family() {
    let loaded = read(format!(
        "{L}LoadModule a_module a.so\nLoadModule b_module b.so\nStartServers 2\nMaxRequestWorkers 9\nPidFile p\nMutex default\n\
         ServerTokens Prod\nServerSignature Off\n<Directory />\nAllowOverride None\nWhatever\n</Directory>\n\
         DocumentRoot /w\nAlias /i /j\nExtendedStatus On\n"
    ));
    assert!(loaded.spec.is_some());
    assert_eq!(
        said(&loaded, Severity::Notice)
            .into_iter()
            .map(|(line, _)| line)
            .collect::<Vec<_>>(),
        [2, 4, 6, 8, 10, 14, 16],
        "{}",
        rendered(&loaded)
    );
}

#[test]
fn a_debian_tree_is_read_with_its_envvars() {
    let source = Memory::new(
        "/etc/sluice.conf",
        "DefaultRuntimeDir ${APACHE_RUN_DIR}\nPidFile ${APACHE_PID_FILE}\nTimeout 300\nUser ${APACHE_RUN_USER}\n\
         HostnameLookups Off\nErrorLog ${APACHE_LOG_DIR}/error.log\nIncludeOptional mods-enabled/*.load\n\
         IncludeOptional mods-enabled/*.conf\nInclude ports.conf\n<Directory />\n\tRequire all denied\n</Directory>\n\
         AccessFileName .htaccess\n<FilesMatch \"^\\.ht\">\n\tRequire all denied\n</FilesMatch>\n\
         LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O\" common\nIncludeOptional sites-enabled/*.conf\n",
    )
    .with("/etc/envvars", "export APACHE_RUN_USER=www-data\nexport APACHE_RUN_DIR=/r$SUFFIX\n\
         export APACHE_PID_FILE=/r$SUFFIX/pid\nexport APACHE_LOG_DIR=/var/log/apache2$SUFFIX\n")
    .with("/etc/ports.conf", "Listen 80\n<IfModule ssl_module>\n\tListen 443\n</IfModule>\n")
    .with("/etc/mods-enabled/status.load", "LoadModule status_module /m/mod_status.so\n")
    .with("/etc/mods-enabled/proxy.load", "LoadModule proxy_module /m/mod_proxy.so\n")
    .with("/etc/mods-enabled/status.conf", "<IfModule mod_status.c>\n<Location /server-status>\n\
         SetHandler server-status\nRequire local\n</Location>\nExtendedStatus On\n</IfModule>\n")
    .with("/etc/mods-enabled/mpm_event.conf", "StartServers 2\nMaxRequestWorkers 150\n")
    .with("/etc/sites-enabled/000-default.conf", "<VirtualHost *:80>\nDocumentRoot /var/www/html\n\
         CustomLog ${APACHE_LOG_DIR}/access.log common\nProxyPass / http://127.0.0.1:8080/\n</VirtualHost>\n");
    let loaded = read_from(&source);
    let said = rendered(&loaded);
    let spec = loaded.spec.unwrap_or_else(|| panic!("{said}"));
    assert_eq!(spec.user.as_deref(), Some("www-data"));
    assert_eq!(
        spec.error_log,
        LogTarget::File("/var/log/apache2/error.log".into())
    );
    assert_eq!(spec.listeners.len(), 1, "no mod_ssl, no 443");
    assert_eq!(
        routes(&spec, 1),
        ["/server-status !", "/ http://127.0.0.1:8080/ /"]
    );
}

#[test]
fn a_status_page_that_is_not_there_keeps_its_path_from_the_members() {
    let loaded = read(format!(
        "{L}<Location /server-status>\nSetHandler server-status\nRequire local\n</Location>\nProxyPass / http://h/\n"
    ));
    assert_eq!(said(&loaded, Severity::Warning).len(), 1);
    let spec = loaded.spec.expect("accepted");
    assert_eq!(routes(&spec, 0), ["/server-status !", "/ http://h/ /"]);
}
