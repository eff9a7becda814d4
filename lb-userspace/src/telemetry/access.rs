//! Access logs: `LogFormat` compiled once, lines written into a buffer per shard and file.
//!
//! The tags are httpd's (apache.md 3.24). Who opens the files and when a buffer is flushed is not
//! decided here; blocks of lines go to the writer's thread.

use std::{
    borrow::Cow,
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
pub(crate) use text::address;
use text::{cookie, escape, escaped, field, number};

use super::{sink::Sink, writer};
use crate::config::log_format::{self, Item};

mod text;

pub use text::Clock;

/// A compiled `LogFormat`.
#[derive(Clone, Debug)]
pub struct Format {
    parts: Vec<Part>,
    request_fields: Vec<HeaderName>,
    response_fields: Vec<HeaderName>,
    wants: Wants,
}

/// What an [`Entry`] has to bring that costs something to make.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// [`Entry::environment`].
    pub environment: bool,
    /// [`Entry::filename`].
    pub filename: bool,
    /// [`Entry::host_name`].
    pub host_name: bool,
    /// [`Entry::path`].
    pub path: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Vec<u8>),
    Tag {
        tag: Tag,
        /// Statuses for which the tag is written (`true`) or left out (`false`).
        only: Option<(Vec<u16>, bool)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tag {
    RemoteAddress,
    LocalAddress,
    Stamp,
    Time(Instant, TimeAs),
    RequestLine,
    Method,
    Path,
    Query,
    Protocol,
    Status,
    BodyBytesOrDash,
    BodyBytes,
    BytesIn,
    BytesOut,
    BytesBoth,
    Micros,
    Millis,
    Seconds,
    Filename,
    Handler,
    ServerName,
    HostName,
    CanonicalPort,
    LocalPort,
    RemotePort,
    ConnectionRequests,
    ConnectionStatus,
    ProcessId,
    ThreadId,
    HexThreadId,
    LogId,
    ConnectionLogId,
    RequestField(usize),
    ResponseField(usize),
    Cookie(usize, String),
    Environment(String),
    Note(String),
    /// What sluice has nothing to say about.
    Nothing,
}

/// Which moment a time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instant {
    Begin,
    End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TimeAs {
    Seconds,
    Millis,
    Micros,
    MillisOfSecond,
    MicrosOfSecond,
    Format(Arc<str>),
}

/// What a finished request's line is made of.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Client.
    pub remote: SocketAddr,
    /// Local end of its connection.
    pub local: SocketAddr,
    /// When the head was complete.
    pub begun: SystemTime,
    /// Until the response ended.
    pub took: Duration,
    /// Request line as received.
    pub request_line: &'a str,
    /// Method, target's decoded path, query without `?`, `HTTP/1.1`.
    pub method: &'a str,
    /// Decoded path.
    pub path: &'a [u8],
    /// Query, without its `?`.
    pub query: Option<&'a str>,
    /// Protocol of the request.
    pub protocol: &'a str,
    /// Status sent.
    pub status: u16,
    /// Bytes of body sent.
    pub body_bytes: u64,
    /// Bytes received, head included.
    pub bytes_in: u64,
    /// Bytes sent, head included.
    pub bytes_out: u64,
    /// `proxy:http://member/path`, empty where nothing was forwarded.
    pub filename: &'a str,
    /// `ServerName` of the virtual host.
    pub server_name: &'a str,
    /// Name that the client asked for, without port.
    pub host_name: &'a str,
    /// Port that goes with it.
    pub port: u16,
    /// Requests on this connection before this one.
    pub keepalives: u32,
    /// How the connection goes on.
    pub connection: Connection,
    /// Values of [`Format::request_fields`], in their order.
    pub request_fields: &'a [Option<HeaderValue>],
    /// Fields of the response.
    pub response_fields: &'a [Option<HeaderValue>],
    /// Id under which the error log has lines of this request; 0: it has none.
    pub log_id: u64,
    /// Id under which the error log has lines of its connection; 0: it has none.
    pub connection_log_id: u64,
    /// `proxy-server`, or empty where nothing was to be forwarded.
    pub handler: &'a str,
    /// Value of an environment variable (`BALANCER_*`, `SLUICE_REASON`).
    pub environment: &'a [(Cow<'static, str>, String)],
    /// What `Header note` kept; names have no case.
    pub notes: &'a [(String, String)],
}

