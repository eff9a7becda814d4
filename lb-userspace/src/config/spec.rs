//! `Spec`: one configuration, validated, merged and with every default filled in.
//!
//! Plain data: it can be compared, serialised and sent to the proxy process. Names of fields are
//! httpd's. Nothing here was resolved, opened or bound.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

mod beyond;
mod client;
mod log;
mod manage;
mod name;
pub mod policy;
mod protocols;
mod route;
mod upgrade;

pub use beyond::{Beyond, HashKey, Heartbeat};
pub use client::{Canonical, Naming, ReadTimeout, RequestLimits, Slashes};
pub use log::{
    AccessLog, ErrorLogFormat, LogCondition, LogLevel, LogLevels, LogProgram, LogTarget,
};
pub use manage::{Manage, Nonce};
pub use name::AddressTtl;
pub use protocols::{Protocol, Protocols};
pub use route::{BadHeader, Mapping, Reverse, ReverseTarget, Route, Target, Via};
pub use upgrade::Upgrade;

use crate::expr::Expr;

mod tls;

pub use tls::{
    CertificateFiles, CipherSuite, ClientVerify, MemberTls, NamedFile, PeerVerify, Revocation, Tls,
};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The file it was read from.
    pub file: PathBuf,
    /// `ServerRoot`: what relative paths are relative to.
    pub server_root: PathBuf,
    /// `User`: the proxy process runs as this user when control is root.
    pub user: Option<String>,
    /// `Group`.
    pub group: Option<String>,
    /// `Listen`, in order; derived from the virtual hosts' addresses where the file has none.
    pub listeners: Vec<Listener>,
    /// Index 0 is the main server; then the virtual hosts in order.
    pub hosts: Vec<Host>,
    /// Balancers and, as balancers of one member, the direct workers of `ProxyPass`.
    pub balancers: Vec<Balancer>,
    /// What sections say of requests: hosts and sections name theirs by index. Index 0 is the main
    /// server's.
    pub policies: Vec<policy::Policy>,
    /// Files of `RewriteMap`, as they were when the configuration was read.
    pub rewrite_maps: Vec<crate::rewrite::MapFile>,
    /// Where members' heartbeats come from.
    pub heartbeat: Heartbeat,
    /// TLS to members, each setting once: [`Member::tls`] is an index.
    pub member_tls: Vec<MemberTls>,
    /// Everything of our own: interfaces, guard, shards, instance.
    pub sluice: Sluice,
    /// `ErrorLog` of the main server.
    pub error_log: LogTarget,
    /// `ErrorLogFormat` of the main server.
    pub error_log_format: ErrorLogFormat,
    /// `LogLevel` of the main server.
    pub log_level: LogLevel,
    /// `ListenBacklog`. Default 511.
    pub listen_backlog: u32,
    /// `GracefulShutdownTimeout`; zero: wait for ever.
    pub graceful_shutdown_timeout: Duration,
}

/// One `Listen`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Address and port; `0.0.0.0` or `[::]` for every address. `Listen 80` is `[::]:80` taking
    /// IPv4 as well (`dual`).
    pub address: SocketAddr,
    /// An IPv6 wildcard that also takes IPv4.
    pub dual: bool,
    /// `AcceptFilter`: the kernel keeps a connection to itself until its client has sent something.
    pub deferred: bool,
    /// Where it stands, for messages.
    pub at: Place,
}

/// File and line of a directive, for messages after parsing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// File.
    pub file: PathBuf,
    /// Line, from 1, of the last physical line of the directive.
    pub line: u32,
}

/// The address part of a `<VirtualHost>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAddress {
    /// `None`: `*` or `_default_`.
    pub ip: Option<std::net::IpAddr>,
    /// `None`: any port (`:*` or no port).
    pub port: Option<u16>,
}

