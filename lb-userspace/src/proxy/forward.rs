//! A request's way through the proxy: virtual host, route, balancer, member, response.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    request::Parts,
};
use hyper::{body::Incoming, client::conn::TrySendError};
use tracing::{error, warn};

use super::{
    body::{BodyError, Expectation, Go, Progress, ReplyBody, RequestBody, is_timeout},
    client::Client,
    exchange::{Exchange, Head},
    fields::{self, Direction, MaxForwards},
    page::{self, Detail},
    path::{self, Routed},
    plan::Destination,
    pool::{self, ConnectError, Upstream},
    reverse,
    shard::Shard,
    vhost,
    wheel::TICK,
};
use crate::{
    balancer::{
        Unelectable,
        failover::{Attempts, Cause, NoResponse, Outcome, Silence},
        sticky::{self, Session},
    },
    dataplane::table::monotonic_ns,
};

const LOG: &str = "sluice::proxy";

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
    /// For the page of a "Proxy Error"; `None`: a plain page.
    cause: Option<&'static str>,
}

impl Failure {
    const fn plain(status: StatusCode) -> Self {
        Self {
            status,
            cause: None,
        }
    }

    const fn proxy(status: StatusCode, cause: &'static str) -> Self {
        Self {
            status,
            cause: Some(cause),
        }
    }
}

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
pub(crate) async fn answer(
    shard: Rc<Shard>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Abort> {
    let current = shard.current().ok_or(Abort::Unconfigured)?;
    let refusal = client.take_refusal();
    let (mut parts, body) = request.into_parts();
    let spec = &current.plan.spec;

    let asked = match &refusal {
        None => asked_host(&parts),
        Some(_) => Ok(None),
    };
    let candidates = client.candidates(current.plan.number, || {
        vhost::candidates(&spec.hosts, client.local)
    });
    let (name, port) = match &asked {
        Ok(Some(asked)) => (Some(asked.name.as_str()), asked.port),
        _ => (None, None),
    };
    let host = vhost::select(&spec.hosts, &candidates, name);
    let head = Head {
        method: &parts.method,
        target: &parts.uri,
        version: parts.version,
        fields: &parts.headers,
        refused: refusal.is_some(),
    };
    let mut exchange = Exchange::new(
        Rc::clone(&client),
        Rc::clone(&shard),
        Rc::clone(&current),
        host,
        (name, port),
        &head,
    );
    let host = exchange.host_spec();
    client.head_timeout.set(host.header_timeout);
    client.idle_timeout.set(host.keep_alive_timeout);
    client.io_timeout.set(host.timeout);

    let early = if let Some(refusal) = refusal {
        warn!(target: LOG, "[client {}] request refused: {refusal}", client.peer);
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Some(Failure::plain(status))
    } else if let Err(bad) = &asked {
        warn!(target: LOG, "[client {}] {bad}", client.peer);
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

    let said = fields::strip(&mut parts.headers, Direction::Request);
    let wishes = Wishes {
        keep_alive: said.keep_alive,
        close: said.close || (parts.version == Version::HTTP_10 && !said.keep_alive),
    };
    if parts.uri.path() == "*" && parts.method == Method::OPTIONS {
        return Ok(own(exchange, Response::new(Bytes::new()), wishes));
    }
    let asked = asked.ok().flatten();
    match forward(&mut exchange, parts, body, asked.as_ref()).await {
        Ok((response, upstream)) => Ok(relay(exchange, response, upstream, asked.as_ref(), wishes)),
        Err(Attempt::Unreached(failure) | Attempt::Failed(failure)) => {
            Ok(error_page(exchange, &failure, wishes))
        }
        Err(Attempt::Abort) => {
            exchange.answer(StatusCode::BAD_GATEWAY, &HeaderMap::new());
            Err(Abort::Silent)
        }
    }
}

/// What the client said about its connection.
#[derive(Clone, Copy)]
struct Wishes {
    keep_alive: bool,
    close: bool,
}

/// The host a request is for.
struct Asked {
    /// Lower case, without port.
    name: String,
    port: Option<u16>,
    /// As it stands in the Host field, or in an absolute target.
    value: HeaderValue,
}

/// Reads it: an absolute target wins over the Host field (RFC 9112 section 3.2.2).
fn asked_host(parts: &Parts) -> Result<Option<Asked>, vhost::BadHost> {
    let value = match parts.uri.authority() {
        Some(authority) => {
            // A target may name a user, a Host field may not.
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            Some(HeaderValue::try_from(host).map_err(|_| vhost::BadHost)?)
        }
        None => parts.headers.get(header::HOST).cloned(),
    };
    let Some(value) = value else { return Ok(None) };
    let Some(name) = vhost::normalise(value.as_bytes())? else {
        return Ok(None);
    };
    let port = value
        .to_str()
        .ok()
        .and_then(|text| text.rsplit_once(':'))
        .and_then(|(_, port)| port.parse().ok());
    Ok(Some(Asked { name, port, value }))
}

/// Routes the request and tries members until one answers or no other may be tried.
async fn forward(
    exchange: &mut Exchange,
    mut parts: Parts,
    body: Incoming,
    asked: Option<&Asked>,
) -> Result<(Response<Incoming>, Upstream), Attempt> {
    let current = Rc::clone(&exchange.current);
    let plan = &current.plan;
    let peer = exchange.client.peer;
    let raw = parts.uri.path().as_bytes();
    let decoded = path::decode(raw).map_err(|error| {
        warn!(target: LOG, "[client {peer}] {error} ({})", parts.uri.path());
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Attempt::Failed(Failure::plain(status))
    })?;
    let Routed::Balancer { balancer, path } =
        path::route(&exchange.host_spec().routes, raw, &decoded)
    else {
        return Err(Attempt::Failed(Failure::plain(StatusCode::NOT_FOUND)));
    };
    let same_path = *path == *raw && parts.uri.authority().is_none();
    let path = (!same_path).then(|| path.into_owned());
    match fields::max_forwards(&parts.headers) {
        MaxForwards::Unlimited => {}
        MaxForwards::Left(hops) => {
            parts
                .headers
                .insert(header::MAX_FORWARDS, HeaderValue::from(hops));
        }
        MaxForwards::Reached => {
            return Err(Attempt::Failed(Failure::proxy(
                StatusCode::BAD_REQUEST,
                "Max-Forwards has reached zero - proxy loop?",
            )));
        }
    }
    let balancing = &plan.balancers[balancer];
    let elector = &balancing.balancer;
    let session = elector.sticky.as_ref().and_then(|sticky| {
        let mut url = path.clone().unwrap_or_else(|| raw.to_vec());
        if let Some(query) = parts.uri.query() {
            url.push(b'?');
            url.extend_from_slice(query.as_bytes());
        }
        let cookies = parts.headers.get_all(header::COOKIE);
        sticky::session(sticky, &url, cookies.iter().map(HeaderValue::as_bytes))
    });
    add_fields(exchange, &mut parts.headers, asked);
    let mut outgoing = Outgoing::new(exchange, parts, body).await?;

    let mut attempts = Attempts::default();
    loop {
        let elected = elect(exchange, balancer, session.as_ref())
            .await
            .map_err(|error| {
                error!(target: LOG, "[client {peer}] {error}");
                Attempt::Failed(Failure::plain(StatusCode::SERVICE_UNAVAILABLE))
            })?;
        let member = &balancing.members[elected.member];
        let target = target(member, path.as_deref(), &outgoing.parts.uri)?;
        exchange.engage(
            balancer,
            elected.member,
            elected.route_changed,
            session.as_ref(),
            &target,
        );
        outgoing.parts.uri = target;
        let failure = match attempt(exchange, &mut outgoing, balancer, elected.member).await {
            Ok(answered) => return Ok(answered),
            Err(Attempt::Unreached(failure)) => failure,
            Err(other) => return Err(other),
        };
        if !elector.try_another(&mut attempts, elected.member, Outcome::Unreached) {
            return Err(Attempt::Unreached(failure));
        }
    }
}

/// Elects a member; with a balancer's `timeout`, asks again until somebody is usable.
async fn elect(
    exchange: &Exchange,
    balancer: usize,
    session: Option<&Session>,
) -> Result<crate::balancer::Elected, Unelectable> {
    let balancer = &exchange.current.plan.balancers[balancer].balancer;
    let first = balancer.elect(session, monotonic_ns());
    let waits = matches!(first, Err(Unelectable::NoneUsable(_))) && !balancer.timeout.is_zero();
    if !waits {
        return first;
    }
    let deadline = exchange.shard.wheel.alarm();
    deadline.set(balancer.timeout);
    let step = exchange.shard.wheel.alarm();
    loop {
        step.set((balancer.timeout / 100).max(TICK));
        tokio::select! {
            () = step.reached() => {}
            () = deadline.reached() => return balancer.elect(session, monotonic_ns()),
        }
        if let Ok(elected) = balancer.elect(session, monotonic_ns()) {
            return Ok(elected);
        }
    }
}

/// What is sent to a member, kept so that it can be sent to another.
struct Outgoing {
    parts: Parts,
    body: RequestBody,
    progress: Rc<Progress>,
    /// The Host field as the client wrote it, with `ProxyPreserveHost`.
    preserved_host: Option<HeaderValue>,
    /// Set by the member's 100.
    go: Option<Arc<Go>>,
}

impl Outgoing {
    /// Reads the body as far as it is read before a member is chosen, and frames it.
    async fn new(exchange: &Exchange, mut parts: Parts, body: Incoming) -> Result<Self, Attempt> {
        let mut go = None;
        let expects =
            parts.headers.contains_key(header::EXPECT) && !http_body::Body::is_end_stream(&body);
        let (body, progress) = if expects {
            let given = Arc::new(Go::default());
            go = Some(Arc::clone(&given));
            RequestBody::expected(body, Expectation::new(given, exchange.shard.wheel.alarm()))
        } else {
            parts.headers.remove(header::EXPECT);
            RequestBody::prefetch(body)
                .await
                .map_err(|error| upload_failed(exchange, &error))?
        };
        // Framed anew: what is sent is what was decoded.
        match &body {
            RequestBody::Empty => {
                if let Some(length) = parts.headers.remove(header::CONTENT_LENGTH)
                    && length.as_bytes() == b"0"
                {
                    parts.headers.insert(header::CONTENT_LENGTH, length);
                }
            }
            RequestBody::Whole(bytes) => {
                let length = HeaderValue::from(bytes.len());
                parts.headers.insert(header::CONTENT_LENGTH, length);
            }
            RequestBody::Streamed(_) => {
                if let Some(length) = http_body::Body::size_hint(&body).exact() {
                    let length = HeaderValue::from(length);
                    parts.headers.insert(header::CONTENT_LENGTH, length);
                } else {
                    parts.headers.remove(header::CONTENT_LENGTH);
                    let chunked = HeaderValue::from_static("chunked");
                    parts.headers.insert(header::TRANSFER_ENCODING, chunked);
                }
            }
        }
        let preserved_host = exchange
            .host_spec()
            .preserve_host
            .then(|| parts.headers.get(header::HOST).cloned())
            .flatten();
        parts.version = Version::HTTP_11;
        Ok(Self {
            parts,
            body,
            progress,
            preserved_host,
            go,
        })
    }

    /// The request for one attempt. A body that is not wholly here is gone with it.
    fn request(&mut self, keep: bool) -> Request<RequestBody> {
        let mut request = Request::new(self.body.take());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = if keep {
            self.parts.headers.clone()
        } else {
            std::mem::take(&mut self.parts.headers)
        };
        if let Some(go) = self.go.take() {
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    go.give();
                }
            });
        }
        request
    }

    /// Takes back a request that was not sent.
    fn take_back(&mut self, request: Request<RequestBody>) {
        let (parts, body) = request.into_parts();
        self.parts.headers = parts.headers;
        if let RequestBody::Streamed(_) = body {
            self.body = body;
        }
    }
}

