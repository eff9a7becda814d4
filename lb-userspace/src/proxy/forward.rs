//! A request's way through the proxy: virtual host, route, balancer, member, response.

use std::{borrow::Cow, pin::Pin, rc::Rc, time::Instant};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::body::Incoming;
use tracing::{error, info, warn};

use super::{
    body::RequestBody,
    client::{Asked, Client, h2::Stream},
    exchange::{Exchange, Head},
    fields::{self, Direction, MaxForwards, Present},
    gate::Refusal,
    manager,
    page::{self, Detail},
    path::{self, Routed},
    policy::{self, Stop},
    pool::Upstream,
    reason::Reason,
    shard::Shard,
    tls, vhost,
};
use crate::{
    balancer::{Unelectable, failover::Attempts, sticky},
    dataplane::table::monotonic_ns,
    telemetry::error_log,
};

mod attempt;
mod cookie;
mod election;
mod outgoing;
mod response;
mod switch;

use attempt::attempt;
pub(super) use election::key_of;
use election::{elect, hash_key, observe, tries_another};
use outgoing::{Outgoing, add_fields, add_via, target};
use response::{Wishes, error_page, instead, own, relay};
pub(crate) use switch::Reply;

const LOG: &str = "sluice::proxy";

/// httpd's words to who forgot the s of https.
const PLAIN_HTTP: &str = "You're speaking plain HTTP to an SSL-enabled server port. Instead use the HTTPS scheme to access this URL, please.";

/// The client's connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Abort {
    /// So that the client sends the request again by itself (apache.md 6.5).
    #[error("the member closed a connection that was in use; closing the client's")]
    Silent,
    /// No generation yet: nothing is configured.
    #[error("no configuration")]
    Unconfigured,
}

/// An error page in the making.
struct Failure {
    status: StatusCode,
    /// For the page.
    detail: Detail<'static>,
    /// For logs and metrics; `None`: what the status says.
    reason: Option<Reason>,
}

impl Failure {
    const fn plain(status: StatusCode) -> Self {
        Self {
            status,
            detail: Detail::Plain,
            reason: None,
        }
    }

    const fn proxy(status: StatusCode, cause: &'static str) -> Self {
        Self {
            status,
            detail: Detail::Proxy(cause),
            reason: None,
        }
    }

    /// With its reason.
    const fn because(self, reason: Reason) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }
}

/// The head of a member's response, and the connection that its body comes over.
type Answered = (Response<()>, Box<Upstream>);

/// How a request that was given to a member ended without a response.
enum Attempt {
    /// Try another member, if there is one; else answer this.
    Unreached(Failure),
    /// Answer this.
    Failed(Failure),
    /// Close the client's connection.
    Abort,
}

