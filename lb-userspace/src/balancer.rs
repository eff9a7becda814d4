//! Balancers: who takes the next request.
//!
//! Pure: time and the member table are arguments, nothing here waits or does I/O. State bits,
//! weights, sets and credits are read from and written to the shared member table, so that packets,
//! `sluice status` and every shard see one truth. Connections and retries of whole requests are the
//! proxy's; what they mean for a member is decided in [`failover`].

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use lb_common::member::{MemberId, MemberState};

use crate::{
    config::spec,
    dataplane::{sys::MemberCell, table::MemberTable},
};

pub mod budget;
pub mod failover;
pub mod feedback;
pub mod heartbeat;
pub mod lbmethod;
pub mod outlier;
pub mod rampup;
pub mod sticky;

#[cfg(test)]
mod tests;

use budget::Budget;
use heartbeat::Heartbeats;
use lbmethod::{hash, leastlatency::Latency};
use outlier::Record;
use rampup::Ramp;
use sticky::Session;

/// One balancer of one generation.
pub struct Balancer {
    /// Name without `balancer://`; a direct worker's URL.
    pub name: String,
    /// The same for messages and variables: as the configuration writes it.
    pub written: String,
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
    /// `retrybudget`, percent.
    retry_budget: Option<u32>,
    /// `ejectmax`, percent.
    eject_max: Option<u32>,
    members: Vec<Member>,
    /// Parallel to `members`.
    seats: Box<[Seat]>,
    /// Parallel to `members`.
    memories: Vec<Arc<Memory>>,
    table: Arc<MemberTable>,
    election: Arc<Mutex<()>>,
    budget: Arc<Mutex<Budget>>,
    ring: hash::Ring,
    heartbeats: Option<Arc<Heartbeats>>,
}

/// What every election needs of every member, side by side: with hundreds of members the rest of
/// them would push the table's slots out of the processor's first cache.
#[derive(Clone, Copy, Debug)]
struct Seat {
    id: MemberId,
    incarnation: u32,
    /// It has a `rampup`.
    ramps: bool,
}

impl From<&Member> for Seat {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id,
            incarnation: member.incarnation,
            ramps: member.ramp_ns > 0,
        }
    }
}

/// What an election reads of a member and does not change: a copy, made before the election's lock is
/// taken, so that shards wait for each other no longer than credits take.
#[derive(Clone, Copy, Debug)]
struct Head {
    state: MemberState,
    weight: u32,
    lbset: u8,
}

thread_local! {
    /// Room for the copies of one election.
    static HEADS: Cell<Vec<Head>> = const { Cell::new(Vec::new()) };
}

/// What this process remembers of a member beyond the table, for as long as the member has its slot.
#[derive(Debug, Default)]
struct Memory {
    latency: Latency,
    ramp: Ramp,
    record: Mutex<Record>,
}

