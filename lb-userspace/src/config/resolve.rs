//! Drafts to the Spec: inheritance, shared balancers, derived listeners, and warnings about what
//! can only be seen when all is known (apache.md 1.5, 3.1).

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    Loaded,
    draft::{Draft, HostDraft, RouteDraft, TargetDraft},
    log_format,
    report::{Reports, Severity},
    spec::{
        self, AccessLog, Host, LogLevels, Naming, ReadTimeout, RequestLimits, Reverse,
        ReverseTarget, Route, Target,
    },
};

mod elsewhere;
mod listeners;
mod rewrite;
mod routes;
mod sockets;
mod steer;
mod tls;
mod variables;
mod workers;

pub(crate) use workers::stable_route;

/// Makes the Spec, when there is no error.
pub(super) fn resolve(mut draft: Draft<'_>, file: &Path) -> Loaded {
    let mut balancers = Vec::new();
    rewrite::make_workers(&mut draft);
    let names = workers::collect(&mut draft, &mut balancers);
    rewrite::resolve(&mut draft, &names);
    variables::warn(&mut draft);
    let mut hosts = Vec::new();
    for index in 0..draft.hosts.len() {
        hosts.push(host(&mut draft, index, &names, file));
    }
    routes::warn_unreachable(&mut draft);
    let listeners = listeners::collect(&mut draft, file);
    tls::resolve(&mut draft, &listeners, &mut hosts);
    let steers = steer::resolve(&mut draft, &names, &balancers, &listeners);
    elsewhere::check(&mut draft, &balancers);
    sockets::resolve(&mut draft, &hosts, &mut balancers, &names);
    let member_tls = tls::members::resolve(&mut draft, &hosts, &mut balancers, &names);
    tls::members::warn(&mut draft, &member_tls);
    warn_idle_guard(&mut draft);
    let Draft {
        mut spec,
        server_root,
        reports,
        ..
    } = draft;
    file.clone_into(&mut spec.file);
    spec.server_root = server_root;
    spec.listeners = listeners;
    spec.hosts = hosts;
    drop_idle(&mut spec);
    spec.balancers = balancers;
    heartbeat(&mut spec);
    spec.sluice.steers = steers;
    spec.member_tls = member_tls;
    let refused = reports.has_errors();
    Loaded {
        spec: (!refused).then_some(spec),
        reports: reports.finish(file),
    }
}

/// mod_lbmethod_heartbeat's default file, where somebody wants it.
fn heartbeat(spec: &mut spec::Spec) {
    let mut wanted = spec.balancers.iter();
    if wanted.any(|balancer| balancer.lbmethod == spec::LbMethod::Heartbeat)
        && spec.heartbeat == spec::Heartbeat::default()
    {
        spec.heartbeat.storage = Some(spec.server_root.join("logs/hb.dat"));
    }
}

/// Takes sections that say nothing out of their hosts, and all policies of hosts that refuse nobody
/// and do nothing else: a request is then not asked for what nobody wants to know.
fn drop_idle(spec: &mut spec::Spec) {
    let policies = &spec.policies;
    for host in &mut spec.hosts {
        let says = |section: &spec::policy::Section| !policies[section.policy].is_empty();
        host.locations.retain(says);
        host.proxies.retain(says);
        let sections = host.locations.iter().chain(&host.proxies);
        let mut all = host
            .policies
            .iter()
            .copied()
            .chain(sections.map(|section| section.policy));
        if all.all(|policy| policies[policy].is_idle()) {
            host.policies.clear();
            host.locations.clear();
            host.proxies.clear();
        }
    }
}

/// Which balancer a host means by a name or URL: indexes into the Spec's balancers.
pub(super) struct Names {
    balancers: BTreeMap<(usize, String), usize>,
    workers: BTreeMap<(usize, String), usize>,
}

impl Names {
    /// A `balancer://` as a host sees it: the main server's first, then its own.
    fn balancer(&self, host: usize, name: &str) -> Option<usize> {
        let of = |host: usize| self.balancers.get(&(host, name.to_owned())).copied();
        of(0).or_else(|| of(host))
    }