/// Answers one request. Every error becomes a page; only a connection that has to be closed without
/// an answer is an `Err`.
///
/// What is logged during its turns is logged as the request's.
pub(crate) fn answer(
    shard: Rc<Shard>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Reply>, Abort>> {
    // Room first: what is made before there is room for it is copied into it, most of it unset.
    let room = Box::new_uninit();
    let inner = Box::write(room, respond(shard, client, None, request));
    logged(Box::into_pin(inner))
}

/// Answers one request of an HTTP/2 connection, as [`answer`] does.
pub(crate) fn answer_stream(
    shard: Rc<Shard>,
    client: Rc<Client>,
    stream: Rc<Stream>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Reply>, Abort>> {
    let room = Box::new_uninit();
    let inner = Box::write(room, respond(shard, client, Some(stream), request));
    logged(Box::into_pin(inner))
}

/// Boxed by the caller: hyper moves what the service returns several times.
fn logged<F: Future>(mut inner: Pin<Box<F>>) -> impl Future<Output = F::Output> {
    let mut log = error_log::Request::default();
    std::future::poll_fn(move |cx| {
        let before = error_log::enter(log);
        let polled = inner.as_mut().poll(cx);
        log = error_log::enter(before);
        polled
    })
}

async fn respond(
    shard: Rc<Shard>,
    client: Rc<Client>,
    stream: Option<Rc<Stream>>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Abort> {
    let current = shard.current().ok_or(Abort::Unconfigured)?;
    let (mut parts, body) = request.into_parts();
    let refusal = match &stream {
        None => client.take_refusal(),
        Some(stream) => stream.admit(&mut parts).err(),
    };
    let spec = &current.plan.spec;

    let asked = match &refusal {
        None => asked_host(&shard, &client, &parts),
        Some(_) => Ok(None),
    };
    let candidates = client.candidates(current.plan.number, || current.candidates(client.local));
    let name = match &asked {
        Ok(Some(asked)) => Some(asked.name.as_str()),
        _ => None,
    };
    let host = current.plan.names.select(&spec.hosts, &candidates, name);
    let head = Head {
        method: &parts.method,
        target: &parts.uri,
        version: parts.version,
        fields: &parts.headers,
        refused: refusal.is_some() && stream.is_none(),
    };
    // Boxed: it travels on with the response, through hyper's hands.
    let mut exchange = Box::new(Exchange::new(
        Rc::clone(&client),
        stream,
        Rc::clone(&shard),
        Rc::clone(&current),
        host,
        name,
        &head,
    ));
    let host = exchange.host_spec();
    client.head_timeout.set(host.header_timeout);
    client.body_timeout.set(host.body_timeout);
    client.idle_timeout.set(host.keep_alive_timeout);
    client.io_timeout.set(host.timeout);
    if let Some(stream) = &exchange.stream {
        let patience = host.protocols.stream_timeout;
        stream.set_patience(patience.unwrap_or(host.timeout));
    }

    let early = if let Some(refusal) = refusal {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let reason = match refusal {
            Refusal::Timeout => Reason::HeaderTimeout,
            _ => Reason::of_status(refusal.status()),
        };
        if reason == Reason::HeaderTimeout {
            // Idle browsers do it all day: httpd's level.
            info!(target: LOG, reason = reason.name(), "[client {}] {refusal}", client.peer);
        } else {
            warn!(
                target: LOG,
                reason = reason.name(),
                "[client {}] request refused: {refusal}", client.peer
            );
        }
        Some(Failure {
            status,
            detail: match refusal {
                Refusal::PlainHttp => Detail::Reason(PLAIN_HTTP),
                _ => Detail::Plain,
            },
            reason: Some(reason),
        })
    } else if let Err(bad) = &asked {
        warn!(
            target: LOG,
            reason = Reason::BadRequest.name(),
            "[client {}] {bad}", client.peer
        );
        Some(Failure::plain(StatusCode::BAD_REQUEST))
    } else if !tls::may_carry(&current.plan, &client, &candidates, exchange.host) {
        warn!(
            target: LOG,
            "[client {}] AH02032: hostname {} provided via SNI and hostname {} provided via HTTP have no compatible TLS setup",
            client.peer,
            client.sni().unwrap_or("(none)"),
            name.unwrap_or("(none)"),
        );
        Some(Failure::plain(StatusCode::MISDIRECTED_REQUEST))
    } else if tls::lacks_name(&current.plan, &client, &candidates, exchange.host) {
        let reason = Reason::AccessDenied;
        info!(
            target: LOG,
            reason = reason.name(),
            "[client {}] AH02033: No hostname was provided via SNI for a name based virtual host", client.peer
        );
        Some(Failure::plain(StatusCode::FORBIDDEN).because(reason))
    } else if spec.hosts[candidates[0]].naming.strict_host
        && let Some(name) = name
        && !vhost::is_asked_for(&spec.hosts, &candidates, exchange.host, name)
        && exchange.host().name != name
    {
        warn!(
            target: LOG,
            reason = Reason::BadRequest.name(),
            "[client {}] AH10157: Requested hostname '{name}' did not match any ServerName/ServerAlias in the matching virtual host", client.peer
        );
        Some(Failure::plain(StatusCode::BAD_REQUEST))
    } else {
        None
    };
    let wishes = Wishes {
        keep_alive: false,
        close: true,
    };
    if let Some(failure) = early {
        return Ok(error_page(exchange, &failure, wishes));
    }

    let ruled = match exchange.host().rules {
        None => Ok(()),
        Some(_) => policy::rule(&mut exchange, &mut parts).await,
    };
    let said = fields::strip(&mut parts.headers, Direction::Request);
    let unwanted = exchange
        .ruling
        .as_ref()
        .is_some_and(|ruling| ruling.has("nokeepalive"));
    let wishes = Wishes {
        keep_alive: said.keep_alive,
        close: said.close || (parts.version == Version::HTTP_10 && !said.keep_alive) || unwanted,
    };
    client.parting.set(wishes.close);
    if parts.uri.path() == "*" && parts.method == Method::OPTIONS {
        return Ok(own(exchange, Response::new(Bytes::new()), wishes));
    }
    let asked = asked.ok().flatten();
    // Redirect rules are the exception; a clone of the target is all they cost.
    let target = (!exchange.host().reverses.is_empty()).then(|| parts.uri.clone());
    let outcome = match ruled {
        Ok(()) => {
            forward(
                &mut exchange,
                &mut parts,
                said,
                Some(body),
                asked.as_deref(),
            )
            .await
        }
        Err(Stop::Fail(status, reason)) => {
            Err(Attempt::Failed(Failure::plain(status).because(reason)))
        }
        Err(Stop::Manager) => {
            let page = manager::answer(&exchange, &parts, body, asked.as_deref());
            let page = Box::pin(page).await;
            return Ok(own(exchange, page, wishes));
        }
        Err(Stop::Send(status, place)) => {
            policy::say_sent(&exchange, &place);
            return Ok(own(exchange, page::elsewhere(status, place), wishes));
        }
    };
    let failed = match outcome {
        Ok((response, upstream)) if !policy::overrides(&exchange, response.status()) => {
            let asked = asked.as_deref();
            let target = target.as_ref();
            return Ok(relay(exchange, response, upstream, asked, target, wishes));
        }
        Ok((response, upstream)) => {
            drop(upstream);
            exchange.part();
            Err(response)
        }
        Err(Attempt::Unreached(failure) | Attempt::Failed(failure)) => Ok(failure),
        Err(Attempt::Abort) => {
            exchange.fail(Reason::NoResponse);
            exchange.answer(StatusCode::BAD_GATEWAY, &HeaderMap::new());
            return Err(Abort::Silent);
        }
    };
    // Boxed: rare, and large.
    let page = instead(exchange, failed, asked.as_deref(), target.as_ref(), wishes);
    Ok(Box::pin(page).await)
}

/// Reads the host asked for: an absolute target wins over the Host field (RFC 9112 section 3.2.2).
fn asked_host(
    shard: &Shard,
    client: &Client,
    parts: &Parts,
) -> Result<Option<Rc<Asked>>, vhost::BadHost> {
    match parts.uri.authority() {
        Some(authority) => {
            // A target may name a user, a Host field may not.
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            client.asked(host.as_bytes(), &shard.hosts)
        }
        None => match parts.headers.get(header::HOST) {
            Some(value) => client.asked(value.as_bytes(), &shard.hosts),
            None => Ok(None),
        },
    }
}

/// Routes the request and tries members until one answers or no other may be tried.
async fn forward(
    exchange: &mut Exchange,
    parts: &mut Parts,
    said: fields::Connection,
    body: Option<Incoming>,
    asked: Option<&Asked>,
) -> Result<Answered, Attempt> {
    let current = Rc::clone(&exchange.current);
    let plan = &current.plan;
    let peer = exchange.client.peer;
    let raw = parts.uri.path().as_bytes();
    let slashes = exchange.host_spec().encoded_slashes;
    let routes = &exchange.host_spec().routes;
    let decoded = path::decode_for(routes, raw, slashes).map_err(|error| {
        warn!(
            target: LOG,
            reason = Reason::BadRequest.name(),
            "[client {peer}] {error} ({})", parts.uri.path()
        );
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Attempt::Failed(Failure::plain(status).because(Reason::BadRequest))
    })?;
    let rewritten = exchange
        .ruling
        .as_ref()
        .and_then(|ruling| ruling.rewritten());
    let decoded = rewritten.map_or(decoded, |path| path.to_vec().into());
    let routed = match &exchange.ruling {
        None => path::route(&exchange.host().routes, routes, raw, &decoded, slashes),
        Some(ruling) => match (&ruling.proxied, ruling.route) {
            (Some(proxied), _) => Routed::Balancer {
                balancer: proxied.balancer,
                path: proxied.path.clone().into(),
            },
            (None, Some(route)) => path::follow(&routes[route], raw, &decoded, slashes),
            (None, None) => Routed::Local,
        },
    };
    let Routed::Balancer { balancer, path } = routed else {
        info!(
            target: LOG,
            reason = Reason::NoRoute.name(),
            "[client {peer}] no ProxyPass takes {}", parts.uri.path()
        );
        return Err(Attempt::Failed(
            Failure::plain(StatusCode::NOT_FOUND).because(Reason::NoRoute),
        ));
    };
    let same_path = *path == *raw && parts.uri.authority().is_none();
    let path = (!same_path).then(|| path.into_owned());
    let hops = if said.present.has(Present::MAX_FORWARDS) {
        fields::max_forwards(&parts.headers)
    } else {
        MaxForwards::Unlimited
    };
    match hops {
        MaxForwards::Unlimited => {
            if let Some(hops) = exchange.host_spec().max_forwards {
                let hops = HeaderValue::from(hops);
                parts.headers.insert(header::MAX_FORWARDS, hops);
            }
        }
        MaxForwards::Left(hops) => {
            parts
                .headers
                .insert(header::MAX_FORWARDS, HeaderValue::from(hops));
        }
        MaxForwards::Reached => {
            let failure = Failure::proxy(
                StatusCode::BAD_REQUEST,
                "Max-Forwards has reached zero - proxy loop?",
            );
            let refused = Attempt::Failed(failure.because(Reason::Loop));
            say_proxy_error(exchange, &refused, parts.uri.path());
            return Err(refused);
        }
    }
    let balancing = &plan.balancers[balancer];
    let elector = &balancing.balancer;
    let session = elector.sticky.as_ref().and_then(|sticky| {
        let as_asked = || {
            parts
                .uri
                .path_and_query()
                .map_or("", http::uri::PathAndQuery::as_str)
        };
        let url: Cow<'_, [u8]> = match (&path, parts.uri.query()) {
            (None, _) => as_asked().as_bytes().into(),
            (Some(path), None) => path[..].into(),
            (Some(path), Some(query)) => [path, &b"?"[..], query.as_bytes()].concat().into(),
        };
        let cookies = parts.headers.get_all(header::COOKIE);
        let cookies = cookies.iter().map(HeaderValue::as_bytes);
        sticky::session(sticky, &url, cookies).map(Rc::new)
    });
    let key = if elector.wants_key() {
        let path = path.as_deref().unwrap_or(raw);
        hash_key(exchange, balancer, &parts.headers, path)
    } else {
        0
    };
    add_fields(exchange, parts, asked);
    let mut outgoing = Outgoing::new(exchange, parts, said, body).await?;

    let mut attempts = Attempts::default();
    // A clock that was just read does for the first election; an upload takes its time.
    let mut now_ns = match outgoing.body {
        RequestBody::Empty => exchange.begun_ns,
        _ => monotonic_ns(),
    };
    elector.begin_request(now_ns);
    loop {
        let elected = elect(exchange, balancer, session.as_deref(), key, now_ns)
            .await
            .map_err(|error| {
                let reason = match error {
                    Unelectable::RouteDown(..) => Reason::RouteDown,
                    _ => Reason::NoMember,
                };
                error!(target: LOG, reason = reason.name(), "[client {peer}] {error}");
                Attempt::Failed(Failure::plain(StatusCode::SERVICE_UNAVAILABLE).because(reason))
            })?;
        let member = &balancing.members[elected.member];
        let target = target(member, path.as_deref(), &outgoing.asked_for)?;
        exchange.engage(
            balancer,
            elected.member,
            elected.route_changed,
            session.as_ref(),
            &target,
        );
        outgoing.parts.uri = target;
        let began = elector.is_observing().then(Instant::now);
        let ended = attempt(exchange, &mut outgoing, balancer, elected.member).await;
        observe(&exchange.shard, elector, elected.member, began, &ended);
        let failure = match ended {
            Ok(answered) => return Ok(answered),
            Err(Attempt::Unreached(failure)) => failure,
            Err(other) => {
                say_proxy_error(exchange, &other, outgoing.asked_for.path());
                return Err(other);
            }
        };
        if !tries_another(&exchange.shard, elector, &mut attempts, elected.member) {
            return Err(Attempt::Unreached(failure));
        }
        now_ns = monotonic_ns();
    }
}

/// httpd's line for an answer of the proxy's own that names its cause.
fn say_proxy_error(exchange: &Exchange, end: &Attempt, path: &str) {
    if let Attempt::Failed(failure) = end
        && let Detail::Proxy(cause) = failure.detail
    {
        let by_status = Reason::of_status(failure.status.as_u16());
        error!(
            target: LOG,
            reason = failure.reason.unwrap_or(by_status).name(),
            "[client {}] AH00898: {cause} returned by {path}", exchange.client.peer
        );
    }
}