fn upload_failed(exchange: &Exchange, error: &BodyError) -> Attempt {
    let peer = exchange.client.peer;
    error!(target: LOG, "[client {peer}] AH01095: prefetch request body failed: {error}");
    let timed_out = match error {
        BodyError::Source(error) => is_timeout(error),
        BodyError::TimedOut => true,
        BodyError::Abandoned => false,
    };
    Attempt::Failed(Failure::plain(if timed_out {
        StatusCode::REQUEST_TIMEOUT
    } else {
        StatusCode::BAD_REQUEST
    }))
}

/// X-Forwarded-*, and the client's Host value where an absolute target gave another.
fn add_fields(exchange: &Exchange, headers: &mut HeaderMap, asked: Option<&Asked>) {
    if let Some(asked) = asked {
        headers.insert(header::HOST, asked.value.clone());
    }
    if !exchange.host_spec().add_headers {
        return;
    }
    let ip = exchange.client.peer.ip().to_canonical();
    // An address is always a value.
    if let Ok(ip) = HeaderValue::try_from(ip.to_string()) {
        fields::append(headers, fields::FORWARDED_FOR, &ip);
    }
    if let Some(asked) = asked {
        fields::append(headers, fields::FORWARDED_HOST, &asked.value);
    }
    let server = &exchange.host().forwarded_server;
    fields::append(headers, fields::FORWARDED_SERVER, server);
}