    /// Which hosts have an entry of the Spec's balancers as their own, and how they call it:
    /// `balancer://NAME` or a URL.
    fn about(&self, index: usize) -> Vec<(usize, String)> {
        let of = |list: &BTreeMap<(usize, String), usize>, scheme: &str| {
            list.iter()
                .filter(|(_, at)| **at == index)
                .map(|((host, name), _)| (*host, format!("{scheme}{name}")))
                .collect::<Vec<_>>()
        };
        let mut all = of(&self.balancers, "balancer://");
        all.extend(of(&self.workers, ""));
        all
    }

    /// A direct worker that a host's own line names.
    fn worker(&self, host: usize, url: &str) -> Option<usize> {
        self.workers.get(&(host, url.to_owned())).copied()
    }
}

fn host(draft: &mut Draft<'_>, index: usize, names: &Names, file: &Path) -> Host {
    let reports = &mut draft.reports;
    let main = &draft.hosts[0];
    let own = &draft.hosts[index];
    // Nearest first: what the host says, then what the main server says.
    let layers = if index == 0 {
        vec![own]
    } else {
        vec![main, own]
    };
    let numbers = if index == 0 { vec![0] } else { vec![0, index] };
    let timeout = own
        .timeout
        .or(main.timeout)
        .unwrap_or(Duration::from_mins(1));
    let at = match &own.mark {
        Some(mark) => mark.place(),
        None => spec::Place {
            file: file.to_owned(),
            line: 1,
        },
    };
    Host {
        addresses: own.addresses.clone(),
        server_name: own.server_name.clone().or_else(|| main.server_name.clone()),
        server_port: if own.server_name.is_some() {
            own.server_port
        } else {
            // As in httpd: its own name without a port takes this away again.
            let address = own.addresses.first().and_then(|address| address.port);
            address.or(main.server_port)
        },
        aliases: own.aliases.clone(),
        routes: routes(&draft.hosts, &numbers, names),
        reverses: layers
            .iter()
            .zip(&numbers)
            .flat_map(|(layer, number)| {
                layer.reverses.iter().map(move |reverse| (*number, reverse))
            })
            .map(|(number, reverse)| resolve_reverse(reports, index, number, reverse, names))
            .collect(),
        policies: if index == 0 {
            vec![own.policy]
        } else {
            vec![main.policy, own.policy]
        },
        locations: layers
            .iter()
            .flat_map(|layer| layer.locations.clone())
            .collect(),
        proxies: layers
            .iter()
            .flat_map(|layer| layer.proxies.clone())
            .collect(),
        // Measured: no virtual host inherits it.
        encoded_slashes: own.encoded_slashes.unwrap_or_default(),
        preserve_host: own.preserve_host.or(main.preserve_host).unwrap_or(false),
        add_headers: own.add_headers.or(main.add_headers).unwrap_or(true),
        naming: Naming {
            strict_host: own.strict_host.or(main.strict_host).unwrap_or(false),
            strict_sni: own.strict_sni.or(main.strict_sni).unwrap_or(false),
            canonical: spec::Canonical {
                by_name: own.canonical_name.or(main.canonical_name).unwrap_or(false),
                physical_port: own.physical_port.or(main.physical_port).unwrap_or(false),
            },
        },
        forwards_expect: own.forwards_expect.or(main.forwards_expect).unwrap_or(true),
        via: own.via.or(main.via).unwrap_or_default(),
        bad_header: own.bad_header.or(main.bad_header).unwrap_or_default(),
        max_forwards: own
            .max_forwards
            .or(main.max_forwards)
            .and_then(|hops| u32::try_from(hops).ok()),
        timeout,
        proxy_timeout: own.proxy_timeout.or(main.proxy_timeout),
        keep_alive: own.keep_alive.or(main.keep_alive).unwrap_or(true),
        keep_alive_timeout: own
            .keep_alive_timeout
            .or(main.keep_alive_timeout)
            .unwrap_or(Duration::from_secs(5)),
        max_keep_alive_requests: own
            .max_keep_alive_requests
            .or(main.max_keep_alive_requests)
            .unwrap_or(100),
        header_timeout: own
            .header_timeout
            .or(main.header_timeout)
            .unwrap_or(HEADER_TIMEOUT),
        body_timeout: own
            .body_timeout
            .or(main.body_timeout)
            .unwrap_or(BODY_TIMEOUT),
        request_limits: request_limits(main, own),
        tls: None,
        protocols: own.http2.resolve(&main.http2),
        access_logs: access_logs(reports, main, own),
        error_log: own.error_log.clone(),
        error_log_format: own.error_log_format.clone(),
        log_levels: LogLevels {
            level: own.log_level.or(main.log_level).unwrap_or_default(),
            // As in httpd: a host that names modules has its own list.
            modules: if own.log_modules.is_empty() {
                main.log_modules.clone()
            } else {
                own.log_modules.clone()
            },
        },
        at,
    }
}

