//! Upgrades: WebSocket between a real client and a real server, other protocols by hand, and what
//! must not become a tunnel.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::{Duration, Instant},
};

use sluice::config::spec::Upgrade;
use tungstenite::{
    Error, Message, WebSocket,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{Client, Lab, Member, PATIENCE, access_log, eventually, respond};

/// A WebSocket server that sends every message back and counts its connections.
struct Echo {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    #[expect(clippy::result_large_err, reason = "the library's callback")]
                    let choose = |request: &Request, mut response: Response| {
                        let fields = request.headers();
                        assert_eq!(fields["upgrade"], "websocket");
                        assert_eq!(fields["connection"], "Upgrade");
                        if let Some(wanted) = fields.get("sec-websocket-protocol") {
                            let fields = response.headers_mut();
                            fields.insert("sec-websocket-protocol", wanted.clone());
                        }
                        Ok(response)
                    };
                    let Ok(mut socket) = tungstenite::accept_hdr(stream, choose) else {
                        return;
                    };
                    count.fetch_add(1, Relaxed);
                    while let Ok(message) = socket.read() {
                        if message.is_text() || message.is_binary() {
                            let _ = socket.send(message);
                        }
                    }
                    count.fetch_sub(1, Relaxed);
                });
            }
        });
        Self { address, open }
    }

    fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// A proxy whose one member is for WebSocket.
fn lab(member: SocketAddr, upgrade: Upgrade) -> Lab {
    Lab::configured(&[member], |spec| {
        spec.balancers[0].members[0].upgrade = upgrade;
    })
}

fn websocket() -> Upgrade {
    Upgrade::To(vec!["websocket".to_owned()])
}

fn dial(address: SocketAddr) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_nodelay(true).expect("nodelay");
    let (socket, response) = tungstenite::client("ws://h.test/chat", stream).expect("101");
    assert_eq!(response.headers()["connection"], "Upgrade");
    assert_eq!(response.headers()["upgrade"], "websocket");
    socket
}

fn echoes(socket: &mut WebSocket<TcpStream>, message: &Message) {
    socket.send(message.clone()).expect("sent");
    assert_eq!(&socket.read().expect("echo"), message);
}

#[test]
fn messages_of_every_size_go_both_ways() {
    let echo = Echo::start();
    let lab = lab(echo.address, websocket());
    let mut socket = dial(lab.address);
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 15 << 20] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| (at * 31 % 251) as u8).collect();
        echoes(&mut socket, &Message::binary(bytes));
    }
    echoes(&mut socket, &Message::text("gr\u{fc}\u{df}e"));
    socket
        .send(Message::Ping(b"p".to_vec().into()))
        .expect("sent");
    assert_eq!(
        socket.read().expect("pong"),
        Message::Pong(b"p".to_vec().into())
    );
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "done".into(),
    };
    socket.close(Some(frame.clone())).expect("close sent");
    assert_eq!(socket.read().expect("answer"), Message::Close(Some(frame)));
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
    eventually("the member is rid of it", || echo.open() == 0);
}

#[test]
fn a_tunnel_keeps_its_member_busy_and_never_returns_to_the_pool() {
    let echo = Echo::start();
    let lab = lab(echo.address, websocket());
    let mut sockets: Vec<_> = (0..40).map(|_| dial(lab.address)).collect();
    for (number, socket) in sockets.iter_mut().enumerate() {
        echoes(socket, &Message::text(format!("{number}")));
    }
    assert_eq!(lab.busy(0, 0), 40);
    assert_eq!(echo.open(), 40);
    for socket in &mut sockets[..10] {
        socket.get_mut().shutdown(Shutdown::Both).expect("killed");
    }
    eventually("ten are counted out", || lab.busy(0, 0) == 30);
    eventually("their members too", || echo.open() == 30);
    drop(sockets);
    eventually("all are", || lab.busy(0, 0) == 0 && echo.open() == 0);
    assert_eq!(lab.cell(0, 0).responses.load(Relaxed), 40);
    let one = dial(lab.address);
    eventually("on a connection of its own", || echo.open() == 1);
    drop(one);
}

#[test]
fn plain_requests_to_a_member_for_websocket_are_plain() {
    let member = Member::named("a");
    let lab = lab(member.address, websocket());
    let mut client = lab.client();
    assert_eq!(client.get("/", "").text(), "a");
    let seen = member.last();
    assert_eq!(seen.field("upgrade"), None);
    assert_eq!(seen.field("connection").as_deref(), Some("Keep-Alive"));
    assert_eq!(client.get("/", "").text(), "a");
    assert_eq!(member.connections(), 1);
}

