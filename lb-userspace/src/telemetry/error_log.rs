//! The error log: a `tracing` subscriber that writes httpd's error log lines.
//!
//! `[Sun Nov 22 14:00:00.000000 2026] [proxy:error] [pid 1:tid 2] [client 192.0.2.1:4000] text`.
//! Fields with a meaning of their own: `client` (the bracket above), `vhost` (index of the virtual
//! host whose `ErrorLog` the line goes to), `notice` (the event is of httpd's level `notice` and, as
//! in httpd, written whatever `LogLevel` says), `reason` (of a failed request). Every other field
//! follows the text as `name=value`. With `ErrorLogFormat json` a line is one JSON object instead.
//!
//! Lines written while a thread works on a request ([`enter`]) go to its virtual host's log and
//! carry its id, whichever module writes them.
//!
//! Spans are accepted and carry nothing. What other crates log is written at `LogLevel trace` only.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use super::{
    error_format::{Format, Parts},
    sink::Sink,
    syslog::Syslog,
};
use crate::config::spec::{LogLevel, LogLevels};

/// Where lines go and how they look. Empty: standard error, httpd's lines.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Of the main server: what is about no virtual host.
    pub main: Log,
    /// Of each virtual host, by its index in the specification.
    pub hosts: Vec<Log>,
}

/// The error log of a host.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `ErrorLog`.
    pub target: Target,
    /// `ErrorLogFormat`.
    pub style: Style,
    /// `LogLevel`.
    pub levels: LogLevels,
    /// `ServerName`.
    pub server_name: String,
}

/// `ErrorLog`.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file, a pipe, standard error.
    Sink(Sink),
    /// The system log.
    Syslog(Arc<Syslog>),
}

impl Default for Target {
    fn default() -> Self {
        Self::Sink(Sink::Stderr)
    }
}

/// `ErrorLogFormat`.
#[derive(Clone, Debug, Default)]
pub enum Style {
    /// httpd's default.
    #[default]
    Default,
    /// `json`.
    Json,
    /// A format string.
    Format(Arc<Format>),
}

/// The request that a thread works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Index of its virtual host.
    pub host: usize,
    /// Its id; 0: there is no request.
    pub id: u64,
    /// Its connection's id; 0: unknown.
    pub connection: u64,
    /// A line was written for it.
    pub logged: bool,
}

thread_local! {
    static REQUEST: Cell<Request> = const { Cell::new(Request { host: 0, id: 0, connection: 0, logged: false }) };
}

/// Makes lines of this thread lines of `request`; returns the one before.
pub fn enter(request: Request) -> Request {
    REQUEST.replace(request)
}

/// The request that this thread works on.
pub fn current() -> Request {
    REQUEST.get()
}

/// A request's id as logs show it.
pub fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

static TARGETS: RwLock<Option<Targets>> = RwLock::new(None);
/// The least important level that some host, and that every host, wants of some, or of every, module.
static LEVELS: [AtomicU8; 2] = [
    AtomicU8::new(LogLevel::Warn as u8),
    AtomicU8::new(LogLevel::Warn as u8),
];
static STARTED: OnceLock<()> = OnceLock::new();

/// Makes the error log this process's log, on standard error at `LogLevel warn`. Further calls
/// change nothing.
pub fn start() {
    STARTED.get_or_init(|| {
        // Refused only when some other subscriber is there already: a test's, which then sees it.
        drop(tracing::subscriber::set_global_default(ErrorLog));
    });
}

/// Sends all further lines to `targets`.
pub fn configure(targets: Targets) {
    let all = || targets.hosts.iter().chain([&targets.main]);
    let levels = || {
        all().flat_map(|log| {
            let modules = log.levels.modules.iter().map(|(_, level)| *level);
            modules.chain([log.levels.level])
        })
    };
    let most = levels().max().unwrap_or_default();
    let least = levels().min().unwrap_or_default();
    *TARGETS.write().unwrap_or_else(PoisonError::into_inner) = Some(targets);
    for (place, level) in LEVELS.iter().zip([most, least]) {
        place.store(level as u8, Relaxed);
    }
    tracing::callsite::rebuild_interest_cache();
}

struct ErrorLog;

