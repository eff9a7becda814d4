//! Tables and JSON of a run. Everything that the page of benchmarks shows is written here, legend
//! and losses included.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    Arguments, Driven, Held, Measured, Outcome,
    cases::Drive,
    drive::Sample,
    peers::Kind,
    rounds::{STEADY_ROUNDS, STEADY_SECONDS},
    verdict::{self, IDLE_CLEARTEXT, Verdict, met},
};
use crate::bench::{figures::Spread, table::Table};

/// The whole run as Markdown and as JSON.
pub(super) fn compose(outcome: &mut Outcome, arguments: &Arguments) -> (String, Value) {
    let mut text = format!("{}\n\n", outcome.machine.line());
    for peer in &outcome.peers {
        let _ = writeln!(text, "- {}: {}", peer.kind.name(), peer.version);
    }
    let _ = writeln!(text, "- driven by: {}\n", outcome.tools.join("; "));
    text += &legend(outcome);
    let mut summary = Table::new(&[
        "row",
        "build",
        "best peer",
        "sluice / best",
        "at most",
        "verdict",
    ]);
    let mut details = String::new();
    let cases: Vec<_> = outcome
        .cases
        .iter()
        .map(|measured| case(outcome, measured, arguments, &mut summary, &mut details))
        .collect();
    let steady = steady(outcome, &mut details);
    let idle: Vec<_> = outcome
        .idle
        .iter()
        .map(|held| idle(held, &mut summary, &mut details))
        .collect();
    let _ = write!(text, "### Verdicts\n\n{}{details}", summary.text());
    let json = json!({
        "bench": "l7", "machine": outcome.machine.json(), "rounds": arguments.rounds,
        "seconds": arguments.seconds, "tools": outcome.tools,
        "peers": outcome.peers.iter().map(|peer| json!({
            "name": peer.kind.name(), "version": peer.version, "defers_accept": peer.defers,
            "configuration": peer.configuration,
        })).collect::<Vec<_>>(),
        "cases": cases, "latency": steady, "idle": idle,
    });
    (text, json)
}