/// `%X`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Broken off before the response was complete.
    Aborted,
    /// May carry another request.
    Kept,
    /// Is closed after the response.
    Closed,
}

impl Format {
    /// Compiles a format string. One that `configtest` would refuse is written as it stands.
    pub fn compile(text: &str) -> Self {
        let mut format = Self {
            parts: Vec::new(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
            wants: Wants::default(),
        };
        let items = log_format::parse(text).unwrap_or_else(|_| vec![Item::Text(text.to_owned())]);
        for item in items {
            let part = match item {
                Item::Text(text) => Part::Text(text.into_bytes()),
                Item::Tag(tag) => Part::Tag {
                    only: (!tag.statuses.is_empty()).then_some((tag.statuses, !tag.negated)),
                    tag: format.tag(&tag.name, tag.argument.as_deref()),
                },
            };
            format.parts.push(part);
        }
        format
    }

    /// What an [`Entry`] may leave empty.
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Names of variables whose values an [`Entry`] brings if there are any.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Tag {
                tag: Tag::Environment(name),
                ..
            } => Some(&name[..]),
            _ => None,
        })
    }

    /// Request fields whose values an [`Entry`] must bring.
    pub fn request_fields(&self) -> &[HeaderName] {
        &self.request_fields
    }

    /// Response fields whose values an [`Entry`] must bring.
    pub fn response_fields(&self) -> &[HeaderName] {
        &self.response_fields
    }

    fn tag(&mut self, name: &str, argument: Option<&str>) -> Tag {
        let field = |list: &mut Vec<HeaderName>, name: &str| {
            let name = HeaderName::try_from(name).ok()?;
            let known = list.iter().position(|known| *known == name);
            Some(known.unwrap_or_else(|| {
                list.push(name);
                list.len() - 1
            }))
        };
        match (name, argument) {
            ("h" | "a", _) => Tag::RemoteAddress,
            ("A", _) => Tag::LocalAddress,
            ("t", None) => Tag::Stamp,
            ("t", Some(format)) => time_tag(format),
            ("r", _) => Tag::RequestLine,
            ("R", _) => Tag::Handler,
            ("m", _) => Tag::Method,
            ("U", _) => {
                self.wants.path = true;
                Tag::Path
            }
            ("q", _) => Tag::Query,
            ("H", _) => Tag::Protocol,
            ("s", _) => Tag::Status,
            ("b", _) => Tag::BodyBytesOrDash,
            ("B", _) => Tag::BodyBytes,
            ("I", _) => Tag::BytesIn,
            ("O", _) => Tag::BytesOut,
            ("S", _) => Tag::BytesBoth,
            ("D", _) => Tag::Micros,
            ("T", None) => Tag::Seconds,
            ("T", Some(unit)) => match unit.to_ascii_lowercase().as_str() {
                "us" => Tag::Micros,
                "ms" => Tag::Millis,
                _ => Tag::Seconds,
            },
            ("f", _) => {
                self.wants.filename = true;
                Tag::Filename
            }
            ("v", _) => Tag::ServerName,
            ("V", _) => {
                self.wants.host_name = true;
                Tag::HostName
            }
            ("p", Some("local")) => Tag::LocalPort,
            ("p", Some("remote")) => Tag::RemotePort,
            ("p", _) => Tag::CanonicalPort,
            ("k", _) => Tag::ConnectionRequests,
            ("X", _) => Tag::ConnectionStatus,
            ("P", Some("tid")) => Tag::ThreadId,
            ("P", Some("hextid")) => Tag::HexThreadId,
            ("P", _) => Tag::ProcessId,
            ("L", None) => Tag::LogId,
            ("L", Some(_)) => Tag::ConnectionLogId,
            ("i", Some(name)) => {
                field(&mut self.request_fields, name).map_or(Tag::Nothing, Tag::RequestField)
            }
            ("o", Some(name)) => {
                field(&mut self.response_fields, name).map_or(Tag::Nothing, Tag::ResponseField)
            }
            ("C", Some(name)) => field(&mut self.request_fields, header::COOKIE.as_str())
                .map_or(Tag::Nothing, |index| Tag::Cookie(index, name.to_owned())),
            // mod_ssl's variables are in one list with the environment.
            ("e" | "x", Some(name)) => {
                self.wants.environment = true;
                Tag::Environment(name.to_owned())
            }
            ("n", Some(name)) => Tag::Note(name.to_owned()),
            // `%l` and `%u`: nobody says who is there. `%^ti`, `%^to`: trailers are dropped.
            _ => Tag::Nothing,
        }
    }

    /// Appends the line, with its end, to `out`.
    pub fn write(&self, entry: &Entry<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Tag { tag, only } => {
                    let left_out = only
                        .as_ref()
                        .is_some_and(|(list, wanted)| list.contains(&entry.status) != *wanted);
                    if left_out {
                        out.push(b'-');
                    } else {
                        tag.write(entry, clock, out);
                    }
                }
            }
        }
        out.push(b'\n');
    }
}

