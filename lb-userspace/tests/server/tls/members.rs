//! TLS to members: httpd with mod_ssl as the member, and members that misbehave.

use std::{net::TcpListener, thread};

use super::*;

#[path = "members/names.rs"]
mod names;
#[path = "members/verification.rs"]
mod verification;

/// An authority of the test's own, certificates from it, and members.
struct Site {
    sluice: Sluice,
}

impl Site {
    fn new() -> Self {
        let sluice = Sluice::prepare(&[]);
        // The members' user reads them.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(sluice.dir.path(), open).expect("permissions");
        let this = Self { sluice };
        make(this.dir(), "ca", "DNS:ca.test", EC);
        this.issue("good", "ca", "DNS:localhost,IP:127.0.0.1", 30, "");
        this
    }

    fn dir(&self) -> &Path {
        self.sluice.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn openssl(&self, args: &[&str]) {
        openssl(self.dir(), args);
    }

    /// `NAME.pem` and `NAME.key`, signed by `issuer`.
    fn issue(&self, name: &str, issuer: &str, names: &str, days: i32, extension: &str) {
        issue(self.dir(), name, issuer, names, days, extension);
    }

    /// Runs with these lines, and the members' authority is trusted.
    fn run(&mut self, lines: &str) {
        self.write(lines);
        self.sluice.run();
    }

    fn write(&self, lines: &str) {
        self.sluice.write(&format!(
            "Listen 127.0.0.1:{}\nTimeout 5\n<IfModule sluice_module>\nSluiceShards 1\n</IfModule>\n{lines}\n",
            self.sluice.port
        ));
    }

    /// Head and body of an answer.
    fn get(&self, path: &str, more: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["-sS", "-i", "--max-time", "20"])
            .args(more)
            .arg(format!("http://127.0.0.1:{}{path}", self.sluice.port))
            .output()
            .expect("curl is installed");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn status(&self, path: &str) -> String {
        let answer = self.get(path, &[]);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    fn log(&self) -> String {
        self.sluice.log()
    }
}

/// httpd with mod_ssl: says of each request in `X-Tls` what TLS it came over.
struct Httpd {
    child: std::process::Child,
    port: u16,
    home: PathBuf,
}

impl Httpd {
    fn start(site: &Site, certificate: &str, more: &str) -> Self {
        let port = free_port();
        let home = site.path(&format!("httpd-{port}"));
        fs::create_dir(&home).expect("made");
        fs::write(home.join("index.html"), "from httpd").expect("written");
        let modules: Vec<String> = [
            "mpm_event",
            "authz_core",
            "dir",
            "headers",
            "alias",
            "socache_shmcb",
            "ssl",
        ]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
        let modules = modules.concat();
        let (dir, place) = (site.dir().display(), home.display());
        let conf = format!(
            "ServerRoot {dir}\nServerName member.test\nPidFile {place}/pid\nErrorLog {place}/log\nUser www-data\nGroup www-data\n\
             {modules}Listen {port}\nStartServers 1\nServerLimit 1\nThreadLimit 8\nThreadsPerChild 8\nMaxRequestWorkers 8\n\
             DocumentRoot {place}\nDirectoryIndex index.html\nSSLSessionCache shmcb:{place}/cache(64000)\n\
             SSLEngine on\nSSLCertificateFile {certificate}.pem\nSSLCertificateKeyFile {certificate}.key\n\
             Header always set X-Tls \"%{{SSL_PROTOCOL}}s %{{SSL_SESSION_RESUMED}}s %{{SSL_TLS_SNI}}s %{{SSL_CLIENT_S_DN}}s\"\n\
             CustomLog {place}/access \"%r\"\nRedirect 302 /away https://localhost:{port}/there\n{more}\n"
        );
        fs::write(home.join("conf"), conf).expect("written");
        let child = Command::new("/usr/sbin/apache2")
            .args(["-DFOREGROUND", "-f"])
            .arg(home.join("conf"))
            .stderr(Stdio::null())
            .spawn()
            .expect("apache2 is installed");
        wait_until(&format!("httpd listens: {place}/log"), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { child, port, home }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.port)
    }
}

impl Drop for Httpd {
    fn drop(&mut self) {
        // Its children are told by it.
        super::super::harness::send_signal(self.child.id(), rustix::process::Signal::TERM);
        drop(self.child.wait());
    }
}

/// A member that accepts, does `with` each connection and closes it.
fn odd(with: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || with(stream));
        }
    });
    port
}

