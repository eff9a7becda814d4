//! Real httpd in a namespace: as a member, and as the peer that sluice is compared with.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{Namespace, tool_path, wait};

/// Where Debian keeps httpd's modules.
const MODULES: &str = "/usr/lib/apache2/modules";

/// A running httpd. Dropping it ends it.
#[derive(Debug)]
pub struct Apache {
    child: Child,
}

impl Apache {
    /// Why it cannot run here, or `None`.
    pub fn missing() -> Option<String> {
        if tool_path("apache2").is_none() || !Path::new(MODULES).is_dir() {
            return Some("apache2 is not installed (cargo xtask setup installs it)".to_owned());
        }
        None
    }

    /// Starts httpd with `configuration` (without `Listen`, module loading and paths, which are
    /// added) and waits until it accepts connections. `dir` must be its own.
    pub fn start(
        namespace: &Namespace,
        dir: &Path,
        address: SocketAddr,
        configuration: &str,
    ) -> Result<Self> {
        let file = write_configuration(dir, address, configuration)?;
        let program = tool_path("apache2").context("apache2 is not installed")?;
        let child = namespace
            .command(program)
            .arg("-X")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("running apache2")?;
        let mut apache = Self { child };
        let accepts = wait::until("httpd to listen", wait::PATIENCE, || {
            if !matches!(apache.child.try_wait(), Ok(None)) {
                return Some(false);
            }
            connects(namespace, address).then_some(true)
        })?;
        if !accepts {
            let log = std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
            bail!("httpd ended at once: {log}");
        }
        Ok(apache)
    }

    /// `apache2 -t` on the configuration: what httpd says and its exit code.
    pub fn configtest(
        dir: &Path,
        address: SocketAddr,
        configuration: &str,
    ) -> Result<(String, i32)> {
        let file = write_configuration(dir, address, configuration)?;
        let program = tool_path("apache2").context("apache2 is not installed")?;
        let output = Command::new(program)
            .arg("-t")
            .arg("-f")
            .arg(file)
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((text, output.status.code().unwrap_or(-1)))
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        self.kill();
    }
}

fn write_configuration(dir: &Path, address: SocketAddr, text: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    let modules = [
        "mpm_event",
        "authz_core",
        "alias",
        "dir",
        "headers",
        "proxy",
        "proxy_http",
        "proxy_balancer",
        "lbmethod_byrequests",
        "lbmethod_bytraffic",
        "lbmethod_bybusyness",
        "slotmem_shm",
        "rewrite",
        "setenvif",
        "env",
    ];
    let mut file = String::new();
    for module in modules {
        if Path::new(MODULES).join(format!("mod_{module}.so")).exists() {
            writeln!(file, "LoadModule {module}_module {MODULES}/mod_{module}.so")?;
        }
    }
    let dir_text = dir.display();
    write!(
        file,
        "ServerRoot {dir_text}\nServerName lab.test\nPidFile {dir_text}/httpd.pid\n\
         DefaultRuntimeDir {dir_text}\nUser nobody\nGroup nogroup\nDocumentRoot {dir_text}\nErrorLog {dir_text}/error.log\nListen {address}\n{text}\n"
    )?;
    let path = dir.join("httpd.conf");
    std::fs::write(&path, file)?;
    Ok(path)
}

fn connects(namespace: &Namespace, address: SocketAddr) -> bool {
    let patience = std::time::Duration::from_secs(1);
    matches!(
        namespace.inside(|| std::net::TcpStream::connect_timeout(&address, patience)),
        Ok(Ok(_))
    )
}
