//! What httpd has not (keys of DESIGN section 7), and where heartbeats come from.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A balancer's settings that httpd does not know. By default nothing is other than there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beyond {
    /// `hashkey`: what `lbmethod=hash` goes by.
    pub hash_key: HashKey,
    /// `retrybudget`: percent of requests that may be retries, 1..=100; `None`: no bound.
    pub retry_budget: Option<u32>,
    /// `ejectmax`: percent of members that may be out when one is ejected, 1..=100; `None`: nobody is
    /// ejected.
    pub eject_max: Option<u32>,
}

/// `hashkey=`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// The first field of this name; without one the client's address.
    Header(String),
    /// The cookie of this name; without it the client's address.
    Cookie(String),
    /// The path that members are asked for, without its query.
    Path,
}

/// `HeartbeatListen` and `HeartbeatStorage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Where datagrams come in: a group's address, or one of this host's.
    pub listen: Option<SocketAddr>,
    /// The file that is read where there is no `listen`.
    pub storage: Option<PathBuf>,
}
