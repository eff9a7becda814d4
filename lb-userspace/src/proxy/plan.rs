//! A generation compiled for the shards: everything that can be worked out once is worked out here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderValue;
use lb_common::member::MemberId;

use super::{
    Generation, LogFiles, gate, path, policy, reverse,
    shard::Shared,
    tls::{
        self, HostTls, Resumption, TlsError,
        member::{Peer, Trust},
    },
    vhost,
};
use crate::{
    balancer::{Balancer, BuildError},
    config::spec::{self, LogTarget, Spec},
    expr::{Facts, Table},
    telemetry::{access::Format, sink::Sink},
};

/// One generation, shared by the shards.
pub(crate) struct Plan {
    /// Its number.
    pub(crate) number: u64,
    /// The configuration.
    pub(crate) spec: Arc<Spec>,
    /// Parallel to `spec.hosts`.
    pub(crate) hosts: Vec<Host>,
    /// Theirs.
    pub(crate) names: vhost::Names,
    /// Parallel to `spec.balancers`.
    pub(crate) balancers: Vec<Balancing>,
    /// Access logs, one for each file.
    pub(crate) sinks: Vec<Sink>,
    /// Parallel to `spec.member_tls`.
    trust: Vec<Arc<Trust>>,
}

/// What is worked out for a virtual host.
pub(crate) struct Host {
    /// Limits on request heads, for connections whose first virtual host this is.
    pub(crate) limits: gate::Limits,
    /// Of its `ProxyPass` lines.
    pub(crate) routes: path::Index,
    /// `ProxyPassReverse`.
    pub(crate) reverses: Vec<reverse::Rule>,
    /// X-Forwarded-Server.
    pub(crate) forwarded_server: HeaderValue,
    /// `ServerName`, or this machine's name.
    pub(crate) name: String,
    /// `CustomLog`.
    pub(crate) logs: Vec<HostLog>,
    /// For members without a timeout of their own.
    pub(crate) member_timeout: Duration,
    /// TLS to its clients.
    pub(crate) tls: Option<HostTls>,
    /// What sections say of its requests; `None`: nothing.
    pub(crate) rules: Option<policy::Rules>,
}

/// One access log of a virtual host.
pub(crate) struct HostLog {
    /// Index into [`Plan::sinks`].
    pub(crate) sink: usize,
    /// Its lines.
    pub(crate) format: Format,
    /// `env=`.
    pub(crate) condition: Option<spec::LogCondition>,
}

impl HostLog {
    /// Whether its lines, or the choice of them, need the request's variables.
    pub(crate) fn wants_environment(&self) -> bool {
        self.condition.is_some() || self.format.wants().environment
    }

    /// Whether its lines, or the choice of them, may need the decoded path.
    pub(crate) fn wants_path(&self) -> bool {
        self.condition.is_some() || self.format.wants().path
    }

    /// Whether the choice of its lines may need any field.
    pub(crate) fn wants_fields(&self) -> bool {
        matches!(self.condition, Some(spec::LogCondition::Expr(_)))
    }

    /// Whether a request has a line.
    pub(crate) fn takes(&self, facts: &dyn Facts) -> bool {
        match &self.condition {
            None => true,
            Some(spec::LogCondition::Variable { name, present }) => {
                facts.entry(Table::Environment, name.as_bytes()).is_some() == *present
            }
            Some(spec::LogCondition::Expr(expr)) => expr.holds(facts),
        }
    }
}

/// A balancer with what the proxy needs of its members.
pub(crate) struct Balancing {
    /// Where its latencies are counted; `None`: nowhere.
    pub(crate) row: Option<usize>,
    /// Who is next.
    pub(crate) balancer: Balancer,
    /// Parallel to the balancer's members.
    pub(crate) members: Vec<Destination>,
}