/// The member's path, then the route's; the query as it came.
fn target(member: &Destination, path: Option<&[u8]>, asked: &Uri) -> Result<Uri, Attempt> {
    if path.is_none() && member.path.is_empty() {
        return Ok(asked.clone());
    }
    let mut target = member.path.clone().into_bytes();
    target.extend_from_slice(path.unwrap_or_else(|| asked.path().as_bytes()));
    if let Some(query) = asked.query() {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    Uri::from_maybe_shared(Bytes::from(target)).map_err(|_| {
        Attempt::Failed(Failure::proxy(
            StatusCode::BAD_REQUEST,
            "URI cannot be parsed",
        ))
    })
}

/// Gives the request to one member.
async fn attempt(
    exchange: &mut Exchange,
    outgoing: &mut Outgoing,
    balancer: usize,
    index: usize,
) -> Result<(Response<Incoming>, Upstream), Attempt> {
    let current = Rc::clone(&exchange.current);
    let balancing = &current.plan.balancers[balancer];
    let (elector, member) = (&balancing.balancer, &balancing.members[index]);
    let timeout = member
        .spec
        .timeout
        .unwrap_or(exchange.host().member_timeout);
    let connect_timeout = member.spec.connection_timeout.unwrap_or(timeout);
    let host = outgoing.preserved_host.as_ref().unwrap_or(&member.host);
    outgoing.parts.headers.insert(header::HOST, host.clone());
    let connection = if member.spec.disablereuse {
        HeaderValue::from_static("close")
    } else {
        HeaderValue::from_static("Keep-Alive")
    };
    outgoing
        .parts
        .headers
        .insert(header::CONNECTION, connection);

    let safe = matches!(outgoing.parts.method, Method::GET | Method::HEAD)
        && matches!(outgoing.body, RequestBody::Empty);
    let mut replayed = false;
    loop {
        let address = elector.cell(index).address();
        let upstream = pool::acquire(&exchange.shard, member, address, !safe, connect_timeout)
            .await
            .map_err(|error| unreached(exchange, balancer, index, &error))?;
        elector.connected(index);
        exchange.over(&upstream.link);
        if let Some(engaged) = &mut exchange.engaged {
            engaged.progress = Some(Rc::clone(&outgoing.progress));
        }
        let replayable = safe && upstream.reused && !replayed;
        let request = outgoing.request(replayable);
        let received = upstream.link.received.get();
        let failed = match send(exchange, upstream, request, timeout, &outgoing.progress).await {
            Ok((response, upstream)) => {
                return accept_response(exchange, balancer, index, response, upstream);
            }
            Err(failed) => failed,
        };
        if let Some(request) = failed.unsent
            && failed.reused
        {
            // The connection ended before it took anything: as if it had not been in the pool.
            outgoing.take_back(request);
            continue;
        }
        let silent = failed.link.received.get() == received;
        let decision = if let Some(timed_out) = outgoing.progress.failed.get() {
            // The client's fault, whatever the member made of it.
            let error = if timed_out {
                BodyError::TimedOut
            } else {
                BodyError::Abandoned
            };
            return Err(upload_failed(exchange, &error));
        } else if failed.write_timed_out {
            elector.cell(index).failed.fetch_add(1, Relaxed);
            error!(
                target: LOG,
                "[client {}] AH01084: pass request body failed to {}: timeout",
                exchange.client.peer, member.spec.url
            );
            return Err(Attempt::Failed(Failure::plain(StatusCode::GATEWAY_TIMEOUT)));
        } else if silent {
            let silence = Silence {
                replayable,
                client_reused: exchange.client.keepalives() > 0,
                member_reused: failed.reused,
                timed_out: failed.read_timed_out,
            };
            silence.consequence()
        } else {
            NoResponse::BadGateway
        };
        if decision == NoResponse::Replay {
            replayed = true;
            continue;
        }
        elector.cell(index).failed.fetch_add(1, Relaxed);
        error!(
            target: LOG,
            "[client {}] AH01102: error reading status line from remote server {}: {}",
            exchange.client.peer, member.spec.url, failed.reason
        );
        if failed.read_timed_out && elector.failontimeout {
            elector.put_in_error(index, Cause::Timeout, monotonic_ns());
        }
        return Err(match decision {
            NoResponse::CloseClient(suspicious) => {
                if suspicious {
                    elector.put_in_error(index, Cause::Forward, monotonic_ns());
                }
                Attempt::Abort
            }
            NoResponse::Replay | NoResponse::BadGateway => {
                error!(
                    target: LOG,
                    "[client {}] AH00898: Error reading from remote server returned by {}",
                    exchange.client.peer, outgoing.parts.uri.path()
                );
                Attempt::Failed(Failure::proxy(
                    StatusCode::BAD_GATEWAY,
                    "Error reading from remote server",
                ))
            }
        });
    }
}

/// No connection: the member goes into error, another may be tried.
fn unreached(exchange: &Exchange, balancer: usize, index: usize, error: &ConnectError) -> Attempt {
    let balancing = &exchange.current.plan.balancers[balancer];
    let elector = &balancing.balancer;
    let spec = &balancing.members[index].spec;
    let peer = exchange.client.peer;
    elector.cell(index).failed.fetch_add(1, Relaxed);
    if matches!(error, ConnectError::Exhausted) {
        error!(
            target: LOG,
            "[client {peer}] AH00941: failed to acquire connection for ({}): {error}", spec.url
        );
        elector.put_in_error(index, Cause::Forward, monotonic_ns());
    } else {
        error!(
            target: LOG,
            "AH00957: http: attempt to connect to {}:{} ({}) failed: {error}",
            spec.host, spec.port, elector.cell(index).address()
        );
        elector.put_in_error(index, Cause::Connect, monotonic_ns());
        error!(
            target: LOG,
            "[client {peer}] AH01114: HTTP: failed to make connection to backend: {}", spec.host
        );
    }
    Attempt::Unreached(Failure::plain(StatusCode::SERVICE_UNAVAILABLE))
}

/// A request that got no response head.
struct Unanswered {
    /// The request, if nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
    link: Rc<pool::Link>,
    reused: bool,
    read_timed_out: bool,
    write_timed_out: bool,
    reason: String,
}

/// Sends a request and waits for the response's head. The deadline moves with every byte, and
/// rests while the client has to send.
async fn send(
    exchange: &Exchange,
    mut upstream: Upstream,
    request: Request<RequestBody>,
    timeout: Duration,
    progress: &Progress,
) -> Result<(Response<Incoming>, Upstream), Unanswered> {
    let wheel = &exchange.shard.wheel;
    let link = Rc::clone(&upstream.link);
    let ticks = u64::try_from(timeout.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX);
    link.moved.set(wheel.now());
    link.alarm.set(timeout);
    let mut sending = std::pin::pin!(upstream.sender.try_send_request(request));
    let sent = std::future::poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(Some(sent));
        }
        loop {
            if link.alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let silent = wheel.now().saturating_sub(link.moved.get());
            if progress.waits_for_client.get() {
                // The transport minds the client's time.
                link.moved.set(wheel.now());
                link.alarm.set(timeout);
            } else if silent < ticks {
                let rest = u32::try_from(ticks - silent).unwrap_or(u32::MAX);
                link.alarm.set(TICK * rest);
            } else {
                return Poll::Ready(None);
            }
        }
    })
    .await;
    link.alarm.clear();
    let mut failed = Unanswered {
        unsent: None,
        link: Rc::clone(&link),
        reused: upstream.reused,
        read_timed_out: false,
        write_timed_out: false,
        reason: String::new(),
    };
    match sent {
        Some(Ok(response)) => Ok((response, upstream)),
        Some(Err(error)) => {
            failed.reason = describe(error.error());
            failed.unsent = unsent(error);
            Err(failed)
        }
        None => {
            failed.read_timed_out = progress.done.get();
            failed.write_timed_out = !progress.done.get();
            "The timeout specified has expired".clone_into(&mut failed.reason);
            Err(failed)
        }
    }
}

