//! Metrics as Prometheus reads them (text exposition format 0.0.4): every name with its type, unit
//! and meaning in one list, and the page made of a [`Snapshot`] and, with a living daemon, of what
//! its shards counted. docs/metrics.md is that list.

use std::{
    fmt::{self, Write as _},
    time::{Duration, SystemTime},
};

use super::protocol::{MemberView, NameView, Snapshot};
use crate::telemetry::counters::{BUCKETS, CLASSES, Histogram, bound_us};

/// What a daemon knows that is not in its maps.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// When control started.
    pub started: SystemTime,
    /// When the configuration that is on was read.
    pub loaded: SystemTime,
    /// Reloads done and refused.
    pub reloads: [u64; 2],
    /// The last one was refused.
    pub last_load_failed: bool,
    /// Client connections accepted.
    pub accepted: u64,
    /// Of HTTP/2: connections, requests, requests reset by the client, floods.
    pub http2: [u64; 4],
    /// Connections to members, those in pools included.
    pub open: u64,
    /// Connections in pools.
    pub idle: u64,
    /// Requests that wait for a connection.
    pub waiting: u64,
    /// Client connections that are tunnels.
    pub tunnels: u64,
    /// Members put into error for failing answers.
    pub ejections: u64,
    /// Requests not tried again for want of `retrybudget`.
    pub retries_refused: u64,
    /// Log lines that were not written.
    pub lines_lost: u64,
    /// What the processes take.
    pub usage: Vec<Usage>,
    /// Requests by class of status.
    pub classes: [u64; CLASSES],
    /// Failed requests by reason.
    pub failures: Vec<(&'static str, u64)>,
    /// TLS handshakes that were made, by peer, version and kind.
    pub handshakes: Vec<([&'static str; 3], u64)>,
    /// TLS handshakes that were not, by peer and reason.
    pub failed_handshakes: Vec<([&'static str; 2], u64)>,
    /// Certificate files, and until when what is in them is valid.
    pub certificates: Vec<(String, Duration)>,
    /// Requests by member's slot and class of status.
    pub members: Vec<(u32, [u64; CLASSES])>,
    /// By balancer.
    pub balancers: Vec<BalancerNumbers>,
}

/// What a process takes; `None`: it cannot be read.
#[derive(Clone, Debug)]
pub struct Usage {
    /// `control` or `proxy`.
    pub process: &'static str,
    /// Memory resident, bytes.
    pub resident: Option<u64>,
    /// Descriptors open.
    pub descriptors: Option<u64>,
    /// In user and kernel mode.
    pub cpu: Option<Duration>,
}

/// Latencies of a balancer.
#[derive(Clone, Debug)]
pub struct BalancerNumbers {
    /// Its name.
    pub name: String,
    /// To the response's head.
    pub first_byte: Histogram,
    /// To the response's end.
    pub total: Histogram,
}

/// One metric's entry in the list.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Unit, or what is counted.
    pub unit: &'static str,
    /// Labels, comma-separated; may be empty.
    pub labels: &'static str,
    /// Whether it is there with the daemon dead (`sluice metrics` reads the pinned maps then).
    pub pinned: bool,
    /// What it means, one sentence without full stop.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $name:literal, $kind:literal, $unit:literal, $labels:literal, $pinned:literal, $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name, kind: $kind, unit: $unit, labels: $labels, pinned: $pinned, help: $help,
        };)*
        /// Every metric, in the order of the page.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD = "sluice_build_info", "gauge", "1", "version", true, "Always 1; the version is in the label";
    UP = "sluice_up", "gauge", "bool", "process", true, "Whether control answers and whether it has a proxy";
    GENERATION = "sluice_generation", "gauge", "number", "", true, "Configuration that is on, counted from 1";
    HEARTBEAT = "sluice_heartbeat_age_seconds", "gauge", "seconds", "", true, "Since control last said in the maps that it lives; absent without kernel maps";
    STARTED = "sluice_start_time_seconds", "gauge", "seconds since 1970", "", false, "When control started; counters of requests and connections begin there";
    SHARDS = "sluice_shards", "gauge", "threads", "", false, "Shards of the proxy";
    RESTARTS = "sluice_proxy_restarts_total", "counter", "processes", "", false, "Times the proxy was started again after it died";
    RELOADS = "sluice_reloads_total", "counter", "reloads", "result", false, "Reloads by result, done or refused";
    LOADED = "sluice_config_loaded_time_seconds", "gauge", "seconds since 1970", "", false, "When the configuration that is on was read";
    LOAD_FAILED = "sluice_config_last_reload_failed", "gauge", "bool", "", false, "Whether the last reload was refused";
    RESIDENT = "sluice_process_resident_memory_bytes", "gauge", "bytes", "process", false, "Memory resident";
    DESCRIPTORS = "sluice_process_open_fds", "gauge", "descriptors", "process", false, "Descriptors open; absent where control may not see the proxy's (before Linux 6.2)";
    CPU = "sluice_process_cpu_seconds_total", "counter", "seconds", "process", false, "Time in user and kernel mode; the proxy's begins anew with each process";
    LINES_LOST = "sluice_log_lines_lost_total", "counter", "lines", "", false, "Lines of access and error logs that were not written: disk full, program or system log not reading, queue full";
    ACCEPTED = "sluice_client_connections_accepted_total", "counter", "connections", "", false, "Client connections accepted";
    CLIENTS = "sluice_client_connections", "gauge", "connections", "", false, "Client connections open";
    H2_CONNECTIONS = "sluice_http2_connections_total", "counter", "connections", "", false, "Client connections that spoke HTTP/2";
    H2_REQUESTS = "sluice_http2_requests_total", "counter", "requests", "", false, "Requests over HTTP/2 that began";
    H2_RESETS = "sluice_http2_resets_total", "counter", "requests", "", false, "RST_STREAM frames of clients";
    H2_FLOODS = "sluice_http2_floods_total", "counter", "connections", "", false, "HTTP/2 connections closed for what they sent too much of";
    HANDSHAKES = "sluice_tls_handshakes_total", "counter", "handshakes", "peer,version,kind", false, "TLS handshakes that were made, with clients and with members, full or resumed";
    HANDSHAKES_FAILED = "sluice_tls_handshakes_failed_total", "counter", "handshakes", "peer,reason", false, "TLS handshakes that were not, by reason (docs/reasons.md)";
    EXPIRY = "sluice_tls_certificate_expiry_time_seconds", "gauge", "seconds since 1970", "file", false, "Until when the certificate in the file is valid, of the files that are in use";
    REQUESTS = "sluice_requests_total", "counter", "requests", "code", false, "Requests that ended, by class of status; none: the client left before there was one";
    FAILED = "sluice_requests_failed_total", "counter", "requests", "reason", false, "Requests that failed, by reason (docs/reasons.md); statuses that members sent are no failures";
    FIRST_BYTE = "sluice_balancer_first_byte_seconds", "histogram", "seconds", "balancer,le", false, "From the end of a request's head to the head of the member's response";
    DURATION = "sluice_balancer_request_seconds", "histogram", "seconds", "balancer,le", false, "From the end of a request's head to the end of its response, of requests that were given to a member";
    MEMBER_REQUESTS = "sluice_member_requests_total", "counter", "requests", "balancer,member,code", false, "Requests whose last member this was, by class of the status that the client got";
    ELECTED = "sluice_member_elected_total", "counter", "elections", "balancer,member", true, "Times that the member was elected; the counters of this and the next four are the map's and start over when an operator resets them";
    RESPONSES = "sluice_member_responses_total", "counter", "responses", "balancer,member", true, "Responses of the member that ended";
    MEMBER_FAILED = "sluice_member_failed_total", "counter", "attempts", "balancer,member", true, "Attempts that failed on the member";
    READ = "sluice_member_read_bytes_total", "counter", "bytes", "balancer,member", true, "Status lines and bodies read from the member";
    TRANSFERRED = "sluice_member_transferred_bytes_total", "counter", "bytes", "balancer,member", true, "Requests sent to the member";
    BUSY = "sluice_member_busy", "gauge", "requests", "balancer,member", true, "Requests in flight on the member";
    USABLE = "sluice_member_usable", "gauge", "bool", "balancer,member", true, "Whether requests may go to the member";
    STATE = "sluice_member_state", "gauge", "bool", "balancer,member,state", true, "Whether a letter of the member's state is set: I, N, D, S, E, H, R or C, as in httpd";
    FACTOR = "sluice_member_loadfactor", "gauge", "ratio", "balancer,member", true, "Load factor";
    OPEN = "sluice_pool_connections", "gauge", "connections", "state", false, "Connections to members, in use or idle in a pool; looked at once a second";
    WAITING = "sluice_pool_waiting", "gauge", "requests", "", false, "Requests that wait for a connection because max are open";
    TUNNELS = "sluice_tunnels", "gauge", "connections", "", false, "Client connections that were switched to another protocol, WebSocket mostly";
    EJECTIONS = "sluice_member_ejections_total", "counter", "members", "", false, "Times that a member was put into error because its answers failed (ejectmax)";
    RETRIES_REFUSED = "sluice_retries_refused_total", "counter", "requests", "", false, "Requests that were not tried on another member because retrybudget was used up";
    NAME_LOOKUPS = "sluice_name_lookups_total", "counter", "lookups", "name,result", false, "Times that a member's name was asked for, found or failed";
    NAME_AGE = "sluice_name_answer_age_seconds", "gauge", "seconds", "name", false, "Since the last good answer for a member's name; absent before the first";
    NAME_MOVES = "sluice_name_moves_total", "counter", "moves", "name", false, "Times that members moved to another address of their name";
    PACKETS = "sluice_xdp_packets_total", "counter", "packets", "service,action,reason", true, "Packets by service and reason (docs/reasons.md); service none is the rest of the host's traffic";
    BYTES = "sluice_xdp_bytes_total", "counter", "bytes", "service,action,reason", true, "Bytes of those packets";
    INTERFACE = "sluice_xdp_interface_info", "gauge", "1", "interface,mode", true, "Always 1; where the program is attached and how";
    ALARM = "sluice_xdp_interface_alarm", "gauge", "bool", "interface", false, "1: something is wrong with an interface that the configuration names (missing, renamed, another's program on it), and packets may be unguarded; `sluice status` says what";
    PREFIXES = "sluice_guard_prefixes", "gauge", "prefixes", "list,origin", true, "Prefixes of the deny and the allow list, by who put them there";
}

/// Classes of status as labels.
const CODES: [&str; CLASSES] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const LETTERS: [char; 8] = ['I', 'N', 'D', 'S', 'E', 'H', 'R', 'C'];

/// The page. Without `numbers`: of a dead daemon's maps.
pub fn render(shown: &Snapshot, numbers: Option<&Numbers>) -> String {
    let mut page = Page(String::with_capacity(16 << 10));
    page.family(BUILD);
    page.sample(BUILD, &[("version", &shown.version)], 1);
    page.family(UP);
    let proxy = shown.daemon && shown.proxy_pid != 0;
    page.sample(UP, &[("process", "control")], u8::from(shown.daemon));
    page.sample(UP, &[("process", "proxy")], u8::from(proxy));
    page.one(GENERATION, shown.generation);
    if let Some(age) = shown.heartbeat_age_seconds {
        page.one(HEARTBEAT, age);
    }
    if let Some(numbers) = numbers {
        process(&mut page, shown, numbers);
        tls(&mut page, numbers);
        requests(&mut page, shown, numbers);
    }
    members(&mut page, &shown.members);
    if let Some(numbers) = numbers {
        page.family(OPEN);
        // The two are not written at one moment.
        let used = numbers.open.saturating_sub(numbers.idle);
        page.sample(OPEN, &[("state", "used")], used);
        page.sample(OPEN, &[("state", "idle")], numbers.idle);
        page.one(WAITING, numbers.waiting);
        page.one(TUNNELS, numbers.tunnels);
        page.one(EJECTIONS, numbers.ejections);
        page.one(RETRIES_REFUSED, numbers.retries_refused);
    }
    names(&mut page, &shown.names);
    packets(&mut page, shown);
    page.0
}

fn process(page: &mut Page, shown: &Snapshot, numbers: &Numbers) {
    page.one(STARTED, Seconds::at(numbers.started));
    page.one(SHARDS, shown.shards);
    page.one(RESTARTS, shown.proxy_restarts);
    page.family(RELOADS);
    for (result, count) in ["done", "refused"].iter().zip(numbers.reloads) {
        page.sample(RELOADS, &[("result", result)], count);
    }
    page.one(LOADED, Seconds::at(numbers.loaded));
    page.one(LOAD_FAILED, u8::from(numbers.last_load_failed));
    usage(page, &numbers.usage);
    page.one(LINES_LOST, numbers.lines_lost);
    page.one(ACCEPTED, numbers.accepted);
    page.one(CLIENTS, shown.connections);
    let http2 = [H2_CONNECTIONS, H2_REQUESTS, H2_RESETS, H2_FLOODS];
    for (family, count) in http2.into_iter().zip(numbers.http2) {
        page.one(family, count);
    }
}

fn tls(page: &mut Page, numbers: &Numbers) {
    page.family(HANDSHAKES);
    for ([peer, version, kind], count) in &numbers.handshakes {
        let labels = [("peer", *peer), ("version", version), ("kind", kind)];
        page.sample(HANDSHAKES, &labels, count);
    }
    page.family(HANDSHAKES_FAILED);
    for ([peer, reason], count) in &numbers.failed_handshakes {
        let labels = [("peer", *peer), ("reason", reason)];
        page.sample(HANDSHAKES_FAILED, &labels, count);
    }
    page.family(EXPIRY);
    for (file, until) in &numbers.certificates {
        page.sample(EXPIRY, &[("file", file)], Seconds(*until));
    }
}

fn usage(page: &mut Page, usage: &[Usage]) {
    let mut each = |family: Family, value: &dyn Fn(&Usage) -> Option<String>| {
        page.family(family);
        for usage in usage {
            if let Some(value) = value(usage) {
                page.sample(family, &[("process", usage.process)], value);
            }
        }
    };
    each(RESIDENT, &|usage| Some(usage.resident?.to_string()));
    each(DESCRIPTORS, &|usage| Some(usage.descriptors?.to_string()));
    each(CPU, &|usage| Some(Seconds(usage.cpu?).to_string()));
}

fn requests(page: &mut Page, shown: &Snapshot, numbers: &Numbers) {
    page.family(REQUESTS);
    for (code, count) in CODES.iter().zip(numbers.classes) {
        page.sample(REQUESTS, &[("code", code)], count);
    }
    page.family(FAILED);
    for (reason, count) in &numbers.failures {
        page.sample(FAILED, &[("reason", reason)], count);
    }
    page.family(FIRST_BYTE);
    for balancer in &numbers.balancers {
        page.histogram(FIRST_BYTE, &balancer.name, &balancer.first_byte);
    }
    page.family(DURATION);
    for balancer in &numbers.balancers {
        page.histogram(DURATION, &balancer.name, &balancer.total);
    }
    page.family(MEMBER_REQUESTS);
    for view in &shown.members {
        let Some((_, counts)) = numbers.members.iter().find(|(id, _)| *id == view.id) else {
            continue;
        };
        for (code, count) in CODES.iter().zip(counts) {
            let labels = [
                ("balancer", view.balancer.as_str()),
                ("member", &view.url),
                ("code", code),
            ];
            page.sample(MEMBER_REQUESTS, &labels, count);
        }
    }
}

fn members(page: &mut Page, members: &[MemberView]) {
    let mut each = |family: Family, value: &dyn Fn(&MemberView) -> String| {
        page.family(family);
        for view in members {
            let labels = [("balancer", view.balancer.as_str()), ("member", &view.url)];
            page.sample(family, &labels, value(view));
        }
    };
    each(ELECTED, &|view| view.elected.to_string());
    each(RESPONSES, &|view| view.responses.to_string());
    each(MEMBER_FAILED, &|view| view.failed.to_string());
    each(READ, &|view| view.read.to_string());
    each(TRANSFERRED, &|view| view.transferred.to_string());
    each(BUSY, &|view| view.busy.to_string());
    each(USABLE, &|view| u8::from(view.usable).to_string());
    page.family(STATE);
    for view in members {
        for letter in LETTERS {
            let text = letter.to_string();
            let labels = [
                ("balancer", view.balancer.as_str()),
                ("member", &view.url),
                ("state", &text),
            ];
            page.sample(STATE, &labels, u8::from(view.state.contains(&letter)));
        }
    }
    page.family(FACTOR);
    for view in members {
        let labels = [("balancer", view.balancer.as_str()), ("member", &view.url)];
        page.sample(FACTOR, &labels, view.lbfactor);
    }
}

fn names(page: &mut Page, names: &[NameView]) {
    if names.is_empty() {
        return;
    }
    page.family(NAME_LOOKUPS);
    for view in names {
        let found = view.lookups.saturating_sub(view.failed);
        for (result, value) in [("found", found), ("failed", view.failed)] {
            page.sample(
                NAME_LOOKUPS,
                &[("name", &view.name), ("result", result)],
                value,
            );
        }
    }
    page.family(NAME_AGE);
    for (view, age) in names
        .iter()
        .filter_map(|view| Some((view, view.age_seconds?)))
    {
        page.sample(NAME_AGE, &[("name", &view.name)], age);
    }
    page.family(NAME_MOVES);
    for view in names {
        page.sample(NAME_MOVES, &[("name", &view.name)], view.moves);
    }
}

fn packets(page: &mut Page, shown: &Snapshot) {
    for family in [PACKETS, BYTES] {
        page.family(family);
        for service in &shown.services {
            let name = if service.id == 0 {
                "none".to_owned()
            } else {
                format!("{}/{}", service.proto, service.address)
            };
            for counter in &service.counters {
                let labels = [
                    ("service", name.as_str()),
                    ("action", &counter.action),
                    ("reason", &counter.reason),
                ];
                let value = if family.name == PACKETS.name {
                    counter.packets
                } else {
                    counter.bytes
                };
                page.sample(family, &labels, value);
            }
        }
    }
    page.family(INTERFACE);
    for view in shown.interfaces.iter().filter(|v| v.alarm.is_empty()) {
        page.sample(
            INTERFACE,
            &[("interface", &view.name), ("mode", &view.mode)],
            1,
        );
    }
    if shown.daemon {
        page.family(ALARM);
        for view in &shown.interfaces {
            page.sample(
                ALARM,
                &[("interface", &view.name)],
                u8::from(!view.alarm.is_empty()),
            );
        }
    }
    page.family(PREFIXES);
    for list in ["deny", "allow"] {
        for origin in ["file", "command"] {
            let count = shown
                .prefixes
                .iter()
                .filter(|view| view.list == list && view.origin == origin)
                .count();
            page.sample(PREFIXES, &[("list", list), ("origin", origin)], count);
        }
    }
}

/// Seconds since 1970 with six decimals.
struct Seconds(Duration);

impl Seconds {
    fn at(time: SystemTime) -> Self {
        Self(
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }

    const fn micros(us: u64) -> Self {
        Self(Duration::from_micros(us))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// Text in the making. Writing to a string does not fail.
struct Page(String);

impl Page {
    fn family(&mut self, family: Family) {
        let Family {
            name, kind, help, ..
        } = family;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A family of one sample without labels.
    fn one(&mut self, family: Family, value: impl fmt::Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    fn sample(&mut self, family: Family, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.line(family.name, "", labels, value);
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) {
        self.0.extend([name, suffix]);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            self.0.extend([label, "=\""]);
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, family: Family, balancer: &str, histogram: &Histogram) {
        let mut count = 0;
        for bucket in 0..BUCKETS {
            count += histogram.buckets[bucket];
            let bound = bound_us(bucket).map_or_else(
                || "+Inf".to_owned(),
                |bound| Seconds::micros(bound).to_string(),
            );
            let labels = [("balancer", balancer), ("le", &bound)];
            self.line(family.name, "_bucket", &labels, count);
        }
        let labels = [("balancer", balancer)];
        let sum = Seconds::micros(histogram.sum_us);
        self.line(family.name, "_sum", &labels, sum);
        self.line(family.name, "_count", &labels, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/metrics.md holds the list between two marks. To write it anew:
    /// `SLUICE_BLESS=1 cargo test -p sluice docs_list_every_metric`.
    #[test]
    fn docs_list_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).expect("docs/metrics.md is readable");
        let (begin, end) = ("<!-- list -->\n", "<!-- end of list -->");
        let (before, rest) = page.split_once(begin).expect("the first mark");
        let (list, after) = rest.split_once(end).expect("the second mark");
        let mut expected = String::from(
            "| name | type | unit | labels | daemon dead | meaning |\n|---|---|---|---|---|---|\n",
        );
        for family in FAMILIES {
            let labels: Vec<String> = family
                .labels
                .split(',')
                .filter(|label| !label.is_empty())
                .map(|label| format!("`{label}`"))
                .collect();
            let _ = writeln!(
                expected,
                "| `{}` | {} | {} | {} | {} | {}. |",
                family.name,
                family.kind,
                family.unit,
                labels.join(" "),
                if family.pinned { "yes" } else { "no" },
                family.help
            );
        }
        if std::env::var_os("SLUICE_BLESS").is_some() {
            let page = format!("{before}{begin}{expected}{end}{after}");
            std::fs::write(path, page).expect("docs/metrics.md is writable");
            return;
        }
        assert!(
            list == expected,
            "docs/metrics.md differs: SLUICE_BLESS=1 cargo test -p sluice docs_list_every_metric"
        );
    }

    #[test]
    fn a_label_cannot_break_its_line() {
        let shown = Snapshot {
            version: "a\"b\\c\nd".to_owned(),
            ..Snapshot::default()
        };
        let page = render(&shown, None);
        let line = "sluice_build_info{version=\"a\\\"b\\\\c\\nd\"} 1\n";
        assert!(page.contains(line), "{page}");
        assert!(!page.contains("sluice_requests_total"));
    }
}
