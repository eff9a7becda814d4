//! The peers and their members: configuration files made to do the same work, and processes that
//! end with this one.
//!
//! All have one worker, three members by equal turns, the same forwarding fields, the client's
//! Host, kept connections on both sides without a limit on their requests, and no deferred accept.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Sluice, sluice::Place, tool_path, wait};

use super::client::Client;
use crate::exec;

/// A proxy under test. Dropping it ends it.
pub(super) struct Peer {
    /// What it is.
    pub(super) kind: Kind,
    /// Where it accepts.
    pub(super) address: SocketAddr,
    /// The first of its processes.
    pub(super) pid: i32,
    /// Its configuration, for the record.
    pub(super) configuration: String,
    log: PathBuf,
    _running: Running,
}

/// Which proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Kind {
    /// This one.
    Sluice,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// httpd with mod_proxy_balancer, event MPM.
    Httpd,
}

impl Kind {
    /// All, ourselves first: ratios are to the first.
    pub(super) const ALL: [Self; 4] = [Self::Sluice, Self::Nginx, Self::Haproxy, Self::Httpd];

    /// For tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Httpd => "httpd",
        }
    }

    /// Its program's name and the package that has it; `None`: built here.
    pub(super) const fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Sluice => None,
            Self::Nginx => Some(("nginx", "nginx")),
            Self::Haproxy => Some(("haproxy", "haproxy")),
            Self::Httpd => Some(("apache2", "apache2-bin")),
        }
    }

    /// What it says of its own version.
    pub(super) fn version(self, sluice: &Path) -> String {
        let (program, flag) = match self {
            Self::Sluice => (sluice.to_owned(), "--version"),
            Self::Nginx => (path_of("nginx"), "-v"),
            Self::Haproxy => (path_of("haproxy"), "-v"),
            Self::Httpd => (path_of("apache2"), "-v"),
        };
        let Ok(output) = Command::new(program).arg(flag).output() else {
            return "unknown".to_owned();
        };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.lines().next().unwrap_or("unknown").trim().to_owned()
    }
}

/// The access log's name.
const LOG: &str = "access.log";

/// What all proxies of a run are started with.
pub(super) struct Site {
    /// A folder of this run.
    pub(super) dir: PathBuf,
    /// The release build.
    pub(super) sluice: PathBuf,
    /// The members.
    pub(super) members: Vec<SocketAddr>,
}

enum Running {
    Sluice(#[expect(dead_code, reason = "held for its drop")] Box<Sluice>),
    Other(#[expect(dead_code, reason = "held for its drop")] Process),
}

/// A child in the foreground. Dropping it asks it to end, and kills it if it does not.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    /// Starts a proxy; with `is_logged`, it writes an access log in the common format.
    pub(super) fn start(kind: Kind, site: &Site, is_logged: bool) -> Result<Self> {
        let [address] = free_addresses()?;
        let dir = site.dir.join(format!("{}-{}", kind.name(), address.port()));
        make_dir(&dir)?;
        let at = At {
            dir: &dir,
            address,
            members: &site.members,
            is_logged,
            is_root: rustix::process::geteuid().is_root(),
        };
        let configuration = match kind {
            Kind::Sluice => sluice(&at),
            Kind::Nginx => nginx(&at),
            Kind::Haproxy => haproxy(&at),
            Kind::Httpd => httpd(&at),
        };
        let file = dir.join("conf");
        fs::write(&file, &configuration)?;
        let (running, pid) = match kind {
            Kind::Sluice => {
                let mut place = Place::here(&dir, "bench", address)?;
                site.sluice.clone_into(&mut place.program);
                let sluice = Sluice::start_in(place, &configuration, &["--no-xdp"])?;
                let pid = sluice.control()?.as_raw_pid();
                (Running::Sluice(Box::new(sluice)), pid)
            }
            Kind::Nginx => launch(Command::new(path_of("nginx")).arg("-c").arg(&file), &at)?,
            Kind::Haproxy => launch(
                Command::new(path_of("haproxy"))
                    .args(["-db", "-f"])
                    .arg(&file),
                &at,
            )?,
            Kind::Httpd => launch(
                Command::new(path_of("apache2"))
                    .arg("-DFOREGROUND")
                    .arg("-f")
                    .arg(&file),
                &at,
            )?,
        };
        Ok(Self {
            kind,
            address,
            pid,
            configuration,
            log: dir.join(LOG),
            _running: running,
        })
    }

    /// Asks a member through the proxy what it was sent, and demands that it is what all peers
    /// send: a peer that does less would look faster.
    pub(super) fn check(&self) -> Result<()> {
        let mut client = Client::connect(self.address, "/seen")?;
        let host = self.address;
        for _ in 0..4 {
            let seen = client.ask()?;
            let wanted = format!("127.0.0.1|{host}|bench.test|{host}|");
            ensure!(
                seen.starts_with(&wanted) && !seen[wanted.len()..].eq_ignore_ascii_case("close"),
                "{}: the member saw {seen:?}, not {wanted:?}",
                self.kind.name()
            );
        }
        Ok(())
    }

    /// Lines in its access log.
    pub(super) fn lines(&self) -> u64 {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().count() as u64
    }
}

/// What a member was sent, as `/seen` tells it.
const SEEN: &str = "$http_x_forwarded_for|$http_x_forwarded_host|$http_x_forwarded_server|\
    $http_host|$http_connection";

/// The members: one nginx worker that answers on three ports from memory.
pub(super) struct Members {
    /// Where.
    pub(super) addresses: Vec<SocketAddr>,
    _running: Running,
}

impl Members {
    /// Starts them. `/small` has 128 bytes, `/64k` 65 536.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let dir = dir.join("members");
        make_dir(&dir)?;
        fs::write(dir.join("64k"), vec![b'x'; 65_536])?;
        fs::write(dir.join("small"), vec![b'x'; 128])?;
        let addresses: [SocketAddr; 3] = free_addresses()?;
        let listen = lines(&addresses, |address| {
            format!("        listen {address} backlog=4096;")
        });
        let at = At {
            dir: &dir,
            address: addresses[0],
            members: &[],
            is_logged: false,
            is_root: rustix::process::geteuid().is_root(),
        };
        let root = dir.display();
        let text = format!(
            "{}    open_file_cache max=10;\n    sendfile on;\n    server {{\n{listen}        root {root};\n\
             \x20       location = /seen {{\n            return 200 \"{SEEN}\";\n        }}\n    }}\n}}\n",
            nginx_head(&at)
        );
        let file = dir.join("conf");
        fs::write(&file, text)?;
        let (running, _) = launch(Command::new(path_of("nginx")).arg("-c").arg(&file), &at)?;
        Ok(Self {
            addresses: addresses.to_vec(),
            _running: running,
        })
    }
}