/// The main server or one `<VirtualHost>`, inheritance already applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Empty for the main server.
    pub addresses: Vec<HostAddress>,
    /// `ServerName` without scheme and port, lower case; `None` where not given.
    pub server_name: Option<String>,
    /// Port of `ServerName`.
    pub server_port: Option<u16>,
    /// `ServerAlias`, lower case, `*` and `?` as written.
    pub aliases: Vec<String>,
    /// `ProxyPass`, in the order in which httpd tries them (main server's first).
    pub routes: Vec<Route>,
    /// `ProxyPassReverse`, in order.
    pub reverses: Vec<Reverse>,
    /// What it says of all its requests: indexes into [`Spec::policies`], in order (the main
    /// server's first).
    pub policies: Vec<usize>,
    /// `<Location>`, in the order in which they are merged (main server's first).
    pub locations: Vec<policy::Section>,
    /// `<Proxy>`, likewise.
    pub proxies: Vec<policy::Section>,
    /// `AllowEncodedSlashes`. Default off.
    pub encoded_slashes: Slashes,
    /// `ProxyPreserveHost`. Default off.
    pub preserve_host: bool,
    /// `ProxyAddHeaders`. Default on.
    pub add_headers: bool,
    /// What it makes of the name that a client asks for.
    pub naming: Naming,
    /// `Proxy100Continue`: members see `Expect: 100-continue`. Default on.
    pub forwards_expect: bool,
    /// `ProxyVia`. Default off.
    pub via: Via,
    /// `ProxyMaxForwards`: for requests without one. Default none.
    pub max_forwards: Option<u32>,
    /// `ProxyBadHeader`. Default `IsError`.
    pub bad_header: BadHeader,
    /// `Timeout`. Default 60 s.
    pub timeout: Duration,
    /// `ProxyTimeout`; `None`: `timeout`.
    pub proxy_timeout: Option<Duration>,
    /// `KeepAlive`. Default on.
    pub keep_alive: bool,
    /// `KeepAliveTimeout`. Default 5 s.
    pub keep_alive_timeout: Duration,
    /// `MaxKeepAliveRequests`; 0: no limit. Default 100.
    pub max_keep_alive_requests: u32,
    /// `RequestReadTimeout header=`: for a whole head. Default `20-40,MinRate=500`.
    pub header_timeout: ReadTimeout,
    /// `RequestReadTimeout body=`: for a whole body. Default `20,MinRate=500`.
    pub body_timeout: ReadTimeout,
    /// `LimitRequestLine`, `-Fields` and `-FieldSize` for connections whose first virtual host this is.
    pub request_limits: RequestLimits,
    /// `SSLEngine on`; `None`: cleartext.
    pub tls: Option<Tls>,
    /// `Protocols` and what HTTP/2 is like.
    pub protocols: Protocols,
    /// `CustomLog`, in order.
    pub access_logs: Vec<AccessLog>,
    /// `ErrorLog`; `None`: the main server's.
    pub error_log: Option<LogTarget>,
    /// `ErrorLogFormat`; `None`: the main server's.
    pub error_log_format: Option<ErrorLogFormat>,
    /// `LogLevel`.
    pub log_levels: LogLevels,
    /// Where it begins.
    pub at: Place,
}

/// A `balancer://`, or a direct worker as a balancer of one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balancer {
    /// Name without `balancer://`, lower case; for a direct worker its URL. Unique: where several
    /// virtual hosts have one of their own under one name, `name@host:port`.
    pub name: String,
    /// A direct worker: no election, no session route, 503 while it is in error.
    pub direct: bool,
    /// Members in configuration order.
    pub members: Vec<Member>,
    /// `lbmethod`.
    pub lbmethod: LbMethod,
    /// `stickysession`.
    pub sticky: Option<Sticky>,
    /// `nofailover`.
    pub nofailover: bool,
    /// `timeout`: how long to wait for a usable member before 503. Zero: not at all.
    pub timeout: Duration,
    /// `maxattempts`; `None`: members - 1.
    pub maxattempts: Option<u32>,
    /// `failonstatus`: final statuses that put the member into error.
    pub failonstatus: Vec<u16>,
    /// `failontimeout`.
    pub failontimeout: bool,
    /// `forcerecovery`. Default on.
    pub forcerecovery: bool,
    /// What httpd has not.
    pub beyond: Beyond,
    /// What the balancer-manager may do with it.
    pub manage: Manage,
    /// Where it was first named.
    pub at: Place,
}

