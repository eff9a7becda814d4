//! Connections for names that clients invent: how many of them a pool keeps.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};

use super::*;

/// Most idle connections to a member while names differ (docs of the pool).
const KEPT: usize = 256;

/// A member with a certificate for every name below `many.test`, which keeps each connection until
/// the proxy ends it.
struct Keeper {
    port: u16,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Keeper {
    fn start(site: &Site) -> Self {
        site.issue("many", "ca", "DNS:*.many.test", 30, "");
        let certificate = CertificateDer::from_pem_file(site.path("many.pem")).expect("made");
        let key = PrivateKeyDer::from_pem_file(site.path("many.key")).expect("made");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("a suite for TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they belong together");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let this = Self {
            port: listener.local_addr().expect("address").port(),
            opened: Arc::default(),
            open: Arc::default(),
        };
        let (opened, open) = (Arc::clone(&this.opened), Arc::clone(&this.open));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                opened.fetch_add(1, SeqCst);
                open.fetch_add(1, SeqCst);
                let (config, open) = (Arc::clone(&config), Arc::clone(&open));
                thread::spawn(move || {
                    // Ends with the proxy's end of the connection, however that comes.
                    let _ = answer(stream, config);
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        this
    }

    fn opened(&self) -> usize {
        self.opened.load(SeqCst)
    }

    fn open(&self) -> usize {
        self.open.load(SeqCst)
    }
}

fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    let session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            stream.flush()?;
        }
    }
}

#[test]
fn of_many_names_the_oldest_idle_connections_give_way() {
    let mut site = Site::new();
    let member = Keeper::start(&site);
    site.run(&format!(
        "{TRUST}ProxyPreserveHost On\nMaxKeepAliveRequests 0\nProxyPass / https://127.0.0.1:{}/\n",
        member.port
    ));
    let mut client = TcpStream::connect(("127.0.0.1", site.sluice.port)).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    client.set_nodelay(true).expect("set");
    let mut ask = |name: usize| {
        let request = format!("GET / HTTP/1.1\r\nHost: n{name}.many.test\r\n\r\n");
        client.write_all(request.as_bytes()).expect("sent");
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\nok") {
            let mut piece = [0; 4096];
            let read = client.read(&mut piece).expect("an answer");
            said.extend_from_slice(&piece[..read]);
            assert!(read > 0, "{}", text(&said));
        }
        assert!(said.starts_with(b"HTTP/1.1 200"), "{}", text(&said));
    };
    // Up to the limit all stay, each for its own name.
    for name in 0..KEPT {
        ask(name);
    }
    assert_eq!((member.opened(), member.open()), (KEPT, KEPT));
    ask(0);
    assert_eq!(member.opened(), KEPT, "the first connection is used again");
    // Beyond it each that comes displaces one, the one that has been idle for longest; the first
    // has just been used.
    for name in KEPT..KEPT + 4 {
        ask(name);
    }
    wait_until("four connections were closed", || member.open() == KEPT);
    assert_eq!(member.opened(), KEPT + 4);
    for stayed in [0, 5, KEPT, KEPT + 3] {
        ask(stayed);
    }
    assert_eq!(
        member.opened(),
        KEPT + 4,
        "those that stayed are used again"
    );
    for gone in 1..=4 {
        ask(gone);
    }
    assert_eq!(member.opened(), KEPT + 8);
    wait_until("no more than that are kept", || member.open() == KEPT);
}
