//! One attempt: a connection, the request over it, the head of the response.

use std::{
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::TrySendError};
use tracing::error;

use super::{
    Attempt, Failure, LOG,
    outgoing::{Outgoing, upload_failed},
    switch,
};
use crate::{
    balancer::failover::{Cause, NoResponse, Silence},
    dataplane::table::monotonic_ns,
    proxy::{
        body::{BodyError, Held, Progress, RequestBody},
        exchange::Exchange,
        fields::{self, BadFraming},
        pool::{self, ConnectError, Upstream},
        reason::Reason,
        tls::member::HandshakeError,
        vhost,
        wheel::TICK,
    },
};

/// Gives the request to one member.
pub(super) async fn attempt(
    exchange: &mut Exchange,
    outgoing: &mut Outgoing<'_>,
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
    let wanted = outgoing.upgrade.clone();
    let wanted = wanted.filter(|protocol| member.spec.upgrade.takes(protocol.as_bytes()));
    if outgoing.upgrade.is_some() {
        switch::ask(&mut outgoing.parts.headers, wanted.as_ref());
    }

    let safe = matches!(outgoing.parts.method, Method::GET | Method::HEAD)
        && matches!(outgoing.body, RequestBody::Empty);
    let mut replayed = false;
    let ping = member.spec.ping;
    let mut held = ping.and_then(|ping| Some((ping, outgoing.hold()?)));
    let mut reconnected = false;
    // As in httpd, the name that TLS asks for is that of the Host field.
    let named = member.peer.as_ref().map(|peer| {
        let host = outgoing.preserved_host.as_ref();
        let name = host.and_then(|host| vhost::normalise(host.as_bytes()).ok().flatten());
        match name {
            Some(name) => peer.named(name.trim_matches(['[', ']'])),
            None => Arc::clone(peer),
        }
    });
    loop {
        let address = elector.cell(index).address();
        let mut upstream = pool::acquire(
            &exchange.shard,
            member,
            named.as_ref(),
            address,
            connect_timeout,
        )
        .await
        .map_err(|error| {
            outgoing.let_go();
            unreached(exchange, balancer, index, &error)
        })?;
        elector.connected(index);
        exchange.over(&upstream.link);
        if let Some(engaged) = &mut exchange.engaged {
            engaged.progress = Some(Rc::clone(&outgoing.progress));
        }
        let replayable = safe && upstream.reused && !replayed;
        upstream.link.keep_head(replayable);
        let received = upstream.link.received.get();
        let sent = {
            // Nothing as large as a message is moved through another future.
            let request = outgoing.request(replayable);
            let sending = std::pin::pin!(upstream.sender.try_send_request(request));
            let (link, progress) = (&upstream.link, &outgoing.progress);
            answered(exchange, link, sending, timeout, progress, held.as_ref()).await
        };
        let failed = match sent {
            Some(Ok(mut response)) => {
                // A member that was asked may take what follows for another protocol's.
                upstream.reusable &= wanted.is_none();
                let wanted = wanted.as_ref();
                accept_response(
                    exchange,
                    balancer,
                    index,
                    wanted,
                    &mut response,
                    &mut upstream,
                )?;
                return Ok((response, upstream));
            }
            Some(Err(error)) => Unanswered {
                reason: describe(error.error()),
                unsent: unsent(error),
                ..Unanswered::by(&upstream)
            },
            None if held.as_ref().is_some_and(|(_, held)| !held.is_wanted()) => Unanswered {
                ping_timed_out: true,
                ..Unanswered::by(&upstream)
            },
            None => Unanswered {
                read_timed_out: outgoing.progress.done.get(),
                write_timed_out: !outgoing.progress.done.get(),
                reason: "The timeout specified has expired".to_owned(),
                ..Unanswered::by(&upstream)
            },
        };
        // Whatever became of it, it carries no other request.
        drop(upstream);
        if failed.ping_timed_out {
            outgoing.let_go();
            // As in httpd: the connection may have been the fault, so another one is tried first.
            if !std::mem::replace(&mut reconnected, true) {
                held = ping.and_then(|ping| Some((ping, outgoing.hold()?)));
                continue;
            }
            return Err(no_go_ahead(exchange, balancer, index));
        }
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
            let reason = Reason::SendTimeout;
            error!(
                target: LOG,
                reason = reason.name(),
                "[client {}] AH01084: pass request body failed to {}: timeout",
                exchange.client.peer, member.spec.url
            );
            let failure = Failure::plain(StatusCode::GATEWAY_TIMEOUT);
            return Err(Attempt::Failed(failure.because(reason)));
        } else if silent {
            let head = replayable.then(|| fields::read_again(&failed.link.kept()));
            let again = head.flatten().map(|fields| outgoing.parts.headers = fields);
            let silence = Silence {
                replayable: again.is_some(),
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
        let reason = if failed.read_timed_out {
            Reason::ResponseTimeout
        } else if silent {
            Reason::NoResponse
        } else {
            Reason::BadResponse
        };
        error!(
            target: LOG,
            reason = reason.name(),
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
                let failure =
                    Failure::proxy(StatusCode::BAD_GATEWAY, "Error reading from remote server");
                Attempt::Failed(failure.because(reason))
            }
        });
    }
}