#[test]
fn only_the_upgrade_that_is_allowed_is_asked_of_a_member() {
    for (upgrade, fields, passed) in [
        (
            websocket(),
            "Connection: Upgrade\r\nUpgrade: WebSocket\r\n",
            true,
        ),
        (
            websocket(),
            "Connection: x, upgrade\r\nUpgrade: websocket\r\n",
            true,
        ),
        (
            websocket(),
            "Connection: Upgrade\r\nUpgrade: foo\r\n",
            false,
        ),
        (
            websocket(),
            "Connection: Upgrade\r\nUpgrade: websocket, foo\r\n",
            false,
        ),
        (websocket(), "Upgrade: websocket\r\n", false),
        (websocket(), "Connection: Upgrade\r\n", false),
        (
            websocket(),
            "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
            false,
        ),
        (
            websocket(),
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
            false,
        ),
        (
            Upgrade::Any,
            "Connection: Upgrade\r\nUpgrade: foo/2\r\n",
            true,
        ),
        (
            Upgrade::Any,
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
            false,
        ),
        (
            Upgrade::To(vec!["h2c".to_owned()]),
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
            true,
        ),
        (
            Upgrade::Never,
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            false,
        ),
    ] {
        let member = Member::named("a");
        let lab = lab(member.address, upgrade);
        let reply = lab.client().get("/", fields);
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "a"),
            "{fields}"
        );
        let seen = member.last();
        assert_eq!(seen.field("upgrade").is_some(), passed, "{fields}");
        let connection = if passed { "Upgrade" } else { "Keep-Alive" };
        assert_eq!(
            seen.field("connection").as_deref(),
            Some(connection),
            "{fields}"
        );
    }
}

