//! `sluice route`: where a request would go, and why. The request path's own code over a request that
//! nobody made: virtual host, sections, rewriting, ProxyPass and session as they are, the election on
//! a copy of the members' states. Nothing is sent, written or counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderName, HeaderValue, Method, Request, Uri, header, request::Parts};

use super::{
    path::{self, Routed},
    policy::{self, Ruling, Scene, Stop},
    reason::Reason,
    vhost,
};
use crate::{
    admin::protocol::{MemberView, RouteQuestion, RouteStep, RouteView},
    config::spec::{self, Host, Listener, Place, Spec, Target, policy::Matcher},
    dataplane::table::monotonic_ns,
    names::clients::{Question, Reply},
};

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    /// Not `http://HOST[:PORT]/PATH`.
    #[error("{0:?} is no http:// or https:// URL")]
    Url(String),
    /// No token.
    #[error("{0:?} is no method")]
    Method(String),
    /// No field.
    #[error("{0:?} cannot be a header field")]
    Field(String),
    /// No memory for a copy of the members.
    #[error("no memory for a copy of the members: {0}")]
    Memory(#[from] std::io::Error),
    /// More members than a table holds.
    #[error(transparent)]
    Members(#[from] crate::balancer::BuildError),
}

/// What is known of a member: `[b][m]` of the configuration; `None`: what the file says.
pub(crate) type States<'a> = &'a dyn Fn(usize, usize) -> Option<MemberView>;

/// Where the request would go. `machine`: this machine's name.
pub(crate) fn explain(
    spec: &Spec,
    states: States<'_>,
    machine: &str,
    question: &RouteQuestion,
) -> Result<RouteView, QuestionError> {
    let asked = Asked::of(question)?;
    let mut view = RouteView::default();
    // Rules log whom they refuse; this one was never there.
    let silent = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silent, || {
        walk(spec, states, machine, question, asked, &mut view).map(|()| view)
    })
}

/// The request as the proxy would have it.
struct Asked {
    parts: Parts,
    name: String,
    port: u16,
    is_tls: bool,
}

impl Asked {
    fn of(question: &RouteQuestion) -> Result<Self, QuestionError> {
        let no_url = || QuestionError::Url(question.url.clone());
        let url: Uri = question.url.parse().map_err(|_| no_url())?;
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(no_url()),
        };
        let authority = url.authority().ok_or_else(no_url)?;
        let method = Method::from_bytes(question.method.as_bytes())
            .map_err(|_| QuestionError::Method(question.method.clone()))?;
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().map_err(|_| no_url())?;
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| no_url())?;
        parts.headers.insert(header::HOST, host);
        for (name, value) in &question.fields {
            let no_field = || QuestionError::Field(format!("{name}: {value}"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| no_field())?;
            let value = HeaderValue::from_str(value).map_err(|_| no_field())?;
            if name == header::HOST {
                parts.headers.insert(name, value);
            } else {
                parts.headers.append(name, value);
            }
        }
        Ok(Self {
            name: authority.host().to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            parts,
            is_tls,
        })
    }
}

/// Where the request comes from and to.
struct Rehearsal<'s> {
    spec: &'s Spec,
    host: &'s Host,
    name: &'s str,
    client: SocketAddr,
    local: SocketAddr,
    is_tls: bool,
}

impl Scene for Rehearsal<'_> {
    fn spec(&self) -> &Spec {
        self.spec
    }

    fn host_spec(&self) -> &Host {
        self.host
    }

    fn host_name(&self) -> &str {
        self.name
    }

    fn peer(&self) -> SocketAddr {
        self.client
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn begun_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn is_tls(&self) -> bool {
        self.is_tls
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.is_tls
            .then(|| ("HTTPS", "on".to_owned()))
            .into_iter()
            .collect()
    }

    fn tls_variable(&self, _: &str) -> Option<String> {
        None
    }

    fn known(&self, question: &Question) -> Option<Reply> {
        // Nothing is asked for a request that nobody made: nobody has a name.
        Some(match question {
            Question::Client(_) => Reply::Client(None),
            Question::Name(_) => Reply::Name(Vec::new()),
        })
    }
}

impl RouteView {
    fn step(&mut self, what: &str, at: Option<&Place>, text: String) {
        self.steps.push(RouteStep {
            what: what.to_owned(),
            text,
            at: at.map(|at| format!("{}:{}", at.file.display(), at.line)),
        });
    }

    fn fail(&mut self, status: u16, reason: Reason) {
        "error".clone_into(&mut self.verdict);
        self.status = Some(status);
        self.reason = Some(reason.name().to_owned());
    }
}

