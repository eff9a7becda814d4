//! How long what a member's name resolved to holds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Member;

/// `addressttl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressTtl {
    /// As long as the name server says, within bounds.
    #[default]
    Record,
    /// So long, whatever the name server says; at least a second.
    Every(Duration),
    /// -1: for ever, as httpd's default is.
    Forever,
}

impl Member {
    /// The name that has to be resolved; `None`: an address, or a Unix socket.
    pub fn name(&self) -> Option<&str> {
        let named = self.socket.is_none() && self.host.parse::<std::net::IpAddr>().is_err();
        named.then_some(&self.host)
    }
}
