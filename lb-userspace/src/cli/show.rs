//! Reading commands: tables for people, JSON for programs, from a daemon or from what a dead one
//! left.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    FAILED, Failure, Outcome,
    args::{Global, Json, Which},
    client::{self, NoAnswer, snapshot},
    output,
    table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};
use crate::admin::{
    metrics,
    protocol::{
        InterfaceView, MemberView, PrefixView, ReasonView, Request, Response, ServiceView, Snapshot,
    },
};

mod head;
mod names;

use head::head;

pub(crate) fn status(global: &Global, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    if json.json {
        return output::json(&shown);
    }
    let colour = output::is_coloured();
    let mut out = String::new();
    head(&mut out, &shown, colour);
    if !shown.interfaces.is_empty() {
        out.push_str("\ninterfaces\n");
        out.push_str(&interface_table(&shown.interfaces).render(2, colour));
    }
    if !shown.members.is_empty() {
        out.push_str("\nmembers\n");
        out.push_str(&member_table(&shown.members).render(2, colour));
    }
    if !shown.names.is_empty() {
        out.push_str("\nnames\n");
        out.push_str(&names::name_table(&shown.names).render(2, colour));
    }
    if !shown.services.is_empty() {
        out.push_str("\nservices\n");
        out.push_str(&service_table(&shown.services).render(2, colour));
    }
    if !shown.notices.is_empty() {
        out.push_str("\nnotices\n");
        for notice in &shown.notices {
            line(&mut out, format_args!("  {notice}"));
        }
    }
    output::text(&out)
}

