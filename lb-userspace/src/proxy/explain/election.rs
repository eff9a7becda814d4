//! The member that a request would get: the balancer's own code over a copy of its members, and why
//! each of the others would not be taken.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::{HeaderValue, header, request::Parts};
use lb_common::member::{MemberId, MemberState};

use super::{QuestionError, States};
use crate::{
    admin::protocol::{CandidateView, MemberView, RouteView},
    balancer::{Ask, Balancer, Unelectable, sticky},
    config::spec::{self, LbMethod, Spec},
    dataplane::table::{MemberTable, monotonic_ns},
    proxy::{forward, reason::Reason},
};

/// The member, by the balancer's own code over a copy of its members.
pub(super) fn elect(
    spec: &Spec,
    states: States<'_>,
    index: usize,
    path: &str,
    (client, parts): (IpAddr, &Parts),
    view: &mut RouteView,
) -> Result<(), QuestionError> {
    let balancer = &spec.balancers[index];
    view.balancer = Some(balancer.name.clone());
    let (table, _members, _busy) = MemberTable::anonymous()?;
    let table = Arc::new(table);
    let ids: Vec<MemberId> = (1..=balancer.members.len())
        .map(|id| MemberId(u32::try_from(id).unwrap_or(u32::MAX)))
        .collect();
    let now = monotonic_ns();
    for (m, (member, id)) in balancer.members.iter().zip(&ids).enumerate() {
        let known = states(index, m);
        view.live |= known.is_some();
        copy(&table, *id, member, known.as_ref(), now);
        view.candidates.push(candidate(&table, *id, member));
    }
    // These two go by chance and by what the proxy alone has measured.
    let drawn = matches!(
        balancer.lbmethod,
        LbMethod::LeastLatency | LbMethod::Heartbeat
    );
    let mut known = balancer.clone();
    if drawn {
        known.lbmethod = LbMethod::ByRequests;
    }
    let elector = Balancer::new(&known, &ids, table, None)?;
    let session = elector.sticky.as_ref().and_then(|sticky| {
        let mut url = path.as_bytes().to_vec();
        if let Some(query) = parts.uri.query() {
            url.push(b'?');
            url.extend_from_slice(query.as_bytes());
        }
        let cookies = parts.headers.get_all(header::COOKIE);
        sticky::session(sticky, &url, cookies.iter().map(HeaderValue::as_bytes))
    });
    match (&session, &elector.sticky) {
        (Some(session), _) => {
            let route = String::from_utf8_lossy(&session.route).into_owned();
            let place = if session.in_url { "URL" } else { "cookie" };
            view.step(
                "stickysession",
                None,
                format!("route {route}, from the {place}"),
            );
            view.session = Some(route);
        }
        (None, Some(sticky)) => {
            let names = if sticky.cookie == sticky.path {
                sticky.cookie.clone()
            } else {
                format!("{} or {}", sticky.cookie, sticky.path)
            };
            view.step(
                "stickysession",
                None,
                format!("the request has no {names} with a route"),
            );
        }
        (None, None) => {}
    }
    let ask = Ask {
        session: session.as_ref(),
        key: forward::key_of(balancer, client, &parts.headers, path.as_bytes()),
        now_ns: now,
        seed: 0,
    };
    match elector.elect(&ask) {
        Ok(elected) => {
            let member = &balancer.members[elected.member];
            // The path of a direct worker's route is the whole of it.
            let before = if balancer.direct { "" } else { &member.path };
            let query = parts.uri.query().map(|query| format!("?{query}"));
            let start = member.url.rfind("://").map_or(0, |at| at + 3);
            let end = member.url[start..].find('/');
            let origin = &member.url[..end.map_or(member.url.len(), |at| start + at)];
            let target = format!(
                "{origin}{}{}",
                join(before, path),
                query.unwrap_or_default()
            );
            "member".clone_into(&mut view.verdict);
            let by_session = session.is_some() && !elected.route_changed;
            say_candidates(balancer, elected.member, by_session, view);
            if drawn && !by_session {
                say_drawn(balancer.lbmethod, view);
            } else {
                view.elected = Some(member.url.clone());
                view.target = Some(target);
            }
        }
        Err(error) => {
            let reason = match error {
                Unelectable::RouteDown(..) => Reason::RouteDown,
                _ => Reason::NoMember,
            };
            view.step("election", None, error.to_string());
            view.fail(503, reason);
            for candidate in &mut view.candidates {
                candidate.why = out(candidate).unwrap_or_else(|| "may not be used".to_owned());
            }
        }
    }
    Ok(())
}

fn join(before: &str, path: &str) -> String {
    match before.strip_suffix('/') {
        Some(before) if path.starts_with('/') => format!("{before}{path}"),
        _ => format!("{before}{path}"),
    }
}