/// mod_reqtimeout's defaults.
const HEADER_TIMEOUT: ReadTimeout = ReadTimeout {
    initial: Duration::from_secs(20),
    max: Some(Duration::from_secs(40)),
    min_rate: 500,
};
const BODY_TIMEOUT: ReadTimeout = ReadTimeout {
    initial: Duration::from_secs(20),
    max: None,
    min_rate: 500,
};

fn request_limits(main: &HostDraft, own: &HostDraft) -> RequestLimits {
    let default = RequestLimits::default();
    let pick = |of: fn(&HostDraft) -> Option<u32>, default| of(own).or(of(main)).unwrap_or(default);
    RequestLimits {
        line: pick(|host| host.limit_request_line, default.line),
        fields: pick(|host| host.limit_request_fields, default.fields),
        field_size: pick(|host| host.limit_request_field_size, default.field_size),
    }
}

/// `ProxyPass` as first-match list. What stands in `<Location>` is tried first, the last section
/// first, for there the last that matches wins; then the main server's lines, then the host's.
fn routes(hosts: &[HostDraft], numbers: &[usize], names: &Names) -> Vec<Route> {
    let locations = numbers.iter().flat_map(|number| {
        hosts[*number]
            .location_routes
            .iter()
            .map(move |r| (*number, r))
    });
    let mut ordered: Vec<(usize, &RouteDraft)> = locations.collect();
    ordered.reverse();
    ordered.extend(
        numbers
            .iter()
            .flat_map(|number| hosts[*number].routes.iter().map(move |r| (*number, r))),
    );
    // As in httpd, where a path is looked at before it is decoded.
    ordered.sort_by_key(|(_, route)| route.mapping == spec::Mapping::Decoded);
    let host = numbers.last().copied().unwrap_or(0);
    ordered
        .into_iter()
        .filter_map(|(number, route)| {
            let target = match &route.target {
                TargetDraft::Local => Target::Local,
                TargetDraft::Balancer { name, path } => Target::Balancer {
                    balancer: names
                        .balancer(host, name)
                        .or_else(|| names.balancer(number, name))?,
                    path: path.clone(),
                },
                TargetDraft::Worker { url, path } => Target::Balancer {
                    balancer: names.worker(number, url)?,
                    path: path.clone(),
                },
            };
            Some(Route {
                path: route.path.clone(),
                pattern: route.pattern.clone(),
                target,
                nocanon: route.nocanon,
                mapping: route.mapping,
                interpolate: route.interpolate,
                at: route.mark.place(),
            })
        })
        .collect()
}

