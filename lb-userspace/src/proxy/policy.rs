//! What sections say of a request, carried out: which policies are for it, variables, access,
//! redirects, fields edited (apache.md 1.3, 3.18, 3.23). The rules themselves are in
//! [`crate::policy`].
//!
//! A host that says nothing has no [`Rules`], and its requests none of this. The order is httpd's:
//! the server's SetEnvIf and `early` edits; RewriteRule; the route; sections; their SetEnvIf; access;
//! their RewriteRule, which may have it all begin anew; SetEnv; redirects; RequestHeader. A ProxyPass outside of sections comes before a Redirect there
//! (measured).

use std::{cell::RefCell, time::SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, request::Parts};
use tracing::error;

use super::{exchange::Exchange, fields::is_looked_at, reason::Reason};
use crate::{
    config::spec::{
        Host, Spec,
        policy::{Branch, ErrorDocument, ErrorOverride, Handler, Policy},
    },
    names::clients::Question,
    policy::{
        environment::{self, Environment},
        fields::{self, FieldEdit, Times},
    },
};

mod access;
mod asker;
mod canonical;
mod cookies;
mod destination;
mod names;
mod redirects;
mod response;
mod rewriting;
mod scene;

use asker::Asker;
pub(crate) use canonical::{Canonically, is_by_name};
pub(crate) use redirects::say_sent;
pub(crate) use response::{edit_own, edit_response, reverses};
pub(crate) use rewriting::Proxied;
use rewriting::Then;
pub(crate) use scene::Scene;

const LOG: &str = "sluice::proxy";

/// How often rules of sections may have a request begin anew: httpd's `LimitInternalRecursion`.
const MOST_ANEW: u32 = 10;

