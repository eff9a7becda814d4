//! What sections say of a request, carried out: which policies are for it, variables, access,
//! redirects, fields edited (apache.md 1.3, 3.18, 3.23). The rules themselves are in
//! [`crate::policy`].
//!
//! A host that says nothing has no [`Rules`], and its requests none of this. The order is httpd's:
//! the server's SetEnvIf and `early` edits; the route; sections; their SetEnvIf; access; SetEnv;
//! redirects; RequestHeader. A ProxyPass outside of sections comes before a Redirect there
//! (measured).

use std::{cell::RefCell, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request::Parts};
use tracing::{error, info};

use super::{exchange::Exchange, path, reason::Reason};
use crate::{
    config::spec::{
        Host, Spec, Target,
        policy::{
            AuthMerging, Branch, ErrorDocument, ErrorOverride, From, Handler, LegacyAccess, Order,
            Policy, Redirect,
        },
    },
    pattern,
    policy::{
        access::{Combination, Rule, Verdict},
        environment::{self, Environment},
        fields::{self, FieldEdit, Times},
    },
};

mod asker;
mod cookies;

use asker::Asker;

const LOG: &str = "sluice::proxy";

/// What is worked out for a host with policies.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Something looks at the request when its response is there.
    keeps_request: bool,
}

impl Rules {
    /// Of a host; `None`: nothing is said of its requests.
    pub(crate) fn new(spec: &Spec, host: &Host) -> Option<Self> {
        let sections = host.locations.iter().chain(&host.proxies);
        let mut wanted: Vec<usize> = host.policies.clone();
        wanted.extend(sections.map(|section| section.policy));
        let mut policies = Vec::new();
        while let Some(index) = wanted.pop() {
            let policy = &spec.policies[index];
            wanted.extend(policy.branches.iter().map(|branch| branch.policy));
            policies.push(policy);
        }
        if policies.iter().all(|policy| policy.is_empty()) {
            return None;
        }
        let keeps = |policy: &&Policy| {
            let mut edits = policy.response_fields.iter().chain(&policy.always_fields);
            edits.any(FieldEdit::asks_for_fields)
                || policy
                    .error_documents
                    .iter()
                    .any(|(_, document)| matches!(document, ErrorDocument::Path(_)))
        };
        Some(Self {
            keeps_request: policies.iter().any(keeps),
        })
    }
}

/// A request as its policies know it.
#[derive(Debug)]
pub(crate) struct Ruling {
    /// Its policies in order: indexes into the Spec's.
    layers: Vec<usize>,
    /// How many of them are the server's.
    servers: usize,
    /// Index of the route that takes it.
    pub(crate) route: Option<usize>,
    method: Method,
    target: Uri,
    version: Version,
    /// Decoded.
    path: Vec<u8>,
    environment: RefCell<Environment>,
    /// Its fields as RequestHeader left them, where something may ask for them later.
    fields: HeaderMap,
    begun: SystemTime,
}

/// A request that is answered here.
pub(crate) enum Stop {
    /// With the page of an error, or what ErrorDocument has for it.
    Fail(StatusCode, Reason),
    /// Elsewhere.
    Send(StatusCode, HeaderValue),
    /// With the balancer-manager's page.
    Manager,
}

/// Applies what there is to apply before a request is forwarded. Its [`Ruling`] stays with the
/// exchange, also where it is stopped.
pub(crate) fn rule(exchange: &mut Exchange, parts: &mut Parts) -> Result<(), Stop> {
    let current = std::rc::Rc::clone(&exchange.current);
    let (spec, host) = (&current.plan.spec, exchange.host_spec());
    let mut ruling = Ruling {
        layers: host.policies.clone(),
        servers: host.policies.len(),
        route: None,
        method: parts.method.clone(),
        target: parts.uri.clone(),
        version: parts.version,
        path: Vec::new(),
        environment: RefCell::default(),
        fields: HeaderMap::new(),
        begun: SystemTime::now(),
    };
    // A path that cannot be decoded is refused where it would be routed.
    let verdict = match path::decode(parts.uri.path().as_bytes()) {
        Ok(decoded) => {
            ruling.path = decoded.into_owned();
            ruling.judge(exchange, spec, &mut parts.headers)
        }
        Err(_) => Ok(()),
    };
    let keeps = current.plan.hosts[exchange.host].rules.as_ref();
    if keeps.is_some_and(|rules| rules.keeps_request) {
        ruling.fields.clone_from(&parts.headers);
    }
    exchange.ruling = Some(Box::new(ruling));
    verdict
}

