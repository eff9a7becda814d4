//! Balancers: who takes the next request.
//!
//! Pure: time and the member table are arguments, nothing here waits or does I/O. State bits,
//! weights, sets and credits are read from and written to the shared member table, so that packets,
//! `sluice status` and every shard see one truth. Connections and retries of whole requests are the
//! proxy's; what they mean for a member is decided in [`failover`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed};

use lb_common::member::{MemberId, MemberState};

use crate::{
    config::spec,
    dataplane::{sys::MemberCell, table::MemberTable},
};

pub mod failover;
pub mod lbmethod;
pub mod sticky;

#[cfg(test)]
mod tests;

use sticky::Session;

/// One balancer of one generation.
pub struct Balancer {
    /// Name without `balancer://`; a direct worker's URL.
    pub name: String,
    /// A direct worker: one member, taken without election.
    pub direct: bool,
    /// `stickysession`.
    pub sticky: Option<spec::Sticky>,
    /// How long to wait for a usable member.
    pub timeout: std::time::Duration,
    /// Final statuses that put the member into error.
    pub failonstatus: Vec<u16>,
    /// A read timeout puts the member into error.
    pub failontimeout: bool,
    nofailover: bool,
    forcerecovery: bool,
    maxattempts: u32,
    lbmethod: spec::LbMethod,
    members: Vec<Member>,
    table: Arc<MemberTable>,
    election: Arc<Mutex<()>>,
}

/// One member as the balancer knows it. What may change while it runs (state, weight, set,
/// credit) is in the table.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its slot.
    pub id: MemberId,
    /// The life of the slot that this generation was made for.
    pub incarnation: u32,
    /// `route`, may be empty.
    pub route: String,
    /// `redirect`, may be empty.
    pub redirect: String,
    /// `retry`, ns.
    pub retry_ns: u64,
    /// Canonical URL.
    pub url: String,
}

/// A member was taken for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elected {
    /// Index into [`Balancer::members`].
    pub member: usize,
    /// `BALANCER_ROUTE_CHANGED`: it is not the member that the session asked for (true for a new
    /// client of a balancer with sticky sessions as well, as in httpd).
    pub route_changed: bool,
}

/// No member can be taken. Every variant is answered with 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unelectable {
    /// AH01171.
    #[error("AH01171: balancer://{0}: No workers in balancer")]
    NoMembers(String),
    /// AH01170.
    #[error("AH01170: balancer://{0}: All workers are in error state")]
    NoneUsable(String),
    /// AH01167: `nofailover`.
    #[error("AH01167: balancer://{0}: All workers are in error state for route ({1})")]
    RouteDown(String, String),
    /// AH00940: a direct worker in error.
    #[error("AH00940: http: disabled connection for ({0})")]
    DirectDown(String),
}

/// A balancer of the configuration and the slots it was given do not fit.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Wrong number of ids.
    #[error("balancer {balancer}: {members} members but {ids} slots")]
    Count {
        /// Balancer's name.
        balancer: String,
        /// Members in the configuration.
        members: usize,
        /// Slots given.
        ids: usize,
    },
    /// An id outside the table.
    #[error("balancer {balancer}: member {url} has no slot (id {id})")]
    Slot {
        /// Balancer's name.
        balancer: String,
        /// Member's URL.
        url: String,
        /// The id.
        id: u32,
    },
}

