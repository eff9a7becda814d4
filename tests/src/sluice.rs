//! sluice itself: started, asked and ended as an operator would, in the balancer's namespace.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Lab, Namespace, topology,
    wait::{self, PATIENCE},
};

/// Exit code: done.
pub const DONE: i32 = 0;
/// Exit code: error in the configuration, or failure while running.
pub const FAILED: i32 = 1;
/// Exit code: wrong command line.
pub const USAGE: i32 = 2;
/// Exit code: no usable dataplane.
pub const NO_DATAPLANE: i32 = 3;
/// Exit code: neither a daemon nor pins to read.
pub const UNREACHABLE: i32 = 4;

/// A daemon, or the place where one was. Dropping it ends the daemon.
#[derive(Debug)]
pub struct Sluice {
    place: Place,
    child: Option<Child>,
}

/// Where an instance keeps what it shares: everything a command needs to find it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it runs; `None`: on this host itself.
    pub namespace: Option<Namespace>,
    /// The program.
    pub program: PathBuf,
    /// `--instance`.
    pub instance: String,
    /// `--bpffs`.
    pub bpffs: PathBuf,
    /// `--run-dir`.
    pub run_dir: PathBuf,
    /// The configuration.
    pub file: PathBuf,
    /// Error output of the daemon.
    pub log: PathBuf,
    /// Where it accepts connections when it is ready.
    pub listen: SocketAddr,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Error output.
    pub err: String,
    /// Exit code; -1: ended by a signal.
    pub code: i32,
}

impl Said {
    /// Fails unless the command did.
    pub fn ok(self) -> Result<Self> {
        if self.code == DONE {
            return Ok(self);
        }
        bail!("exit code {}: {}{}", self.code, self.out, self.err)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out)
            .with_context(|| format!("not JSON: {}{}", self.out, self.err))
    }

    /// Both outputs, for looking for a message wherever it was written.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// The program under test: `SLUICE_BIN`, or what was built beside this program.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    // target/PROFILE/xtask, or target/PROFILE/deps/TEST-HASH.
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("sluice"))
        .find(|path| path.is_file())
        .context("no sluice beside this program: cargo build -p sluice, or set SLUICE_BIN")
}

impl Place {
    /// In a lab, with everything in the lab's own folders.
    pub fn in_lab(lab: &Lab, instance: &str) -> Result<Self> {
        let dir = lab.dir();
        Ok(Self {
            namespace: Some(lab.balancer.clone()),
            program: program()?,
            instance: instance.to_owned(),
            bpffs: lab.bpffs().to_owned(),
            run_dir: dir.join("run"),
            file: dir.join(format!("{instance}.conf")),
            log: dir.join(format!("{instance}.log")),
            listen: (topology::address(topology::BALANCER), 80).into(),
        })
    }

    /// On this host itself, below a folder of the caller's, without a dataplane.
    pub fn here(dir: &Path, instance: &str, listen: SocketAddr) -> Result<Self> {
        Ok(Self {
            namespace: None,
            program: program()?,
            instance: instance.to_owned(),
            bpffs: dir.join("bpf"),
            run_dir: dir.join("run"),
            file: dir.join(format!("{instance}.conf")),
            log: dir.join(format!("{instance}.log")),
            listen,
        })
    }

    /// A command of the program, told where the instance is.
    pub fn command(&self) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        command
            .args(self.arguments())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }

    /// The arguments that lead to the instance, for whoever types a command.
    pub fn arguments(&self) -> Vec<String> {
        vec![
            "--instance".to_owned(),
            self.instance.clone(),
            "--bpffs".to_owned(),
            self.bpffs.display().to_string(),
            "--run-dir".to_owned(),
            self.run_dir.display().to_string(),
        ]
    }
}

impl Sluice {
    /// Starts an instance named `main` with this configuration and waits until it is ready.
    pub fn start(lab: &Lab, configuration: &str) -> Result<Self> {
        Self::start_in(Place::in_lab(lab, "main")?, configuration, &[])
    }

    /// Starts it at a place of the caller's choice, with further arguments of `run`.
    pub fn start_in(place: Place, configuration: &str, arguments: &[&str]) -> Result<Self> {
        fs::write(&place.file, configuration)?;
        let mut sluice = Self { place, child: None };
        sluice.launch(arguments)?;
        Ok(sluice)
    }

