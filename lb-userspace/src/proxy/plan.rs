//! A generation compiled for the shards: everything that can be worked out once is worked out here.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderValue;
use lb_common::member::MemberId;

use super::{
    Generation, LogFiles, gate, reverse,
    shard::Shared,
    tls::{self, HostTls, Resumption, TlsError},
};
use crate::{
    balancer::{Balancer, BuildError},
    config::spec::{self, LogTarget, Spec},
    telemetry::access::{Format, Sink},
};

/// One generation, shared by the shards.
pub(crate) struct Plan {
    /// Its number.
    pub(crate) number: u64,
    /// The configuration.
    pub(crate) spec: Arc<Spec>,
    /// Parallel to `spec.hosts`.
    pub(crate) hosts: Vec<Host>,
    /// Parallel to `spec.balancers`.
    pub(crate) balancers: Vec<Balancing>,
    /// Limits on request heads.
    pub(crate) limits: gate::Limits,
    /// Access logs, one for each file.
    pub(crate) sinks: Vec<Sink>,
}

/// What is worked out for a virtual host.
pub(crate) struct Host {
    /// `ProxyPassReverse`.
    pub(crate) reverses: Vec<reverse::Rule>,
    /// X-Forwarded-Server.
    pub(crate) forwarded_server: HeaderValue,
    /// `ServerName`, or this machine's name.
    pub(crate) name: String,
    /// Index into [`Plan::sinks`], and the format.
    pub(crate) logs: Vec<(usize, Format)>,
    /// For members without a timeout of their own.
    pub(crate) member_timeout: Duration,
    /// TLS to its clients.
    pub(crate) tls: Option<HostTls>,
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
        let balancers = spec
            .balancers
            .iter()
            .zip(&generation.ids)
            .map(|(balancer, ids)| {
                let known = previous.and_then(|plan| plan.balancer(&balancer.name));
                let made = Balancer::new(balancer, ids, Arc::clone(&shared.table), known)?;
                let members = made
                    .members()
                    .iter()
                    .zip(&balancer.members)
                    .map(|(member, spec)| {
                        let key = Key {
                            id: member.id,
                            incarnation: member.incarnation,
                        };
                        Destination::new(key, spec, balancer.direct, &places)
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Balancing {
                    row: shared.counters.row(&balancer.name),
                    balancer: made,
                    members,
                })
            })
            .collect::<Result<_, PlanError>>()?;

        let files: HashMap<_, _> = files
            .into_iter()
            .map(|(path, file)| (path, Arc::new(file)))
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
                            sinks.push(sink(&log.target, &files)?);
                        }
                        Ok((index, Format::compile(&log.format)))
                    })
                    .collect::<Result<_, PlanError>>()?;
                Ok(Host {
                    reverses: reverse::Rule::all(&host.reverses, &spec.balancers),
                    forwarded_server: value(name.clone())?,
                    name,
                    logs,
                    member_timeout: host.proxy_timeout.unwrap_or(host.timeout),
                    tls,
                })
            })
            .collect::<Result<_, PlanError>>()?;
        Ok(Self {
            number: generation.number,
            hosts,
            balancers,
            limits: gate::Limits {
                line: spec.limit_request_line as usize,
                fields: match spec.limit_request_fields {
                    0 => UNLIMITED_FIELDS,
                    limit => limit as usize,
                },
                field: spec.limit_request_field_size as usize,
            },
            sinks,
            spec,
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
        let host = match spec.scheme {
            spec::Scheme::Http if spec.port == 80 => host,
            // No route leads to a member for L4 alone.
            spec::Scheme::Http | spec::Scheme::Tcp | spec::Scheme::Udp => {
                format!("{host}:{}", spec.port)
            }
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
        })
    }
}

fn value(text: String) -> Result<HeaderValue, PlanError> {
    HeaderValue::try_from(&text).map_err(|_| PlanError::Value(text))
}

fn sink(
    target: &LogTarget,
    files: &HashMap<std::path::PathBuf, Arc<std::fs::File>>,
) -> Result<Sink, PlanError> {
    match target {
        LogTarget::Stderr => Ok(Sink::Stderr),
        LogTarget::File(path) => files
            .get::<Path>(path)
            .map(|file| Sink::File(Arc::clone(file)))
            .ok_or_else(|| PlanError::Log(path.display().to_string())),
    }
}
