//! A httpd, a sluice and a member that answers with what it received.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::Signal;

use super::harness::{PATIENCE, Sluice, free_port, send_signal, wait_until};

const PROGRAM: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";

/// Both, with one configuration.
pub(crate) struct Pair {
    httpd: Child,
    httpd_port: u16,
    sluice: Sluice,
    dir: tempfile::TempDir,
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.httpd.kill();
        let _ = self.httpd.wait();
    }
}

/// What a client got of one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Status.
    pub(crate) status: u16,
    /// Fields, names in lower case, in order of name.
    pub(crate) fields: Vec<(String, String)>,
    /// What the member received, or the text; empty for pages of the two's own.
    pub(crate) body: String,
}

/// Whether httpd is here.
pub(crate) fn is_here() -> bool {
    if Path::new(PROGRAM).exists() && Path::new(MODULES).is_dir() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "apache2 is not installed: in CI parity must be tested"
    );
    eprintln!("SKIPPED: apache2 is not installed, parity with httpd was not tested");
    false
}

/// A member that answers with what it received, with the status in `X-Status` and the Location in
/// `X-Place`.
pub(crate) fn member() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with the connection; its errors are the test's to notice at the client.
            thread::spawn(move || drop(echo(&stream)));
        }
    });
    address
}

fn name_of(field: &str) -> &str {
    field.split(':').next().unwrap_or(field)
}

fn echo(stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut fields, mut length, mut status) = (Vec::new(), 0, 200);
        let mut place = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            let (name, value) = line.trim_end().split_once(':').unwrap_or_default();
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "x-place" => place = format!("Location: {value}\r\n"),
                "x-status" => status = value.parse().unwrap_or(200),
                _ => {}
            }
            // Which of the two asks, nobody else.
            if name != "connection" {
                fields.push(format!("{name}: {value}"));
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        // Stable: which of one name comes first means something.
        fields.sort_by(|a: &String, b| name_of(a).cmp(name_of(b)));
        let text = format!("{}\n{}\n", first.trim_end(), fields.join("\n"));
        write!(
            writer,
            "HTTP/1.1 {status} Echo\r\nServer: echo\r\nX-Member: m\r\n{place}X-Twice: a\r\nX-Twice: b\r\n\
             Set-Cookie: S=1; Path=/i/sub; Domain=back.test\r\nVia: 1.0 inner\r\nWWW-Authenticate: Basic\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
    }
}

impl Pair {
    /// Starts both with `configuration`; `MEMBER` in it is the member's address.
    pub(crate) fn start(configuration: &str) -> Self {
        let configuration = configuration.replace("MEMBER", &member().to_string());
        Self::of([&configuration, &configuration])
    }

    /// Starts httpd with the first and sluice with the second; `{port}` in them is the port that
    /// it listens on at 127.0.0.1.
    pub(crate) fn of([theirs, ours]: [&str; 2]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().display();
        let httpd_port = free_port();
        let mut text = format!(
            "ServerRoot {root}\nDefaultRuntimeDir {root}\nPidFile {root}/pid\nErrorLog {root}/error.log\n\
             DocumentRoot {root}\nUser nobody\nGroup nogroup\nListen 127.0.0.1:{httpd_port}\n"
        );
        for name in [
            "mpm_event",
            "authz_core",
            "authz_host",
            "access_compat",
            "alias",
            "rewrite",
            "headers",
            "setenvif",
            "env",
            "slotmem_shm",
            "proxy",
            "proxy_http",
            "proxy_balancer",
            "lbmethod_byrequests",
            "lbmethod_heartbeat",
            "lbmethod_bytraffic",
            "lbmethod_bybusyness",
            "watchdog",
            "proxy_hcheck",
            "ssl",
        ] {
            let file = format!("{MODULES}/mod_{name}.so");
            // Some builds have them linked in.
            if Path::new(&file).exists() {
                let _ = writeln!(text, "LoadModule {name}_module {file}");
            }
        }
        let common = |configuration: &str, port: u16| {
            let configuration = configuration.replace("{port}", &port.to_string());
            format!("ServerName main.test\n{configuration}\n")
        };
        let file = dir.path().join("httpd.conf");
        fs::write(&file, text + &common(theirs, httpd_port)).expect("written");
        let httpd = httpd(dir.path(), httpd_port);
        let mut sluice = Sluice::prepare(&[]);
        let port = sluice.port;
        let ours = common(ours, port);
        sluice.write(&format!("Listen 127.0.0.1:{port}\nSluiceShards 1\n{ours}"));
        sluice.run();
        Self {
            httpd,
            httpd_port,
            sluice,
            dir,
        }
    }

