//! Names of members: how long an answer holds, when a name is asked for again and which address of
//! an answer a member takes is decided here, purely; [`lookup`] asks, [`watcher`] does so again and
//! again. Names of clients are [`clients`]'.
//!
//! Names are resolved in a thread of the proxy process, which has no privileges to lose to a name
//! server's answer, and never where requests are. Control is told of every answer and decides what
//! becomes of members (`server/names.rs`).

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::spec::AddressTtl;

pub(crate) mod clients;
mod further;
mod lookup;
#[cfg(test)]
mod tests;
mod watcher;

pub(crate) use further::Further;
pub(crate) use watcher::{Resolved, Watcher};

/// What a name server, or the hosts file, said of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// In the order of the answer, all of one family, at most [`MOST_ADDRESSES`]; never none.
    pub(crate) addresses: Vec<IpAddr>,
    /// Those of the other family, for connections alone: no member has one of them. As many at most.
    #[serde(skip)]
    pub(crate) others: Vec<IpAddr>,
    /// How long it holds, as the answer says.
    pub(crate) ttl: Duration,
}

/// Addresses of one answer; further ones are not looked at.
pub(crate) const MOST_ADDRESSES: usize = 64;
/// Shortest time between two lookups of a name, whatever its records say.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
/// Longest time that an answer is believed, whatever its records say.
pub(crate) const LONGEST: Duration = Duration::from_hours(1);
/// Longest time between two lookups of a name that fails.
const LONGEST_FAILING: Duration = Duration::from_secs(30);

impl Answer {
    /// Takes what can be a member's address; `None`: nothing of it.
    pub(crate) fn of(addresses: impl IntoIterator<Item = IpAddr>, ttl: Duration) -> Option<Self> {
        let usable: Vec<IpAddr> = (addresses.into_iter())
            .map(|ip| ip.to_canonical())
            .filter(|ip| is_member(*ip))
            .collect();
        // IPv4 before IPv6, as httpd does with an IPv4 host.
        let v4 = usable.iter().any(IpAddr::is_ipv4);
        let (mut addresses, mut others): (Vec<IpAddr>, Vec<IpAddr>) = Default::default();
        for ip in usable {
            let list = if ip.is_ipv4() == v4 {
                &mut addresses
            } else {
                &mut others
            };
            if !list.contains(&ip) && list.len() < MOST_ADDRESSES {
                list.push(ip);
            }
        }
        (!addresses.is_empty()).then_some(Self {
            addresses,
            others,
            ttl,
        })
    }
}

/// Whether a member can be there: filtering name servers answer 0.0.0.0 for what they block, and a
/// connection to that ends at this host.
fn is_member(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// The address that a member takes: the one it has, for as long as the answer has it; else the first.
/// What changes only its order moves nobody. `None`: the answer is empty.
pub(crate) fn choose(has: Option<IpAddr>, answer: &[IpAddr]) -> Option<IpAddr> {
    has.filter(|has| answer.contains(has))
        .or_else(|| answer.first().copied())
}

/// Until when an answer with this TTL is believed.
pub(crate) fn holds(rule: AddressTtl, ttl: Duration) -> Duration {
    match rule {
        AddressTtl::Record | AddressTtl::Forever => ttl.clamp(SHORTEST, LONGEST),
        AddressTtl::Every(time) => time.max(SHORTEST),
    }
}

/// The pause after a lookup. `outcome`: how long the answer holds, or how many lookups have failed
/// one after the other. Up to a tenth more by `seed`, so that names do not stay together.
pub(crate) fn pause(outcome: Result<Duration, u32>, seed: u8) -> Duration {
    let pause = match outcome {
        Ok(holds) => holds,
        // 1, 2, 4 ... 30 s.
        Err(failures) => SHORTEST
            .saturating_mul(1 << failures.saturating_sub(1).min(5))
            .min(LONGEST_FAILING),
    };
    pause.saturating_add(pause / 2560 * u32::from(seed))
}
