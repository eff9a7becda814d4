//! What the directives said, before inheritance: the main server and each virtual host on its own.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, rc::Rc, time::Duration};

use super::{
    report::{At, Reports, Severity},
    source::Source,
    spec,
    syntax::lexer::{FileText, Span},
};

/// Where something stands; unlike [`At`] it can be kept.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Its file.
    pub file: Rc<FileText>,
    /// httpd's line number.
    pub line: u32,
    /// The word concerned.
    pub span: Span,
    /// Place in the order of reading.
    pub order: u32,
}

impl Mark {
    /// For a report.
    pub(crate) fn at(&self) -> At<'_> {
        At {
            file: &self.file,
            line: self.line,
            span: Some(self.span),
            order: self.order,
        }
    }

    /// For the Spec.
    pub(crate) fn place(&self) -> spec::Place {
        spec::Place {
            file: self.file.path.clone(),
            line: self.line,
        }
    }
}

/// Everything, as it grows.
pub(crate) struct Draft<'a> {
    /// Where GuardDenyFile reads from.
    pub source: &'a dyn Source,
    /// Where PassEnv reads from.
    pub environment: &'a super::Environment,
    /// `ServerRoot`.
    pub server_root: PathBuf,
    /// The Spec's plain parts, filled in directly.
    pub spec: spec::Spec,
    /// `Listen`, in order.
    pub listens: Vec<Listen>,
    /// `SteerPass`, in order.
    pub steers: Vec<SteerDraft>,
    /// `AcceptFilter` of http and of https.
    pub deferred: [bool; 2],
    /// Index 0: the main server.
    pub hosts: Vec<HostDraft>,
    /// `RewriteRule` and its kin, by the policy of the place they stand in.
    pub rewrites: BTreeMap<usize, RewriteDraft>,
    /// What there is to say.
    pub reports: Reports,
    /// Families of directives whose notice was given.
    pub noticed: Vec<&'static str>,
    /// Variables of requests that are asked for and may be none, in order.
    pub asked: Vec<Asked>,
    /// What must not be for a member.
    pub elsewhere: Vec<Elsewhere>,
}

/// A directive about requests to other hosts.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    /// Its name.
    pub directive: &'static str,
    /// What it is for.
    pub applies: Applies,
    /// Where.
    pub mark: Mark,
}

/// Which URLs a directive about other hosts is for.
#[derive(Clone, Debug)]
pub(crate) enum Applies {
    /// All.
    Everything,
    /// Those that begin with this, lower case.
    Prefix(String),
    /// Those that match.
    Pattern(crate::pattern::Pattern),
    /// Those whose host has this in its name, lower case.
    Host(String),
}

/// A variable of requests that something asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// As written.
    pub name: String,
    /// What for.
    pub by: AskedFor,
    /// Where.
    pub mark: Mark,
}

/// What a variable is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskedFor {
    /// Its value.
    Value,
    /// Which requests have a line in a log: those that have it, or have it not.
    Log {
        /// Those that have it.
        present: bool,
    },
}

/// One `Listen`.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    /// IPv6 unspecified where no address was given.
    pub address: SocketAddr,
    /// `https` was said, or nothing and the port is 443.
    pub https: bool,
    /// Its address.
    pub mark: Mark,
}

/// One `SteerPass`.
#[derive(Clone, Debug)]
pub(crate) struct SteerDraft {
    /// As in the Spec.
    pub transport: spec::Transport,
    /// As in the Spec.
    pub address: Option<std::net::IpAddr>,
    /// As in the Spec.
    pub first_port: u16,
    /// As in the Spec.
    pub last_port: u16,
    /// Lower case.
    pub balancer: String,
    /// As in the Spec.
    pub forward: spec::Forward,
    /// As in the Spec.
    pub hash: spec::FlowHash,
    /// As in the Spec.
    pub reset_on_empty: bool,
    /// The service.
    pub mark: Mark,
    /// The balancer.
    pub balancer_mark: Mark,
}

