//! What is refused: line, message, place and help.

use super::*;

/// Each text with the (line, message) of all its errors. Messages are httpd's where it has one.
const CASES: &[(&str, &[(u32, &str)])] = &[
    ("Listen", &[(1, "Listen requires 1 or 2 arguments.")]),
    ("Listen 0", &[(1, "Invalid address or port")]),
    ("Listen 65536", &[(1, "Invalid address or port")]),
    ("Listen http", &[(1, "Port must be specified")]),
    ("Listen 10.0.0.1", &[(1, "Port must be specified")]),
    ("Listen [::1]", &[(1, "Port must be specified")]),
    ("Listen name:80", &[(1, "Invalid address or port")]),
    (
        "Listen 80\nListen 80",
        &[(2, "Cannot define multiple Listeners on the same IP:port")],
    ),
    (
        "Listen 80\n<VirtualHost *:80>\nListen 81\n</VirtualHost>",
        &[(3, "Listen cannot occur within <VirtualHost> section")],
    ),
    (
        "Listen 80\n<Location /a>\nListen 81\n</Location>",
        &[(3, "Listen not allowed in <Location> context")],
    ),
    (
        "Listen 80\n<VirtualHost>\n</VirtualHost>",
        &[(2, "<VirtualHost> directive requires additional arguments")],
    ),
    (
        "Listen 80\n<VirtualHost *:99999>\n</VirtualHost>",
        &[(2, "The address or port is invalid")],
    ),
    (
        "Listen 80\n<VirtualHost name:80>\n</VirtualHost>",
        &[(2, "<VirtualHost> address 'name' is not an IP address")],
    ),
    (
        "Listen 80\n<VirtualHost *:80>\n<VirtualHost *:81>\n</VirtualHost>\n</VirtualHost>",
        &[(3, "<VirtualHost> cannot occur within <VirtualHost> section")],
    ),
    (
        "Listen 80\n<VirtualHost *:80>",
        &[(2, "<VirtualHost> was not closed.")],
    ),
    (
        "Listen 80\n<VirtualHost *:80\n</VirtualHost>",
        &[(2, "<VirtualHost> directive missing closing '>'")],
    ),
    (
        "Listen 80\n</VirtualHost>",
        &[(2, "</VirtualHost> without matching <VirtualHost> section")],
    ),
    (
        "Listen 80\n<Location /a>\n</Proxy>",
        &[(3, "Expected </Location> but saw </Proxy>")],
    ),
    (
        "Listen 80\n<VirtualHost *:80>\n<Location /a>\n</VirtualHost>\nFoo",
        &[
            (4, "Expected </Location> but saw </VirtualHost>"),
            (
                5,
                "Invalid command 'Foo', perhaps misspelled or defined by a module not included in the server configuration",
            ),
        ],
    ),
    (
        "Listen 80\n<Location /a>\nLogLevel info\n</Location>",
        &[(
            3,
            "LogLevel in <Location> is not supported by this version of sluice",
        )],
    ),
    (
        "Listen 80\nServerAlias a",
        &[(2, "ServerAlias only used in <VirtualHost>")],
    ),
    (
        "Listen 80\nServerName a:b",
        &[(
            2,
            "The port number \"a:b\" is outside the appropriate range (i.e., 1..65535).",
        )],
    ),
    (
        "Listen 80\nServerName a b",
        &[(
            2,
            "ServerName takes one argument, name by which requests find this virtual host",
        )],
    ),
    (
        "Listen 80\nKeepAlive maybe",
        &[(2, "KeepAlive must be On or Off")],
    ),
    (
        "Listen 80\nKeepAlive",
        &[(2, "KeepAlive must be On or Off")],
    ),
    (
        "Listen 80\nKeepAliveTimeout 5q",
        &[(2, "KeepAliveTimeout has wrong format")],
    ),
    (
        "Listen 80\nTimeout 0",
        &[(2, "Timeout must be at least 1 second")],
    ),
    (
        "Listen 80\nProxyTimeout x",
        &[(2, "Proxy Timeout must be at least 1 second.")],
    ),
    (
        "Listen 80\nListenBacklog 0",
        &[(2, "ListenBacklog must be > 0")],
    ),
    (
        "Listen 80\nLimitRequestLine -1",
        &[(2, "LimitRequestLine \"-1\" must be a non-negative integer")],
    ),
    (
        "Listen 80\nRequestReadTimeout header=40-20",
        &[(
            2,
            "RequestReadTimeout: header=40-20: Must set MinRate option if using timeout range",
        )],
    ),
    (
        "Listen 80\nRequestReadTimeout foo=3",
        &[(
            2,
            "RequestReadTimeout: foo=3: Unknown RequestReadTimeout parameter",
        )],
    ),
    (
        "Listen 80\nLogLevel loud",
        &[(
            2,
            "Log level keyword must be one of emerg/alert/crit/error/warn/notice/info/debug/trace1/.../trace8",
        )],
    ),
    (
        "Listen 80\nLogFormat \"%Q\" x",
        &[(2, "Unrecognized LogFormat directive %Q")],
    ),
    (
        "Listen 80\nCustomLog a \"%{x\"",
        &[(2, "Ran off end of LogFormat parsing args to some directive")],
    ),
    (
        "Listen 80\nCustomLog \"| \" \"%h\"\nCustomLog l \"%h\" expr=%%\nCustomLog l %h x\n\
         CustomLog l %h env=!\nCustomLog l %Q",
        &[
            (2, "CustomLog: no program name"),
            (3, "CustomLog: syntax error, unexpected '%'"),
            (4, "error in condition clause"),
            (5, "missing environment variable name"),
            (6, "Unrecognized LogFormat directive %Q"),
        ],
    ),
    (
        "Listen 80\nErrorLog syslog:nosuch",
        &[(2, "ErrorLog: there is no syslog facility nosuch")],
    ),
    (
        "Listen 80\nProxyRequests On",
        &[(2, "ProxyRequests On: sluice is no forward proxy")],
    ),
    (
        "Listen 80\nProxyVia perhaps",
        &[(2, "ProxyVia must be one of: off | on | full | block")],
    ),
    (
        "Listen 80\nProxyVia Off # why",
        &[(
            2,
            "ProxyVia takes one argument, what becomes of Via: nothing; this host is added, Full with the software's name; those of requests are removed",
        )],
    ),
    (
        "Listen 80\nProxyPass /a",
        &[(
            2,
            "ProxyPass|ProxyPassMatch needs a path when not defined in a location",
        )],
    ),
    (
        "Listen 80\nProxyPass /a h",
        &[(2, "ProxyPass URL must be absolute!: h")],
    ),
    (
        "Listen 80\nProxyPass /a http://h:x",
        &[(2, "ProxyPass Unable to parse URL: http://h:x")],
    ),
    (
        "Listen 80\nProxyPass /a https://h",
        &[(
            2,
            "https://h needs SSLProxyEngine on (AH00961: failed to enable ssl support)",
        )],
    ),
    (
        "Listen 80\nProxyPass /a unix:s|http://h\nProxyPass /b unix:/s|https://h\nProxyPass /c unix:/s",
        &[
            (
                2,
                "ProxyPass to a Unix socket: \"s\" is no absolute path of at most 107 bytes",
            ),
            (
                3,
                "ProxyPass to https:// over a Unix socket is not supported by this version of sluice",
            ),
            (4, "ProxyPass Unable to parse URL: unix:/s"),
        ],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember http://h upgrade=0123456789abcdef min=-1 iobuffersize=9 receivebuffersize=511 flushpackets=x flushwait=1001\n</Proxy>",
        &[
            (
                3,
                "BalancerMember upgrade protocol length must be < 16 characters",
            ),
            (3, "BalancerMember Min must be a positive number"),
            (
                3,
                "BalancerMember IOBufferSize must be >= 512 bytes, or 0 for system default.",
            ),
            (
                3,
                "BalancerMember ReceiveBufferSize must be >= 512 bytes, or 0 for system default.",
            ),
            (3, "BalancerMember flushpackets must be on|off|auto"),
            (
                3,
                "BalancerMember flushwait must be <= 1000, or 0 for system default of 10 millseconds.",
            ),
        ],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember http://h\nProxySet stickycookie=On\n</Proxy>\nProxyPass / balancer://b/",
        &[(2, "balancer://b: stickycookie=On without stickysession")],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember http://h route=a,b\nProxySet stickycookie=On stickysession=A;B|c\n</Proxy>\nProxyPass / balancer://b/",
        &[
            (2, "stickycookie=On: 'A;B' is no name of a cookie"),
            (2, "stickycookie=On: a cookie cannot hold 'a,b'"),
        ],
    ),
    (
        "Listen 80\nProxyPass /a http://h x",
        &[(
            2,
            "Invalid ProxyPass|ProxyPassMatch parameter. Parameter must be in the form 'key=value'.",
        )],
    ),
    (
        "Listen 80\nProxyPass /a http://h x=y",
        &[(2, "ProxyPass unknown Worker parameter")],
    ),
    (
        "Listen 80\nProxyPass ~ ^/a( http://h",
        &[(2, "Regular expression could not be compiled.")],
    ),
    (
        "Listen 80\nProxyPass /a balancer://b loadfactor=3",
        &[(2, "ProxyPass unknown Balancer parameter loadfactor=3")],
    ),
    (
        "Listen 80\n<Location /a>\nProxyPass /b http://h\n</Location>",
        &[(
            3,
            "ProxyPass|ProxyPassMatch can not have a path when defined in a location.",
        )],
    ),
    (
        "Listen 80\nProxyPassReverse /a",
        &[(
            2,
            "ProxyPassReverse needs a path when not defined in a location",
        )],
    ),
    (
        "Listen 80\nBalancerMember http://h",
        &[(2, "BalancerMember must define remote proxy server")],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember h\nBalancerMember http://h x\nBalancerMember http://h x=y\n</Proxy>",
        &[
            (3, "BalancerMember URL must be absolute!: h"),
            (
                4,
                "BalancerMember can not have a balancer name when defined in a location",
            ),
            (5, "BalancerMember unknown Worker parameter"),
        ],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember http://h loadfactor=0 lbset=100 \\\n timeout=0 retry=-1\n</Proxy>",
        &[
            (
                4,
                "BalancerMember LoadFactor must be a number between 1..100",
            ),
            (4, "BalancerMember lbset must be between 0 and 99"),
            (4, "BalancerMember Timeout must be at least one second"),
            (4, "BalancerMember Retry must be a positive value"),
        ],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nBalancerMember http://h hcpath=direct ping=0 rampup=0\nBalancerMember http://i hcpath=sideways\n</Proxy>",
        &[
            (
                3,
                "BalancerMember Ping/Pong timeout must be at least one millisecond",
            ),
            (3, "BalancerMember rampup must be at least one second"),
            (4, "BalancerMember hcpath must be direct"),
        ],
    ),
    (
        "Listen 80\n<Proxy balancer://b>\nProxySet hashkey=header: retrybudget=0 ejectmax=101\nProxySet lbmethod=foo growth=0\nProxySet timeout=0 x\n</Proxy>",
        &[
            (
                3,
                "ProxySet: hashkey must be source, header:NAME, cookie:NAME or path hashkey=header:; balancer://b",
            ),
            (
                3,
                "ProxySet: retrybudget must be a percentage between 1 and 100 retrybudget=0; balancer://b",
            ),
            (
                3,
                "ProxySet: ejectmax must be a percentage between 1 and 100 ejectmax=101; balancer://b",
            ),
            (4, "ProxySet: unknown lbmethod lbmethod=foo; balancer://b"),
            (
                4,
                "ProxySet: growth must be between 1 and 100 growth=0; balancer://b",
            ),
            (
                5,
                "Invalid ProxySet parameter. Parameter must be in the form 'key=value'",
            ),
        ],
    ),
    (
        "Listen 80\nHeartbeatListen 239.0.0.1\nHeartbeatListen 27999\nHeartbeatListen x:1\nHeartbeatListen 239.0.0.1:1\nHeartbeatListen 239.0.0.1:2\nHeartbeatMaxServers 10",
        &[
            (2, "HeartbeatListen: No port provided in multicast address"),
            (3, "HeartbeatListen: No host provided in multicast address"),
            (4, "HeartbeatListen: Unable to parse multicast address."),
            (6, "HeartbeatListen: May only be specified once."),
            (7, "HeartbeatMaxServers: Should be bigger than 10"),
        ],
    ),
    (
        "Listen 80\nProxySet balancer://q nofailover=On",
        &[(2, "ProxySet can not find 'balancer://q' Balancer.")],
    ),
    (
        "Listen 80\nProxySet http://q/ retry=3",
        &[(2, "ProxySet can not find 'http://q/' Worker.")],
    ),
    (
        "Listen 80\n<Proxy *>\nRequire host %{HTTP_HOST}\n</Proxy>",
        &[(
            3,
            "a name that a request makes up is not supported by this version of sluice",
        )],
    ),
    (
        "Listen 80\nSSLEngine on\nSSLRequireSSL\nGuardSynCookies auto",
        &[
            (
                2,
                "AH02572: Failed to configure at least one certificate and key for this server",
            ),
            (3, "SSLRequireSSL not allowed outside a section"),
            (
                4,
                "GuardSynCookies is not supported by this version of sluice",
            ),
        ],
    ),
    (
        "Listen 80\n<Macro x>\nFoo\n</Macro>\n<Location /a>\n<Limit GET>\nHeader set A b\n</Limit>\n</Location>",
        &[
            (2, "<Macro> is not supported by this version of sluice"),
            (
                7,
                "Header in <Limit> is not supported by this version of sluice",
            ),
        ],
    ),
    (
        "Include nothing.conf\nInclude nothing*",
        &[
            (
                1,
                "Could not open configuration file /etc/nothing.conf: No such file or directory",
            ),
            (2, "No matches for the wildcard '/etc/nothing*', failing"),
        ],
    ),
    (
        "Listen 80\nDefine\nDefine a:b c\nUnDefine",
        &[
            (
                2,
                "Define takes 1-2 arguments, a variable's name and its value",
            ),
            (3, "Variable name must not contain ':'"),
            (4, "UnDefine takes one argument, a variable's name"),
        ],
    ),
    (
        "Listen 80\n<IfModule>\n</IfModule>\n<IfVersion foo 2>\n</IfVersion>",
        &[
            (2, "<IfModule> directive requires additional arguments"),
            (4, "unrecognized operator 'foo'"),
        ],
    ),
    (
        "Listen 80\n<IfModule no.c>\nFoo",
        &[(2, "Expected </IfModule> before end of configuration")],
    ),
    (
        "Listen 80\nGuardLimit flow 3/s\nGuardLimit syn 3/s action=cookie\nGuardLimit syn",
        &[
            (
                2,
                "GuardLimit: unknown kind 'flow'; expected syn, flows, packets, udp or icmp",
            ),
            (
                3,
                "GuardLimit: action=cookie is not supported by this version of sluice",
            ),
            (
                4,
                "GuardLimit takes a kind and a rate, for example: syn 100/s",
            ),
        ],
    ),
    (
        "Listen 80\nGuardDeny 10.0.0.1/8 x ::/0",
        &[
            (
                2,
                "GuardDeny: 10.0.0.1/8 has bits beyond its length; its network is 10.0.0.0/8",
            ),
            (2, "GuardDeny: 'x' is not an IP address"),
        ],
    ),
    (
        "Listen 80\nSluiceMetrics 10.0.0.1:9330\nSluiceMetrics localhost:1\n\
         SluiceMetrics 127.0.0.1:0\nSluiceMetrics 10.0.0.1:9330 everywhere\n\
         SluiceMetrics 10.0.0.1:9330 public\nSluiceMetrics [::1]:9330",
        &[
            (2, "SluiceMetrics: 10.0.0.1 is not a loopback address"),
            (3, "SluiceMetrics: 'localhost:1' is not ADDRESS:PORT"),
            (4, "SluiceMetrics: the port must be 1 to 65535"),
            (5, "SluiceMetrics: 'everywhere' is not public"),
            (7, "SluiceMetrics: there is one already, in line 6"),
        ],
    ),
    (
        "Listen 80\nErrorLogFormat \"%t\"\nErrorLogFormat \"%M %Q\"\nErrorLogFormat request %M",
        &[
            (2, "no %M in the format: no line would say what happened"),
            (3, "Unrecognized error log format directive %Q"),
            (
                4,
                "ErrorLogFormat request is not supported by this version of sluice",
            ),
        ],
    ),
    (
        "Listen 80\nXDPInterface a/b\nXDPInterface eth0 mode=fast",
        &[
            (2, "'a/b' is not an interface name"),
            (3, "XDPInterface: 'mode=fast' is not a mode"),
        ],
    ),
    (
        "Listen 80\nSluiceShards 0\nSluiceInstance ../x\nSluiceControl /a x=y",
        &[
            (2, "SluiceShards: '0' is not a number of shards"),
            (3, "SluiceInstance: '../x' is not a name"),
            (4, "SluiceControl: 'x=y' is not group=NAME"),
        ],
    ),
    (
        "Listen 80\nGuardLimit syn 3/s\nGuardLimit syn 4/s",
        &[(3, "GuardLimit syn: there is one already, in line 2")],
    ),
];

