//! A real name server in a namespace: dnsmasq, on the loopback that the namespace's own resolv.conf
//! names. Answers are a hosts file that it reads again when told to.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Namespace, tool_path, wait};

/// Where iproute2 looks for files that a namespace sees in the place of the host's.
const ETC: &str = "/etc/netns";
/// How long its answers hold, seconds.
const TTL: u32 = 1;

/// A running name server. Dropping it ends it and takes the resolv.conf away.
#[derive(Debug)]
pub struct Dns {
    namespace: Namespace,
    hosts: PathBuf,
    etc: PathBuf,
    child: Option<Child>,
}

impl Dns {
    /// Why it cannot run here, or `None`.
    pub fn missing() -> Option<String> {
        (tool_path("dnsmasq").is_none())
            .then(|| "dnsmasq is not installed (cargo xtask setup installs it)".to_owned())
    }

    /// Starts it; what is run inside the namespace from now on asks it. `dir` keeps its file.
    pub fn start(namespace: &Namespace, dir: &Path, answers: &[(&str, IpAddr)]) -> Result<Self> {
        let etc = Path::new(ETC).join(namespace.name());
        fs::create_dir_all(&etc)?;
        fs::write(
            etc.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )?;
        let mut dns = Self {
            namespace: namespace.clone(),
            hosts: dir.join("dns.hosts"),
            etc,
            child: None,
        };
        dns.write(answers)?;
        dns.revive()?;
        Ok(dns)
    }

    /// Starts it again after [`Dns::kill`].
    pub fn revive(&mut self) -> Result<()> {
        let program = tool_path("dnsmasq").context("dnsmasq is not installed")?;
        let child = (self.namespace.command(program))
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
            ])
            .args(["--user=root", "--no-resolv", "--no-hosts", "--local=/#/"])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces"])
            .arg(format!("--local-ttl={TTL}"))
            .arg(format!("--addn-hosts={}", self.hosts.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("running dnsmasq")?;
        self.child = Some(child);
        wait::until("the name server to answer", wait::PATIENCE, || {
            self.answers().then_some(())
        })
    }

    /// Gives these answers from now on, and no others.
    pub fn set(&self, answers: &[(&str, IpAddr)]) -> Result<()> {
        self.write(answers)?;
        if let Some(child) = &self.child {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.context("a process id")?, Signal::HUP)?;
        }
        Ok(())
    }

    /// Ends it: questions are refused by the kernel.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn write(&self, answers: &[(&str, IpAddr)]) -> Result<()> {
        let mut text = String::new();
        for (name, ip) in answers {
            writeln!(text, "{ip} {name}")?;
        }
        // In place of the old file at once: it may be read at this moment.
        let new = self.hosts.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.hosts)?)
    }

    /// Whether it answers a question for the root's address.
    fn answers(&self) -> bool {
        const QUESTION: [u8; 17] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
        let ask = || -> Result<()> {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect("127.0.0.1:53")?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            socket.send(&QUESTION)?;
            let length = socket.recv(&mut [0; 512])?;
            ensure!(length >= 12);
            Ok(())
        };
        matches!(self.namespace.inside(ask), Ok(Ok(())))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.etc);
    }
}

/// Takes away what [`Dns`] left for a namespace, should its program have been killed.
pub(crate) fn forget(namespace: &str) {
    let _ = fs::remove_dir_all(Path::new(ETC).join(namespace));
}