impl Balancer {
    /// Makes a balancer from its configuration. `previous` is the balancer of the same name in the
    /// generation before: both elect under one lock for as long as both are in use.
    pub fn new(
        spec: &spec::Balancer,
        ids: &[MemberId],
        table: Arc<MemberTable>,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        if ids.len() != spec.members.len() {
            return Err(BuildError::Count {
                balancer: spec.name.clone(),
                members: spec.members.len(),
                ids: ids.len(),
            });
        }
        let members = spec
            .members
            .iter()
            .zip(ids)
            .map(|(member, &id)| {
                let cell = table.cell(id).ok_or_else(|| BuildError::Slot {
                    balancer: spec.name.clone(),
                    url: member.url.clone(),
                    id: id.0,
                })?;
                Ok(Member {
                    id,
                    incarnation: cell.incarnation.load(Relaxed),
                    route: member.route.clone(),
                    redirect: member.redirect.clone(),
                    retry_ns: u64::try_from(member.retry.as_nanos()).unwrap_or(u64::MAX),
                    url: member.url.clone(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let others = u32::try_from(members.len().saturating_sub(1)).unwrap_or(u32::MAX);
        Ok(Self {
            name: spec.name.clone(),
            direct: spec.direct,
            sticky: spec.sticky.clone(),
            timeout: spec.timeout,
            failonstatus: spec.failonstatus.clone(),
            failontimeout: spec.failontimeout,
            nofailover: spec.nofailover,
            forcerecovery: spec.forcerecovery,
            maxattempts: spec.maxattempts.unwrap_or(others),
            lbmethod: spec.lbmethod,
            members,
            election: previous.map_or_else(Arc::default, |balancer| balancer.election.clone()),
            table,
        })
    }

    /// Its members, in configuration order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member's slot in the shared table.
    pub fn cell(&self, member: usize) -> &MemberCell {
        self.table
            .cell(self.members[member].id)
            .expect("ids were checked against the table when the balancer was made")
    }

    /// The member's state; stopped when its slot went to another member meanwhile.
    pub fn state(&self, member: usize) -> MemberState {
        let cell = self.cell(member);
        if cell.incarnation.load(Relaxed) == self.members[member].incarnation {
            cell.state()
        } else {
            MemberState(MemberState::STOPPED)
        }
    }

    /// Whether requests may be sent to it now: none of D, S, E, C.
    pub fn is_usable(&self, member: usize) -> bool {
        self.state(member).is_usable()
    }

    /// One round of httpd's pre-request step (apache.md 5.2): forced recovery, the session's
    /// member, else an election. The credits and `elected` are published before it returns.
    pub fn elect(&self, session: Option<&Session>, now_ns: u64) -> Result<Elected, Unelectable> {
        if self.direct && !self.members.is_empty() {
            self.retry_if_due(0, now_ns);
            return if self.is_usable(0) {
                Ok(Elected {
                    member: 0,
                    route_changed: false,
                })
            } else {
                Err(Unelectable::DirectDown(self.name.clone()))
            };
        }
        let _election = self.lock();
        self.force_recovery(now_ns);
        if let Some(session) = session {
            if let Some(member) = self.find_route(&session.route, now_ns) {
                self.credit_session(member);
                return Ok(Elected {
                    member,
                    route_changed: self.members[member].route.as_bytes() != session.route,
                });
            }
            if self.nofailover && self.knows_route(&session.route) {
                return Err(Unelectable::RouteDown(
                    self.name.clone(),
                    String::from_utf8_lossy(&session.route).into_owned(),
                ));
            }
        }
        let member = match self.lbmethod {
            spec::LbMethod::ByRequests => lbmethod::byrequests::elect(self, now_ns),
            spec::LbMethod::ByTraffic => lbmethod::bytraffic::elect(self, now_ns),
            spec::LbMethod::ByBusyness => lbmethod::bybusyness::elect(self, now_ns),
        };
        match member {
            Some(member) => {
                self.cell(member).elected.fetch_add(1, Relaxed);
                Ok(Elected {
                    member,
                    route_changed: self.sticky.is_some(),
                })
            }
            None if self.members.is_empty() => Err(Unelectable::NoMembers(self.name.clone())),
            None => Err(Unelectable::NoneUsable(self.name.clone())),
        }
    }

    /// What a session hit does to the credits: every usable member (H, R and N too) gains its
    /// weight and the one taken pays for all.
    fn credit_session(&self, taken: usize) {
        let mut total = 0;
        for member in 0..self.members.len() {
            if self.is_usable(member) {
                total += self.gain(member);
            }
        }
        self.pay(taken, total);
        self.cell(taken).elected.fetch_add(1, Relaxed);
    }

    /// Adds the member's weight to its credit; returns the weight. Under the election lock.
    fn gain(&self, member: usize) -> i64 {
        let cell = self.cell(member);
        let weight = i64::from(cell.weight.load(Relaxed));
        let credit = cell.lbstatus.load(Relaxed).wrapping_add(weight);
        cell.lbstatus.store(credit, Relaxed);
        weight
    }

    /// Takes the weights of all candidates from the credit of the one elected. Under the lock.
    fn pay(&self, member: usize, total: i64) {
        let cell = self.cell(member);
        let credit = cell.lbstatus.load(Relaxed).wrapping_sub(total);
        cell.lbstatus.store(credit, Relaxed);
    }

    /// Requests in flight on the member, all proxy processes together.
    fn busy(&self, member: usize) -> u64 {
        self.table.busy_sum(self.members[member].id)
    }

    /// The lock is in this process's memory and guards no data of its own, so a shard that
    /// panicked under it leaves nothing worse than one credit round unfinished.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