/// What a configuration is made of.
struct At<'a> {
    dir: &'a Path,
    address: SocketAddr,
    members: &'a [SocketAddr],
    is_logged: bool,
    is_root: bool,
}

impl At<'_> {
    fn when(condition: bool, text: String) -> String {
        if condition { text } else { String::new() }
    }

    fn log(&self) -> String {
        self.dir.join(LOG).display().to_string()
    }
}

/// One line for each.
fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    let lines: Vec<_> = items.iter().map(|item| line(item) + "\n").collect();
    lines.concat()
}

fn sluice(at: &At<'_>) -> String {
    let user = At::when(at.is_root, "User nobody\nGroup nogroup\n".to_owned());
    let log = At::when(
        at.is_logged,
        format!(
            "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b\" common\nCustomLog \"{}\" common\n",
            at.log()
        ),
    );
    format!(
        "ServerName bench.test\nListen {}\nSluiceShards 1\n{user}{log}\
         KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 600\nProxyPreserveHost On\n\
         <Proxy \"balancer://members\">\n{}</Proxy>\n\
         ProxyPass \"/\" \"balancer://members/\"\n",
        at.address,
        lines(at.members, |member| format!(
            "    BalancerMember \"http://{member}\""
        )),
    )
}

fn nginx_head(at: &At<'_>) -> String {
    let dir = at.dir.display();
    let user = At::when(at.is_root, "user nobody nogroup;\n".to_owned());
    let log = if at.is_logged {
        format!(
            "    log_format common '$remote_addr - $remote_user [$time_local] \"$request\" $status \
             $body_bytes_sent';\n    access_log {} common buffer=64k flush=1s;\n",
            at.log()
        )
    } else {
        "    access_log off;\n".to_owned()
    };
    let temporary = lines(
        &["client_body", "proxy", "fastcgi", "uwsgi", "scgi"],
        |name| format!("    {name}_temp_path {dir}/{name};"),
    );
    format!(
        "daemon off;\nworker_processes 1;\n{user}pid {dir}/pid;\nerror_log {dir}/error.log error;\n\
         events {{\n    worker_connections 16384;\n}}\nhttp {{\n{temporary}{log}\
         \x20   keepalive_requests 1000000000;\n    keepalive_timeout 600s;\n"
    )
}

fn nginx(at: &At<'_>) -> String {
    format!(
        "{}    upstream members {{\n{}        keepalive 256;\n        keepalive_requests 1000000000;\n\
         \x20       keepalive_timeout 600s;\n    }}\n    proxy_max_temp_file_size 0;\n    server {{\n\
         \x20       listen {};\n        location / {{\n            proxy_pass http://members;\n\
         \x20           proxy_http_version 1.1;\n            proxy_set_header Connection \"\";\n\
         \x20           proxy_set_header Host $http_host;\n\
         \x20           proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         \x20           proxy_set_header X-Forwarded-Host $http_host;\n\
         \x20           proxy_set_header X-Forwarded-Server bench.test;\n        }}\n    }}\n}}\n",
        nginx_head(at),
        lines(at.members, |member| format!("        server {member};")),
        at.address,
    )
}

