//! The command line: arguments, exit codes, and what is printed.
//!
//! 0 done; 1 configuration error or run-time failure; 2 usage; 3 no usable dataplane (see
//! `DataplaneError::exit_code`); 4 not reachable: no daemon and no pins. The running service is `server`'s, its language `admin`'s.

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};

mod args;
mod capture;
mod change;
mod client;
mod flow;
mod manual;
mod output;
mod route;
mod run;
mod show;
mod steer;
mod table;

use args::{Cli, Command};

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: anyhow::Error,
}

/// What a command returns.
pub(crate) type Outcome = Result<(), Failure>;

/// Configuration error or run-time failure.
pub(crate) const FAILED: u8 = 1;
/// Wrong arguments.
pub(crate) const USAGE: u8 = 2;
/// No usable dataplane.
pub(crate) const NO_DATAPLANE: u8 = 3;
/// No daemon, no pins.
pub(crate) const UNREACHABLE: u8 = 4;

impl Failure {
    pub(crate) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    pub(crate) fn text(code: u8, message: impl std::fmt::Display) -> Self {
        Self::new(code, anyhow::anyhow!("{message}"))
    }

    fn is_broken_pipe(&self) -> bool {
        self.error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FAILED, error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(FAILED, std::io::Error::from(error))
    }
}

/// The whole command.
pub fn main() -> ExitCode {
    // The hidden subcommand of the proxy process is not part of the interface.
    let first = std::env::args_os().nth(1);
    if first.as_deref() == Some(crate::server::SUBCOMMAND.as_ref()) {
        return finish(
            crate::server::proxy_process::main().map_err(|error| Failure::new(FAILED, error)),
        );
    }
    if first.as_deref() == Some(crate::server::CHECK_SUBCOMMAND.as_ref()) {
        return finish(upgrade_check());
    }
    finish(dispatch(Cli::parse()))
}

/// Asked by a running sluice whether this program can take over: its own words follow.
fn upgrade_check() -> Outcome {
    let words = std::env::args_os().skip(2);
    let cli = Cli::try_parse_from(
        [std::ffi::OsString::from("sluice")]
            .into_iter()
            .chain(words),
    )
    .map_err(|error| Failure::text(USAGE, error))?;
    match cli.command {
        Some(Command::Run(args)) => run::upgrade_check(&cli.global, &args),
        _ => Err(Failure::text(USAGE, "these are not the words of a service")),
    }
}

fn finish(outcome: Outcome) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    // `sluice status | head`: whoever read has enough.
    if failure.is_broken_pipe() {
        return ExitCode::SUCCESS;
    }
    // Standard error may be closed as well.
    drop(writeln!(std::io::stderr(), "sluice: {:#}", failure.error));
    ExitCode::from(failure.code)
}

fn dispatch(cli: Cli) -> Outcome {
    let global = &cli.global;
    if cli.test {
        if cli.command.is_some() {
            return Err(Failure::text(USAGE, "-t stands alone: sluice -t [-f FILE]"));
        }
        return run::configtest(&cli.config);
    }
    let Some(command) = cli.command else {
        Cli::command().print_help()?;
        return Err(Failure::text(USAGE, "no command given"));
    };
    match command {
        Command::Run(args) => run::run(global, &args),
        Command::Configtest(args) => run::configtest(&args),
        Command::Status(json) => show::status(global, json),
        Command::Metrics => show::metrics(global),
        Command::Member { command } => match command {
            args::MemberCommand::List { balancer, json } => {
                show::members(global, balancer.as_deref(), json)
            }
            args::MemberCommand::Show { which, json } => show::member(global, &which, json),
            args::MemberCommand::Change(change) => change::member(global, &change),
        },
        Command::Service { command } => match command {
            args::ServiceCommand::List(json) => show::services(global, json),
            args::ServiceCommand::Show { service, json } => show::service(global, &service, json),
        },
        Command::Flow { command } => match command {
            args::FlowCommand::List(args) => flow::list(global, &args),
            args::FlowCommand::Show { source, json } => flow::one(global, source, json),
        },
        Command::Steer {
            proto,
            source,
            destination,
            json,
        } => flow::steer(global, &proto, source, destination, json),
        Command::Route(args) => route::route(global, &args),
        Command::Capture(args) => capture::run(global, &args),
        Command::Limit { command } => match command {
            args::LimitCommand::List(json) => show::limits(global, json),
            args::LimitCommand::Set { service, limit } => change::limit(global, &service, &limit),
        },
        Command::Deny { command } => match command {
            args::DenyCommand::List(json) => show::prefixes(global, json),
            args::DenyCommand::Add {
                prefix,
                time,
                force,
            } => change::deny_add(global, prefix, time, force),
            args::DenyCommand::Del { prefix } => change::deny_del(global, prefix),
        },
        Command::Settings { json, command } => match command {
            None => show::settings(global, json),
            Some(args::SettingsCommand::List(inner)) => show::settings(
                global,
                args::Json {
                    json: json.json || inner.json,
                },
            ),
            Some(args::SettingsCommand::Set { name, value }) => {
                change::setting(global, name, value)
            }
        },
        Command::Doctor { json, file, member } if member.is_empty() => {
            run::doctor(global, json, file.as_deref())
        }
        Command::Doctor { json, member, .. } => run::doctor_of_member(json, &member),
        Command::Reload => change::reload(global),
        Command::Upgrade { binary, deadline } => change::upgrade(global, binary, deadline),
        Command::Stop { graceful } => change::stop(global, graceful),
        Command::Detach { yes } => change::detach(global, yes),
        Command::Version => run::version(),
        Command::Man { command } => manual::page(&command),
        Command::Completions { shell } => manual::completions(shell),
    }
}