#[test]
fn http_1_0_is_never_upgraded() {
    let member = Member::named("a");
    let lab = lab(member.address, Upgrade::Any);
    let answer = lab.raw("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(member.last().field("upgrade"), None);
}

const ASK: &str =
    "GET /up HTTP/1.1\r\nHost: h.test\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n";
const AGREE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\nX-Own: 1\r\n\r\n";

/// A member that agrees to anything, says `extra` at once, and gives the stream to `then`.
fn agreeing(
    extra: &'static [u8],
    then: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Member {
    Member::with_open_body(move |_, stream| {
        stream.write_all(&[AGREE, extra].concat())?;
        then(stream)?;
        Ok(false)
    })
}

#[test]
fn bytes_behind_the_heads_belong_to_the_tunnel() {
    let member = agreeing(b"hello", |stream| {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    });
    let lab = lab(member.address, Upgrade::Any);
    let mut client = lab.client();
    // Sent before the member agreed.
    client.send([ASK.as_bytes(), b"GET "].concat());
    let reply = client.receive();
    assert_eq!(reply.status, 101);
    assert_eq!(reply.field("x-own").as_deref(), Some("1"));
    client.send("/sm ");
    assert_eq!(client.rest().expect("to the end"), b"helloGET /sm ");
    assert_eq!(member.seen().len(), 1);
}

#[test]
fn a_refused_upgrade_leaves_http_on_both_sides() {
    let member = Member::named("a");
    let lab = lab(member.address, Upgrade::Any);
    let mut client = lab.client();
    // To a member that were fooled, the second request would be bytes of a tunnel.
    let pipelined = "GET /second HTTP/1.1\r\nHost: h.test\r\n\r\n";
    client.send([ASK, pipelined].concat());
    assert_eq!(
        (client.receive().status, client.receive().text().as_str()),
        (200, "a")
    );
    let seen = member.seen();
    assert_eq!((seen[0].path(), seen[1].path()), ("/up", "/second"));
    assert!(
        seen[1].field("x-forwarded-for").is_some(),
        "it went through the proxy"
    );
    assert_eq!(
        member.connections(),
        2,
        "one that was asked to switch is not used again"
    );
}

#[test]
fn a_101_that_nobody_agreed_to_is_502() {
    for (upgrade, answer) in [
        (
            Upgrade::Never,
            &b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n"[..],
        ),
        (
            Upgrade::Any,
            b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
        ),
        (Upgrade::Any, b"HTTP/1.1 101 X\r\n\r\n"),
        (
            Upgrade::Any,
            b"HTTP/1.1 101 X\r\nUpgrade: custom\r\nUpgrade: custom\r\n\r\n",
        ),
    ] {
        let member = Member::with_open_body(move |_, stream| {
            stream.write_all(answer)?;
            Ok(true)
        });
        let lab = lab(member.address, upgrade);
        let mut client = lab.client();
        client.send(ASK);
        assert_eq!(client.receive().status, 502);
        eventually("nobody is busy", || lab.busy(0, 0) == 0);
    }
}

#[test]
fn the_slower_side_sets_the_pace() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let member = agreeing(b"", move |stream| {
        wait.lock()
            .expect("lock")
            .recv_timeout(PATIENCE)
            .map_err(io::Error::other)?;
        let mut count = 0_u64;
        let mut bytes = vec![0; 64 << 10];
        loop {
            match stream.read(&mut bytes)? {
                0 => break,
                read => count += read as u64,
            }
        }
        stream.write_all(&count.to_be_bytes())
    });
    let lab = lab(member.address, Upgrade::Any);
    let mut client = lab.client();
    client.send(ASK);
    assert_eq!(client.receive().status, 101);
    // More than both kernels' buffers take: the writer has to stall.
    client.stream.set_nonblocking(true).expect("nonblocking");
    let block = vec![7; 64 << 10];
    let (mut sent, mut stalls) = (0_u64, 0);
    while stalls < 200 {
        match client.stream.write(&block) {
            Ok(count) => (sent, stalls) = (sent + count as u64, 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stalls += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 1 << 30, "nothing ever stalls it");
    }
    go.send(()).expect("the member waits");
    client.stream.set_nonblocking(false).expect("blocking");
    client
        .stream
        .shutdown(Shutdown::Write)
        .expect("half closed");
    let answer = client.rest().expect("the other half is open");
    assert_eq!(answer, sent.to_be_bytes());
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
}

#[test]
fn a_reset_goes_through() {
    let (go, wait) = mpsc::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let member = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy comes");
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).expect("head") > 0);
        stream.write_all(AGREE).expect("sent");
        wait.recv_timeout(PATIENCE).expect("told to");
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
    });
    let lab = lab(address, Upgrade::Any);
    let mut client = lab.client();
    client.send(ASK);
    assert_eq!(client.receive().status, 101);
    go.send(()).expect("the member waits");
    member.join().expect("member");
    let error = client.rest().expect_err("no ordinary end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    eventually("nobody is busy", || lab.busy(0, 0) == 0);

    // And from the client to the member.
    let (tell, told) = mpsc::channel();
    let member = agreeing(b"", move |stream| {
        let read = stream.read(&mut [0]);
        tell.send(read.map_err(|error| error.kind()))
            .map_err(io::Error::other)
    });
    let lab = self::lab(member.address, Upgrade::Any);
    let mut client = lab.client();
    client.send(ASK);
    assert_eq!(client.receive().status, 101);
    let socket = socket2::SockRef::from(&client.stream);
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
    let read = told
        .recv_timeout(PATIENCE)
        .expect("the member saw something");
    assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn silence_ends_a_tunnel_after_the_longer_timeout() {
    let (tell, told) = mpsc::channel();
    let member = agreeing(b"", move |stream| {
        let read = stream.read(&mut [0]);
        tell.send(read.is_ok_and(|read| read == 0))
            .map_err(io::Error::other)
    });
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("access.log");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[member.address]);
    lab.route("/", 0, "/");
    lab.spec.balancers[0].members[0].upgrade = Upgrade::Any;
    lab.spec.balancers[0].members[0].timeout = Some(Duration::from_millis(900));
    lab.spec.hosts[0].timeout = Duration::from_millis(300);
    let format = "%>s %X %b %{SLUICE_REASON}e";
    lab.spec.hosts[0]
        .access_logs
        .push(access_log(&path, format));
    let file = std::fs::File::create(&path).expect("file");
    let target = lab.spec.hosts[0].access_logs[0].target.clone();
    lab.apply_logging(vec![(target, file)]);
    let mut client = lab.client();
    // Before the proxy counts from: this thread may have to wait for its turn.
    let begun = Instant::now();
    client.send(ASK);
    assert_eq!(client.receive().status, 101);
    assert!(client.is_closed());
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert!(told.recv_timeout(PATIENCE).expect("the member is told"));
    eventually("the line is there", || {
        let line = std::fs::read_to_string(&path).expect("log");
        line == "101 - - tunnel_idle\n"
    });
}

