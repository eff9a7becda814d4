//! A member's response: its head, and where its body ends (RFC 9112 sections 4 to 7). Pure.
//!
//! What a member may say is decided here, for what passes is sent on: a Content-Length beside
//! chunks would be the client's framing of another body, a coding besides `chunked` would be lost
//! with the Transfer-Encoding field.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use httparse::{Header, ParserConfig, Status};

use crate::{config::spec::BadHeader, proxy::gate::Chunks};

/// Most fields of a response.
const MAX_FIELDS: usize = 128;

/// Most bytes of a chunked body that are none of its data, between two pieces of it: extensions
/// and trailers, which nobody sees.
const MAX_NOISE: usize = 64 << 10;

/// No response that may be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Its framing fields are no message that HTTP/1.1 knows.
    #[error("{0}")]
    Framing(&'static str),
    /// A field is longer than `ResponseFieldSize` allows.
    #[error("a field is longer than ResponseFieldSize")]
    TooLong,
    /// No head of HTTP/1.
    #[error("{0}")]
    Malformed(#[from] httparse::Error),
}

/// How the end of a body is found.
///
/// Chunks that break their rules end it as [`Piece::Broken`] does; [`Framing::take`] is not to be
/// called after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Bytes left.
    Length(u64),
    /// Where in the chunks it is, and bytes since the last of its data.
    Chunked(Chunks, usize),
    /// The connection's end.
    Close,
}

/// What the next bytes of a body are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// These.
    Data(Bytes),
    /// More have to be read.
    Missing,
    /// None: it is complete.
    End,
    /// None: its chunks are malformed.
    Broken,
}

/// Bytes below which a piece of a body is copied out of its buffer, at least.
const SMALL: usize = 2 << 10;

impl Framing {
    /// Takes what `buffer` has of the body. `room`: how large buffers are, bytes.
    ///
    /// A piece keeps all of the buffer that it was read into, and whoever waits for a slow client
    /// counts bytes of pieces: small ones are copied, and joined to others behind them.
    pub fn take(&mut self, buffer: &mut BytesMut, room: usize) -> Piece {
        let data = match self.next(buffer) {
            Piece::Data(data) => data,
            other => return other,
        };
        let small = (room / 8).max(SMALL);
        if data.len() >= small {
            return Piece::Data(data);
        }
        let mut joined = data.to_vec();
        drop(data);
        while joined.len() < small
            && !buffer.is_empty()
            && let Piece::Data(more) = self.next(buffer)
        {
            joined.extend_from_slice(&more);
        }
        Piece::Data(joined.into())
    }

    /// What comes first; what is no data comes again and again.
    fn next(&mut self, buffer: &mut BytesMut) -> Piece {
        match self {
            Self::Length(0) => Piece::End,
            Self::Length(_) | Self::Close if buffer.is_empty() => Piece::Missing,
            Self::Close => Piece::Data(buffer.split().freeze()),
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = buffer.split_to(count.min(buffer.len())).freeze();
                *left -= data.len() as u64;
                Piece::Data(data)
            }
            Self::Chunked(chunks, noise) => {
                while !buffer.is_empty() {
                    if let Chunks::Data(left) = *chunks {
                        let count = usize::try_from(left).unwrap_or(usize::MAX);
                        let data = buffer.split_to(count.min(buffer.len())).freeze();
                        chunks.follow(&data);
                        *noise = 0;
                        return Piece::Data(data);
                    }
                    let passed = chunks.follow_to_data(buffer);
                    buffer.advance(passed);
                    *noise += passed;
                    match *chunks {
                        Chunks::End => return Piece::End,
                        Chunks::Broken => return Piece::Broken,
                        _ if *noise > MAX_NOISE => {
                            *chunks = Chunks::Broken;
                            return Piece::Broken;
                        }
                        _ => {}
                    }
                }
                match chunks {
                    Chunks::End => Piece::End,
                    Chunks::Broken => Piece::Broken,
                    _ => Piece::Missing,
                }
            }
        }
    }

    /// Whether nothing of the body is left.
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::End, _))
    }
}

/// The head of a response, read.
#[derive(Debug)]
pub struct Answer {
    /// The head. The reason phrase is an extension where it is not the usual one.
    pub head: Response<()>,
    /// What follows it; nothing is expected behind an interim response.
    pub framing: Framing,
    /// The member keeps the connection open.
    pub keeps: bool,
    /// Bytes of the status line with its end.
    pub line_bytes: u64,
}

/// Finds the end of a head as bytes come in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanner {
    /// Bytes that need not be looked at again.
    seen: usize,
    /// Where the first line begins that is not known to have a colon.
    line: usize,
}

impl Scanner {
    /// Bytes of the head with its empty line. `bytes` begin as they did in the calls before.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for at in memchr::memchr_iter(b'\n', &bytes[self.seen..]) {
            let next = self.seen + at + 1;
            match bytes[next..] {
                [b'\n', ..] => return Some(next + 1),
                [b'\r', b'\n', ..] => return Some(next + 2),
                [] | [b'\r'] => {
                    // Its line may be the last.
                    self.seen = next - 1;
                    return None;
                }
                _ => {}
            }
        }
        self.seen = bytes.len();
        None
    }
}

/// How a response is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The request was HEAD.
    pub to_head: bool,
    /// `responsefieldsize`: most bytes of a field's line without its end.
    pub limit: usize,
    /// `ProxyBadHeader`.
    pub bad_header: BadHeader,
}

