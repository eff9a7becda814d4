//! One check: a fresh connection, with TLS to an https member, a request where the method has one, what the answer says.

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::checker::Target;
use crate::{
    config::spec::Check,
    expr::{Facts, Moment, Table, Variable},
    names::Further,
    proxy::{
        pool::{bound, is_local},
        tls::member::{self, HandshakeError},
    },
};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no connection to {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("no connection to {path}: {1}", path = .0.display())]
    SocketConnect(PathBuf, #[source] io::Error),
    #[error("no answer from {path} within {1:?}", path = .0.display())]
    SocketLate(PathBuf, Duration),
    #[error("TLS handshake: {0}")]
    Tls(#[source] HandshakeError),
    #[error("no answer from {0} within {1:?}")]
    Late(SocketAddr, Duration),
    #[error("hcuri '{0}' makes no request: {1}")]
    Request(String, #[source] http::Error),
    #[error("no valid answer: {0}")]
    Answer(#[from] hyper::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("status {0}, hcexpr does not hold")]
    Condition(u16),
}

impl ProbeError {
    /// The check was not made for want of descriptors, ports or memory here: it says nothing about
    /// the member.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Connect(address, error) => is_local(Some(*address), error),
            Self::SocketConnect(_, error) => is_local(None, error),
            _ => false,
        }
    }
}

/// Largest head of an answer, bytes.
const MOST_HEAD: usize = 64 << 10;

/// Largest part of an answer's body that `hc('body')` sees, bytes. The rest is not read.
const MOST_BODY: usize = 1 << 20;

/// Checks a member once.
pub(super) async fn probe(
    target: &Target,
    check: Check,
    further: &Further,
) -> Result<(), ProbeError> {
    if let Some(path) = &target.socket {
        return probe_unix(target, path, check).await;
    }
    let mut address = target.address;
    let mut connected = connect(target, address).await;
    if let (Err(error), Some(name)) = (&connected, &target.name)
        && !error.is_ours()
    {
        // As for a request: in turn, the last one's failure counts.
        let further = further.beside(name, address.ip());
        let further = tokio::time::timeout(target.connect_timeout, further).await;
        for ip in further.unwrap_or_default() {
            address.set_ip(ip);
            connected = connect(target, address).await;
            if connected.is_ok() {
                break;
            }
        }
    }
    let stream = connected?;
    if check == Check::Tcp {
        return Ok(());
    }
    let asking = async {
        match &target.peer {
            None => exchange(stream, target, check).await,
            Some(peer) => {
                let shaken = member::shake(peer, stream).await;
                let stream = shaken.map_err(|error| ProbeError::Tls(error.into()))?;
                exchange(stream, target, check).await
            }
        }
    };
    // Boxed: a handshake is large.
    tokio::time::timeout(target.timeout, Box::pin(asking))
        .await
        .map_err(|_| ProbeError::Late(address, target.timeout))?
}

async fn connect(target: &Target, address: SocketAddr) -> Result<TcpStream, ProbeError> {
    let connecting = async {
        match target.source {
            None => TcpStream::connect(address).await,
            Some(_) => bound(address, target.source)?.connect(address).await,
        }
    };
    tokio::time::timeout(target.connect_timeout, connecting)
        .await
        .map_err(|_| ProbeError::Late(address, target.connect_timeout))?
        .map_err(|error| ProbeError::Connect(address, error))
}

/// The same through a Unix socket.
async fn probe_unix(target: &Target, path: &Path, check: Check) -> Result<(), ProbeError> {
    let late = |limit| move |_| ProbeError::SocketLate(path.to_owned(), limit);
    let stream = tokio::time::timeout(target.connect_timeout, UnixStream::connect(path))
        .await
        .map_err(late(target.connect_timeout))?
        .map_err(|error| ProbeError::SocketConnect(path.to_owned(), error))?;
    if check == Check::Tcp {
        return Ok(());
    }
    tokio::time::timeout(target.timeout, exchange(stream, target, check))
        .await
        .map_err(late(target.timeout))?
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    target: &Target,
    check: Check,
) -> Result<(), ProbeError> {
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(MOST_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    // It ends when the answer was read, or when this check does.
    let connection = tokio::task::spawn_local(connection);
    let _ended = AbortOnDrop(connection.abort_handle());
    let request = request(target, check)
        .map_err(|error| ProbeError::Request(target.health.uri.clone(), error))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let (head, body) = response.into_parts();
    let reads = matches!(check, Check::Get | Check::Get11);
    let body = if reads { read(body).await? } else { Vec::new() };
    let Some(expr) = &target.health.expr else {
        return if (200..400).contains(&status.as_u16()) {
            Ok(())
        } else {
            Err(ProbeError::Status(status.as_u16()))
        };
    };
    let answer = Answer {
        status,
        fields: head.headers,
        body,
    };
    if expr.holds(&answer) {
        Ok(())
    } else {
        Err(ProbeError::Condition(status.as_u16()))
    }
}

/// The request of a check: nothing but Host.
fn request(target: &Target, check: Check) -> Result<Request<Empty<Bytes>>, http::Error> {
    let (method, version) = match check {
        Check::Options => (Method::OPTIONS, Version::HTTP_10),
        Check::Options11 => (Method::OPTIONS, Version::HTTP_11),
        Check::Head => (Method::HEAD, Version::HTTP_10),
        Check::Head11 => (Method::HEAD, Version::HTTP_11),
        Check::Get | Check::Tcp => (Method::GET, Version::HTTP_10),
        Check::Get11 => (Method::GET, Version::HTTP_11),
    };
    let uri: Uri = if method == Method::OPTIONS {
        Uri::from_static("*")
    } else {
        path(&target.path, &target.health.uri).parse()?
    };
    Request::builder()
        .method(method)
        .uri(uri)
        .version(version)
        .header(header::HOST, &target.host)
        .body(Empty::new())
}

/// The member's path and `hcuri`, with a slash between where there are both, as httpd sends it.
/// With neither httpd sends no path at all, which no member understands; this sends `/`.
fn path(path: &str, uri: &str) -> String {
    let slash = if path.is_empty() || uri.is_empty() {
        ""
    } else {
        "/"
    };
    let joined = format!("{path}{slash}{uri}");
    if joined.is_empty() {
        "/".to_owned()
    } else {
        joined
    }
}

/// The body, or its first megabyte.
async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            text.extend_from_slice(&data[..data.len().min(MOST_BODY - text.len())]);
        }
        if text.len() == MOST_BODY {
            break;
        }
    }
    Ok(text)
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What `hcexpr` may ask for.
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
}

