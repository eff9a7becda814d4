//! Electing a member for a request, and telling its balancer what came of it.

use std::{net::IpAddr, time::Instant};

use http::{HeaderMap, HeaderValue, header};
use tracing::warn;

use super::{Attempt, LOG};
use crate::{
    balancer::{
        Ask, Balancer, Elected, Unelectable,
        failover::{Attempts, Outcome},
        feedback::{self, Answer},
        sticky::{self, Session},
    },
    config::spec::{self, HashKey},
    dataplane::table::monotonic_ns,
    proxy::{exchange::Exchange, reason::Reason, shard::Shard, wheel::TICK},
    telemetry::counters::Number,
};

/// Elects a member at `now_ns` of CLOCK_MONOTONIC; with a balancer's `timeout`, asks again until somebody is usable.
pub(super) async fn elect(
    exchange: &Exchange,
    balancer: usize,
    session: Option<&Session>,
    key: u64,
    now_ns: u64,
) -> Result<Elected, Unelectable> {
    let balancer = &exchange.current.plan.balancers[balancer].balancer;
    let shard = &exchange.shard;
    let first = balancer.elect(&ask(shard, session, key, now_ns));
    let waits = matches!(first, Err(Unelectable::NoneUsable(_))) && !balancer.timeout.is_zero();
    if !waits {
        return first;
    }
    // Boxed: rare, and large.
    Box::pin(elect_later(shard, balancer, session, key)).await
}

fn ask<'a>(shard: &Shard, session: Option<&'a Session>, key: u64, now_ns: u64) -> Ask<'a> {
    Ask {
        session,
        key,
        now_ns,
        seed: shard.request_id(),
    }
}

/// Asks again, for as long as the balancer's `timeout` allows.
async fn elect_later(
    shard: &Shard,
    balancer: &Balancer,
    session: Option<&Session>,
    key: u64,
) -> Result<Elected, Unelectable> {
    let deadline = shard.wheel.alarm();
    deadline.set(balancer.timeout);
    let step = shard.wheel.alarm();
    loop {
        step.set((balancer.timeout / 100).max(TICK));
        tokio::select! {
            () = step.reached() => {}
            () = deadline.reached() => return balancer.elect(&ask(shard, session, key, monotonic_ns())),
        }
        if let Ok(elected) = balancer.elect(&ask(shard, session, key, monotonic_ns())) {
            return Ok(elected);
        }
    }
}

/// The key that `hashkey` makes of a request. `path`: what members are asked for, without query.
pub(super) fn hash_key(
    exchange: &Exchange,
    balancer: usize,
    fields: &HeaderMap,
    path: &[u8],
) -> u64 {
    let spec = &exchange.current.plan.spec.balancers[balancer];
    key_of(spec, exchange.client.peer.ip(), fields, path)
}

/// The same, of any request.
pub(crate) fn key_of(
    spec: &spec::Balancer,
    client: IpAddr,
    fields: &HeaderMap,
    path: &[u8],
) -> u64 {
    let value = match &spec.beyond.hash_key {
        HashKey::Source => None,
        HashKey::Path => Some(path),
        HashKey::Header(name) => fields.get(name).map(HeaderValue::as_bytes),
        HashKey::Cookie(name) => {
            let cookies = fields.get_all(header::COOKIE).iter();
            sticky::value_of(cookies.map(HeaderValue::as_bytes), name)
        }
    };
    value.map_or_else(|| feedback::key_of_source(client), feedback::key)
}

/// Tells a balancer that wants to know how a member took a request.
pub(super) fn observe(
    shard: &Shard,
    elector: &Balancer,
    member: usize,
    began: Option<Instant>,
    ended: &Result<super::Answered, Attempt>,
) {
    let Some(began) = began else {
        return;
    };
    let answer = match ended {
        Ok((response, _)) => Some(Some(response.status().as_u16())),
        Err(attempt) => says_of_member(attempt).then_some(None),
    };
    let Some(status) = answer else {
        return;
    };
    let answer = Answer {
        took: Some(began.elapsed()),
        status,
    };
    if elector.observe(member, answer, monotonic_ns()) {
        shard.tally.up(Number::Ejections);
    }
}

/// Whether a request that had no answer says something of its member. What the client did wrong does
/// not, nor what this host had not enough of; and who was not reached is in error already.
const fn says_of_member(attempt: &Attempt) -> bool {
    match attempt {
        Attempt::Failed(failure) => !matches!(
            failure.reason,
            Some(Reason::BodyTimeout | Reason::BadBody | Reason::NoResources)
        ),
        // It closed without a word.
        Attempt::Abort => true,
        Attempt::Unreached(_) => false,
    }
}

/// Whether a request whose member was not reached is given to another.
pub(super) fn tries_another(
    shard: &Shard,
    elector: &Balancer,
    attempts: &mut Attempts,
    member: usize,
) -> bool {
    if !elector.try_another(attempts, member, Outcome::Unreached) {
        return false;
    }
    let may = elector.may_retry(monotonic_ns());
    if !may {
        shard.tally.up(Number::RetriesRefused);
        warn!(
            target: LOG,
            "balancer://{}: retrybudget is used up: a request is not tried on another member",
            elector.written
        );
    }
    may
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::proxy::forward::Failure;

    #[test]
    fn members_are_not_blamed_for_our_own_want_or_the_clients_fault() {
        let failed = |reason| {
            let failure = Failure::plain(StatusCode::SERVICE_UNAVAILABLE);
            says_of_member(&Attempt::Failed(failure.because(reason)))
        };
        for reason in [Reason::NoResources, Reason::BodyTimeout, Reason::BadBody] {
            assert!(!failed(reason), "{reason:?}");
        }
        for reason in [
            Reason::BadResponse,
            Reason::ResponseTimeout,
            Reason::MemberTls,
        ] {
            assert!(failed(reason), "{reason:?}");
        }
        assert!(says_of_member(&Attempt::Abort));
        let unreached = Failure::plain(StatusCode::SERVICE_UNAVAILABLE);
        assert!(!says_of_member(&Attempt::Unreached(unreached)));
    }
}