impl Ruling {
    fn judge(
        &mut self,
        exchange: &Exchange,
        spec: &Spec,
        fields: &mut HeaderMap,
    ) -> Result<(), Stop> {
        let host = exchange.host_spec();
        for layer in &self.layers {
            let rules = &spec.policies[*layer].set_env_if;
            environment::apply(rules, &self.environment, &self.asker(exchange, fields));
        }
        self.edit_request(exchange, spec, fields, true);
        if !self.has("no-proxy") {
            self.route = path::find(&host.routes, &self.path);
        }
        let url = self.proxied(spec, host);
        if url.is_none()
            && let Some(stop) = self.redirected(exchange, fields, &self.layers[..self.servers])
        {
            return Err(stop);
        }
        if let Some(url) = url {
            let matching = host.proxies.iter();
            let matching = matching.filter(|section| section.matcher.matches_url(&url));
            self.layers.extend(matching.map(|section| section.policy));
        }
        let matching = host.locations.iter();
        let matching = matching.filter(|section| section.matcher.matches_path(&self.path));
        self.layers.extend(matching.map(|section| section.policy));
        for at in 0..self.layers.len() {
            let branches = &spec.policies[self.layers[at]].branches;
            let chosen = self.choose(exchange, spec, fields, branches);
            self.layers.extend(chosen);
        }
        for layer in &self.layers[self.servers..] {
            let rules = &spec.policies[*layer].set_env_if;
            environment::apply(rules, &self.environment, &self.asker(exchange, fields));
        }
        self.check_access(exchange, spec, fields)?;
        self.set_environment(spec);
        if let Some(stop) = self.redirected(exchange, fields, &self.layers[self.servers..]) {
            return Err(stop);
        }
        self.edit_request(exchange, spec, fields, false);
        match self.last(spec, |policy| policy.handler) {
            None | Some(Handler::None) => Ok(()),
            Some(Handler::BalancerManager) => Err(Stop::Manager),
            Some(Handler::Absent) => Err(Stop::Fail(StatusCode::NOT_FOUND, Reason::NoRoute)),
        }
    }

    /// Policies of the `<If>` sections that hold, those within them behind them.
    fn choose(
        &self,
        exchange: &Exchange,
        spec: &Spec,
        fields: &HeaderMap,
        branches: &[Branch],
    ) -> Vec<usize> {
        let mut chosen = Vec::new();
        let mut done = false;
        for branch in branches {
            if branch.first {
                done = false;
            }
            let holds = !done
                && branch
                    .condition
                    .as_ref()
                    .is_none_or(|condition| condition.holds(&self.asker(exchange, fields)));
            if holds {
                done = true;
                chosen.push(branch.policy);
                let within = &spec.policies[branch.policy].branches;
                chosen.extend(self.choose(exchange, spec, fields, within));
            }
        }
        chosen
    }

    /// The URL that the route leads to, as `<Proxy>` sections see it.
    fn proxied(&self, spec: &Spec, host: &Host) -> Option<Vec<u8>> {
        let route = &host.routes[self.route?];
        let Target::Balancer { balancer, .. } = &route.target else {
            return None;
        };
        if host.proxies.is_empty() {
            return Some(Vec::new());
        }
        let path::Routed::Balancer { path, .. } = path::follow(route, &self.path, &self.path)
        else {
            return None;
        };
        let balancer = &spec.balancers[*balancer];
        let mut url = match (balancer.direct, balancer.members.first()) {
            (true, Some(member)) => {
                // The worker's URL may have a path, which the route's path holds as well.
                let start = member.url.find("://").map_or(0, |at| at + 3);
                let end = member.url[start..]
                    .find('/')
                    .map_or(member.url.len(), |at| start + at);
                member.url[..end].to_owned().into_bytes()
            }
            _ => format!("balancer://{}", balancer.name).into_bytes(),
        };
        url.extend_from_slice(&path);
        Some(url)
    }

