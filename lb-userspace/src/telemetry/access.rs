//! Access logs: `LogFormat` compiled once, lines written into a buffer per shard and file.
//!
//! The tags are httpd's (apache.md 3.24) as far as they mean something here; an unknown one is
//! written as `-`. Who opens the files and when a buffer is flushed is not decided here.

use std::{
    fs::File,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

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
    Time,
    TimeAs(String),
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
    ServerName,
    HostName,
    CanonicalPort,
    LocalPort,
    RemotePort,
    ConnectionRequests,
    ConnectionStatus,
    ProcessId,
    LogId,
    RequestField(usize),
    ResponseField(usize),
    Cookie(usize, String),
    Environment(String),
    Unknown,
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
    /// Value of an environment variable (`BALANCER_*`, `SLUICE_REASON`).
    pub environment: &'a [(&'static str, String)],
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
    /// Compiles a format string; anything is accepted.
    pub fn compile(text: &str) -> Self {
        let mut format = Self {
            parts: Vec::new(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
            wants: Wants::default(),
        };
        let mut plain = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '%' => {
                    if chars.next_if_eq(&'%').is_some() {
                        plain.push(b'%');
                        continue;
                    }
                    if !plain.is_empty() {
                        format.parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    let part = format.compile_tag(&mut chars);
                    format.parts.push(part);
                }
                '\\' => plain.extend(match chars.next() {
                    Some('n') => vec![b'\n'],
                    Some('t') => vec![b'\t'],
                    Some('r') => vec![b'\r'],
                    Some(other) if matches!(other, '\\' | '"') => vec![other as u8],
                    Some(other) => format!("\\{other}").into_bytes(),
                    None => vec![b'\\'],
                }),
                other => plain.extend(other.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        if !plain.is_empty() {
            format.parts.push(Part::Text(plain));
        }
        format
    }

    /// What an [`Entry`] may leave empty.
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// Request fields whose values an [`Entry`] must bring.
    pub fn request_fields(&self) -> &[HeaderName] {
        &self.request_fields
    }

    /// Response fields whose values an [`Entry`] must bring.
    pub fn response_fields(&self) -> &[HeaderName] {
        &self.response_fields
    }

    fn compile_tag(&mut self, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Part {
        let mut argument: Option<String> = None;
        let mut statuses = String::new();
        let mut wanted = true;
        while let Some(char) = chars.next() {
            match char {
                '!' => wanted = false,
                '<' | '>' => {}
                '0'..='9' | ',' => statuses.push(char),
                '{' => argument = Some(chars.by_ref().take_while(|&c| c != '}').collect()),
                letter => {
                    let statuses: Vec<u16> =
                        statuses.split(',').filter_map(|s| s.parse().ok()).collect();
                    let mut tag = self.tag(letter, argument.as_deref());
                    // `%^ti` and `%^to` (trailer fields): two letters more, never there.
                    if letter == '^' {
                        chars.next();
                        chars.next();
                        tag = Tag::Unknown;
                    }
                    return Part::Tag {
                        tag,
                        only: (!statuses.is_empty()).then_some((statuses, wanted)),
                    };
                }
            }
        }
        Part::Tag {
            tag: Tag::Unknown,
            only: None,
        }
    }

    fn tag(&mut self, letter: char, argument: Option<&str>) -> Tag {
        let field = |list: &mut Vec<HeaderName>, name: &str| {
            let name = HeaderName::try_from(name).ok()?;
            Some(
                list.iter()
                    .position(|known| *known == name)
                    .unwrap_or_else(|| {
                        list.push(name);
                        list.len() - 1
                    }),
            )
        };
        match (letter, argument) {
            ('h' | 'a', _) => Tag::RemoteAddress,
            ('A', _) => Tag::LocalAddress,
            ('t', None) => Tag::Time,
            ('t', Some(format)) => Tag::TimeAs(
                format
                    .trim_start_matches("begin:")
                    .trim_start_matches("end:")
                    .to_owned(),
            ),
            ('r', _) => Tag::RequestLine,
            ('m', _) => Tag::Method,
            ('U', _) => Tag::Path,
            ('q', _) => Tag::Query,
            ('H', _) => Tag::Protocol,
            ('s', _) => Tag::Status,
            ('b', _) => Tag::BodyBytesOrDash,
            ('B', _) => Tag::BodyBytes,
            ('I', _) => Tag::BytesIn,
            ('O', _) => Tag::BytesOut,
            ('D', _) | ('T', Some("us")) => Tag::Micros,
            ('T', Some("ms")) => Tag::Millis,
            ('T', None | Some("s")) => Tag::Seconds,
            ('f', _) => {
                self.wants.filename = true;
                Tag::Filename
            }
            ('v', _) => Tag::ServerName,
            ('V', _) => Tag::HostName,
            ('p', None | Some("canonical")) => Tag::CanonicalPort,
            ('p', Some("local")) => Tag::LocalPort,
            ('p', Some("remote")) => Tag::RemotePort,
            ('k', _) => Tag::ConnectionRequests,
            ('X', _) => Tag::ConnectionStatus,
            ('P', None | Some("pid")) => Tag::ProcessId,
            ('L', None) => Tag::LogId,
            ('S', _) => Tag::BytesBoth,
            ('i', Some(name)) => {
                field(&mut self.request_fields, name).map_or(Tag::Unknown, Tag::RequestField)
            }
            ('o', Some(name)) => {
                field(&mut self.response_fields, name).map_or(Tag::Unknown, Tag::ResponseField)
            }
            ('C', Some(name)) => field(&mut self.request_fields, header::COOKIE.as_str())
                .map_or(Tag::Unknown, |index| Tag::Cookie(index, name.to_owned())),
            // mod_ssl's variables are in one list with the environment.
            ('e' | 'x', Some(name)) => {
                self.wants.environment = true;
                Tag::Environment(name.to_owned())
            }
            _ => Tag::Unknown,
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

impl Tag {
    fn write(&self, entry: &Entry<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::RemoteAddress => address(out, entry.remote.ip()),
            Self::LocalAddress => address(out, entry.local.ip()),
            Self::Time => out.extend_from_slice(clock.stamp(entry.begun).as_bytes()),
            Self::TimeAs(format) => out.extend_from_slice(time_as(format, entry.begun).as_bytes()),
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
            Self::LogId if entry.log_id == 0 => out.push(b'-'),
            Self::LogId => {
                out.extend_from_slice(super::error_log::id_text(entry.log_id).as_bytes());
            }
            Self::ProcessId => number(out, u64::from(std::process::id())),
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
                let value = entry.environment.iter().find(|(known, _)| known == name);
                escaped(
                    out,
                    value.map_or(b"".as_slice(), |(_, value)| value.as_bytes()),
                );
            }
            Self::Unknown => out.push(b'-'),
        }
    }
}

/// Takes the values of `names` from `fields`; a repeated field's values are joined by `, `, those
/// of Cookie by `; `.
pub fn take_values(names: &[HeaderName], fields: &HeaderMap) -> Vec<Option<HeaderValue>> {
    names
        .iter()
        .map(|name| {
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
        })
        .collect()
}

fn cookie<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    cookies.split(|&byte| byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|&byte| byte == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    })
}

fn field(out: &mut Vec<u8>, values: &[Option<HeaderValue>], index: usize) {
    let value = values.get(index).and_then(Option::as_ref);
    escaped(out, value.map_or(b"", HeaderValue::as_bytes));
}

/// Writes escaped text, `-` for none.
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(b'-');
    } else {
        escape(out, text);
    }
}

