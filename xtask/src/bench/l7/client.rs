//! A plain HTTP client on a blocking socket, with TLS or without: one request, one answer of known
//! length.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

/// A kept connection.
pub(super) struct Client {
    stream: Stream,
    request: String,
    buffer: Vec<u8>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer.
const BUFFER: usize = 4096;

enum Stream {
    Cleartext(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Cleartext(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

impl Client {
    /// Connects; `path` is what every request asks for.
    pub(super) fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        Self::connect_as(address, path, &address.to_string(), "")
    }

    /// The same with another Host and with further fields, each with its line's end.
    pub(super) fn connect_as(
        address: SocketAddr,
        path: &str,
        host: &str,
        fields: &str,
    ) -> Result<Self> {
        Ok(Self::on(
            Stream::Cleartext(open(address)?),
            host,
            path,
            fields,
        ))
    }

    /// Connects with TLS; the handshake takes place with the first request.
    pub(super) fn connect_tls(
        address: SocketAddr,
        path: &str,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self> {
        let stream = Stream::Tls(Box::new(encrypt(address, tls)?));
        Ok(Self::on(stream, &address.to_string(), path, ""))
    }

    /// A connection of its own for one request, the proxy asked to end it. Says whether an earlier
    /// session was resumed.
    pub(super) fn once(address: SocketAddr, path: &str, tls: &Arc<ClientConfig>) -> Result<bool> {
        let stream = Stream::Tls(Box::new(encrypt(address, tls)?));
        let host = address.to_string();
        let mut client = Self::on(stream, &host, path, "Connection: close\r\n");
        client.ask()?;
        // Until the proxy's end: closing before it would answer its last bytes with a reset.
        ensure!(
            client.stream.io().read(&mut [0])? == 0,
            "more than one answer"
        );
        let Stream::Tls(stream) = client.stream else {
            return Ok(false);
        };
        Ok(stream.conn.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    fn on(stream: Stream, host: &str, path: &str, fields: &str) -> Self {
        Self {
            stream,
            request: format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"),
            buffer: vec![0; BUFFER],
        }
    }

    /// One request and its answer, which must be 200.
    pub(super) fn ask(&mut self) -> Result<()> {
        self.exchange().map(|_| ())
    }

    /// The same; gives the answer's head and its body.
    pub(super) fn exchange(&mut self) -> Result<(&str, &str)> {
        let stream = self.stream.io();
        stream.write_all(self.request.as_bytes())?;
        stream.flush()?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the connection ended before the answer");
            filled += read;
            if let Some((head, length)) = length(&self.buffer[..filled])?
                && filled >= length
            {
                ensure!(filled == length, "more than one answer");
                let (head, body) = self.buffer[..length].split_at(head);
                return Ok((std::str::from_utf8(head)?, std::str::from_utf8(body)?));
            }
            ensure!(filled < BUFFER, "an answer of more than {BUFFER} bytes");
        }
    }

    /// Frees all but the socket of a connection that is only held.
    pub(super) fn into_stream(self) -> TcpStream {
        match self.stream {
            Stream::Cleartext(stream) => stream,
            Stream::Tls(stream) => stream.into_parts().1,
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn encrypt(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let session = ClientConnection::new(Arc::clone(tls), address.ip().into())?;
    Ok(StreamOwned::new(session, open(address)?))
}

/// Lengths of the head and of the whole answer, once the head is complete.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("the head is no text")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    let body = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        })
        .context("an answer without Content-Length")?;
    Ok(Some((end + 4, end + 4 + body)))
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn answer_ends_where_its_length_says() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(
            length(answer).expect("well formed"),
            Some((answer.len(), answer.len() + 3))
        );
        assert_eq!(length(&answer[..20]).expect("incomplete"), None);
        assert!(length(b"HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\n").is_err());
    }
}