/// The member did not say 100 in time: it goes into error, another may be tried.
fn no_go_ahead(exchange: &Exchange, balancer: usize, index: usize) -> Attempt {
    let elector = &exchange.current.plan.balancers[balancer].balancer;
    let spec = &exchange.current.plan.balancers[balancer].members[index].spec;
    elector.cell(index).failed.fetch_add(1, Relaxed);
    let reason = Reason::ResponseTimeout;
    error!(
        target: LOG,
        reason = reason.name(),
        "[client {}] AH01115: HTTP: 100-Continue failed to {} ({}:{})",
        exchange.client.peer, elector.cell(index).address().ip(), spec.host, spec.port
    );
    elector.put_in_error(index, Cause::Forward, monotonic_ns());
    Attempt::Unreached(Failure::plain(StatusCode::SERVICE_UNAVAILABLE).because(reason))
}

/// No connection: the member goes into error, another may be tried; unless the want is our own.
fn unreached(exchange: &Exchange, balancer: usize, index: usize, error: &ConnectError) -> Attempt {
    let balancing = &exchange.current.plan.balancers[balancer];
    let elector = &balancing.balancer;
    let spec = &balancing.members[index].spec;
    let peer = exchange.client.peer;
    let reason = match error {
        ConnectError::Exhausted => Reason::PoolExhausted,
        ConnectError::Nowhere => Reason::Unresolved,
        ConnectError::TimedOut => Reason::ConnectTimeout,
        ConnectError::Local(_) => Reason::NoResources,
        ConnectError::Refused(_) => Reason::ConnectFailed,
        ConnectError::Tls(HandshakeError::Certificate(_)) => Reason::MemberCertificate,
        ConnectError::Tls(_) => Reason::MemberTls,
    };
    if matches!(error, ConnectError::Local(_)) {
        // A flood of clients must not be able to put every member into error, for packets too.
        error!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] no connection to {} made: {error}", spec.url
        );
        let failure = Failure::plain(StatusCode::SERVICE_UNAVAILABLE);
        return Attempt::Failed(failure.because(reason));
    }
    elector.cell(index).failed.fetch_add(1, Relaxed);
    if let ConnectError::Tls(why) = error {
        // As httpd 2.4.71 (observed): no other member is tried, and this one stays as it is.
        error!(
            target: LOG,
            "[client {peer}] AH01084: TLS handshake with {} ({}) failed: {why}",
            spec.url, elector.cell(index).address()
        );
        let cause = "Error during SSL Handshake with remote server";
        let failure = Failure::proxy(StatusCode::INTERNAL_SERVER_ERROR, cause);
        return Attempt::Failed(failure.because(reason));
    }
    if matches!(error, ConnectError::Exhausted) {
        error!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] AH00941: http: failed to acquire connection for ({}:{}): {error}", spec.host, spec.port
        );
        elector.put_in_error(index, Cause::Forward, monotonic_ns());
    } else {
        if matches!(error, ConnectError::Nowhere) {
            error!(
                target: LOG,
                "AH00898: DNS lookup failure for: {} returned by {}",
                spec.host, spec.url
            );
        } else if let Some(socket) = &spec.socket {
            error!(
                target: LOG,
                "AH02454: http: attempt to connect to Unix domain socket {} ({}) failed: {error}",
                socket.display(), spec.host
            );
        } else {
            error!(
                target: LOG,
                "AH00957: {}: attempt to connect to {}:{} ({}) failed: {error}",
                if spec.tls.is_some() { "https" } else { "http" },
                spec.host, spec.port, elector.cell(index).address()
            );
        }
        elector.put_in_error(index, Cause::Connect, monotonic_ns());
        error!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] AH01114: HTTP: failed to make connection to backend: {}", spec.host
        );
    }
    Attempt::Unreached(Failure::plain(StatusCode::SERVICE_UNAVAILABLE).because(reason))
}

