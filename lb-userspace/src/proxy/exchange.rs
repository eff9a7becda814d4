//! One request from its head to the end of its response: what is counted, what is logged, and what
//! its end means for the member and the connection.
//!
//! An [`Exchange`] travels with the request and then with the response's body; dropping it ends the
//! request, whoever gave up first.

use std::{
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use lb_common::member::MemberId;

use super::{
    body::{BodyError, Progress},
    client::{Client, h2::Stream},
    plan::{Balancing, Host, HostLog},
    policy::{self, Ruling},
    pool::{Link, Upstream},
    reason::Reason,
    shard::{Current, Shard},
};
mod finished;
mod variables;

pub(crate) use finished::Finished;
use finished::{End, Facts};

use crate::{
    balancer::{failover::Cause, feedback::Answer, sticky::Session},
    config::spec,
    dataplane::table::monotonic_ns,
    telemetry::{
        access::{self, Connection, Format},
        counters::{Latency, Number},
        error_log,
    },
};

/// A request being answered.
pub(crate) struct Exchange {
    pub(crate) client: Rc<Client>,
    /// `None`: HTTP/1.
    pub(crate) stream: Option<Rc<Stream>>,
    pub(crate) shard: Rc<Shard>,
    pub(crate) current: Rc<Current>,
    /// Index into the plan's hosts.
    pub(crate) host: usize,
    /// The member it was given to last.
    pub(crate) engaged: Option<Engaged>,
    /// The client's protocol cannot show that a body of unknown length was cut short.
    pub(crate) unframed: bool,
    /// The connection is closed after the response.
    pub(crate) closes: bool,
    /// What sections say of it, where they do.
    pub(crate) ruling: Option<Box<Ruling>>,
    /// Why the request failed.
    reason: Option<Reason>,
    /// The request as the error log knows it.
    log: error_log::Request,
    /// When its head was here, ns of CLOCK_MONOTONIC.
    pub(crate) begun_ns: u64,
    status: u16,
    body_bytes: u64,
    ended: bool,
    facts: Option<Box<Facts>>,
}

/// A member that a request was given to.
pub(crate) struct Engaged {
    /// Index into the plan's balancers.
    pub(crate) balancer: usize,
    /// Index into its members.
    pub(crate) member: usize,
    /// It is not the session's.
    pub(crate) route_changed: bool,
    /// The session that the request carries.
    pub(crate) session: Option<Rc<Session>>,
    /// What the member is asked for, if there is a log to tell.
    target: Option<Uri>,
    /// Bytes of the response's status line.
    pub(crate) line_bytes: u64,
    /// How far the upload is.
    pub(crate) progress: Option<Rc<Progress>>,
    link: Option<(Rc<Link>, u64)>,
    /// Bytes that went over connections which are given up.
    sent: u64,
    _busy: Busy,
}

/// One request in flight on a member, in this process's column of `BUSY`.
struct Busy {
    shard: Rc<Shard>,
    id: MemberId,
}

impl Busy {
    fn new(shard: &Rc<Shard>, id: MemberId) -> Self {
        if let Some(cell) = shard.shared.table.busy(shard.shared.column, id) {
            cell.fetch_add(1, Relaxed);
        }
        Self {
            shard: Rc::clone(shard),
            id,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let shared = &self.shard.shared;
        if let Some(cell) = shared.table.busy(shared.column, self.id) {
            cell.fetch_sub(1, Relaxed);
        }
    }
}

/// A request's head as far as a log needs it.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Uri,
    pub(crate) version: Version,
    pub(crate) fields: &'a HeaderMap,
    /// The stand-in for a refused one: its values mean nothing.
    pub(crate) refused: bool,
}

/// Values of the fields that each of the logs asks for, one log's behind another's.
fn values_for(
    logs: &[HostLog],
    names: fn(&Format) -> &[HeaderName],
    fields: &HeaderMap,
) -> Vec<Option<HeaderValue>> {
    let names = logs.iter().flat_map(|log| names(&log.format));
    names.map(|name| access::take_value(name, fields)).collect()
}

impl Exchange {
    /// Begins with the request's head, before anything is decided but the virtual host.
    /// `host_name`: the name that the client asked for.
    pub(crate) fn new(
        client: Rc<Client>,
        stream: Option<Rc<Stream>>,
        shard: Rc<Shard>,
        current: Rc<Current>,
        host: usize,
        host_name: Option<&str>,
        head: &Head<'_>,
    ) -> Self {
        let logs = &current.plan.hosts[host].logs;
        let facts = (!logs.is_empty()).then(|| {
            if let Some(stream) = &stream {
                stream.count_request(head);
            }
            let wants_name = logs.iter().any(|log| log.format.wants().host_name);
            Box::new(Facts {
                begun: SystemTime::now(),
                method: head.method.clone(),
                target: head.target.clone(),
                version: head.version,
                host_name: (host_name.filter(|_| wants_name))
                    .unwrap_or_default()
                    .to_owned(),
                refused: head.refused,
                request: values_for(logs, Format::request_fields, head.fields),
                response: Vec::new(),
                fields: (logs.iter().any(HostLog::wants_fields))
                    .then(|| [head.fields.clone(), HeaderMap::new()]),
                end: None,
            })
        });
        let log = error_log::Request {
            host,
            id: shard.request_id(),
            connection: client.log_id(&shard),
            logged: false,
        };
        error_log::enter(log);
        Self {
            reason: None,
            ruling: None,
            log,
            unframed: head.version == Version::HTTP_10,
            client,
            stream,
            shard,
            host,
            engaged: None,
            closes: false,
            begun_ns: monotonic_ns(),
            status: 0,
            body_bytes: 0,
            ended: false,
            facts,
            current,
        }
    }

    /// Its virtual host, compiled.
    pub(crate) fn host(&self) -> &Host {
        &self.current.plan.hosts[self.host]
    }

    /// Its virtual host, as configured.
    pub(crate) fn host_spec(&self) -> &spec::Host {
        &self.current.plan.spec.hosts[self.host]
    }

    /// Gives the request to a member; it is busy with it until the exchange ends or goes on to
    /// another.
    pub(crate) fn engage(
        &mut self,
        balancer: usize,
        member: usize,
        route_changed: bool,
        session: Option<&Rc<Session>>,
        target: &Uri,
    ) {
        let id = self.current.plan.balancers[balancer].members[member].key.id;
        // The one before is let go first.
        self.engaged = None;
        self.engaged = Some(Engaged {
            balancer,
            member,
            route_changed,
            session: session.cloned(),
            target: self.wants_filename().then(|| target.clone()),
            line_bytes: 0,
            progress: None,
            link: None,
            sent: 0,
            _busy: Busy::new(&self.shard, id),
        });
    }

    /// The connection that carries the request now.
    pub(crate) fn over(&mut self, link: &Rc<Link>) {
        self.part();
        if let Some(engaged) = &mut self.engaged {
            engaged.link = Some((Rc::clone(link), link.sent.get()));
        }
    }

    /// Lets go of that connection, whose place somebody may wait for: this request itself, when it
    /// is sent again.
    pub(crate) fn part(&mut self) {
        if let Some(engaged) = &mut self.engaged
            && let Some((link, before)) = engaged.link.take()
        {
            engaged.sent += link.sent.get() - before;
        }
    }

    /// Longest wait for the member that it was given to.
    pub(crate) fn member_timeout(&self) -> Duration {
        self.engagement()
            .and_then(|(balancing, engaged)| balancing.members[engaged.member].spec.timeout)
            .unwrap_or(self.host().member_timeout)
    }

    /// The request failed. The first reason stays.
    pub(crate) fn fail(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// Makes what is logged from here on this request's, until [`Exchange::leave_log`] is given
    /// what this returned.
    pub(crate) fn enter_log(&self) -> error_log::Request {
        error_log::enter(self.log)
    }

    /// See [`Exchange::enter_log`].
    pub(crate) fn leave_log(&mut self, before: error_log::Request) {
        self.log = error_log::enter(before);
    }

    /// A member's response begins: its head is here.
    pub(crate) fn first_byte(&self) {
        self.took(Latency::FirstByte, self.elapsed());
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.begun_ns))
    }

    fn took(&self, latency: Latency, time: Duration) {
        if let Some((balancing, _)) = self.engagement()
            && let Some(row) = balancing.row
        {
            self.shard.tally.took(row, latency, time);
        }
    }

    /// The response's head is made.
    pub(crate) fn answer(&mut self, status: StatusCode, fields: &HeaderMap) {
        // Lines of this request were written by this thread, in this turn.
        self.log.logged |= error_log::current()
            == error_log::Request {
                logged: true,
                ..self.log
            };
        self.status = status.as_u16();
        let logs = &self.current.plan.hosts[self.host].logs;
        if let Some(facts) = &mut self.facts {
            if let Some(stream) = &self.stream {
                stream.count_response(fields);
            }
            facts.response = values_for(logs, Format::response_fields, fields);
            if let Some([_, response]) = &mut facts.fields {
                response.clone_from(fields);
            }
        }
    }

    /// Body bytes went to the client.
    pub(crate) fn sent_body(&mut self, count: usize) {
        self.body_bytes += count as u64;
    }

    /// The response's body ends before its end.
    pub(crate) fn cut_short(&mut self, error: &BodyError) {
        if self.unframed {
            self.client.reset.set(true);
        }
        let reason = match error {
            BodyError::TimedOut => Reason::ResponseBodyTimeout,
            BodyError::Client(_) | BodyError::Member(_) => Reason::Truncated,
            // The member waits for the rest of the request in vain: not its fault.
            BodyError::BrokenOff => return self.fail(Reason::BadBody),
        };
        self.fail(reason);
        let Some((balancing, engaged)) = self.engagement() else {
            return;
        };
        let member = &balancing.members[engaged.member];
        tracing::error!(
            target: "sluice::proxy",
            reason = reason.name(),
            "[client {}] AH01110: error reading response body from {}: {error}",
            self.client.peer, member.spec.url
        );
        balancing
            .balancer
            .cell(engaged.member)
            .failed
            .fetch_add(1, Relaxed);
        if balancing.balancer.is_observing() {
            let broken = Answer {
                took: None,
                status: None,
            };
            if balancing
                .balancer
                .observe(engaged.member, broken, monotonic_ns())
            {
                self.shard.tally.up(Number::Ejections);
            }
        }
        if matches!(error, BodyError::TimedOut) && balancing.balancer.failontimeout {
            balancing
                .balancer
                .put_in_error(engaged.member, Cause::Timeout, monotonic_ns());
        }
    }

    /// The response is over; `complete`: as its head promised.
    pub(crate) fn end(&mut self, complete: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let before = self.enter_log();
        if !complete && self.reason.is_none() {
            let known = self.stream.as_ref().and_then(|stream| stream.cut_short());
            let (reason, what) = known.unwrap_or((
                Reason::ClientGone,
                "the client left before the end of the response",
            ));
            self.fail(reason);
            tracing::info!(
                target: "sluice::proxy",
                reason = reason.name(),
                "[client {}] {what}", self.client.peer
            );
        }
        let took = self.elapsed();
        self.count(complete, took);
        self.leave_log(before);
        let connection = if !complete {
            Connection::Aborted
        } else if self.closes {
            Connection::Closed
        } else {
            Connection::Kept
        };
        let facts = self.facts.take();
        if self.log.logged {
            self.client.log_mentions();
        }
        let finished = facts.map(|mut facts| {
            facts.end = Some(End {
                current: Rc::clone(&self.current),
                host: self.host,
                took,
                status: self.status,
                body_bytes: self.body_bytes,
                received: self.received(),
                keepalives: self.client.keepalives(),
                connection,
                by_name: !facts.host_name.is_empty() && policy::is_by_name(self),
                log_id: if self.log.logged { self.log.id } else { 0 },
                connection_log_id: self.client.log_id_if_mentioned(),
                notes: self
                    .ruling
                    .as_ref()
                    .map_or_else(Vec::new, |ruling| ruling.notes()),
                environment: if self.host().logs.iter().any(HostLog::wants_environment) {
                    self.logged_variables()
                } else {
                    Vec::new()
                },
                handler: if self.engaged.is_some() {
                    "proxy-server"
                } else {
                    ""
                },
                filename: if self.wants_filename() {
                    self.filename()
                } else {
                    String::new()
                },
            });
            Finished(facts)
        });
        match &self.stream {
            None => self.client.response_done(finished),
            Some(stream) => {
                if let Some(finished) = finished {
                    finished.log(&self.client, stream.response_head.get() + self.body_bytes);
                }
            }
        }
    }

    /// Bytes of the request so far.
    fn received(&self) -> u64 {
        let Some(stream) = &self.stream else {
            return self.client.received();
        };
        let progress = self
            .engaged
            .as_ref()
            .and_then(|engaged| engaged.progress.as_ref());
        stream.request_head.get() + progress.map_or(0, |progress| progress.taken.get())
    }

    fn engagement(&self) -> Option<(&Balancing, &Engaged)> {
        let engaged = self.engaged.as_ref()?;
        Some((&self.current.plan.balancers[engaged.balancer], engaged))
    }

    /// What the request cost and gave, into the member's slot.
    fn count(&self, complete: bool, took: Duration) {
        let tally = &self.shard.tally;
        tally.request(self.status);
        if let Some(reason) = self.reason {
            tally.failure(reason as usize);
        }
        let Some((balancing, engaged)) = self.engagement() else {
            return;
        };
        if self.status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
            // A tunnel's life is not how long somebody waited.
            self.took(Latency::Total, took);
        }
        tally.member_request(balancing.members[engaged.member].key.id, self.status);
        let balancer = &balancing.balancer;
        let cell = balancer.cell(engaged.member);
        let now = engaged.link.as_ref();
        let now = now.map_or(0, |(link, before)| link.sent.get() - before);
        cell.transferred.fetch_add(engaged.sent + now, Relaxed);
        if engaged.line_bytes == 0 {
            return;
        }
        cell.read
            .fetch_add(engaged.line_bytes + self.body_bytes, Relaxed);
        cell.responses.fetch_add(1, Relaxed);
        if complete && balancer.failonstatus.contains(&self.status) {
            let cause = Cause::Status(self.status);
            balancer.put_in_error(engaged.member, cause, monotonic_ns());
        }
    }

    /// Takes the connection back, if it may carry another request.
    pub(crate) fn give_back(&self, upstream: Box<Upstream>) {
        let Some((_, engaged)) = self.engagement() else {
            return;
        };
        // A response that came before the upload's end leaves the connection inside a request.
        let uploaded = engaged
            .progress
            .as_ref()
            .is_none_or(|progress| progress.done.get());
        if uploaded {
            self.shard.pools.put(upstream, self.shard.wheel.now());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(false);
    }
}