    /// Stops both, and starts them again with what they left.
    pub(crate) fn restart(&mut self) {
        // What httpd keeps it writes as the user that it serves as.
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777))
            .expect("permissions");
        send_signal(self.httpd.id(), Signal::TERM);
        self.httpd.wait().expect("httpd ends");
        self.httpd = httpd(self.dir.path(), self.httpd_port);
        self.sluice.signal(Signal::TERM);
        assert_eq!(self.sluice.wait(), Some(0), "{}", self.sluice.log());
        self.sluice.run();
    }

    /// What both say to a request: its first line's start and fields, `GET /x` and `A: b`.
    pub(crate) fn ask(&self, line: &str, fields: &[&str]) -> (Seen, Seen) {
        (
            ask(self.httpd_port, line, fields),
            ask(self.sluice.port, line, fields),
        )
    }

    /// Where the two listen.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.httpd_port, self.sluice.port]
    }

    /// httpd's error log.
    pub(crate) fn their_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// sluice's error log.
    pub(crate) fn log(&self) -> String {
        self.sluice.log()
    }
}

/// Runs httpd with `httpd.conf` in `dir`.
fn httpd(dir: &Path, port: u16) -> Child {
    let mut httpd = Command::new(PROGRAM)
        .arg("-X")
        .arg("-f")
        .arg(dir.join("httpd.conf"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("httpd starts");
    let log = dir.join("error.log");
    wait_until("httpd listens", || {
        if let Some(status) = httpd.try_wait().expect("wait") {
            let said = fs::read_to_string(&log).unwrap_or_default();
            panic!("httpd ended ({status}): {said}");
        }
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    httpd
}

/// One request on a connection of its own.
fn ask(port: u16, line: &str, fields: &[&str]) -> Seen {
    let mut head = format!("{line} HTTP/1.1\r\n");
    if !fields.iter().any(|field| field.starts_with("Host:")) {
        head += "Host: site.test\r\n";
    }
    for field in fields {
        head += field;
        head += "\r\n";
    }
    head += "Connection: close\r\n\r\n";
    let answer = exchange(("127.0.0.1", port), head.as_bytes());
    seen(&answer).expect("a head")
}

/// Everything that comes until the end of a connection on which this was sent.
pub(crate) fn exchange(to: impl ToSocketAddrs, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    // A reset is an end as well: what came before it counts.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    }
    answer
}

/// What an answer says, if it is one: without a head there is none.
pub(crate) fn seen(answer: &[u8]) -> Option<Seen> {
    let answer: String = answer.iter().copied().map(char::from).collect();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    // What only a member's response has, or the operator's text.
    let passed = fields.iter().any(|(name, _)| name == "x-member");
    let own = ["date", "connection", "keep-alive"];
    let pages = ["server", "content-length", "content-type"];
    fields.retain(|(name, _)| {
        !own.contains(&name.as_str()) && (passed || !pages.contains(&name.as_str()))
    });
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_page = body.starts_with("<!DOCTYPE");
    Some(Seen {
        status,
        fields,
        body: if is_page {
            String::new()
        } else {
            body.to_owned()
        },
    })
}