fn walk(
    spec: &Spec,
    states: States<'_>,
    machine: &str,
    question: &RouteQuestion,
    mut asked: Asked,
    view: &mut RouteView,
) -> Result<(), QuestionError> {
    let Some(local) = listen(spec, question, &asked, view) else {
        "unheard".clone_into(&mut view.verdict);
        return Ok(());
    };
    let Some(host) = choose_host(spec, local, &asked, view) else {
        return Ok(());
    };
    if host.tls.is_some() != asked.is_tls {
        let text = if asked.is_tls {
            "this virtual host speaks no TLS: the handshake fails"
        } else {
            "this virtual host speaks TLS: a request in clear is answered with 400"
        };
        view.step("SSLEngine", None, text.to_owned());
        view.fail(400, Reason::BadRequest);
        return Ok(());
    }
    let raw = asked.parts.uri.path().to_owned();
    let decoded = match path::decode_for(&host.routes, raw.as_bytes(), host.encoded_slashes) {
        Ok(decoded) => decoded.into_owned(),
        Err(error) => {
            view.step("path", None, error.to_string());
            view.fail(error.status(), Reason::BadRequest);
            return Ok(());
        }
    };
    let scene = Rehearsal {
        spec,
        host,
        name: host.server_name.as_deref().unwrap_or(machine),
        client: SocketAddr::new(question.client.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0),
        local,
        is_tls: asked.is_tls,
    };
    let mut ruling = None;
    if policy::Rules::new(spec, host).is_some() {
        let (made, verdict) = Ruling::of(&scene, spec, &mut asked.parts);
        say_rules(host, &made, view);
        if let Err(stop) = verdict {
            say_stop(&stop, view);
            return Ok(());
        }
        ruling = Some(made);
    }
    let rewritten = ruling.as_deref().and_then(Ruling::rewritten);
    let decoded = rewritten.map_or(decoded, <[u8]>::to_vec);
    let route = match &ruling {
        None => path::find(&host.routes, &decoded),
        Some(ruling) => ruling.route,
    };
    let proxied = ruling.as_ref().and_then(|ruling| ruling.proxied.as_ref());
    let mapped = path::mapped(&host.routes, raw.as_bytes()).filter(|_| ruling.is_none());
    let routed = match (proxied, route) {
        (None, _) if mapped.is_some() => {
            let (balancer, path) = mapped.map_or_else(Default::default, |mapped| {
                say_route(spec, &host.routes[mapped.route], view);
                (mapped.balancer, mapped.path)
            });
            Routed::Balancer {
                balancer,
                path: path.into(),
            }
        }
        (Some(proxied), _) => {
            match proxied.route {
                Some(route) => say_route(spec, &host.routes[route], view),
                None => view.step("RewriteRule", None, "[P]: goes to a member".to_owned()),
            }
            Routed::Balancer {
                balancer: proxied.balancer,
                path: proxied.path.clone().into(),
            }
        }
        (None, Some(route)) => {
            say_route(spec, &host.routes[route], view);
            path::follow(
                &host.routes[route],
                raw.as_bytes(),
                &decoded,
                host.encoded_slashes,
            )
        }
        (None, None) => Routed::Local,
    };
    let Routed::Balancer { balancer, path } = routed else {
        if route.is_none() {
            let text = format!("none of {} takes the path", host.routes.len());
            view.step("ProxyPass", None, text);
        }
        view.fail(404, Reason::NoRoute);
        return Ok(());
    };
    let path = String::from_utf8_lossy(&path).into_owned();
    let request = (scene.client.ip(), &asked.parts);
    election::elect(spec, states, balancer, &path, request, view)
}

/// The listener that gets the connection, and our address on it.
fn listen(
    spec: &Spec,
    question: &RouteQuestion,
    asked: &Asked,
    view: &mut RouteView,
) -> Option<SocketAddr> {
    let literal: Option<IpAddr> = asked.name.trim_matches(['[', ']']).parse().ok();
    let wanted = question
        .local
        .or_else(|| literal.map(|ip| SocketAddr::new(ip, asked.port)));
    let port = wanted.map_or(asked.port, |local| local.port());
    let takes = |listener: &&Listener| {
        let own = listener.address.ip();
        listener.address.port() == port
            && wanted.is_none_or(|local| {
                let ip = local.ip().to_canonical();
                own.to_canonical() == ip
                    || own.is_unspecified() && (listener.dual || own.is_ipv4() == ip.is_ipv4())
            })
    };
    // One address before all of them, as the kernel has it.
    let mut found: Vec<&Listener> = spec.listeners.iter().filter(takes).collect();
    found.sort_by_key(|listener| wanted.is_some() && listener.address.ip().is_unspecified());
    let Some(listener) = found.first() else {
        let to = wanted.map_or_else(|| format!("port {port}"), |local| local.to_string());
        view.step("Listen", None, format!("nothing listens on {to}"));
        return None;
    };
    let own = listener.address;
    let local = wanted.unwrap_or_else(|| match own.ip() {
        ip if !ip.is_unspecified() => own,
        IpAddr::V6(_) if !listener.dual => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), port)
        }
        _ => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
    });
    view.step(
        "Listen",
        Some(&listener.at),
        format!("{own} takes the connection to {local}"),
    );
    Some(local)
}

