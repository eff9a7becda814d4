//! Tables and JSON of a run. Everything that the page of benchmarks shows is written here, legend
//! and losses included.

mod case;
mod others;

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Arguments, Outcome};
use crate::bench::table::Table;

/// The whole run as Markdown and as JSON.
pub(super) fn compose(outcome: &mut Outcome, arguments: &Arguments) -> (String, Value) {
    let mut text = format!("{}\n\n", outcome.machine.line());
    for (kind, version) in &outcome.versions {
        let _ = writeln!(text, "- {}: {version}", kind.name());
    }
    let _ = writeln!(text, "- driven by: {}\n", outcome.tools.join("; "));
    text += &legend(outcome);
    let mut summary = Table::new(&[
        "row",
        "build",
        "beside",
        "sluice / that",
        "at most",
        "verdict",
    ]);
    let mut details = String::new();
    let cases: Vec<_> = outcome
        .cases
        .iter()
        .map(|measured| case::tell(measured, arguments, &mut summary, &mut details))
        .collect();
    let steady = others::steady(outcome, &mut details);
    let idle: Vec<_> = outcome
        .idle
        .iter()
        .map(|held| others::idle(held, &mut summary, &mut details))
        .collect();
    if !summary.is_empty() {
        let _ = write!(text, "### Verdicts\n\n{}", summary.text());
    }
    text += &details;
    let json = json!({
        "bench": "l7", "machine": outcome.machine.json(), "rounds": arguments.rounds,
        "seconds": arguments.seconds, "tools": outcome.tools,
        "peers": outcome.versions.iter().map(|(kind, version)| json!({
            "name": kind.name(), "version": version,
        })).collect::<Vec<_>>(),
        "setups": outcome.started.iter().map(|started| json!({
            "peer": started.kind.name(), "setup": format!("{:?}", started.setup),
            "defers_accept": started.defers, "configuration": started.configuration,
        })).collect::<Vec<_>>(),
        "cases": cases, "latency": steady, "idle": idle,
    });
    (text, json)
}

/// How to read the tables, and what the run found the peers to do.
fn legend(outcome: &Outcome) -> String {
    let names = |defers: bool| {
        let mut names: Vec<_> = outcome
            .started
            .iter()
            .filter(|started| started.defers == defers)
            .map(|started| started.kind.name())
            .collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let accepting = match (names(true), names(false)) {
        (all, none) if none.is_empty() => {
            format!("Accepting is deferred until data came by {all}.")
        }
        (some, others) => format!(
            "**Not alike**: accepting is deferred until data came by {}, not by {others}.",
            if some.is_empty() { "nobody" } else { &some }
        ),
    };
    let mut counters: Vec<_> = outcome
        .cases
        .iter()
        .flat_map(|measured| &measured.rows)
        .filter_map(|row| Some(row.calls.as_ref()?.by))
        .collect();
    counters.sort_unstable();
    counters.dedup();
    let calls = if counters.is_empty() {
        "System calls were not counted in this run.".to_owned()
    } else {
        format!("System calls were counted by {}.", counters.join(" and "))
    };
    format!(
        "CPU is user and kernel time of a peer's whole process tree, us per request, median \
         [quartiles] of the rounds; the ratio is taken in each round. {} \"calls\" are system calls, \
         \"switches\" context switches per request. {calls} What sluice is measured beside is the \
         peer of the lowest median, or itself with the least of what a row has more and more of. \
         \"unsure\": what is allowed lies between the quartiles. Who has more than one error in a \
         hundred answers is compared with nobody. {accepting} TLS rows: {} {}, ECDSA \
         with P-256, asked of every peer before its row.\n\n",
        outcome.placement,
        super::tls::SUITE,
        super::tls::GROUP,
    )
}
