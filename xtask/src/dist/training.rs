//! Traffic for the profile: what sites see, and on purpose nothing that `bench l7` measures. Other
//! paths, sizes, fields and routes; cookies and sessions, bodies both ways, errors, TLS 1.2 and 1.3,
//! HTTP/2 where it is offered, kept and closed connections, mixed by several clients at once.
//!
//! curl is the client (the benchmark's are wrk, h2load and our own), the lab's members answer.

mod visits;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{Member, Sluice, sluice::Place};

use self::visits::{RAW, VISITS};

/// User and group of the proxy where this runs as root.
pub(super) const NOBODY: u32 = 65_534;
/// Clients at once.
const CLIENTS: usize = 4;
/// Kept connections that ask now and then, and how long they say nothing between.
const LINGERING: usize = 24;
const LINGER: Duration = Duration::from_millis(1500);

/// How many answers there were, by status and by version of HTTP.
#[derive(Debug, Default)]
pub(super) struct Seen {
    statuses: BTreeMap<u16, u64>,
    versions: BTreeMap<String, u64>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (version, count) in other.versions {
            *self.versions.entry(version).or_default() += count;
        }
    }

    /// `200 1.1`: curl's word on a transfer.
    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(status), Some(version)) = (words.next(), words.next()) else {
            return;
        };
        if let Ok(status) = status.parse() {
            *self.statuses.entry(status).or_default() += 1;
            *self.versions.entry(version.to_owned()).or_default() += 1;
        }
    }

    /// Fails if a kind of traffic that the profile is to know did not take place.
    fn check(&self) -> Result<()> {
        for status in [200, 201, 302, 400, 404, 502, 503] {
            ensure!(
                self.statuses.contains_key(&status),
                "no request of the training was answered with {status}: {self}"
            );
        }
        let good = self.statuses.get(&200).copied().unwrap_or(0);
        let all: u64 = self.statuses.values().sum();
        ensure!(
            good * 2 > all,
            "less than half of the training's answers are 200: {self}"
        );
        Ok(())
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answers;", self.statuses.values().sum::<u64>())?;
        for (status, count) in &self.statuses {
            write!(f, " {status}: {count}")?;
        }
        write!(f, "; by version of HTTP (0: none)")?;
        for (version, count) in &self.versions {
            write!(f, " {version}: {count}")?;
        }
        Ok(())
    }
}

/// Where the program under training listens.
#[derive(Clone, Copy, Debug)]
struct Doors {
    web: SocketAddr,
    tls: SocketAddr,
}

/// Starts `program` in a folder of its own, sends traffic for `seconds`, and ends it gracefully.
pub(super) fn run(program: &Path, seconds: u64) -> Result<Seen> {
    ensure!(lab::has_tool("curl"), "curl is not installed");
    let dir = std::env::temp_dir().join(format!("sluice-training-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = inside(&dir, program, seconds);
    let _ = fs::remove_dir_all(&dir);
    outcome
}

fn inside(dir: &Path, program: &Path, seconds: u64) -> Result<Seen> {
    let members: Vec<_> = ["ann", "bob", "cid"]
        .iter()
        .map(|name| Member::start_here(name, ([127, 0, 0, 1], 0).into()))
        .collect::<Result<_>>()?;
    let [web, tls, dead] = free_addresses()?;
    let doors = Doors { web, tls };
    certificate(dir)?;
    for (name, bytes) in [("form", 900), ("photo", 41_000), ("film", 700_000)] {
        // Compressible or not is all one: nothing here compresses.
        fs::write(dir.join(name), vec![b'u'; bytes])?;
    }
    let mut place = Place::here(dir, "training", web)?;
    program.clone_into(&mut place.program);
    let configuration = configuration(dir, doors, &members, dead);
    let mut sluice = Sluice::start_in(place, &configuration, &["--no-xdp"])?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let seen = thread::scope(|scope| {
        let lingering = scope.spawn(move || linger(web, end));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(dir, doors, number, end)))
            .collect();
        let mut seen = Seen::default();
        for client in clients {
            seen.add(client.join().ok().context("a client panicked")??);
        }
        lingering.join().ok().context("a client panicked")??;
        anyhow::Ok(seen)
    })?;
    // What an operator asks belongs to control's profile.
    for words in [["status"].as_slice(), &["member", "list"], &["metrics"]] {
        sluice.cli(words)?.ok()?;
    }
    // Only who ends by itself writes its counts.
    let code = sluice.stop()?;
    ensure!(code == 0, "sluice ended with {code}: {}", sluice.log());
    seen.check()?;
    Ok(seen)
}