/// What is worked out for a host with policies.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Something looks at the request when its response is there.
    keeps_request: bool,
    /// Names may have to be looked up.
    asks_for_names: bool,
    /// Something may change what a response says of its end, its connection or its server.
    changes_framing: bool,
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
        let changes = |policy: &&Policy| {
            let mut edits = policy.response_fields.iter().chain(&policy.always_fields);
            edits.any(|edit| edit.changes(is_looked_at))
        };
        Some(Self {
            changes_framing: policies.iter().any(changes),
            keeps_request: policies.iter().any(keeps),
            asks_for_names: policies.iter().any(|policy| policy.asks_for_names()),
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
    /// Decoded; what rules made of it.
    path: Vec<u8>,
    /// Rules put something in the path's place.
    rewritten: bool,
    /// As rules left it.
    query: Option<Vec<u8>>,
    /// They changed it.
    requeried: bool,
    /// Where a `[P]` rule sends it.
    pub(crate) proxied: Option<Proxied>,
    /// Where a ProxyPass with `mapping=` sends it, unless it is kept from that.
    mapped: Option<Proxied>,
    /// What rules want every answer to set.
    cookies: Vec<HeaderValue>,
    /// Who answers, as rules say.
    handler: Option<Handler>,
    /// No rule is to be applied any more.
    ended: bool,
    environment: RefCell<Environment>,
    /// What ProxyPassReverse and its kin are filled in with, where ProxyPassInterpolateEnv says so.
    interpolated: Option<Box<Environment>>,
    /// What `Header note` kept.
    notes: RefCell<Environment>,
    /// What of names it would have to know.
    open: RefCell<Vec<Question>>,
    /// Its fields as RequestHeader left them, where something may ask for them later.
    fields: HeaderMap,
    begun: SystemTime,
}

fn texts(list: &Environment) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    list.iter()
        .map(|(name, value)| (name.to_owned(), text(value)))
        .collect()
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
/// exchange, also where it is stopped. Waits for names where its rules ask for such that are not known.
pub(crate) async fn rule(exchange: &mut Exchange, parts: &mut Parts) -> Result<(), Stop> {
    let current = std::rc::Rc::clone(&exchange.current);
    let spec = &current.plan.spec;
    let rules = current.plan.hosts[exchange.host].rules.as_ref();
    let asks_for_names = rules.is_some_and(|rules| rules.asks_for_names);
    let before = asks_for_names.then(|| (parts.headers.clone(), parts.uri.clone()));
    let (mut ruling, mut verdict) = Ruling::of(exchange, spec, parts);
    if let Some(before) = before {
        (ruling, verdict) = Box::pin(names::look_up(
            exchange,
            spec,
            parts,
            before,
            (ruling, verdict),
        ))
        .await;
    }
    if rules.is_some_and(|rules| rules.keeps_request) {
        ruling.fields.clone_from(&parts.headers);
    }
    exchange.ruling = Some(ruling);
    verdict
}

impl Ruling {
    /// What there is to apply to a request before it is forwarded; `parts` are as members get them then.
    pub(crate) fn of(
        scene: &dyn Scene,
        spec: &Spec,
        parts: &mut Parts,
    ) -> (Box<Self>, Result<(), Stop>) {
        let host = scene.host_spec();
        let most = host.policies.len() + host.proxies.len() + host.locations.len();
        let mut layers = Vec::with_capacity(most);
        layers.extend_from_slice(&host.policies);
        // Boxed before it is filled in: it is large.
        let mut ruling = Box::new(Ruling {
            layers,
            servers: host.policies.len(),
            route: None,
            method: parts.method.clone(),
            target: parts.uri.clone(),
            version: parts.version,
            path: Vec::new(),
            rewritten: false,
            query: parts.uri.query().map(|query| query.as_bytes().to_vec()),
            requeried: false,
            proxied: None,
            mapped: None,
            cookies: Vec::new(),
            handler: None,
            ended: false,
            environment: RefCell::default(),
            interpolated: None,
            notes: RefCell::default(),
            open: RefCell::default(),
            fields: HeaderMap::new(),
            begun: SystemTime::now(),
        });
        // A path that cannot be decoded is refused where it would be routed.
        let verdict = match ruling.take_path(host, parts.uri.path().as_bytes()) {
            Ok(()) => {
                let mut verdict = ruling.judge(scene, spec, &mut parts.headers);
                match ruling.requeried(&parts.uri) {
                    Ok(Some(target)) => parts.uri = target,
                    Ok(None) => {}
                    Err(stop) => verdict = Err(stop),
                }
                verdict
            }
            Err(_) => Ok(()),
        };
        (ruling, verdict)
    }

    fn judge(
        &mut self,
        scene: &dyn Scene,
        spec: &Spec,
        fields: &mut HeaderMap,
    ) -> Result<(), Stop> {
        for _ in 0..=MOST_ANEW {
            match self.round(scene, spec, fields)? {
                Then::Anew => self.begin_anew(),
                Then::Route | Then::Done => return Ok(()),
            }
        }
        error!(
            target: LOG,
            reason = Reason::of_status(500).name(),
            "[client {}] AH00124: Request exceeded the limit of {MOST_ANEW} internal redirects: {}",
            scene.peer(),
            self.target.path()
        );
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(Stop::Fail(status, Reason::of_status(status.as_u16())))
    }

    /// Everything but a section's rules may be said anew.
    fn round(
        &mut self,
        scene: &dyn Scene,
        spec: &Spec,
        fields: &mut HeaderMap,
    ) -> Result<Then, Stop> {
        let host = scene.host_spec();
        for layer in &self.layers {
            let rules = &spec.policies[*layer].set_env_if;
            environment::apply(rules, &self.environment, &self.asker(scene, fields));
        }
        self.edit_request(scene, spec, fields, true);
        // As in httpd, what is mapped as it was received sees no rules before its route.
        if !self.has("no-proxy") {
            self.proxied = self.mapped.take();
        }
        let then = if self.proxied.is_some() {
            Then::Done
        } else {
            self.rewrite(scene, spec, host, fields).inspect_err(|_| {
                // `Header always` of the sections is for the answer.
                let sections = host.locations.iter();
                let matching = sections.filter(|section| section.matcher.matches_path(&self.path));
                self.layers.extend(matching.map(|section| section.policy));
            })?
        };
        if then == Then::Route && !self.has("no-proxy") {
            self.route = scene.find_route(&self.path);
            self.interpolate(spec, host);
        }
        let url = self.leads_to(spec, host);
        if then == Then::Route
            && url.is_none()
            && let Some(stop) = self.redirected(scene, fields, &self.layers[..self.servers])
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
            let chosen = self.choose(scene, spec, fields, branches);
            self.layers.extend(chosen);
        }
        for layer in &self.layers[self.servers..] {
            let rules = &spec.policies[*layer].set_env_if;
            environment::apply(rules, &self.environment, &self.asker(scene, fields));
        }
        self.check_access(scene, spec, fields)?;
        if self.rewrite_within(scene, spec, fields)? == Then::Anew {
            return Ok(Then::Anew);
        }
        if self.last(spec, |policy| policy.interpolate) == Some(true) {
            self.interpolated = Some(Box::new(self.environment.borrow().clone()));
        }
        self.set_environment(spec);
        if let Some(stop) = self.redirected(scene, fields, &self.layers[self.servers..]) {
            return Err(stop);
        }
        self.edit_request(scene, spec, fields, false);
        // As in httpd, what a rule says counts more, but not for what goes to a member.
        let said = self.last(spec, |policy| policy.handler);
        let ruled = self.handler.filter(|_| self.destination(host).is_none());
        match ruled.or(said) {
            None | Some(Handler::None) => Ok(Then::Done),
            Some(Handler::BalancerManager) => Err(Stop::Manager),
            Some(Handler::Absent) => Err(Stop::Fail(StatusCode::NOT_FOUND, Reason::NoRoute)),
        }
    }

    /// A rule of a section gave the request another path: what was found out of it counts no more.
    fn begin_anew(&mut self) {
        self.layers.truncate(self.servers);
        self.route = None;
        self.proxied = None;
        self.handler = None;
        let mut environment = Environment::default();
        for (name, value) in self.environment.borrow().iter() {
            environment.set(&format!("REDIRECT_{name}"), value.to_vec());
        }
        self.environment = RefCell::new(environment);
    }

    /// Policies of the `<If>` sections that hold, those within them behind them.
    fn choose(
        &self,
        scene: &dyn Scene,
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
                    .is_none_or(|condition| condition.holds(&self.asker(scene, fields)));
            if holds {
                done = true;
                chosen.push(branch.policy);
                let within = &spec.policies[branch.policy].branches;
                chosen.extend(self.choose(scene, spec, fields, within));
            }
        }
        chosen
    }

    fn asker<'r>(&'r self, scene: &'r dyn Scene, fields: &'r HeaderMap) -> Asker<'r> {
        Asker {
            scene,
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

    /// Indexes of its policies, in order.
    pub(crate) fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The path that ProxyPass goes by, where it is not the one that was asked for.
    pub(crate) fn rewritten(&self) -> Option<&[u8]> {
        self.rewritten.then_some(&self.path[..])
    }

    /// Whether a variable is set.
    pub(crate) fn has(&self, variable: &str) -> bool {
        let environment = self.environment.borrow();
        environment.value(variable.as_bytes()).is_some()
    }

    /// Names and values of its variables.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        texts(&self.environment.borrow())
    }

    /// Likewise of its notes.
    pub(crate) fn notes(&self) -> Vec<(String, String)> {
        texts(&self.notes.borrow())
    }

    /// SetEnv, PassEnv and UnsetEnv: what SetEnvIf set stays as it is.
    fn set_environment(&self, spec: &Spec) {
        if self.policies(spec).all(|policy| policy.set_env.is_empty()) {
            return;
        }
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

    fn times(&self) -> Times {
        let micros =
            |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let received = self.begun.duration_since(SystemTime::UNIX_EPOCH);
        Times {
            received_us: micros(received.unwrap_or_default()),
            elapsed_us: micros(self.begun.elapsed().unwrap_or_default()),
        }
    }

    fn edit_request(&self, scene: &dyn Scene, spec: &Spec, fields: &mut HeaderMap, early: bool) {
        for policy in self.policies(spec) {
            for edit in &policy.request_fields {
                let before = kept(edit, fields);
                let asker = self.asker(scene, &before);
                // Notes are of responses alone.
                drop(fields::apply(
                    [edit],
                    fields,
                    &before,
                    &asker,
                    &|| self.times(),
                    early,
                ));
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

/// `Proxy100Continue`.
pub(crate) fn forwards_expect(exchange: &Exchange) -> bool {
    let host = exchange.host_spec().forwards_expect;
    exchange.ruling.as_ref().map_or(host, |ruling| {
        let spec = &exchange.current.plan.spec;
        let said = ruling.flag(spec, |policy| policy.forwards_expect);
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

/// The fields as an edit may want to look at them while it changes them.
fn kept(edit: &FieldEdit, fields: &HeaderMap) -> HeaderMap {
    if edit.asks_for_fields() {
        fields.clone()
    } else {
        HeaderMap::new()
    }
}