#[test]
fn all_errors_are_told_with_httpds_line_and_words() {
    for (text, expected) in CASES {
        let loaded = read(*text);
        assert_eq!(said(&loaded, Severity::Error), *expected, "in:\n{text}");
        assert!(loaded.spec.is_none(), "in:\n{text}");
    }
}

#[test]
fn a_misspelt_name_gets_a_suggestion() {
    for (text, help) in [
        ("Lisetn 80", "did you mean Listen?"),
        ("Listen 80\nproxypas / http://h/", "did you mean ProxyPass?"),
        ("Listen 80\nSSLEngin on", "did you mean SSLEngine?"),
        ("Listen 80\nRequestHeaders x", "did you mean RequestHeader?"),
        (
            "<VirtualHots *:80>\n</VirtualHots>",
            "did you mean <VirtualHost>?",
        ),
        (
            "Listen 80\nProxyPass / balancer://b/ stickysesion=A",
            "did you mean stickysession=?",
        ),
        (
            "Listen 80\nProxyPass /a http://h conectiontimeout=1",
            "did you mean connectiontimeout=?",
        ),
    ] {
        let loaded = read(text);
        let first = loaded
            .reports
            .iter()
            .find(|r| r.severity == Severity::Error);
        assert_eq!(first.map(|r| r.help.as_str()), Some(help), "in:\n{text}");
    }
}

