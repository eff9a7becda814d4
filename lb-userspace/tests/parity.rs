//! The same configuration and the same requests given to httpd and to sluice: statuses, fields of
//! responses and what the member received must be equal. Needs httpd 2.4; where it is not installed
//! this says so, and fails when CI is set.

#[expect(
    dead_code,
    reason = "written for tests of the server, which use all of it"
)]
#[path = "server/harness.rs"]
mod harness;
#[path = "parity/heartbeat.rs"]
mod heartbeat;
#[path = "parity/peers.rs"]
mod peers;
#[path = "parity/policies.rs"]
mod policies;
#[path = "parity/rewriting.rs"]
mod rewriting;