const TRUST: &str = "SSLProxyEngine on\nSSLProxyCACertificateFile ca.pem\n";

#[test]
fn requests_go_over_tls_and_connections_are_used_again() {
    let mut site = Site::new();
    let member = Httpd::start(&site, "good", "");
    site.run(&format!(
        "{TRUST}ProxyPass / {url}/\nProxyPassReverse / {url}/\n",
        url = member.url("localhost")
    ));
    for _ in 0..3 {
        let answer = site.get("/", &[]);
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{answer}\n{}",
            site.log()
        );
        assert!(
            answer.contains("x-tls: TLSv1.3 Initial localhost"),
            "{answer}"
        );
        assert!(answer.ends_with("from httpd"), "{answer}");
    }
    let away = site.get("/away/x", &[]);
    let own = format!("location: http://127.0.0.1:{}/there/x", site.sluice.port);
    assert!(away.contains(&own), "{away}");
    // TLS 1.3 by one connection: `Initial` every time, though tickets were there to resume.
    assert!(!site.log().contains("AH0"), "{}", site.log());
}

#[test]
fn a_new_connection_resumes_the_session() {
    let mut site = Site::new();
    let member = Httpd::start(&site, "good", "");
    let old = Httpd::start(&site, "good", "SSLProtocol TLSv1.2");
    site.run(&format!(
        "{TRUST}ProxyPass /old/ {}/ disablereuse=On\nProxyPass / {}/ disablereuse=On\n",
        old.url("localhost"),
        member.url("localhost")
    ));
    for (path, version) in [("/", "TLSv1.3"), ("/old/", "TLSv1.2")] {
        let said: Vec<String> = (0..3)
            .map(|_| {
                let answer = site.get(path, &[]);
                let line = answer.lines().find(|line| line.starts_with("x-tls: "));
                line.unwrap_or(&answer).to_owned()
            })
            .collect();
        assert!(said[0].contains(&format!("{version} Initial")), "{said:?}");
        for later in &said[1..] {
            assert!(later.contains(&format!("{version} Resumed")), "{said:?}");
        }
    }
}

#[test]
fn the_name_is_the_member_s_or_the_host_s_that_is_preserved() {
    let mut site = Site::new();
    site.issue("many", "ca", "DNS:a.test,DNS:b.test,IP:127.0.0.1", 30, "");
    let member = Httpd::start(&site, "many", "");
    site.run(&format!(
        "{TRUST}ProxyPreserveHost On\nProxyPass / {}/\n",
        member.url("127.0.0.1")
    ));
    // One after the other on the pool's connections: never on one made for another name.
    for (host, sni) in [
        ("a.test", "a.test"),
        ("b.test", "b.test"),
        ("a.test:81", "a.test"),
    ] {
        let answer = site.get("/", &["-H", &format!("Host: {host}")]);
        assert!(
            answer.contains(&format!("x-tls: TLSv1.3 Initial {sni}")),
            "{host}: {answer}"
        );
    }
    let answer = site.get("/", &["-H", "Host: c.test"]);
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(
        site.log().contains("certificate not accepted"),
        "{}",
        site.log()
    );
}

#[test]
fn a_member_that_asks_gets_the_certificate_of_the_authority_it_names() {
    let mut site = Site::new();
    make(site.dir(), "other", "DNS:other.test", EC);
    site.issue("stranger", "other", "DNS:stranger.test", 30, "");
    site.issue(
        "middle",
        "ca",
        "DNS:middle.test",
        30,
        "basicConstraints=CA:TRUE\n",
    );
    site.issue("machine", "middle", "DNS:machine.test", 30, "");
    let read = |name: &str| fs::read_to_string(site.path(name)).expect("a file");
    let all: String = ["stranger.pem", "stranger.key", "machine.pem", "machine.key"]
        .map(read)
        .concat();
    fs::write(site.path("machines.pem"), all).expect("written");
    let wants = "SSLVerifyClient require\nSSLVerifyDepth 3\nSSLCACertificateFile ca.pem";
    let member = Httpd::start(&site, "good", wants);
    let url = member.url("localhost");
    site.run(&format!(
        "{TRUST}<Proxy {url}/with>\nSSLProxyMachineCertificateFile machines.pem\n\
         SSLProxyMachineCertificateChainFile middle.pem\n</Proxy>\n\
         ProxyPass /with {url}/with\nProxyPass / {url}/\n"
    ));
    let answer = site.get("/with", &[]);
    assert!(
        answer.contains("Initial localhost CN=machine"),
        "{answer}\n{}",
        site.log()
    );
    // In TLS 1.3 the member says no after the handshake's end.
    assert!(site.status("/").starts_with('5'), "{}", site.log());
}