fn resolve_reverse(
    reports: &mut Reports,
    host: usize,
    number: usize,
    reverse: &super::draft::ReverseDraft,
    names: &Names,
) -> Reverse {
    let url = &reverse.url;
    let target = match super::directives::balancer_name(url) {
        None => ReverseTarget::Url(url.clone()),
        Some((name, path)) => {
            if let Some(balancer) = names.balancer(host, &name) {
                ReverseTarget::Balancer {
                    balancer,
                    path: path.to_owned(),
                }
            } else {
                // Said once, where it stands; not again for each host that inherits it.
                if host == number {
                    let message = format!("ProxyPassReverse: there is no balancer://{name}");
                    let help = "the line matches nothing";
                    reports.push(Severity::Warning, reverse.mark.at(), message, help);
                }
                ReverseTarget::Url(url.clone())
            }
        }
    };
    Reverse {
        path: reverse.path.clone(),
        location: reverse.location.clone(),
        target,
        interpolate: reverse.interpolate,
    }
}

/// A host's own logs, or the main server's where it has none (mod_log_config's rule). Nicknames are
/// looked up in its own formats, then the main server's.
fn access_logs(reports: &mut Reports, main: &HostDraft, own: &HostDraft) -> Vec<AccessLog> {
    let is_main = own.mark.is_none();
    let logs = if own.logs.is_empty() {
        &main.logs
    } else {
        &own.logs
    };
    let says = is_main || !own.logs.is_empty();
    let find = |name: &str| {
        let of = |host: &HostDraft| {
            let found = host
                .formats
                .iter()
                .rev()
                .find(|(nickname, _)| nickname == name);
            found.map(|(_, format)| format.clone())
        };
        of(own).or_else(|| of(main)).or_else(|| {
            // A site file alone has not the lines of Debian's tree that define the last two.
            match name {
                _ if name.eq_ignore_ascii_case("clf") => Some(DEFAULT_FORMAT.to_owned()),
                "common" => Some(COMMON_FORMAT.to_owned()),
                "combined" => Some(format!("{COMMON_FORMAT} {COMBINED_FORMAT}")),
                _ => None,
            }
        })
    };
    let default = own.default_format.as_ref().or(main.default_format.as_ref());
    logs.iter()
        .chain(&main.global_logs)
        .map(|log| {
            let wanted = log.format.as_ref().or(default);
            let format = match wanted {
                None => DEFAULT_FORMAT.to_owned(),
                Some(text) => find(text).unwrap_or_else(|| text.clone()),
            };
            if !format.contains('%') && says {
                let message = format!(
                    "'{format}' is no nickname of a LogFormat: every line will be that text"
                );
                let help = format!(
                    r#"define it: LogFormat "%h %l %u %t \"%r\" %>s %O \"%{{Referer}}i\" \"%{{User-Agent}}i\"" {format}"#
                );
                let help = if format.contains(char::is_whitespace) { "" } else { &help };
                reports.push(Severity::Warning, log.mark.at(), message, help);
            } else if let Err(error) = log_format::parse(&format)
                && says
            {
                reports.push(Severity::Error, log.mark.at(), error.to_string(), "");
            }
            AccessLog {
                target: log.target.clone(),
                condition: log.condition.clone(),
                format,
            }
        })
        .collect()
}

fn warn_idle_guard(draft: &mut Draft<'_>) {
    let sluice = &draft.spec.sluice;
    if let Some(place) = &sluice.needs_dataplane
        && sluice.interfaces.is_empty()
        && sluice.steers.is_empty()
    {
        let message = format!(
            "line {}: Guard and Steer directives without an XDPInterface do nothing",
            place.line
        );
        let help = "name the interface: XDPInterface eth0";
        let file = place.file.clone();
        draft
            .reports
            .push_file(Severity::Warning, &file, u32::MAX, message, help);
    }
}

/// The format of `TransferLog` without a LogFormat, and of the nickname CLF.
const DEFAULT_FORMAT: &str = "%h %l %u %t \"%r\" %>s %b";

/// Debian's `common`, and what its `combined` has beside it.
const COMMON_FORMAT: &str = "%h %l %u %t \"%r\" %>s %O";
const COMBINED_FORMAT: &str = "\"%{Referer}i\" \"%{User-Agent}i\"";