    fn asker<'r>(&'r self, exchange: &'r Exchange, fields: &'r HeaderMap) -> Asker<'r> {
        Asker {
            exchange,
            ruling: self,
            fields,
            response: None,
        }
    }

    fn policies<'s>(&self, spec: &'s Spec) -> impl DoubleEndedIterator<Item = &'s Policy> {
        self.layers.iter().map(|layer| &spec.policies[*layer])
    }

    /// What the last policy that says anything says.
    fn last<'s, T>(&self, spec: &'s Spec, said: impl Fn(&'s Policy) -> Option<T>) -> Option<T> {
        self.policies(spec).rev().find_map(said)
    }

    /// Whether a variable is set.
    pub(crate) fn has(&self, variable: &str) -> bool {
        let environment = self.environment.borrow();
        environment.value(variable.as_bytes()).is_some()
    }

    /// Names and values of its variables.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let environment = self.environment.borrow();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        environment
            .iter()
            .map(|(name, value)| (name.to_owned(), text(value)))
            .collect()
    }

    fn check_access(
        &self,
        exchange: &Exchange,
        spec: &Spec,
        fields: &HeaderMap,
    ) -> Result<(), Stop> {
        let asker = self.asker(exchange, fields);
        let here = exchange.client.local.ip();
        let uri = String::from_utf8_lossy(&self.path);
        let refused = |id: &str| {
            error!(
                target: LOG,
                reason = Reason::AccessDenied.name(),
                "[client {}] {id}: client denied by server configuration: {uri}",
                exchange.client.peer
            );
            Err(Stop::Fail(StatusCode::FORBIDDEN, Reason::AccessDenied))
        };
        if let Some(legacy) = self.last(spec, |policy| policy.legacy.as_ref())
            && !legacy_allows(legacy, &asker, here)
        {
            return refused("AH01797");
        }
        let mut verdict = Verdict::Granted;
        for policy in self.policies(spec) {
            let Some(rule) = &policy.access else { continue };
            let own = rule.verdict(&asker, here);
            verdict = match policy.auth_merging {
                AuthMerging::Off => own,
                AuthMerging::And => Combination::All.of(verdict, own),
                AuthMerging::Or => Combination::Any.of(verdict, own),
            };
        }
        match verdict {
            Verdict::Granted => Ok(()),
            Verdict::Denied | Verdict::Neutral => refused("AH01630"),
        }
    }

    /// SetEnv, PassEnv and UnsetEnv: what SetEnvIf set stays as it is.
    fn set_environment(&self, spec: &Spec) {
        let mut variables: Vec<(&str, &str)> = Vec::new();
        for policy in self.policies(spec) {
            variables.extend(
                policy
                    .set_env
                    .iter()
                    .map(|(name, value)| (&name[..], &value[..])),
            );
            variables.retain(|(name, _)| {
                let mut unset = policy.unset_env.iter();
                !unset.any(|gone| gone.eq_ignore_ascii_case(name))
            });
        }
        let mut environment = self.environment.borrow_mut();
        let known = environment.clone();
        for (name, value) in variables {
            if known.value(name.as_bytes()).is_none() {
                environment.set(name, value.as_bytes().to_vec());
            }
        }
    }

    /// The first Redirect that is for the request; those of later layers come first.
    fn redirected(
        &self,
        exchange: &Exchange,
        fields: &HeaderMap,
        layers: &[usize],
    ) -> Option<Stop> {
        let policies = &exchange.current.plan.spec.policies;
        let mut redirects = layers
            .iter()
            .rev()
            .flat_map(|layer| &policies[*layer].redirects);
        let (status, to) = redirects.find_map(|redirect| self.redirect(redirect))?;
        if !status.is_redirection() {
            return Some(Stop::Fail(status, Reason::Redirected));
        }
        let mut place = Vec::new();
        if to.first() == Some(&b'/') {
            let scheme = if exchange.client.tls.is_some() {
                "https"
            } else {
                "http"
            };
            place.extend_from_slice(scheme.as_bytes());
            place.extend_from_slice(b"://");
            let host = fields.get(http::header::HOST).map(HeaderValue::as_bytes);
            place.extend_from_slice(host.unwrap_or(exchange.host().name.as_bytes()));
        }
        place.extend_from_slice(&to);
        // What no field can hold is no place to send anybody.
        let place = HeaderValue::from_bytes(&place).ok()?;
        Some(Stop::Send(status, place))
    }

    /// Status and place of a Redirect that is for the request.
    fn redirect(&self, redirect: &Redirect) -> Option<(StatusCode, Vec<u8>)> {
        let path = &self.path[..];
        let status = StatusCode::from_u16(redirect.status).ok()?;
        let mut to = match &redirect.from {
            From::Everything => redirect.to.clone().into_bytes(),
            From::Prefix(prefix) => {
                let matched = path::match_prefix(path, prefix.as_bytes())?;
                let mut to = redirect.to.clone().into_bytes();
                to.extend_from_slice(&path::encode(&path[matched..]));
                to
            }
            From::Pattern(pattern) => {
                let captures = pattern.captures(path)?;
                let to = pattern::substitute(redirect.to.as_bytes(), path, &captures);
                encode_place(&to)
            }
        };
        if let Some(query) = self.target.query()
            && !to.contains(&b'?')
        {
            to.push(b'?');
            to.extend_from_slice(query.as_bytes());
        }
        Some((status, to))
    }

    fn times(&self) -> Times {
        let micros =
            |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let received = self.begun.duration_since(SystemTime::UNIX_EPOCH);
        Times {
            received_us: micros(received.unwrap_or_default()),
            elapsed_us: micros(self.begun.elapsed().unwrap_or_default()),
        }
    }

    fn edit_request(&self, exchange: &Exchange, spec: &Spec, fields: &mut HeaderMap, early: bool) {
        for policy in self.policies(spec) {
            for edit in &policy.request_fields {
                let before = kept(edit, fields);
                let asker = self.asker(exchange, &before);
                fields::apply([edit], fields, &before, &asker, self.times(), early);
            }
        }
    }

    /// Whether members get the client's Host; `None`: as the host says.
    fn flag(&self, spec: &Spec, said: impl Fn(&Policy) -> Option<bool>) -> Option<bool> {
        self.last(spec, said)
    }
}

