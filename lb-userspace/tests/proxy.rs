//! The proxy over real sockets: members are small HTTP servers written here, clients are raw TCP
//! (so that they can send what no library would) and curl.

#[path = "proxy/support.rs"]
mod support;

#[path = "proxy/balancing.rs"]
mod balancing;
#[path = "proxy/beyond.rs"]
mod beyond;
#[path = "proxy/bodies.rs"]
mod bodies;
#[path = "proxy/connections.rs"]
mod connections;
#[path = "proxy/generations.rs"]
mod generations;
#[path = "proxy/h2.rs"]
mod h2;
#[path = "proxy/hosts.rs"]
mod hosts;
#[path = "proxy/messages.rs"]
mod messages;
#[path = "proxy/pooled.rs"]
mod pooled;
#[path = "proxy/sessions.rs"]
mod sessions;
#[path = "proxy/sockets.rs"]
mod sockets;
#[path = "proxy/timeouts.rs"]
mod timeouts;
#[path = "proxy/upgrades.rs"]
mod upgrades;