fn haproxy(at: &At<'_>) -> String {
    let user = At::when(
        at.is_root,
        "    user nobody\n    group nogroup\n".to_owned(),
    );
    let target = At::when(
        at.is_logged,
        "    log stdout format raw local0\n".to_owned(),
    );
    let log = At::when(
        at.is_logged,
        "    log global\n    log-format \"%ci - - [%trl] %{+Q}r %ST %B\"\n".to_owned(),
    );
    format!(
        "global\n    nbthread 1\n    maxconn 8000\n{user}{target}defaults\n    mode http\n{log}\
         \x20   timeout connect 5s\n    timeout client 600s\n    timeout server 600s\n\
         \x20   timeout http-keep-alive 600s\n    timeout http-request 60s\n\
         \x20   option http-keep-alive\n    http-reuse always\n    option forwardfor\n\
         frontend bench\n    bind {}\n\
         \x20   http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20   http-request set-header X-Forwarded-Server bench.test\n\
         \x20   default_backend members\nbackend members\n    balance roundrobin\n{}",
        at.address,
        lines(at.members, |member| {
            format!("    server m{} {member}", member.port())
        }),
    )
}

fn httpd(at: &At<'_>) -> String {
    const MODULES: &str = "/usr/lib/apache2/modules";
    let dir = at.dir.display();
    let modules = lines(
        &[
            "mpm_event",
            "authz_core",
            "proxy",
            "proxy_http",
            "proxy_balancer",
            "lbmethod_byrequests",
            "slotmem_shm",
        ],
        |name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so"),
    );
    let user = At::when(at.is_root, "User nobody\nGroup nogroup\n".to_owned());
    let log = At::when(
        at.is_logged,
        format!(
            "BufferedLogs On\nLogFormat \"%h %l %u %t \\\"%r\\\" %>s %b\" common\nCustomLog \"{}\" common\n",
            at.log()
        ),
    );
    format!(
        "{modules}ServerRoot {dir}\nServerName bench.test\nPidFile {dir}/pid\n\
         DefaultRuntimeDir {dir}\nErrorLog {dir}/error.log\n{user}{log}Listen {}\n\
         AcceptFilter http none\nStartServers 1\nServerLimit 1\nThreadLimit 128\n\
         ThreadsPerChild 128\nMaxRequestWorkers 128\nMinSpareThreads 1\nMaxSpareThreads 128\n\
         AsyncRequestWorkerFactor 200\nKeepAlive On\nMaxKeepAliveRequests 0\n\
         KeepAliveTimeout 600\nProxyPreserveHost On\n<Proxy \"balancer://members\">\n{}</Proxy>\n\
         ProxyPass \"/\" \"balancer://members/\"\n",
        at.address,
        lines(at.members, |member| format!(
            "    BalancerMember \"http://{member}\""
        )),
    )
}

/// Starts a child whose output goes to files of its folder, and waits until it accepts.
fn launch(command: &mut Command, at: &At<'_>) -> Result<(Running, i32)> {
    let output = if at.is_logged { LOG } else { "output" };
    let errors = at.dir.join("errors");
    let child = command
        .stdin(Stdio::null())
        .stdout(fs::File::create(at.dir.join(output))?)
        .stderr(fs::File::create(&errors)?)
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let pid = i32::try_from(child.id())?;
    let mut process = Process(child);
    let accepts = wait::until("a peer to accept", wait::PATIENCE, || {
        if !matches!(process.0.try_wait(), Ok(None)) {
            return Some(false);
        }
        TcpStream::connect(at.address).is_ok().then_some(true)
    })?;
    if !accepts {
        let said = fs::read_to_string(&errors).unwrap_or_default();
        let log = fs::read_to_string(at.dir.join("error.log")).unwrap_or_default();
        bail!("{command:?} ended at once: {said}{log}");
    }
    Ok((Running::Other(process), pid))
}

/// A folder that a proxy's user may look into.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?)
}

/// Addresses that nobody listens on, all different.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<_> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&listeners) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

fn path_of(program: &str) -> PathBuf {
    tool_path(program).unwrap_or_else(|| program.into())
}

/// Builds sluice as it is published.
pub(super) fn build_release(root: &Path) -> Result<PathBuf> {
    exec::step("building sluice for release (minutes, once)");
    exec::run(Command::new("cargo").current_dir(root).args([
        "build",
        "--release",
        "--package",
        "sluice",
    ]))?;
    // Beside the folder that cargo put this program in, whatever that is called.
    let here = std::env::current_exe().context("finding this program")?;
    let target = here
        .ancestors()
        .nth(2)
        .context("this program is not where cargo puts programs")?;
    let program = target.join("release/sluice");
    ensure!(program.is_file(), "cargo built no {}", program.display());
    Ok(program)
}
