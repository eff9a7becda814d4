//! `SluiceMetrics`: the page over HTTP/1, one request a connection. Control's loop makes the page as
//! it answers the control socket; reading and writing sockets happens beside it, within bounds of
//! number, size and time.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::socket::Ask;
use crate::{
    admin::protocol::{Request, Response},
    config::spec::{Place, Sluice},
};

/// Connections at a time; more wait to be accepted.
const MAX_CLIENTS: usize = 8;
/// Longest request head, bytes.
const MAX_HEAD: usize = 8 << 10;
/// How long a client may take for its head, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A page this young is given again: however often somebody asks, control's loop makes at most ten
/// a second.
const FRESH: Duration = Duration::from_millis(100);

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{}:{}: SluiceMetrics {address}: {source}", at.file.display(), at.line)]
pub(super) struct ScrapeError {
    address: SocketAddr,
    at: Place,
    source: io::Error,
}

/// The listening socket; closed when the last of its kind is dropped.
#[derive(Clone)]
pub(super) struct Scrape {
    address: SocketAddr,
    /// The task's own, once more: to be handed on.
    socket: Arc<std::net::TcpListener>,
    _task: Arc<Task>,
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The last page, and when it was made. Held while one is made: who asks meanwhile gets it too.
type Last = Mutex<Option<(Instant, Arc<str>)>>;

impl Scrape {
    /// What the configuration asks for: `current` where it serves that address already.
    pub(super) fn of(
        sluice: &Sluice,
        current: Option<&Self>,
        asks: &mpsc::Sender<Ask>,
    ) -> Result<Option<Self>, ScrapeError> {
        let Some(wanted) = &sluice.metrics else {
            return Ok(None);
        };
        if let Some(current) = current.filter(|current| current.address == wanted.address) {
            return Ok(Some(current.clone()));
        }
        // The standard library sets SO_REUSEADDR: a restart need not wait for old connections.
        let listener = std::net::TcpListener::bind(wanted.address)
            .and_then(|socket| Self::begin(socket, asks))
            .map_err(|source| ScrapeError {
                address: wanted.address,
                at: wanted.at.clone(),
                source,
            })?;
        Ok(Some(listener))
    }

    /// The socket of the program that this process was: who connected meanwhile waits in its queue.
    pub(super) fn adopt(socket: &OwnedFd, asks: &mpsc::Sender<Ask>) -> io::Result<Self> {
        Self::begin(socket.try_clone()?.into(), asks)
    }

    /// For a successor.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    fn begin(socket: std::net::TcpListener, asks: &mpsc::Sender<Ask>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        Ok(Self {
            address: socket.local_addr()?,
            socket: Arc::new(socket),
            _task: Arc::new(Task(tokio::spawn(accept(listener, asks.clone())))),
        })
    }
}

async fn accept(listener: TcpListener, asks: mpsc::Sender<Ask>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let last = Arc::new(Last::default());
    loop {
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asks, last) = (asks.clone(), Arc::clone(&last));
                tokio::spawn(async move {
                    // The client went away, or was too slow: its loss.
                    drop(converse(stream, &asks, &last).await);
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("SluiceMetrics: accept: {error}");
                tokio::time::sleep(FRESH).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, asks: &mpsc::Sender<Ask>, last: &Last) -> io::Result<()> {
    let head = timeout(PATIENCE, read_head(&mut stream)).await??;
    let wish = Wish::of(&head);
    let (status, fields, body) = match wish {
        Wish::Page | Wish::Head => match page(asks, last).await {
            Ok(page) => ("200 OK", "", page),
            Err(message) => ("503 Service Unavailable", "", format!("{message}\n").into()),
        },
        Wish::Elsewhere => ("404 Not Found", "", "there is /metrics\n".into()),
        Wish::Method => (
            "405 Method Not Allowed",
            "Allow: GET, HEAD\r\n",
            "GET\n".into(),
        ),
        Wish::Noise => ("400 Bad Request", "", "not HTTP/1\n".into()),
    };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\n{fields}Connection: close\r\n\r\n",
        body.len()
    );
    if !matches!(wish, Wish::Head) {
        answer.push_str(&body);
    }
    timeout(PATIENCE, stream.write_all(answer.as_bytes())).await??;
    stream.shutdown().await
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Page,
    Head,
    Elsewhere,
    Method,
    Noise,
}

impl Wish {
    fn of(head: &[u8]) -> Self {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some(version), None) =
            (method, target, version, words.next())
        else {
            return Self::Noise;
        };
        let path = target.split(|byte| *byte == b'?').next();
        match (method, path, version) {
            (_, _, version) if !version.starts_with(b"HTTP/1.") => Self::Noise,
            (b"GET", Some(b"/metrics"), _) => Self::Page,
            (b"HEAD", Some(b"/metrics"), _) => Self::Head,
            (b"GET" | b"HEAD", _, _) => Self::Elsewhere,
            _ => Self::Method,
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

async fn page(asks: &mpsc::Sender<Ask>, last: &Last) -> Result<Arc<str>, String> {
    let mut last = last.lock().await;
    if let Some((made, page)) = &*last
        && made.elapsed() < FRESH
    {
        return Ok(Arc::clone(page));
    }
    let (reply, answer) = oneshot::channel();
    let stopping = || "the service is stopping".to_owned();
    asks.send(Ask {
        request: Request::Metrics,
        uid: 0,
        client: None,
        reply,
    })
    .await
    .map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Response::Metrics { text } => {
            let page: Arc<str> = text.into();
            *last = Some((Instant::now(), Arc::clone(&page)));
            Ok(page)
        }
        Response::Refused { message } => Err(message),
        Response::Snapshot(_) | Response::Route(_) | Response::Done { .. } => {
            Err("no page".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_is_there() {
        for (head, wish) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", Wish::Page),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Wish::Page),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Wish::Head),
            ("GET /metricsx HTTP/1.1\r\n\r\n", Wish::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Wish::Method),
            ("GET /metrics\r\n\r\n", Wish::Noise),
            ("GET /metrics HTTP/2.0\r\n\r\n", Wish::Noise),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Wish::Noise),
        ] {
            assert_eq!(Wish::of(head.as_bytes()), wish, "{head:?}");
        }
    }
}
