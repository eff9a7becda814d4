//! The whole binary on loopback: two processes, control socket, command line. No root, no kernel
//! maps (`--no-xdp`); what needs them is tested in the `tests` package.

#[path = "server/bad_input.rs"]
mod bad_input;
#[path = "server/control_socket.rs"]
mod control_socket;
#[path = "server/crash.rs"]
mod crash;
#[path = "server/exposition.rs"]
mod exposition;
#[path = "server/harness.rs"]
mod harness;
#[path = "server/heartbeat.rs"]
mod heartbeat;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/logs.rs"]
mod logs;
#[path = "server/manager.rs"]
mod manager;
#[path = "server/members.rs"]
mod members;
#[path = "server/metrics.rs"]
mod metrics;
#[path = "server/reload.rs"]
mod reload;
#[path = "server/steering.rs"]
mod steering;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/upgrade.rs"]
mod upgrade;
#[path = "server/websocket.rs"]
mod websocket;
