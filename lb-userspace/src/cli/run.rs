//! `run`, `configtest`, `doctor`, `version`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{
    FAILED, Failure, NO_DATAPLANE, Outcome,
    args::{ConfigArgs, Global, Json, RunArgs},
    output,
    table::{Align, Cell, Table, Tone},
};
use crate::{
    config::{self, Options, Severity, spec::Spec},
    dataplane::doctor::{Check, Verdict, examine, examine_member, examine_steering},
    server::{self, RunOptions},
};

/// Reads the configuration and prints every report. `None`: it has errors, which were printed.
fn load(args: &ConfigArgs, least: Severity) -> (Option<Spec>, Options) {
    let options = options_of(args);
    let loaded = config::load(&args.file, &options);
    let mut errors = std::io::stderr().lock();
    for report in loaded.reports.iter().filter(|r| r.severity >= least) {
        // Standard error may be closed.
        drop(writeln!(errors, "{}", report.render()));
    }
    (loaded.spec, options)
}

fn options_of(args: &ConfigArgs) -> Options {
    Options {
        defines: args.defines.clone(),
        server_root: None,
    }
}

fn refused(args: &ConfigArgs) -> Failure {
    Failure::text(
        FAILED,
        format_args!("{}: configuration refused", args.file.display()),
    )
}

pub(crate) fn configtest(args: &ConfigArgs) -> Outcome {
    match load(args, Severity::Notice) {
        (Some(spec), _) => {
            let mut errors = std::io::stderr().lock();
            for warning in server::missing_interfaces(&spec) {
                drop(writeln!(errors, "warning: {warning}"));
            }
            match server::check_certificates(&spec) {
                Ok(warnings) => {
                    for warning in warnings {
                        drop(writeln!(errors, "warning: {warning}"));
                    }
                }
                Err(lines) => {
                    drop(writeln!(errors, "{lines}"));
                    return Err(refused(args));
                }
            }
            drop(errors);
            // Where httpd prints it.
            drop(writeln!(std::io::stderr(), "Syntax OK"));
            Ok(())
        }
        (None, _) => Err(refused(args)),
    }
}

pub(crate) fn run(global: &Global, args: &RunArgs) -> Outcome {
    let predecessor = server::predecessor()?;
    let left = match &predecessor {
        Some(predecessor) => predecessor.spec()?,
        None => None,
    };
    let (spec, config) = match left {
        Some(spec) => (Some(spec), options_of(&args.config)),
        None => load(&args.config, Severity::Notice),
    };
    let Some(spec) = spec else {
        let refused = refused(&args.config);
        if let Some(predecessor) = predecessor {
            let why = format!("the new program refused {}", args.config.file.display());
            let error = predecessor.give_back(why);
            return Err(Failure::new(FAILED, error));
        }
        return Err(refused);
    };
    let options = run_options(global, args, config)?;
    server::run(options, spec, predecessor)
        .map_err(|error| Failure::new(u8::try_from(error.exit_code()).unwrap_or(FAILED), error))
}

fn run_options(global: &Global, args: &RunArgs, config: Options) -> Result<RunOptions, Failure> {
    Ok(RunOptions {
        // A daemon's working directory is nobody's business; reloads need the path.
        file: std::path::absolute(&args.config.file)?,
        config,
        no_xdp: args.no_xdp,
        place: global.place(),
        instance_given: global.instance.is_some(),
        binary: PathBuf::new(),
    })
}

/// Whether this program could take over from a running one: its credentials on standard output.
pub(crate) fn upgrade_check(global: &Global, args: &RunArgs) -> Outcome {
    let (spec, config) = load(&args.config, Severity::Error);
    let spec = spec.ok_or_else(|| refused(&args.config))?;
    let options = run_options(global, args, config)?;
    let credentials =
        server::upgrade_check(&options, spec).map_err(|message| Failure::text(FAILED, message))?;
    output::line(&credentials)
}

pub(crate) fn version() -> Outcome {
    output::line(&format!(
        "sluice {} (map layouts {})",
        env!("CARGO_PKG_VERSION"),
        lb_common::abi::ABI_VERSION
    ))
}

/// What there is to say about this host. Exit code 3 when something is in the way of XDP, 1 when it is
/// in the way of what is steered alone.
pub(crate) fn doctor(global: &Global, json: Json, file: Option<&Path>) -> Outcome {
    let mut place = global.place();
    let mut interfaces = Vec::new();
    let mut shards = None;
    let mut steering = Vec::new();
    if let Some(file) = file {
        let args = ConfigArgs {
            file: file.to_owned(),
            defines: Vec::new(),
        };
        let (spec, _) = load(&args, Severity::Error);
        let spec = spec.ok_or_else(|| refused(&args))?;
        if global.instance.is_none() {
            place.instance.clone_from(&spec.sluice.instance);
        }
        shards = spec.sluice.shards;
        steering = examine_steering(&spec);
        let named = spec.sluice.interfaces.into_iter();
        interfaces.extend(named.map(|interface| interface.name));
    }
    let mut checks = examine(&place, &interfaces);
    let in_the_way = |checks: &[Check]| checks.iter().any(|c| c.verdict == Verdict::Fail);
    let code = if in_the_way(&checks) {
        NO_DATAPLANE
    } else {
        FAILED
    };
    checks.extend(steering);
    let (found, crowded) = server::describe_cpus(shards);
    checks.push(Check {
        name: "CPUs".to_owned(),
        verdict: if crowded { Verdict::Warn } else { Verdict::Ok },
        found,
        why: "a shard is one thread: as many as CPUs, or as the control group's quota keeps running",
        fix: if crowded {
            "SluiceShards auto".to_owned()
        } else {
            String::new()
        },
    });
    report(&checks, json, code)
}

/// Whether this host can be a member that packets for these VIPs are steered to.
pub(crate) fn doctor_of_member(json: Json, vips: &[std::net::IpAddr]) -> Outcome {
    report(&examine_member(vips), json, FAILED)
}

/// Prints them; `code` is the exit code where something is wrong.
fn report(checks: &[Check], json: Json, code: u8) -> Outcome {
    let word = |verdict| match verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Warn => ("warning", Tone::Warn),
        Verdict::Fail => ("FAIL", Tone::Bad),
    };
    if json.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                serde_json::json!({
                    "name": check.name,
                    "verdict": word(check.verdict).0.to_ascii_lowercase(),
                    "found": check.found,
                    "why": check.why,
                    "fix": check.fix,
                })
            })
            .collect();
        output::json(&serde_json::json!({ "checks": checks }))?;
    } else {
        let mut table = Table::new(&[
            ("CHECK", Align::Left),
            ("", Align::Left),
            ("FOUND", Align::Left),
        ]);
        for check in checks {
            let (text, tone) = word(check.verdict);
            table.row(vec![
                Cell::from(&check.name),
                Cell::toned(text, tone),
                Cell::from(&check.found),
            ]);
        }
        let mut page = table.render(0, output::is_coloured());
        for check in checks.iter().filter(|check| check.verdict != Verdict::Ok) {
            let Check { name, why, fix, .. } = check;
            page.extend(["\n", name, ": ", why, "\n  ", fix, "\n"]);
        }
        output::text(&page)?;
    }
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::text(
        code,
        format_args!("{failed} of {} checks failed", checks.len()),
    ))
}
