//! `run`, `configtest`, `doctor`, `version`.

use std::io::Write as _;

use super::{
    FAILED, Failure, Outcome,
    args::{ConfigArgs, Global, RunArgs},
    output,
};
use crate::{
    config::{self, Options, Severity, spec::Spec},
    server::{self, RunOptions},
};

/// Reads the configuration and prints every report. `None`: it has errors, which were printed.
fn load(args: &ConfigArgs, least: Severity) -> (Option<Spec>, Options) {
    let options = Options {
        defines: args.defines.clone(),
        server_root: None,
    };
    let loaded = config::load(&args.file, &options);
    let mut errors = std::io::stderr().lock();
    for report in loaded.reports.iter().filter(|r| r.severity >= least) {
        // Standard error may be closed.
        drop(writeln!(errors, "{}", report.render()));
    }
    (loaded.spec, options)
}

fn refused(args: &ConfigArgs) -> Failure {
    Failure::text(
        FAILED,
        format_args!("{}: configuration refused", args.file.display()),
    )
}

pub(crate) fn configtest(args: &ConfigArgs) -> Outcome {
    match load(args, Severity::Notice) {
        (Some(_), _) => {
            // Where httpd prints it.
            drop(writeln!(std::io::stderr(), "Syntax OK"));
            Ok(())
        }
        (None, _) => Err(refused(args)),
    }
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Outcome {
    let (spec, config) = load(&args.config, Severity::Notice);
    let Some(spec) = spec else {
        return Err(refused(&args.config));
    };
    // A daemon's working directory is nobody's business; reloads need the path.
    let file = std::path::absolute(&args.config.file)?;
    let options = RunOptions {
        file,
        config,
        no_xdp: args.no_xdp,
        place: global.place(),
        instance_given: global.instance.is_some(),
    };
    server::run(options, spec)
        .map_err(|error| Failure::new(u8::try_from(error.exit_code()).unwrap_or(FAILED), error))
}

pub(crate) fn version() -> Outcome {
    output::line(&format!(
        "sluice {} (map layouts {})",
        env!("CARGO_PKG_VERSION"),
        lb_common::abi::ABI_VERSION
    ))
}

pub(crate) fn doctor(
    _global: &Global,
    _json: super::args::Json,
    _file: &Option<std::path::PathBuf>,
) -> Outcome {
    Err(Failure::text(FAILED, "not merged"))
}
