//! The running service: the control process, the proxy process it supervises, reload, stop.
//!
//! Control ([`run`]) holds privileges and decides nothing about requests; the proxy
//! ([`proxy_process`]) has none and holds the shards.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    config::{Options, spec::Spec},
    dataplane::{DataplaneError, Place},
};

mod backoff;
mod certificates;
mod child;
mod control;
mod ledger;
mod link;
mod listeners;
mod manager;
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
mod succession;
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

/// What `configtest` looks at beside the text: certificate and key files. Warnings, or every error,
/// a line each.
pub fn check_certificates(spec: &Spec) -> Result<Vec<String>, String> {
    certificates::load(spec)
        .map(|loaded| loaded.warnings)
        .map_err(|errors| certificates::lines(&errors))
}

/// Runs control in the foreground until it is told to stop.
pub fn run(options: RunOptions, spec: Spec) -> Result<(), StartError> {
    crate::telemetry::error_log::start();
    privileges::raise_file_limit();
    crate::dataplane::keep_descriptors_to_ourselves();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let mut control = control::Control::start(options, Arc::new(spec)).await?;
        control.serve().await;
        control.finish()
    });
    // A name server that never answers must not hold up the end.
    runtime.shutdown_background();
    done
}