fn unsent(mut error: TrySendError<Request<RequestBody>>) -> Option<Request<RequestBody>> {
    error.take_message()
}

/// An error with its causes.
fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A response head came: what no proxy may pass on is a 502.
fn accept_response(
    exchange: &mut Exchange,
    balancer: usize,
    index: usize,
    response: Response<Incoming>,
    upstream: Upstream,
) -> Result<(Response<Incoming>, Upstream), Attempt> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let member = &exchange.current.plan.balancers[balancer].members[index];
        error!(
            target: LOG,
            "[client {}] AH10124: unexpected upgrade by {}",
            exchange.client.peer, member.spec.url
        );
        return Err(Attempt::Failed(Failure::proxy(
            StatusCode::BAD_GATEWAY,
            "Unexpected Upgrade",
        )));
    }
    let reason = response
        .extensions()
        .get::<hyper::ext::ReasonPhrase>()
        .map(|reason| reason.as_bytes().len())
        .or_else(|| response.status().canonical_reason().map(str::len))
        .unwrap_or(0);
    if let Some(engaged) = &mut exchange.engaged {
        // "HTTP/1.1 200 " and the line's end.
        engaged.line_bytes = reason as u64 + 15;
    }
    Ok((response, upstream))
}

/// Passes a member's response on.
fn relay(
    mut exchange: Exchange,
    response: Response<Incoming>,
    upstream: Upstream,
    asked: Option<&Asked>,
    wishes: Wishes,
) -> Response<ReplyBody> {
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    fields::strip(&mut parts.headers, Direction::Response);
    if matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    if !parts.headers.contains_key(header::SERVER) {
        parts.headers.insert(header::SERVER, page::SERVER);
    }
    let host = exchange.host();
    if !host.reverses.is_empty() {
        let asked = asked
            .and_then(|asked| asked.value.to_str().ok())
            .unwrap_or(&host.name);
        reverse::rewrite_fields(&host.reverses, &mut parts.headers, asked);
    }
    keep_or_close(&mut exchange, &mut parts.headers, wishes);
    exchange.answer(parts.status, &parts.headers);
    let timeout = exchange
        .engaged
        .as_ref()
        .and_then(|engaged| {
            let balancing = &exchange.current.plan.balancers[engaged.balancer];
            balancing.members[engaged.member].spec.timeout
        })
        .unwrap_or(exchange.host().member_timeout);
    let body = ReplyBody::member(body, upstream, timeout, exchange);
    Response::from_parts(parts, body)
}

