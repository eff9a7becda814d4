//! The control socket's language: one JSON object a line, each way.
//!
//! [`Snapshot`] is also what the reading commands build from the pinned maps when no daemon
//! answers, so that both print the same.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod route;

pub use route::{CandidateView, RouteQuestion, RouteStep, RouteView};

/// One request to control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Everything that reading commands show.
    Snapshot,
    /// Metrics, as Prometheus reads them.
    Metrics,
    /// Where a request would go.
    Route {
        /// The request.
        question: RouteQuestion,
    },
    /// Change a member.
    Member {
        /// Balancer's name, without `balancer://`.
        balancer: String,
        /// Member's URL or route.
        member: String,
        /// The changes, all or none.
        changes: Vec<MemberChange>,
    },
    /// Replace one limit of a service.
    Limit {
        /// Service id, as `service list` shows it; 0: the host's ICMP.
        service: u16,
        /// The limit as `GuardLimit` takes it: `syn 100/s burst=200 per=service`; `RATE` `off` removes it.
        limit: String,
    },
    /// Deny a prefix at the NIC.
    DenyAdd {
        /// CIDR.
        prefix: String,
        /// Seconds; `None`: until deleted.
        seconds: Option<u64>,
        /// Also when it would cut the operator off.
        force: bool,
        /// The caller's own peer address (from SSH_CONNECTION), which is never denied unforced.
        caller: Option<String>,
    },
    /// Stop denying a prefix.
    DenyDelete {
        /// CIDR.
        prefix: String,
    },
    /// Change a run-time setting.
    Set {
        /// `guard`, `log`, `log_every`.
        name: String,
        /// Its value.
        value: String,
    },
    /// Read the configuration again, as USR1.
    Reload,
    /// Become another build of this program, or this one anew, without losing a connection.
    Upgrade {
        /// The program; `None`: what lies where the running one was started from.
        binary: Option<PathBuf>,
        /// How long the proxy that serves now may drain, seconds; `None`: `GracefulShutdownTimeout`.
        deadline: Option<u64>,
    },
    /// Stop: gracefully (as WINCH then exit) or at once (TERM).
    Stop {
        /// Wait for requests in flight.
        graceful: bool,
    },
    /// Take the program off the interfaces, leave the proxy running.
    Detach,
    /// Sample packets into the ring buffer, for a few seconds: whoever reads asks again. `None`: no
    /// longer.
    Capture {
        /// Which.
        wanted: Option<CaptureWanted>,
    },
}

/// Which packets [`Request::Capture`] is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptureWanted {
    /// Bits of the reasons that are wanted.
    pub reasons: u64,
    /// One packet in this many.
    pub every: u64,
    /// Either end's address; `None`: any.
    pub address: Option<std::net::IpAddr>,
    /// Either end's port; 0: any.
    pub port: u16,
    /// Service id; 0: any.
    pub service: u16,
    /// Member id; 0: any.
    pub member: u16,
}

/// What [`Request::Member`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case")]
pub enum MemberChange {
    /// Set N: existing sessions only.
    Drain,
    /// Set D.
    Disable,
    /// Clear D, N, S and E.
    Enable,
    /// `status=` flags as httpd writes them: `+H-D`.
    Status {
        /// The flags.
        flags: String,
    },
    /// New load factor.
    LoadFactor {
        /// Times 100, 100..=10000.
        lbfactor: u32,
    },
    /// New lbset.
    LbSet {
        /// 0..=99.
        lbset: u8,
    },
}

/// One answer of control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Snapshot`].
    Snapshot(Box<Snapshot>),
    /// To [`Request::Route`].
    Route(Box<RouteView>),
    /// To [`Request::Metrics`].
    Metrics {
        /// The page.
        text: String,
    },
    /// Done; what changed, in one line.
    Done {
        /// For a person.
        message: String,
    },
    /// Not done; nothing changed.
    Refused {
        /// Why, and what to do.
        message: String,
    },
}

/// Everything the reading commands show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Instance's name.
    pub instance: String,
    /// Version of the daemon, or of this command when the daemon is dead.
    pub version: String,
    /// Whether the daemon answered; else read from the pins.
    pub daemon: bool,
    /// Process ids; 0: none.
    pub control_pid: u32,
    /// As above.
    pub proxy_pid: u32,
    /// `META.generation`.
    pub generation: u64,
    /// `empty`, `applying`, `ready`, `stopped`.
    pub phase: String,
    /// Configuration file; empty when not known.
    pub file: String,
    /// Seconds since control started; 0 when dead.
    pub uptime_seconds: u64,
    /// Seconds since control's last heartbeat; `None`: no kernel maps.
    pub heartbeat_age_seconds: Option<u64>,
    /// `kernel` or `memory` (no dataplane).
    pub dataplane: String,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceView>,
    /// Listen addresses.
    pub listeners: Vec<String>,
    /// Client connections open on all of them, as the proxy last said (once a second).
    pub connections: u64,
    /// Shards of the proxy; 0 when dead.
    pub shards: u32,
    /// The shards; empty when dead.
    #[serde(default)]
    pub shard_list: Vec<ShardView>,
    /// Whether a connection goes to a shard of the CPU that received it.
    #[serde(default)]
    pub steered: bool,
    /// CPUs that sluice may use when it was started; empty when dead.
    #[serde(default)]
    pub cpus: Vec<u32>,
    /// CPUs' worth of time that its control group may use; `None`: no quota.
    #[serde(default)]
    pub cpu_quota: Option<f64>,
    /// Times the proxy was restarted after a crash.
    pub proxy_restarts: u32,
    /// Proxies that an upgrade replaced and that still have connections.
    #[serde(default)]
    pub draining: Vec<DrainingView>,
    /// Balancers with their lbmethods; empty when dead.
    #[serde(default)]
    pub methods: Vec<MethodView>,
    /// Members.
    pub members: Vec<MemberView>,
    /// Names of members; empty when dead.
    #[serde(default)]
    pub names: Vec<NameView>,
    /// Services.
    pub services: Vec<ServiceView>,
    /// Deny and allow lists.
    pub prefixes: Vec<PrefixView>,
    /// Run-time settings, name and value.
    pub settings: Vec<(String, String)>,
    /// What an operator should know: fallbacks taken, repairs done.
    pub notices: Vec<String>,
}

