//! What control does when asked over its socket. The decisions are in [`crate::admin`].

use std::{net::IpAddr, time::Instant};

use lb_common::member::MemberId;

use super::{
    certificates,
    control::{Control, Retired},
    socket::Ask,
    usage,
};
use crate::{
    admin::{
        change,
        limit::LimitChange,
        manager::edit,
        metrics,
        protect::{Protected, What},
        protocol::{
            CaptureWanted, DrainingView, MemberChange, MethodView, Request, Response,
            RouteQuestion, RouteView, ShardView, Snapshot,
        },
    },
    config::{prefix::PrefixError, spec::Prefix},
    proxy::explain,
};

impl Control {
    pub(super) async fn carry_out(&mut self, ask: &Ask) -> Response {
        if let Some(response) = self.look(&ask.request) {
            return response;
        }
        let result = match &ask.request {
            Request::Snapshot | Request::Metrics | Request::Route { .. } => {
                unreachable!("looked at above")
            }
            Request::Upgrade { binary, deadline } => {
                // Where it succeeds this program is no more, and its successor answers.
                Err(self.upgrade(ask, binary.as_deref(), *deadline).await)
            }
            Request::Member {
                balancer,
                member,
                changes,
            } => self.change_member(balancer, member, changes),
            Request::Limit { service, limit } => self.change_limit(*service, limit),
            Request::DenyAdd {
                prefix,
                seconds,
                force,
                caller,
            } => self.deny(prefix, *seconds, *force, caller.as_deref()),
            Request::DenyDelete { prefix } => self.undeny(prefix),
            Request::Set { name, value } => self
                .needs_kernel("there is nothing to set")
                .and_then(|()| {
                    let done = self.dataplane.set(name, value);
                    done.map_err(|error| error.to_string())
                })
                .map(|()| format!("{name} {value}")),
            Request::Reload => self.reload().await,
            Request::Stop { graceful } => {
                self.begin_stop(*graceful).await;
                Ok("stopping".to_owned())
            }
            Request::Detach => self.detach(),
            Request::Capture { wanted } => match self.capture(wanted.as_ref()) {
                Ok(message) => return Response::Done { message },
                Err(message) => Err(message),
            },
        };
        match result {
            Ok(message) => {
                // Reload and stop log for themselves.
                if !matches!(ask.request, Request::Reload | Request::Stop { .. }) {
                    tracing::info!(notice = true, "uid {}: {message}", ask.uid);
                }
                Response::Done { message }
            }
            Err(message) => Response::Refused { message },
        }
    }

    /// The answer to who only wants to look.
    pub(super) fn look(&self, request: &Request) -> Option<Response> {
        let shown = match request {
            Request::Snapshot => self
                .snapshot()
                .map(|snapshot| Response::Snapshot(Box::new(snapshot))),
            Request::Route { question } => self
                .explain(question)
                .map(|view| Response::Route(Box::new(view))),
            Request::Metrics => self.metrics_page().map(|text| Response::Metrics { text }),
            _ => return None,
        };
        Some(shown.unwrap_or_else(|message| Response::Refused { message }))
    }

    fn explain(&self, question: &RouteQuestion) -> Result<RouteView, String> {
        let members = self.snapshot()?.members;
        let state = |b: usize, m: usize| {
            let id = self.published.ids.get(b)?.get(m)?;
            members.iter().find(|view| view.id == id.0).cloned()
        };
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy();
        explain::explain(&self.desired.spec, &state, &machine, question)
            .map_err(|error| error.to_string())
    }

    fn metrics_page(&self) -> Result<String, String> {
        let shown = self.snapshot()?;
        let ids = shown.members.iter().map(|view| MemberId(view.id));
        let mut numbers = self.ledger.numbers(ids);
        numbers.certificates = certificates::expiries(&self.desired.spec, &self.certificates);
        numbers.usage.push(usage::of("control", shown.control_pid));
        if shown.proxy_pid != 0 {
            numbers.usage.push(usage::of("proxy", shown.proxy_pid));
        }
        Ok(metrics::render(&shown, Some(&numbers)))
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let maps = self
            .dataplane
            .snapshot()
            .map_err(|error| error.to_string())?;
        let spec = &self.desired.spec;
        Ok(Snapshot {
            instance: self.options.place.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: true,
            control_pid: std::process::id(),
            proxy_pid: self.proxy.as_ref().map_or(0, super::child::ProxyChild::pid),
            generation: self.published.generation,
            file: self.options.file.display().to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            dataplane: self.dataplane_kind().to_owned(),
            listeners: spec
                .listeners
                .iter()
                .map(|listener| listener.address.to_string())
                .collect(),
            connections: self.ledger.clients(),
            shards: u32::try_from(self.pins.len()).unwrap_or(u32::MAX),
            shard_list: (self.pins.iter().enumerate())
                .map(|(shard, cpu)| ShardView {
                    cpu: *cpu,
                    accepted: self.ledger.accepted_by(shard),
                })
                .collect(),
            steered: self.steered.iter().any(Option::is_some),
            cpus: self.cpus.allowed.clone(),
            cpu_quota: self.cpus.quota.map(|quota| quota as f64 / 1000.0),
            proxy_restarts: self.restarts,
            draining: (self.retired.iter())
                .map(|Retired { proxy, deadline }| DrainingView {
                    pid: proxy.pid(),
                    connections: proxy.connections(),
                    seconds_left: deadline
                        .map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
                })
                .collect(),
            methods: (spec.balancers.iter())
                .filter(|balancer| !balancer.direct)
                .map(|balancer| MethodView {
                    balancer: balancer.name.clone(),
                    lbmethod: edit::name_of(balancer.lbmethod).to_owned(),
                })
                .collect(),
            names: self.name_views(),
            notices: self.notices.clone(),
            ..maps
        })
    }

