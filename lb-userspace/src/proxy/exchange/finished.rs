//! A request that is over: its access log lines, and what the conditions of logs may ask of it.

use std::{borrow::Cow, net::IpAddr, rc::Rc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

use crate::{
    expr::{self, Moment, Table, Variable},
    proxy::{client::Client, path, plan::HostLog, shard::Current, tls::accept::Session},
    telemetry::{
        access::{Connection, Entry},
        error_log,
    },
};

/// What only a log needs to know.
pub(super) struct Facts {
    pub(super) begun: SystemTime,
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) version: Version,
    pub(super) host_name: String,
    pub(super) refused: bool,
    /// What each log's format asks for, one log's behind another's; empty until it is there.
    pub(super) request: Vec<Option<HeaderValue>>,
    pub(super) response: Vec<Option<HeaderValue>>,
    /// Every field of request and response, for conditions that may ask for any.
    pub(super) fields: Option<[HeaderMap; 2]>,
    /// Once it is over.
    pub(super) end: Option<End>,
}

/// A request that is over and waits for its log line until its last bytes were written.
pub(crate) struct Finished(pub(super) Box<Facts>);

/// What its end adds.
pub(super) struct End {
    pub(super) current: Rc<Current>,
    pub(super) host: usize,
    pub(super) took: std::time::Duration,
    pub(super) status: u16,
    pub(super) body_bytes: u64,
    pub(super) received: u64,
    pub(super) keepalives: u32,
    pub(super) connection: Connection,
    /// `UseCanonicalName On`
    pub(super) by_name: bool,
    pub(super) log_id: u64,
    pub(super) connection_log_id: u64,
    pub(super) handler: &'static str,
    pub(super) environment: Vec<(Cow<'static, str>, String)>,
    pub(super) notes: Vec<(String, String)>,
    pub(super) filename: String,
}

impl Finished {
    /// Writes the line to every log of the host. `sent`: bytes that went to the client.
    pub(crate) fn log(&self, client: &Client, sent: u64) {
        let facts = &self.0;
        let Some(end) = &facts.end else {
            return;
        };
        let host = &end.current.plan.hosts[end.host];
        let protocol = match facts.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        };
        // One room for all lines.
        let mut line = end.current.line.take();
        line.clear();
        if facts.refused {
        } else if facts.target.authority().is_some() {
            line = format!("{} {} {protocol}", facts.method, facts.target);
        } else {
            // Joined by hand: the formatting machinery costs more than the rest of the line.
            let target = facts.target.path_and_query();
            line.push_str(facts.method.as_str());
            line.push(' ');
            line.push_str(target.map_or("", |target| target.as_str()));
            line.push(' ');
            line.push_str(protocol);
        }
        let spec = &end.current.plan.spec.hosts[end.host];
        let decoded = (host.logs.iter().any(HostLog::wants_path))
            .then(|| path::decode(facts.target.path().as_bytes(), spec.encoded_slashes));
        let spec_port = spec.server_port;
        let (mut request, mut response) = (&facts.request[..], &facts.response[..]);
        for log in &host.logs {
            let entry = Entry {
                remote: client.peer,
                local: client.local,
                begun: facts.begun,
                took: end.took,
                request_line: &line,
                method: if facts.refused {
                    ""
                } else {
                    facts.method.as_str()
                },
                path: match &decoded {
                    _ if facts.refused => b"",
                    Some(Ok(path)) => path,
                    _ => facts.target.path().as_bytes(),
                },
                query: facts.target.query(),
                protocol,
                // 499: the client went away before there was an answer.
                status: if end.status == 0 { 499 } else { end.status },
                body_bytes: end.body_bytes,
                bytes_in: end.received,
                bytes_out: sent,
                filename: &end.filename,
                server_name: &host.name,
                host_name: if end.by_name || facts.host_name.is_empty() {
                    &host.name
                } else {
                    &facts.host_name
                },
                port: spec_port.unwrap_or(match client.tls {
                    Some(_) => 443,
                    None => 80,
                }),
                keepalives: end.keepalives,
                connection: end.connection,
                request_fields: take_first(&mut request, log.format.request_fields().len()),
                response_fields: take_first(&mut response, log.format.response_fields().len()),
                log_id: end.log_id,
                connection_log_id: end.connection_log_id,
                handler: end.handler,
                environment: &end.environment,
                notes: &end.notes,
            };
            let known = Known {
                entry: &entry,
                facts,
                tls: client.tls.as_deref(),
            };
            if log.takes(&known) {
                end.current.log(log.sink, &log.format, &entry);
            }
        }
        end.current.line.replace(line);
    }
}