/// The main server or one virtual host.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostDraft {
    /// Addresses of the `<VirtualHost>`.
    pub addresses: Vec<spec::HostAddress>,
    /// The `<VirtualHost`; `None`: the main server.
    pub mark: Option<Mark>,
    /// As in the Spec.
    pub server_name: Option<String>,
    /// As in the Spec.
    pub server_port: Option<u16>,
    /// As in the Spec.
    pub aliases: Vec<String>,
    /// `ProxyPass` outside `<Location>`.
    pub routes: Vec<RouteDraft>,
    /// `ProxyPass` inside `<Location>`, in the order of the sections.
    pub location_routes: Vec<RouteDraft>,
    /// `ProxyPassReverse`, everywhere.
    pub reverses: Vec<ReverseDraft>,
    /// Balancers this host defined or named.
    pub balancers: Vec<BalancerDraft>,
    /// Direct workers this host named.
    pub workers: Vec<WorkerDraft>,
    /// `BalancerPersist`
    pub balancer_persist: Option<bool>,
    /// `AllowEncodedSlashes`
    pub encoded_slashes: Option<spec::Slashes>,
    /// `ProxyPreserveHost`
    pub preserve_host: Option<bool>,
    /// `ProxyAddHeaders`
    pub add_headers: Option<bool>,
    /// `UseCanonicalName On`
    pub canonical_name: Option<bool>,
    /// `UseCanonicalPhysicalPort`
    pub physical_port: Option<bool>,
    /// `StrictHostCheck`
    pub strict_host: Option<bool>,
    /// `SSLStrictSNIVHostCheck`
    pub strict_sni: Option<bool>,
    /// `Proxy100Continue`
    pub forwards_expect: Option<bool>,
    /// `ProxySourceAddress`, and where.
    pub source_address: Option<(std::net::IpAddr, Mark)>,
    /// `ProxyReceiveBufferSize`, and where; `None` within: the system's.
    pub receive_buffer: Option<(Option<u32>, Mark)>,
    /// `ProxyVia`
    pub via: Option<spec::Via>,
    /// `ProxyMaxForwards`; below 0: none.
    pub max_forwards: Option<i64>,
    /// `ProxyBadHeader`
    pub bad_header: Option<spec::BadHeader>,
    /// `Timeout`
    pub timeout: Option<Duration>,
    /// `ProxyTimeout`
    pub proxy_timeout: Option<Duration>,
    /// `KeepAlive`
    pub keep_alive: Option<bool>,
    /// `KeepAliveTimeout`
    pub keep_alive_timeout: Option<Duration>,
    /// `MaxKeepAliveRequests`
    pub max_keep_alive_requests: Option<u32>,
    /// `RequestReadTimeout header=`
    pub header_timeout: Option<spec::ReadTimeout>,
    /// `RequestReadTimeout body=`
    pub body_timeout: Option<spec::ReadTimeout>,
    /// `LimitRequestLine`
    pub limit_request_line: Option<u32>,
    /// `LimitRequestFields`
    pub limit_request_fields: Option<u32>,
    /// `LimitRequestFieldSize`
    pub limit_request_field_size: Option<u32>,
    /// What SSL directives said.
    pub tls: super::directives::tls::TlsDraft,
    /// What `Protocols` and H2 directives said.
    pub http2: super::directives::http2::Http2Draft,
    /// What SSLProxy directives said outside of `<Proxy>`.
    pub member_tls: super::directives::tls::MemberTlsDraft,
    /// And in its sections, by what these are for: `balancer://NAME` or a URL.
    pub member_tls_sections: Vec<(String, super::directives::tls::MemberTlsDraft)>,
    /// `LogFormat` with a nickname.
    pub formats: Vec<(String, String)>,
    /// `LogFormat` without one, for `TransferLog`.
    pub default_format: Option<String>,
    /// `CustomLog` and `TransferLog`.
    pub logs: Vec<LogDraft>,
    /// `GlobalLog`; of the main server only.
    pub global_logs: Vec<LogDraft>,
    /// `ProxyHCExpr`
    pub health_exprs: Vec<(String, crate::expr::Expr)>,
    /// `ProxyHCTemplate`
    pub health_templates: Vec<(String, spec::Health)>,
    /// `ErrorLog`
    pub error_log: Option<spec::LogTarget>,
    /// What it says of requests outside of sections: index into the Spec's policies.
    pub policy: usize,
    /// `<Location>` and `<LocationMatch>`, in order.
    pub locations: Vec<spec::policy::Section>,
    /// `<Proxy>` and `<ProxyMatch>`, in order.
    pub proxies: Vec<spec::policy::Section>,
    /// `ErrorLogFormat`
    pub error_log_format: Option<spec::ErrorLogFormat>,
    /// `LogLevel` for every module.
    pub log_level: Option<spec::LogLevel>,
    /// `LogLevel` for single modules.
    pub log_modules: Vec<(String, spec::LogLevel)>,
}