/// What is worked out for a member.
pub(crate) struct Destination {
    /// Slot and life of it: the key of its connections.
    pub(crate) key: Key,
    /// Host field without `ProxyPreserveHost`.
    pub(crate) host: HeaderValue,
    /// Path put in front, without the slash that would double.
    pub(crate) path: String,
    /// Configuration.
    pub(crate) spec: spec::Member,
    /// Connections to it, all shards together.
    pub(crate) places: Arc<Places>,
    /// Its name, where further addresses of it may be tried: packets know one, and what becomes of
    /// that has to be seen where they are steered.
    pub(crate) name: Option<Box<str>>,
    /// Whom to expect over TLS; `None`: cleartext.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// Which connections are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Slot.
    pub(crate) id: MemberId,
    /// Life of the slot.
    pub(crate) incarnation: u32,
}

/// Connections of this process to one member, for `max`.
#[derive(Debug, Default)]
pub(crate) struct Places {
    open: AtomicU32,
    waiting: AtomicU32,
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

/// Somebody waits for a place.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Places>);

impl Places {
    /// Takes a place if fewer than `max` are taken.
    pub(crate) fn take(self: &Arc<Self>, max: Option<u32>) -> Option<Place> {
        let max = max.unwrap_or(u32::MAX);
        self.open
            .fetch_update(Relaxed, Relaxed, |open| (open < max).then_some(open + 1))
            .ok()?;
        Some(Place(Arc::clone(self)))
    }

    /// Says that somebody waits.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(Arc::clone(self))
    }

    /// Whether anybody waits, in any shard.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }
}

impl Place {
    /// Whose place it is.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// A generation that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// Slots and balancers do not fit.
    #[error("{balancers} balancers but slots for {slots}")]
    Slots {
        /// In the configuration.
        balancers: usize,
        /// Lists given.
        slots: usize,
    },
    /// A balancer and its slots do not fit.
    #[error(transparent)]
    Balancer(#[from] BuildError),
    /// A name that cannot stand in a header field.
    #[error("{0:?} cannot be sent in a header field")]
    Value(String),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A log that control did not open.
    #[error("access log {0} was not opened")]
    Log(String),
}

impl Plan {
    /// Compiles a generation. What `previous` knows of members that remain is taken over.
    pub(crate) fn new(
        generation: Generation,
        files: LogFiles,
        shared: &Shared,
        resumption: &Resumption,
        previous: Option<&Self>,
    ) -> Result<Self, PlanError> {
        let spec = generation.spec;
        if generation.ids.len() != spec.balancers.len() {
            return Err(PlanError::Slots {
                balancers: spec.balancers.len(),
                slots: generation.ids.len(),
            });
        }
        let places: HashMap<Key, Arc<Places>> = previous
            .into_iter()
            .flat_map(|plan| &plan.balancers)
            .flat_map(|balancing| &balancing.members)
            .map(|member| (member.key, Arc::clone(&member.places)))
            .collect();
        let trusted = previous.map_or(&[][..], |plan| &plan.trust);
        let trust = tls::member::configure(&spec, &generation.certificates, trusted)?;
        let peers: HashMap<Key, &Arc<Peer>> = previous
            .into_iter()
            .flat_map(|plan| &plan.balancers)
            .flat_map(|balancing| &balancing.members)
            .filter_map(|member| Some((member.key, member.peer.as_ref()?)))
            .collect();
        let balancers = spec
            .balancers
            .iter()
            .zip(&generation.ids)
            .enumerate()
            .map(|(index, (balancer, ids))| {
                let is_steered = spec.sluice.steers.iter().any(|s| s.balancer == index);
                let known = previous.and_then(|plan| plan.balancer(&balancer.name));
                let made = Balancer::new(balancer, ids, Arc::clone(&shared.table), known)?
                    .hearing(&shared.heartbeats);
                let members = made
                    .members()
                    .iter()
                    .zip(&balancer.members)
                    .map(|(member, spec)| {
                        let key = Key {
                            id: member.id,
                            incarnation: member.incarnation,
                        };
                        let mut member = Destination::new(key, spec, balancer.direct, &places)?;
                        member.name = (spec.name().filter(|_| !is_steered)).map(Box::from);
                        member.peer = Peer::of(spec, &trust, peers.get(&key).copied())?;
                        Ok(member)
                    })
                    .collect::<Result<_, PlanError>>()?;
                Ok(Balancing {
                    row: shared.counters.row(&balancer.name),
                    balancer: made,
                    members,
                })
            })
            .collect::<Result<_, PlanError>>()?;

        let opened: HashMap<_, _> = files
            .into_iter()
            .map(|(target, file)| (target, Sink::of(Arc::new(file))))
            .collect();
        let mut targets = Vec::new();
        let mut sinks = Vec::new();
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy().into_owned();
        let tls = tls::configure(&spec, &generation.certificates, resumption)?;
        let hosts = spec
            .hosts
            .iter()
            .zip(tls)
            .map(|(host, tls)| {
                let name = host.server_name.as_ref().unwrap_or(&machine).clone();
                let logs = host
                    .access_logs
                    .iter()
                    .map(|log| {
                        let known = targets.iter().position(|target| *target == &log.target);
                        let index = known.unwrap_or(targets.len());
                        if known.is_none() {
                            targets.push(&log.target);
                            sinks.push(sink(&log.target, &opened)?);
                        }
                        Ok(HostLog {
                            sink: index,
                            format: Format::compile(&log.format),
                            condition: log.condition.clone(),
                        })
                    })
                    .collect::<Result<_, PlanError>>()?;
                let limits = &host.request_limits;
                Ok(Host {
                    limits: gate::Limits {
                        line: limits.line as usize,
                        fields: match limits.fields {
                            0 => UNLIMITED_FIELDS,
                            limit => limit as usize,
                        },
                        field: limits.field_size as usize,
                    },
                    routes: path::Index::new(&host.routes),
                    reverses: reverse::Rule::all(&host.reverses, &spec.balancers),
                    forwarded_server: value(name.clone())?,
                    name,
                    logs,
                    member_timeout: host.proxy_timeout.unwrap_or(host.timeout),
                    tls,
                    rules: policy::Rules::new(&spec, host),
                })
            })
            .collect::<Result<_, PlanError>>()?;
        Ok(Self {
            number: generation.number,
            names: vhost::Names::new(&spec.hosts),
            hosts,
            balancers,
            sinks,
            spec,
            trust,
        })
    }