fn error_page(exchange: Exchange, failure: &Failure, wishes: Wishes) -> Response<ReplyBody> {
    let detail = failure.cause.map_or(Detail::Plain, Detail::Proxy);
    let page = page::error(failure.status, detail);
    let wishes = Wishes {
        close: wishes.close || page::closes(failure.status),
        ..wishes
    };
    own(exchange, page, wishes)
}

/// An answer of our own.
fn own(mut exchange: Exchange, response: Response<Bytes>, wishes: Wishes) -> Response<ReplyBody> {
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(header::SERVER, page::SERVER);
    keep_or_close(&mut exchange, &mut parts.headers, wishes);
    exchange.answer(parts.status, &parts.headers);
    Response::from_parts(parts, ReplyBody::page(body, exchange))
}

/// Decides whether the connection stays, and says so as httpd does: the count of
/// `MaxKeepAliveRequests` N lets N + 1 requests through, and only a client that asked for
/// keep-alive by name is told about it (apache.md 3.19).
fn keep_or_close(exchange: &mut Exchange, headers: &mut HeaderMap, wishes: Wishes) {
    let host = exchange.host_spec();
    let left = match host.max_keep_alive_requests {
        0 => None,
        max => Some(max.saturating_sub(exchange.client.keepalives())),
    };
    let stays =
        host.keep_alive && !wishes.close && left != Some(0) && !exchange.shard.is_draining();
    let timeout = host.keep_alive_timeout.as_secs();
    exchange.closes = !stays;
    if !stays {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if wishes.keep_alive {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Keep-Alive"));
        let value = match left {
            Some(left) => format!("timeout={timeout}, max={left}"),
            None => format!("timeout={timeout}"),
        };
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(fields::KEEP_ALIVE, value);
        }
    }
}