/// The virtual host; `None`: the Host value is refused.
fn choose_host<'s>(
    spec: &'s Spec,
    local: SocketAddr,
    asked: &Asked,
    view: &mut RouteView,
) -> Option<&'s Host> {
    let value = asked.parts.headers.get(header::HOST);
    let value = value.map_or(&b""[..], HeaderValue::as_bytes);
    let name = match vhost::normalise(value) {
        Ok(name) => name,
        Err(error) => {
            view.step("Host", None, error.to_string());
            view.fail(400, Reason::BadRequest);
            return None;
        }
    };
    let candidates = vhost::candidates(&spec.hosts, local);
    let index = vhost::select(&spec.hosts, &candidates, name.as_deref());
    let host = &spec.hosts[index];
    let shown = host.server_name.as_deref().unwrap_or("without ServerName");
    let named = name.as_deref().unwrap_or("no name");
    let why = if index == 0 {
        format!("the main server: no virtual host is for {local}")
    } else if host.server_name == name && name.is_some() {
        format!("{shown}, by its ServerName")
    } else if name
        .as_deref()
        .is_some_and(|name| vhost::is_named(host, name))
    {
        format!("{shown}, by a ServerAlias that {named} matches")
    } else if candidates.len() == 1 {
        format!("{shown}, the only one for {local}")
    } else {
        format!(
            "{shown}, the first of {} for {local}: none is named {named}",
            candidates.len()
        )
    };
    view.step("VirtualHost", Some(&host.at), why);
    Some(host)
}

/// What sections and rules said.
fn say_rules(host: &Host, ruling: &Ruling, view: &mut RouteView) {
    for (what, sections) in [("Proxy", &host.proxies), ("Location", &host.locations)] {
        for section in sections {
            if ruling.layers().contains(&section.policy) {
                let text = match &section.matcher {
                    Matcher::Prefix(prefix) => format!("{prefix}: is for it"),
                    Matcher::Wildcard(pattern) => format!("{pattern}: matches"),
                    Matcher::Pattern(pattern) => format!("~ {}: matches", pattern.text()),
                };
                view.step(what, None, text);
            }
        }
    }
    if let Some(path) = ruling.rewritten() {
        let path = String::from_utf8_lossy(path);
        view.step(
            "RewriteRule",
            None,
            format!("the path is {path} from here on"),
        );
    }
    for (name, value) in ruling.variables() {
        view.step("variable", None, format!("{name}={value}"));
    }
}

fn say_stop(stop: &Stop, view: &mut RouteView) {
    match stop {
        Stop::Fail(status, reason) => {
            let text = format!("answered with {status}");
            view.step(reason.name(), None, text);
            view.fail(status.as_u16(), *reason);
        }
        Stop::Send(status, place) => {
            let place = String::from_utf8_lossy(place.as_bytes()).into_owned();
            view.step("Redirect", None, format!("sent to {place} with {status}"));
            "redirect".clone_into(&mut view.verdict);
            view.status = Some(status.as_u16());
            view.location = Some(place);
        }
        Stop::Manager => {
            view.step(
                "SetHandler",
                None,
                "answered with a page of sluice's own".to_owned(),
            );
            "balancer-manager".clone_into(&mut view.verdict);
        }
    }
}

fn say_route(spec: &Spec, route: &spec::Route, view: &mut RouteView) {
    let (what, path) = match &route.pattern {
        Some(pattern) => ("ProxyPassMatch", pattern.text()),
        None => ("ProxyPass", route.path.as_str()),
    };
    let to = match &route.target {
        Target::Local => "!, so no ProxyPass is for it".to_owned(),
        Target::Balancer { balancer, path } => match &spec.balancers[*balancer] {
            balancer if balancer.direct => format!("{} (a worker of its own)", balancer.name),
            balancer => format!("balancer://{}{path}", balancer.name),
        },
    };
    view.step(what, Some(&route.at), format!("{path} leads to {to}"));
}

mod election;
#[cfg(test)]
mod tests;