/// `lbmethod=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LbMethod {
    /// Weighted by requests (apache.md 5.3).
    #[default]
    ByRequests,
    /// Weighted by bytes both ways.
    ByTraffic,
    /// By requests in flight.
    ByBusyness,
    /// By what members say of themselves.
    Heartbeat,
    /// Of two drawn at random the one that would answer sooner. Not httpd's.
    LeastLatency,
    /// Requests with one key to one member. Not httpd's.
    Hash,
}

impl LbMethod {
    /// All of them by name, httpd's first.
    pub const NAMES: [(&str, Self); 6] = [
        ("byrequests", Self::ByRequests),
        ("bybusyness", Self::ByBusyness),
        ("bytraffic", Self::ByTraffic),
        ("heartbeat", Self::Heartbeat),
        ("leastlatency", Self::LeastLatency),
        ("hash", Self::Hash),
    ];
}

/// `stickysession=` with its separators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// Cookie's name.
    pub cookie: String,
    /// Path or query parameter's name (the part after `|`, else the same).
    pub path: String,
    /// `stickysessionsep`; `None`: off, the whole value is the route. Default `.`.
    pub separator: Option<char>,
    /// `scolonpathdelim`.
    pub scolonpathdelim: bool,
    /// `stickycookie`: the cookie is sluice's to write.
    pub cookie_written: bool,
}

/// One `BalancerMember`, or the target of a direct `ProxyPass`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Canonical URL: scheme and host lower case, default port dropped. With the balancer's name
    /// it is the member's identity.
    pub url: String,
    /// Scheme.
    pub scheme: Scheme,
    /// How TLS is spoken with it, index into [`Spec::member_tls`]; `None`: cleartext.
    pub tls: Option<usize>,
    /// `unix:`: the socket it is reached through; its name and port are the Host field's alone.
    pub socket: Option<PathBuf>,
    /// Host, without brackets.
    pub host: String,
    /// Port, the scheme's default filled in. 0, of `tcp://` and `udp://` alone: the port that the
    /// packet came to.
    pub port: u16,
    /// Path of the URL: put before [`Target::Balancer::path`] and what follows the match; may be
    /// empty. Always empty for a direct worker, whose routes carry the whole path.
    pub path: String,
    /// `loadfactor` times 100, 100..=10000.
    pub lbfactor: u32,
    /// `lbset`, 0..=99.
    pub lbset: u8,
    /// `route`.
    pub route: String,
    /// `redirect`.
    pub redirect: String,
    /// `status`, as [`lb_common::member::MemberState`] bits, applied to a new member (E included).
    pub status: u64,
    /// `retry`. Default 60 s.
    pub retry: Duration,
    /// `timeout`; `None`: the host's `ProxyTimeout`, then `Timeout`.
    pub timeout: Option<Duration>,
    /// `connectiontimeout`; `None`: as `timeout`.
    pub connection_timeout: Option<Duration>,
    /// `ttl`: idle connections older than this are closed. `None`: kept.
    pub ttl: Option<Duration>,
    /// `addressttl`: how long the addresses of its name hold.
    pub address_ttl: AddressTtl,
    /// `max`: connections per proxy process; `None`: no limit.
    pub max: Option<u32>,
    /// `acquire`: how long to wait for a free connection when `max` is reached.
    pub acquire: Option<Duration>,
    /// `keepalive`: SO_KEEPALIVE on connections to it.
    pub keepalive: bool,
    /// `disablereuse=On` or `enablereuse=Off`.
    pub disablereuse: bool,
    /// `responsefieldsize` bytes. Default 8192.
    pub response_field_size: u32,
    /// `receivebuffersize` bytes, at least 512; `None`: the system's.
    pub receive_buffer: Option<u32>,
    /// `ProxySourceAddress`: where connections to addresses of its family come from.
    pub source: Option<std::net::IpAddr>,
    /// `ping`: how long it is waited for the go-ahead of a member before a body is sent to it.
    pub ping: Option<Duration>,
    /// `rampup`: how long a member that comes back takes to have its whole share.
    pub ramp_up: Option<Duration>,
    /// `upgrade`: what its connections may be switched to. Default nothing, with `ws://` and
    /// `wss://` websocket.
    pub upgrade: Upgrade,
    /// `hcmethod` and what goes with it.
    pub health: Health,
    /// Where it stands.
    pub at: Place,
}