pub(crate) fn metrics(global: &Global) -> Outcome {
    match client::ask(global, &Request::Metrics) {
        Ok(Response::Metrics { text }) => output::text(&text),
        Ok(Response::Refused { message }) => Err(Failure::text(FAILED, message)),
        Ok(_) => Err(Failure::text(FAILED, "the daemon answered strangely")),
        Err(NoAnswer::Failed(failure)) => Err(failure),
        Err(NoAnswer::Ended) => Err(client::ended()),
        // Says so, and reads the pins.
        Err(NoAnswer::Dead) => output::text(&metrics::render(&snapshot(global)?, None)),
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _never_fails_on_a_string = writeln!(out, "{text}");
}

fn interface_table(interfaces: &[InterfaceView]) -> Table {
    let mut table = Table::new(&[
        ("NAME", Left),
        ("INDEX", Right),
        ("XDP", Left),
        ("PROGRAM", Right),
    ]);
    for view in interfaces {
        if !view.alarm.is_empty() {
            table.row(vec![
                Cell::from(&view.name),
                Cell::from("-"),
                Cell::toned(&view.alarm, Tone::Bad),
                Cell::from(""),
            ]);
            continue;
        }
        let tone = if view.mode == "native" {
            Tone::Good
        } else {
            Tone::Warn
        };
        table.row(vec![
            Cell::from(&view.name),
            view.index.into(),
            Cell::toned(&view.mode, tone),
            view.program.into(),
        ]);
    }
    table
}

pub(crate) fn members(global: &Global, balancer: Option<&str>, json: Json) -> Outcome {
    let mut shown = snapshot(global)?;
    if let Some(name) = balancer {
        let name = name.strip_prefix("balancer://").unwrap_or(name);
        let all: Vec<String> = balancers(&shown);
        shown.members.retain(|view| view.balancer == name);
        if shown.members.is_empty() {
            return Err(Failure::text(
                FAILED,
                format_args!("no balancer {name}; there are {}", all.join(", ")),
            ));
        }
    }
    if json.json {
        return output::json(&json!({ "members": shown.members }));
    }
    output::text(&member_table(&shown.members).render(0, output::is_coloured()))
}

fn balancers(shown: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = shown.members.iter().map(|m| m.balancer.clone()).collect();
    all.dedup();
    all
}

fn member_table(members: &[MemberView]) -> Table {
    let mut columns = vec![
        ("BALANCER", Left),
        ("MEMBER", Left),
        ("ROUTE", Left),
        ("STATE", Left),
        ("FACTOR", Right),
        ("SET", Right),
        ("ELECTED", Right),
        ("BUSY", Right),
        ("FAILED", Right),
        ("TO", Right),
        ("FROM", Right),
    ];
    // Packets and requests of one member in one row, where there are packets.
    let steers = members.iter().any(|view| view.steered.is_some());
    if steers {
        columns.extend([("RING", Right), ("FLOWS", Right), ("PACKETS", Right)]);
    }
    let mut table = Table::new(&columns);
    for view in members {
        let (words, tone) = state(view);
        let mut row = vec![
            Cell::from(&view.balancer),
            Cell::from(&view.url),
            Cell::from(&view.route),
            Cell::toned(&words, tone),
            view.lbfactor.into(),
            view.lbset.into(),
            view.elected.into(),
            view.busy.into(),
            view.failed.into(),
            bytes(view.transferred).into(),
            bytes(view.read).into(),
        ];
        if steers {
            row.extend(super::steer::cells(view));
        }
        table.row(row);
    }
    table
}

/// Letters as httpd's, and what they mean.
fn state(view: &MemberView) -> (String, Tone) {
    if view.state.is_empty() {
        return ("OK".to_owned(), Tone::Good);
    }
    let letters: String = view.state.iter().collect();
    let words: Vec<String> = view
        .state
        .iter()
        .map(|letter| match letter {
            'I' => "ignore errors".to_owned(),
            'N' => "drain".to_owned(),
            'D' => "disabled".to_owned(),
            'S' => "stopped".to_owned(),
            'E' => match view.error_seconds {
                Some(seconds) => format!("error {}", span(seconds)),
                None => "error".to_owned(),
            },
            'H' => "standby".to_owned(),
            'R' => "spare".to_owned(),
            'C' => "health check failed".to_owned(),
            other => other.to_string(),
        })
        .collect();
    let broken = view.state.iter().any(|letter| matches!(letter, 'E' | 'C'));
    let tone = if broken { Tone::Bad } else { Tone::Warn };
    (format!("{letters} {}", words.join(", ")), tone)
}

pub(crate) fn member(global: &Global, which: &Which, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    let balancer = which
        .balancer
        .strip_prefix("balancer://")
        .unwrap_or(&which.balancer);
    let wanted = which.member.trim_end_matches('/');
    let found = shown.members.iter().find(|view| {
        view.balancer == balancer
            && (view.url.trim_end_matches('/') == wanted
                || (!view.route.is_empty() && view.route == wanted)
                || view.address == wanted)
    });
    let Some(view) = found else {
        let candidates: Vec<&str> = shown
            .members
            .iter()
            .filter(|view| view.balancer == balancer)
            .map(|view| view.url.as_str())
            .collect();
        let hint = if candidates.is_empty() {
            format!(
                "no balancer {balancer}; there are {}",
                balancers(&shown).join(", ")
            )
        } else {
            format!(
                "balancer {balancer} has no member {wanted}; there are {}",
                candidates.join(", ")
            )
        };
        return Err(Failure::text(FAILED, hint));
    };
    if json.json {
        return output::json(view);
    }
    let (words, _) = state(view);
    let mut table = Table::new(&[("FIELD", Left), ("VALUE", Left)]);
    let rows: [(&str, String); 15] = [
        ("balancer", view.balancer.clone()),
        ("url", view.url.clone()),
        ("route", view.route.clone()),
        ("address", view.address.clone()),
        ("state", words),
        ("usable", if view.usable { "yes" } else { "no" }.to_owned()),
        ("loadfactor", view.lbfactor.to_string()),
        ("lbset", view.lbset.to_string()),
        ("lbstatus", view.lbstatus.to_string()),
        ("elected", view.elected.to_string()),
        ("busy", view.busy.to_string()),
        ("responses", view.responses.to_string()),
        (
            "failed",
            format!(
                "{} ({} retries since the last success)",
                view.failed, view.retries
            ),
        ),
        (
            "bytes",
            format!("{} to it, {} from it", view.transferred, view.read),
        ),
        (
            "slot",
            format!("{} (incarnation {})", view.id, view.incarnation),
        ),
    ];
    for (field, value) in rows {
        table.row(vec![field.into(), value.into()]);
    }
    output::text(&table.render(0, output::is_coloured()))
}

pub(crate) fn services(global: &Global, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    if json.json {
        return output::json(&json!({ "services": shown.services }));
    }
    output::text(&service_table(&shown.services).render(0, output::is_coloured()))
}

fn service_name(view: &ServiceView) -> String {
    if view.id == 0 {
        "(rest of the host)".to_owned()
    } else {
        format!("{}://{}", view.proto, view.address)
    }
}

fn service_table(services: &[ServiceView]) -> Table {
    let mut table = Table::new(&[
        ("ID", Right),
        ("SERVICE", Left),
        ("KIND", Left),
        ("PASSED", Right),
        ("SENT", Right),
        ("DROPPED", Right),
        ("DROPPED FOR", Left),
        ("LIMITS", Left),
    ]);
    for view in services {
        let sum = |action: &str| -> u64 {
            view.counters
                .iter()
                .filter(|counter| counter.action == action)
                .map(|counter| counter.packets)
                .sum()
        };
        let dropped = sum("drop");
        let tone = if dropped > 0 { Tone::Warn } else { Tone::Plain };
        table.row(vec![
            view.id.into(),
            service_name(view).into(),
            Cell::from(&view.kind),
            sum("pass").into(),
            sum("send").into(),
            Cell::toned(&dropped, tone),
            reasons(&view.counters).into(),
            view.limits.join("; ").into(),
        ]);
    }
    table
}

/// The three reasons that dropped most.
fn reasons(counters: &[ReasonView]) -> String {
    let mut drops: Vec<&ReasonView> = counters.iter().filter(|c| c.action == "drop").collect();
    drops.sort_by_key(|counter| std::cmp::Reverse(counter.packets));
    let named: Vec<String> = drops
        .iter()
        .take(3)
        .map(|counter| format!("{} {}", counter.reason, counter.packets))
        .collect();
    named.join(", ")
}

/// A service by its id or by any of the names that tables print; `host` is the rest of the host.
pub(crate) fn find_service<'a>(
    shown: &'a Snapshot,
    wanted: &str,
) -> Result<&'a ServiceView, Failure> {
    let is_it = |view: &&ServiceView| {
        view.id.to_string() == wanted
            || service_name(view).eq_ignore_ascii_case(wanted)
            || (view.id == 0 && wanted.eq_ignore_ascii_case("host"))
            || (!view.address.is_empty() && view.address == wanted)
    };
    let mut found = shown.services.iter().filter(is_it);
    let names = || {
        let services = shown.services.iter();
        let names: Vec<String> = services
            .map(|view| format!("{} {}", view.id, service_name(view)))
            .collect();
        names.join(", ")
    };
    match (found.next(), found.next()) {
        (Some(view), None) => Ok(view),
        (Some(_), Some(_)) => Err(Failure::text(
            FAILED,
            format_args!("{wanted} is more than one service; there are {}", names()),
        )),
        (None, _) => Err(Failure::text(
            FAILED,
            format_args!("no service {wanted}; there are {}", names()),
        )),
    }
}