    fn balancer(&self, name: &str) -> Option<&Balancer> {
        self.balancers
            .iter()
            .map(|balancing| &balancing.balancer)
            .find(|balancer| balancer.name == name)
    }
}

/// `LimitRequestFields 0`: hyper keeps room for as many as there may be.
const UNLIMITED_FIELDS: usize = 1024;

impl Destination {
    fn new(
        key: Key,
        spec: &spec::Member,
        direct: bool,
        places: &HashMap<Key, Arc<Places>>,
    ) -> Result<Self, PlanError> {
        let host = if spec.host.contains(':') {
            format!("[{}]", spec.host)
        } else {
            spec.host.clone()
        };
        let host = if spec.port == spec.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", spec.port)
        };
        Ok(Self {
            key,
            host: value(host)?,
            // The route of a direct worker holds its whole path.
            path: if direct {
                String::new()
            } else {
                spec.path.clone()
            },
            spec: spec.clone(),
            places: places.get(&key).map(Arc::clone).unwrap_or_default(),
            name: None,
            peer: None,
        })
    }
}

fn value(text: String) -> Result<HeaderValue, PlanError> {
    HeaderValue::try_from(&text).map_err(|_| PlanError::Value(text))
}

fn sink(target: &LogTarget, opened: &HashMap<LogTarget, Sink>) -> Result<Sink, PlanError> {
    match target {
        LogTarget::Stderr => Ok(Sink::Stderr),
        target => opened
            .get(target)
            .cloned()
            .ok_or_else(|| PlanError::Log(format!("{target:?}"))),
    }
}