/// How a member's health is checked (apache.md 5.6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `hcmethod`; `None`: it is not.
    pub check: Option<Check>,
    /// `hcinterval`, at least [`Health::SHORTEST`]. Default 30 s.
    pub interval: Duration,
    /// `hcpasses`. Default 1.
    pub passes: u32,
    /// `hcfails`. Default 1.
    pub fails: u32,
    /// `hcuri`, visible ASCII.
    pub uri: String,
    /// `hcexpr`: whether an answer is a success. `None`: by its status, 200 to 399.
    pub expr: Option<Expr>,
}

impl Health {
    /// Shortest time between two checks.
    pub const SHORTEST: Duration = Duration::from_millis(100);
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: None,
            interval: Duration::from_secs(30),
            passes: 1,
            fails: 1,
            uri: String::new(),
            expr: None,
        }
    }
}

/// `hcmethod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// A connection is enough.
    Tcp,
    /// `OPTIONS *`, HTTP/1.0.
    Options,
    /// `HEAD`, HTTP/1.0.
    Head,
    /// `GET`, HTTP/1.0.
    Get,
    /// `OPTIONS *`, HTTP/1.1.
    Options11,
    /// `HEAD`, HTTP/1.1.
    Head11,
    /// `GET`, HTTP/1.1.
    Get11,
}

/// Scheme of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Cleartext HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// `tcp://`: a destination of `SteerPass tcp://`, for L4 alone.
    Tcp,
    /// `udp://`: a destination of `SteerPass udp://`, for L4 alone.
    Udp,
}

impl Scheme {
    /// The port where a URL names none; 0: that of the packet.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Tcp | Self::Udp => 0,
        }
    }
}

/// Our own directives (DESIGN section 7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sluice {
    /// `XDPInterface`.
    pub interfaces: Vec<Interface>,
    /// `GuardLimit` outside a virtual host: for every local service.
    pub limits: Vec<GuardLimit>,
    /// `GuardDeny` and the lines of `GuardDenyFile`.
    pub deny: Vec<Prefix>,
    /// `GuardAllow`.
    pub allow: Vec<Prefix>,
    /// `SluiceShards`; `None`: one per CPU this process may use.
    pub shards: Option<u32>,
    /// `SluiceInstance`. Default `default`.
    pub instance: String,
    /// `SluiceControl PATH`; `None`: in the run directory.
    pub control: Option<PathBuf>,
    /// `SluiceControl ... group=NAME`.
    pub control_group: Option<String>,
    /// `SluiceMetrics`; `None`: metrics are not served.
    pub metrics: Option<Metrics>,
    /// `SteerPass`, in order.
    pub steers: Vec<Steer>,
    /// `SteerFlowTable`: flows that the table holds; `None`: the default of the build.
    pub flow_table: Option<u32>,
    /// `SteerDecap from=`; empty: this host does not decapsulate.
    pub decap_from: Vec<Prefix>,
    /// `SteerNatSource`, at most one of each family.
    pub nat_sources: Vec<NatSource>,
    /// Some directive needs the dataplane (XDP, Steer or Guard): without one, starting fails.
    pub needs_dataplane: Option<Place>,
}