/// Makes what a client sent harmless to whoever reads the file, as httpd does.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0b => b'v',
            b'\r' => b'r',
            b' '..=b'~' => {
                out.push(byte);
                continue;
            }
            _ => {
                out.extend_from_slice(&[
                    b'\\',
                    b'x',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(octet));
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `[10/Oct/2000:13:55:36 -0700]`, made once a second.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn stamp(&mut self, time: SystemTime) -> &str {
        let second = since_epoch(time).as_secs();
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = zoned(time).map_or_else(
                || "-".to_owned(),
                |zoned| zoned.strftime("[%d/%b/%Y:%H:%M:%S %z]").to_string(),
            );
        }
        &self.text
    }
}

fn time_as(format: &str, time: SystemTime) -> String {
    let epoch = since_epoch(time);
    match format {
        "sec" => epoch.as_secs().to_string(),
        "msec" => epoch.as_millis().to_string(),
        "usec" => epoch.as_micros().to_string(),
        "msec_frac" => format!("{:03}", epoch.subsec_millis()),
        "usec_frac" => format!("{:06}", epoch.subsec_micros()),
        _ => zoned(time)
            .and_then(|zoned| jiff::fmt::strtime::format(format, &zoned).ok())
            .unwrap_or_else(|| "-".to_owned()),
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn zoned(time: SystemTime) -> Option<jiff::Zoned> {
    let timestamp = jiff::Timestamp::try_from(time).ok()?;
    Some(timestamp.to_zoned(jiff::tz::TimeZone::system()))
}

/// Where a log's lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// A file opened for appending.
    File(Arc<File>),
    /// Standard error.
    Stderr,
}

/// One shard's lines for one file. What is left is written when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    sink: Sink,
    lines: Vec<u8>,
    broken: bool,
}

impl Buffer {
    /// Bytes that are gathered before they are written.
    pub const LIMIT: usize = 16 << 10;

    /// An empty buffer.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            lines: Vec::new(),
            broken: false,
        }
    }

    /// Appends a line; writes when enough has gathered.
    pub fn push(&mut self, format: &Format, entry: &Entry<'_>, clock: &mut Clock) {
        format.write(entry, clock, &mut self.lines);
        if self.lines.len() >= Self::LIMIT {
            self.flush();
        }
    }

    /// Writes what has gathered, in one call. A log that cannot be written costs its lines and one
    /// message, never a request.
    pub fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let result: io::Result<()> = match &self.sink {
            Sink::File(file) => (&**file).write_all(&self.lines),
            Sink::Stderr => io::stderr().lock().write_all(&self.lines),
        };
        self.lines.clear();
        match result {
            Ok(()) => self.broken = false,
            Err(error) if !self.broken => {
                self.broken = true;
                tracing::error!(target: "sluice::proxy", "access log: lines lost: {error}");
            }
            Err(_) => {}
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
