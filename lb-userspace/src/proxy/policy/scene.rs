//! What of a request is not in its head, for those who judge it.

use std::net::SocketAddr;

use crate::{
    config::spec::{Host, Spec},
    names::clients::{self, Question, Reply},
    proxy::{exchange::Exchange, path},
};

/// Where a request came from and to: what of it is not in its head.
pub(crate) trait Scene {
    /// The configuration.
    fn spec(&self) -> &Spec;
    /// The virtual host.
    fn host_spec(&self) -> &Host;
    /// The first of its routes that takes a decoded path.
    fn find_route(&self, decoded: &[u8]) -> Option<usize> {
        path::find(&self.host_spec().routes, decoded)
    }
    /// The virtual host's name, or this machine's.
    fn host_name(&self) -> &str;
    /// The client's address.
    fn peer(&self) -> SocketAddr;
    /// Our address on its connection.
    fn local(&self) -> SocketAddr;
    /// When the request came in, ns of CLOCK_MONOTONIC.
    fn begun_ns(&self) -> u64;
    /// Whether the client speaks TLS.
    fn is_tls(&self) -> bool;
    /// Variables beside those that rules set.
    fn environment(&self) -> Vec<(&'static str, String)>;
    /// Those of them that are worked out for who asks.
    fn tls_variable(&self, name: &str) -> Option<String>;
    /// What is known of a name; `None`: it would have to be looked up.
    fn known(&self, question: &Question) -> Option<Reply>;
}

impl Scene for Exchange {
    fn spec(&self) -> &Spec {
        &self.current.plan.spec
    }

    fn find_route(&self, decoded: &[u8]) -> Option<usize> {
        let routes = &Self::host_spec(self).routes;
        self.host().routes.find(routes, decoded)
    }

    fn host_spec(&self) -> &Host {
        Self::host_spec(self)
    }

    fn host_name(&self) -> &str {
        &self.host().name
    }

    fn peer(&self) -> SocketAddr {
        self.client.peer
    }

    fn local(&self) -> SocketAddr {
        self.client.local
    }

    fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    fn is_tls(&self) -> bool {
        self.client.tls.is_some()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        Self::environment(self)
    }

    fn tls_variable(&self, name: &str) -> Option<String> {
        self.client.tls.as_ref()?.variable(name)
    }

    fn known(&self, question: &Question) -> Option<Reply> {
        clients::known(question)
    }
}