/// How a balancer elects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodView {
    /// Its name.
    pub balancer: String,
    /// `lbmethod`.
    pub lbmethod: String,
}

/// One proxy that another has taken over from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrainingView {
    /// Process id.
    pub pid: u32,
    /// Its connections, as it last said.
    pub connections: u64,
    /// Until it is ended; `None`: it may take as long as it takes.
    pub seconds_left: Option<u64>,
}

/// One shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardView {
    /// The CPU that it is pinned to.
    pub cpu: Option<u32>,
    /// Connections that it has accepted.
    pub accepted: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Program id in the kernel.
    pub program: u32,
    /// What is wrong with an interface that the configuration names (index 0); empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alarm: String,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Id in `MEMBERS`.
    pub id: u32,
    /// Incarnation of the slot.
    pub incarnation: u32,
    /// Balancer's name; a direct worker's URL.
    pub balancer: String,
    /// URL.
    pub url: String,
    /// Route; may be empty.
    pub route: String,
    /// Address and port it resolved to.
    pub address: String,
    /// Letters of the state bits that are set, in httpd's order; empty: OK.
    pub state: Vec<char>,
    /// Whether requests may go there.
    pub usable: bool,
    /// Load factor.
    pub lbfactor: f64,
    /// lbset.
    pub lbset: u8,
    /// lbstatus.
    pub lbstatus: i64,
    /// Elected.
    pub elected: u64,
    /// In flight.
    pub busy: u64,
    /// Bytes from it.
    pub read: u64,
    /// Bytes to it.
    pub transferred: u64,
    /// Responses ended.
    pub responses: u64,
    /// Requests that failed on it.
    pub failed: u64,
    /// Retries since its last success.
    pub retries: u64,
    /// Seconds since it went into error; `None`: it is not.
    pub error_seconds: Option<u64>,
    /// What was steered to it; `None`: nothing is steered to its balancer, nor was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<SteeredView>,
}

/// One name that members have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameView {
    /// The name.
    pub name: String,
    /// Where its members are; empty: nowhere yet.
    pub used: Vec<std::net::IpAddr>,
    /// The last good answer.
    pub addresses: Vec<std::net::IpAddr>,
    /// How long ago that came, seconds; `None`: none since this daemon began.
    pub age_seconds: Option<u64>,
    /// How long it holds, seconds; `None`: for ever.
    pub ttl_seconds: Option<u64>,
    /// Times it was asked for.
    pub lookups: u64,
    /// Those without a usable answer.
    pub failed: u64,
    /// Times that members of this name moved.
    pub moves: u64,
    /// Why the last lookup failed; empty: it did not.
    pub error: String,
}

/// What packets a member got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SteeredView {
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of their frames, as they came.
    pub bytes: u64,
    /// Flows that began with it.
    pub flows: u64,
    /// Packets that the ring alone sent there.
    pub by_ring: u64,
    /// Its slots of the balancer's ring; `None`: not known here.
    pub slots: Option<u32>,
    /// Next hop: MAC and interface, as the kernel or control last knew it; empty: not known.
    pub next_hop: String,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Id; 0: no service (the rest of the host's traffic).
    pub id: u16,
    /// `tcp`, `udp`; empty for id 0.
    pub proto: String,
    /// `192.0.2.1:80`, `*:80`.
    pub address: String,
    /// `local`, `forwarded`, `vip` (an address of forwarded ones), `nat` (where members' answers
    /// come), `decap` (where encapsulated packets come).
    pub kind: String,
    /// Of a forwarded one: how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<ForwardView>,
    /// Limits as the configuration writes them.
    pub limits: Vec<String>,
    /// Counters by reason, those above zero.
    pub counters: Vec<ReasonView>,
}

/// How a service is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForwardView {
    /// Balancer's name; empty where it has no members.
    pub balancer: String,
    /// `dsr`, `ipip`, `gue`, `nat`.
    pub mode: String,
    /// `5tuple`, `source`, `quic:LEN`.
    pub hash: String,
    /// `drop` or `reset`.
    pub on_empty: String,
    /// Outer sources, and those that members see with `nat`: IPv4, IPv6, those there are.
    pub sources: Vec<String>,
    /// Source ports of `nat`; empty: another mode.
    pub ports: String,
}

/// One counter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReasonView {
    /// [`lb_common::verdict::Reason::name`].
    pub reason: String,
    /// `pass`, `drop` or `send`.
    pub action: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One prefix of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixView {
    /// `deny` or `allow`.
    pub list: String,
    /// CIDR.
    pub prefix: String,
    /// `file` or `command`.
    pub origin: String,
    /// Seconds left; `None`: for ever.
    pub seconds_left: Option<u64>,
}
