//! ErrorLog, ErrorLogFormat, LogLevel, CustomLog, GlobalLog, LogFormat, TransferLog (apache.md 3.24).

use std::path::PathBuf;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    config::{
        draft::{Asked, AskedFor, LogDraft},
        error_format, log_format,
        spec::{ErrorLogFormat, LogCondition, LogLevel, LogProgram, LogTarget},
    },
    expr::{Dialect, Expr},
};

pub(super) const TABLE: &[Directive] = &[
    row("ErrorLog", Contexts::SERVER, Arity::One, "FILE|/dev/stderr|\"|PROGRAM ARGUMENTS\"|syslog[:[FACILITY][:TAG]]",
        "where messages go: a file, relative to ServerRoot; a program that reads them (`|$` by the shell); the system log. Without a facility it is local7, without a tag sluice",
        Effect::Apply(error_log)).or("standard error"),
    row("ErrorLogFormat", Contexts::SERVER, Arity::Some, "json|FORMAT",
        "json: lines as JSON, an object a line: time, module, level, pid, tid, client, request, id, reason, message. Else httpd's format strings, in which %A, %e, %E, %i, %k and %n are empty and the formats for connections and requests are not in this version",
        Effect::Apply(error_log_format)).or("httpd's lines"),
    row("LogLevel", Contexts::SERVER, Arity::Some, "LEVEL [MODULE:LEVEL ...]",
        "least important message that is logged: emerg, alert, crit, error, warn, notice, info, debug, trace1 to trace8. emerg to error are one, so are trace1 to trace8. Modules are those of the error log's lines; mod_, _module and .c around a name are left out",
        Effect::Apply(log_level)).or("warn"),
    row("LogFormat", Contexts::SERVER, Arity::OneOrTwo, "FORMAT [NICKNAME]",
        "a format for CustomLog; without a nickname the one of TransferLog", Effect::Apply(log_format_directive))
        .or("%h %l %u %t \"%r\" %>s %b"),
    row("CustomLog", Contexts::SERVER, Arity::TwoOrThree, "FILE|\"|PROGRAM ARGUMENTS\" FORMAT|NICKNAME [env=[!]NAME|expr=CONDITION]",
        "where a line per request goes; with env= for requests that have, or have not, a variable of those that %{...}e writes; with expr= for those of which httpd's expression holds", Effect::Apply(custom_log)),
    row("GlobalLog", Contexts::MAIN, Arity::TwoOrThree, "FILE|\"|PROGRAM ARGUMENTS\" FORMAT|NICKNAME [env=[!]NAME|expr=CONDITION]",
        "as CustomLog, for the virtual hosts that have logs of their own too", Effect::Apply(global_log)),
    row("TransferLog", Contexts::SERVER, Arity::One, "FILE|\"|PROGRAM ARGUMENTS\"",
        "where a line per request goes, in the last LogFormat without nickname", Effect::Apply(transfer_log)),
];

/// Where a log goes; files made absolute.
fn target(call: &Call<'_, '_>, index: usize) -> Result<LogTarget, Fault> {
    let text = call.arg(index);
    if let Some(command) = text.strip_prefix('|') {
        return program(command)
            .map(LogTarget::Program)
            .ok_or_else(|| Fault::new(format!("{}: no program name", call.row.name)).at(index));
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

/// What follows `|`: `|` or nothing, the program itself; `$`, a command for the shell.
fn program(command: &str) -> Option<LogProgram> {
    let shell = command.strip_prefix('$');
    let words = match shell {
        Some(command) => vec![command.trim().to_owned()],
        None => words(command.strip_prefix('|').unwrap_or(command)),
    };
    let known = words.first().is_some_and(|word| !word.is_empty());
    known.then_some(LogProgram {
        words,
        shell: shell.is_some(),
    })
}

/// A command's words as APR makes them: blanks part them, quotes of either kind hold them together,
/// a backslash takes the next character as it is.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().unwrap_or('\\')),
            c if Some(c) == quote => quote = None,
            '"' | '\'' if quote.is_none() => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            c if c.is_ascii_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn error_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0);
    let target = match text.split_once(':') {
        _ if text.eq_ignore_ascii_case("syslog") => syslog("", "")?,
        Some((word, rest)) if word.eq_ignore_ascii_case("syslog") => {
            let (facility, tag) = rest.split_once(':').unwrap_or((rest, ""));
            syslog(facility, tag)?
        }
        _ => target(call, 0)?,
    };
    if call.scope.host == 0 {
        call.draft.spec.error_log = target;
    } else {
        call.host().error_log = Some(target);
    }
    Ok(())
}

