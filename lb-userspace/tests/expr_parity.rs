//! The same expressions evaluated by httpd 2.4 and by sluice, for one request: what one refuses
//! the other refuses, and values are equal. Needs httpd; where it is not installed this says so,
//! and fails when CI is set.

use std::{
    borrow::Cow,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sluice::expr::{Dialect, Expr, Facts, Moment, Table, Variable};

/// The request that both see.
const REQUEST: &str = "GET /shop/a%20b?x=1&y=2 HTTP/1.1\r\nHost: Shop.Example\r\n\
     User-Agent: probe/1.0\r\nCookie: JSESSIONID=abc.r1; theme=dark\r\nX-N: 12\r\n\
     X-Net: 10.1.2.3\r\nX-Empty:\r\nConnection: close\r\n\r\n";

const FIELDS: &[(&str, &str)] = &[
    ("host", "Shop.Example"),
    ("user-agent", "probe/1.0"),
    ("cookie", "JSESSIONID=abc.r1; theme=dark"),
    ("x-n", "12"),
    ("x-net", "10.1.2.3"),
    ("x-empty", ""),
    ("connection", "close"),
];

struct Probe;

impl Facts for Probe {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let text: &str = match variable {
            Variable::Method => "GET",
            Variable::Scheme => "http",
            Variable::Uri => "/shop/a b",
            Variable::RemoteAddress | Variable::Peer => "127.0.0.1",
            Variable::ServerName => "shop.example",
            Variable::Protocol => "HTTP/1.1",
            Variable::Query => "x=1&y=2",
            Variable::RequestLine => "GET /shop/a%20b?x=1&y=2 HTTP/1.1",
            Variable::Https | Variable::Http2 | Variable::Ipv6 => "off",
            _ => return None,
        };
        Some(text.as_bytes().into())
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        match table {
            Table::Request => FIELDS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_bytes().into()),
            Table::Environment => (name == "site").then(|| b"north"[..].into()),
            _ => None,
        }
    }

    fn remote(&self) -> Option<IpAddr> {
        Some([127, 0, 0, 1].into())
    }

    fn now(&self) -> Moment {
        Moment {
            year: 2026,
            ..Moment::default()
        }
    }
}

struct Httpd {
    child: Child,
}

impl Drop for Httpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<(PathBuf, PathBuf)> {
    let program = PathBuf::from("/usr/sbin/apache2");
    let modules = PathBuf::from("/usr/lib/apache2/modules");
    (program.exists() && modules.exists()).then_some((program, modules))
}

fn preamble(root: &Path, modules: &Path) -> String {
    let mut text = format!(
        "ServerRoot {0}\nDefaultRuntimeDir {0}\nPidFile {0}/pid\nErrorLog {0}/error.log\n\
         ServerName shop.test\nUser nobody\nGroup nogroup\n",
        root.display()
    );
    for name in [
        "mpm_event",
        "authz_core",
        "headers",
        "setenvif",
        "ssl",
        "socache_shmcb",
        "alias",
    ] {
        let file = modules.join(format!("mod_{name}.so"));
        if file.exists() {
            let _ = writeln!(text, "LoadModule {name}_module {}", file.display());
        }
    }
    text
}

/// An expression as an argument in double quotes: what is in it twice is escaped.
fn quoted(expression: &str) -> String {
    expression.replace('\\', "\\\\").replace('"', "\\\"")
}

fn answer(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(REQUEST.as_bytes()).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    Some(text.into_iter().map(char::from).collect())
}

fn skip() -> bool {
    assert!(
        std::env::var_os("CI").is_none(),
        "httpd is not installed: cargo xtask setup installs it"
    );
    eprintln!("skipped: httpd is not installed");
    true
}

