//! The tables that are no case's: latency at a fixed rate, and what idle connections hold.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::bench::{
    l7::{
        Held, Idle, Outcome, idle,
        peers::Kind,
        rounds::{STEADY_ROUNDS, STEADY_SECONDS},
        verdict::{IDLE_CLEARTEXT, met},
    },
    table::Table,
};

/// Latencies, and the same with the rate.
pub(super) fn steady(outcome: &mut Outcome, text: &mut String) -> Value {
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

/// Memory, with a verdict for each build.
pub(super) fn idle(held: &Held, summary: &mut Table, text: &mut String) -> Value {
    let name = idle::name(held.is_tls);
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

    let pss = |(kind, idle): &(Kind, Result<Idle, String>)| Some((*kind, idle.as_ref().ok()?.pss));
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
            name.to_owned(),
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