impl Facts for Answer {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        match variable {
            Variable::Status => Some(self.status.as_str().as_bytes().into()),
            Variable::ContentType => self.entry(Table::Response, b"content-type"),
            _ => None,
        }
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match table {
            Table::Response => {
                let name = http::HeaderName::from_bytes(name).ok()?;
                let value = self.fields.get(name)?;
                Some(value.as_bytes().into())
            }
            Table::HealthCheck if name == b"body" => Some(Cow::Borrowed(&self.body)),
            _ => None,
        }
    }

    fn remote(&self) -> Option<std::net::IpAddr> {
        None
    }

    fn now(&self) -> Moment {
        Moment::from(&jiff::Zoned::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use lb_common::member::MemberId;

    use super::*;
    use crate::{
        config::spec::Health,
        expr::{Dialect, Expr},
    };

    #[test]
    fn paths_join_as_in_httpd() {
        for (path, uri, joined) in [
            ("", "", "/"),
            ("", "/status", "/status"),
            ("/app", "", "/app"),
            ("/app", "up", "/app/up"),
            ("/app", "/up", "/app//up"),
            ("/app/", "/up", "/app///up"),
        ] {
            assert_eq!(super::path(path, uri), joined, "{path} {uri}");
        }
    }

    /// Checks a member that answers `answer`; what it was sent, and the outcome.
    fn check(check: Check, expr: Option<&str>, answer: &'static str) -> (String, bool) {
        let member = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = member.local_addr().expect("it is bound");
        let served = std::thread::spawn(move || {
            let (mut stream, _) = member.accept().expect("a connection");
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                seen.push(byte[0]);
            }
            // The checker may have left.
            let _ = stream.write_all(answer.as_bytes());
            String::from_utf8(seen).expect("ASCII")
        });
        let target = Target {
            id: MemberId(1),
            incarnation: 0,
            address,
            name: None,
            socket: None,
            peer: None,
            host: "member.test:81".to_owned(),
            path: "/app".to_owned(),
            url: String::new(),
            connect_timeout: Duration::from_secs(5),
            source: None,
            timeout: Duration::from_secs(5),
            health: Health {
                uri: "up".to_owned(),
                expr: expr.map(|text| {
                    Expr::condition(text, Dialect::HealthCheck).expect("an expression")
                }),
                ..Health::default()
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let outcome = tokio::task::LocalSet::new()
            .block_on(&runtime, probe(&target, check, &Further::default()));
        (served.join().expect("it served"), outcome.is_ok())
    }

    #[test]
    fn requests_are_httpds_byte_for_byte() {
        for (method, sent) in [
            (
                Check::Get,
                "GET /app/up HTTP/1.0\r\nHost: member.test:81\r\n\r\n",
            ),
            (
                Check::Get11,
                "GET /app/up HTTP/1.1\r\nHost: member.test:81\r\n\r\n",
            ),
            (
                Check::Head,
                "HEAD /app/up HTTP/1.0\r\nHost: member.test:81\r\n\r\n",
            ),
            (
                Check::Options11,
                "OPTIONS * HTTP/1.1\r\nHost: member.test:81\r\n\r\n",
            ),
        ] {
            let (seen, passed) = check(method, None, "HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(seen, sent);
            assert!(passed);
        }
    }

    #[test]
    fn an_answer_passes_by_status_or_by_expression() {
        const FOUND: &str = "HTTP/1.0 404 Not Found\r\nX-State: up\r\n\r\nall is well";
        for (expr, answer, passes) in [
            (None, "HTTP/1.1 399 X\r\nContent-Length: 0\r\n\r\n", true),
            (None, "HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n", false),
            (None, FOUND, false),
            (Some("%{REQUEST_STATUS} -eq 404"), FOUND, true),
            (Some("resp('x-state') == 'up'"), FOUND, true),
            (Some("hc('body') =~ /well$/"), FOUND, true),
            (Some("hc('body') =~ /maintenance/"), FOUND, false),
            (None, "SSH-2.0-x\r\n", false),
            (None, "", false),
            (
                Some("true"),
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut",
                false,
            ),
        ] {
            assert_eq!(check(Check::Get, expr, answer).1, passes, "{answer}");
        }
    }
}