#[test]
fn bytes_of_a_tunnel_are_counted() {
    let member = agreeing(b"", |stream| {
        let mut bytes = [0; 3000];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&vec![9; 50_000])
    });
    let place = tempfile::tempdir().expect("directory");
    let path = place.path().join("access.log");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[member.address]);
    lab.route("/", 0, "/");
    lab.spec.balancers[0].members[0].upgrade = Upgrade::Any;
    lab.spec.hosts[0]
        .access_logs
        .push(access_log(&path, "%>s %B %I %O"));
    let file = std::fs::File::create(&path).expect("file");
    let target = lab.spec.hosts[0].access_logs[0].target.clone();
    lab.apply_logging(vec![(target, file)]);
    let mut client = lab.client();
    client.send(ASK);
    let head = client.receive().head.len() + 4;
    client.send([3; 3000]);
    assert_eq!(client.rest().expect("to the end").len(), 50_000);
    drop(client);
    let wanted = format!("101 50000 {} {}\n", ASK.len() + 3000, head + 50_000);
    eventually("the line is there", || {
        std::fs::read_to_string(&path).expect("log") == wanted
    });
    let cell = lab.cell(0, 0);
    assert!(cell.read.load(Relaxed) >= 50_000);
    assert!(cell.transferred.load(Relaxed) >= 3000);
    drop(place);
}

#[test]
fn tunnels_outlive_reloads() {
    let (first, second) = (Echo::start(), Echo::start());
    let mut lab = lab(first.address, websocket());
    let mut old = dial(lab.address);
    echoes(&mut old, &Message::text("before"));
    for round in 0..10 {
        let member = if round % 2 == 0 { &second } else { &first };
        lab.spec.balancers[0].members[0].port = member.address.port();
        lab.spec.balancers[0].members[0].url = format!("http://{}", member.address);
        lab.ids.clear();
        lab.apply();
        echoes(&mut old, &Message::binary(vec![round; 300_000]));
        let mut new = dial(lab.address);
        echoes(&mut new, &Message::text("new"));
        assert_eq!(first.open() + second.open(), 2);
        new.close(None).expect("close");
        while new.read().is_ok() {}
        eventually("the new one is gone", || first.open() + second.open() == 1);
    }
    assert_eq!(first.open(), 1);
}

#[test]
fn tunnels_outlive_a_drain_until_the_process_is_ended() {
    let echo = Echo::start();
    let lab = lab(echo.address, websocket());
    let mut socket = dial(lab.address);
    lab.proxy.drain();
    echoes(&mut socket, &Message::text("still here"));
    assert_eq!(lab.proxy.connections(), 1);
    lab.proxy.stop();
    assert!(socket.read().is_err());
    eventually("the member is rid of it", || echo.open() == 0);
}

#[test]
fn a_member_that_dies_ends_its_tunnels_at_once() {
    let member = agreeing(b"", |stream| stream.read(&mut [0]).map(drop));
    let lab = lab(member.address, Upgrade::Any);
    let mut clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = lab.client();
            client.send(ASK);
            assert_eq!(client.receive().status, 101);
            client
        })
        .collect();
    assert_eq!(lab.busy(0, 0), 5);
    member.close_connections();
    for client in &mut clients {
        assert!(client.is_closed());
    }
    drop(clients);
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
}

#[test]
fn half_a_websocket_gets_a_farewell_and_no_more() {
    let member = Member::with_open_body(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        // Says nothing and does not leave.
        while stream.read(&mut [0])? > 0 {}
        std::thread::sleep(PATIENCE);
        Ok(false)
    });
    let lab = lab(member.address, websocket());
    let mut client = lab.client();
    client.send(ASK.replace("custom", "websocket"));
    assert_eq!(client.receive().status, 101);
    client
        .stream
        .shutdown(Shutdown::Write)
        .expect("half closed");
    let begun = Instant::now();
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn head_of_a_tunnel_waits_for_the_response_before_it() {
    let large = Arc::new(vec![1_u8; 8 << 20]);
    let body = Arc::clone(&large);
    let member = Member::with_open_body(move |seen, stream| {
        if seen.path() == "/large" {
            return respond(stream, "200 OK", "", &body);
        }
        stream.write_all(&[AGREE, b"in the tunnel"].concat())?;
        Ok(false)
    });
    let lab = lab(member.address, Upgrade::Any);
    let mut client: Client = lab.client();
    client.send(["GET /large HTTP/1.1\r\nHost: h.test\r\n\r\n", ASK].concat());
    assert_eq!(client.receive().body.len(), large.len());
    assert_eq!(client.receive().status, 101);
    assert_eq!(client.rest().expect("to the end"), b"in the tunnel");
}