/// How to read the tables, and what the run found the peers to do.
fn legend(outcome: &Outcome) -> String {
    let names = |defers: bool| {
        let peers = outcome.peers.iter().filter(|peer| peer.defers == defers);
        let names: Vec<_> = peers.map(|peer| peer.kind.name()).collect();
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
    format!(
        "CPU is user and kernel time of a peer's whole process tree, us per request, median \
         [quartiles] of the rounds; the ratio is taken in each round. \"calls\" are system calls, \
         \"switches\" context switches per request. The best peer is the one of the lowest median. \
         \"unsure\": what is allowed lies between the quartiles. Who has more than one error in a \
         hundred answers is compared with nobody. {accepting} TLS rows: {} {}, ECDSA \
         with P-256, asked of every peer before its row.\n\n",
        super::tls::SUITE,
        super::tls::GROUP,
    )
}

fn spread(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    Spread::new(samples.iter().map(figure).collect())
}

fn how(measured: &Measured) -> String {
    let case = measured.case;
    match case.drive {
        Drive::Streams(streams) => {
            format!("{} connections of {streams} streams", case.connections)
        }
        Drive::Kept | Drive::Closing | Drive::Full | Drive::Resumed => {
            format!("{} connections", case.connections)
        }
    }
}

fn case(
    outcome: &Outcome,
    measured: &Measured,
    arguments: &Arguments,
    summary: &mut Table,
    text: &mut String,
) -> Value {
    let _ = writeln!(
        text,
        "\n### {} ({}, {} rounds of {} s)\n",
        measured.case.name,
        how(measured),
        arguments.rounds,
        arguments.seconds
    );
    let kinds = outcome.peers.iter().map(|peer| peer.kind);
    let rows: Vec<(Kind, &Driven)> = kinds.zip(&measured.rows).collect();
    let samples: Vec<(Kind, &[Sample])> = rows
        .iter()
        .filter(|(_, row)| row.refusal.is_none())
        .map(|(kind, row)| (*kind, row.samples.as_slice()))
        .collect();
    let of = |wanted: Kind| samples.iter().find(|(kind, _)| *kind == wanted);
    let builds: Vec<Kind> = rows
        .iter()
        .map(|(kind, _)| *kind)
        .filter(|kind| kind.is_ours())
        .collect();

    let mut head = vec!["peer".to_owned(), "CPU us/request".to_owned()];
    head.extend(
        builds
            .iter()
            .map(|build| format!("{} / peer", build.name())),
    );
    let others = [
        "user",
        "kernel",
        "calls",
        "switches",
        "requests/s",
        "errors",
    ];
    head.extend(others.map(str::to_owned));
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    let mut json_rows = Vec::new();
    for (kind, row) in &rows {
        let ratios: Vec<_> = builds
            .iter()
            .map(|build| {
                let (_, ours) = of(*build).filter(|_| !kind.is_ours())?;
                verdict::ratio(ours, &row.samples)
            })
            .collect();
        let (cells, json) = figures(*kind, row, &builds, &ratios, head.len());
        table.row(cells);
        json_rows.push(json);
    }
    text.push_str(&table.text());
    for (kind, row) in &rows {
        if let Some(refusal) = &row.refusal {
            let _ = writeln!(text, "\n{} has no figures: {refusal}", kind.name());
        }
    }

    let verdicts: Vec<_> = builds
        .iter()
        .map(|build| {
            let verdict =
                of(*build).and_then(|(_, ours)| Verdict::of(ours, &samples, measured.case.bar));
            let cells = match &verdict {
                Some(verdict) => [
                    verdict.best.name().to_owned(),
                    verdict.ratio.quartiles(2),
                    verdict.words(),
                ],
                None => ["-".to_owned(), "-".to_owned(), met(false).to_owned()],
            };
            let [best, ratio, words] = cells;
            summary.row(vec![
                measured.case.name.to_owned(),
                build.name().to_owned(),
                best,
                ratio,
                format!("{:.2}", measured.case.bar),
                words,
            ]);
            json!({
                "build": build.name(), "bar": measured.case.bar,
                "best": verdict.as_ref().map(|verdict| verdict.best.name()),
                "ratio": verdict.as_ref().map(|verdict| verdict.ratio.json()),
                "is_met": verdict.as_ref().is_some_and(Verdict::is_met),
            })
        })
        .collect();
    json!({
        "case": measured.case.name, "path": measured.case.path, "tls": measured.case.is_tls,
        "connections": measured.case.connections, "peers": json_rows, "verdicts": verdicts,
    })
}

/// A peer's row in a case's table, and the same with all rounds.
fn figures(
    kind: Kind,
    row: &Driven,
    builds: &[Kind],
    ratios: &[Option<Spread>],
    columns: usize,
) -> (Vec<String>, Value) {
    let samples = row.samples.as_slice();
    let (None, Some(cpu), Some(share), Some(rate), Some(switches), Some(machine)) = (
        &row.refusal,
        verdict::cost(samples),
        spread(samples, Sample::user_share),
        spread(samples, Sample::rate),
        spread(samples, Sample::switches),
        spread(samples, Sample::machine),
    ) else {
        let mut cells = vec![kind.name().to_owned(), "none: see below".to_owned()];
        cells.resize(columns, "-".to_owned());
        return (
            cells,
            json!({ "peer": kind.name(), "refusal": row.refusal }),
        );
    };
    let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
    let dash = || "-".to_owned();
    let mut cells = vec![kind.name().to_owned(), cpu.quartiles(1)];
    cells.extend(
        ratios
            .iter()
            .map(|ratio| ratio.as_ref().map_or_else(dash, |ratio| ratio.quartiles(2))),
    );
    cells.extend([
        format!("{:.1}", cpu.median() * share.median()),
        format!("{:.1}", cpu.median() * (1.0 - share.median())),
        row.calls
            .as_ref()
            .map_or_else(dash, |calls| format!("{:.1}", calls.total)),
        format!("{:.2}", switches.median()),
        format!("{:.0}", rate.median()),
        if errors > 0 {
            format!("**{errors}**")
        } else {
            errors.to_string()
        },
    ]);
    let json = json!({
        "peer": kind.name(), "cpu_us": cpu.json(), "user_share": share.json(),
        "ratios": builds.iter().zip(ratios).map(|(build, ratio)| json!({
            "build": build.name(), "to_peer": ratio.as_ref().map(Spread::json),
        })).collect::<Vec<_>>(),
        "rate": rate.json(), "switches": switches.json(), "machine_us": machine.json(),
        "errors": errors,
        "calls": row.calls.as_ref().map(|calls| json!({
            "total": calls.total,
            "names": calls.names.iter().map(|(name, count)| json!([name, count]))
                .collect::<Vec<_>>(),
        })),
        "cpu_us_rounds": samples.iter().map(Sample::cpu).collect::<Vec<_>>(),
        "requests_rounds": samples.iter().map(|sample| sample.requests).collect::<Vec<_>>(),
    });
    (cells, json)
}

fn steady(outcome: &mut Outcome, text: &mut String) -> Value {
    let Some((rate, found)) = &mut outcome.steady else {
        return Value::Null;
    };
    let _ = writeln!(
        text,
        "\n### Latency at a fixed {rate:.0} requests/s, us (open loop, cleartext, {STEADY_ROUNDS} \
         rounds of {STEADY_SECONDS} s)\n"
    );
    let mut table = Table::new(&["peer", "p50", "p99", "p99.9", "answers", "errors"]);
    let mut rows = Vec::new();
    for (name, latencies) in found {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| latencies.at(share));
        table.row(vec![
            (*name).to_owned(),
            p50.to_string(),
            p99.to_string(),
            p999.to_string(),
            latencies.count().to_string(),
            latencies.errors.to_string(),
        ]);
        rows.push(json!({
            "peer": name, "p50_us": p50, "p99_us": p99, "p999_us": p999,
            "answers": latencies.count(), "errors": latencies.errors,
        }));
    }
    text.push_str(&table.text());
    json!({ "rate": *rate, "peers": rows })
}