impl Default for Sluice {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            limits: Vec::new(),
            deny: Vec::new(),
            allow: Vec::new(),
            shards: None,
            instance: "default".to_owned(),
            control: None,
            control_group: None,
            metrics: None,
            steers: Vec::new(),
            flow_table: None,
            decap_from: Vec::new(),
            nat_sources: Vec::new(),
            needs_dataplane: None,
        }
    }
}

/// One `SteerPass`: packets to an address and ports go to the members of a balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steer {
    /// `tcp://` or `udp://`.
    pub transport: Transport,
    /// The VIP; `None`: every address (`*`, `0.0.0.0`, `[::]`).
    pub address: Option<std::net::IpAddr>,
    /// First port, from 1.
    pub first_port: u16,
    /// Last port, not below `first_port`.
    pub last_port: u16,
    /// Index into [`Spec::balancers`].
    pub balancer: usize,
    /// `forward=`.
    pub forward: Forward,
    /// `hash=`.
    pub hash: FlowHash,
    /// `onempty=reset`: where no member is left packets are answered with RST or ICMP unreachable;
    /// else they are dropped.
    pub reset_on_empty: bool,
    /// Where it stands.
    pub at: Place,
}

/// Protocol of a [`Steer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// `forward=` of a `SteerPass`: how packets get to the member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// Layer 2: only the link-layer addresses change.
    #[default]
    Dsr,
    /// IP in IP (RFC 2003, 2473, 4213).
    IpIp,
    /// Generic UDP encapsulation.
    Gue,
    /// Both addresses and ports are rewritten.
    Nat,
}

/// `hash=` of a `SteerPass`: which packets go to one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowHash {
    /// Those of one connection.
    #[default]
    FiveTuple,
    /// Those of one source address.
    Source,
    /// Those whose QUIC connection id names one server id, else as the connection.
    Quic {
        /// Bytes of the server id, 1..=15.
        server_id: u8,
    },
}

/// One `SteerNatSource`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatSource {
    /// What members see as the source.
    pub address: std::net::IpAddr,
    /// Ports to take, first and last; `None`: chosen so that they cannot meet the host's own.
    pub ports: Option<(u16, u16)>,
    /// Where it stands.
    pub at: Place,
}

/// `SluiceMetrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Where `GET /metrics` is answered; loopback unless `public` was written.
    pub address: SocketAddr,
    /// Where it stands.
    pub at: Place,
}

/// One `XDPInterface`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// `mode=`.
    pub mode: XdpMode,
    /// Where it stands.
    pub at: Place,
}

/// `mode=` of an `XDPInterface`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpMode {
    /// Native, else generic with a message.
    #[default]
    Auto,
    /// Native or an error.
    Native,
    /// Generic.
    Generic,
}

/// One `GuardLimit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardLimit {
    /// Index into [`lb_common::limit::LimitKind`].
    pub kind: u8,
    /// Packets per second, 1..=2^31-1.
    pub rate: u32,
    /// Largest burst, packets. Default `rate`.
    pub burst: u32,
    /// Counted per source prefix or for the whole service.
    pub per: Per,
    /// A constant of [`lb_common::limit::action`].
    pub action: u8,
    /// The services it is for: `None` for every service, local and steered, else the ports and addresses of the
    /// virtual host it stands in.
    pub addresses: Option<Vec<HostAddress>>,
    /// Where it stands.
    pub at: Place,
}

/// `per=` of a `GuardLimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Per {
    /// Per source prefix of these lengths.
    Source {
        /// IPv4 prefix length, 0..=32. Default 32.
        v4: u8,
        /// IPv6 prefix length, 0..=128. Default 64.
        v6: u8,
    },
    /// One window for all sources.
    Service,
}

/// A prefix in CIDR form, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// Network address.
    pub network: std::net::IpAddr,
    /// Length.
    pub len: u8,
}
