//! Changes to members: which member is meant, what a change does to its slot. Pure but for the
//! slot's atomics.

use std::sync::atomic::Ordering::{Acquire, Release};

use lb_common::member::MemberState;

use super::protocol::MemberChange;
use crate::{
    config::{
        spec::{Balancer, LbMethod, Spec},
        status::parse_status_flags,
    },
    dataplane::sys::MemberCell,
};

/// Why a change is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    /// No such balancer.
    #[error("no balancer {name}{hint}")]
    NoBalancer {
        /// As asked.
        name: String,
        /// What there is.
        hint: String,
    },
    /// No such member.
    #[error("balancer {balancer} has no member {name}{hint}")]
    NoMember {
        /// Its balancer.
        balancer: String,
        /// As asked.
        name: String,
        /// What there is.
        hint: String,
    },
    /// Several members have it as their route or address.
    #[error("{name} is more than one member of balancer {balancer}: {candidates}; use the URL")]
    Ambiguous {
        /// Its balancer.
        balancer: String,
        /// As asked.
        name: String,
        /// Their URLs.
        candidates: String,
    },
    /// A flag of `status=`.
    #[error("status={flags}: {problem}")]
    Status {
        /// As asked.
        flags: String,
        /// What is wrong.
        problem: String,
    },
    /// Out of httpd's range.
    #[error("loadfactor must be a number between 1..100")]
    LoadFactor,
    /// Out of httpd's range.
    #[error("lbset must be between 0 and 99")]
    LbSet,
}

