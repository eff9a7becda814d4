//! What the balancer-manager may do with a balancer.

use serde::{Deserialize, Serialize};

use super::{Balancer, Sticky};

/// What the balancer-manager may do with a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manage {
    /// Index of the virtual host that defined it, whose page alone shows it; 0: the main server,
    /// whose balancers every page shows.
    pub host: usize,
    /// `growth`: members that may be added.
    pub growth: u32,
    /// Of these, those that were added already.
    pub added: u32,
    /// `nonce`.
    pub nonce: Nonce,
    /// `BalancerPersist`: changes outlive the process.
    pub persist: bool,
    /// How the configuration calls it, where its name had to be made unique.
    #[serde(default)]
    pub written: Option<String>,
    /// Of a balancer without `stickysession`: what it goes by once the manager gives it one. Cookie
    /// and path do not count.
    #[serde(default)]
    pub sticky: Option<Sticky>,
}

/// `nonce`: what a change has to carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nonce {
    /// New at each start of the proxy.
    #[default]
    Random,
    /// As configured.
    Fixed(String),
    /// `None`: nothing can be changed (apache.md 4).
    Off,
}

impl Balancer {
    /// Its name as the configuration writes it, for messages and variables: several virtual hosts may
    /// each have one of this name.
    pub fn written(&self) -> &str {
        self.manage.written.as_ref().unwrap_or(&self.name)
    }
}