/// `%{...}t`.
fn time_tag(format: &str) -> Tag {
    let (when, format) = match format.strip_prefix("end:") {
        Some(format) => (Instant::End, format),
        None => (
            Instant::Begin,
            format.strip_prefix("begin:").unwrap_or(format),
        ),
    };
    let how = match format {
        // As in httpd, which has a time in brackets where the format is empty.
        "" => TimeAs::Format("[%d/%b/%Y:%H:%M:%S %z]".into()),
        "sec" => TimeAs::Seconds,
        "msec" => TimeAs::Millis,
        "usec" => TimeAs::Micros,
        "msec_frac" => TimeAs::MillisOfSecond,
        "usec_frac" => TimeAs::MicrosOfSecond,
        format => TimeAs::Format(format.into()),
    };
    Tag::Time(when, how)
}

impl TimeAs {
    fn write(&self, time: SystemTime, clock: &mut Clock, out: &mut Vec<u8>) {
        let epoch = text::since_epoch(time);
        match self {
            Self::Seconds => number(out, epoch.as_secs()),
            Self::Millis => number(out, epoch.as_millis() as u64),
            Self::Micros => number(out, epoch.as_micros() as u64),
            Self::MillisOfSecond => drop(write!(out, "{:03}", epoch.subsec_millis())),
            Self::MicrosOfSecond => drop(write!(out, "{:06}", epoch.subsec_micros())),
            Self::Format(format) => escape(out, clock.formatted(format, time).as_bytes()),
        }
    }
}

