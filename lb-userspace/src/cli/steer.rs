//! What reading commands say of steering: `service show` of a forwarded service, the packet columns
//! of members.

use std::fmt::Write as _;

use super::{
    output,
    table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};
use crate::admin::protocol::{MemberView, ServiceView, SteeredView};

/// Slots of a ring.
const SLOTS: f64 = 65_537.0;

/// Part of the ring, flows and packets of a member.
pub(super) fn cells(view: &MemberView) -> [Cell; 3] {
    match &view.steered {
        Some(steered) => [
            part(steered).as_str().into(),
            steered.flows.into(),
            steered.packets.into(),
        ],
        None => [Cell::from(""), Cell::from(""), Cell::from("")],
    }
}

fn part(steered: &SteeredView) -> String {
    match steered.slots {
        Some(slots) => format!("{:.1}%", f64::from(slots) * 100.0 / SLOTS),
        None => "-".to_owned(),
    }
}

/// How a forwarded service is forwarded, and to whom; empty for any other.
pub(super) fn ways(view: &ServiceView, members: &[MemberView]) -> String {
    let Some(forward) = &view.forward else {
        return String::new();
    };
    let mut out = String::new();
    let mut line = |text: String| {
        let _never_fails_on_a_string = writeln!(out, "{text}");
    };
    line(format!(
        "forward {} to balancer://{}, hash {}, on empty {}",
        forward.mode, forward.balancer, forward.hash, forward.on_empty
    ));
    let sources = forward.sources.join(" ");
    match (forward.mode.as_str(), forward.ports.as_str()) {
        ("dsr", _) => {}
        (_, "") => line(format!("from    {sources}")),
        (_, ports) => line(format!("from    {sources}, ports {ports}")),
    }
    let mut table = Table::new(&[
        ("MEMBER", Left),
        ("RING", Right),
        ("SLOTS", Right),
        ("FLOWS", Right),
        ("PACKETS", Right),
        ("BY RING", Right),
        ("NEXT HOP", Left),
    ]);
    let mut any = false;
    for member in members.iter().filter(|m| m.balancer == forward.balancer) {
        let Some(steered) = &member.steered else {
            continue;
        };
        any = true;
        let hop = if steered.next_hop.is_empty() {
            Cell::toned("not known", Tone::Warn)
        } else {
            Cell::from(&steered.next_hop)
        };
        table.row(vec![
            Cell::from(&member.url),
            part(steered).as_str().into(),
            steered.slots.unwrap_or(0).into(),
            steered.flows.into(),
            steered.packets.into(),
            steered.by_ring.into(),
            hop,
        ]);
    }
    if any {
        out.push_str(&table.render(0, output::is_coloured()));
        out.push('\n');
    }
    out
}
