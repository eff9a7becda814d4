//! `flow list` and `flow show`: which member each flow is with. `steer`: where a packet would go.

use std::net::SocketAddr;

use lb_common::service::proto;

use super::{
    FAILED, Failure, Outcome, USAGE,
    args::{FlowListArgs, Global, Json},
    client, output,
    table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};
use crate::dataplane::{FlowFilter, FlowList, Tuple, explain, read_flows};

pub(crate) fn list(global: &Global, args: &FlowListArgs) -> Outcome {
    let filter = FlowFilter {
        source: args.source,
        port: None,
        service: args.service,
        member: args.member.clone(),
    };
    show(global, &filter, args.most, args.json)
}

pub(crate) fn one(global: &Global, source: SocketAddr, json: Json) -> Outcome {
    let filter = FlowFilter {
        source: Some(source.ip()),
        port: Some(source.port()),
        ..FlowFilter::default()
    };
    show(global, &filter, usize::MAX, json)
}

pub(crate) fn steer(
    global: &Global,
    proto: &str,
    source: SocketAddr,
    destination: SocketAddr,
    json: Json,
) -> Outcome {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(Failure::text(USAGE, "both addresses must be of one family"));
    }
    let tuple = Tuple {
        proto: if proto == "udp" {
            proto::UDP
        } else {
            proto::TCP
        },
        source,
        destination,
    };
    let why = explain(&global.place(), &tuple).map_err(client::dataplane)?;
    if json.json {
        return output::json(&why);
    }
    let mut out = why.steps.join("\n");
    let to = match (&why.member, why.action.as_str()) {
        (Some(member), "send") => format!("sent to {}", member.url),
        (_, "pass") => "passed to this host".to_owned(),
        _ => "dropped".to_owned(),
    };
    out = format!("{out}\n{to} ({})\n", why.reason);
    output::text(&out)
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
    out = format!(
        "{out}{shown} shown of {total} flows{states}; room for {four} of IPv4, {six} others, {nat} with \
         rewritten addresses\n"
    );
    out
}
