//! ErrorLog, LogLevel, CustomLog, LogFormat, TransferLog (apache.md 3.24).

use std::path::PathBuf;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::config::{
    draft::LogDraft,
    log_format,
    spec::{LogLevel, LogTarget},
};

pub(super) const TABLE: &[Directive] = &[
    row("ErrorLog", Contexts::SERVER, Arity::One, "FILE|/dev/stderr",
        "file for messages, relative to ServerRoot", Effect::Apply(error_log)).or("standard error"),
    row("ErrorLogFormat", Contexts::SERVER, Arity::Some, "json",
        "lines of every error log as JSON, an object a line: time, module, level, pid, tid, client, request, id, reason, message. httpd's format strings are not in this version",
        Effect::Apply(error_log_format)).or("httpd's lines"),
    row("LogLevel", Contexts::SERVER, Arity::Some, "LEVEL",
        "least important message that is logged: emerg, alert, crit, error, warn, notice, info, debug, trace1 to trace8. Levels for single modules are accepted with a notice",
        Effect::Apply(log_level)).or("warn"),
    row("LogFormat", Contexts::SERVER, Arity::OneOrTwo, "FORMAT [NICKNAME]",
        "a format for CustomLog; without a nickname the one of TransferLog", Effect::Apply(log_format_directive))
        .or("%h %l %u %t \"%r\" %>s %b"),
    row("CustomLog", Contexts::SERVER, Arity::TwoOrThree, "FILE FORMAT|NICKNAME",
        "file for a line per request", Effect::Apply(custom_log)),
    row("TransferLog", Contexts::SERVER, Arity::One, "FILE",
        "file for a line per request, in the last LogFormat without nickname", Effect::Apply(transfer_log)),
];

/// File of a log, made absolute.
fn target(call: &Call<'_, '_>, index: usize) -> Result<LogTarget, Fault> {
    let text = call.arg(index);
    if text.starts_with('|') {
        return Err(super::not_yet("logging to a program")
            .at(index)
            .help("log to a file"));
    }
    if text == "syslog" || text.starts_with("syslog:") {
        return Err(super::not_yet("logging to syslog")
            .at(index)
            .help("log to a file, or to /dev/stderr"));
    }
    if text.is_empty() {
        return Err(Fault::new(format!("{}: no file name", call.row.name)).at(index));
    }
    if text == "/dev/stderr" {
        return Ok(LogTarget::Stderr);
    }
    Ok(LogTarget::File(
        call.draft.server_root.join(PathBuf::from(text)),
    ))
}

fn error_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let target = target(call, 0)?;
    if call.scope.host == 0 {
        call.draft.spec.error_log = target;
    } else {
        call.host().error_log = Some(target);
    }
    Ok(())
}

fn error_log_format(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.scope.host > 0 {
        return Err(super::not_yet("ErrorLogFormat in a virtual host")
            .help("the main server's is for all error logs"));
    }
    if call.count() != 1 || !call.arg(0).eq_ignore_ascii_case("json") {
        return Err(super::not_yet("ErrorLogFormat with a format string")
            .at(0)
            .help("this version has: ErrorLogFormat json"));
    }
    call.draft.spec.error_log_json = true;
    Ok(())
}

fn log_level(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let text = call.arg(index).to_owned();
        let (module, name) = match text.split_once(':') {
            Some((module, name)) => (Some(module), name),
            None => (None, text.as_str()),
        };
        let level = match name.to_ascii_lowercase().as_str() {
            "emerg" | "alert" | "crit" | "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "notice" => LogLevel::Notice,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            "trace1" | "trace2" | "trace3" | "trace4" | "trace5" | "trace6" | "trace7"
            | "trace8" => LogLevel::Trace,
            _ => {
                let prefix = module.map(|_| format!("{text}: ")).unwrap_or_default();
                let message = format!(
                    "{prefix}Log level keyword must be one of emerg/alert/crit/error/warn/notice/info/debug/trace1/.../trace8"
                );
                return Err(Fault::new(message).at(index));
            }
        };
        if module.is_some() {
            let message = "levels for single modules are not applied by this version of sluice";
            call.notice(Fault::new(message).at(index));
        } else if call.scope.host == 0 {
            call.draft.spec.log_level = level;
        } else {
            let message = "LogLevel in a virtual host is not applied by this version of sluice: the main server's is for all";
            call.notice(Fault::new(message).at(index));
        }
    }
    Ok(())
}

fn checked(format: &str, index: usize) -> Result<(), Fault> {
    log_format::check(format).map_err(|error| Fault::new(error.to_string()).at(index))
}

fn log_format_directive(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let format = call.arg(0).to_owned();
    if call.count() == 1 {
        // A nickname alone makes that format the default one; it is looked up with the others.
        if format.contains('%') {
            checked(&format, 0)?;
        }
        call.host().default_format = Some(format);
        return Ok(());
    }
    checked(&format, 0)?;
    let nickname = call.arg(1).to_owned();
    call.host().formats.push((nickname, format));
    Ok(())
}

fn custom_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.count() == 3 {
        let what = format!("CustomLog with '{}'", call.arg(2));
        return Err(super::not_yet(&what).at(2));
    }
    let target = target(call, 0)?;
    let format = call.arg(1).to_owned();
    if format.contains('%') {
        checked(&format, 1)?;
    }
    let mark = call.mark(1);
    call.host().logs.push(LogDraft {
        target,
        format: Some(format),
        mark,
    });
    Ok(())
}

fn transfer_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let target = target(call, 0)?;
    let mark = call.mark(0);
    call.host().logs.push(LogDraft {
        target,
        format: None,
        mark,
    });
    Ok(())
}
