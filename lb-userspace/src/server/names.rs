//! Names of members, control's part: what the proxy tells of lookups, which members move by it, and
//! the generation that moves them. Asking is [`crate::names`]'s business, in the proxy process.
//!
//! A member moves to another slot when it moves to another address: requests and flows that are with
//! the old one end there, as with a member that was taken out of the configuration.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use lb_common::member::MemberState;

use super::control::{Control, count};
use crate::{
    admin::protocol::NameView,
    config::spec::{AddressTtl, Member, Spec},
    dataplane::{Desired, Published, monotonic_ns, table::MemberTable},
    names::{Answer, choose, holds},
};

/// How long after an answer members move, so that names that change together move together.
const GATHER: Duration = Duration::from_millis(50);
/// Between two generations that names make.
const APART: Duration = Duration::from_secs(1);
/// Until a move that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Bytes of a resolver's words that are kept.
const MOST_WORDS: usize = 200;

/// What is known of the names.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeMap<String, Known>,
    /// When members are to move.
    pub(super) due: Option<Instant>,
    /// When they last did.
    moved: Option<Instant>,
}

/// One name.
#[derive(Default)]
struct Known {
    /// Of the last good answer.
    addresses: Vec<IpAddr>,
    /// When that came.
    answered: Option<Instant>,
    /// What it says of how long it holds.
    ttl: Duration,
    lookups: u64,
    failed: u64,
    /// Times that a member moved.
    moves: u64,
    /// Why the last lookup failed; empty: it did not.
    error: String,
}

