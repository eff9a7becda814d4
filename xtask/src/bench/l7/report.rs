//! Tables and JSON of a run.

use serde_json::{Value, json};

use super::{Arguments, Measured, Outcome, STEADY_ROUNDS, STEADY_SECONDS, drive::Sample};
use crate::bench::{figures::Spread, table::Table};

/// What issue and docs ask for and this version cannot run.
const NOT_BUILT: &str = "Not built in this version, so not measured: TLS (keep-alive, full and resumed handshakes, idle \
     TLS connections), HTTP/2.";

/// Prints the tables and gives everything as JSON.
pub(super) fn print(outcome: &mut Outcome, arguments: &Arguments) -> Value {
    println!("{}\n", outcome.machine.line());
    for peer in &outcome.peers {
        println!("- {}: {}", peer.kind.name(), peer.version);
    }
    let cases: Vec<_> = outcome
        .cases
        .iter()
        .map(|measured| case(outcome, measured, arguments))
        .collect();
    let steady = steady(outcome);
    let idle = idle(outcome);
    println!("\n{NOT_BUILT}");
    json!({
        "bench": "l7", "machine": outcome.machine.json(), "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "peers": outcome.peers.iter().map(|peer| json!({
            "name": peer.kind.name(), "version": peer.version,
            "configuration": peer.configuration,
        })).collect::<Vec<_>>(),
        "cases": cases, "latency": steady, "idle": idle, "not_built": NOT_BUILT,
    })
}

fn spread(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    Spread::new(samples.iter().map(figure).collect())
}

fn case(outcome: &Outcome, measured: &Measured, arguments: &Arguments) -> Value {
    println!(
        "\n{} ({} connections, {} rounds of {} s)\n",
        measured.case.name, measured.case.connections, arguments.rounds, arguments.seconds
    );
    let mut table = Table::new(&[
        "peer",
        "CPU us/request",
        "sluice / peer",
        "user",
        "kernel",
        "calls",
        "switches",
        "requests/s",
        "errors",
    ]);
    let ours = measured.samples.first().map_or(&[][..], Vec::as_slice);
    let mut rows = Vec::new();
    let peers = outcome.peers.iter().zip(&measured.samples);
    for (number, ((peer, samples), calls)) in peers.zip(&measured.calls).enumerate() {
        let (Some(cpu), Some(share), Some(rate), Some(switches), Some(machine)) = (
            spread(samples, Sample::cpu),
            spread(samples, Sample::user_share),
            spread(samples, Sample::rate),
            spread(samples, Sample::switches),
            spread(samples, Sample::machine),
        ) else {
            continue;
        };
        // Round by round: what disturbs a round disturbs both.
        let pairs = ours.iter().zip(samples);
        let ratio = Spread::new(pairs.map(|(us, them)| us.cpu() / them.cpu()).collect());
        let errors: u64 = samples.iter().map(|sample| sample.errors).sum();
        table.row(vec![
            peer.kind.name().to_owned(),
            cpu.quartiles(1),
            match &ratio {
                Some(ratio) if number > 0 => ratio.quartiles(2),
                _ => "-".to_owned(),
            },
            format!("{:.1}", cpu.median() * share.median()),
            format!("{:.1}", cpu.median() * (1.0 - share.median())),
            calls
                .as_ref()
                .map_or_else(|| "-".to_owned(), |calls| format!("{:.1}", calls.total)),
            format!("{:.2}", switches.median()),
            format!("{:.0}", rate.median()),
            errors.to_string(),
        ]);
        rows.push(json!({
            "peer": peer.kind.name(), "cpu_us": cpu.json(), "user_share": share.json(),
            "sluice_to_peer": ratio.as_ref().map(Spread::json), "rate": rate.json(),
            "switches": switches.json(), "machine_us": machine.json(), "errors": errors,
            "calls": calls.as_ref().map(|calls| json!({
                "total": calls.total,
                "names": calls.names.iter().map(|(name, count)| json!([name, count]))
                    .collect::<Vec<_>>(),
            })),
            "cpu_us_rounds": samples.iter().map(Sample::cpu).collect::<Vec<_>>(),
            "requests_rounds": samples.iter().map(|sample| sample.requests).collect::<Vec<_>>(),
        }));
    }
    print!("{}", table.text());
    json!({
        "case": measured.case.name, "path": measured.case.path,
        "connections": measured.case.connections, "peers": rows,
    })
}

fn steady(outcome: &mut Outcome) -> Value {
    let Some((rate, found)) = &mut outcome.steady else {
        return Value::Null;
    };
    println!(
        "\nLatency at a fixed {rate:.0} requests/s (open loop, {STEADY_ROUNDS} rounds of \
         {STEADY_SECONDS} s), us\n"
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
    print!("{}", table.text());
    json!({ "rate": *rate, "peers": rows })
}

fn idle(outcome: &Outcome) -> Value {
    if outcome.idle.is_empty() {
        return Value::Null;
    }
    println!(
        "\nMemory of an idle cleartext connection ({} of them, after one request each)\n",
        outcome.idle_connections
    );
    let mut table = Table::new(&["peer", "bytes", "kernel's socket buffers"]);
    let mut rows = Vec::new();
    for (kind, idle) in &outcome.idle {
        table.row(vec![
            kind.name().to_owned(),
            format!("{:.0}", idle.pss),
            format!("{:.0}", idle.sockets),
        ]);
        rows.push(json!({
            "peer": kind.name(), "pss_bytes": idle.pss, "socket_bytes": idle.sockets,
        }));
    }
    print!("{}", table.text());
    json!({ "connections": outcome.idle_connections, "peers": rows })
}
