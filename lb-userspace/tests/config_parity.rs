//! The same snippets given to `apache2 -t` and to sluice: both must accept, or both must refuse in
//! the same line. Needs httpd 2.4 with its modules; where it is not installed this says so, and
//! fails when CI is set.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sluice::config::{self, Severity};

#[path = "config_parity/policies.rs"]
mod policies;
#[path = "config_parity/rewriting.rs"]
mod rewriting;
#[path = "config_parity/tls.rs"]
mod tls;

/// What one of the two says: `None`, accepted; else the line of its first error.
type Verdict = Option<u32>;

struct Httpd {
    program: PathBuf,
    modules: PathBuf,
}

impl Httpd {
    fn find() -> Option<Self> {
        let program = [
            "/usr/sbin/apache2",
            "/usr/sbin/httpd",
            "/usr/local/apache2/bin/httpd",
        ];
        let modules = [
            "/usr/lib/apache2/modules",
            "/usr/lib64/httpd/modules",
            "/usr/local/apache2/modules",
        ];
        let first = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|path| path.exists());
        Some(Self {
            program: first(&program)?,
            modules: first(&modules)?,
        })
    }

    /// Lines before a snippet: what httpd needs to look at it.
    fn preamble(&self, root: &Path) -> String {
        let mut text = format!(
            "ServerRoot {0}\nDefaultRuntimeDir {0}\nPidFile {0}/pid\nErrorLog {0}/error.log\nServerName main.test\n",
            root.display()
        );
        for name in MODULES {
            let file = self.modules.join(format!("mod_{name}.so"));
            // Some builds have them linked in.
            if file.exists() {
                let _ = writeln!(text, "LoadModule {name}_module {}", file.display());
            }
        }
        text
    }

    fn verdict(&self, file: &Path) -> Result<Verdict, String> {
        let output = Command::new(&self.program)
            .args(["-t", "-f"])
            .arg(file)
            .env_clear()
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(None);
        }
        let line = said
            .split_once("Syntax error on line ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        line.map(Some).ok_or(said)
    }
}

fn ours(file: &Path) -> (Verdict, String) {
    let loaded = config::load(file, &config::Options::default());
    let said: Vec<String> = loaded.reports.iter().map(config::Report::render).collect();
    let first = loaded
        .reports
        .iter()
        .find(|report| report.severity == Severity::Error)
        .map(|report| report.line);
    (first, said.join("\n"))
}

/// Runs each snippet through both and gives the verdicts, lines counted from the snippet's first.
fn compare(snippets: &[&str], mut check: impl FnMut(&str, Verdict, Verdict, &str)) {
    let Some(httpd) = Httpd::find() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "apache2 is not installed: in CI parity must be tested"
        );
        eprintln!("SKIPPED: apache2 is not installed, parity with httpd was not tested");
        return;
    };
    let root = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(root.path().join("conf.d")).expect("writable");
    fs::write(root.path().join("conf.d/a.conf"), "KeepAlive On\n").expect("writable");
    fs::write(root.path().join("conf.d/b.conf"), "KeepAliveTimeout 3\n").expect("writable");
    let preamble = httpd.preamble(root.path());
    let offset = preamble.lines().count() as u32;
    for snippet in snippets {
        let file = root.path().join("test.conf");
        // Both need something to listen on.
        fs::write(&file, format!("{preamble}{snippet}\nListen 65000\n")).expect("writable");
        let theirs = httpd
            .verdict(&file)
            .unwrap_or_else(|said| panic!("httpd said no line for:\n{snippet}\n{said}"));
        let (ours, said) = ours(&file);
        let relative = |verdict: Verdict| verdict.map(|line| line.saturating_sub(offset));
        check(snippet, relative(theirs), relative(ours), &said);
    }
}

