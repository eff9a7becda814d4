//! HTTP/1.1 requests as the lab's member reads them: leniently, for what it is sent comes from the
//! program under test and is to be shown, not judged.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use serde_json::json;

/// Heads longer than this end the connection.
const LIMIT: usize = 1 << 20;

/// One request with its body's length and content.
pub(super) struct Request {
    pub(super) method: String,
    target: String,
    version: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// The target's path.
    pub(super) fn path(&self) -> &str {
        let path = self
            .target
            .split_once('?')
            .map_or(&*self.target, |(path, _)| path);
        // A session id may follow as a path parameter.
        path.split_once(';').map_or(path, |(path, _)| path)
    }

    /// A query parameter.
    pub(super) fn word(&self, key: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(k, _)| *k == key)
            .map(|p| p.1)
    }

    /// A query parameter that is a number.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.word(key)?.parse().ok()
    }

    /// Whether the sender will not use the connection again.
    pub(super) fn wants_close(&self) -> bool {
        let connection = self.header("connection").unwrap_or("").to_ascii_lowercase();
        connection == "close" || (self.version == "HTTP/1.0" && connection != "keep-alive")
    }

    /// All that was received, as JSON.
    pub(super) fn describe(&self, name: &str) -> String {
        json!({
            "member": name,
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "headers": self.headers,
            "body_bytes": self.body.len(),
            "body": String::from_utf8_lossy(&self.body[..self.body.len().min(1024)]),
        })
        .to_string()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }
}

/// Reads requests off one connection.
pub(super) struct Reader<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(stream: &'a TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next request; `None` when the peer has no more.
    pub(super) fn request(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > LIMIT || !self.fill()? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or("").splitn(3, ' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        let mut request = Request {
            method: next(),
            target: next(),
            version: next(),
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            body: Vec::new(),
        };
        if request
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
        {
            let mut stream = self.stream;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let chunked = request
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        request.body = if chunked {
            self.chunks()?
        } else {
            let length = request
                .header("content-length")
                .and_then(|value| value.parse().ok());
            self.exactly(length.unwrap_or(0))?
        };
        Ok(Some(request))
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.append(&mut self.exactly(size)?);
            self.line()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let mut stream = self.stream;
        let length = stream.read(&mut piece)?;
        self.buffer.extend(&piece[..length]);
        Ok(length > 0)
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
