//! A case's table, its JSON with all rounds, and its verdicts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::bench::{
    figures::Spread,
    l7::{
        Arguments, Driven, Measured,
        cases::Drive,
        drive::Sample,
        peers::Kind,
        setup::Setup,
        verdict::{self, Verdict, met},
    },
    table::Table,
};

/// Writes them; the verdicts go into the summary.
pub(super) fn tell(
    measured: &Measured,
    arguments: &Arguments,
    summary: &mut Table,
    text: &mut String,
) -> Value {
    let case = measured.case;
    let _ = writeln!(
        text,
        "\n### {} ({}, {} rounds of {} s)\n",
        case.name,
        how(case.drive, case.connections),
        arguments.rounds,
        arguments.seconds
    );
    let builds = builds(measured);
    let columns = Columns {
        builds: &builds,
        least: (case.setups.len() > 1).then(|| case.setups[0].label),
    };
    let head = columns.head();
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    let mut json_rows = Vec::new();
    for row in &measured.rows {
        let (cells, json) = columns.figures(measured, row, head.len());
        table.row(cells);
        json_rows.push(json);
    }
    text.push_str(&table.text());
    for row in &measured.rows {
        if let Some(refusal) = &row.refusal {
            let _ = writeln!(text, "\n{} has no figures: {refusal}", columns.name(row));
        }
    }
    let verdicts: Vec<_> = builds
        .iter()
        .flat_map(|build| verdicts(measured, *build))
        .map(|(build, row, verdict)| conclude(build, row, case.bar, verdict.as_ref(), summary))
        .collect();
    json!({
        "case": case.name, "path": case.path, "tls": case.is_tls,
        "connections": case.connections, "peers": json_rows, "verdicts": verdicts,
    })
}

fn how(drive: Drive, connections: u32) -> String {
    match drive {
        Drive::Streams(streams) => format!("{connections} connections of {streams} streams"),
        _ => format!("{connections} connections"),
    }
}

/// Those of ours that have rows.
fn builds(measured: &Measured) -> Vec<Kind> {
    let ours = measured.rows.iter().map(|row| row.kind);
    let mut builds: Vec<_> = ours.filter(|kind| kind.is_ours()).collect();
    builds.dedup();
    builds
}

/// The rounds of a peer in a setup, if it has figures.
fn rounds<'a>(measured: &'a Measured, kind: Kind, setup: &Setup) -> Option<&'a [Sample]> {
    let mut rows = measured.rows.iter();
    let row = rows.find(|row| row.kind == kind && row.setup == *setup)?;
    row.refusal.is_none().then_some(row.samples.as_slice())
}

/// What is demanded of a build, by the row's name in the summary: against the best peer, or with
/// more of something against itself with the least.
fn verdicts(measured: &Measured, build: Kind) -> Vec<(Kind, String, Option<Verdict>)> {
    let case = measured.case;
    let (least, more) = match case.setups {
        [] => return Vec::new(),
        [least, more @ ..] => (least, more),
    };
    let first = rounds(measured, build, least);
    if more.is_empty() {
        let peers: Vec<(Kind, &[Sample])> = measured
            .rows
            .iter()
            .filter_map(|row| Some((row.kind, rounds(measured, row.kind, least)?)))
            .collect();
        let verdict = first.and_then(|ours| Verdict::of(ours, &peers, case.bar));
        return vec![(build, case.name.to_owned(), verdict)];
    }
    more.iter()
        .map(|setup| {
            let ours = rounds(measured, build, setup);
            let verdict = ours
                .zip(first)
                .and_then(|(ours, first)| Verdict::flat(ours, first, case.bar));
            (build, format!("{}, {}", case.name, setup.label), verdict)
        })
        .collect()
}