/// A request that got no response head.
struct Unanswered {
    /// The request, if nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
    link: Rc<pool::Link>,
    reused: bool,
    read_timed_out: bool,
    write_timed_out: bool,
    ping_timed_out: bool,
    reason: String,
}

impl Unanswered {
    fn by(upstream: &Upstream) -> Self {
        Self {
            unsent: None,
            link: Rc::clone(&upstream.link),
            reused: upstream.reused,
            read_timed_out: false,
            write_timed_out: false,
            ping_timed_out: false,
            reason: String::new(),
        }
    }
}

type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Waits for the response's head. The deadline moves with every byte, and rests while the client has
/// to send. `None`: it came first.
async fn answered<F: Future<Output = Sent>>(
    exchange: &Exchange,
    link: &pool::Link,
    mut sending: Pin<&mut F>,
    timeout: Duration,
    progress: &Progress,
    held: Option<&(Duration, Rc<Held>)>,
) -> Option<Sent> {
    let wheel = &exchange.shard.wheel;
    let ticks = u64::try_from(timeout.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX);
    link.moved.set(wheel.now());
    link.alarm.set(timeout);
    link.expect_head();
    let ping = held.map(|(patience, _)| {
        let ping = wheel.alarm();
        ping.set(*patience);
        ping
    });
    let waits = || held.is_some_and(|(_, held)| !held.is_wanted());
    let sent = std::future::poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(Some(sent));
        }
        if let Some(ping) = &ping
            && waits()
            && ping.poll(cx).is_ready()
        {
            return Poll::Ready(None);
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
    link.head_came();
    sent
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
    wanted: Option<&HeaderValue>,
    response: &mut Response<Incoming>,
    upstream: &mut Upstream,
) -> Result<(), Attempt> {
    let agreed = || wanted.is_some_and(|wanted| switch::is_agreed(response.headers(), wanted));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !agreed() {
        let member = &exchange.current.plan.balancers[balancer].members[index];
        error!(
            target: LOG,
            reason = Reason::BadResponse.name(),
            "[client {}] unexpected upgrade by {}",
            exchange.client.peer, member.spec.url
        );
        return Err(Attempt::Failed(Failure::proxy(
            StatusCode::BAD_GATEWAY,
            "Unexpected Upgrade",
        )));
    }
    let spec = &exchange.current.plan.balancers[balancer].members[index].spec;
    let limit = spec.response_field_size as usize;
    match fields::check_framing(response.headers_mut(), limit) {
        Ok(clean) => upstream.reusable &= clean,
        Err(bad) => {
            let (peer, url) = (exchange.client.peer, &spec.url);
            let reason = Reason::BadResponse.name();
            match bad {
                BadFraming::TooLong => error!(
                    target: LOG,
                    reason,
                    "[client {peer}] AH10124: header size is over the limit allowed by ResponseFieldSize ({limit} bytes), from {url}"
                ),
                BadFraming::Unknown(_) => error!(
                    target: LOG,
                    reason,
                    "[client {peer}] AH01106: bad response framing from {url}: {bad}"
                ),
            }
            return Err(Attempt::Failed(Failure::proxy(
                StatusCode::BAD_GATEWAY,
                "Error reading from remote server",
            )));
        }
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
    Ok(())
}
