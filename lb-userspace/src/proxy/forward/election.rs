//! Electing a member for a request, and telling its balancer what came of it.

use std::time::Instant;

use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::Incoming;
use tracing::warn;

use super::{Attempt, LOG};
use crate::{
    balancer::{
        Ask, Balancer, Elected, Unelectable,
        failover::{Attempts, Outcome},
        feedback::{self, Answer},
        sticky::{self, Session},
    },
    config::spec::HashKey,
    dataplane::table::monotonic_ns,
    proxy::{exchange::Exchange, pool::Upstream, reason::Reason, wheel::TICK},
};

/// Elects a member; with a balancer's `timeout`, asks again until somebody is usable.
pub(super) async fn elect(
    exchange: &Exchange,
    balancer: usize,
    session: Option<&Session>,
    key: u64,
) -> Result<Elected, Unelectable> {
    let balancer = &exchange.current.plan.balancers[balancer].balancer;
    let once = || {
        balancer.elect(&Ask {
            session,
            key,
            now_ns: monotonic_ns(),
            seed: exchange.shard.request_id(),
        })
    };
    let first = once();
    let waits = matches!(first, Err(Unelectable::NoneUsable(_))) && !balancer.timeout.is_zero();
    if !waits {
        return first;
    }
    let deadline = exchange.shard.wheel.alarm();
    deadline.set(balancer.timeout);
    let step = exchange.shard.wheel.alarm();
    loop {
        step.set((balancer.timeout / 100).max(TICK));
        tokio::select! {
            () = step.reached() => {}
            () = deadline.reached() => return once(),
        }
        if let Ok(elected) = once() {
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
    let value = match &spec.beyond.hash_key {
        HashKey::Source => None,
        HashKey::Path => Some(path),
        HashKey::Header(name) => fields.get(name).map(HeaderValue::as_bytes),
        HashKey::Cookie(name) => {
            let cookies = fields.get_all(header::COOKIE).iter();
            sticky::value_of(cookies.map(HeaderValue::as_bytes), name)
        }
    };
    value.map_or_else(
        || feedback::key_of_source(exchange.client.peer.ip()),
        feedback::key,
    )
}

/// Tells a balancer how a member took a request. What the client did wrong says nothing of it, and
/// who was not reached is in error already.
pub(super) fn observe(
    elector: &Balancer,
    member: usize,
    began: Instant,
    ended: &Result<(Response<Incoming>, Upstream), Attempt>,
) {
    if !elector.is_observing() {
        return;
    }
    let answer = match ended {
        Ok((response, _)) => Answer {
            took: Some(began.elapsed()),
            status: Some(response.status().as_u16()),
        },
        Err(Attempt::Failed(failure)) => match failure.reason {
            Some(Reason::BodyTimeout | Reason::BadBody) => return,
            _ => Answer {
                took: Some(began.elapsed()),
                status: None,
            },
        },
        Err(Attempt::Unreached(_) | Attempt::Abort) => return,
    };
    elector.observe(member, answer, monotonic_ns());
}

/// Whether a request whose member was not reached is given to another.
pub(super) fn tries_another(elector: &Balancer, attempts: &mut Attempts, member: usize) -> bool {
    if !elector.try_another(attempts, member, Outcome::Unreached) {
        return false;
    }
    let may = elector.may_retry(monotonic_ns());
    if !may {
        warn!(
            target: LOG,
            "balancer://{}: retrybudget is used up: a request is not tried on another member",
            elector.name
        );
    }
    may
}