impl Tag {
    fn write(&self, entry: &Entry<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::RemoteAddress => address(out, entry.remote.ip()),
            Self::LocalAddress => address(out, entry.local.ip()),
            Self::Stamp => out.extend_from_slice(clock.stamp(entry.begun).as_bytes()),
            Self::Time(Instant::Begin, how) => how.write(entry.begun, clock, out),
            Self::Time(Instant::End, how) => how.write(entry.begun + entry.took, clock, out),
            Self::RequestLine => escaped(out, entry.request_line.as_bytes()),
            Self::Method => escaped(out, entry.method.as_bytes()),
            Self::Path => escaped(out, entry.path),
            Self::Query => {
                if let Some(query) = entry.query {
                    out.push(b'?');
                    escape(out, query.as_bytes());
                }
            }
            Self::Protocol => escaped(out, entry.protocol.as_bytes()),
            Self::Status => number(out, u64::from(entry.status)),
            Self::BodyBytesOrDash if entry.body_bytes == 0 => out.push(b'-'),
            Self::BodyBytesOrDash | Self::BodyBytes => number(out, entry.body_bytes),
            Self::BytesIn => number(out, entry.bytes_in),
            Self::BytesOut => number(out, entry.bytes_out),
            Self::BytesBoth => number(out, entry.bytes_in + entry.bytes_out),
            Self::Micros => number(out, entry.took.as_micros() as u64),
            Self::Millis => number(out, entry.took.as_millis() as u64),
            Self::Seconds => number(out, entry.took.as_secs()),
            Self::Filename => escaped(out, entry.filename.as_bytes()),
            Self::ServerName => escaped(out, entry.server_name.as_bytes()),
            Self::HostName => escaped(out, entry.host_name.as_bytes()),
            Self::CanonicalPort => number(out, u64::from(entry.port)),
            Self::LocalPort => number(out, u64::from(entry.local.port())),
            Self::RemotePort => number(out, u64::from(entry.remote.port())),
            Self::ConnectionRequests => number(out, u64::from(entry.keepalives)),
            Self::ConnectionStatus => out.push(match entry.connection {
                Connection::Aborted => b'X',
                Connection::Kept => b'+',
                Connection::Closed => b'-',
            }),
            Self::LogId => log_id(out, entry.log_id),
            Self::ConnectionLogId => log_id(out, entry.connection_log_id),
            Self::ProcessId => number(out, u64::from(std::process::id())),
            Self::ThreadId => number(out, clock.thread()),
            Self::HexThreadId => drop(write!(out, "{:x}", clock.thread())),
            Self::Handler => escaped(out, entry.handler.as_bytes()),
            Self::RequestField(index) => field(out, entry.request_fields, *index),
            Self::ResponseField(index) => field(out, entry.response_fields, *index),
            Self::Cookie(index, name) => {
                let value = entry.request_fields.get(*index).and_then(Option::as_ref);
                escaped(
                    out,
                    value
                        .and_then(|value| cookie(value.as_bytes(), name))
                        .unwrap_or_default(),
                );
            }
            Self::Environment(name) => {
                let value =
                    (entry.environment.iter()).find(|(known, _)| known.eq_ignore_ascii_case(name));
                escaped(
                    out,
                    value.map_or(b"".as_slice(), |(_, value)| value.as_bytes()),
                );
            }
            Self::Note(name) => {
                let mut notes = entry.notes.iter();
                let note = notes.find(|(known, _)| known.eq_ignore_ascii_case(name));
                escaped(
                    out,
                    note.map_or(b"".as_slice(), |(_, value)| value.as_bytes()),
                );
            }
            Self::Nothing => out.push(b'-'),
        }
    }
}

fn log_id(out: &mut Vec<u8>, id: u64) {
    if id == 0 {
        out.push(b'-');
    } else {
        out.extend_from_slice(super::error_log::id_text(id).as_bytes());
    }
}

/// Takes the value of `name` from `fields`; a repeated field's values are joined by `, `, those of
/// Cookie by `; `.
pub fn take_value(name: &HeaderName, fields: &HeaderMap) -> Option<HeaderValue> {
    let mut values = fields.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first.clone());
    };
    let mut joined = first.as_bytes().to_vec();
    let separator = if *name == header::COOKIE { "; " } else { ", " };
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(separator.as_bytes());
        joined.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// One shard's lines for one file. What is left is handed over when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    sink: Sink,
    lines: Vec<u8>,
}

impl Buffer {
    /// Bytes that are gathered before they are written.
    pub const LIMIT: usize = 64 << 10;

    /// An empty buffer.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            lines: Vec::new(),
        }
    }

    /// Appends a line; hands over when enough has gathered.
    pub fn push(&mut self, format: &Format, entry: &Entry<'_>, clock: &mut Clock) {
        format.write(entry, clock, &mut self.lines);
        if self.lines.len() >= Self::LIMIT {
            self.flush();
        }
    }

    /// Hands over what has gathered. A log that cannot be written costs its lines and one message,
    /// never a request.
    pub fn flush(&mut self) {
        if !self.lines.is_empty() {
            let room = Vec::with_capacity(self.lines.len().min(Self::LIMIT));
            writer::hand_over(&self.sink, std::mem::replace(&mut self.lines, room));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
