//! `Include` and `IncludeOptional`: files, patterns, whole directories (apache.md 1.2).

use std::{
    io,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use super::{
    glob,
    lexer::FileText,
    tree::{Node, Reader},
};
use crate::config::{report::Severity, source::Kind};

impl Reader<'_> {
    /// Reads the file that sluice was given.
    pub(super) fn read_main(&mut self, file: &Path, out: &mut Vec<Node>) {
        let problem = match self.start.source.kind(file) {
            Ok(Kind::File) => match self.read_file(file, out) {
                Ok(()) => return,
                Err(problem) => problem,
            },
            Ok(Kind::Directory) => Problem::new(
                "is a directory, not a configuration file",
                "name a file; Include can read a directory's files",
            ),
            Ok(Kind::Other) => Problem::new("is not a regular file", ""),
            Err(error) => Problem::new(
                format!("Could not open configuration file: {}", reason(&error)),
                "",
            ),
        };
        self.reports
            .push_file(Severity::Error, file, 0, problem.message, problem.help);
    }

    /// `Include` (`required`) and `IncludeOptional`.
    pub(super) fn include(&mut self, node: &Node, required: bool, out: &mut Vec<Node>) {
        let [word] = node.args.as_slice() else {
            let name = if required {
                "Include"
            } else {
                "IncludeOptional"
            };
            let message =
                format!("{name} takes one argument, the file, directory or pattern to read");
            return self
                .reports
                .push(Severity::Error, node.at(None), message, "");
        };
        let path = self.server_root.join(&word.text);
        let mut found = Vec::new();
        let problem = if glob::is_pattern(&word.text) {
            self.expand(&path, &mut found);
            if found.is_empty() && required {
                let message = format!("No matches for the wildcard '{}', failing", path.display());
                Some(Problem::new(
                    message,
                    "use IncludeOptional if there may be none",
                ))
            } else {
                None
            }
        } else {
            match self.start.source.kind(&path) {
                Ok(_) => {
                    found.push(path);
                    None
                }
                Err(error) if required => {
                    let reason = reason(&error);
                    let message = format!(
                        "Could not open configuration file {}: {reason}",
                        path.display()
                    );
                    Some(Problem::new(
                        message,
                        format!(
                            "relative paths begin at ServerRoot, {}",
                            self.server_root.display()
                        ),
                    ))
                }
                Err(_) => None,
            }
        };
        if let Some(problem) = problem {
            self.reports.push(
                Severity::Error,
                node.at(Some(0)),
                problem.message,
                problem.help,
            );
        }
        for path in found {
            self.include_path(node, &path, 0, out);
        }
    }

    /// Reads a file, or all files of a directory, recursively, in the order of their names.
    fn include_path(&mut self, node: &Node, path: &Path, depth: usize, out: &mut Vec<Node>) {
        if self.over_limit {
            return;
        }
        let problem = if depth + self.stack.len() > MAX_DEPTH {
            Some(Problem::new(
                format!(
                    "Exceeded the maximum include depth of {MAX_DEPTH}: {}",
                    path.display()
                ),
                "is there a recursion, or a loop of symbolic links?",
            ))
        } else {
            match self.start.source.kind(path) {
                Ok(Kind::File) => self.read_file(path, out).err(),
                Ok(Kind::Directory) => match self.start.source.list(path) {
                    Ok(mut names) => {
                        names.sort_unstable();
                        for name in names {
                            self.include_path(node, &path.join(name), depth + 1, out);
                        }
                        None
                    }
                    Err(error) => Some(Problem::new(
                        format!(
                            "Could not open config directory {}: {}",
                            path.display(),
                            reason(&error)
                        ),
                        "",
                    )),
                },
                Ok(Kind::Other) => Some(Problem::new(
                    format!("{} is not a regular file", path.display()),
                    "",
                )),
                Err(error) => Some(Problem::new(
                    format!(
                        "Could not open configuration file {}: {}",
                        path.display(),
                        reason(&error)
                    ),
                    "",
                )),
            }
        };
        if let Some(problem) = problem {
            self.reports.push(
                Severity::Error,
                node.at(Some(0)),
                problem.message,
                problem.help,
            );
        }
    }

    /// Reads one regular file.
    fn read_file(&mut self, path: &Path, out: &mut Vec<Node>) -> Result<(), Problem> {
        let identity = self.start.source.identity(path);
        if self.stack.contains(&identity) {
            return Err(Problem::new(
                format!("{} includes itself", path.display()),
                "",
            ));
        }
        self.files += 1;
        if self.files > MAX_FILES {
            self.over_limit = true;
            return Err(Problem::new(
                format!("more than {MAX_FILES} files to read"),
                "",
            ));
        }
        let bytes = self
            .start
            .source
            .read(path, MAX_FILE_BYTES)
            .map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => Problem::new(
                    format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()),
                    "is this a configuration file?",
                ),
                _ => Problem::new(
                    format!(
                        "Could not open configuration file {}: {}",
                        path.display(),
                        reason(&error)
                    ),
                    "",
                ),
            })?;
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            let line = bytes[..at].split(|byte| *byte == b'\n').count();
            return Err(Problem::new(
                format!(
                    "{} is not a text file: NUL byte in line {line}",
                    path.display()
                ),
                "is this a configuration file?",
            ));
        }
        self.bytes += bytes.len();
        let file = Rc::new(FileText::new(path.to_owned(), bytes));
        self.stack.push(identity);
        self.read_text(&file, out);
        self.stack.pop();
        Ok(())
    }

    /// Paths that a pattern matches, sorted by name in each directory.
    fn expand(&self, pattern: &Path, found: &mut Vec<PathBuf>) {
        let mut prefix = PathBuf::new();
        let components: Vec<Component<'_>> = pattern.components().collect();
        let first = components
            .iter()
            .position(|c| glob::is_pattern(&c.as_os_str().to_string_lossy()))
            .unwrap_or(components.len());
        prefix.extend(&components[..first]);
        let rest: Vec<String> = components[first..]
            .iter()
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .collect();
        self.expand_from(&prefix, &rest, found);
    }

    fn expand_from(&self, directory: &Path, rest: &[String], found: &mut Vec<PathBuf>) {
        if found.len() > MAX_FILES as usize {
            return;
        }
        let Some((pattern, rest)) = rest.split_first() else {
            if self.start.source.kind(directory).is_ok() {
                found.push(directory.to_owned());
            }
            return;
        };
        if !glob::is_pattern(pattern) {
            return self.expand_from(&directory.join(pattern), rest, found);
        }
        let Ok(mut names) = self.start.source.list(directory) else {
            return;
        };
        names.sort_unstable();
        for name in names
            .iter()
            .filter(|name| glob::matches_name(pattern, name))
        {
            self.expand_from(&directory.join(name), rest, found);
        }
    }
}

/// Message and help.
struct Problem {
    message: String,
    help: String,
}

impl Problem {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// An I/O error in the C library's words, without its number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// Files within files (httpd: 128).
const MAX_DEPTH: usize = 128;
/// Files in all.
const MAX_FILES: u32 = 10_000;
/// Largest file, bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