/// `ProxyPreserveHost`.
pub(crate) fn preserves_host(exchange: &Exchange) -> bool {
    let host = exchange.host_spec().preserve_host;
    exchange.ruling.as_ref().map_or(host, |ruling| {
        let said = ruling.flag(&exchange.current.plan.spec, |policy| policy.preserve_host);
        said.unwrap_or(host)
    })
}

/// `ProxyAddHeaders`.
pub(crate) fn adds_fields(exchange: &Exchange) -> bool {
    let host = exchange.host_spec().add_headers;
    exchange.ruling.as_ref().map_or(host, |ruling| {
        let said = ruling.flag(&exchange.current.plan.spec, |policy| policy.add_headers);
        said.unwrap_or(host)
    })
}

/// Whether a member's response of this status is replaced by an error of our own.
pub(crate) fn overrides(exchange: &Exchange, status: StatusCode) -> bool {
    let Some(ruling) = &exchange.ruling else {
        return false;
    };
    let said = ruling.last(&exchange.current.plan.spec, |policy| {
        policy.error_override.as_ref()
    });
    match said {
        None | Some(ErrorOverride::Off) => false,
        Some(ErrorOverride::On) => status.is_client_error() || status.is_server_error(),
        Some(ErrorOverride::Codes(codes)) => codes.contains(&status.as_u16()),
    }
}

/// What takes the place of the page of an error.
pub(crate) fn error_document(exchange: &Exchange, status: StatusCode) -> Option<ErrorDocument> {
    let ruling = exchange.ruling.as_ref()?;
    let said = ruling.last(&exchange.current.plan.spec, |policy| {
        let documents = &policy.error_documents;
        let own = documents.iter().find(|(of, _)| *of == status.as_u16());
        own.map(|(_, document)| document)
    });
    said.filter(|document| **document != ErrorDocument::Default)
        .cloned()
}

