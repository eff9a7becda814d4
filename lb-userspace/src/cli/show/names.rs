//! Names of members: where they are, since when that is known, and what went wrong.

use super::span;
use crate::{
    admin::protocol::NameView,
    cli::table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};

pub(super) fn name_table(names: &[NameView]) -> Table {
    let mut table = Table::new(&[
        ("NAME", Left),
        ("USED", Left),
        ("ANSWER", Left),
        ("AGE", Right),
        ("TTL", Right),
        ("LOOKUPS", Right),
        ("FAILED", Right),
        ("MOVES", Right),
        ("STATE", Left),
    ]);
    for view in names {
        let age = view.age_seconds.map_or_else(|| "-".to_owned(), span);
        let ttl = view.ttl_seconds.map_or_else(|| "-".to_owned(), span);
        let state = match (view.error.as_str(), view.used.is_empty()) {
            ("", false) => Cell::toned("OK", Tone::Good),
            ("", true) => Cell::toned("not found yet", Tone::Bad),
            (error, true) => Cell::toned(error, Tone::Bad),
            (error, false) => Cell::toned(&format!("last answer kept: {error}"), Tone::Warn),
        };
        table.row(vec![
            Cell::from(&view.name),
            Cell::from(list(&view.used)),
            Cell::from(list(&view.addresses)),
            Cell::from(age),
            Cell::from(ttl),
            view.lookups.into(),
            view.failed.into(),
            view.moves.into(),
            state,
        ]);
    }
    table
}

/// The first few of them: a name may have sixty-four.
fn list(addresses: &[std::net::IpAddr]) -> String {
    const SHOWN: usize = 4;
    if addresses.is_empty() {
        return "-".to_owned();
    }
    let mut words: Vec<String> = addresses
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if let Some(more) = addresses.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        words.push(format!("and {more} more"));
    }
    words.join(" ")
}