#[test]
fn a_handshake_that_fails_is_answered_as_by_httpd() {
    let mut site = Site::new();
    let gone = odd(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
    });
    let plain = odd(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let silent = odd(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    // Half a record, and no more.
    let half = odd(|mut stream| {
        let _ = stream.write_all(&[22, 3, 3, 0, 100, 2, 0]);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let old = Httpd::start(&site, "good", "SSLProtocol TLSv1.2");
    let lines: Vec<String> = [
        ("gone", gone),
        ("plain", plain),
        ("silent", silent),
        ("half", half),
    ]
    .iter()
    .map(|(name, port)| {
        format!("ProxyPass /{name} https://127.0.0.1:{port}/ connectiontimeout=500ms\n")
    })
    .collect();
    let (url, lines) = (old.url("localhost"), lines.concat());
    site.run(&format!(
        "{TRUST}CustomLog access \"%U %>s %{{SLUICE_REASON}}e\"\n{lines}\
         ProxyPass /old {url}/\n<Proxy {url}>\nSSLProxyProtocol TLSv1.3\n</Proxy>\n\
         <Proxy balancer://both>\nBalancerMember https://127.0.0.1:{gone} route=gone\nBalancerMember {url} route=old\n</Proxy>\n\
         ProxyPass /both balancer://both\n"
    ));
    for name in ["gone", "plain", "silent", "half", "old"] {
        for _ in 0..2 {
            // Twice: a worker of its own is not put into error.
            let answer = site.get(&format!("/{name}"), &[]);
            assert!(answer.starts_with("HTTP/1.1 500"), "{name}: {answer}");
            assert!(
                answer.contains("Error during SSL Handshake with remote server"),
                "{answer}"
            );
        }
    }
    // No other member is tried; one of a balancer goes into error.
    let both: Vec<String> = (0..4).map(|_| site.status("/both")).collect();
    assert_eq!(both, ["500", "200", "200", "200"], "{}", site.log());
    wait_until("the access log is written", || {
        let log = fs::read_to_string(site.path("access")).unwrap_or_default();
        log.matches(" 500 member_tls").count() == 11
    });
    let log = site.log();
    assert_eq!(
        log.matches("AH00898: Error during SSL Handshake").count(),
        11,
        "{log}"
    );
    assert!(log.contains("not done in time"), "{log}");
}

#[test]
fn a_reload_with_other_settings_uses_no_connection_of_before() {
    let mut site = Site::new();
    let member = Httpd::start(&site, "good", "");
    let url = member.url("localhost");
    let with = |more: &str| format!("{TRUST}{more}ProxyPass / {url}/\n");
    site.run(&with(""));
    assert!(site.get("/", &[]).contains("TLSv1.3 Initial"));
    let reload = |lines: &str| {
        let before = site.sluice.status()["generation"].clone();
        site.write(lines);
        site.sluice.signal(rustix::process::Signal::USR1);
        wait_until("the reload is done", || {
            site.sluice.status()["generation"] != before
        });
    };
    // The same settings, on another line: the connection stays.
    reload(&with("\n\n"));
    assert!(site.get("/", &[]).contains("TLSv1.3 Initial"));
    reload(&with("SSLProxyProtocol TLSv1.2\n"));
    assert!(
        site.get("/", &[]).contains("x-tls: TLSv1.2 Initial"),
        "{}",
        site.log()
    );
    // Another authority: what was trusted before is not any more.
    make(site.dir(), "other", "DNS:other.test", EC);
    fs::rename(site.path("other.pem"), site.path("ca.pem")).expect("renamed");
    wait_until("the new authority counts", || site.status("/") == "500");
}

#[test]
fn metrics_count_handshakes_of_either_side_by_their_ends() {
    let mut site = Site::new();
    let member = Httpd::start(&site, "good", "");
    let plain = odd(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    site.issue("wrong", "ca", "DNS:other.test", 30, "");
    let wrong = Httpd::start(&site, "wrong", "");
    let (secure, metrics) = (free_port(), free_port());
    site.run(&format!(
        "{TRUST}<IfModule sluice_module>\nSluiceMetrics 127.0.0.1:{metrics}\n</IfModule>\nListen 127.0.0.1:{secure}\n\
         ProxyPass /plain https://127.0.0.1:{plain}/ connectiontimeout=3\n\
         ProxyPass /wrong {}/\nProxyPass / {}/ disablereuse=On\n\
         <VirtualHost *:{secure}>\nServerName localhost\nSSLEngine on\nSSLCertificateFile good.pem\nSSLCertificateKeyFile good.key\n</VirtualHost>\n",
        wrong.url("127.0.0.1"),
        member.url("localhost"),
    ));
    for (path, status) in [
        ("/", "200"),
        ("/", "200"),
        ("/plain", "500"),
        ("/wrong", "500"),
    ] {
        assert_eq!(site.status(path), status, "{path}");
    }
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-m", "10", "--cacert"]);
        command.arg(site.path("ca.pem")).args(args);
        let url = format!("https://localhost:{secure}/");
        command
            .arg(url)
            .status()
            .expect("curl is installed")
            .success()
    };
    assert!(curl(&["--tls-max", "1.2"]) && curl(&[]));
    assert!(!curl(&["--tls-max", "1.2", "--ciphers", "AES128-SHA"]));
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x04noise",
        b"",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", secure)).expect("connect");
        stream.write_all(bytes).expect("written");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("shut down");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let value = |line: &str| {
        let page = site.sluice.ok(&["metrics"]);
        let found = page
            .lines()
            .find_map(|own| own.strip_prefix(line)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("{line} in\n{page}"))
            .to_owned()
    };
    for (line, count) in [
        (
            "sluice_tls_handshakes_total{peer=\"member\",version=\"TLSv1.3\",kind=\"full\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_total{peer=\"member\",version=\"TLSv1.3\",kind=\"resumed\"}",
            "3",
        ),
        (
            "sluice_tls_handshakes_total{peer=\"client\",version=\"TLSv1.3\",kind=\"full\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_total{peer=\"client\",version=\"TLSv1.2\",kind=\"full\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"member\",reason=\"no_tls\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"member\",reason=\"certificate\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"client\",reason=\"incompatible\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"client\",reason=\"plain_http\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"client\",reason=\"no_tls\"}",
            "1",
        ),
        (
            "sluice_tls_handshakes_failed_total{peer=\"client\",reason=\"closed\"}",
            "1",
        ),
        ("sluice_requests_failed_total{reason=\"member_tls\"}", "1"),
        (
            "sluice_requests_failed_total{reason=\"member_certificate\"}",
            "1",
        ),
    ] {
        // Whoever is told the end may know it before it is counted.
        wait_until(&format!("{line} {count}"), || value(line) == count);
    }
    let file = site.path("good.pem").display().to_string();
    let until = value(&format!(
        "sluice_tls_certificate_expiry_time_seconds{{file=\"{file}\"}}"
    ));
    let until: f64 = until.parse().expect("a number");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = (until - now.expect("after 1970").as_secs_f64()) / 86_400.0;
    assert!((29.0..30.1).contains(&days), "{days} days");
}

#[test]
fn health_checks_speak_tls_as_requests_do() {
    let mut site = Site::new();
    site.issue("wrong", "ca", "DNS:other.test", 30, "");
    let member = Httpd::start(&site, "good", "");
    let wrong = Httpd::start(&site, "wrong", "");
    site.run(&format!(
        "{TRUST}<Proxy balancer://app>\nBalancerMember {} hcmethod=GET hcuri=/ hcinterval=1 hcfails=2\n\
         BalancerMember {} hcmethod=GET hcuri=/ hcinterval=1 hcfails=1\n</Proxy>\nProxyPass / balancer://app/\n",
        member.url("localhost"),
        wrong.url("127.0.0.1"),
    ));
    let states = || {
        let status = site.sluice.status();
        let members = status["members"].as_array().expect("members").clone();
        let states = members.iter().map(|member| member["state"].to_string());
        states.collect::<Vec<String>>()
    };
    let out = || states().iter().filter(|state| state.contains('C')).count();
    wait_until("the wrong one is found out", || out() == 1);
    wait_until("its reason is logged", || {
        site.log().contains("certificate not accepted")
    });
    wait_until("the good one was asked often enough to fail", || {
        let asked = fs::read_to_string(member.home.join("access")).unwrap_or_default();
        asked.matches("GET / HTTP/1.0").count() >= 3
    });
    assert_eq!(out(), 1);
    assert_eq!(site.status("/"), "200");
}