/// Takes a response's head from `buffer`; `None`: it is not there as a whole.
pub fn read(
    buffer: &mut BytesMut,
    scanner: &mut Scanner,
    rules: &Rules,
) -> Result<Option<Answer>, BadAnswer> {
    if scanner.seen == 0 {
        // Empty lines in front, as RFC 9112 section 2.2 has it for requests.
        let blank = buffer.iter().take_while(|byte| b"\r\n".contains(byte));
        let blank = blank.count();
        buffer.advance(blank);
    }
    if rules.bad_header == BadHeader::StartBody {
        match colonless(buffer, scanner.line) {
            Ok(line) => {
                let body = buffer.split_off(line.start);
                buffer.extend_from_slice(b"\r\n");
                let head = std::mem::replace(buffer, body).freeze();
                *scanner = Scanner::default();
                let mut answer = parse(&head, rules)?;
                answer.keeps = false;
                return Ok(Some(answer));
            }
            Err(next) => scanner.line = next,
        }
    }
    let Some(end) = scanner.end(buffer) else {
        return Ok(None);
    };
    *scanner = Scanner::default();
    let mut head = buffer.split_to(end);
    if rules.bad_header == BadHeader::Ignore {
        let mut kept = BytesMut::with_capacity(head.len());
        let mut at = 0;
        while let Ok(line) = colonless(&head, at) {
            kept.extend_from_slice(&head[at..line.start]);
            at = line.end;
        }
        kept.extend_from_slice(&head[at..]);
        head = kept;
    }
    parse(&head.freeze(), rules).map(Some)
}

/// The next field's line that is whole and has no colon, from the line that begins at `at` on; 0:
/// from the first field. An error: there is none before the line that begins there, which is not
/// whole or ends the head.
fn colonless(bytes: &[u8], at: usize) -> Result<Range<usize>, usize> {
    let mut start = at;
    for end in memchr::memchr_iter(b'\n', &bytes[at..]).map(|end| at + end + 1) {
        let line = &bytes[start..end];
        if matches!(line, b"\n" | b"\r\n") {
            break;
        }
        let is_status = start == 0;
        // A line that begins with a blank goes on with the one before.
        if !is_status && !line.contains(&b':') && !matches!(line[0], b' ' | b'\t') {
            return Ok(start..end);
        }
        start = end;
    }
    Err(start)
}

fn parse(bytes: &Bytes, rules: &Rules) -> Result<Answer, BadAnswer> {
    let Rules { to_head, limit, .. } = *rules;
    let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut room,
    )?;
    let (Status::Complete(length), Some(version), Some(code)) =
        (status, parsed.version, parsed.code)
    else {
        return Err(httparse::Error::Token.into());
    };
    if length != bytes.len() {
        return Err(httparse::Error::NewLine.into());
    }
    let code = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
    let mut survey = Survey::default();
    let mut fields = HeaderMap::with_capacity(parsed.headers.len() + 2);
    for field in &*parsed.headers {
        if field.name.len() + 2 + field.value.len() > limit {
            return Err(BadAnswer::TooLong);
        }
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| httparse::Error::HeaderName)?;
        survey.look(&name, field.value);
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| httparse::Error::HeaderValue)?;
        fields.append(name, value);
    }
    let is_old = version == 0;
    let (framing, is_clear) = survey.framing(code, is_old, to_head)?;
    if survey.coded {
        fields.remove(header::CONTENT_LENGTH);
    }
    let reason = parsed.reason.unwrap_or_default();
    let mut head = Response::new(());
    *head.status_mut() = code;
    *head.headers_mut() = fields;
    if code.canonical_reason() != Some(reason)
        && let Ok(reason) = hyper::ext::ReasonPhrase::try_from(bytes.slice_ref(reason.as_bytes()))
    {
        head.extensions_mut().insert(reason);
    }
    Ok(Answer {
        head,
        framing,
        keeps: is_clear && !survey.close && (!is_old || survey.keep_alive),
        // "HTTP/1.1 200 " and the line's end.
        line_bytes: reason.len() as u64 + 15,
    })
}

/// What the fields say of the message's end and of the connection's.
#[derive(Default)]
struct Survey {
    lengths: usize,
    length: Option<u64>,
    codings: usize,
    /// There is a Transfer-Encoding.
    coded: bool,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Survey {
    fn look(&mut self, name: &HeaderName, value: &[u8]) {
        match name.as_str().len() {
            10 if *name == header::CONNECTION => {
                for token in value.split(|&byte| byte == b',') {
                    let token = token.trim_ascii();
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if *name == header::CONTENT_LENGTH => {
                self.lengths += 1;
                self.length = digits(value);
            }
            17 if *name == header::TRANSFER_ENCODING => {
                self.codings += 1;
                self.coded = true;
                self.chunked = value.eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }

    /// The second value: nothing is wrong with the message that another could suffer from.
    fn framing(
        &self,
        status: StatusCode,
        is_old: bool,
        to_head: bool,
    ) -> Result<(Framing, bool), BadAnswer> {
        let (framing, is_clear) = if self.coded {
            if self.codings > 1 || !self.chunked {
                return Err(BadAnswer::Framing("Transfer-Encoding other than chunked"));
            }
            if is_old {
                return Err(BadAnswer::Framing("Transfer-Encoding in HTTP/1.0"));
            }
            // Both fields: the length is not believed (RFC 9112 section 6.3, as httpd).
            (Framing::Chunked(Chunks::default(), 0), self.lengths == 0)
        } else {
            match (self.lengths, self.length) {
                (0, _) => (Framing::Close, true),
                (1, Some(length)) => (Framing::Length(length), true),
                _ => return Err(BadAnswer::Framing("Content-Length is not one number")),
            }
        };
        let is_bare = to_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_bare {
            return Ok((Framing::Length(0), is_clear));
        }
        Ok((framing, is_clear && framing != Framing::Close))
    }
}

/// A number of nothing but digits.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
