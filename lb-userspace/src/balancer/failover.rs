//! When a member goes into error, when it may come back, and whether a request may try another
//! (apache.md 5.5).

use std::sync::atomic::Ordering::Relaxed;

use lb_common::member::MemberState;
use tracing::{debug, error};

use super::Balancer;

/// Target of the events: httpd's `proxy` modules in one.
const LOG: &str = "sluice::proxy";

/// Why a member is to be put into error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection could not be made: AH00959.
    Connect,
    /// The forwarding step ended in 503 (pool exhausted) or 500: members of balancers only.
    Forward,
    /// `failonstatus`: AH01174.
    Status(u16),
    /// `failontimeout`: AH02460.
    Timeout,
    /// `ejectmax`: too many of its answers were failures.
    Outlier,
}

/// How one attempt to forward ended, as far as another attempt depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The member was not reached (503 if nobody else is tried): another may be.
    Unreached,
    /// The member may have seen the request, or answered: the client gets what there is.
    Final,
}

/// Counts the attempts of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts(u32);

/// What to do after a member took a connection and gave no response line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    /// Send the request again, on a fresh connection to the same member.
    Replay,
    /// Answer 502.
    BadGateway,
    /// Close the client's connection without a word, so that it tries again by itself; with
    /// `true` the member goes into error.
    CloseClient(bool),
}

/// A response that never began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// GET or HEAD on a reused connection with zero bytes of response, not replayed yet.
    pub replayable: bool,
    /// The client's connection carried a request before this one.
    pub client_reused: bool,
    /// So did the member's.
    pub member_reused: bool,
    /// The member did not close, it kept silent for too long.
    pub timed_out: bool,
}

impl Silence {
    /// Decides what follows (apache.md 6.5; the replay is ours).
    pub const fn consequence(self) -> NoResponse {
        if self.timed_out {
            NoResponse::BadGateway
        } else if self.replayable {
            NoResponse::Replay
        } else if self.client_reused {
            // A member's connection that served before may just have been closed by its idle
            // timer; a fresh one that says nothing is suspicious.
            NoResponse::CloseClient(!self.member_reused)
        } else {
            NoResponse::BadGateway
        }
    }
}

impl Balancer {
    /// Clears E when the time has come, or at once for a member with I. Returns whether it did.
    pub fn retry_if_due(&self, member: usize, now_ns: u64) -> bool {
        let state = self.state(member);
        if !state.has(MemberState::ERROR) || state.has(MemberState::STOPPED) {
            return false;
        }
        let cell = self.cell(member);
        let since = cell.error_since.load(Relaxed);
        let due = since == 0
            || state.has(MemberState::IGNORE_ERRORS)
            || now_ns > since.saturating_add(self.members[member].retry_ns);
        let url = &self.members[member].url;
        if due {
            cell.retries.fetch_add(1, Relaxed);
            cell.clear_state(MemberState::ERROR);
            debug!(target: LOG, "AH00932: BALANCER: worker for ({url}) has been marked for retry");
        } else {
            debug!(target: LOG, "AH00933: BALANCER: too soon to retry worker for ({url})");
        }
        due
    }

    /// With every member in error, clears E on all of them: a balancer whose members were all
    /// struck at once must not wait out `retry`. A member that is merely disabled prevents it, as
    /// in httpd.
    pub fn force_recovery(&self, now_ns: u64) {
        for member in 0..self.members.len() {
            if !self.state(member).has(MemberState::ERROR) || self.retry_if_due(member, now_ns) {
                return;
            }
        }
        if !self.forcerecovery || self.members.is_empty() {
            return;
        }
        for member in 0..self.members.len() {
            let cell = self.cell(member);
            cell.retries.fetch_add(1, Relaxed);
            cell.clear_state(MemberState::ERROR);
            debug!(
                target: LOG,
                "AH01165: {}: Forcing recovery for worker ({})",
                self.written, self.members[member].url
            );
        }
    }

    /// Puts a member into error, unless it has I. Returns whether it did.
    pub fn put_in_error(&self, member: usize, cause: Cause, now_ns: u64) -> bool {
        if self.direct && cause != Cause::Connect
            || self.state(member).has(MemberState::IGNORE_ERRORS)
            || self.cell(member).incarnation.load(Relaxed) != self.members[member].incarnation
        {
            return false;
        }
        let cell = self.cell(member);
        // The time first: a shard that sees the bit must not find an old time and retry at once.
        // Time 0 would mean "cured at first use".
        cell.error_since.store(now_ns.max(1), Relaxed);
        cell.set_state(MemberState::ERROR);
        let url = &self.members[member].url;
        match cause {
            Cause::Connect => error!(
                target: LOG,
                "AH00959: ap_proxy_connect_backend disabling worker for ({url}) for {}s",
                self.members[member].retry_ns / 1_000_000_000
            ),
            Cause::Status(status) => error!(
                target: LOG,
                "AH01174: balancer://{}: Forcing worker ({url}) into error state due to status \
                 code {status} matching 'failonstatus' balancer parameter",
                self.written
            ),
            Cause::Timeout => error!(
                target: LOG,
                "AH02460: balancer://{}: Forcing worker ({url}) into error state due to timeout \
                 and 'failontimeout' parameter being set",
                self.written
            ),
            Cause::Outlier => error!(
                target: LOG,
                "balancer://{}: worker ({url}) ejected for {}s: too many of its answers were failures",
                self.written,
                self.members[member].retry_ns / 1_000_000_000
            ),
            Cause::Forward => {
                error!(target: LOG, "balancer://{}: worker ({url}) put into error state", self.written);
            }
        }
        true
    }

    /// A connection to the member was made: its error time and retries start over. Reads before it
    /// writes, because this is every request's path and the line is shared by all shards.
    pub fn connected(&self, member: usize) {
        let cell = self.cell(member);
        if cell.error_since.load(Relaxed) != 0 {
            cell.error_since.store(0, Relaxed);
        }
        if cell.retries.load(Relaxed) != 0 {
            cell.retries.store(0, Relaxed);
        }
    }

    /// Whether a request may be tried once more: the member was not reached, it is unusable now
    /// (a member with I never is) and `maxattempts` are not used up.
    pub fn try_another(&self, attempts: &mut Attempts, member: usize, outcome: Outcome) -> bool {
        if self.direct || outcome == Outcome::Final || self.is_usable(member) {
            return false;
        }
        let left = self.maxattempts > attempts.0;
        attempts.0 += 1;
        left
    }
}
