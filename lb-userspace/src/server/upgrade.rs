//! `sluice upgrade`: this process becomes another build of the program, in place: same process id,
//! same lock, same sockets. The proxy serves on meanwhile and retires when the new program's proxy
//! serves. Whatever can be found out before is found out before; a new program that fails later
//! becomes this one again.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::abi::BUSY_COLUMNS;
use serde::{Deserialize, Serialize};

use super::{
    CHECK_SUBCOMMAND, RunOptions, certificates,
    child::ProxyChild,
    control::Control,
    handover::{FORMAT, HandedProxy, Legacy, State},
    link::Parcel,
    notify::{Notice, notify},
    preflight,
    scrape::Scrape,
    socket::Ask,
    start::without_dataplane,
};
use crate::{
    admin::protocol::Response,
    config::spec::Spec,
    dataplane::{self, sys::hold_signals},
};

/// How long a new program may take to look at the configuration.
const CHECK_LIMIT: Duration = Duration::from_secs(30);
const CHECK_LOOK: Duration = Duration::from_millis(10);
/// How long a signal may take from the kernel to the inbox.
const SIGNAL_GRACE: Duration = Duration::from_millis(5);
/// As much of what a refused program says is told.
const MOST_SAID: usize = 4096;

/// What a program says of itself when it is asked whether it can take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Credentials {
    version: String,
    /// [`FORMAT`].
    handover: u32,
    /// Layouts of the maps.
    layouts: u64,
}

impl Credentials {
    fn own() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            handover: FORMAT,
            layouts: dataplane::layouts(),
        }
    }
}

/// What `sluice upgrade` asks a new program: whether it accepts the configuration and this host. Its
/// credentials as a line of JSON, or why not.
pub(super) fn check(options: &RunOptions, spec: Spec) -> Result<String, String> {
    let spec = without_dataplane(Arc::new(spec), options.no_xdp);
    let text = |error: preflight::PreflightError| error.to_string();
    preflight::identity(&spec).map_err(text)?;
    certificates::load(&spec).map_err(|errors| certificates::lines(&errors))?;
    serde_json::to_string(&Credentials::own()).map_err(|error| error.to_string())
}

impl Control {
    /// Becomes the program at `binary` and does not return, unless it cannot: then nothing has
    /// changed, and this is why. `deadline`: seconds for the proxy that serves now.
    pub(super) async fn upgrade(
        &mut self,
        ask: &Ask,
        binary: Option<&Path>,
        deadline: Option<u64>,
    ) -> String {
        match self.try_upgrade(ask, binary, deadline).await {
            Ok(never) => match never {},
            Err(why) => {
                tracing::error!("upgrade refused, nothing changed: {why}");
                why
            }
        }
    }

    async fn try_upgrade(
        &mut self,
        ask: &Ask,
        binary: Option<&Path>,
        deadline: Option<u64>,
    ) -> Result<std::convert::Infallible, String> {
        if self.is_stopping() {
            return Err("the service is stopping".to_owned());
        }
        if self.proxy.is_none() {
            return Err("the proxy has just died and is being restarted: try again".to_owned());
        }
        if self.retired.len() + 2 > BUSY_COLUMNS as usize {
            return Err(format!(
                "{} proxies of earlier upgrades still drain; `sluice status` shows them",
                self.retired.len()
            ));
        }
        let own = rustix::process::geteuid().as_raw();
        if binary.is_some() && ask.uid != 0 && ask.uid != own {
            return Err(
                "only root, or the user that sluice runs as, may say which program it becomes"
                    .to_owned(),
            );
        }
        let path = binary.unwrap_or(&self.options.binary).to_owned();
        let image = open(&path)?;
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        let asked = {
            let image = image.try_clone().map_err(|error| error.to_string())?;
            tokio::task::spawn_blocking(move || credentials(&image, &arguments))
        };
        let found = (self.attend(asked).await)
            .map_err(|stopped| stopped.to_string())?
            .map_err(|error| error.to_string())?
            .map_err(|why| format!("{}: {why}", path.display()))?;
        let own = Credentials::own();
        if found.handover != own.handover {
            return Err(format!(
                "{}: version {} cannot take over from version {}: restart",
                path.display(),
                found.version,
                own.version
            ));
        }
        if found.layouts != own.layouts {
            return Err(format!(
                "{}: version {} lays out the maps otherwise than version {}, and the state of \
                 members would be lost: restart, if that may be",
                path.display(),
                found.version,
                own.version
            ));
        }
        tracing::info!(
            notice = true,
            "upgrading to {}, version {}",
            path.display(),
            found.version
        );
        notify(Notice::Reloading);
        let limit = self.desired.spec.graceful_shutdown_timeout;
        let deadline = match deadline {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None if limit.is_zero() => None,
            None => Some(limit),
        };
        let failed = |error: io::Error| {
            drop(hold_signals(false));
            notify(Notice::Ready);
            format!("{} not started: {error}", path.display())
        };
        // A signal that came before is in the inbox after this; later ones wait for the new program.
        hold_signals(true).map_err(failed)?;
        if let Err(stopped) = self.attend(tokio::time::sleep(SIGNAL_GRACE)).await {
            return Err(failed(io::Error::other(stopped)));
        }
        let legacy = self.legacy(ask, &path, deadline).map_err(failed)?;
        Err(failed(legacy.become_program(image.as_fd())))
    }

