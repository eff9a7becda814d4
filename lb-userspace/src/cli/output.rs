//! Printing: lines, JSON, notes; colour for people only.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::Outcome;

/// Prints a line.
pub(crate) fn line(text: &str) -> Outcome {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Prints text that ends its lines itself.
pub(crate) fn text(text: &str) -> Outcome {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Prints JSON, indented.
pub(crate) fn json(value: &impl Serialize) -> Outcome {
    line(&serde_json::to_string_pretty(value)?)
}

/// Says something beside the result, on standard error.
pub(crate) fn note(text: &str) {
    // Losing a note is no reason to fail.
    drop(writeln!(io::stderr(), "sluice: {text}"));
}

/// Whether standard output takes colour: a terminal, and NO_COLOR not set.
pub(crate) fn is_coloured() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