impl Control {
    /// The proxy has asked for a name. It is not trusted: what it may tell is looked at again.
    pub(super) fn resolved(&mut self, host: &str, answer: Result<Answer, String>) {
        if self.is_stopping() || !members(&self.desired.spec).any(|m| m.name() == Some(host)) {
            return;
        }
        let known = self.names.known.entry(host.to_owned()).or_default();
        known.lookups += 1;
        let answer = answer.and_then(|answer| {
            Answer::of(answer.addresses, answer.ttl)
                .ok_or_else(|| "no usable address in the answer".to_owned())
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => {
                let why: String = why.chars().take(MOST_WORDS).collect();
                known.fail(host, why);
                return;
            }
        };
        if !known.error.is_empty() {
            tracing::info!(notice = true, "name {host} is resolved again");
            known.error.clear();
        }
        known.addresses = answer.addresses;
        known.ttl = answer.ttl;
        known.answered = Some(Instant::now());
        if self.names.due.is_none() && !self.moves().is_empty() {
            let now = Instant::now();
            let earliest = self.names.moved.map_or(now, |moved| moved + APART);
            self.names.due = Some(earliest.max(now + GATHER));
        }
    }

    /// Members that the last answers send elsewhere: balancer, member, where to.
    fn moves(&self) -> Vec<(usize, usize, SocketAddr)> {
        let mut moves = Vec::new();
        let balancers = self.desired.spec.balancers.iter();
        for (b, (balancer, addresses)) in balancers.zip(&self.desired.addresses).enumerate() {
            for (m, (member, is)) in balancer.members.iter().zip(addresses).enumerate() {
                let known = member.name().and_then(|name| self.names.known.get(name));
                let Some(known) = known else { continue };
                let has = Some(is.ip()).filter(|ip| !ip.is_unspecified());
                if has.is_some() && member.address_ttl == AddressTtl::Forever {
                    continue;
                }
                if let Some(ip) = choose(has, &known.addresses)
                    && has != Some(ip)
                {
                    moves.push((b, m, SocketAddr::new(ip, is.port())));
                }
            }
        }
        moves
    }

    /// Moves members to where their names are: a generation of the same configuration.
    pub(super) async fn follow_names(&mut self) {
        self.names.due = None;
        let moves = self.moves();
        if moves.is_empty() || self.is_stopping() {
            return;
        }
        let mut desired = Desired {
            addresses: self.desired.addresses.clone(),
            spec: Arc::clone(&self.desired.spec),
        };
        let mut said = Vec::new();
        for (b, m, address) in moves {
            let balancer = &desired.spec.balancers[b];
            let member = &balancer.members[m];
            let before = desired.addresses[b][m].ip();
            let ip = address.ip();
            said.push((
                member.host.clone(),
                if before.is_unspecified() {
                    format!(
                        "member {} of balancer {}: {} is found, at {ip}",
                        member.url, balancer.name, member.host
                    )
                } else {
                    format!(
                        "member {} of balancer {}: {} is at {ip} now and no longer at {before}, which \
                         drains",
                        member.url, balancer.name, member.host
                    )
                },
            ));
            desired.addresses[b][m] = address;
        }
        self.names.moved = Some(Instant::now());
        match self.switch(desired).await {
            Ok(()) => {
                for (host, line) in said {
                    tracing::info!(notice = true, "{line}");
                    if let Some(known) = self.names.known.get_mut(&host) {
                        known.moves += 1;
                    }
                }
            }
            Err(why) => {
                tracing::error!(
                    "{} not moved to where their names are: {why}; tried again in {} s",
                    count(said.len(), "member"),
                    AGAIN.as_secs()
                );
                self.names.due = Some(Instant::now() + AGAIN);
            }
        }
    }

    /// The addresses that a configuration's names had until now; nothing of names without any.
    pub(super) fn found_names(&self) -> BTreeMap<String, IpAddr> {
        let balancers = self.desired.spec.balancers.iter();
        balancers
            .zip(&self.desired.addresses)
            .flat_map(|(balancer, addresses)| balancer.members.iter().zip(addresses))
            .filter(|(_, address)| !address.ip().is_unspecified())
            .filter_map(|(member, address)| Some((member.name()?.to_owned(), address.ip())))
            .collect()
    }

    /// For `sluice status` and metrics, in the order of the names.
    pub(super) fn name_views(&self) -> Vec<NameView> {
        let mut views: BTreeMap<&str, NameView> = BTreeMap::new();
        let balancers = self
            .desired
            .spec
            .balancers
            .iter()
            .zip(&self.desired.addresses);
        let members = balancers.flat_map(|(b, addresses)| b.members.iter().zip(addresses));
        for (member, address) in members {
            let Some(name) = member.name() else { continue };
            let view = views.entry(name).or_insert_with(|| self.names.view(member));
            let ip = address.ip();
            if !ip.is_unspecified() && !view.used.contains(&ip) {
                view.used.push(ip);
            }
        }
        views.into_values().collect()
    }

    /// Forgets names that no member has any more.
    pub(super) fn forget_names(&mut self) {
        let spec = &self.desired.spec;
        (self.names.known).retain(|host, _| members(spec).any(|m| m.name() == Some(host)));
    }
}

/// Puts members whose names have no address into error, as a request would find them.
pub(super) fn mark_unresolved(desired: &Desired, published: &Published, table: &MemberTable) {
    let addresses = desired.addresses.iter().zip(&published.ids);
    let balancers = desired.spec.balancers.iter().zip(addresses);
    for (balancer, (addresses, ids)) in balancers {
        for (member, (address, id)) in balancer.members.iter().zip(addresses.iter().zip(ids)) {
            let nowhere = address.ip().is_unspecified() && member.name().is_some();
            if let Some(cell) = table.cell(*id).filter(|_| nowhere) {
                cell.error_since.store(monotonic_ns().max(1), Relaxed);
                cell.set_state(MemberState::ERROR);
            }
        }
    }
}

impl Names {
    fn view(&self, member: &Member) -> NameView {
        let mut view = NameView {
            name: member.host.clone(),
            ..NameView::default()
        };
        if let Some(known) = self.known.get(&member.host) {
            view.addresses.clone_from(&known.addresses);
            view.age_seconds = known.answered.map(|at| at.elapsed().as_secs());
            view.ttl_seconds = (known.answered.is_some()
                && member.address_ttl != AddressTtl::Forever)
                .then(|| holds(member.address_ttl, known.ttl).as_secs());
            view.lookups = known.lookups;
            view.failed = known.failed;
            view.moves = known.moves;
            view.error.clone_from(&known.error);
        }
        view
    }
}

impl Known {
    fn fail(&mut self, host: &str, why: String) {
        self.failed += 1;
        let first = self.error.is_empty();
        self.error = why;
        if !first {
            return;
        }
        let why = &self.error;
        if let Some(at) = self.answered {
            tracing::warn!(
                "name {host} cannot be resolved ({why}): the last answer, {} s old, is kept",
                at.elapsed().as_secs()
            );
        } else {
            tracing::error!("name {host} cannot be resolved: {why}");
        }
    }
}

fn members(spec: &Spec) -> impl Iterator<Item = &Member> {
    spec.balancers.iter().flat_map(|balancer| &balancer.members)
}