/// Puts a member as it is, or as the file begins with it, into the copy.
fn copy(
    table: &MemberTable,
    id: MemberId,
    member: &spec::Member,
    known: Option<&MemberView>,
    now: u64,
) {
    let Some(cell) = table.cell(id) else { return };
    cell.incarnation.store(1, Relaxed);
    let Some(known) = known else {
        cell.state.store(member.status, Relaxed);
        cell.weight.store(member.lbfactor, Relaxed);
        cell.set_lbset(member.lbset);
        return;
    };
    let bits = MemberState::LETTERS.iter();
    let bits = bits.filter(|(letter, _)| known.state.contains(letter));
    cell.state
        .store(bits.fold(0, |state, (_, bit)| state | bit), Relaxed);
    // A hundredth of a load factor is the unit of the table.
    #[expect(
        clippy::cast_sign_loss,
        reason = "it was made of an unsigned number of hundredths"
    )]
    cell.weight
        .store((known.lbfactor * 100.0).round() as u32, Relaxed);
    cell.set_lbset(known.lbset);
    cell.lbstatus.store(known.lbstatus, Relaxed);
    cell.elected.store(known.elected, Relaxed);
    cell.retries.store(known.retries, Relaxed);
    cell.read.store(known.read, Relaxed);
    cell.transferred.store(known.transferred, Relaxed);
    if let Some(seconds) = known.error_seconds {
        let since = now.saturating_sub(seconds.saturating_mul(1_000_000_000));
        cell.error_since.store(since.max(1), Relaxed);
    }
    if let Some(busy) = table.busy(0, id) {
        busy.store(known.busy, Relaxed);
    }
}

fn candidate(table: &MemberTable, id: MemberId, member: &spec::Member) -> CandidateView {
    let mut view = CandidateView {
        url: member.url.clone(),
        route: member.route.clone(),
        ..CandidateView::default()
    };
    if let Some(cell) = table.cell(id) {
        let state = cell.state();
        let letters = MemberState::LETTERS.iter();
        view.state = letters
            .filter(|(_, bit)| state.has(*bit))
            .map(|(letter, _)| *letter)
            .collect();
        view.lbset = cell.lbset();
        view.lbfactor = f64::from(cell.weight.load(Relaxed)) / 100.0;
        view.lbstatus = cell.lbstatus.load(Relaxed);
        view.busy = table.busy_sum(id);
    }
    view
}

/// Why a member may not be used at all.
fn out(candidate: &CandidateView) -> Option<String> {
    let reasons = [
        ('D', "disabled"),
        ('S', "stopped"),
        ('E', "in error, its retry is not due"),
        ('C', "failed its health check"),
    ];
    let mut reasons = reasons.iter();
    let found = reasons.find(|(letter, _)| candidate.state.contains(letter))?;
    Some(found.1.to_owned())
}

fn say_candidates(
    balancer: &spec::Balancer,
    elected: usize,
    by_session: bool,
    view: &mut RouteView,
) {
    let set = view.candidates[elected].lbset;
    for (m, candidate) in view.candidates.iter_mut().enumerate() {
        let has = |letter| candidate.state.contains(&letter);
        if m == elected {
            candidate.elected = true;
            candidate.why = match (balancer.direct, by_session) {
                (true, _) => "the only one".to_owned(),
                (false, true) => "the session's route is its".to_owned(),
                (false, false) => match balancer.lbmethod {
                    LbMethod::ByRequests => {
                        format!(
                            "byrequests: {} + its factor is the most",
                            candidate.lbstatus
                        )
                    }
                    LbMethod::ByTraffic => "bytraffic: fewest bytes for its factor".to_owned(),
                    LbMethod::Hash => "hash: the key's place is its".to_owned(),
                    LbMethod::LeastLatency | LbMethod::Heartbeat => MAY_BE_DRAWN.to_owned(),
                    LbMethod::ByBusyness => {
                        "bybusyness: fewest in flight for its factor".to_owned()
                    }
                },
            };
            if has('E') {
                candidate.why = format!("{}; its retry is due", candidate.why);
            }
            continue;
        }
        candidate.why = out(candidate).unwrap_or_else(|| {
            if by_session {
                "usable; the session is another's".to_owned()
            } else if has('N') {
                "drains: sessions only".to_owned()
            } else if candidate.lbset > set {
                format!("of set {}, used when set {set} has nobody", candidate.lbset)
            } else if has('R') {
                "spare: for one that is out".to_owned()
            } else if has('H') {
                "standby: when all others are out".to_owned()
            } else {
                USABLE.to_owned()
            }
        });
    }
}

const MAY_BE_DRAWN: &str = "may be drawn";
const USABLE: &str = "usable; another is before it";

/// Nobody is elected where chance decides: each that may be is told so.
fn say_drawn(lbmethod: LbMethod, view: &mut RouteView) {
    let name = match lbmethod {
        LbMethod::Heartbeat => "heartbeat",
        _ => "leastlatency",
    };
    let text = format!("{name} draws at random, by what the proxy alone has measured");
    view.step("lbmethod", None, text);
    for candidate in &mut view.candidates {
        candidate.elected = false;
        if candidate.why == USABLE {
            MAY_BE_DRAWN.clone_into(&mut candidate.why);
        }
    }
}