/// What an election goes by, beside the balancer's own state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The session that the request carries.
    pub session: Option<&'a Session>,
    /// Hash of what `hashkey` names; [`Balancer::key`].
    pub key: u64,
    /// Kernel monotonic clock, ns.
    pub now_ns: u64,
    /// Another one for each election.
    pub seed: u64,
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
    /// `rampup`, ns; 0: none.
    pub ramp_ns: u64,
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
                    retry_ns: nanoseconds(member.retry),
                    ramp_ns: nanoseconds(member.ramp_up.unwrap_or_default()),
                    url: member.url.clone(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let others = u32::try_from(members.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let memories = members
            .iter()
            .map(|member| match previous {
                None => Arc::default(),
                Some(previous) => previous.memory_of(member).unwrap_or_else(|| {
                    Arc::new(Memory {
                        ramp: Ramp::added(),
                        ..Memory::default()
                    })
                }),
            })
            .collect();
        let balancer = Self {
            name: spec.name.clone(),
            written: spec.written().to_owned(),
            direct: spec.direct,
            sticky: spec.sticky.clone(),
            timeout: spec.timeout,
            failonstatus: spec.failonstatus.clone(),
            failontimeout: spec.failontimeout,
            nofailover: spec.nofailover,
            forcerecovery: spec.forcerecovery,
            maxattempts: spec.maxattempts.unwrap_or(others),
            lbmethod: spec.lbmethod,
            retry_budget: spec.beyond.retry_budget,
            eject_max: spec.beyond.eject_max,
            seats: members.iter().map(Seat::from).collect(),
            members,
            memories,
            election: previous.map_or_else(Arc::default, |balancer| balancer.election.clone()),
            budget: previous.map_or_else(Arc::default, |balancer| balancer.budget.clone()),
            ring: hash::Ring::default(),
            heartbeats: previous.and_then(|balancer| balancer.heartbeats.clone()),
            table,
        };
        if balancer.lbmethod == spec::LbMethod::Hash {
            balancer.ring.prepare(&balancer);
        }
        Ok(balancer)
    }

    /// With what members say of themselves, for `lbmethod=heartbeat`.
    #[must_use]
    pub fn hearing(mut self, heartbeats: &Arc<Heartbeats>) -> Self {
        self.heartbeats = Some(Arc::clone(heartbeats));
        self
    }

    /// Its members, in configuration order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member's slot in the shared table.
    pub fn cell(&self, member: usize) -> &MemberCell {
        self.table
            .cell(self.seats[member].id)
            .expect("ids were checked against the table when the balancer was made")
    }

    /// The member's state; stopped when its slot went to another member meanwhile.
    pub fn state(&self, member: usize) -> MemberState {
        let cell = self.cell(member);
        if cell.incarnation.load(Relaxed) == self.seats[member].incarnation {
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
    pub fn elect(&self, ask: &Ask<'_>) -> Result<Elected, Unelectable> {
        let now_ns = ask.now_ns;
        if self.direct && !self.members.is_empty() {
            self.retry_if_due(0, now_ns);
            return if self.is_usable(0) {
                Ok(Elected {
                    member: 0,
                    route_changed: false,
                })
            } else {
                Err(Unelectable::DirectDown(self.written.clone()))
            };
        }
        let mut heads = HEADS.take();
        if ask.session.is_none() {
            self.read_heads(&mut heads);
        }
        let elected = self.elect_under_lock(ask, &mut heads);
        HEADS.set(heads);
        elected
    }

    /// As [`Self::elect`], for a balancer that has members to choose among. `heads` are read, unless
    /// there is a session, which mostly has no need of them.
    fn elect_under_lock(
        &self,
        ask: &Ask<'_>,
        heads: &mut Vec<Head>,
    ) -> Result<Elected, Unelectable> {
        let now_ns = ask.now_ns;
        let _election = self.lock();
        self.force_recovery(now_ns);
        if let Some(session) = ask.session {
            if let Some(member) = self.find_route(&session.route, now_ns) {
                self.credit_session(member, now_ns);
                return Ok(Elected {
                    member,
                    route_changed: self.members[member].route.as_bytes() != session.route,
                });
            }
            if self.nofailover && self.knows_route(&session.route) {
                return Err(Unelectable::RouteDown(
                    self.written.clone(),
                    String::from_utf8_lossy(&session.route).into_owned(),
                ));
            }
            self.read_heads(heads);
        }
        let member = match self.lbmethod {
            spec::LbMethod::ByRequests => lbmethod::byrequests::elect(self, ask, heads),
            spec::LbMethod::ByTraffic => lbmethod::bytraffic::elect(self, ask, heads),
            spec::LbMethod::ByBusyness => lbmethod::bybusyness::elect(self, ask, heads),
            spec::LbMethod::Heartbeat => lbmethod::heartbeat::elect(self, ask, heads),
            spec::LbMethod::LeastLatency => lbmethod::leastlatency::elect(self, ask, heads),
            spec::LbMethod::Hash => hash::elect(self, ask, heads),
        };
        match member {
            Some(member) => {
                self.cell(member).elected.fetch_add(1, Relaxed);
                Ok(Elected {
                    member,
                    route_changed: self.sticky.is_some(),
                })
            }
            None if self.members.is_empty() => Err(Unelectable::NoMembers(self.written.clone())),
            None => Err(Unelectable::NoneUsable(self.written.clone())),
        }
    }

    /// What a session hit does to the credits: every usable member (H, R and N too) gains its
    /// weight and the one taken pays for all.
    fn credit_session(&self, taken: usize, now_ns: u64) {
        let mut total = 0;
        for member in 0..self.members.len() {
            if self.is_usable(member) {
                let weight = self.cell(member).weight.load(Relaxed);
                total += self.gain(member, weight, now_ns).0;
            }
        }
        self.pay(taken, total);
        self.cell(taken).elected.fetch_add(1, Relaxed);
    }

    /// Copies what an election reads of each member.
    fn read_heads(&self, heads: &mut Vec<Head>) {
        heads.clear();
        heads.extend((0..self.seats.len()).map(|member| {
            let cell = self.cell(member);
            Head {
                state: self.state(member),
                weight: cell.weight.load(Relaxed),
                lbset: cell.lbset(),
            }
        }));
    }

    /// Adds the member's weight, or what `rampup` leaves of it, to its credit; returns what was added
    /// and the credit. Under the election lock.
    fn gain(&self, member: usize, weight: u32, now_ns: u64) -> (i64, i64) {
        let cell = self.cell(member);
        let mut weight = i64::from(weight);
        if self.seats[member].ramps {
            let share = i64::try_from(self.share(member, now_ns)).unwrap_or(i64::MAX);
            weight = (weight * share / 1000).max(1);
        }
        let credit = cell.lbstatus.load(Relaxed).wrapping_add(weight);
        cell.lbstatus.store(credit, Relaxed);
        (weight, credit)
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

    /// `loadfactor` times 100 as it is now.
    fn weight(&self, member: usize) -> u64 {
        u64::from(self.cell(member).weight.load(Relaxed))
    }

    fn memory(&self, member: usize) -> &Memory {
        &self.memories[member]
    }

    fn memory_of(&self, wanted: &Member) -> Option<Arc<Memory>> {
        let is_it =
            |known: &Member| known.id == wanted.id && known.incarnation == wanted.incarnation;
        let at = self.members.iter().position(is_it)?;
        Some(Arc::clone(&self.memories[at]))
    }

    /// An election sees whether a member takes new requests. Under the lock.
    fn see(&self, member: usize, takes: bool, now_ns: u64) {
        if self.seats[member].ramps {
            self.memories[member].ramp.see(takes, now_ns);
        }
    }

    /// What `rampup` leaves of a member's share, in thousandths.
    fn share(&self, member: usize, now_ns: u64) -> u64 {
        match self.members[member].ramp_ns {
            0 => rampup::WHOLE,
            length => self.memories[member].ramp.share(length, now_ns),
        }
    }

    /// URL and weight of each member: what places it in a ring.
    fn placements(&self) -> impl Iterator<Item = (&str, u32)> + Clone {
        self.members.iter().enumerate().map(|(index, member)| {
            let weight = self.cell(index).weight.load(Relaxed);
            (member.url.as_str(), weight)
        })
    }

    /// The lock is in this process's memory and guards no data of its own, so a shard that
    /// panicked under it leaves nothing worse than one credit round unfinished.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.election.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The `which`th number below `count` that a seed gives, evenly enough for counts far below 2^32.
fn draw(seed: u64, which: u64, count: usize) -> usize {
    // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    let mut bits = seed.wrapping_add((which + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let product = u128::from(bits) * count as u128;
    usize::try_from(product >> 64).unwrap_or_default()
}
