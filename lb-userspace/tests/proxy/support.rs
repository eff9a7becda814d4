//! Members and clients for the tests; the proxy between them is in `lab`.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

#[path = "support/lab.rs"]
mod lab;

pub(crate) use lab::*;

/// Longest time that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request as a member saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and fields, without the empty line.
    pub(crate) head: String,
    /// Decoded body.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// Values of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        values(&self.head, name)
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }
}

fn values(head: &str, name: &str) -> Vec<String> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

/// What a member does with a request: writes to the stream; `false` closes the connection.
type Handler = dyn Fn(&Seen, &mut TcpStream) -> io::Result<bool> + Send + Sync;

/// An HTTP member in a thread of its own.
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    stopped: Arc<AtomicBool>,
}

impl Member {
    /// Answers every request with 200 and its name.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::with(move |_, stream| respond(stream, "200 OK", "", name.as_bytes()))
    }

    /// Answers as `handler` says, with the body read first.
    pub(crate) fn with(
        handler: impl Fn(&Seen, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(handler), true)
    }

    /// As [`Member::with`], but the body is the handler's to read.
    pub(crate) fn with_open_body(
        handler: impl Fn(&Seen, &mut TcpStream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(handler), false)
    }

    fn start(handler: Arc<Handler>, reads_body: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind member");
        let member = Self {
            address: listener.local_addr().expect("member's address"),
            seen: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            streams: Arc::default(),
            stopped: Arc::default(),
        };
        let (seen, connections) = (member.seen.clone(), member.connections.clone());
        let open = Arc::clone(&member.open);
        let (streams, stopped) = (member.streams.clone(), member.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                connections.fetch_add(1, Relaxed);
                streams
                    .lock()
                    .expect("streams")
                    .push(stream.try_clone().expect("clone"));
                open.fetch_add(1, Relaxed);
                let (seen, handler, open) = (seen.clone(), handler.clone(), open.clone());
                std::thread::spawn(move || {
                    // A client that goes away ends the thread; what it saw before counts.
                    let _ = serve(&mut stream, &seen, handler.as_ref(), reads_body);
                    let _ = stream.shutdown(Shutdown::Both);
                    open.fetch_sub(1, Relaxed);
                });
            }
        });
        member
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("seen").clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().expect("the member saw a request")
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Those that the proxy has not closed.
    pub(crate) fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Closes every connection that is open.
    pub(crate) fn close_connections(&self) {
        for stream in self.streams.lock().expect("streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        // Wakes the accept.
        let _ = TcpStream::connect(self.address);
        self.close_connections();
    }
}

/// An address nobody listens on, now or later: it is taken by a socket that does not listen.
pub(crate) fn dead_address() -> SocketAddr {
    static TAKEN: Mutex<Vec<socket2::Socket>> = Mutex::new(Vec::new());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("socket");
    // A test may listen there later, by naming it.
    socket.set_reuse_address(true).expect("option");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("bind");
    let address = socket.local_addr().expect("address");
    TAKEN.lock().expect("no panic").push(socket);
    address.as_socket().expect("IPv4")
}

fn serve(
    stream: &mut TcpStream,
    seen: &Mutex<Vec<Seen>>,
    handler: &Handler,
    reads_body: bool,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(stream, &mut buffer)? else {
            return Ok(());
        };
        let body = if reads_body {
            read_body(&head, stream, &mut buffer)?
        } else {
            std::mem::take(&mut buffer)
        };
        let request = Seen { head, body };
        seen.lock().expect("seen").push(request.clone());
        if !handler(&request, stream)? {
            return Ok(());
        }
    }
}

/// Writes a whole response; keeps the connection.
pub(crate) fn respond(
    stream: &mut TcpStream,
    status: &str,
    fields: &str,
    body: &[u8],
) -> io::Result<bool> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    Ok(true)
}

pub(crate) fn read_head(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 4);
            return Ok(Some(head));
        }
        if !fill(stream, buffer)? {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

pub(crate) fn read_body(
    head: &str,
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> io::Result<Vec<u8>> {
    if values(head, "transfer-encoding")
        .iter()
        .any(|value| value.eq_ignore_ascii_case("chunked"))
    {
        return read_chunks(stream, buffer);
    }
    let length = values(head, "content-length")
        .first()
        .map_or(0, |value| value.parse().expect("length"));
    read_exactly(stream, buffer, length)
}

fn read_exactly(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if !fill(stream, buffer)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn read_chunks(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(buffer, b"\r\n") {
                break end;
            }
            if !fill(stream, buffer)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let size = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .map_err(io::Error::other)?;
        buffer.drain(..end + 2);
        let mut chunk = read_exactly(stream, buffer, size + 2)?;
        chunk.truncate(size);
        if size == 0 {
            return Ok(body);
        }
        body.extend(chunk);
    }
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0; 16 << 10];
    let count = stream.read(&mut bytes)?;
    buffer.extend_from_slice(&bytes[..count]);
    Ok(count > 0)
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// A response as a client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        values(&self.head, name).into_iter().next()
    }
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect to the proxy");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("send");
    }

    /// The next response; `method` HEAD has no body.
    pub(crate) fn try_receive(&mut self, method: &str) -> io::Result<Reply> {
        let head = read_head(&mut self.stream, &mut self.buffer)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("status line");
        let bodyless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
        let framed = !values(&head, "content-length").is_empty()
            || !values(&head, "transfer-encoding").is_empty();
        let body = if bodyless {
            Vec::new()
        } else if framed {
            read_body(&head, &mut self.stream, &mut self.buffer)?
        } else {
            self.rest()?
        };
        Ok(Reply { status, head, body })
    }

    pub(crate) fn receive(&mut self) -> Reply {
        self.try_receive("GET").expect("response")
    }

    pub(crate) fn get(&mut self, path: &str, fields: &str) -> Reply {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: h.test\r\n{fields}\r\n"
        ));
        self.receive()
    }

    /// Everything until the end.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while fill(&mut self.stream, &mut self.buffer)? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the proxy closes now without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.rest().is_ok_and(|rest| rest.is_empty())
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

impl Client {
    /// Whether the proxy has sent anything or closed, without waiting.
    pub(crate) fn proxy_has_answered(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("nonblocking");
        let mut byte = [0];
        let peeked = self.stream.peek(&mut byte);
        self.stream.set_nonblocking(false).expect("blocking");
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
