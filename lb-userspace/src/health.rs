//! Health checks of members (mod_proxy_hcheck, apache.md 5.6): what an outcome means for a member
//! is decided here, purely; [`probe`] asks the member; [`checker`] does so again and again. And
//! [`monitor`] takes what members say of themselves (heartbeats).
//!
//! Checks run in the proxy process, which has no privileges to lose to a member's answer. What they
//! find is the member's C bit in the shared table, so requests and packets act on it alike.

use std::time::Duration;

use lb_common::member::MemberState;

use crate::config::spec::Health;

mod checker;
mod monitor;
mod probe;

pub use checker::Checker;
pub use monitor::Monitor;

/// Outcomes of one member's checks, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    passed: u32,
    failed: u32,
}

/// What an outcome changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// C is set: AH03303.
    Disabled,
    /// C and E are cleared: AH03302.
    Enabled,
}

impl Progress {
    /// Counts one outcome for a member in `state`.
    ///
    /// As observed on httpd: what counts while a member is used are its failures, whatever
    /// succeeded between them; while it is not (C or E), its successes, whatever failed between.
    pub fn observe(&mut self, policy: &Health, state: MemberState, passed: bool) -> Option<Change> {
        let out = state.has(MemberState::HEALTH_FAILED | MemberState::ERROR);
        if out == passed {
            let (count, bound, change) = if out {
                (&mut self.passed, policy.passes, Change::Enabled)
            } else {
                (&mut self.failed, policy.fails, Change::Disabled)
            };
            *count += 1;
            if *count >= bound {
                *count = 0;
                return Some(change);
            }
        }
        None
    }
}

/// Whether a member is checked at all in this state: stopped ones are not.
pub fn is_checked(state: MemberState) -> bool {
    !state.has(MemberState::STOPPED)
}

/// The pause before a member's next check: its interval, a tenth more or less by `seed`, so that
/// checks that begin together do not stay together.
pub fn pause(interval: Duration, seed: u64) -> Duration {
    // 0.9 to 1.1 in 256 steps.
    let step = u32::from(seed.to_le_bytes()[0]);
    interval * 9 / 10 + interval * step / (5 * 256)
}

#[cfg(test)]
mod tests;