    pub(super) fn change_member(
        &mut self,
        balancer: &str,
        member: &str,
        changes: &[MemberChange],
    ) -> Result<String, String> {
        let (b, m) = change::find(&self.desired.spec, balancer, member)
            .map_err(|error| error.to_string())?;
        for change in changes {
            change::check(change).map_err(|error| error.to_string())?;
        }
        let table = self.dataplane.table();
        let ids = self.published.ids.get(b).map_or(&[][..], Vec::as_slice);
        let cells: Vec<_> = ids.iter().filter_map(|id| table.cell(*id)).collect();
        let cell = ids
            .get(m)
            .and_then(|id| table.cell(*id))
            .ok_or("this member has no slot in the table")?;
        let done: Vec<String> = changes
            .iter()
            .map(|change| change::apply(change, cell))
            .collect();
        change::restart_election(changes, &cells);
        if changes.iter().any(|c| matches!(c, MemberChange::Enable)) {
            self.dataplane.forgive(ids[m]);
        }
        self.dataplane.state_changed();
        self.keep_slot(b, m);
        // Not at the next look: what the answer says is true when it is read.
        self.dataplane.refresh_rings();
        let balancer = &self.desired.spec.balancers[b];
        Ok(format!(
            "{} of {}: {}",
            balancer.members[m].url,
            balancer.name,
            done.join(", ")
        ))
    }

    fn change_limit(&mut self, service: u16, text: &str) -> Result<String, String> {
        let change = LimitChange::parse(text)?;
        self.needs_kernel("nothing is limited")?;
        for per_service in change.rows() {
            self.dataplane
                .set_limit(service, change.kind, *per_service, change.limit)
                .map_err(|error| error.to_string())?;
        }
        Ok(format!("limit of service {service}: {change}"))
    }

    fn deny(
        &mut self,
        text: &str,
        seconds: Option<u64>,
        force: bool,
        caller: Option<&str>,
    ) -> Result<String, String> {
        let prefix = parse_prefix(text)?;
        if !force && let Some(why) = self.protected(caller).refusal(prefix) {
            return Err(why);
        }
        self.needs_kernel("nothing can be denied")?;
        self.dataplane
            .deny(prefix, seconds)
            .map_err(|error| error.to_string())?;
        let how_long = match seconds {
            Some(seconds) => format!("for {seconds} s"),
            None => "until it is deleted".to_owned(),
        };
        Ok(format!("{prefix} is denied {how_long}"))
    }

    /// Without kernel maps the lists are kept by nobody who drops packets: to say "done" would lie.
    fn needs_kernel(&self, so: &str) -> Result<(), String> {
        if self.dataplane.is_kernel() {
            return Ok(());
        }
        Err(format!(
            "{so}: this instance runs without XDP; `sluice status` and `sluice doctor` tell why"
        ))
    }

    fn undeny(&mut self, text: &str) -> Result<String, String> {
        let prefix = parse_prefix(text)?;
        match self.dataplane.undeny(prefix) {
            Ok(true) => Ok(format!("{prefix} is no longer denied")),
            Ok(false) => Err(format!(
                "{prefix} is not on the list; `sluice deny list` shows it"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What this caller must not deny by accident.
    fn protected(&self, caller: Option<&str>) -> Protected {
        let mut protected = Protected::of_host();
        if let Some(ip) = caller.and_then(|caller| caller.parse::<IpAddr>().ok()) {
            protected.add(ip, What::Caller);
        }
        for listener in &self.desired.spec.listeners {
            protected.add(listener.address.ip(), What::Listener);
        }
        let balancers = self.desired.spec.balancers.iter();
        for (balancer, addresses) in balancers.zip(&self.desired.addresses) {
            for (member, address) in balancer.members.iter().zip(addresses) {
                protected.add(address.ip(), What::Member(member.url.clone()));
            }
        }
        protected
    }

    /// Not logged: it is asked again every second.
    fn capture(&mut self, wanted: Option<&CaptureWanted>) -> Result<String, String> {
        self.needs_kernel("there are no packets to see")?;
        let done = self.dataplane.capture(wanted);
        done.map_err(|error| error.to_string())?;
        Ok("capturing".to_owned())
    }

    fn detach(&mut self) -> Result<String, String> {
        let gone = self.dataplane.detach().map_err(|error| error.to_string())?;
        if gone.is_empty() {
            // Asked for twice, or detached from what has gone: it is as it was to be.
            return Ok("the program is attached to no interface".to_owned());
        }
        let names: Vec<&str> = gone.iter().map(|view| view.name.as_str()).collect();
        Ok(format!(
            "detached from {}: packets are no longer guarded; the proxy goes on, a reload attaches again",
            names.join(", ")
        ))
    }
}

/// A prefix of a request; the message has the whole of it.
fn parse_prefix(text: &str) -> Result<Prefix, String> {
    text.parse()
        .map_err(|error: PrefixError| format!("{text}: {error}"))
}