/// Finds a member by balancer (`balancer://` optional) and URL, route or `host:port`.
pub fn find(spec: &Spec, balancer: &str, member: &str) -> Result<(usize, usize), ChangeError> {
    let bare = balancer.strip_prefix("balancer://").unwrap_or(balancer);
    let bare = bare.trim_end_matches('/');
    let (b, found) = spec
        .balancers
        .iter()
        .enumerate()
        .find(|(_, b)| b.name.eq_ignore_ascii_case(bare))
        .ok_or_else(|| ChangeError::NoBalancer {
            name: bare.to_owned(),
            hint: hint(bare, spec.balancers.iter().map(|b| b.name.as_str())),
        })?;
    let exact = found
        .members
        .iter()
        .position(|m| m.url.trim_end_matches('/') == member.trim_end_matches('/'));
    if let Some(m) = exact {
        return Ok((b, m));
    }
    let others: Vec<usize> = (0..found.members.len())
        .filter(|m| is_called(found, *m, member))
        .collect();
    match others[..] {
        [m] => Ok((b, m)),
        [] => Err(ChangeError::NoMember {
            balancer: found.name.clone(),
            name: member.to_owned(),
            hint: hint(member, found.members.iter().map(|m| m.url.as_str())),
        }),
        _ => Err(ChangeError::Ambiguous {
            balancer: found.name.clone(),
            name: member.to_owned(),
            candidates: others
                .iter()
                .map(|m| found.members[*m].url.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Whether `name` is the route or the `host:port` of a member.
fn is_called(balancer: &Balancer, member: usize, name: &str) -> bool {
    let member = &balancer.members[member];
    let host = if member.host.contains(':') {
        format!("[{}]", member.host)
    } else {
        member.host.clone()
    };
    (!member.route.is_empty() && member.route == name)
        || format!("{host}:{}", member.port).eq_ignore_ascii_case(name)
}

/// `: did you mean X?` or the list of what there is.
fn hint<'a>(wanted: &str, present: impl Iterator<Item = &'a str>) -> String {
    /// A list longer than this helps nobody.
    const MOST: usize = 8;
    let present: Vec<&str> = present.collect();
    let close = present
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(score, _)| *score > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (close, present.len()) {
        (Some((_, name)), _) => format!("; did you mean {name}?"),
        (None, 0) => "; there are none".to_owned(),
        (None, n) if n <= MOST => format!("; there are {}", present.join(", ")),
        (None, n) => format!(
            "; there are {} and {} more",
            present[..MOST].join(", "),
            n - MOST
        ),
    }
}

/// Checks a change without making it.
pub fn check(change: &MemberChange) -> Result<(), ChangeError> {
    match change {
        MemberChange::Status { flags } => status_bits(flags).map(drop),
        MemberChange::LoadFactor { lbfactor } if !(100..=10_000).contains(lbfactor) => {
            Err(ChangeError::LoadFactor)
        }
        MemberChange::LbSet { lbset } if *lbset > 99 => Err(ChangeError::LbSet),
        _ => Ok(()),
    }
}

/// Makes a change that [`check`] passed; returns what it did, for a person.
pub fn apply(change: &MemberChange, cell: &MemberCell) -> String {
    match change {
        MemberChange::Drain => {
            let changed = cell.set_state(MemberState::DRAIN);
            verdict(changed, "drains: existing sessions only", "drains already")
        }
        MemberChange::Disable => {
            let changed = cell.set_state(MemberState::DISABLED);
            verdict(changed, "disabled", "is disabled already")
        }
        MemberChange::Enable => {
            // E is the shards' bit; clearing it by hand is the operator's "try it now".
            let changed = cell.clear_state(
                MemberState::DISABLED
                    | MemberState::DRAIN
                    | MemberState::STOPPED
                    | MemberState::ERROR,
            );
            verdict(changed, "enabled", "is enabled already")
        }
        MemberChange::Status { flags } => {
            let (set, clear) = status_bits(flags).unwrap_or_default();
            let set = cell.set_state(set) && set != 0;
            let cleared = cell.clear_state(clear) && clear != 0;
            let now = letters(cell.state());
            let now = if now.is_empty() { "OK" } else { &now };
            verdict(
                set || cleared,
                &format!("status is now {now}"),
                &format!("status is {now} already"),
            )
        }
        MemberChange::LoadFactor { lbfactor } => {
            let before = cell.weight.swap(*lbfactor, Release);
            format!(
                "loadfactor {} (was {})",
                f64::from(*lbfactor) / 100.0,
                f64::from(before) / 100.0
            )
        }
        MemberChange::LbSet { lbset } => {
            let before = cell.lbset();
            cell.set_lbset(*lbset);
            format!("lbset {lbset} (was {before})")
        }
    }
}

/// Starts the election of a balancer anew where httpd's manager does: every lbstatus is its lbfactor
/// after a load factor was changed. A member that returns finds its account as it left it, as
/// httpd 2.4.71 was seen to do.
///
/// A shard that elects at this very moment may overwrite one of them with what it had read: that
/// member's share is then off by what it had on its account, once.
pub fn restart_election(changes: &[MemberChange], all: &[&MemberCell]) {
    if (changes.iter()).any(|c| matches!(c, MemberChange::LoadFactor { .. })) {
        for cell in all {
            let weight = i64::from(cell.weight.load(Acquire));
            cell.lbstatus.store(weight, Release);
        }
    }
}

/// As [`restart_election`], where a balancer got another lbmethod: every lbstatus is 0, and what
/// bytraffic goes by begins at 0 too.
pub fn restart_method(next: LbMethod, all: &[&MemberCell]) {
    for cell in all {
        cell.lbstatus.store(0, Release);
        if next == LbMethod::ByTraffic {
            cell.read.store(0, Release);
            cell.transferred.store(0, Release);
        }
    }
}

fn verdict(changed: bool, done: &str, already: &str) -> String {
    if changed { done } else { already }.to_owned()
}

/// Letters of the bits that are set, in httpd's order.
pub fn letters(state: MemberState) -> String {
    MemberState::LETTERS
        .iter()
        .filter(|(_, bit)| state.has(*bit))
        .map(|(letter, _)| *letter)
        .collect()
}

/// Bits to set and to clear, from `+H-D` as BalancerMember's `status=` takes it.
fn status_bits(flags: &str) -> Result<(u64, u64), ChangeError> {
    let fault = |problem: String| ChangeError::Status {
        flags: flags.to_owned(),
        problem,
    };
    let set = parse_status_flags(flags, 0).map_err(fault)?;
    let clear = !parse_status_flags(flags, u64::MAX).map_err(fault)?;
    let others = (set | clear) & !MemberState::OPERATOR;
    if others != 0 {
        return Err(fault(format!(
            "{} is set by sluice alone (`member enable` clears an error)",
            letters(MemberState(others))
        )));
    }
    Ok((set, clear))
}

/// A member's `loadfactor` as httpd reads it, times 100.
pub fn loadfactor(text: &str) -> Result<u32, ChangeError> {
    let value: f64 = text.parse().map_err(|_| ChangeError::LoadFactor)?;
    if (1.0..=100.0).contains(&value) {
        #[expect(
            clippy::cast_sign_loss,
            reason = "between 100 and 10000, checked on the line above"
        )]
        Ok((value * 100.0).round() as u32)
    } else {
        Err(ChangeError::LoadFactor)
    }
}

#[cfg(test)]
mod tests;