/// The first `count` of the values that are left; none where there are fewer.
fn take_first<'a, T>(values: &mut &'a [T], count: usize) -> &'a [T] {
    let (first, rest) = values.split_at_checked(count).unwrap_or_default();
    *values = rest;
    first
}

/// A request as expressions see it when its line is due.
struct Known<'a> {
    entry: &'a Entry<'a>,
    facts: &'a Facts,
    tls: Option<&'a Session>,
}

impl Known<'_> {
    fn variable_of_environment(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut known = self.entry.environment.iter();
        let known = known.find(|(known, _)| known.eq_ignore_ascii_case(name));
        match known {
            Some((_, value)) => Some(value.as_bytes().into()),
            None => Some(self.tls?.variable(name)?.into_bytes().into()),
        }
    }
}

impl expr::Facts for Known<'_> {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let entry = self.entry;
        let switch = |is_on: bool| Cow::Borrowed(if is_on { &b"on"[..] } else { b"off" });
        let number = |number: u16| -> Cow<'_, [u8]> { number.to_string().into_bytes().into() };
        let id = |id: u64| (id != 0).then(|| error_log::id_text(id).into_bytes().into());
        Some(match variable {
            Variable::Field(name) => return self.entry(Table::Request, name.as_bytes()),
            Variable::ContentType => return self.entry(Table::Response, b"content-type"),
            Variable::Tls(name) => return self.variable_of_environment(name),
            Variable::RequestLogId => return id(entry.log_id),
            Variable::ConnectionLogId => return id(entry.connection_log_id),
            Variable::Method => entry.method.as_bytes().into(),
            Variable::Scheme => if self.tls.is_some() {
                &b"https"[..]
            } else {
                b"http"
            }
            .into(),
            Variable::Uri => entry.path.into(),
            Variable::Filename => entry.filename.as_bytes().into(),
            Variable::RemoteAddress | Variable::Peer => {
                let address = entry.remote.ip().to_canonical();
                address.to_string().into_bytes().into()
            }
            Variable::RemotePort => number(entry.remote.port()),
            Variable::ServerName => entry.server_name.as_bytes().into(),
            Variable::ServerPort => number(entry.port),
            Variable::Protocol => entry.protocol.as_bytes().into(),
            Variable::Query => entry.query.unwrap_or_default().as_bytes().into(),
            Variable::RequestLine => entry.request_line.as_bytes().into(),
            Variable::Status => number(entry.status),
            Variable::Https => switch(self.tls.is_some()),
            Variable::Http2 => switch(self.facts.version == Version::HTTP_2),
            Variable::Ipv6 => switch(entry.remote.ip().to_canonical().is_ipv6()),
            Variable::ServerSoftware => b"sluice"[..].into(),
            Variable::User | Variable::ServerAdmin | Variable::Constant(_) | Variable::Time(_) => {
                return None;
            }
        })
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let fields = self.facts.fields.as_ref();
        let fields = match table {
            Table::Environment => {
                return self.variable_of_environment(std::str::from_utf8(name).ok()?);
            }
            Table::Request => &fields?[0],
            Table::Response => &fields?[1],
            Table::Notes => {
                let name = std::str::from_utf8(name).ok()?;
                let mut kept = self.entry.notes.iter();
                let (_, value) = kept.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
                return Some(value.as_bytes().into());
            }
            Table::Process | Table::HealthCheck => return None,
        };
        let name = HeaderName::from_bytes(name).ok()?;
        Some(fields.get(name)?.as_bytes().into())
    }

    fn remote(&self) -> Option<IpAddr> {
        Some(self.entry.remote.ip().to_canonical())
    }

    fn now(&self) -> Moment {
        Moment::from(&jiff::Zoned::now())
    }
}
