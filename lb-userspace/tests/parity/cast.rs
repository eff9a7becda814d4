//! Members with names, which do what a request's query tells them to.
//!
//! `?a=WHAT&b=WHAT`: what the member `a`, and what `b` does; each looks for its own name alone. WHAT
//! is a status to answer with, `close` (without an answer), `last` (closes after it), `half` (of an answer, then close),
//! `big` (50 kB), `hold` (until it is let go), `switch` (to what `Upgrade` says), or the name of an
//! answer in [`Actor::learn`]. Fields `X-Give...: LINE` put LINE into the head of the answer.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use socket2::{Domain, Socket, Type};

/// A member.
pub(crate) struct Actor {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    part: Arc<Part>,
    /// Has the address and does not listen yet.
    silent: Mutex<Option<Socket>>,
}

#[derive(Default)]
struct Part {
    name: &'static str,
    /// Heads of requests, oldest first.
    heads: Mutex<Vec<String>>,
    /// Whether those that hold may go.
    gate: (Mutex<bool>, Condvar),
    /// Connections so far.
    connections: AtomicUsize,
    /// Status for `/health`.
    health: AtomicU16,
    /// Whole answers by name.
    answers: Mutex<HashMap<&'static str, Vec<u8>>>,
}

/// What a member can be told besides statuses and answers; anything else is answered with 599.
const WORDS: [&str; 6] = ["last", "close", "half", "big", "hold", "switch"];

impl Actor {
    /// At an address of its own, where connections are refused until it rises.
    pub(crate) fn down(name: &'static str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket();
        Self {
            name,
            address: address.expect("an IPv4 address"),
            part: Arc::new(Part {
                name,
                health: AtomicU16::new(200),
                ..Part::default()
            }),
            silent: Mutex::new(Some(socket)),
        }
    }

    /// One that is up.
    pub(crate) fn up(name: &'static str) -> Self {
        let this = Self::down(name);
        this.rise();
        this
    }

    /// Listens from now on.
    pub(crate) fn rise(&self) {
        let socket = self.silent.lock().expect("lock").take();
        let socket = socket.expect("rises once");
        socket.listen(64).expect("listen");
        let listener = TcpListener::from(socket);
        let part = Arc::clone(&self.part);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let part = Arc::clone(&part);
                part.connections.fetch_add(1, Relaxed);
                // Ends with the connection; its errors are the test's to notice at the client.
                thread::spawn(move || drop(part.play(&stream)));
            }
        });
    }

    /// The status that `/health` is answered with from now on.
    pub(crate) fn set_health(&self, status: u16) {
        self.part.health.store(status, Relaxed);
    }

    /// A whole answer, to be asked for by its name.
    pub(crate) fn learn(&self, name: &'static str, answer: &[u8]) {
        let mut answers = self.part.answers.lock().expect("lock");
        answers.insert(name, answer.to_vec());
    }

    /// Heads of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.part.heads.lock().expect("lock").clone()
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.part.connections.load(Relaxed)
    }

    /// Lets what holds go, and all that would later.
    pub(crate) fn release(&self) {
        *self.part.gate.0.lock().expect("lock") = true;
        self.part.gate.1.notify_all();
    }
}

impl Part {
    fn play(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(head) = head_of(&mut reader)? {
            let first = head.lines().next().unwrap_or_default();
            if field(&head, "expect").is_some() {
                // Known before the body is: it may never come.
                self.heads.lock().expect("lock").push(head.clone());
                if first.contains(&format!("{}=hold", self.name)) {
                    self.hold();
                }
                { stream }.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let length = field(&head, "content-length").and_then(|value| value.parse().ok());
            io::copy(
                &mut (&mut reader).take(length.unwrap_or(0)),
                &mut io::sink(),
            )?;
            if field(&head, "transfer-encoding").is_some() {
                skip_chunks(&mut reader)?;
            }
            if field(&head, "expect").is_none() {
                self.heads.lock().expect("lock").push(head.clone());
            }
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let query = target.split_once('?').map_or("", |(_, query)| query);
            let mut told = query.split('&').filter_map(|pair| pair.split_once('='));
            let what = told.find(|(name, _)| *name == self.name).map(|(_, w)| w);
            if let Some(protocol) = field(&head, "upgrade")
                && what == Some("switch")
            {
                return switch(stream, reader, &protocol);
            }
            if let Some(answer) = what.and_then(|what| self.answer(what)) {
                return { stream }.write_all(&answer);
            }
            let status = match what.map(str::parse) {
                _ if target.ends_with("/health") => self.health.load(Relaxed),
                Some(Ok(status)) => status,
                Some(_) if !WORDS.contains(&what.unwrap_or_default()) => 599,
                _ => 200,
            };
            match what {
                Some("close") => return Ok(()),
                Some("hold") => self.hold(),
                _ => {}
            }
            let mut body = match what {
                Some("big") => self.name.repeat(50_000),
                _ => self.name.to_owned(),
            };
            let mut length = body.len();
            if what == Some("half") {
                length = 2 * body.len();
            }
            if head.starts_with("HEAD ") || matches!(status, 204 | 304) {
                body.clear();
            }
            let host = field(&head, "host").unwrap_or_default();
            let given = head.lines().filter_map(|line| line.split_once(": "));
            let given = given.filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-give"));
            let given: String = given.flat_map(|(_, line)| [line, "\r\n"]).collect();
            write!(
                { stream },
                "HTTP/1.1 {status} Played\r\nServer: actor\r\nContent-Type: text/plain\r\n\
                 X-Member: {}\r\nX-Saw: {target} {host}\r\n{given}Content-Length: {length}\r\n\r\n{body}",
                self.name,
            )?;
            if matches!(what, Some("half" | "last")) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until it is let go.
    fn hold(&self) {
        let open = self.gate.0.lock().expect("lock");
        drop(self.gate.1.wait_while(open, |open| !*open).expect("lock"));
    }

    fn answer(&self, name: &str) -> Option<Vec<u8>> {
        self.answers.lock().expect("lock").get(name).cloned()
    }
}

/// Switches to a protocol in which everything comes back.
fn switch(stream: &TcpStream, mut reader: BufReader<&TcpStream>, to: &str) -> io::Result<()> {
    write!(
        { stream },
        "HTTP/1.1 101 Switching Protocols\r\nX-Member: yes\r\nUpgrade: {to}\r\nConnection: Upgrade\r\n\r\n"
    )?;
    io::copy(&mut reader, &mut { stream }).map(drop)
}

/// The next head with its line ends, without the empty line; none at the end.
fn head_of(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head[before..].trim_end().is_empty() {
            head.truncate(before);
            return Ok(Some(head));
        }
    }
}

/// The value of a head's field.
pub(crate) fn field(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let found = fields.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

fn skip_chunks(reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        // A chunk ends with an empty line, the last one with trailers and an empty line.
        io::copy(&mut reader.take(size), &mut io::sink())?;
        while reader.read_line(&mut line)? > 2 {}
        if size == 0 {
            return Ok(());
        }
    }
}
