//! What is accepted, and the Spec it makes.

use super::*;
use crate::config::spec::{
    ErrorLogFormat, HostAddress, LogLevel, LogProgram, LogTarget, Per, ReadTimeout, RequestLimits,
};

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
        (main.header_timeout.longest(), two.header_timeout),
        (
            Duration::from_secs(40),
            ReadTimeout {
                initial: Duration::from_secs(10),
                max: Some(Duration::from_secs(30)),
                min_rate: 1
            }
        )
    );
    assert_eq!(
        (main.server_name.as_deref(), main.server_port),
        (Some("main.test"), Some(8080))
    );
    assert_eq!(
        (one.server_name.as_deref(), one.server_port),
        (Some("main.test"), Some(80)),
        "a name is inherited too, and matched; its port is the address's (measured on httpd)"
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
        host.request_limits,
        RequestLimits {
            line: 8190,
            fields: 100,
            field_size: 8190
        }
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
fn accept_filter_is_each_protocols_and_data_without_it() {
    let deferred = |lines: &str| -> Vec<bool> {
        let spec = spec(&format!("Listen 80\nListen 81 https\n{lines}"));
        spec.listeners.iter().map(|one| one.deferred).collect()
    };
    assert_eq!(deferred(""), [true, true]);
    assert_eq!(deferred("AcceptFilter http none\n"), [false, true]);
    assert_eq!(
        deferred("AcceptFilter http none\nAcceptFilter HTTPS None\nAcceptFilter http data\n"),
        [true, false]
    );
    assert_eq!(deferred("AcceptFilter http httpready\n"), [true, true]);
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
        ("Listen 80\nGuardLimit syn 5/s", 0, "do nothing"),
        (
            "Listen 80\nCustomLog l mine",
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
fn logs_go_to_programs_and_the_system_log() {
    let spec = spec(&format!(
        "{L}GlobalLog g %h\nErrorLog syslog:daemon:lb\nErrorLogFormat \"[%t] %M\"\n\
         <VirtualHost *:80>\nErrorLog \"|/bin/x -a 'b c'\"\nErrorLogFormat json\n\
         CustomLog \"|$cat >a\" %h env=!SLUICE_REASON\n</VirtualHost>\n\
         <VirtualHost *:80>\nErrorLog syslog::t\n</VirtualHost>\n"
    ));
    let program = |words: &[&str], shell| {
        LogTarget::Program(LogProgram {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            shell,
        })
    };
    let syslog = |facility, tag: &str| LogTarget::Syslog {
        facility,
        tag: tag.to_owned(),
    };
    assert_eq!(spec.error_log, syslog(3, "lb"));
    let own = &spec.hosts[1];
    assert_eq!(
        own.error_log,
        Some(program(&["/bin/x", "-a", "b c"], false))
    );
    assert_eq!(own.error_log_format, Some(ErrorLogFormat::Json));
    assert_eq!(spec.hosts[2].error_log, Some(syslog(23, "t")));
    // Its own and the global one; of the others the global one alone.
    let targets = |host: usize| -> Vec<_> {
        let logs = spec.hosts[host].access_logs.iter();
        logs.map(|log| (log.target.clone(), log.condition.is_some()))
            .collect()
    };
    let global = (LogTarget::File("/etc/g".into()), false);
    assert_eq!(
        targets(1),
        [(program(&["cat >a"], true), true), global.clone()]
    );
    assert_eq!(
        (targets(0), targets(2)),
        (vec![global.clone()], vec![global])
    );
}

#[test]
fn log_levels_are_a_hosts_and_a_modules() {
    let spec = spec(&format!(
        "{L}LogLevel info mod_ssl.c:warn proxy_module:trace3\n\
         <VirtualHost *:80>\nLogLevel debug\n</VirtualHost>\n\
         <VirtualHost *:80>\nLogLevel ssl:error info notice core:info\n</VirtualHost>\n"
    ));
    let shown = |host: usize| {
        let levels = &spec.hosts[host].log_levels;
        (levels.level, levels.modules.clone())
    };
    let named = |list: &[(&str, LogLevel)]| -> Vec<(String, LogLevel)> {
        let list = list.iter();
        list.map(|(name, level)| ((*name).to_owned(), *level))
            .collect()
    };
    let main = named(&[("ssl", LogLevel::Warn), ("proxy", LogLevel::Trace)]);
    assert_eq!(shown(0), (LogLevel::Info, main.clone()));
    assert_eq!(shown(1), (LogLevel::Debug, main));
    // A level for all takes back what was said of single modules before it.
    assert_eq!(
        shown(2),
        (LogLevel::Notice, named(&[("core", LogLevel::Info)]))
    );
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
    assert_eq!(routes(&spec, 1), ["/ http://127.0.0.1:8080/ /"]);
}