/// A GET of `path` for a request that failed with `status`: what `ErrorDocument` with a path asks
/// for. `None`: the path is none.
pub(crate) fn subrequest(exchange: &Exchange, path: &str) -> Option<Parts> {
    let ruling = exchange.ruling.as_ref()?;
    let mut request = http::Request::new(());
    *request.uri_mut() = path.parse().ok()?;
    *request.headers_mut() = ruling.fields.clone();
    *request.version_mut() = ruling.version;
    let fields = request.headers_mut();
    // The body was the first request's.
    fields.remove(http::header::TRANSFER_ENCODING);
    fields.remove(http::header::EXPECT);
    if ruling.method == Method::HEAD {
        *request.method_mut() = Method::HEAD;
    }
    Some(request.into_parts().0)
}

/// Rewrites cookies and edits the fields of a member's response.
pub(crate) fn edit_response(exchange: &Exchange, status: StatusCode, fields: &mut HeaderMap) {
    let Some(ruling) = &exchange.ruling else {
        return;
    };
    let spec = &exchange.current.plan.spec;
    cookies::rewrite(ruling.policies(spec), fields);
    let framing = [
        http::header::CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
    ]
    .map(|name| (fields.get(&name).cloned(), name));
    let mut always = HeaderMap::new();
    edit(exchange, ruling, status, &mut always, true);
    edit(exchange, ruling, status, fields, false);
    for (value, name) in framing {
        // What the body's end is told by is nobody's to edit.
        match value {
            Some(value) => drop(fields.insert(name.clone(), value)),
            None => drop(fields.remove(&name)),
        }
        always.remove(&name);
    }
    prepend(fields, always);
}

/// Edits the fields of an answer of our own: `Header always` alone.
pub(crate) fn edit_own(exchange: &Exchange, status: StatusCode, fields: &mut HeaderMap) {
    let Some(ruling) = &exchange.ruling else {
        return;
    };
    let mut always = HeaderMap::new();
    edit(exchange, ruling, status, &mut always, true);
    for name in [
        http::header::CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
    ] {
        always.remove(name);
    }
    prepend(fields, always);
}

/// Puts the fields of the other table before those of this one, as httpd sends them.
fn prepend(fields: &mut HeaderMap, always: HeaderMap) {
    if always.is_empty() {
        return;
    }
    let behind = std::mem::replace(fields, always);
    let mut name: Option<HeaderName> = None;
    for (next, value) in behind {
        name = next.or(name);
        if let Some(name) = &name {
            fields.append(name.clone(), value);
        }
    }
}

fn edit(
    exchange: &Exchange,
    ruling: &Ruling,
    status: StatusCode,
    fields: &mut HeaderMap,
    always: bool,
) {
    for policy in ruling.policies(&exchange.current.plan.spec) {
        let edits = if always {
            &policy.always_fields
        } else {
            &policy.response_fields
        };
        for edit in edits {
            let before = kept(edit, fields);
            let asker = Asker {
                exchange,
                ruling,
                fields: &ruling.fields,
                response: Some((status, &before)),
            };
            fields::apply(
                [edit],
                fields,
                &ruling.fields,
                &asker,
                ruling.times(),
                false,
            );
        }
    }
}

/// The fields as an edit may want to look at them while it changes them.
fn kept(edit: &FieldEdit, fields: &HeaderMap) -> HeaderMap {
    if edit.asks_for_fields() {
        fields.clone()
    } else {
        HeaderMap::new()
    }
}

fn legacy_allows(legacy: &LegacyAccess, asker: &Asker<'_>, here: std::net::IpAddr) -> bool {
    let any = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(asker, here));
    match legacy.order {
        Order::DenyAllow => any(&legacy.allow) || !any(&legacy.deny),
        Order::AllowDeny => any(&legacy.allow) && !any(&legacy.deny),
    }
}

/// Encodes what cannot stand in a Location field; what a pattern's target has of `?`, `%` and the
/// like stays.
fn encode_place(place: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(place.len());
    for &byte in place {
        if byte <= b' ' || byte >= 0x7f || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')
        {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

/// Says that a request was sent elsewhere.
pub(crate) fn say_sent(exchange: &Exchange, place: &HeaderValue) {
    info!(
        target: LOG,
        "[client {}] redirected to {}", exchange.client.peer, String::from_utf8_lossy(place.as_bytes())
    );
}