#[test]
fn a_name_that_is_like_nothing_gets_no_suggestion() {
    let loaded = read("Listen 80\nFrobnicate x");
    assert_eq!(loaded.reports[0].help, "");
}

#[test]
fn an_error_in_an_included_file_names_that_file() {
    let source = Memory::new("/etc/sluice.conf", "Listen 80\nInclude conf.d/*.conf\nFoo")
        .with("/etc/conf.d/b.conf", "\nKeepAlive x\n")
        .with("/etc/conf.d/a.conf", "<VirtualHost *:80>\n");
    let loaded = read_from(&source);
    let places: Vec<(String, u32)> = loaded
        .reports
        .iter()
        .map(|r| (r.file.display().to_string(), r.line))
        .collect();
    assert_eq!(
        places,
        [
            ("/etc/conf.d/a.conf".to_owned(), 1),
            ("/etc/conf.d/b.conf".to_owned(), 2),
            ("/etc/sluice.conf".to_owned(), 3)
        ]
    );
}

#[test]
fn a_bad_line_of_a_deny_file_is_told_with_its_place() {
    let source = Memory::new(
        "/etc/sluice.conf",
        "Listen 80\nXDPInterface eth0\nGuardDenyFile deny.txt",
    )
    .with(
        "/etc/deny.txt",
        "# bots\n10.0.0.0/8\n  10.0.0.1/8 # slip\n\n2001:db8::/32\n",
    );
    let loaded = read_from(&source);
    let text = rendered(&loaded);
    assert!(
        text.starts_with("/etc/deny.txt:3:3: error: 10.0.0.1/8 has bits beyond its length"),
        "{text}"
    );
    assert!(text.contains("   |   ^^^^^^^^^^\n"), "{text}");
}

#[test]
fn the_caret_points_at_the_word_in_its_own_physical_line() {
    let loaded = read("Listen 80\nProxyPass /a \\\n  http://h/a \\\n  retrry=5\n");
    let text = rendered(&loaded);
    assert_eq!(
        text,
        "/etc/sluice.conf:4:3: error: ProxyPass unknown Worker parameter\n \
         4 |   retrry=5\n   |   ^^^^^^^^\n   = did you mean retry=?"
    );
}
