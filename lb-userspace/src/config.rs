//! The configuration language: httpd's syntax in, a validated [`spec::Spec`] out.
//!
//! Opens the configuration files and nothing else: no socket, no name lookup, no map.

use std::path::Path;

pub mod spec;

/// What reading a configuration gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there is no error.
    pub spec: Option<spec::Spec>,
    /// Errors, warnings and notices, in the order of the file.
    pub reports: Vec<Report>,
}

/// How much a [`Report`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For information: what sluice does instead.
    Notice,
    /// Probably not meant.
    Warning,
    /// The configuration is refused.
    Error,
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How much it matters.
    pub severity: Severity,
    /// File.
    pub file: std::path::PathBuf,
    /// Line from 1 (httpd's: the last physical line of a continued directive); 0: the whole file.
    pub line: u32,
    /// Column of the word concerned, from 1, in the physical line `line_text`; 0: the whole line.
    pub column: u32,
    /// Length of the word concerned, characters, at least 1.
    pub width: u32,
    /// The physical line, for the caret.
    pub line_text: String,
    /// What is wrong, in httpd's words where it has some.
    pub message: String,
    /// What was expected, a suggestion, or what to do; may be empty.
    pub help: String,
}

/// Definitions from the command line (`-D NAME`).
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names defined.
    pub defines: Vec<String>,
    /// `ServerRoot` before the file sets one; `None`: the file's directory.
    pub server_root: Option<std::path::PathBuf>,
}

/// Reads a configuration with all it includes. Never fails fast: every error is in the reports.
pub fn load(_file: &Path, _options: &Options) -> Loaded {
    unimplemented!("config")
}

impl Report {
    /// As `configtest` prints it: `file:line:column: severity: message`, the line, a caret, help.
    pub fn render(&self) -> String {
        unimplemented!("config")
    }
}
