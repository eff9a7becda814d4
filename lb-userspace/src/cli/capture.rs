//! `capture`: packets with their verdicts into a pcapng file (draft-ietf-opsawg-pcapng), verdict,
//! reason, service and member as each packet's comment.

use std::{
    fs::File,
    io::{BufWriter, Write},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lb_common::verdict::{Action, Reason};

use super::{
    FAILED, Failure, Outcome, USAGE,
    args::{CaptureArgs, Global},
    client::{self, snapshot},
    output,
};
use crate::{
    admin::protocol::{CaptureWanted, Request, Response, Snapshot},
    dataplane::{Captured, Events, monotonic_ns},
};

/// How often control is told that somebody still reads.
const RENEW: Duration = Duration::from_secs(1);

pub(crate) fn run(global: &Global, args: &CaptureArgs) -> Outcome {
    let shown = snapshot(global)?;
    let wanted = wanted(args, &shown)?;
    let mut events = Events::open(&global.place()).map_err(client::dataplane)?;
    // What somebody else left.
    while events.next(Duration::ZERO)?.is_some() {}
    let ask =
        |wanted: Option<CaptureWanted>| match client::ask(global, &Request::Capture { wanted }) {
            Ok(Response::Done { .. }) => Ok(()),
            Ok(Response::Refused { message }) => Err(Failure::text(FAILED, message)),
            _ => Err(Failure::text(
                super::UNREACHABLE,
                "no daemon answers: it opens the tap",
            )),
        };
    let mut file = BufWriter::new(File::create(&args.write)?);
    file.write_all(&header())?;
    ask(Some(wanted.clone()))?;
    let (begun, mut renewed) = (Instant::now(), Instant::now());
    let mut count = 0u64;
    while count < args.count && begun.elapsed() < args.time {
        if renewed.elapsed() >= RENEW {
            ask(Some(wanted.clone()))?;
            renewed = Instant::now();
        }
        if let Some(event) = events.next(Duration::from_millis(200))? {
            file.write_all(&packet(&event, &comment(&event, &shown)))?;
            count += 1;
        }
    }
    ask(None)?;
    file.flush()?;
    output::line(&format!("{count} packets in {}", args.write.display()))
}

/// What the arguments ask for.
fn wanted(args: &CaptureArgs, shown: &Snapshot) -> Result<CaptureWanted, Failure> {
    let usage = |text: String| Failure::text(USAGE, text);
    let action = args.verdict.as_deref();
    let mut reasons = 0u64;
    for reason in Reason::ALL {
        let is = match reason.action() {
            Action::Pass => "pass",
            Action::Drop => "drop",
            Action::Send => "send",
        };
        let named = args
            .reason
            .as_deref()
            .is_none_or(|name| name == reason.name());
        if named && action.is_none_or(|action| action == is) {
            reasons |= 1 << (reason.0 & 63);
        }
    }
    if reasons == 0 {
        let name = args.reason.as_deref().unwrap_or_default();
        return Err(usage(format!(
            "no packet has that verdict and the reason {name:?}; docs/reasons.md lists them"
        )));
    }
    let service = match &args.service {
        None => 0,
        Some(wanted) => super::show::find_service(shown, wanted)?.id,
    };
    let member = match &args.member {
        None => 0,
        Some(wanted) => {
            let found = (shown.members.iter()).find(|view| {
                view.url == *wanted
                    || view.address == *wanted
                    || (!view.route.is_empty() && view.route == *wanted)
            });
            let found = found.ok_or_else(|| usage(format!("no member {wanted}")))?;
            u16::try_from(found.id).unwrap_or(0)
        }
    };
    Ok(CaptureWanted {
        reasons,
        every: args.every,
        address: args.flow.map(|flow| flow.ip()),
        port: args.flow.map_or(0, |flow| flow.port()),
        service,
        member,
    })
}

/// `send steered, service 3 tcp 203.0.113.10:80, member http://...`.
fn comment(event: &Captured, shown: &Snapshot) -> String {
    let action = match event.reason.action() {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Send => "send",
    };
    let mut text = format!("{action} {}", event.reason.name());
    if event.service != 0 {
        let found = shown.services.iter().find(|view| view.id == event.service);
        let name = found.map_or_else(String::new, |view| {
            format!(" {} {}", view.proto, view.address)
        });
        text = format!("{text}, service {}{name}", event.service);
    }
    if event.member != 0 {
        let found = (shown.members.iter()).find(|view| view.id == u32::from(event.member));
        let name = found.map_or_else(|| event.member.to_string(), |view| view.url.clone());
        text = format!("{text}, member {name}");
    }
    text
}

/// A block of pcapng: type, length, body, length.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = 12 + body.len() as u32;
    let mut out = Vec::with_capacity(len as usize);
    out.extend(kind.to_ne_bytes());
    out.extend(len.to_ne_bytes());
    out.extend(body);
    out.extend(len.to_ne_bytes());
    out
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The section, and its one interface: Ethernet, times in ns.
fn header() -> Vec<u8> {
    let mut section = Vec::new();
    section.extend(0x1a2b_3c4d_u32.to_ne_bytes());
    section.extend(1u16.to_ne_bytes());
    section.extend(0u16.to_ne_bytes());
    section.extend(u64::MAX.to_ne_bytes());
    let mut interface = Vec::new();
    interface.extend(1u16.to_ne_bytes()); // LINKTYPE_ETHERNET
    interface.extend(0u16.to_ne_bytes());
    interface.extend((lb_common::capture::SNAP as u32).to_ne_bytes());
    // if_tsresol: 10^-9 s.
    interface.extend(9u16.to_ne_bytes());
    interface.extend(1u16.to_ne_bytes());
    interface.extend([9, 0, 0, 0]);
    interface.extend([0; 4]);
    [block(0x0a0d_0d0a, &section), block(1, &interface)].concat()
}

/// An enhanced packet block.
fn packet(event: &Captured, comment: &str) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let age = monotonic_ns().saturating_sub(event.time);
    let time = u64::try_from(now.as_nanos())
        .unwrap_or(0)
        .saturating_sub(age);
    let mut body = Vec::new();
    body.extend(0u32.to_ne_bytes());
    body.extend(((time >> 32) as u32).to_ne_bytes());
    body.extend((time as u32).to_ne_bytes());
    body.extend((event.data.len() as u32).to_ne_bytes());
    body.extend(event.len.max(event.data.len() as u32).to_ne_bytes());
    padded(&mut body, &event.data);
    body.extend(1u16.to_ne_bytes()); // opt_comment
    body.extend((comment.len() as u16).to_ne_bytes());
    padded(&mut body, comment.as_bytes());
    body.extend([0; 4]);
    block(6, &body)
}
