//! HTTP/2 to clients: the h2 crate for what is well formed, raw frames for what is not, curl and
//! nghttp2's tools for how others speak it.

use std::{
    future::Future,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use sluice::config::spec::{Protocol, Spec};

use crate::support::{Lab, Member, PATIENCE, find};

#[path = "h2/ends.rs"]
mod ends;
#[path = "h2/floods.rs"]
mod floods;
#[path = "h2/large.rs"]
mod large;
#[path = "h2/messages.rs"]
mod messages;
#[path = "h2/tools.rs"]
mod tools;

/// A proxy that takes h2c.
fn lab(members: &[SocketAddr], change: impl FnOnce(&mut Spec)) -> Lab {
    Lab::configured(members, |spec| {
        spec.hosts[0].protocols.offered = vec![Protocol::H2c, Protocol::Http11];
        change(spec);
    })
}

/// Runs a client, which may take [`PATIENCE`].
fn run<T>(client: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE * 3, client)
            .await
            .expect("in time")
    })
}

/// A well-behaved client's connection.
struct H2 {
    sender: ::h2::client::SendRequest<Bytes>,
    /// Ends with the connection.
    driver: tokio::task::JoinHandle<Result<(), ::h2::Error>>,
}

/// A whole response.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    body: Vec<u8>,
}

impl H2 {
    async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &mut ::h2::client::Builder::new()).await
    }

    async fn with(address: SocketAddr, builder: &mut ::h2::client::Builder) -> Self {
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let (sender, connection) = builder.handshake(stream).await.expect("handshake");
        let driver = tokio::spawn(connection);
        Self { sender, driver }
    }

    /// Sends a head; the body is the caller's to send.
    async fn open(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (::h2::client::ResponseFuture, ::h2::SendStream<Bytes>) {
        let ready = self.sender.clone().ready().await.expect("ready");
        self.sender = ready;
        self.sender.send_request(request, end).expect("request")
    }

    async fn try_request(
        &mut self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<Answer, ::h2::Error> {
        let (response, mut upload) = self.open(request, body.is_empty()).await;
        if !body.is_empty() {
            // An answer may come before the end.
            let _ = upload.send_data(Bytes::copy_from_slice(body), true);
        }
        receive(response).await
    }

    async fn request(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        self.try_request(request, body).await.expect("answer")
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.request(get(path), b"").await
    }
}

fn get(path: &str) -> Request<()> {
    let uri = format!("http://h.test{path}");
    Request::get(uri).body(()).expect("request")
}

async fn receive(response: ::h2::client::ResponseFuture) -> Result<Answer, ::h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(Answer {
        status: parts.status,
        fields: parts.headers,
        body,
    })
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// Error code of `RST_STREAM` and GOAWAY.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// Fields without compression.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        if text.len() < 127 {
            out.push(text.len() as u8);
        } else {
            out.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                out.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            out.push(rest as u8);
        }
        out.extend(text.bytes());
    }
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "h.test"),
    (":path", "/"),
];

/// A client that sends whatever it likes.
struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Without a word.
    fn silent(address: SocketAddr) -> Self {
        Self::try_silent(address).expect("connect")
    }

    fn try_silent(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[])
    }

    /// With settings of its own.
    fn with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::try_with(address, settings).expect("preface")
    }

    fn try_with(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut raw = Self::try_silent(address)?;
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        raw.frame(SETTINGS, 0, 0, &payload)?;
        raw.frame(SETTINGS, 1, 0, b"")?;
        Ok(raw)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&Frame::new(kind, flags, stream, payload).bytes())
    }

    fn get(&mut self, stream: u32) -> io::Result<()> {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET))
    }

    /// The next frame; `None`: the end.
    fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let frame = Frame {
                        kind: head[3],
                        flags: head[4],
                        stream: u32::from_be_bytes(head[5..9].try_into().expect("four bytes")),
                        payload: self.buffer[9..9 + length].to_vec(),
                    };
                    self.buffer.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// Frames until one of this kind, which is returned.
    fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.receive().expect("the connection is open");
            if frame.kind == kind && (frame.kind != SETTINGS || frame.flags == 0) {
                return frame;
            }
        }
    }

    /// Everything up to the end.
    fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.receive()).collect()
    }

    /// The code of the GOAWAY that ends it all.
    fn goodbye(&mut self) -> Option<u32> {
        let rest = self.rest();
        rest.iter()
            .rev()
            .find(|frame| frame.kind == GOAWAY)
            .map(Frame::code)
    }
}
