//! The running service: the control process, the proxy process it supervises, reload, stop.
//!
//! Control ([`run`]) holds privileges and decides nothing about requests; the proxy
//! ([`proxy_process`]) has none and holds the shards.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    admin::protocol::Response,
    config::{Options, spec::Spec},
    dataplane::{DataplaneError, Place},
};

mod backoff;
mod certificates;
mod child;
mod control;
mod cpus;
mod follow;
mod foundlings;
mod handover;
mod inbox;
mod ledger;
mod link;
mod listeners;
mod manager;
mod names;
mod notify;
mod pipes;
mod preflight;
mod privileges;
pub mod proxy_process;
mod reload;
mod requests;
mod scrape;
mod signals;
mod socket;
mod start;
mod steering;
mod succession;
mod upgrade;
mod usage;

pub use child::SUBCOMMAND;

/// What `sluice run` was told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Configuration file.
    pub file: PathBuf,
    /// How to read it.
    pub config: Options,
    /// Run without kernel maps and XDP whatever the file asks for.
    pub no_xdp: bool,
    /// Where the instance keeps its things; the instance's name is settled already.
    pub place: Place,
    /// `--instance` was given: it beats `SluiceInstance`.
    pub instance_given: bool,
    /// Where the program lies; [`run`] finds out.
    pub binary: PathBuf,
}

/// Why the service did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The run directory.
    #[error("run directory {path} cannot be used (--run-dir DIR names another)", path = path.display())]
    RunDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Maps, program, pins, lock.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The file needs the dataplane and there is none.
    #[error("{}:{}: this directive needs the dataplane, which is not usable here (`sluice doctor` tells what is missing, `run --no-xdp` runs the proxy without it)", at.file.display(), at.line)]
    NeedsDataplane {
        /// The directive.
        at: crate::config::spec::Place,
        /// What is wrong with it.
        source: DataplaneError,
    },
    /// Something that the configuration names is not there.
    #[error("{0}")]
    Host(String),
    /// The control socket.
    #[error("control socket {path}", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The proxy process.
    #[error("{0}")]
    Proxy(String),
    /// TERM while members' names were looked up.
    #[error("stopped by a signal before it served")]
    Stopped,
    /// Signals, timers, threads.
    #[error("runtime not started")]
    Runtime(#[from] io::Error),
}

impl StartError {
    /// Exit code of DESIGN section 8.
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::Dataplane(error) => error.exit_code(),
            Self::NeedsDataplane { .. } => 3,
            _ => 1,
        }
    }
}

/// What `configtest` warns of beside the text: interfaces that are not there.
pub fn missing_interfaces(spec: &Spec) -> Vec<String> {
    preflight::missing_interfaces(spec)
}

/// What `configtest` looks at beside the text: certificate and key files. Warnings, or every error,
/// a line each.
pub fn check_certificates(spec: &Spec) -> Result<Vec<String>, String> {
    certificates::load(spec)
        .map(|loaded| loaded.warnings)
        .map_err(|errors| certificates::lines(&errors))
}

/// CPUs, quota and what `SluiceShards` (`None`: auto) makes of them here, in words; and whether there
/// are more shards than CPUs.
pub fn describe_cpus(configured: Option<u32>) -> (String, bool) {
    let cpus = cpus::Cpus::of_process();
    let crowded = cpus.shards(configured) > cpus.shards(None);
    (cpus.describe(configured), crowded)
}

/// Hidden subcommand by which `sluice upgrade` asks a new program whether it can take over; the words
/// of the running one follow.
pub const CHECK_SUBCOMMAND: &str = "upgrade-check";

/// What that subcommand prints, or why this program cannot take over.
pub fn upgrade_check(options: &RunOptions, spec: Spec) -> Result<String, String> {
    upgrade::check(options, spec)
}

/// What an upgrade left for this process.
pub struct Predecessor(handover::Legacy);

/// What the program that this process was has left, where `sluice upgrade` made it this one.
pub fn predecessor() -> io::Result<Option<Predecessor>> {
    Ok(handover::Legacy::of_predecessor()?.map(Predecessor))
}

impl Predecessor {
    /// The configuration that is on, when this is the old program again because a new one could not
    /// go on: the file may be made for that one.
    pub fn spec(&self) -> io::Result<Option<Spec>> {
        let back = self.0.state.failed.is_some();
        back.then(|| Ok(self.0.parcel()?.spec)).transpose()
    }

    /// Gives everything back to the old program. Returns when there is no way back.
    pub fn give_back(self, why: String) -> io::Error {
        self.0.give_back(why)
    }
}

/// Runs control in the foreground until it is told to stop.
pub fn run(
    options: RunOptions,
    spec: Spec,
    predecessor: Option<Predecessor>,
) -> Result<(), StartError> {
    crate::telemetry::error_log::start();
    privileges::raise_file_limit();
    crate::dataplane::keep_descriptors_to_ourselves();
    let mut legacy = predecessor.map(|predecessor| predecessor.0);
    let mut options = options;
    options.binary = match &legacy {
        Some(legacy) if legacy.state.failed.is_some() => legacy.state.old_binary.clone(),
        Some(legacy) => legacy.state.new_binary.clone(),
        None => upgrade::own_binary(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let started = control::Control::start(options, Arc::new(spec), legacy.as_mut()).await;
        let mut control = match started {
            Ok(control) => control,
            Err(error) => return Err(after(error, legacy.take())),
        };
        control.succeeded(legacy.take());
        control.serve().await;
        control.finish()
    });
    // A name server that never answers must not hold up the end.
    runtime.shutdown_background();
    done
}

/// The start failed: a new program becomes the old one again and does not return from here.
fn after(error: StartError, legacy: Option<handover::Legacy>) -> StartError {
    let Some(mut legacy) = legacy else {
        return error;
    };
    let why = chain(&error);
    if let Some(first) = &legacy.state.failed {
        let message = format!("{first}; the program before could not go on either: {why}");
        legacy.answer(&Response::Refused { message });
        return error;
    }
    tracing::error!("not taking over, the program before goes on: {why}");
    let binary = legacy.state.new_binary.display();
    let message = format!("{binary} could not take over: {why}");
    let back = legacy.give_back(message);
    tracing::error!("the program before cannot go on: {back}");
    error
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