    /// Says how an upgrade that made this process ended.
    pub(super) fn succeeded(&mut self, legacy: Option<Legacy>) {
        let Some(mut legacy) = legacy else {
            return;
        };
        if let Some(why) = legacy.state.failed.take() {
            legacy.answer(&Response::Refused { message: why });
            return;
        }
        let pid = self.proxy.as_ref().map_or(0, ProxyChild::pid);
        let mut message = format!(
            "version {} serves from {} (proxy process {pid})",
            env!("CARGO_PKG_VERSION"),
            self.options.binary.display()
        );
        if let Some(old) = legacy.state.proxies.first() {
            let how_long = match legacy.state.deadline_ms {
                Some(ms) => format!("for at most {} s", ms / 1000),
                None => "as long as its requests take".to_owned(),
            };
            let _never_fails_on_a_string =
                write!(message, "; process {} drains {how_long}", old.pid);
        }
        tracing::info!(notice = true, "{message}");
        legacy.answer(&Response::Done { message });
    }

    /// Everything that the new program gets.
    fn legacy(&self, ask: &Ask, new: &Path, deadline: Option<Duration>) -> io::Result<Legacy> {
        let now = Instant::now();
        let spec = Arc::clone(&self.desired.spec);
        let parcel = Parcel {
            number: self.published.generation,
            spec: (*spec).clone(),
            ids: (self.published.ids.iter())
                .map(|ids| ids.iter().map(|id| id.0).collect())
                .collect(),
            certificates: self.certificates.clone(),
            tickets: self.tickets.clone(),
        };
        let retired = self.retired.iter().map(|retired| {
            let left = retired
                .deadline
                .map(|deadline| deadline - now.min(deadline));
            (&retired.proxy, left)
        });
        let all: Vec<_> = (self.proxy.iter().map(|proxy| (proxy, None)))
            .chain(retired)
            .collect();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let proxies: Vec<HandedProxy> = (all.iter())
            .map(|(proxy, left)| HandedProxy {
                pid: proxy.pid(),
                column: proxy.column,
                left_ms: left.map(millis),
            })
            .collect();
        Ok(Legacy {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            socket: self.socket.as_fd().try_clone_to_owned()?,
            counters: self.ledger.file().try_clone_to_owned()?,
            old: File::open("/proc/self/exe")?.into(),
            parcel: parcel.seal()?,
            inheritance: self.dataplane.leave(
                (proxies.iter())
                    .map(|proxy| (proxy.column, proxy.pid))
                    .collect(),
            )?,
            reply: (ask.client.as_ref()).map(OwnedFd::try_clone).transpose()?,
            scrape: (self.scrape.as_ref()).map(Scrape::socket).transpose()?,
            links: (all.iter())
                .map(|(proxy, _)| proxy.link().try_clone_to_owned())
                .collect::<io::Result<_>>()?,
            listeners: self.listeners.clone(),
            state: State {
                format: FORMAT,
                old_binary: self.options.binary.clone(),
                new_binary: new.to_owned(),
                proxies,
                addresses: self.desired.addresses.clone(),
                shards: self.pins.len(),
                ledger: self.ledger.state(),
                uptime_ms: millis(now - self.started),
                restarts: self.restarts,
                deadline_ms: deadline.map(millis),
                kept: self.kept.clone().into(),
                tickets: Some(self.tickets.clone()),
                failed: None,
            },
        })
    }
}

/// The program's file: what is checked is what is run, whatever happens to the path meanwhile.
fn open(path: &Path) -> Result<File, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    if !data.is_file() || data.mode() & 0o111 == 0 {
        return Err(format!("{}: not a program", path.display()));
    }
    Ok(file)
}

/// Runs a program to ask it for its credentials.
fn credentials(image: &File, arguments: &[std::ffi::OsString]) -> Result<Credentials, String> {
    let text = |error: io::Error| error.to_string();
    let output = memory("sluice-check-out").map_err(text)?;
    let errors = memory("sluice-check-err").map_err(text)?;
    let mut child = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .arg0("sluice")
        .arg(CHECK_SUBCOMMAND)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(text)?)
        .stderr(errors.try_clone().map_err(text)?)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let deadline = Instant::now() + CHECK_LIMIT;
    let status: Option<ExitStatus> = loop {
        match child.try_wait().map_err(text)? {
            Some(status) => break Some(status),
            None if Instant::now() >= deadline => {
                drop(child.kill());
                drop(child.wait());
                break None;
            }
            None => std::thread::sleep(CHECK_LOOK),
        }
    };
    let Some(status) = status else {
        let limit = CHECK_LIMIT.as_secs();
        return Err(format!(
            "did not look at the configuration within {limit} s"
        ));
    };
    if status.success()
        && let Ok(found) = serde_json::from_str(said(output).trim())
    {
        return Ok(found);
    }
    let said = said(errors);
    let said = match said.trim() {
        "" => "it said nothing",
        said => said,
    };
    Err(format!(
        "does not take over ({status}; a build before `sluice upgrade`, another program, or the \
         configuration is refused):\n{said}"
    ))
}

fn memory(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// The beginning of what a program wrote.
fn said(mut file: File) -> String {
    let mut bytes = Vec::new();
    // Unreadable is as good as silent.
    let _ = file.rewind();
    let _ = file.take(MOST_SAID as u64).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where this program was started from: what is there when it is upgraded is the new one.
pub(super) fn own_binary() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_default();
    // The kernel's mark of a file that was replaced meanwhile.
    match path.to_string_lossy().strip_suffix(" (deleted)") {
        Some(replaced) => replaced.into(),
        None => path,
    }
}
