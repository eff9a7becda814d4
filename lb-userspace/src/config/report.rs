//! What is said about a configuration: collected, bounded, put in order, printed with a caret.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::syntax::lexer::{FileText, Span};

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

impl Severity {
    /// Lower-case name, as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How much it matters.
    pub severity: Severity,
    /// File.
    pub file: PathBuf,
    /// Line from 1 (httpd's: the last physical line of a continued directive); 0: the whole file.
    pub line: u32,
    /// Number of the physical line that is `line_text`: differs from `line` only in a continued
    /// directive. 0 where `line` is.
    pub text_line: u32,
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

impl Report {
    /// About a whole file.
    pub fn about_file(severity: Severity, file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity,
            file: file.to_owned(),
            line: 0,
            text_line: 0,
            column: 0,
            width: 1,
            line_text: String::new(),
            message: message.into(),
            help: String::new(),
        }
    }

    /// As `configtest` prints it: `file:line:column: severity: message`, the line, a caret, help.
    /// Control characters are shown escaped; ends without a newline.
    pub fn render(&self) -> String {
        let mut out = printable(&self.file.to_string_lossy());
        if self.line > 0 {
            let _ = write!(out, ":{}", self.line);
            if self.column > 0 {
                let _ = write!(out, ":{}", self.column);
            }
        }
        let message = printable(&self.message);
        let _ = write!(out, ": {}: {message}", self.severity.name());
        if self.line > 0 && !self.line_text.trim().is_empty() {
            let number = self.text_line.to_string();
            let (text, caret) = self.excerpt();
            let _ = write!(out, "\n {number} | {text}");
            if let Some((pad, marks)) = caret {
                let (gutter, marks) = (number.len(), "^".repeat(marks));
                let _ = write!(out, "\n {:gutter$} | {:pad$}{marks}", "", "");
            }
        }
        for line in self.help.lines() {
            let _ = write!(out, "\n   = {}", printable(line));
        }
        out
    }

    /// The line as shown, and the caret's offset and length in it. Long lines are cut around the
    /// caret.
    fn excerpt(&self) -> (String, Option<(usize, usize)>) {
        let chars: Vec<char> = self
            .line_text
            .chars()
            .take(MAX_LINE_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let column = self.column as usize;
        if column == 0 || column > chars.len() {
            let cut: String = chars.iter().take(SHOWN_CHARS).collect();
            let more = if chars.len() > SHOWN_CHARS { "..." } else { "" };
            return (cut + more, None);
        }
        let at = column - 1;
        let from = if at > SHOWN_CHARS * 2 / 3 {
            at - SHOWN_CHARS / 2
        } else {
            0
        };
        let to = chars.len().min(from + SHOWN_CHARS);
        let mut text = String::new();
        if from > 0 {
            text.push_str("...");
        }
        let pad = text.len() + at - from;
        text.extend(&chars[from..to]);
        if to < chars.len() {
            text.push_str("...");
        }
        let marks = (self.width as usize).clamp(1, (to - at).max(1));
        (text, Some((pad, marks)))
    }
}

/// Where something is said to be.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    /// Its file.
    pub file: &'a FileText,
    /// httpd's line number.
    pub line: u32,
    /// The word; `None`: the whole line.
    pub span: Option<Span>,
    /// Its place in the order of reading.
    pub order: u32,
}

/// Reports as they come up; at most [`MAX_REPORTS`] of each severity are kept, the rest counted.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    list: Vec<(u32, Report)>,
    counts: [usize; 3],
}

impl Reports {
    /// Adds one.
    pub(crate) fn push(
        &mut self,
        severity: Severity,
        at: At<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if !self.admit(severity) {
            return;
        }
        let text_line = at.span.map_or(at.line, |span| span.line);
        let report = Report {
            severity,
            file: at.file.path.clone(),
            line: at.line,
            text_line,
            column: at.span.map_or(0, |span| span.column),
            width: at.span.map_or(1, |span| span.width.max(1)),
            line_text: at
                .file
                .line(text_line)
                .chars()
                .take(MAX_LINE_CHARS)
                .collect(),
            message: message.into(),
            help: help.into(),
        };
        self.list.push((at.order, report));
    }

    /// Adds one about a whole file.
    pub(crate) fn push_file(
        &mut self,
        severity: Severity,
        file: &Path,
        order: u32,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.admit(severity) {
            let mut report = Report::about_file(severity, file, message);
            report.help = help.into();
            self.list.push((order, report));
        }
    }

    /// Adds one about a line whose text is no longer at hand.
    pub(crate) fn push_line(
        &mut self,
        severity: Severity,
        at: &super::spec::Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.admit(severity) {
            let mut report = Report::about_file(severity, &at.file, message);
            report.line = at.line;
            report.help = help.into();
            self.list.push((u32::MAX, report));
        }
    }

    fn admit(&mut self, severity: Severity) -> bool {
        let count = &mut self.counts[severity as usize];
        *count += 1;
        *count <= MAX_REPORTS
    }

    /// Whether an error was added.
    pub(crate) fn has_errors(&self) -> bool {
        self.counts[Severity::Error as usize] > 0
    }

    /// Whether more errors came than are kept: those that follow are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.counts[Severity::Error as usize] > MAX_REPORTS
    }

    /// All of them in the order of the file, then how many were left out.
    pub(crate) fn finish(mut self, file: &Path) -> Vec<Report> {
        self.list.sort_by_key(|(order, _)| *order);
        let mut reports: Vec<Report> = self.list.into_iter().map(|(_, report)| report).collect();
        for severity in [Severity::Error, Severity::Warning, Severity::Notice] {
            let more = self.counts[severity as usize].saturating_sub(MAX_REPORTS);
            if more > 0 {
                let plural = if more == 1 { "" } else { "s" };
                let message = format!("and {more} more {}{plural}", severity.name());
                reports.push(Report::about_file(severity, file, message));
            }
        }
        reports
    }
}

/// Text that cannot move a terminal's cursor: control characters escaped.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Reports of one severity that are kept.
const MAX_REPORTS: usize = 100;
/// Characters of a line that are shown.
const SHOWN_CHARS: usize = 160;
/// Characters of a line that are kept in a report.
const MAX_LINE_CHARS: usize = 4096;

#[cfg(test)]
mod tests;