fn idle(held: &Held, summary: &mut Table, text: &mut String) -> Value {
    let name = format!(
        "memory of an idle {} connection",
        if held.is_tls { "TLS" } else { "cleartext" }
    );
    let _ = writeln!(
        text,
        "\n### {name}, bytes ({} of them, after one request each)\n",
        held.connections
    );
    let mut table = Table::new(&["peer", "bytes", "kernel's socket buffers"]);
    let mut rows = Vec::new();
    for (kind, idle) in &held.peers {
        let (pss, sockets) = match idle {
            Ok(idle) => (format!("{:.0}", idle.pss), format!("{:.0}", idle.sockets)),
            Err(error) => (format!("none: {error}"), "-".to_owned()),
        };
        table.row(vec![kind.name().to_owned(), pss, sockets]);
        rows.push(match idle {
            Ok(idle) => json!({
                "peer": kind.name(), "pss_bytes": idle.pss, "socket_bytes": idle.sockets,
            }),
            Err(error) => json!({ "peer": kind.name(), "refusal": error }),
        });
    }
    text.push_str(&table.text());

    let pss =
        |(kind, idle): &(Kind, Result<super::Idle, String>)| Some((*kind, idle.as_ref().ok()?.pss));
    let best = held
        .peers
        .iter()
        .filter_map(pss)
        .filter(|(kind, _)| !kind.is_ours())
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let mut verdicts = Vec::new();
    for (kind, _) in held.peers.iter().filter(|(kind, _)| kind.is_ours()) {
        let ours = held
            .peers
            .iter()
            .filter_map(pss)
            .find(|found| found.0 == *kind);
        // Over TLS below every peer; in cleartext below a number of bytes, which nginx beats.
        let bar = if held.is_tls {
            best.map(|(_, bytes)| bytes)
        } else {
            Some(IDLE_CLEARTEXT)
        };
        let is_met = matches!((ours, bar), (Some((_, bytes)), Some(bar)) if bytes <= bar);
        let ratio = ours.zip(best).map(|((_, us), (_, them))| us / them);
        summary.row(vec![
            name.clone(),
            kind.name().to_owned(),
            best.map_or("-", |(kind, _)| kind.name()).to_owned(),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            bar.map_or_else(|| "-".to_owned(), |bar| format!("{bar:.0} bytes")),
            met(is_met).to_owned(),
        ]);
        verdicts.push(json!({ "build": kind.name(), "bar_bytes": bar, "is_met": is_met }));
    }
    json!({
        "tls": held.is_tls, "connections": held.connections, "peers": rows, "verdicts": verdicts,
    })
}
