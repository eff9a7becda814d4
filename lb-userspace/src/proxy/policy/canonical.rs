//! What the server calls itself where it says where it is: `UseCanonicalName` and
//! `UseCanonicalPhysicalPort` (apache.md 1.5).

use std::borrow::Cow;

use http::{HeaderMap, header};

use super::{Ruling, Scene};
use crate::{
    config::spec::Canonical,
    proxy::{client::Asked, exchange::Exchange, vhost},
};

/// The server by name and port, as one request has it.
pub(crate) struct Canonically<'r> {
    name: Cow<'r, str>,
    port: u16,
    is_tls: bool,
}

impl<'r> Canonically<'r> {
    /// For a request, as far as its rules are known by now.
    pub(crate) fn of(exchange: &'r Exchange, asked: Option<&'r Asked>) -> Self {
        let asked = asked.map(|asked| (Cow::Borrowed(&asked.name[..]), asked.port));
        Self::new(exchange, exchange.ruling.as_deref(), asked)
    }

    /// For a request with these fields.
    pub(super) fn by_fields(scene: &'r dyn Scene, ruling: &Ruling, fields: &HeaderMap) -> Self {
        let value = fields.get(header::HOST).map(header::HeaderValue::as_bytes);
        let name = value.and_then(|value| vhost::normalise(value).ok().flatten());
        let port = value.and_then(vhost::port);
        Self::new(scene, Some(ruling), name.map(|name| (name.into(), port)))
    }

    /// `asked`: name and port that the client asked for.
    fn new(
        scene: &'r dyn Scene,
        ruling: Option<&Ruling>,
        asked: Option<(Cow<'r, str>, Option<u16>)>,
    ) -> Self {
        let rules = rules(scene, ruling);
        let is_tls = scene.is_tls();
        let said = scene.host_spec().server_port;
        let own = rules.physical_port.then(|| scene.local().port());
        let (name, asked_port) = asked.unzip();
        let asked_port = asked_port.flatten();
        let port = if rules.by_name {
            said.or(own)
        } else {
            asked_port.or(own).or(said)
        };
        Self {
            name: (name.filter(|_| !rules.by_name)).unwrap_or(scene.host_name().into()),
            port: port.unwrap_or(usual(is_tls)),
            is_tls,
        }
    }

    /// Its name; an IPv6 address is in brackets.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `:PORT`, unless that is the scheme's.
    pub(crate) fn colon_port(&self) -> String {
        if self.port == usual(self.is_tls) {
            return String::new();
        }
        format!(":{}", self.port)
    }

    /// `SCHEME://NAME[:PORT]`
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.name, self.colon_port())
    }
}

/// Whether a request's server goes by its own name alone.
pub(crate) fn is_by_name(exchange: &Exchange) -> bool {
    rules(exchange, exchange.ruling.as_deref()).by_name
}

fn rules(scene: &dyn Scene, ruling: Option<&Ruling>) -> Canonical {
    let host = scene.host_spec().naming.canonical;
    let Some(ruling) = ruling else {
        return host;
    };
    let said = |of: fn(&crate::config::spec::policy::Policy) -> Option<bool>| {
        ruling.flag(scene.spec(), of)
    };
    Canonical {
        by_name: said(|policy| policy.canonical_name).unwrap_or(host.by_name),
        physical_port: said(|policy| policy.physical_port).unwrap_or(host.physical_port),
    }
}

fn usual(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}
