//! Members, clients and a running proxy for the tests.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lb_common::member::MemberId;
use sluice::{
    config::spec::{
        AccessLog, Balancer, Host, HostAddress, LbMethod, Listener, LogTarget,
        Member as MemberSpec, Place, Reverse, ReverseTarget, Route, Scheme, Spec, Sticky, Target,
    },
    dataplane::table::MemberTable,
    proxy::{Generation, LogFiles, Proxy, Setup, ShardListener},
};

/// Longest time that anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

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
            streams: Arc::default(),
            stopped: Arc::default(),
        };
        let (seen, connections) = (member.seen.clone(), member.connections.clone());
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
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || {
                    // A client that goes away ends the thread; what it saw before counts.
                    let _ = serve(&mut stream, &seen, handler.as_ref(), reads_body);
                    let _ = stream.shutdown(Shutdown::Both);
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

/// An address nobody listens on.
pub(crate) fn dead_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
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

fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
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

fn read_body(head: &str, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
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
    stream: &mut TcpStream,
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

fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
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

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
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

/// A configuration in the making, and the proxy that runs it.
pub(crate) struct Lab {
    pub(crate) spec: Spec,
    pub(crate) address: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) table: Arc<MemberTable>,
    pub(crate) ids: Vec<Vec<MemberId>>,
    listener: TcpListener,
    shards: usize,
    generation: u64,
    next_id: u32,
}

impl Lab {
    /// A proxy of `shards` shards with nothing configured.
    pub(crate) fn new(shards: usize) -> Self {
        let (table, _members, _busy) = MemberTable::anonymous().expect("memory file");
        let table = Arc::new(table);
        let proxy = Proxy::start(Setup {
            table: Arc::clone(&table),
            column: 1,
            shards,
        })
        .expect("proxy");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let spec = Spec {
            listeners: vec![Listener {
                address,
                dual: false,
                at: Place::default(),
            }],
            hosts: vec![host()],
            limit_request_fields: 100,
            limit_request_field_size: 8190,
            limit_request_line: 8190,
            listen_backlog: 511,
            ..Spec::default()
        };
        Self {
            spec,
            address,
            proxy,
            table,
            ids: Vec::new(),
            listener,
            shards,
            generation: 0,
            next_id: 1,
        }
    }

    /// One balancer `x` of these members behind `/`, running.
    pub(crate) fn balancing(members: &[SocketAddr]) -> Self {
        Self::configured(members, |_| {})
    }

    /// As [`Lab::balancing`], with the configuration changed first.
    pub(crate) fn configured(members: &[SocketAddr], change: impl FnOnce(&mut Spec)) -> Self {
        let mut lab = Self::new(2);
        lab.add_balancer("x", members);
        lab.route("/", 0, "/");
        change(&mut lab.spec);
        lab.apply();
        lab
    }

    pub(crate) fn add_balancer(&mut self, name: &str, members: &[SocketAddr]) -> usize {
        self.spec.balancers.push(Balancer {
            name: name.to_owned(),
            direct: false,
            members: members
                .iter()
                .enumerate()
                .map(|(index, &address)| member(index, address))
                .collect(),
            lbmethod: LbMethod::ByRequests,
            sticky: None,
            nofailover: false,
            timeout: Duration::ZERO,
            maxattempts: None,
            failonstatus: Vec::new(),
            failontimeout: false,
            forcerecovery: true,
            at: Place::default(),
        });
        self.spec.balancers.len() - 1
    }

    pub(crate) fn route(&mut self, path: &str, balancer: usize, target: &str) {
        self.spec.hosts[0].routes.push(Route {
            path: path.to_owned(),
            target: Target::Balancer {
                balancer,
                path: target.to_owned(),
            },
            nocanon: false,
            at: Place::default(),
        });
    }

    /// Publishes the configuration: slots first, then the shards, as control does.
    pub(crate) fn apply(&mut self) {
        self.apply_logging(Vec::new());
    }

    pub(crate) fn apply_logging(&mut self, logs: LogFiles) {
        let socket = self.listener.try_clone().expect("clone");
        let listeners = (0..self.shards)
            .map(|shard| ShardListener {
                shard,
                listener: 0,
                socket: socket.try_clone().expect("clone"),
            })
            .collect();
        self.apply_with(listeners, logs);
    }

    pub(crate) fn apply_with(&mut self, listeners: Vec<ShardListener>, logs: LogFiles) {
        self.generation += 1;
        // Slots are kept by balancer and position as long as the count stays.
        for (index, balancer) in self.spec.balancers.iter().enumerate() {
            if self.ids.len() <= index {
                self.ids.push(Vec::new());
            }
            while self.ids[index].len() < balancer.members.len() {
                let id = MemberId(self.next_id);
                self.next_id += 1;
                let member = &balancer.members[self.ids[index].len()];
                let cell = self.table.cell(id).expect("slot");
                cell.incarnation.store(1, Relaxed);
                cell.set_state(member.status);
                self.ids[index].push(id);
            }
            self.ids[index].truncate(balancer.members.len());
            for (member, &id) in balancer.members.iter().zip(&self.ids[index]) {
                let cell = self.table.cell(id).expect("slot");
                let ip = member.host.parse().expect("literal address");
                cell.set_address(ip, member.port);
                cell.weight.store(member.lbfactor, Relaxed);
                cell.set_lbset(member.lbset);
            }
        }
        self.ids.truncate(self.spec.balancers.len());
        let generation = Generation {
            number: self.generation,
            spec: Arc::new(self.spec.clone()),
            ids: self.ids.clone(),
        };
        self.proxy
            .apply(generation, listeners, logs)
            .expect("apply");
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str, fields: &str) -> Reply {
        self.client()
            .get(path, &format!("Connection: close\r\n{fields}"))
    }

    /// Sends raw bytes, returns everything that comes back until the proxy closes.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client();
        client.send(bytes);
        String::from_utf8_lossy(&client.rest().expect("read until the end")).into_owned()
    }

    /// The members' names in the order in which they answered.
    pub(crate) fn sequence(&self, requests: usize) -> String {
        (0..requests).map(|_| self.get("/", "").text()).collect()
    }

    pub(crate) fn cell(
        &self,
        balancer: usize,
        member: usize,
    ) -> &sluice::dataplane::sys::MemberCell {
        self.table.cell(self.ids[balancer][member]).expect("slot")
    }

    /// Requests in flight on a member.
    pub(crate) fn busy(&self, balancer: usize, member: usize) -> u64 {
        self.table.busy_sum(self.ids[balancer][member])
    }
}

