//! What elections learn from answers, and what they decide when members fail: `leastlatency`,
//! `ejectmax` and `retrybudget`.

use std::{hash::Hasher as _, net::IpAddr, sync::PoisonError, time::Duration};

use lb_common::member::MemberState;
use siphasher::sip::SipHasher13;

use super::{Balancer, failover::Cause, outlier};
use crate::config::spec::LbMethod;

/// How a member answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// From the request to the first byte; `None`: there was none.
    pub took: Option<Duration>,
    /// Its status; `None`: it broke off, or there was none.
    pub status: Option<u16>,
}

impl Answer {
    fn is_failure(self) -> bool {
        self.status.is_none_or(outlier::is_failure)
    }
}

impl Balancer {
    /// A request on a member is over; `answer` is what came of it. Returns whether the member was
    /// ejected for it.
    pub fn observe(&self, member: usize, answer: Answer, now_ns: u64) -> bool {
        if self.direct {
            return false;
        }
        let failed = answer.is_failure();
        if self.lbmethod == LbMethod::LeastLatency {
            let latency = &self.memory(member).latency;
            latency.observe(answer.took.unwrap_or_default(), failed, now_ns);
        }
        let Some(percent) = self.eject_max else {
            return false;
        };
        let mut record = self
            .memory(member)
            .record
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !record.observe(failed, now_ns) {
            return false;
        }
        // Counted and changed under one lock: two shards must not take the last place both.
        let _election = self.lock();
        let takes = |state: MemberState| state.is_usable() && !state.has(MemberState::DRAIN);
        if !takes(self.state(member)) {
            return false;
        }
        let members = self.members.len();
        let out = (0..members).filter(|m| !takes(self.state(*m))).count();
        if !outlier::may_eject(percent, members, out)
            || !self.put_in_error(member, Cause::Outlier, now_ns)
        {
            return false;
        }
        record.clear();
        true
    }

    /// A request is about to be given to its first member.
    pub fn begin_request(&self, now_ns: u64) {
        if self.retry_budget.is_some() {
            self.budget
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .request(now_ns);
        }
    }

    /// Whether `retrybudget` lets one more request be tried again; if so it is counted.
    pub fn may_retry(&self, now_ns: u64) -> bool {
        let Some(percent) = self.retry_budget else {
            return true;
        };
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.retry(percent, now_ns)
    }

    /// What is expected of a member by `lbmethod=leastlatency`; `None`: another method, or nothing
    /// is known.
    pub fn expected_latency(&self, member: usize, now_ns: u64) -> Option<Duration> {
        if self.lbmethod != LbMethod::LeastLatency {
            return None;
        }
        self.memory(member).latency.expected(now_ns)
    }

    /// Whether elections want to know how members answer.
    pub fn is_observing(&self) -> bool {
        self.eject_max.is_some() || self.lbmethod == LbMethod::LeastLatency
    }

    /// Whether elections want a key.
    pub fn wants_key(&self) -> bool {
        self.lbmethod == LbMethod::Hash
    }
}

/// The key of what `hashkey` names: the same on every host and after every restart.
pub fn key(value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(value);
    hasher.finish()
}

/// The key of a source address.
pub fn key_of_source(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => key(&ip.octets()),
        IpAddr::V6(ip) => key(&ip.octets()),
    }
}