fn syslog(facility: &str, tag: &str) -> Result<LogTarget, Fault> {
    const FACILITIES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2",
        "local3", "local4", "local5", "local6", "local7",
    ];
    let name = if facility.is_empty() {
        "local7"
    } else {
        facility
    };
    let known = FACILITIES
        .iter()
        .position(|known| known.eq_ignore_ascii_case(name))
        .and_then(|number| u8::try_from(number).ok());
    let Some(facility) = known else {
        let message = format!("ErrorLog: there is no syslog facility {facility}");
        return Err(Fault::new(message)
            .at(0)
            .help("such as daemon, user, local0 to local7"));
    };
    if tag.chars().any(|c| c.is_control() || c.is_whitespace()) || tag.len() > 64 {
        return Err(Fault::new("ErrorLog: no tag for syslog lines").at(0));
    }
    let tag = if tag.is_empty() { "sluice" } else { tag };
    Ok(LogTarget::Syslog {
        facility,
        tag: tag.to_owned(),
    })
}

fn error_log_format(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.count() != 1 {
        let what = format!("ErrorLogFormat {}", call.arg(0));
        return Err(super::not_yet(&what)
            .at(0)
            .help("this version has one format, for every line: ErrorLogFormat FORMAT"));
    }
    let text = call.arg(0).to_owned();
    let format = if text.eq_ignore_ascii_case("json") {
        ErrorLogFormat::Json
    } else {
        let items =
            error_format::parse(&text).map_err(|error| Fault::new(error.to_string()).at(0))?;
        let empty = items.iter().find_map(|item| match item {
            error_format::Item::Tag(tag) if error_format::is_empty(tag) => Some(tag.name),
            _ => None,
        });
        if let Some(name) = empty {
            let message =
                format!("ErrorLogFormat: %{name} is always empty in this version of sluice");
            call.notice(Fault::new(message).at(0));
        }
        ErrorLogFormat::Format(text)
    };
    if call.scope.host == 0 {
        call.draft.spec.error_log_format = format;
    } else {
        call.host().error_log_format = Some(format);
    }
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
        let host = call.host();
        if let Some(module) = module {
            let module = module_name(module);
            host.log_modules.retain(|(known, _)| *known != module);
            host.log_modules.push((module, level));
        } else {
            // As in httpd: it takes back what was said of single modules.
            host.log_modules.clear();
            host.log_level = Some(level);
            if call.scope.host == 0 {
                call.draft.spec.log_level = level;
            }
        }
    }
    Ok(())
}

/// `ssl` of `ssl`, `ssl_module`, `mod_ssl.c`, `mod_ssl`.
fn module_name(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix(".c").unwrap_or(&text);
    let text = text.strip_suffix("_module").unwrap_or(text);
    text.strip_prefix("mod_").unwrap_or(text).to_owned()
}

fn checked(format: &str, index: usize) -> Result<(), Fault> {
    match log_format::parse(format) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::new(error.to_string()).at(index)),
    }
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
    let log = log_draft(call)?;
    call.host().logs.push(log);
    Ok(())
}

fn global_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let log = log_draft(call)?;
    call.host().global_logs.push(log);
    Ok(())
}

fn log_draft(call: &mut Call<'_, '_>) -> Result<LogDraft, Fault> {
    let condition = if call.count() == 3 {
        Some(condition(call)?)
    } else {
        None
    };
    let target = target(call, 0)?;
    let format = call.arg(1).to_owned();
    if format.contains('%') {
        checked(&format, 1)?;
    }
    Ok(LogDraft {
        target,
        format: Some(format),
        condition,
        mark: call.mark(1),
    })
}

fn condition(call: &mut Call<'_, '_>) -> Result<LogCondition, Fault> {
    let text = call.arg(2).to_owned();
    if let Some(expression) = text.strip_prefix("expr=") {
        return Expr::condition(expression, Dialect::Request)
            .map(LogCondition::Expr)
            .map_err(|error| Fault::new(format!("{}: {error}", call.row.name)).at(2));
    }
    let Some(variable) = text.strip_prefix("env=") else {
        return Err(Fault::new("error in condition clause").at(2));
    };
    let (variable, present) = match variable.strip_prefix('!') {
        Some(variable) => (variable, false),
        None => (variable, true),
    };
    if variable.is_empty() {
        return Err(Fault::new("missing environment variable name").at(2));
    }
    let asked = Asked {
        name: variable.to_owned(),
        by: AskedFor::Log { present },
        mark: call.mark(2),
    };
    let condition = LogCondition::Variable {
        name: variable.to_owned(),
        present,
    };
    call.draft.asked.push(asked);
    Ok(condition)
}

fn transfer_log(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let target = target(call, 0)?;
    let mark = call.mark(0);
    call.host().logs.push(LogDraft {
        target,
        format: None,
        condition: None,
        mark,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parted_as_apr_does() {
        let parted = |command| program(command).map(|program| (program.words, program.shell));
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(
            parted("/bin/rotatelogs -l \"/a b/c\" 'd\"e' f\\ g ''"),
            Some((
                words(&["/bin/rotatelogs", "-l", "/a b/c", "d\"e", "f g", ""]),
                false
            ))
        );
        assert_eq!(parted("| /bin/x"), Some((words(&["/bin/x"]), false)));
        assert_eq!(parted("$ a | b "), Some((words(&["a | b"]), true)));
        assert_eq!((parted(""), parted("| "), parted("$")), (None, None, None));
    }
}
