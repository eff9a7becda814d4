//! The peers and their members: processes that end with this one, and the check that all do the
//! same work. What their configurations say is in `configuration`.

mod check;
mod configuration;
mod members;
mod standing;

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Sluice, sluice::Place, tool_path, wait};

use self::configuration::{At, LOG};
pub(super) use self::{
    members::Members,
    standing::{Stand, Standing, Started},
};
use super::{setup::Setup, tls::Tls};
use crate::{bench::placement::Placement, exec};

/// A proxy under test. Dropping it ends it.
pub(super) struct Peer {
    /// What it is.
    pub(super) kind: Kind,
    /// What it was set up to do.
    pub(super) setup: Setup,
    /// Where it accepts cleartext.
    pub(super) address: SocketAddr,
    /// Where it accepts TLS.
    pub(super) tls: SocketAddr,
    /// The first of its processes.
    pub(super) pid: i32,
    /// Its configuration, for the record.
    pub(super) configuration: String,
    /// Whether its listeners leave connections with the kernel until data has come.
    pub(super) defers: bool,
    /// Its own folder.
    pub(super) dir: PathBuf,
    _running: Running,
}

/// Which proxy.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Kind {
    /// This one.
    Sluice,
    /// This one, built with a profile (`cargo xtask dist`).
    SluicePgo,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// httpd with mod_proxy_balancer, event MPM.
    Httpd,
}

impl Kind {
    /// All, ourselves first.
    pub(super) const ALL: [Self; 5] = [
        Self::Sluice,
        Self::SluicePgo,
        Self::Nginx,
        Self::Haproxy,
        Self::Httpd,
    ];

    /// Whether it is a build of this project.
    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::Sluice | Self::SluicePgo)
    }

    /// For tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::SluicePgo => "sluice PGO",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Httpd => "httpd",
        }
    }

    /// Its program's name and the package that has it; `None`: built here.
    pub(super) const fn package(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Sluice | Self::SluicePgo => None,
            Self::Nginx => Some(("nginx", "nginx")),
            Self::Haproxy => Some(("haproxy", "haproxy")),
            Self::Httpd => Some(("apache2", "apache2-bin")),
        }
    }

    /// What it says of its own version.
    pub(super) fn version(self, site: &Site) -> String {
        let (program, flag) = match self {
            Self::Sluice => (site.sluice.clone(), "--version"),
            Self::SluicePgo => (site.pgo.clone().unwrap_or_default(), "--version"),
            Self::Nginx => (path_of("nginx"), "-v"),
            Self::Haproxy => (path_of("haproxy"), "-v"),
            Self::Httpd => (path_of("apache2"), "-v"),
        };
        first_line(Command::new(program).arg(flag))
    }
}

/// The first line of what a program says, on whichever output.
pub(super) fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// What all proxies of a run are started with.
pub(super) struct Site {
    /// A folder of this run.
    pub(super) dir: PathBuf,
    /// The release build.
    pub(super) sluice: PathBuf,
    /// The one with a profile.
    pub(super) pgo: Option<PathBuf>,
    /// Certificate and clients.
    pub(super) tls: Tls,
    /// The members, as many as any row wants.
    pub(super) members: Vec<SocketAddr>,
    /// Who runs where.
    pub(super) placement: Placement,
}

impl Site {
    /// Those of a setup: the first.
    fn members(&self, setup: &Setup) -> Result<&[SocketAddr]> {
        self.members
            .get(..setup.members)
            .context("there are fewer members than a row wants")
    }
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
    /// Starts a proxy.
    pub(super) fn start(kind: Kind, site: &Site, setup: &Setup) -> Result<Self> {
        let [address, tls] = free_addresses()?;
        let name = kind.name().replace(' ', "-");
        let dir = site.dir.join(format!("{name}-{}", address.port()));
        make_dir(&dir)?;
        let at = At {
            dir: &dir,
            address,
            tls: Some((tls, &site.tls.dir)),
            members: site.members(setup)?,
            setup,
            is_root: rustix::process::geteuid().is_root(),
        };
        let configuration = match kind {
            Kind::Sluice | Kind::SluicePgo => configuration::sluice(&at),
            Kind::Nginx => configuration::nginx(&at),
            Kind::Haproxy => configuration::haproxy(&at),
            Kind::Httpd => configuration::httpd(&at),
        };
        let file = dir.join("conf");
        fs::write(&file, &configuration)?;
        if kind == Kind::Haproxy
            && let Some((name, routes)) = configuration::routes(&at)
        {
            fs::write(dir.join(name), routes)?;
        }
        let _held = site.placement.of_peer(setup.workers)?;
        let (running, pid) = match kind {
            Kind::Sluice | Kind::SluicePgo => {
                let program = match (kind, &site.pgo) {
                    (Kind::SluicePgo, Some(pgo)) => pgo,
                    _ => &site.sluice,
                };
                let mut place = Place::here(&dir, "bench", address)?;
                program.clone_into(&mut place.program);
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
            setup: *setup,
            address,
            tls,
            pid,
            configuration,
            defers: defers(address)?,
            dir,
            _running: running,
        })
    }

    /// Where it accepts, with TLS or without.
    pub(super) const fn at(&self, is_tls: bool) -> SocketAddr {
        if is_tls { self.tls } else { self.address }
    }

    /// Lines in its access log.
    pub(super) fn lines(&self) -> u64 {
        let text = fs::read_to_string(self.dir.join(LOG)).unwrap_or_default();
        text.lines().count() as u64
    }
}

/// Starts a child whose output goes to files of its folder, and waits until it accepts.
fn launch(command: &mut Command, at: &At<'_>) -> Result<(Running, i32)> {
    let output = if at.setup.is_logged() { LOG } else { "output" };
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

/// Whether a connection on which nothing was sent stays with the kernel: its end at the listener is
/// then still SYN_RECV (3) in the kernel's list, not ESTABLISHED (1).
fn defers(address: SocketAddr) -> Result<bool> {
    let client = TcpStream::connect(address)?;
    let ports = (address.port(), client.local_addr()?.port());
    wait::until("the listener's end to be listed", wait::PATIENCE, || {
        let text = fs::read_to_string("/proc/net/tcp").ok()?;
        let state = text.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let port = |word: &str| u16::from_str_radix(word.split_once(':')?.1, 16).ok();
            let (here, there) = (port(words.next()?)?, port(words.next()?)?);
            ((here, there) == ports).then(|| words.next())?
        })?;
        Some(state == "03")
    })
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
    let program = exec::target_dir()?.join("release/sluice");
    ensure!(program.is_file(), "cargo built no {}", program.display());
    Ok(program)
}