/// A host with httpd's defaults.
pub(crate) fn host() -> Host {
    Host {
        addresses: Vec::new(),
        server_name: Some("main.test".to_owned()),
        server_port: None,
        aliases: Vec::new(),
        routes: Vec::new(),
        reverses: Vec::new(),
        preserve_host: false,
        add_headers: true,
        timeout: Duration::from_mins(1),
        proxy_timeout: None,
        keep_alive: true,
        keep_alive_timeout: Duration::from_secs(5),
        max_keep_alive_requests: 100,
        header_timeout: Duration::from_secs(20),
        access_logs: Vec::new(),
        error_log: None,
        at: Place::default(),
    }
}

/// A virtual host for a name on every address.
pub(crate) fn named_host(name: &str) -> Host {
    Host {
        addresses: vec![HostAddress {
            ip: None,
            port: None,
        }],
        server_name: Some(name.to_owned()),
        ..host()
    }
}

pub(crate) fn reverse(path: &str, target: ReverseTarget) -> Reverse {
    Reverse {
        path: path.to_owned(),
        target,
        location: None,
    }
}

pub(crate) fn access_log(path: &std::path::Path, format: &str) -> AccessLog {
    AccessLog {
        target: LogTarget::File(PathBuf::from(path)),
        format: format.to_owned(),
    }
}

pub(crate) fn sticky() -> Sticky {
    Sticky {
        cookie: "ROUTEID".to_owned(),
        path: "routeid".to_owned(),
        separator: Some('.'),
        scolonpathdelim: false,
    }
}

fn member(index: usize, address: SocketAddr) -> MemberSpec {
    MemberSpec {
        url: format!("http://{address}"),
        scheme: Scheme::Http,
        host: address.ip().to_string(),
        port: address.port(),
        path: String::new(),
        lbfactor: 100,
        lbset: 0,
        route: format!("n{index}"),
        redirect: String::new(),
        status: 0,
        retry: Duration::from_mins(1),
        timeout: None,
        connection_timeout: None,
        ttl: None,
        max: None,
        acquire: None,
        keepalive: false,
        disablereuse: false,
        response_field_size: 8192,
        at: Place::default(),
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