/// One `ProxyPass`.
#[derive(Clone, Debug)]
pub(crate) struct RouteDraft {
    /// As in the Spec.
    pub path: String,
    /// As in the Spec.
    pub pattern: Option<crate::pattern::Pattern>,
    /// Where it leads.
    pub target: TargetDraft,
    /// As in the Spec.
    pub nocanon: bool,
    /// As in the Spec.
    pub mapping: spec::Mapping,
    /// As in the Spec.
    pub interpolate: bool,
    /// Its path.
    pub mark: Mark,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub(crate) enum TargetDraft {
    /// `!`
    Local,
    /// `balancer://name/path`
    Balancer {
        /// Lower case.
        name: String,
        /// What follows the name.
        path: String,
    },
    /// A URL.
    Worker {
        /// Canonical.
        url: String,
        /// What follows the authority.
        path: String,
    },
}

/// The rewriting directives of one place.
#[derive(Clone, Debug, Default)]
pub(crate) struct RewriteDraft {
    /// Index of the host it is in.
    pub host: usize,
    /// `RewriteCond` lines that wait for their rule, with the place of the first.
    pub conditions: Vec<(crate::rewrite::Condition, Mark)>,
    /// `RewriteRule`, in order.
    pub rules: Vec<RuleDraft>,
    /// `RewriteOptions`; `None`: as the main server says.
    pub options: Option<crate::rewrite::Options>,
    /// `RewriteMap`.
    pub maps: Vec<(String, crate::rewrite::Function)>,
}

/// One `RewriteRule`.
#[derive(Clone, Debug)]
pub(crate) struct RuleDraft {
    /// As in the Spec; a `[P]` rule's balancer is filled in when all are known.
    pub rule: crate::rewrite::Rule,
    /// Where `[P]` leads.
    pub target: Option<TargetDraft>,
    /// Its pattern.
    pub mark: Mark,
}

/// One `ProxyPassReverse`.
#[derive(Clone, Debug)]
pub(crate) struct ReverseDraft {
    /// As in the Spec.
    pub path: String,
    /// The `<Location>` it stands in.
    pub location: Option<String>,
    /// As written.
    pub url: String,
    /// As in the Spec.
    pub interpolate: bool,
    /// Its URL.
    pub mark: Mark,
}

/// A balancer as one host sees it.
#[derive(Clone, Debug)]
pub(crate) struct BalancerDraft {
    /// Filled in as parameters come.
    pub balancer: spec::Balancer,
    /// `stickysessionsep`; `None`: off.
    pub separator: Option<char>,
    /// `scolonpathdelim`
    pub scolonpathdelim: bool,
    /// `stickycookie`
    pub cookie_written: bool,
    /// It was defined by `<Proxy>` or BalancerMember, not just named by ProxyPass.
    pub defined: bool,
    /// Keys that were given, lower case.
    pub given: Vec<String>,
    /// Where it was first named.
    pub mark: Mark,
}

/// A direct worker as one host sees it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerDraft {
    /// Its `url` is the whole URL; its `path` is empty, for routes carry theirs.
    pub member: spec::Member,
    /// Where it was first named.
    pub mark: Mark,
}

/// One `CustomLog` or `TransferLog`.
#[derive(Clone, Debug)]
pub(crate) struct LogDraft {
    /// Where lines go.
    pub target: spec::LogTarget,
    /// A format or its nickname; `None`: the host's default format.
    pub format: Option<String>,
    /// `env=`
    pub condition: Option<spec::LogCondition>,
    /// The format.
    pub mark: Mark,
}

impl<'a> Draft<'a> {
    /// Nothing said yet.
    pub(crate) fn new(
        source: &'a dyn Source,
        environment: &'a super::Environment,
        server_root: PathBuf,
        reports: Reports,
    ) -> Self {
        Self {
            source,
            environment,
            server_root,
            spec: spec::Spec {
                listen_backlog: 511,
                policies: vec![spec::policy::Policy::default()],
                ..spec::Spec::default()
            },
            listens: Vec::new(),
            steers: Vec::new(),
            deferred: [true; 2],
            hosts: vec![HostDraft::default()],
            rewrites: BTreeMap::new(),
            reports,
            noticed: Vec::new(),
            asked: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    /// A policy that says nothing yet: its index.
    pub(crate) fn new_policy(&mut self) -> usize {
        self.spec.policies.push(spec::policy::Policy::default());
        self.spec.policies.len() - 1
    }

    /// Says something about a family of directives, once.
    pub(crate) fn notice_once(&mut self, severity: Severity, at: At<'_>, family: &'static str) {
        if !self.noticed.contains(&family) {
            self.noticed.push(family);
            self.reports.push(severity, at, family, "");
        }
    }

    /// The balancer `name` as host `host` sees it, made when it is not there.
    pub(crate) fn balancer(&mut self, host: usize, name: &str, mark: &Mark) -> &mut BalancerDraft {
        let balancers = &mut self.hosts[host].balancers;
        let index = balancers
            .iter()
            .position(|draft| draft.balancer.name == name)
            .unwrap_or_else(|| {
                balancers.push(BalancerDraft {
                    balancer: spec::Balancer {
                        name: name.to_owned(),
                        direct: false,
                        members: Vec::new(),
                        lbmethod: spec::LbMethod::ByRequests,
                        sticky: None,
                        nofailover: false,
                        timeout: Duration::ZERO,
                        maxattempts: None,
                        failonstatus: Vec::new(),
                        failontimeout: false,
                        forcerecovery: true,
                        beyond: spec::Beyond::default(),
                        manage: spec::Manage::default(),
                        at: mark.place(),
                    },
                    separator: Some('.'),
                    scolonpathdelim: false,
                    cookie_written: false,
                    defined: false,
                    given: Vec::new(),
                    mark: mark.clone(),
                });
                balancers.len() - 1
            });
        &mut balancers[index]
    }
}