/// One client: the visits in turn, from another one than its fellows, until the end.
fn client(dir: &Path, doors: Doors, number: usize, end: Instant) -> Result<Seen> {
    let mut seen = Seen::default();
    let first = VISITS.len() * number / CLIENTS;
    for (count, visit) in VISITS.iter().cycle().skip(first).enumerate() {
        // Everybody goes round at least once in all.
        if Instant::now() > end && count > VISITS.len() / CLIENTS {
            return Ok(seen);
        }
        let arguments = visit.iter().map(|word| {
            word.replace("{web}", &format!("http://{}", doors.web))
                .replace("{tls}", &format!("https://{}", doors.tls))
                .replace("{dir}", &dir.display().to_string())
        });
        let output = Command::new("curl")
            .args(["--disable", "--silent", "--insecure", "--max-time", "20"])
            .args(["--output", "/dev/null"])
            .args(["--write-out", "%{http_code} %{http_version}\\n"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("running curl")?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            seen.line(line);
        }
        if let Some(status) = raw(doors.web, RAW[count % RAW.len()]) {
            seen.line(&format!("{status} 1.1"));
        }
    }
    Ok(seen)
}

/// Sends what curl would not, and reads until the end; the answer's status, if there was one.
fn raw(web: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(web).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(bytes).ok()?;
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut answer = Vec::new();
    let _ = stream.take(64 * 1024).read_to_end(&mut answer);
    let head = String::from_utf8_lossy(&answer);
    head.split_whitespace().nth(1)?.parse().ok()
}

/// Connections that are kept and mostly idle.
fn linger(web: SocketAddr, end: Instant) -> Result<()> {
    let mut streams: Vec<_> = (0..LINGERING)
        .map(|_| TcpStream::connect(web))
        .collect::<Result<_, _>>()?;
    let mut answer = vec![0; 4096];
    loop {
        for (number, stream) in streams.iter_mut().enumerate() {
            let request = format!("GET /shop/later/{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            ensure!(stream.read(&mut answer)? > 0, "an idle connection ended");
        }
        if Instant::now() > end {
            return Ok(());
        }
        thread::sleep(LINGER);
    }
}

fn configuration(dir: &Path, doors: Doors, members: &[Member], dead: SocketAddr) -> String {
    let Doors { web, tls } = doors;
    let at: Vec<_> = members.iter().map(Member::address).collect();
    let dir = dir.display();
    let user = if rustix::process::geteuid().is_root() {
        format!("User #{NOBODY}\nGroup #{NOBODY}\n")
    } else {
        String::new()
    };
    let sites = "    ProxyPass \"/private\" \"!\"\n\
        \x20   ProxyPass \"/api/v2\" \"balancer://api/v2\"\n\
        \x20   ProxyPass \"/media/\" \"http://{media}/media/\" keepalive=On\n\
        \x20   ProxyPass \"/worn/\" \"balancer://worn/\"\n\
        \x20   ProxyPass \"/gone/\" \"balancer://gone/\"\n\
        \x20   ProxyPass \"/shop\" \"balancer://shop/shop\" stickysession=SESSION|session\n\
        \x20   ProxyPassReverse \"/shop\" \"balancer://shop/shop\"\n"
        .replace("{media}", &at[2].to_string());
    format!(
        "ServerName training.test\nListen {web}\nListen {tls} https\n{user}\
         KeepAliveTimeout 30\nTimeout 20\nErrorLog \"{dir}/error.log\"\n\
         LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b \\\"%{{Referer}}i\\\" \\\"%{{User-Agent}}i\\\"\" combined\n\
         <Proxy \"balancer://shop\">\n    BalancerMember \"http://{}\" route=ann loadfactor=3\n\
         \x20   BalancerMember \"http://{}\" route=bob\n    BalancerMember \"http://{}\" route=cid loadfactor=2\n\
         </Proxy>\n\
         <Proxy \"balancer://api\">\n    BalancerMember \"http://{}\"\n    BalancerMember \"http://{}\"\n</Proxy>\n\
         <Proxy \"balancer://worn\">\n    BalancerMember \"http://{dead}\" retry=1\n\
         \x20   BalancerMember \"http://{}\" retry=1\n</Proxy>\n\
         <Proxy \"balancer://gone\">\n    BalancerMember \"http://{dead}\" retry=2\n</Proxy>\n\
         <VirtualHost {web}>\n    ServerName shop.test\n    ServerAlias *.shop.test\n\
         \x20   CustomLog \"{dir}/access.log\" combined\n{sites}</VirtualHost>\n\
         <VirtualHost {web}>\n    ServerName api.test\n    ProxyPreserveHost On\n{sites}</VirtualHost>\n\
         <VirtualHost {tls}>\n    ServerName shop.test\n    Protocols h2 http/1.1\n    SSLEngine on\n\
         \x20   SSLCertificateFile \"{dir}/certificate.pem\"\n    SSLCertificateKeyFile \"{dir}/key.pem\"\n\
         \x20   CustomLog \"{dir}/tls.log\" combined\n{sites}</VirtualHost>\n",
        at[0], at[1], at[2], at[0], at[1], at[2],
    )
}

fn certificate(dir: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .current_dir(dir)
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=shop.test",
        ])
        .args(["-addext", "subjectAltName=DNS:shop.test,DNS:*.shop.test"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .stdin(Stdio::null())
        .output()
        .context("running openssl")?;
    ensure!(
        output.status.success(),
        "openssl made no certificate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Addresses that nobody listens on, all different.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let listeners: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let addresses: Vec<_> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    addresses.try_into().ok().context("three were bound")
}