impl Subscriber for ErrorLog {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let [most, least] = LEVELS.each_ref().map(|level| level.load(Relaxed));
        if is_wanted(metadata, least) {
            Interest::always()
        } else if is_wanted(metadata, most) {
            // By some virtual host, or of some module.
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
        let level = targets.as_ref().map_or(LogLevel::Warn, |targets| {
            let request = current();
            let host = (request.id != 0).then_some(request.host);
            targets.log(host).level(module(metadata.target()))
        });
        is_wanted(metadata, level as u8)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Notices are `info` events and always wanted.
        let [most, _] = LEVELS.each_ref().map(|level| level.load(Relaxed));
        Some(filter(most).max(LevelFilter::INFO))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let request = current();
        if request.id != 0 {
            enter(Request {
                logged: true,
                ..request
            });
        }
        let line = Line {
            request,
            time: jiff::Zoned::now(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
            target: event.metadata().target(),
            level: *event.metadata().level(),
            source: event.metadata().file().zip(event.metadata().line()),
            fields: &fields,
        };
        let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
        let host = fields.vhost.or((request.id != 0).then_some(request.host));
        match &*targets {
            Some(targets) => targets.log(host).write(&line),
            None => Log::default().write(&line),
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Targets {
    /// The log of a virtual host, or of none.
    fn log(&self, host: Option<usize>) -> &Log {
        host.and_then(|index| self.hosts.get(index))
            .unwrap_or(&self.main)
    }
}

impl Log {
    /// What it has of a module.
    fn level(&self, module: &str) -> LogLevel {
        let own = self.levels.modules.iter();
        let own = own.rev().find(|(name, _)| name == module);
        own.map_or(self.levels.level, |(_, level)| *level)
    }

    /// A log that cannot be written has nobody to be reported to: lost lines are counted.
    fn write(&self, line: &Line<'_>) {
        let text = match (&self.style, &self.target) {
            (Style::Default, Target::Sink(_)) => line.to_string(),
            (Style::Default, Target::Syslog(_)) => line.text(false),
            (Style::Json, _) => line.json(),
            (Style::Format(format), _) => match line.formatted(format, &self.server_name) {
                Some(text) => text,
                None => return,
            },
        };
        match &self.target {
            Target::Sink(sink) => drop(sink.write(text.as_bytes())),
            Target::Syslog(syslog) => {
                syslog.send(
                    line.severity().min(7),
                    &line.time,
                    text.trim_end_matches('\n'),
                );
            }
        }
    }
}

/// Whether an event of a kind is written at a level (a [`LogLevel`] as a number).
fn is_wanted(metadata: &Metadata<'_>, level: u8) -> bool {
    if !metadata.is_event() {
        return false;
    }
    let ours = metadata.target().starts_with("sluice");
    // Somebody switched the program's own log on to read it.
    metadata.target() == "sluice::xdp"
        || (ours && metadata.fields().field("notice").is_some())
        || ((ours || level >= LogLevel::Trace as u8) && *metadata.level() <= filter(level))
}

fn filter(level: u8) -> LevelFilter {
    match level {
        l if l <= LogLevel::Error as u8 => LevelFilter::ERROR,
        l if l <= LogLevel::Notice as u8 => LevelFilter::WARN,
        l if l == LogLevel::Info as u8 => LevelFilter::INFO,
        l if l == LogLevel::Debug as u8 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// What an event carries.
#[derive(Default)]
struct Fields {
    message: String,
    client: Option<String>,
    vhost: Option<usize>,
    notice: bool,
    reason: Option<String>,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _never_fails_on_a_string = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "client" => {
                self.client = Some(format!("{value:?}"));
                Ok(())
            }
            name => write!(self.rest, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            "client" => self.client = Some(value.to_owned()),
            "reason" => self.reason = Some(value.to_owned()),
            name => {
                let _never_fails_on_a_string = write!(self.rest, " {name}={value}");
            }
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "vhost" => self.vhost = usize::try_from(value).ok(),
            name => {
                let _never_fails_on_a_string = write!(self.rest, " {name}={value}");
            }
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "notice" => self.notice = value,
            name => {
                let _never_fails_on_a_string = write!(self.rest, " {name}={value}");
            }
        }
    }
}

struct Line<'a> {
    request: Request,
    time: jiff::Zoned,
    pid: i32,
    tid: i32,
    target: &'a str,
    level: Level,
    source: Option<(&'static str, u32)>,
    fields: &'a Fields,
}

impl Line<'_> {
    fn level(&self) -> &'static str {
        match self.level {
            _ if self.fields.notice => "notice",
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace1",
        }
    }

    /// httpd's number for the level.
    fn severity(&self) -> u8 {
        match self.level {
            _ if self.fields.notice => 5,
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG => 7,
            Level::TRACE => 8,
        }
    }

    /// The client, from its field or from the bracket before the text, and the text.
    fn client_and_text(&self) -> (Option<&str>, &str) {
        let text = self.fields.message.as_str();
        let bracket = text
            .strip_prefix("[client ")
            .and_then(|rest| rest.split_once("] "));
        let (client, text) = match bracket {
            Some((client, rest)) => (Some(client), rest),
            None => (None, text),
        };
        (self.fields.client.as_deref().or(client), text)
    }

    /// The line by an `ErrorLogFormat`.
    fn formatted(&self, format: &Format, server_name: &str) -> Option<String> {
        let id = |id: u64| if id == 0 { String::new() } else { id_text(id) };
        let (client, text) = self.client_and_text();
        let mut message = format!("{}{}", Escaped(text), Escaped(&self.fields.rest));
        if let Some(reason) = &self.fields.reason {
            let _never_fails_on_a_string = write!(message, " reason={}", Escaped(reason));
        }
        let mut line = format.line(&Parts {
            time: &self.time,
            module: module(self.target),
            level: self.level(),
            severity: self.severity(),
            pid: self.pid,
            tid: self.tid,
            source: self.source,
            client: &Escaped(client.unwrap_or_default()).to_string(),
            request: &id(self.request.id),
            connection: &id(self.request.connection),
            server_name,
            message: &message,
        })?;
        line.push('\n');
        Some(line)
    }

    /// The line as one JSON object. What the text form puts in brackets, and httpd's message id,
    /// are members of their own.
    fn json(&self) -> String {
        let fields = self.fields;
        let (client, mut text) = self.client_and_text();
        let mut object = serde_json::Map::new();
        let mut put = |name: &str, value: serde_json::Value| {
            object.insert(name.to_owned(), value);
        };
        put("time", self.time.timestamp().to_string().into());
        put("module", module(self.target).into());
        put("level", self.level().into());
        put("pid", self.pid.into());
        put("tid", self.tid.into());
        if let Some(client) = client {
            put("client", client.into());
        }
        if self.request.id != 0 {
            put("request", id_text(self.request.id).into());
        }
        if let Some((id, rest)) = text.split_once(": ")
            && let Some(digits) = id.strip_prefix("AH")
            && digits.len() == 5
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            put("id", id.into());
            text = rest;
        }
        if let Some(reason) = &fields.reason {
            put("reason", reason.as_str().into());
        }
        put("message", format!("{text}{}", fields.rest).into());
        let mut line = serde_json::Value::Object(object).to_string();
        line.push('\n');
        line
    }
}

impl Line<'_> {
    /// httpd's default line; `time`: with its bracket, which the system log has of its own.
    fn text(&self, time: bool) -> String {
        let mut line = String::with_capacity(256);
        let _never_fails_on_a_string = self.write(time, &mut line);
        line
    }

    fn write(&self, time: bool, f: &mut impl fmt::Write) -> fmt::Result {
        if time {
            write!(f, "[{}] ", self.time.strftime("%a %b %d %H:%M:%S.%6f %Y"))?;
        }
        write!(
            f,
            "[{}:{}] [pid {}:tid {}] ",
            module(self.target),
            self.level(),
            self.pid,
            self.tid
        )?;
        if let Some(client) = &self.fields.client {
            write!(f, "[client {}] ", Escaped(client))?;
        }
        write!(
            f,
            "{}{}",
            Escaped(&self.fields.message),
            Escaped(&self.fields.rest)
        )?;
        if let Some(reason) = &self.fields.reason {
            write!(f, " reason={}", Escaped(reason))?;
        }
        if self.request.id != 0 {
            write!(f, " request={}", id_text(self.request.id))?;
        }
        f.write_char('\n')
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(true, f)
    }
}

/// httpd's name for the module that speaks, from a `tracing` target.
fn module(target: &str) -> &str {
    let inside = target.strip_prefix("sluice::").unwrap_or(target);
    match inside.split("::").next().unwrap_or(inside) {
        "balancer" => "proxy_balancer",
        "tls" => "ssl",
        "dataplane" => "xdp",
        "server" | "admin" | "sluice" => "sluice",
        "config" => "core",
        other => other,
    }
}

/// Control characters as httpd writes them, so that a client cannot forge a line.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
