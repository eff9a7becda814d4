//! A request as expressions and rules ask for it.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::{Ruling, Scene, canonical::Canonically};
use crate::{
    expr::{Facts, Moment, Table, Variable},
    policy::environment::Request,
    proxy::vhost,
    rewrite,
};

/// Answers what rules want to know of a request.
pub(super) struct Asker<'r> {
    pub(super) scene: &'r dyn Scene,
    pub(super) ruling: &'r Ruling,
    /// Of the request.
    pub(super) fields: &'r HeaderMap,
    /// Status and fields, where it is there.
    pub(super) response: Option<(StatusCode, &'r HeaderMap)>,
}

impl Facts for Asker<'_> {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let (scene, ruling) = (self.scene, self.ruling);
        let switch = |is_on: bool| Cow::Borrowed(if is_on { &b"on"[..] } else { b"off" });
        let number = |number: u16| -> Cow<'_, [u8]> { number.to_string().into_bytes().into() };
        let protocol = match ruling.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        };
        Some(match variable {
            Variable::Field(name) => return self.entry(Table::Request, name.as_bytes()),
            Variable::ContentType => return self.entry(Table::Response, b"content-type"),
            Variable::Tls(name) => return self.entry(Table::Environment, name.as_bytes()),
            Variable::Method => ruling.method.as_str().as_bytes().into(),
            Variable::Scheme => if scene.is_tls() {
                &b"https"[..]
            } else {
                b"http"
            }
            .into(),
            Variable::Uri => ruling.path[..].into(),
            Variable::RemoteAddress | Variable::Peer => {
                let address = scene.peer().ip().to_canonical();
                address.to_string().into_bytes().into()
            }
            Variable::RemotePort => number(scene.peer().port()),
            Variable::ServerName => self.canonically().name().to_owned().into_bytes().into(),
            Variable::ServerPort => number(self.canonically().port()),
            Variable::Protocol => protocol.as_bytes().into(),
            Variable::Query => ruling.query.as_deref().unwrap_or_default().into(),
            Variable::RequestLine => format!("{} {} {protocol}", ruling.method, ruling.target)
                .into_bytes()
                .into(),
            Variable::Status => return self.response.map(|(status, _)| number(status.as_u16())),
            Variable::Https => switch(scene.is_tls()),
            Variable::Http2 => switch(ruling.version == Version::HTTP_2),
            Variable::Ipv6 => switch(scene.peer().ip().to_canonical().is_ipv6()),
            Variable::ServerSoftware => b"sluice"[..].into(),
            Variable::Filename
            | Variable::User
            | Variable::ServerAdmin
            | Variable::RequestLogId
            | Variable::ConnectionLogId
            | Variable::Constant(_)
            | Variable::Time(_) => return None,
        })
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let fields = match table {
            Table::Environment => {
                let set = self.ruling.environment.borrow();
                if let Some(value) = set.value(name) {
                    return Some(value.to_vec().into());
                }
                let known = self.scene.environment().into_iter();
                let mut known =
                    known.filter(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
                let value = known.next().map(|(_, value)| value);
                let value = value.or_else(|| {
                    let name = std::str::from_utf8(name).ok()?;
                    self.scene.tls_variable(name)
                })?;
                return Some(value.into_bytes().into());
            }
            Table::Request => self.fields,
            Table::Response => self.response?.1,
            Table::Notes => {
                let kept = self.ruling.notes.borrow();
                return kept.value(name).map(|value| value.to_vec().into());
            }
            Table::Process | Table::HealthCheck => return None,
        };
        let name = HeaderName::from_bytes(name).ok()?;
        let mut values = fields.get_all(name).iter();
        let first = values.next()?.as_bytes();
        let rest: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
        if rest.is_empty() {
            return Some(first.into());
        }
        // httpd joins fields of one name when it reads them.
        let mut joined = first.to_vec();
        for value in rest {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(joined.into())
    }

    fn remote(&self) -> Option<IpAddr> {
        Some(self.scene.peer().ip().to_canonical())
    }

    fn now(&self) -> Moment {
        Moment::from(&jiff::Zoned::now())
    }
}

impl rewrite::Request for Asker<'_> {
    fn origin(&self) -> Vec<u8> {
        self.canonically().origin().into_bytes()
    }

    fn is_here(&self, host: &[u8], port: Option<u16>) -> bool {
        let usual = if self.scene.is_tls() { 443 } else { 80 };
        let name = String::from_utf8_lossy(host).to_ascii_lowercase();
        let own = self.scene.host_spec().server_port;
        own == Some(port.unwrap_or(usual)) && vhost::is_named(self.scene.host_spec(), &name)
    }

    fn look_up(&self, file: usize, key: &[u8]) -> Option<Vec<u8>> {
        let file = self.scene.spec().rewrite_maps.get(file)?;
        let value = file.value(key, |count| {
            let mut seed = [0; 4];
            // Without randomness it is always the same one, no more.
            let _ = getrandom::fill(&mut seed);
            u32::from_le_bytes(seed) as usize % count
        })?;
        Some(value.as_bytes().to_vec())
    }
}

impl Asker<'_> {
    fn canonically(&self) -> Canonically<'_> {
        Canonically::by_fields(self.scene, self.ruling, self.fields)
    }
}

impl Request for Asker<'_> {
    fn server_address(&self) -> String {
        self.scene.local().ip().to_canonical().to_string()
    }

    fn fields(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        for (name, value) in self.fields {
            each(name.as_str().as_bytes(), value.as_bytes());
        }
    }
}