    /// Starts the daemon (again) with the file as it is now.
    pub fn launch(&mut self, arguments: &[&str]) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.place.log)?;
        let child = self
            .place
            .command()
            .args(["run", "-f"])
            .arg(&self.place.file)
            .args(arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running sluice")?;
        self.child = Some(child);
        let ready = wait::until("sluice to accept connections", PATIENCE, || {
            if !self.is_running() {
                return Some(false);
            }
            (self.accepts() && self.cli(&["status"]).is_ok_and(|said| said.code == DONE))
                .then_some(true)
        });
        if !matches!(ready, Ok(true)) {
            bail!(
                "sluice did not start (running: {}, accepting: {}, {:?}): {}",
                self.is_running(),
                self.accepts(),
                self.cli(&["status"]).map(|said| (said.code, said.err)),
                self.log()
            );
        }
        Ok(())
    }

    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Runs one of its commands where it runs itself.
    pub fn cli(&self, arguments: &[&str]) -> Result<Said> {
        ask(self.place.command().args(arguments))
    }

    /// Runs a reading command with `--json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.cli(&[arguments, &["--json"]].concat())?.ok()?.json()
    }

    /// The member of this balancer whose route is `route`, from `member list`.
    pub fn member(&self, balancer: &str, route: &str) -> Result<Value> {
        let list = self.json(&["member", "list"])?;
        list["members"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|member| member["balancer"] == balancer && member["route"] == route)
            .cloned()
            .with_context(|| format!("no member {route} of {balancer} in {list}"))
    }

    /// State letters of a member, as [`Sluice::member`] finds it.
    pub fn state(&self, balancer: &str, route: &str) -> Result<String> {
        let member = self.member(balancer, route)?;
        let letters = member["state"].as_array().into_iter().flatten();
        Ok(letters.filter_map(Value::as_str).collect())
    }

    /// Replaces the file and reloads; fails if `reload` does.
    pub fn reload(&self, configuration: &str) -> Result<Said> {
        fs::write(&self.place.file, configuration)?;
        self.cli(&["reload"])
    }

    /// Process id of control.
    pub fn control(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("sluice is not running")?;
        Pid::from_raw(i32::try_from(child.id())?).context("process id")
    }

    /// Process id of the proxy: control's child.
    pub fn proxy(&self) -> Result<Pid> {
        let control = self.control()?.as_raw_pid();
        let path = format!("/proc/{control}/task/{control}/children");
        let children = fs::read_to_string(&path).with_context(|| path.clone())?;
        let pids: Vec<_> = children.split_whitespace().collect();
        match pids.as_slice() {
            [pid] => Pid::from_raw(pid.parse()?).context("process id"),
            _ => bail!("control has {} children, not one: {children}", pids.len()),
        }
    }

    /// Sends a signal to control.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.control()?, signal)?)
    }

    /// Kills both processes as a crash would, and waits until they are gone.
    pub fn crash(&mut self) -> Result<()> {
        let proxy = self.proxy()?;
        kill_process(self.control()?, Signal::KILL)?;
        let _ = kill_process(proxy, Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        wait::until("the proxy to be gone", PATIENCE, || {
            (!self.accepts()).then_some(())
        })
    }

    /// Stops it gracefully and gives its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits for the daemon's end and gives its exit code.
    pub fn wait(&mut self) -> Result<i32> {
        let mut child = self.child.take().context("sluice is not running")?;
        let status = wait::until("sluice to end", PATIENCE, || {
            child.try_wait().ok().flatten()
        });
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(status?.code().unwrap_or(-1))
    }

    /// Whether the daemon has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What the daemon wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.place.log).unwrap_or_default()
    }

    /// Where its maps are pinned.
    pub fn pins(&self) -> PathBuf {
        self.place.bpffs.join("sluice").join(&self.place.instance)
    }

    fn accepts(&self) -> bool {
        let address = self.place.listen;
        let patience = Duration::from_secs(1);
        let connect = || std::net::TcpStream::connect_timeout(&address, patience).is_ok();
        match &self.place.namespace {
            Some(namespace) => namespace.inside(connect).unwrap_or(false),
            None => connect(),
        }
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let _ = self.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.place.instance, self.log());
        }
    }
}

/// Runs a command that is expected to end by itself and takes down what it says.
pub fn ask(command: &mut Command) -> Result<Said> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    // Read on threads, so that neither pipe fills up while the deadline runs.
    let out = read_all(child.stdout.take());
    let err = read_all(child.stderr.take());
    let status = wait::until("a command to end", PATIENCE, || {
        child.try_wait().ok().flatten()
    });
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |reader: std::thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let (out, err) = (text(out), text(err));
    let status = status.with_context(|| format!("{command:?} said: {out}{err}"))?;
    Ok(Said {
        out,
        err,
        code: status.code().unwrap_or(-1),
    })
}

/// `configtest` of a file's text, on this host: it needs no privilege and no network.
pub fn configtest(dir: &Path, text: &[u8]) -> Result<Said> {
    let file = dir.join("tested.conf");
    fs::write(&file, text)?;
    ask(Command::new(program()?)
        .args(["configtest", "-f"])
        .arg(&file))
}

fn read_all(
    stream: Option<impl std::io::Read + Send + 'static>,
) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
