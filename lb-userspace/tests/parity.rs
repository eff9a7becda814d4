//! The same configuration and the same requests given to httpd and to sluice: statuses, fields of
//! responses and what the member received must be equal. Needs httpd 2.4; where it is not installed
//! this says so, and fails when CI is set.

#[expect(
    dead_code,
    reason = "written for tests of the server, which use all of it"
)]
#[path = "server/tls/authority.rs"]
mod authority;
#[path = "parity/balancing.rs"]
mod balancing;
#[path = "parity/cast.rs"]
mod cast;
#[path = "parity/checks.rs"]
mod checks;
#[path = "parity/connections.rs"]
mod connections;
#[path = "parity/failover.rs"]
mod failover;
#[path = "parity/framing.rs"]
mod framing;
#[expect(
    dead_code,
    reason = "written for tests of the server, which use all of it"
)]
#[path = "server/harness.rs"]
mod harness;
#[path = "parity/heartbeat.rs"]
mod heartbeat;
#[path = "parity/hosts.rs"]
mod hosts;
#[path = "parity/manager.rs"]
mod manager;
#[path = "parity/members.rs"]
mod members;
#[path = "parity/peers.rs"]
mod peers;
#[path = "parity/policies.rs"]
mod policies;
#[path = "parity/reverse.rs"]
mod reverse;
#[path = "parity/rewriting.rs"]
mod rewriting;
#[path = "parity/sessions.rs"]
mod sessions;
#[path = "parity/stage.rs"]
mod stage;
#[path = "parity/trust.rs"]
mod trust;
