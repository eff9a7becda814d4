//! A plain HTTP client on a blocking socket: one request, one answer of known length.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

/// A kept connection.
pub(super) struct Client {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer.
const BUFFER: usize = 4096;

impl Client {
    /// Connects; `path` is what every request asks for.
    pub(super) fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            request: format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
            buffer: vec![0; BUFFER],
        })
    }

    /// One request and its answer, which must be 200; gives its body.
    pub(super) fn ask(&mut self) -> Result<&str> {
        self.stream.write_all(self.request.as_bytes())?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the connection ended before the answer");
            filled += read;
            if let Some((head, length)) = length(&self.buffer[..filled])?
                && filled >= length
            {
                ensure!(filled == length, "more than one answer");
                return Ok(std::str::from_utf8(&self.buffer[head..length])?);
            }
            ensure!(filled < BUFFER, "an answer of more than {BUFFER} bytes");
        }
    }

    /// Frees the buffer of a connection that is only held.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
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
