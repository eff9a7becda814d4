//! `flow list` and `flow show`: which member each flow is with.

use super::{
    FAILED, Failure, Outcome,
    args::{FlowListArgs, Global, Json},
    client, output,
    table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};
use crate::dataplane::{FlowFilter, FlowList, read_flows};

pub(crate) fn list(global: &Global, args: &FlowListArgs) -> Outcome {
    let filter = FlowFilter {
        source: args.source,
        port: None,
        service: args.service,
        member: args.member.clone(),
    };
    show(global, &filter, args.most, args.json)
}

pub(crate) fn one(global: &Global, source: std::net::SocketAddr, json: Json) -> Outcome {
    let filter = FlowFilter {
        source: Some(source.ip()),
        port: Some(source.port()),
        ..FlowFilter::default()
    };
    show(global, &filter, usize::MAX, json)
}

fn show(global: &Global, filter: &FlowFilter, most: usize, json: Json) -> Outcome {
    let list = read_flows(&global.place(), filter, most).map_err(client::dataplane)?;
    if json.json {
        return output::json(&list);
    }
    if list.flows.is_empty() && filter.port.is_some() {
        return Err(Failure::text(
            FAILED,
            "no such flow; the ring alone steers its packets",
        ));
    }
    output::text(&render(&list, output::is_coloured()))
}

fn render(list: &FlowList, colour: bool) -> String {
    let mut table = Table::new(&[
        ("PROTO", Left),
        ("CLIENT", Left),
        ("SERVICE", Left),
        ("MEMBER", Left),
        ("STATE", Left),
        ("IDLE", Right),
        ("NEXT PACKET", Left),
    ]);
    for flow in &list.flows {
        let next = if flow.stays {
            Cell::from("stays")
        } else {
            Cell::toned("steered anew", Tone::Warn)
        };
        table.row(vec![
            Cell::from(&flow.proto),
            flow.source.to_string().as_str().into(),
            Cell::from(&flow.destination),
            Cell::from(if flow.member.is_empty() {
                "(gone)"
            } else {
                &flow.member
            }),
            Cell::from(&flow.state),
            format!("{} s", flow.idle_seconds).as_str().into(),
            next,
        ]);
    }
    let mut out = table.render(0, colour);
    let total: u64 = list.by_state.values().sum();
    let states: Vec<String> = (list.by_state.iter())
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let states = if states.is_empty() {
        String::new()
    } else {
        format!(" ({})", states.join(", "))
    };
    let [four, six, nat] = list.places;
    let shown = list.flows.len();
    out.push_str(&format!(
        "{shown} shown of {total} flows{states}; room for {four} of IPv4, {six} others, {nat} with \
         rewritten addresses\n"
    ));
    out
}
