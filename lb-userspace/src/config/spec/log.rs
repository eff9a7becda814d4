//! Logs: where they go, what their lines are, which there are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::expr::Expr;

/// Where an `ErrorLog` or a `CustomLog` goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    Stderr,
    /// A file, made absolute.
    File(PathBuf),
    /// A program that reads lines on its standard input.
    Program(LogProgram),
    /// The system log; of error logs alone.
    Syslog {
        /// 0 to 23 (syslog(3)). Default 23, `local7`.
        facility: u8,
        /// What lines are tagged with.
        tag: String,
    },
}

/// A program that reads a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogProgram {
    /// Words of the command, at least one; of a shell's command one.
    pub words: Vec<String>,
    /// `|$`: the one word is for `/bin/sh -c`.
    pub shell: bool,
}

/// `ErrorLogFormat`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorLogFormat {
    /// httpd's default.
    #[default]
    Default,
    /// `json`: an object a line.
    Json,
    /// A format string, checked.
    Format(String),
}

/// One `CustomLog`: a `LogFormat` string already looked up by its nickname.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessLog {
    /// Where lines go.
    pub target: LogTarget,
    /// Format string, checked.
    pub format: String,
    /// `env=` or `expr=`: which requests have a line.
    pub condition: Option<LogCondition>,
}

/// Condition of a `CustomLog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LogCondition {
    /// `env=`
    Variable {
        /// Its name.
        name: String,
        /// `true`: requests that have it; `false` (`env=!NAME`): those that have not.
        present: bool,
    },
    /// `expr=`
    Expr(Expr),
}

/// `LogLevel` of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevels {
    /// For every module.
    pub level: LogLevel,
    /// For modules by name, as in the error log's lines.
    pub modules: Vec<(String, LogLevel)>,
}

/// `LogLevel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LogLevel {
    /// An operator must act: `emerg`, `alert`, `crit`, `error`.
    Error,
    /// `warn`.
    #[default]
    Warn,
    /// `notice`.
    Notice,
    /// `info`.
    Info,
    /// `debug`.
    Debug,
    /// `trace1` to `trace8`.
    Trace,
}
