//! One attempt: a connection, the request over it, the head of the response.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Method, Response, StatusCode};
use tracing::error;

use super::{
    Answered, Attempt, Failure, LOG,
    outgoing::{Outgoing, upload_failed},
    switch,
};
use crate::{
    balancer::failover::{Cause, NoResponse, Silence},
    dataplane::table::monotonic_ns,
    proxy::{
        answer::{BadAnswer, Rules},
        body::{BodyError, Held, Progress, RequestBody},
        exchange::Exchange,
        pool::{self, ConnectError, NoAnswer, Said, Upstream},
        reason::Reason,
        tls::member::HandshakeError,
        vhost,
    },
};

/// Gives the request to one member.
pub(super) async fn attempt(
    exchange: &mut Exchange,
    outgoing: &mut Outgoing<'_>,
    balancer: usize,
    index: usize,
) -> Result<Answered, Attempt> {
    let current = Rc::clone(&exchange.current);
    let balancing = &current.plan.balancers[balancer];
    let (elector, member) = (&balancing.balancer, &balancing.members[index]);
    let timeout = member
        .spec
        .timeout
        .unwrap_or(exchange.host().member_timeout);
    let connect_timeout = member.spec.connection_timeout.unwrap_or(timeout);
    let wanted = outgoing.upgrade.clone();
    let wanted = wanted.filter(|protocol| member.spec.upgrade.takes(protocol.as_bytes()));
    if outgoing.upgrade.is_some() {
        switch::ask(&mut outgoing.parts.headers, wanted.as_ref());
    }
    let connection = match (&wanted, member.spec.disablereuse) {
        (Some(_), _) => "Upgrade",
        (None, true) => "close",
        (None, false) => "Keep-Alive",
    };

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
        let mut address = elector.cell(index).address();
        let mut upstream = pool::acquire(
            &exchange.shard,
            member,
            named.as_ref(),
            &mut address,
            connect_timeout,
            safe && !replayed,
        )
        .await
        .map_err(|error| {
            outgoing.let_go();
            // Where the name is the client's, the failure may be, too: nobody outside chooses who
            // is in error.
            if matches!(error, ConnectError::Tls(_)) && outgoing.preserved_host.is_none() {
                elector.put_in_error(index, Cause::Forward, monotonic_ns());
            }
            let path = outgoing.asked_for.path();
            unreached(exchange, balancer, index, (&error, address), path)
        })?;
        elector.connected(index);
        exchange.over(&upstream.link);
        if let Some(engaged) = &mut exchange.engaged {
            engaged.progress = Some(Rc::clone(&outgoing.progress));
        }
        let replayable = safe && upstream.reused && !replayed;
        let body = outgoing.body.take();
        let rules = Rules {
            to_head: outgoing.parts.method == Method::HEAD,
            limit: member.spec.response_field_size as usize,
            bad_header: exchange.host_spec().bad_header,
        };
        let said = Said {
            host: outgoing.preserved_host.as_ref().unwrap_or(&member.host),
            connection,
        };
        upstream.begin(outgoing.parts, said, body, outgoing.goes(), rules);
        let progress = &outgoing.progress;
        let waits = held.as_ref().map(|(patience, held)| (*patience, &**held));
        let sent = answered(exchange, &mut upstream, timeout, progress, waits).await;
        let failed = match sent {
            Some(Ok(response)) => {
                // A member that was asked may take what follows for another protocol's.
                upstream.reusable &= wanted.is_none();
                accept_response(exchange, balancer, index, wanted.as_ref(), &response)?;
                if let Some(engaged) = &mut exchange.engaged {
                    engaged.line_bytes = upstream.line_bytes;
                }
                return Ok((response, upstream));
            }
            Some(Err(NoAnswer::Bad(bad @ (BadAnswer::TooLong | BadAnswer::Framing(_))))) => {
                return Err(bad_framing(exchange, balancer, index, bad));
            }
            Some(Err(error)) => Unanswered {
                unsent: matches!(error, NoAnswer::Unsent(_)),
                reason: error.to_string(),
                ..Unanswered::by(&upstream)
            },
            None if waits.is_some_and(|(_, held)| !held.is_wanted()) => Unanswered {
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
        let unsent_body = upstream.take_body();
        // Whatever became of it, it carries no other request.
        drop(upstream);
        exchange.part();
        if failed.ping_timed_out {
            outgoing.let_go();
            // The connection may have been the fault, so another one is tried first (not by httpd).
            if !std::mem::replace(&mut reconnected, true) {
                held = ping.and_then(|ping| Some((ping, outgoing.hold()?)));
                continue;
            }
            return Err(no_go_ahead(exchange, balancer, index));
        }
        if failed.unsent && failed.reused {
            // The connection ended before it took anything: as if it had not been in the pool.
            outgoing.body.put_back(unsent_body);
            continue;
        }
        let decision = if let Some(timed_out) = outgoing.progress.failed.get() {
            // The client's fault, whatever the member made of it.
            let error = if timed_out {
                BodyError::TimedOut
            } else {
                BodyError::BrokenOff
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
        } else if failed.silent {
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
        let reason = if failed.read_timed_out {
            Reason::ResponseTimeout
        } else if failed.silent {
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
/// `address`: where that was tried last; `path`: what the client asked for.
fn unreached(
    exchange: &Exchange,
    balancer: usize,
    index: usize,
    (error, address): (&ConnectError, SocketAddr),
    path: &str,
) -> Attempt {
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
        // As httpd 2.4.71 (observed): no other member is tried.
        error!(
            target: LOG,
            "[client {peer}] AH01084: TLS handshake with {} ({}) failed: {why}",
            spec.url, address
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
                "AH00898: DNS lookup failure for: {} returned by {path}",
                spec.host
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
                spec.host, spec.port, address
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
    /// Nothing of it was sent.
    unsent: bool,
    /// Nothing was said to it.
    silent: bool,
    reused: bool,
    read_timed_out: bool,
    write_timed_out: bool,
    ping_timed_out: bool,
    reason: String,
}

impl Unanswered {
    fn by(upstream: &Upstream) -> Self {
        Self {
            unsent: false,
            silent: upstream.is_unanswered(),
            reused: upstream.reused,
            read_timed_out: false,
            write_timed_out: false,
            ping_timed_out: false,
            reason: String::new(),
        }
    }
}

/// Waits for the response's head. The deadline moves with every byte, and rests while the client has
/// to send. `None`: it came first.
async fn answered(
    exchange: &Exchange,
    upstream: &mut Upstream,
    timeout: Duration,
    progress: &Progress,
    held: Option<(Duration, &Held)>,
) -> Option<Result<Response<()>, NoAnswer>> {
    let wheel = &exchange.shard.wheel;
    let link = Rc::clone(&upstream.link);
    link.moved.set(wheel.now());
    link.alarm.set(timeout);
    let ping = held.map(|(patience, _)| {
        let ping = wheel.alarm();
        ping.set(patience);
        ping
    });
    let waits = || held.is_some_and(|(_, held)| !held.is_wanted());
    let sent = std::future::poll_fn(|cx| {
        if let Poll::Ready(sent) = upstream.poll_answer(cx) {
            return Poll::Ready(Some(sent));
        }
        if let Some(ping) = &ping
            && waits()
            && ping.poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        while link.alarm.poll(cx).is_ready() {
            match link.patience(progress, timeout) {
                Some(left) => link.alarm.set(left),
                None => return Poll::Ready(None),
            }
        }
        Poll::Pending
    })
    .await;
    link.alarm.clear();
    sent
}

/// A response head came: what no proxy may pass on is a 502.
fn accept_response(
    exchange: &mut Exchange,
    balancer: usize,
    index: usize,
    wanted: Option<&HeaderValue>,
    response: &Response<()>,
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
        let elector = &exchange.current.plan.balancers[balancer].balancer;
        elector.cell(index).failed.fetch_add(1, Relaxed);
        return Err(Attempt::Failed(Failure::proxy(
            StatusCode::BAD_GATEWAY,
            "Unexpected Upgrade",
        )));
    }
    Ok(())
}

/// The response is none that may be passed on.
fn bad_framing(exchange: &Exchange, balancer: usize, index: usize, bad: BadAnswer) -> Attempt {
    let spec = &exchange.current.plan.balancers[balancer].members[index].spec;
    let (peer, url) = (exchange.client.peer, &spec.url);
    let reason = Reason::BadResponse;
    let elector = &exchange.current.plan.balancers[balancer].balancer;
    elector.cell(index).failed.fetch_add(1, Relaxed);
    if bad == BadAnswer::TooLong {
        let limit = spec.response_field_size;
        error!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] AH10124: header size is over the limit allowed by ResponseFieldSize ({limit} bytes), from {url}"
        );
    } else {
        error!(
            target: LOG,
            reason = reason.name(),
            "[client {peer}] AH01106: bad response framing from {url}: {bad}"
        );
    }
    let cause = "Error reading from remote server";
    Attempt::Failed(Failure::proxy(StatusCode::BAD_GATEWAY, cause))
}