/// Both must say the same of each snippet; and accept and refuse more than these, for a httpd that
/// refuses or accepts everything would prove nothing.
fn same(snippets: &[&str], (accepted_at_least, refused_at_least): (u32, u32)) {
    let mut failures = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    compare(snippets, |snippet, theirs, ours, said| {
        accepted += u32::from(theirs.is_none());
        refused += u32::from(theirs.is_some());
        if theirs != ours {
            failures.push(format!(
                "httpd {theirs:?}, sluice {ours:?}:\n{snippet}\n{said}\n"
            ));
        }
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        accepted + refused == 0 || (accepted > accepted_at_least && refused > refused_at_least),
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn sluice_accepts_and_refuses_what_httpd_does_in_the_same_line() {
    same(SAME, (50, 80));
}

#[test]
fn policies_are_accepted_and_refused_as_by_httpd() {
    same(policies::SAME, (60, 50));
}

#[test]
fn rewriting_is_accepted_and_refused_as_by_httpd() {
    same(rewriting::SAME, (40, 15));
}

#[test]
fn tls_is_accepted_and_refused_as_by_httpd() {
    same(tls::SAME, (25, 20));
}

#[test]
fn what_is_knowingly_different_is_so() {
    compare(STRICTER, |snippet, theirs, ours, said| {
        assert_eq!(theirs, None, "httpd refuses this now:\n{snippet}");
        assert!(
            ours.is_some(),
            "sluice accepts this now:\n{snippet}\n{said}"
        );
    });
}

#[test]
fn files_of_tls_are_looked_at_later_than_by_httpd() {
    compare(tls::LATER, |snippet, theirs, ours, said| {
        assert_eq!(theirs, Some(1), "httpd accepts this now:\n{snippet}");
        assert_eq!(ours, None, "sluice looks at it now:\n{snippet}\n{said}");
    });
}

/// Modules that the snippets need.
const MODULES: [&str; 24] = [
    "mpm_event",
    "http2",
    "authz_core",
    "authz_host",
    "access_compat",
    "alias",
    "rewrite",
    "slotmem_shm",
    "proxy",
    "proxy_http",
    "proxy_balancer",
    "lbmethod_byrequests",
    "reqtimeout",
    "status",
    "watchdog",
    "headers",
    "setenvif",
    "env",
    "authz_user",
    "proxy_hcheck",
    "lbmethod_bytraffic",
    "lbmethod_bybusyness",
    "socache_shmcb",
    "ssl",
];

/// What httpd takes and sluice refuses, by choice or for now (docs/differences.md).
const STRICTER: &[&str] = &[
    "UseCanonicalName DNS",
    "ProxyPass /a http://h/\nProxyRemote * http://other:81",
    "ProxyPass /a http://h/\nProxyBlock h",
    "RewriteRule ^/a /b [H=cgi-script]",
    "RewriteRule ^/a - [R=200]",
    "RewriteRule ^/a /b [P]",
    "RewriteRule ^/a http://%{HTTP_HOST}/ [P]",
    "RewriteRule ^/a http://$1/ [P]",
    "RewriteRule ^/(.*) $1 [P]",
    "RewriteRule ^/a http://h:%{ENV:port}/ [P]",
    "RewriteRule ^/a http://h%{ENV:path} [P]",
    "RewriteRule ^/(.*) /${nomap:$1}",
    "RewriteMap m prg:/bin/cat",
    "RewriteMap m dbm:/etc/hosts",
    "RewriteCond %{REQUEST_FILENAME} !-f",
    "RewriteCond %{REQUEST_URI} -U",
    "RewriteCond %{LA-U:REMOTE_USER} a\nRewriteRule ^ - [F]",
    "<Location /a>\nRequire host %{HTTP_HOST}\n</Location>",
    "ProxyPass /a http://${NOT_SET_HERE}/ interpolate",
    "ProxyPass /a${NOT_SET_HERE} http://h/ interpolate",
    "Header set A %l",
    "Timeout 0",
    "GracefulShutdownTimeout -3",
    "ProxyRequests On",
    "ProxyPass /a unix:s|http://h/",
    "<Proxy balancer://x>\nBalancerMember http://h:99999\n</Proxy>",
    "CustomLog x.log \"%{min}T\"",
];

const SAME: &[&str] = &[
    "Protocols",
    "Protocols h2 http/1.1",
    "Protocols h2 h2c http/1.1\n<VirtualHost *:65000>\nProtocols http/1.1\n</VirtualHost>",
    "Protocols spdy",
    "<Location /a>\nProtocols h2\n</Location>",
    "ProtocolsHonorOrder Off",
    "ProtocolsHonorOrder x",
    "H2Direct On",
    "H2Direct x",
    "H2MaxSessionStreams 0",
    "H2MaxSessionStreams 1",
    "<VirtualHost *:65000>\nH2MaxSessionStreams 50\n</VirtualHost>",
    "H2WindowSize 1023",
    "H2WindowSize 1024",
    "H2MaxDataFrameLen -1",
    "H2MaxDataFrameLen 1000",
    "H2StreamTimeout 5",
    "H2StreamTimeout 300ms",
    "H2StreamTimeout x",
    "<Location /a>\nH2Push Off\nH2Upgrade Off\n</Location>",
    "<Location /a>\nH2EarlyHints Off\n</Location>",
    "<Location /a>\nH2StreamTimeout 5\n</Location>",
    "<Location /a>\nH2WindowSize 5000\n</Location>",
    "H2ModernTLSOnly Off",
    "H2ModernTLSOnly 1",
    "H2Upgrade On",
    "H2Upgrade yes",
    "H2Push Off",
    "H2PushResource /x",
    "H2PushResource /x critical",
    "H2PushPriority * After 16",
    "H2PushDiarySize -1",
    "H2PushDiarySize 256",
    "H2EarlyHints On",
    "H2CopyFiles On",
    "H2SerializeHeaders Off",
    "H2OutputBuffering Off",
    "H2MinWorkers 0",
    "H2MinWorkers 3",
    "H2MaxWorkers 10",
    "H2MaxWorkerIdleSeconds 600",
    "H2MaxWorkerIdleSeconds x",
    "H2StreamMaxMemSize 1000",
    "H2StreamMaxMemSize 65536",
    "H2TLSWarmUpSize 1048576",
    "H2TLSCoolDownSecs 0",
    "H2Padding 9",
    "H2Padding -1",
    "H2Padding 4",
    "H2ProxyRequests Off",
    "ProxyHCExpr ok {%{REQUEST_STATUS} =~ /^[234]/}\nProxyHCExpr gdown {%{REQUEST_STATUS} =~ /^[5]/}\nProxyHCExpr in_maint {hc('body') !~ /Under maintenance/}\n<Proxy balancer://x>\nBalancerMember http://h hcmethod=GET hcexpr=in_maint hcuri=/status.php\nBalancerMember http://i hcmethod=TCP hcinterval=5 hcpasses=2 hcfails=3\n</Proxy>",
    "ProxyHCExpr",
    "ProxyHCExpr a",
    "ProxyHCExpr sixteencharacter {true}",
    "ProxyHCExpr fifteencharacte {true}",
    "ProxyHCExpr a {true} b",
    "ProxyHCExpr a true",
    "ProxyHCExpr a \"%{REQUEST_STATUS} -eq 200\"",
    "ProxyHCExpr a %{REQUEST_STATUS} -eq 200",
    "ProxyHCExpr a {%{REQUEST_STATUS} =~ /^[0-9]{3}$/}",
    "ProxyHCExpr a {%{NOSUCH} == ''}",
    "ProxyHCExpr a {true",
    "ProxyHCExpr a {(true}",
    "ProxyHCTemplate",
    "ProxyHCTemplate a",
    "ProxyHCTemplate a b",
    "ProxyHCTemplate a hcmethod=HEAD hcinterval=10\n<Proxy balancer://x>\nBalancerMember http://h hctemplate=A\n</Proxy>",
    "ProxyHCTemplate a hcmethod=FOO",
    "ProxyHCTemplate a retry=3",
    "<Proxy balancer://x>\nBalancerMember http://h hctemplate=a\n</Proxy>\nProxyHCTemplate a hcmethod=HEAD",
    "<Proxy balancer://x>\nBalancerMember http://h hcexpr=a\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcmethod=HEAD11 hcinterval=100ms\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcmethod=none\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcmethod=provider\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcinterval=99ms\n</Proxy>",
    "ProxyPass /a unix:/tmp/s|http://h/",
    "ProxyPass /a unix:/tmp/s",
    "<Proxy balancer://x>\nBalancerMember unix:/tmp/s|http://h route=a\n</Proxy>",
    "ProxyPass /a ws://h/ upgrade=NONE",
    "<Proxy balancer://x>\nBalancerMember ws://h\nBalancerMember http://i upgrade=ANY\n</Proxy>",
    "ProxyPass /a http://h upgrade=012345678901234",
    "ProxyPass /a http://h upgrade=01234567890123456",
    "ProxyPass /a http://h min=0 smax=5 flushpackets=auto flushwait=20 iobuffersize=0 receivebuffersize=512 secret=x",
    "ProxyPass /a http://h min=-1",
    "ProxyPass /a http://h smax=-1",
    "ProxyPass /a http://h flushpackets=x",
    "ProxyPass /a http://h flushwait=1001",
    "ProxyPass /a http://h iobuffersize=511",
    "ProxyPass /a http://h receivebuffersize=511",
    "ProxyPass /a http://h flusher=01234567890123456",
    "ProxyPass /a http://h secret=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<Proxy balancer://x>\nBalancerMember http://h hcinterval=x\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcpasses=-1\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcfails=0 hcpasses=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h hcnosuch=1\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h\nProxySet hcmethod=TCP\n</Proxy>",
    "ProxyPass /a http://h/ hcmethod=TCP",
    "ProxyHCTPsize 4",
    "Listen",
    "Listen 0",
    "Listen 99999",
    "Listen abc",
    "Listen 10.0.0.1",
    "Listen [::1]",
    "Listen [::1]:8080",
    "Listen 127.0.0.1:8080 http",
    "Listen 8080 http http",
    "Listen 8080\nListen 8080",
    "Listen 8080\nListen 0.0.0.0:8080",
    "Listen 8080\nListen 8081",
    "<VirtualHost *:65000>\nListen 81\n</VirtualHost>",
    "<Location /a>\nListen 80\n</Location>",
    "<VirtualHost *:65000 [::1]:65000 127.0.0.1>\nServerName a.test\nServerAlias b.test *.c.test\n</VirtualHost>",
    "<VirtualHost>\n</VirtualHost>",
    "<VirtualHost *:99999>\n</VirtualHost>",
    "<VirtualHost *:65000>\n<VirtualHost *:81>\n</VirtualHost>\n</VirtualHost>",
    "<VirtualHost *:65000",
    "<VirtualHost *:65000\n</VirtualHost>",
    "<VirtualHost *:65000> x\n</VirtualHost>",
    "\n</VirtualHost>",
    "<Location /a>\n</Proxy>",
    "<Foo>\n</Foo>",
    "\nFoo bar",
    "<Location /a>\n<VirtualHost *:65000>\n</VirtualHost>\n</Location>",
    "<Location /a /b>\n</Location>",
    "<Location>\n</Location>",
    "<Location \"/a b\">\nProxyPass http://h/\nProxyPassReverse http://h/\n</Location>",
    "<Location /a>\nProxyPass /b http://h/\n</Location>",
    "ServerName",
    "ServerName a b",
    "ServerName a:b",
    "ServerName https://a.test:8443",
    "ServerAlias a",
    "KeepAlive x",
    "KeepAlive oFF",
    "KeepAliveTimeout x",
    "KeepAliveTimeout 0",
    "KeepAliveTimeout 300ms",
    "KeepAliveTimeout 5q",
    "KeepAliveTimeout 1min",
    "Timeout 5min",
    "ProxyTimeout 0",
    "ProxyTimeout 500ms",
    "MaxKeepAliveRequests x",
    "LimitRequestFields 7",
    "LimitRequestLine -1",
    "LimitRequestFieldSize 9000",
    "ListenBacklog 0",
    "ListenBacklog 5",
    "GracefulShutdownTimeout x",
    "RequestReadTimeout header=a",
    "RequestReadTimeout foo=3",
    "RequestReadTimeout header=40-20",
    "RequestReadTimeout header=20-40,MinRate=0",
    "RequestReadTimeout header=20-40,MinRate=500 body=20,MinRate=500",
    "RequestReadTimeout header=20,MinRate=500",
    "LogLevel foo",
    "LogLevel proxy:foo",
    "LogLevel info proxy:debug",
    "LogFormat \"%Q\" x",
    "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b \\\"%{Referer}i\\\" %{ms}T %{c}a %D\" x\nCustomLog logs.x x",
    "CustomLog \"|/bin/cat\" \"%h\"",
    "CustomLog \"|$/bin/cat >x\" \"%h %R %{c}L %{x}^ti %{hextid}P\" env=!X",
    "CustomLog x \"%h\" \"expr=%{REQUEST_STATUS} -ge 400\"",
    "CustomLog x \"%h\" what=1",
    "GlobalLog x \"%h\"",
    "<VirtualHost *:80>\nGlobalLog x \"%h\"\n</VirtualHost>",
    "CustomLog x \"%{x}^xx\"",
    "ErrorLog syslog:daemon:x",
    "ErrorLogFormat \"[%{u}t] [%-m:%l] %M% ,\\ referer\\ %{Referer}i\"",
    "ErrorLogFormat \"%Q %M\"",
    "<VirtualHost *:80>\nLimitRequestLine 100\nLogLevel debug\n</VirtualHost>",
    "CustomLog",
    "CustomLog x.log \"%{a\"",
    "CustomLog a b c d",
    "ErrorLog a b",
    "TransferLog t.log",
    "Define",
    "Define a:b",
    "Define a b c",
    "Define N 5\nKeepAliveTimeout ${N}",
    "Define N x\nUnDefine N\n<IfDefine N>\nFoo\n</IfDefine>\nKeepAliveTimeout ${N}",
    "UnDefine",
    "Include",
    "Include nosuch",
    "Include nosuch*",
    "IncludeOptional nosuch",
    "IncludeOptional nosuch/*.conf",
    "Include conf.d",
    "Include conf.d/*.conf",
    "Include conf.*/[ab].conf",
    "<IfModule>\nFoo\n</IfModule>",
    "<IfModule nosuch>\nFoo\n<IfModule x>\n</IfModule>\nFoo\n</IfModule>",
    "<IfModule nosuch>\nFoo",
    "<IfModule mod_proxy.c>\nFoo\n</IfModule>",
    "<IfModule !mod_proxy.c>\nFoo\n</IfModule>",
    "<IfModule sluice_module_of_nobody>\nGuardLimit syn 5/s\n</IfModule>",
    "<IfDefine>\n</IfDefine>",
    "<IfDefine !X>\nFoo\n</IfDefine>",
    "<IfVersion foo 2>\n</IfVersion>",
    "<IfVersion >= 2.4>\nFoo\n</IfVersion>",
    "<IfVersion < 2.4>\nFoo\n</IfVersion>",
    "<IfFile /etc/passwd>\nFoo\n</IfFile>",
    "<IfFile /nothing/there>\nFoo\n</IfFile>",
    "<IfDirective ProxyPass>\nFoo\n</IfDirective>",
    "<IfDirective Frobnicate>\nFoo\n</IfDirective>",
    "LimitRequestBody 0",
    "LimitRequestBody 10",
    "LimitRequestBody -1",
    "LimitRequestBody x",
    "LimitRequestBody",
    "<Location /a>\nLimitRequestBody 1000\n</Location>",
    "ProxyStatus On",
    "ProxyStatus Full",
    "ProxyStatus x",
    "ProxyStatus",
    "<Location /a>\nProxyStatus On\n</Location>",
    "Proxy100Continue On",
    "Proxy100Continue x",
    "StrictHostCheck On",
    "StrictHostCheck Off",
    "StrictHostCheck x",
    "SSLStrictSNIVHostCheck On",
    "Proxy100Continue Off",
    "<Location /a>\nProxy100Continue Off\n</Location>",
    "HostnameLookups Double",
    "HostnameLookups x",
    "SSLRequireSSL",
    "<Location /a>\nSSLRequireSSL\n</Location>",
    "<Location /a>\nSSLRequireSSL On\n</Location>",
    "<Proxy *>\nSSLRequireSSL\n</Proxy>",
    "<If true>\nSSLRequireSSL\n</If>",
    "<Location /a>\nRequire ssl\nRequire ssl-verify-client\n</Location>",
    "<Location /a>\nRequire ssl x\n</Location>",
    "NoProxy h .d 10.0.0.0/8",
    "ProxyRemote ftp http://h:81",
    "ProxyRemote ftp h",
    "ProxyRemoteMatch ^ftp http://h:81",
    "ProxyRemoteMatch ( http://h:81",
    "ProxyBlock h",
    "ProxyDomain .d",
    "ProxyDomain d",
    "ReceiveBufferSize 100",
    "ReceiveBufferSize 600",
    "<VirtualHost *:65000>\nSendBufferSize 600\n</VirtualHost>",
    "SendBufferSize 100",
    "SendBufferSize 600",
    "ProxyReceiveBufferSize 100",
    "ProxyReceiveBufferSize 600",
    "ProxySourceAddress 127.0.0.1",
    "ProxySourceAddress ::1",
    "ProxySourceAddress nosuch.invalid",
    "<Location /a*>\nProxyPass http://h/\n</Location>",
    "TraceEnable Off",
    "TraceEnable x",
    "MaxRequestWorkers 100\nThreadsPerChild 25\nStartServers x y",
    "<VirtualHost *:80>\nThreadsPerChild 25\n</VirtualHost>",
    "<Proxy balancer://x>\nProxySet lbmethod=bytraffic\n</Proxy>",
    "<Proxy balancer://x>\nProxySet lbmethod=bybusyness\n</Proxy>",
    "<Proxy balancer://x>\nProxySet lbmethod=byTraffic\n</Proxy>",
    "<Proxy balancer://x lbmethod=bybusyness>\nBalancerMember http://h\n</Proxy>",
    "ProxyPass /a balancer://x/ lbmethod=bytraffic",
    "BalancerGrowth -1",
    "BalancerGrowth 1000",
    "BalancerGrowth 1001",
    "BalancerGrowth x",
    "BalancerPersist foo",
    "BalancerPersist On",
    "<Location /x>\nBalancerGrowth 3\n</Location>",
    "<Proxy balancer://x>\nBalancerPersist On\n</Proxy>",
    "<Proxy balancer://x>\nProxySet growth=101\n</Proxy>",
    "<Proxy balancer://x>\nProxySet growth=100\n</Proxy>",
    "<Proxy balancer://x>\nProxySet growth=x\n</Proxy>",
    "<Proxy balancer://x>\nProxySet nonce=none\n</Proxy>",
    "<Proxy balancer://x>\nProxySet nonce=\n</Proxy>",
    "<Proxy balancer://x>\nProxySet nonce=012345678901234567890123456789012345\n</Proxy>",
    "<Proxy balancer://x>\nProxySet nonce=0123456789012345678901234567890123456\n</Proxy>",
    "ProxyVia foo",
    "ProxyVia Off # c",
    "ProxyRequests foo",
    "ProxyRequests off",
    "ProxyPreserveHost maybe",
    "ProxyPreserveHost",
    "ProxyAddHeaders On",
    "User",
    "User a b",
    "BalancerMember http://h",
    "BalancerMember balancer://y http://h",
    "BalancerMember balancer://y http://h x",
    "BalancerMember balancer://y http://h:x",
    "BalancerMember balancer://y http:///x",
    "<Proxy balancer://x>\nBalancerMember\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember foo\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h foo\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h foo=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h loadfactor=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h loadfactor=1.5x\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h loadfactor=100.1\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h loadfactor=x\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h retry=-1\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h retry=1min\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h status=Q\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h status=+H-D\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h status=-en\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h timeout=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h timeout=1.5\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h connectiontimeout=x\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h connectiontimeout=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h connectiontimeout=500ms\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h lbset=100\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h lbset=99\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h keepalive=x\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h disablereuse=on enablereuse=on\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h ttl=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h max=-1\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h max=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h acquire=0\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h responsefieldsize=-3\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h route=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h retry=5\nBalancerMember http://h retry=6\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember \"http://h\" \\\n route=a \\\n loadfactor=0\n</Proxy>",
    "<Proxy balancer://x lbmethod=foo>\n</Proxy>",
    "<Proxy balancer://x nofailover=On>\nBalancerMember http://h\n</Proxy>",
    "<Proxy balancer://x\n</Proxy>",
    "<Proxy *>\nRequire all granted\n</Proxy>",
    "<Proxy *>\nOrder deny,allow\nAllow from all\n</Proxy>",
    "<Proxy balancer://x>\nBalancerMember http://h\nProxySet foo=1\n</Proxy>",
    "<Proxy balancer://x>\nProxySet lbmethod=byrequests timeout=0\n</Proxy>",
    "<Proxy balancer://x>\nProxySet stickysessionsep=ab\n</Proxy>",
    "<Proxy balancer://x>\nProxySet stickysessionsep=off\n</Proxy>",
    "<Proxy balancer://x>\nProxySet nofailover=x\n</Proxy>",
    "<Proxy balancer://x>\nProxySet maxattempts=-1\n</Proxy>",
    "<Proxy balancer://x>\nProxySet failonstatus=99,500\n</Proxy>",
    "<Proxy balancer://x>\nProxySet failonstatus=500,503\n</Proxy>",
    "<Proxy balancer://x>\nProxySet stickysession=JSESSIONID|jsessionid nofailover=on scolonpathdelim=on forcerecovery=off failontimeout=on\n</Proxy>",
    "<Proxy balancer://x>\nProxySet lbmethod\n</Proxy>",
    "ProxySet balancer://q lbmethod=byrequests",
    "ProxySet http://q/ retry=3",
    "ProxyPass /q http://q/\nProxySet http://q/ retry=3",
    "ProxyPass",
    "ProxyPass /a",
    "ProxyPass a http://h/",
    "ProxyPass /a b",
    "ProxyPass /a http://h/ x",
    "ProxyPass /a http://h/ x=y",
    "ProxyPass /a !",
    "ProxyPass /a http://h/ nocanon retry=3 timeout=5",
    "ProxyPass /a \"http://h/",
    "ProxyPass /a balancer://h/ x=y",
    "ProxyPass /a balancer://h/ lbmethod=foo",
    "ProxyPass /a balancer://h/ stickysession=S",
    "ProxyPass /a http://a/\nProxyPass /b http://a/b retry=3",
    "ProxyPassReverse",
    "ProxyPassReverse /a",
    "ProxyPassReverse /a http://h/",
    "ProxyPassReverse /a balancer://x/",
    "# a comment \\\nFoo\nFoo",
    "  # not a comment? \n\t keepalive   \"On\"  ",
    "LoadModule",
    "PidFile",
    "<Directory /a>\nAllowOverride None\n</Directory>",
    "StartServers 2\nMaxRequestWorkers 400\nThreadsPerChild 25",
];