pub(crate) fn service(global: &Global, wanted: &str, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    let view = find_service(&shown, wanted)?;
    if json.json {
        return output::json(view);
    }
    let mut out = format!("service {} {} {}\n", view.id, service_name(view), view.kind);
    out.push_str(&super::steer::ways(view, &shown.members));
    for limit in &view.limits {
        line(&mut out, format_args!("limit   {limit}"));
    }
    let mut table = Table::new(&[
        ("REASON", Left),
        ("ACTION", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
    ]);
    for counter in &view.counters {
        table.row(vec![
            Cell::from(&counter.reason),
            Cell::from(&counter.action),
            counter.packets.into(),
            counter.bytes.into(),
        ]);
    }
    out.push_str(&table.render(0, output::is_coloured()));
    output::text(&out)
}

pub(crate) fn limits(global: &Global, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    if json.json {
        let limits: Vec<_> = shown
            .services
            .iter()
            .map(|view| json!({ "service": view.id, "address": service_name(view), "limits": view.limits }))
            .collect();
        return output::json(&json!({ "limits": limits }));
    }
    let mut table = Table::new(&[("ID", Right), ("SERVICE", Left), ("LIMIT", Left)]);
    for view in &shown.services {
        for limit in &view.limits {
            table.row(vec![
                view.id.into(),
                service_name(view).into(),
                Cell::from(limit),
            ]);
        }
    }
    output::text(&table.render(0, output::is_coloured()))
}

pub(crate) fn prefixes(global: &Global, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    if json.json {
        return output::json(&json!({ "prefixes": shown.prefixes }));
    }
    let mut table = Table::new(&[
        ("LIST", Left),
        ("PREFIX", Left),
        ("FROM", Left),
        ("LEFT", Right),
    ]);
    for PrefixView {
        list,
        prefix,
        origin,
        seconds_left,
    } in &shown.prefixes
    {
        let left = match seconds_left {
            Some(seconds) => span(*seconds),
            None => "for ever".to_owned(),
        };
        table.row(vec![
            Cell::from(list),
            Cell::from(prefix),
            Cell::from(origin),
            left.into(),
        ]);
    }
    output::text(&table.render(0, output::is_coloured()))
}

pub(crate) fn settings(global: &Global, json: Json) -> Outcome {
    let shown = snapshot(global)?;
    if json.json {
        let map: serde_json::Map<String, serde_json::Value> = shown
            .settings
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        return output::json(&json!({ "settings": map }));
    }
    let mut table = Table::new(&[("SETTING", Left), ("VALUE", Left)]);
    for (name, value) in &shown.settings {
        table.row(vec![Cell::from(name), Cell::from(value)]);
    }
    output::text(&table.render(0, output::is_coloured()))
}

/// `1 shard`, `2 shards`.
fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// `12 s`, `3 min`, `2 h 5 min`, `4 d 1 h`.
fn span(seconds: u64) -> String {
    let pair = |large: u64, small: u64, a: &str, b: &str| match small {
        0 => format!("{large} {a}"),
        small => format!("{large} {a} {small} {b}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => pair(seconds / 60, seconds % 60, "min", "s"),
        3600..86_400 => pair(seconds / 3600, seconds % 3600 / 60, "h", "min"),
        _ => pair(seconds / 86_400, seconds % 86_400 / 3600, "d", "h"),
    }
}

/// As the balancer-manager prints sizes: powers of 1024, three digits.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["", "K", "M", "G", "T", "P"] {
        if value < 1024.0 {
            return if unit.is_empty() {
                count.to_string()
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1}E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_letters_and_words() {
        let view = |state: &str, error_seconds| MemberView {
            state: state.chars().collect(),
            error_seconds,
            ..MemberView::default()
        };
        assert_eq!(state(&view("", None)), ("OK".to_owned(), Tone::Good));
        assert_eq!(state(&view("N", None)).0, "N drain");
        assert_eq!(
            state(&view("DE", Some(12))),
            ("DE disabled, error 12 s".to_owned(), Tone::Bad)
        );
    }

    #[test]
    fn spans_and_sizes_are_short() {
        assert_eq!(span(59), "59 s");
        assert_eq!(span(60), "1 min");
        assert_eq!(span(3725), "1 h 2 min");
        assert_eq!(span(90_000), "1 d 1 h");
        assert_eq!(bytes(1023), "1023");
        assert_eq!(bytes(1536), "1.5K");
        assert_eq!(bytes(u64::MAX), "16.0E");
    }

    #[test]
    fn the_reasons_that_dropped_most_come_first() {
        let counter = |reason: &str, action: &str, packets| ReasonView {
            reason: reason.to_owned(),
            action: action.to_owned(),
            packets,
            bytes: 0,
        };
        let counters = [
            counter("local", "pass", 100),
            counter("denied", "drop", 1),
            counter("syn_source_limit", "drop", 7),
        ];
        assert_eq!(reasons(&counters), "syn_source_limit 7, denied 1");
    }
}
