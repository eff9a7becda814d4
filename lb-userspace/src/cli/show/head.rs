//! The first lines of `sluice status`: processes, CPUs, addresses, generation.

use std::fmt::Write as _;

use super::{count, line, span};
use crate::{
    admin::protocol::Snapshot,
    cli::table::{Cell, Tone},
};

pub(super) fn head(out: &mut String, shown: &Snapshot, colour: bool) {
    let state = match (shown.daemon, shown.proxy_pid) {
        (true, 0) => Cell::toned("proxy is being restarted", Tone::Bad),
        (true, _) => Cell::toned("running", Tone::Good),
        (false, _) => Cell::toned("no daemon", Tone::Bad),
    };
    line(
        out,
        format_args!(
            "sluice {}, instance {}: {}",
            shown.version,
            shown.instance,
            state.render(colour)
        ),
    );
    if shown.daemon {
        line(
            out,
            format_args!(
                "processes   control {}, proxy {} ({}, restarted {} after a crash), up {}",
                shown.control_pid,
                shown.proxy_pid,
                count(u64::from(shown.shards), "shard"),
                count(u64::from(shown.proxy_restarts), "time"),
                span(shown.uptime_seconds)
            ),
        );
        for proxy in &shown.draining {
            let left = match proxy.seconds_left {
                Some(seconds) => format!("ended in {} at the latest", span(seconds)),
                None => "as long as it takes".to_owned(),
            };
            line(
                out,
                format_args!(
                    "draining    proxy {} ({}, {left})",
                    proxy.pid,
                    count(proxy.connections, "connection")
                ),
            );
        }
        line(out, format_args!("CPUs        {}", cpus(shown)));
        line(
            out,
            format_args!(
                "listening   {} ({})",
                shown.listeners.join(" "),
                count(shown.connections, "connection")
            ),
        );
    }
    if !shown.methods.is_empty() {
        line(out, format_args!("balancers   {}", methods(shown)));
    }
    if !shown.file.is_empty() {
        line(out, format_args!("file        {}", shown.file));
    }
    line(
        out,
        format_args!("generation  {} ({})", shown.generation, shown.phase),
    );
    let beat = shown
        .heartbeat_age_seconds
        .map(|age| format!(", heartbeat {} ago", span(age)))
        .unwrap_or_default();
    let dataplane = match shown.dataplane.as_str() {
        "memory" => "members in memory of the processes, no kernel maps",
        "kernel" => "kernel maps",
        other => other,
    };
    line(out, format_args!("dataplane   {dataplane}{beat}"));
}

/// Balancers in a line; all of them are in the JSON.
const MOST_BALANCERS: usize = 8;

/// `app byrequests, static hash, 3 more`.
fn methods(shown: &Snapshot) -> String {
    let named = shown.methods.iter().take(MOST_BALANCERS);
    let mut parts: Vec<String> = named
        .map(|view| format!("{} {}", view.balancer, view.lbmethod))
        .collect();
    let more = shown.methods.len().saturating_sub(MOST_BALANCERS);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    parts.join(", ")
}

/// `2 allowed (0 1), a shard pinned to each`, and the quota where there is one.
fn cpus(shown: &Snapshot) -> String {
    let list: Vec<String> = shown.cpus.iter().map(u32::to_string).collect();
    let mut text = format!("{} allowed ({})", shown.cpus.len(), list.join(" "));
    if let Some(quota) = shown.cpu_quota {
        let _never_fails_on_a_string = write!(text, ", quota of {quota}");
    }
    text.push_str(
        if shown.shard_list.iter().any(|shard| shard.cpu.is_some()) {
            if shown.steered {
                ", shards are pinned and get what their CPU receives"
            } else {
                ", shards are pinned"
            }
        } else {
            ", shards are not pinned: there are fewer than CPUs"
        },
    );
    text
}
