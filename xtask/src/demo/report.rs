//! The report: what was tried, what was seen, and whether that is what was promised.

use anyhow::{Result, bail};

/// A report under way; printed as it grows.
#[derive(Debug, Default)]
pub(super) struct Report {
    sections: u32,
    broken: Vec<String>,
}

impl Report {
    /// Begins the next part.
    pub(super) fn section(&mut self, title: &str) {
        self.sections += 1;
        println!("\n{}. {title}", self.sections);
    }

    /// States a promise and whether it was kept.
    pub(super) fn check(&mut self, kept: bool, promise: &str) {
        println!("  {} {promise}", if kept { "ok " } else { "NO " });
        if !kept {
            self.broken.push(promise.to_owned());
        }
    }

    /// Sums up; an error if a promise was broken.
    pub(super) fn finish(&self) -> Result<()> {
        if self.broken.is_empty() {
            println!("\nAll as promised.");
            return Ok(());
        }
        bail!("not as promised: {}", self.broken.join("; "))
    }
}

/// States what was seen.
pub(super) fn say(text: impl AsRef<str>) {
    for line in text.as_ref().lines() {
        println!("     {line}");
    }
}