#[test]
fn values_are_those_of_httpd() {
    let Some((program, modules)) = program() else {
        skip();
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    // Bound and not listening: nobody else is given the port, and httpd, which names it, is.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let held = held.expect("a socket");
    held.set_reuse_address(true).expect("an option");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    held.bind(&any.into()).expect("a port");
    let port = held.local_addr().expect("it is bound").as_socket();
    let port = port.expect("IPv4").port();
    let mut text = preamble(dir.path(), &modules);
    let _ = writeln!(
        text,
        "Listen 127.0.0.1:{port}\nSetEnvIf Request_URI . site=north\nRedirect 404 /\nLimitRequestFieldSize 32000"
    );
    for (number, condition) in CONDITIONS.iter().enumerate() {
        let _ = writeln!(
            text,
            "Header always set C{number} 1 \"expr={}\"",
            quoted(condition)
        );
    }
    for (number, value) in TEXTS.iter().enumerate() {
        let _ = writeln!(
            text,
            "Header always set T{number} \"expr=[{}]\"",
            quoted(value)
        );
    }
    let file = dir.path().join("httpd.conf");
    fs::write(&file, text).expect("a file");
    let mut httpd = Httpd {
        child: Command::new(program)
            .arg("-X")
            .arg("-f")
            .arg(&file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("httpd starts"),
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let head = loop {
        if let Some(head) = answer(port) {
            break head;
        }
        if let Ok(Some(_)) = httpd.child.try_wait() {
            let mut said = String::new();
            if let Some(stderr) = &mut httpd.child.stderr {
                let _ = stderr.read_to_string(&mut said);
            }
            panic!("httpd ended: {said}");
        }
        assert!(Instant::now() < deadline, "httpd does not answer");
        std::thread::yield_now();
    };
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    };
    let mut wrong = Vec::new();
    for (number, condition) in CONDITIONS.iter().enumerate() {
        let theirs = field(&format!("C{number}")).is_some();
        let ours = Expr::condition(condition, Dialect::Request).map(|expr| expr.holds(&Probe));
        if ours != Ok(theirs) {
            wrong.push(format!("{condition}: httpd {theirs}, sluice {ours:?}"));
        }
    }
    for (number, value) in TEXTS.iter().enumerate() {
        let theirs = field(&format!("T{number}")).unwrap_or_default();
        let expr = Expr::text(&format!("[{value}]"), Dialect::Request);
        let ours: Result<String, _> =
            expr.map(|expr| expr.value(&Probe).into_iter().map(char::from).collect());
        if ours.as_ref() != Ok(&theirs) {
            wrong.push(format!("{value}: httpd {theirs:?}, sluice {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_httpd_refuses_is_refused() {
    let Some((program, modules)) = program() else {
        skip();
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut wrong = Vec::new();
    for condition in REFUSED {
        let text = format!(
            "{}Listen 127.0.0.1:1\nHeader always set X 1 \"expr={}\"\n",
            preamble(dir.path(), &modules),
            quoted(condition)
        );
        let file = dir.path().join("httpd.conf");
        fs::write(&file, text).expect("a file");
        let output = Command::new(&program)
            .args(["-t", "-f"])
            .arg(&file)
            .env_clear()
            .output()
            .expect("httpd starts");
        let ours = Expr::condition(condition, Dialect::Request);
        if output.status.success() || ours.is_ok() {
            let said = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!(
                "{condition}: httpd {said}, sluice {:?}",
                ours.err()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const CONDITIONS: &[&str] = &[
    "true",
    "false",
    "! false",
    "true || false && false",
    "!true || true",
    "!(true || true)",
    "not true or true",
    "true and not false",
    "%{REQUEST_METHOD} == 'GET'",
    "%{request_method} = 'GET'",
    "%{REQUEST_METHOD} != 'GET'",
    "%{REQUEST_METHOD} in {'HEAD', 'GET'}",
    "%{REQUEST_METHOD} -in { 'HEAD' }",
    "req('X-N') -gt 9",
    "req('X-N') gt 9",
    "req('X-N') > '9'",
    "req('X-N') -eq '012 monkeys'",
    "'-5' -lt 3",
    "'abc' -eq 0",
    "'99999999999999999999' -eq '9223372036854775807'",
    "10 lt 9",
    "'a' < 'b'",
    "'a' < 'A'",
    "-n req('Absent')",
    "-n req('X-Empty')",
    "-z %{HTTP_REFERER}",
    "-z %{HTTP_HOST}",
    "-T 'oFf'",
    "-T 'no'",
    "-T 'none'",
    "-T '0'",
    "-T '00'",
    "-T ''",
    "-T 'false'",
    "-T 'f'",
    "-R '127.0.0.0/8'",
    "-R '127'",
    "-R '10.0.0.0/8'",
    "-R '::/1'",
    "%{REMOTE_ADDR} -ipmatch '127.0.0.0/255.0.0.0'",
    "req('X-Net') -ipmatch '10.1.0.0/16'",
    "req('X-Net') -ipmatch '10.1'",
    "req('X-Net') -ipmatch '10.1.2.4'",
    "'::1' -ipmatch '::/1'",
    "'::1' -ipmatch '::/127'",
    "%{HTTP_HOST} =~ /^shop/i",
    "%{HTTP_HOST} =~ /^shop/",
    "%{HTTP_HOST} !~ m#^shop#",
    "%{REQUEST_URI} =~ m|^/([^/]+)/(.+)$| && $2 == 'a b'",
    "%{REQUEST_URI} =~ m|^/(.+)$| && %{HTTP_HOST} =~ /Ex/ && $1 == 'shop/a b'",
    "%{REQUEST_URI} =~ m|^/(.+)$| && %{HTTP_HOST} !~ /(nosuch)/ && $1 == ''",
    "%{HTTP_COOKIE} =~ /theme=([a-z]+)/ && \"x$1\" == 'xdark'",
    "%{HTTP_COOKIE} =~ /[[]/",
    "%{QUERY_STRING} =~ /x=[0-9]{1}&/",
    "%{QUERY_STRING} =~ /x{/",
    "%{REQUEST_URI} -strmatch '/shop/*'",
    "%{REQUEST_URI} -strmatch '/*b'",
    "%{REQUEST_URI} -fnmatch '/*'",
    "%{REQUEST_URI} -fnmatch '/*/a?[a-c]'",
    "%{REQUEST_URI} -fnmatch '/*/a?[!a-c]'",
    "%{HTTP_HOST} -strcmatch 'shop.*'",
    "%{HTTP_HOST} -strmatch 'shop.*'",
    "'[' -strmatch '['",
    "'a*' -strmatch 'a\\\\*'",
    "tolower(%{HTTP_HOST}) == 'shop.example'",
    "toupper('a') . 'b' == 'Ab'",
    "%{toupper:x%{REQUEST_METHOD}} == 'XGET'",
    "'a' . 'b' . 1 == 'ab1'",
    "\"%{REQUEST_METHOD}-$0\" == 'GET-'",
    "env('site') == 'north'",
    "reqenv('site') == 'north'",
    "osenv('site') == 'north'",
    "note('site') == ''",
    "%{HTTPS} == 'off'",
    "%{IPV6} == 'off'",
    "%{IS_SUBREQ} == 'false'",
    "%{TIME_YEAR} -gt 2000",
    "%{SSL_PROTOCOL} == ''",
    "'\\101\\n' == 'A'",
    "'\\x' == 'x'",
    "%{SERVER_NAME} == 'shop.example'",
    "%{SERVER_PROTOCOL} == 'HTTP/1.1'",
    "%{THE_REQUEST} =~ /^GET .shop/",
    "%{REQUEST_SCHEME} == 'http'",
    "unescape('a%2Fb') == 'a%2Fb'",
    "unescape('a%2fb%41') == 'a%2fbA'",
    "unescape('%zz') == ''",
    "unescape('%00') == ''",
];

const TEXTS: &[&str] = &[
    "",
    "plain",
    "100% of %{REQUEST_METHOD}s",
    "%{req:Host}",
    "%{req_novary:x-n}%{http:X-N}",
    "%{REQUEST_URI}",
    "%{QUERY_STRING}",
    "%{base64:a}%{base64:ab}%{base64:abc}",
    "%{unbase64:YQ==}%{unbase64:YWI=}%{unbase64:YWJj}",
    "%{md5:a}",
    "%{sha1:a}",
    "%{escape:a b/?&=+%,;@:!*}",
    "%{unescape:a%20b}",
    "%{ldap:a*(b)}",
    "a } b",
    "$1",
    "$ a",
    "%{tolower:%{HTTP_HOST}}",
    "%{HTTP_REFERER}%{HTTP_ACCEPT}",
    "%{SERVER_NAME}",
];

const REFUSED: &[&str] = &[
    "%{HTTPS}",
    "'a'",
    "'a' == ",
    "== 'a'",
    "'a' == 'b",
    "%{HTTP",
    "%{NO_SUCH}",
    "%{a b}",
    "nosuch('a') == ''",
    "hc('body') =~ /OK/",
    "'a' =~ 'b'",
    "'a' =~ /(/",
    "-q 'a'",
    "'a' -nosuch 'b'",
    "'a' -ipmatch 'b'",
    "'a' -ipmatch %{HTTP_HOST}",
    "'a' in 'b'",
    "'a' in {",
    "true true",
    "(true",
    "true)",
    "'\\400' == ''",
    "#",
    "- 'a'",
];