/// A line of the summary, and the same as JSON.
fn conclude(
    build: Kind,
    row: String,
    bar: f64,
    verdict: Option<&Verdict>,
    summary: &mut Table,
) -> Value {
    let [beside, ratio, words] = match verdict {
        Some(verdict) => [
            verdict.best.map_or("itself", Kind::name).to_owned(),
            verdict.ratio.quartiles(2),
            verdict.words(),
        ],
        None => ["-".to_owned(), "-".to_owned(), met(false).to_owned()],
    };
    let json = json!({
        "row": row, "build": build.name(), "bar": bar, "beside": beside,
        "ratio": verdict.map(|verdict| verdict.ratio.json()),
        "is_met": verdict.is_some_and(Verdict::is_met),
    });
    summary.row(vec![
        row,
        build.name().to_owned(),
        beside,
        ratio,
        format!("{bar:.2}"),
        words,
    ]);
    json
}

/// What a case's table has columns for.
struct Columns<'a> {
    builds: &'a [Kind],
    /// Where there is more and more of something, what the least of it is.
    least: Option<&'static str>,
}

impl Columns<'_> {
    fn head(&self) -> Vec<String> {
        let mut head = vec!["peer".to_owned(), "CPU us/request".to_owned()];
        head.extend(
            self.builds
                .iter()
                .map(|build| format!("{} / peer", build.name())),
        );
        head.extend(self.least.map(|least| format!("/ {least}")));
        let others = [
            "user",
            "kernel",
            "calls",
            "switches",
            "requests/s",
            "errors",
        ];
        head.extend(others.map(str::to_owned));
        head
    }

    fn name(&self, row: &Driven) -> String {
        match self.least {
            Some(_) => format!("{}, {}", row.kind.name(), row.setup.label),
            None => row.kind.name().to_owned(),
        }
    }

    /// A peer's row in the table, and the same with all rounds.
    fn figures(&self, measured: &Measured, row: &Driven, columns: usize) -> (Vec<String>, Value) {
        let samples = row.samples.as_slice();
        let (None, Some(cpu), Some(share), Some(rate), Some(switches), Some(machine)) = (
            &row.refusal,
            verdict::cost(samples),
            spread(samples, Sample::user_share),
            spread(samples, Sample::rate),
            spread(samples, Sample::switches),
            spread(samples, Sample::machine),
        ) else {
            let mut cells = vec![self.name(row), "none: see below".to_owned()];
            cells.resize(columns, "-".to_owned());
            let json = json!({
                "peer": row.kind.name(), "setup": row.setup.label, "refusal": row.refusal,
            });
            return (cells, json);
        };
        let of_builds: Vec<_> = self
            .builds
            .iter()
            .map(|build| {
                let ours = rounds(measured, *build, &row.setup).filter(|_| !row.kind.is_ours())?;
                verdict::ratio(ours, samples)
            })
            .collect();
        let least = measured
            .case
            .setups
            .first()
            .filter(|least| **least != row.setup);
        let to_least = least
            .and_then(|least| rounds(measured, row.kind, least))
            .and_then(|least| verdict::ratio(samples, least));
        let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
        let dash = || "-".to_owned();
        let ratio =
            |ratio: &Option<Spread>| ratio.as_ref().map_or_else(dash, |ratio| ratio.quartiles(2));
        let mut cells = vec![self.name(row), cpu.quartiles(1)];
        cells.extend(of_builds.iter().map(ratio));
        cells.extend(self.least.map(|_| ratio(&to_least)));
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
            "peer": row.kind.name(), "setup": row.setup.label,
            "cpu_us": cpu.json(), "user_share": share.json(),
            "ratios": self.builds.iter().zip(&of_builds).map(|(build, ratio)| json!({
                "build": build.name(), "to_peer": ratio.as_ref().map(Spread::json),
            })).collect::<Vec<_>>(),
            "to_least": to_least.as_ref().map(Spread::json),
            "rate": rate.json(), "switches": switches.json(), "machine_us": machine.json(),
            "errors": errors,
            "calls": row.calls.as_ref().map(|calls| json!({
                "total": calls.total, "by": calls.by,
                "names": calls.names.iter().map(|(name, count)| json!([name, count]))
                    .collect::<Vec<_>>(),
            })),
            "cpu_us_rounds": samples.iter().map(Sample::cpu).collect::<Vec<_>>(),
            "requests_rounds": samples.iter().map(|sample| sample.requests).collect::<Vec<_>>(),
        });
        (cells, json)
    }
}

fn spread(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    Spread::new(samples.iter().map(figure).collect())
}
