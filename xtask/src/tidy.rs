//! `cargo xtask tidy`: house rules that neither the compiler nor clippy knows.
//!
//! Each rule is a function from a file's path and text to complaints, so that it can be tried on a
//! line of text. Only files that git tracks are looked at.

mod prose;
mod source;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::exec;

/// One broken rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Complaint {
    /// `file` or `file:line`, what is wrong, and what to do.
    text: String,
    /// Whether it fails the check or is only told.
    fatal: bool,
}

impl Complaint {
    fn error(text: String) -> Self {
        Self { text, fatal: true }
    }

    fn warning(text: String) -> Self {
        Self { text, fatal: false }
    }
}

/// A tracked text file.
#[derive(Debug)]
pub(crate) struct File {
    path: String,
    text: String,
}

/// Checks every tracked file.
pub(crate) fn run(root: &Path) -> Result<()> {
    let files = tracked(root)?;
    let mut complaints = Vec::new();
    for file in &files {
        complaints.extend(source::check(file));
        complaints.extend(prose::check_text(file));
    }
    complaints.extend(prose::check_links(root, &files));
    complaints.extend(prose::check_architecture(root, &files));

    let errors = complaints
        .iter()
        .filter(|complaint| complaint.fatal)
        .count();
    for complaint in &complaints {
        let word = if complaint.fatal { "error" } else { "warning" };
        eprintln!("{word}: {}", complaint.text);
    }
    eprintln!(
        "    {} files, {errors} errors, {} warnings",
        files.len(),
        complaints.len() - errors
    );
    if errors > 0 {
        bail!("{errors} house rules are broken");
    }
    Ok(())
}

/// Tracked files that are text.
fn tracked(root: &Path) -> Result<Vec<File>> {
    let list = exec::output(Command::new("git").args(["ls-files", "-z"]))
        .context("git ls-files failed: tidy looks at what git tracks")?;
    Ok(list
        .split('\0')
        .filter(|path| !path.is_empty())
        .filter_map(|path| {
            // A file that is deleted but not yet staged, or that is no text, has no text to check.
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(File {
                path: path.to_owned(),
                text,
            })
        })
        .collect())
}
