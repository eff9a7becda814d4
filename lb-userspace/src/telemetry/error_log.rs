//! The error log: a `tracing` subscriber that writes httpd's error log lines.
//!
//! `[Sun Nov 22 14:00:00.000000 2026] [proxy:error] [pid 1:tid 2] [client 192.0.2.1:4000] text`.
//! Fields with a meaning of their own: `client` (the bracket above), `vhost` (index of the virtual
//! host whose `ErrorLog` the line goes to), `notice` (the event is of httpd's level `notice` and, as
//! in httpd, written whatever `LogLevel` says). Every other field follows the text as `name=value`.
//!
//! Spans are accepted and carry nothing. What other crates log is written at `LogLevel trace` only.

use std::{
    fmt::{self, Write as _},
    fs::File,
    io::Write as _,
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

use crate::config::spec::LogLevel;

/// Where lines go. Empty: standard error.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// `ErrorLog` of the main server.
    pub main: Option<Arc<File>>,
    /// `ErrorLog` of each virtual host, by its index in the specification; `None`: the main one.
    pub hosts: Vec<Option<Arc<File>>>,
}

static TARGETS: RwLock<Targets> = RwLock::new(Targets {
    main: None,
    hosts: Vec::new(),
});
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Warn as u8);
static STARTED: OnceLock<()> = OnceLock::new();

/// Makes the error log this process's log, on standard error at `LogLevel warn`. Further calls
/// change nothing.
pub fn start() {
    STARTED.get_or_init(|| {
        // Refused only when some other subscriber is there already: a test's, which then sees it.
        drop(tracing::subscriber::set_global_default(ErrorLog));
    });
}

/// Sends all further lines to `targets`, those of `level` and worse.
pub fn configure(targets: Targets, level: LogLevel) {
    *TARGETS.write().unwrap_or_else(PoisonError::into_inner) = targets;
    LEVEL.store(level as u8, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

struct ErrorLog;

impl Subscriber for ErrorLog {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_wanted(metadata, LEVEL.load(Relaxed)) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_wanted(metadata, LEVEL.load(Relaxed))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Notices are `info` events and always wanted.
        Some(
            filter(LEVEL.load(Relaxed))
                .max(Level::INFO.into())
                .max(LevelFilter::INFO),
        )
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            time: jiff::Zoned::now(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
            target: event.metadata().target(),
            level: *event.metadata().level(),
            fields: &fields,
        }
        .to_string();
        let targets = TARGETS.read().unwrap_or_else(PoisonError::into_inner);
        let file = fields
            .vhost
            .and_then(|index| targets.hosts.get(index))
            .and_then(Option::as_ref)
            .or(targets.main.as_ref());
        // A log that cannot be written has nobody to be reported to.
        drop(match file {
            Some(file) => (&**file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
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
    time: jiff::Zoned,
    pid: i32,
    tid: i32,
    target: &'a str,
    level: Level,
    fields: &'a Fields,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            _ if self.fields.notice => "notice",
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace1",
        };
        write!(
            f,
            "[{}] [{}:{level}] [pid {}:tid {}] ",
            self.time.strftime("%a %b %d %H:%M:%S.%6f %Y"),
            module(self.target),
            self.pid,
            self.tid
        )?;
        if let Some(client) = &self.fields.client {
            write!(f, "[client {}] ", Escaped(client))?;
        }
        writeln!(
            f,
            "{}{}",
            Escaped(&self.fields.message),
            Escaped(&self.fields.rest)
        )
    }
}

/// httpd's name for the module that speaks, from a `tracing` target.
fn module(target: &str) -> &str {
    let inside = target.strip_prefix("sluice::").unwrap_or(target);
    match inside.split("::").next().unwrap_or(inside) {
        "balancer" => "proxy_balancer",
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
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_httpds() {
        let fields = Fields {
            message: "AH01114: failed\nforged".to_owned(),
            client: Some("192.0.2.1:4000".to_owned()),
            rest: " member=http://a".to_owned(),
            ..Fields::default()
        };
        let time: jiff::Timestamp = "2026-11-22T14:00:00.000001Z".parse().expect("time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        let line = Line {
            time,
            pid: 7,
            tid: 8,
            target: "sluice::proxy::forward",
            level: Level::ERROR,
            fields: &fields,
        };
        assert_eq!(
            line.to_string(),
            "[Sun Nov 22 14:00:00.000001 2026] [proxy:error] [pid 7:tid 8] [client 192.0.2.1:4000] \
             AH01114: failed\\nforged member=http://a\n"
        );
    }

    #[test]
    fn levels_follow_loglevel() {
        assert_eq!(filter(LogLevel::Error as u8), LevelFilter::ERROR);
        assert_eq!(filter(LogLevel::Warn as u8), LevelFilter::WARN);
        assert_eq!(filter(LogLevel::Notice as u8), LevelFilter::WARN);
        assert_eq!(filter(LogLevel::Info as u8), LevelFilter::INFO);
        assert_eq!(filter(LogLevel::Trace as u8), LevelFilter::TRACE);
    }
}
