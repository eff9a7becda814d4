//! `sluice route`: a request that is only thought of, and where it would go.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteQuestion {
    /// Method.
    pub method: String,
    /// Absolute: `http://` or `https://`.
    pub url: String,
    /// Fields, name and value, in order.
    pub fields: Vec<(String, String)>,
    /// The client; `None`: this host.
    pub client: Option<IpAddr>,
    /// The address that it connects to; `None`: the first listener of the URL's port.
    pub local: Option<SocketAddr>,
}

/// Where it would go, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// What was decided, in order.
    pub steps: Vec<RouteStep>,
    /// `member`, `balancer-manager`, `redirect`, `error` or `unheard` (nothing listens there).
    pub verdict: String,
    /// Status of an answer of sluice's own.
    pub status: Option<u16>,
    /// Why, as docs/reasons.md has it.
    pub reason: Option<String>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Balancer's name; a direct worker's URL.
    pub balancer: Option<String>,
    /// Route of the request's session.
    pub session: Option<String>,
    /// Members of the balancer.
    pub candidates: Vec<CandidateView>,
    /// URL of the member that would be elected.
    pub elected: Option<String>,
    /// URL that it would be asked for.
    pub target: Option<String>,
    /// Whether members' states are those of a running daemon; else those that the file begins with.
    pub live: bool,
}

/// One decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStep {
    /// Of what: a directive, mostly.
    pub what: String,
    /// For a person.
    pub text: String,
    /// `FILE:LINE` of the directive, where it is known.
    pub at: Option<String>,
}

/// One member of the balancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CandidateView {
    /// URL.
    pub url: String,
    /// Route; may be empty.
    pub route: String,
    /// Letters of its state.
    pub state: Vec<char>,
    /// lbset.
    pub lbset: u8,
    /// Load factor.
    pub lbfactor: f64,
    /// lbstatus before the election.
    pub lbstatus: i64,
    /// Requests in flight.
    pub busy: u64,
    /// Whether it would be elected.
    pub elected: bool,
    /// Why, or why not.
    pub why: String,
}
