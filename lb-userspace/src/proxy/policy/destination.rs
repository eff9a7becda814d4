//! Where a request goes: by ProxyPass, before its path is decoded (`mapping=`) or after, with variables
//! filled in, or by a rule.

use std::borrow::Cow;

use super::{Ruling, rewriting::Proxied};
use crate::{
    config::spec::{Host, Spec, Target},
    policy::environment::Environment,
    proxy::path,
};

impl Ruling {
    /// The request is for this path from here on, which is encoded: where ProxyPass has a `mapping=`
    /// for it, it is sent on like that.
    pub(super) fn take_path(&mut self, host: &Host, raw: &[u8]) -> Result<(), path::PathError> {
        self.mapped = None;
        match path::mapped(&host.routes, raw) {
            Some(mapped) => {
                self.path = mapped.seen.into();
                self.mapped = Some(Proxied {
                    balancer: mapped.balancer,
                    path: mapped.path,
                    route: Some(mapped.route),
                });
            }
            None => self.path = path::decode(raw, host.encoded_slashes)?[..].into(),
        }
        Ok(())
    }

    /// Fills in the variables of the route's target, where ProxyPass and ProxyPassInterpolateEnv say so.
    pub(super) fn interpolate(&mut self, spec: &Spec, host: &Host) {
        let Some(at) = self.route.filter(|at| host.routes[*at].interpolate) else {
            return;
        };
        let sections = host.locations.iter();
        let sections = sections.filter(|section| section.matcher.matches_path(&self.path));
        let layers = host.policies.iter().copied();
        let mut layers = layers.chain(sections.map(|section| section.policy)).rev();
        if layers.find_map(|layer| spec.policies[layer].interpolate) != Some(true) {
            return;
        }
        let mut route = host.routes[at].clone();
        if let Target::Balancer { path, .. } = &mut route.target {
            *path = filled(path, &self.environment.borrow());
        }
        let raw = self.target.path().as_bytes();
        let raw = if self.rewritten { &self.path[..] } else { raw };
        let routed = path::follow(&route, raw, &self.path, host.encoded_slashes);
        if let path::Routed::Balancer { balancer, path } = routed {
            let path = path.into_owned();
            self.proxied = Some(Proxied {
                balancer,
                path,
                route: Some(at),
            });
        }
    }

    /// A text with the request's variables, where they are to be filled in.
    pub(super) fn filled(&self, text: &str) -> String {
        match &self.interpolated {
            Some(environment) => filled(text, environment),
            None => text.to_owned(),
        }
    }

    /// The balancer that the route leads to, and the encoded path.
    pub(super) fn destination(&self, host: &Host) -> Option<(usize, Cow<'_, [u8]>)> {
        if let Some(proxied) = &self.proxied {
            return Some((proxied.balancer, Cow::Borrowed(&proxied.path[..])));
        }
        let route = &host.routes[self.route?];
        match path::follow(route, &self.path, &self.path, host.encoded_slashes) {
            path::Routed::Balancer { balancer, path } => Some((balancer, path)),
            path::Routed::Local => None,
        }
    }

    /// The URL that the route leads to, as `<Proxy>` sections see it.
    pub(super) fn leads_to(&self, spec: &Spec, host: &Host) -> Option<Vec<u8>> {
        let (balancer, path) = self.destination(host)?;
        if host.proxies.is_empty() {
            return Some(Vec::new());
        }
        let mut url = origin(spec, balancer);
        url.extend_from_slice(&path);
        Some(url)
    }
}

/// A path with variables in the place of `${NAME}`; one that is not set is nothing.
fn filled(path: &str, environment: &Environment) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, (name, after))) = rest
        .split_once("${")
        .and_then(|(before, inner)| Some((before, inner.split_once('}')?)))
    {
        out.push_str(before);
        let value = environment.value(name.as_bytes()).unwrap_or_default();
        out.push_str(&String::from_utf8_lossy(value));
        rest = after;
    }
    out + rest
}

/// Scheme and authority of the URLs that lead to a balancer: its own, or its only worker's.
pub(super) fn origin(spec: &Spec, balancer: usize) -> Vec<u8> {
    let balancer = &spec.balancers[balancer];
    match (balancer.direct, balancer.members.first()) {
        (true, Some(member)) => {
            // The worker's URL may have a path, which the route's path holds as well.
            let start = member.url.find("://").map_or(0, |at| at + 3);
            let end = member.url[start..]
                .find('/')
                .map_or(member.url.len(), |at| start + at);
            member.url[..end].to_owned().into_bytes()
        }
        _ => format!("balancer://{}", balancer.written()).into_bytes(),
    }
}
