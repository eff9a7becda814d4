//! A real HTTP/1.1 member that answers with its name and misbehaves on demand.
//!
//! It runs on threads of this process, with its sockets inside a namespace, so that a test can ask
//! it what it was sent, hold answers back and kill it. A request says in its query what it wants:
//!
//! | query | the member |
//! |---|---|
//! | `delay=MS` | waits before it answers |
//! | `hold=1` | answers when [`Member::release`] is called |
//! | `status=CODE` | answers with that status |
//! | `size=BYTES` | sends a body of that length |
//! | `chunked=1` | sends the body in chunks |
//! | `interim=CODE` | sends a 1xx response first |
//! | `cookie=NAME` | sets `NAME=session.ROUTE`, the route being its name |
//! | `location=URL` | adds a `Location` header |
//! | `close=1` | ends the connection after the answer |
//! | `cut=BYTES` | ends the connection after so many bytes of the body |
//! | `garbage=1` | sends what is no HTTP |
//! | `drop=1` | ends the connection without an answer |
//!
//! `/name` answers with the name alone; any other path with JSON that says what was received.

mod wire;

use std::{
    io::Write,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::SockRef;

use self::wire::{Reader, Request};
use crate::{Namespace, wait};

/// A running member. Dropping it kills it.
#[derive(Debug)]
pub struct Member {
    name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<TcpListener>,
    acceptor: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    dead: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicU64,
    requests: AtomicU64,
    held: Mutex<Held>,
    released: Condvar,
}

/// Requests that wait for [`Member::release`].
#[derive(Debug, Default)]
struct Held {
    waiting: u64,
    releases: u64,
}

impl Member {
    /// Starts it inside `namespace`.
    pub fn start(namespace: &Namespace, name: &str, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .inside(|| TcpListener::bind(address))?
            .with_context(|| format!("member {name}: listening on {address}"))?;
        Self::serve(name, listener)
    }

    /// Starts it on this host; port 0 takes a free one.
    pub fn start_here(name: &str, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("member {name}: listening on {address}"))?;
        Self::serve(name, listener)
    }

    fn serve(name: &str, listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let acceptor = thread::spawn({
            let (listener, shared, name) = (
                listener.try_clone()?,
                Arc::clone(&shared),
                Arc::<str>::from(name),
            );
            move || accept(&listener, &shared, &name)
        });
        Ok(Self {
            name: name.to_owned(),
            address,
            shared,
            listener: Some(listener),
            acceptor: Some(acceptor),
        })
    }

    /// Its name, which is its route too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests received whole so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Waits until `count` requests are held back at the same time.
    pub fn wait_held(&self, count: u64) -> Result<()> {
        wait::until(
            &format!("{count} requests held by {}", self.name),
            wait::PATIENCE,
            || (lock(&self.shared.held).waiting >= count).then_some(()),
        )
    }

    /// Answers all requests that are held back now.
    pub fn release(&self) {
        lock(&self.shared.held).releases += 1;
        self.shared.released.notify_all();
    }

    /// Kills it: its port refuses and its connections end, as when a process dies.
    pub fn kill(&mut self) {
        self.shared.dead.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // Wakes the acceptor, which has the other descriptor; nothing listens any more.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        }
        self.release();
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, name: &Arc<str>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.dead.load(Ordering::Relaxed) {
            return;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(twin) = stream.try_clone() else {
            continue;
        };
        lock(&shared.connections).push(twin);
        let (shared, name) = (Arc::clone(shared), Arc::clone(name));
        thread::spawn(move || {
            let _ = serve(&stream, &shared, &name);
            // The list holds a twin of this descriptor: without this the peer would wait.
            let _ = stream.shutdown(Shutdown::Both);
            let port = stream.peer_addr().ok();
            lock(&shared.connections).retain(|other| other.peer_addr().ok() != port);
        });
    }
}

/// Serves one connection until either side ends it.
fn serve(stream: &TcpStream, shared: &Shared, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream);
    while let Some(request) = reader.request()? {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(pause) = request.number("delay") {
            thread::sleep(Duration::from_millis(pause));
        }
        if request.number("hold").is_some() {
            hold(shared);
        }
        if shared.dead.load(Ordering::Relaxed) || !answer(stream, &request, name)? {
            break;
        }
    }
    Ok(())
}

/// Waits for the next release.
fn hold(shared: &Shared) {
    let mut held = lock(&shared.held);
    held.waiting += 1;
    let before = held.releases;
    while held.releases == before && !shared.dead.load(Ordering::Relaxed) {
        held = shared
            .released
            .wait(held)
            .unwrap_or_else(PoisonError::into_inner);
    }
    held.waiting -= 1;
}

/// Answers; says whether the connection goes on.
fn answer(mut stream: &TcpStream, request: &Request, name: &str) -> std::io::Result<bool> {
    if request.number("drop").is_some() {
        return Ok(false);
    }
    if request.number("garbage").is_some() {
        stream.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")?;
        return Ok(false);
    }
    if let Some(code) = request.number("interim") {
        write!(
            stream,
            "HTTP/1.1 {code} Interim\r\nX-Interim: {name}\r\n\r\n"
        )?;
    }
    let body = match request.number("size") {
        Some(size) => vec![b'x'; usize::try_from(size).unwrap_or(0)],
        None if request.path() == "/name" => name.as_bytes().to_vec(),
        None => request.describe(name).into_bytes(),
    };
    let status = request.number("status").unwrap_or(200);
    let mut head = Vec::new();
    write!(head, "HTTP/1.1 {status} Said So\r\nX-Member: {name}\r\n")?;
    if let Some(cookie) = request.word("cookie") {
        write!(head, "Set-Cookie: {cookie}=session.{name}; Path=/\r\n")?;
    }
    if let Some(location) = request.word("location") {
        write!(head, "Location: {location}\r\n")?;
    }
    let close = request.number("close").is_some() || request.wants_close();
    if close {
        head.extend(b"Connection: close\r\n");
    }
    let bodiless = request.method == "HEAD" || status == 204 || status == 304;
    if request.number("chunked").is_some() {
        head.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut message = head;
        if !bodiless {
            for piece in body.chunks(4096) {
                write!(message, "{:x}\r\n", piece.len())?;
                message.extend(piece);
                message.extend(b"\r\n");
            }
            message.extend(b"0\r\n\r\n");
        }
        stream.write_all(&message)?;
    } else {
        write!(head, "Content-Length: {}\r\n\r\n", body.len())?;
        let mut message = head;
        let cut = request
            .number("cut")
            .and_then(|bytes| usize::try_from(bytes).ok());
        if !bodiless {
            message.extend(&body[..cut.unwrap_or(body.len()).min(body.len())]);
        }
        stream.write_all(&message)?;
        if cut.is_some() {
            return Ok(false);
        }
    }
    Ok(!close)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
