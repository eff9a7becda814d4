//! The gate in front of hyper: every request head is looked at as a whole before hyper sees a byte
//! of it, and the message's framing is followed so that the next head is found. Pure.
//!
//! What is refused here and why (RFC 9112 sections 2.2, 3, 5, 6; apache.md 1.5 and 3.19): hyper is
//! correct but lenient where a proxy must not be (both Content-Length and Transfer-Encoding, bare
//! line feeds, repeated Host), and it answers malformed heads by itself, without page or log.

use std::ops::Range;

mod chunks;

pub use chunks::Chunks;

/// Limits on a request head, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `LimitRequestLine`, bytes without line end.
    pub line: usize,
    /// `LimitRequestFields`; 0: [`MAX_HEAD`] is the only limit.
    pub fields: usize,
    /// `LimitRequestFieldSize`, bytes of one field line without line end.
    pub field: usize,
}

/// Largest head whatever the limits say, bytes: what a connection may make the proxy buffer.
pub const MAX_HEAD: usize = 64 << 10;

/// Empty lines in front of a request that are skipped (RFC 9112 section 2.2 asks for one).
const MAX_BLANK_LINES: usize = 10;

/// How the request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length; 0 where there is no body.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400, with the reason for the log.
    #[error("{0}")]
    Malformed(&'static str),
    /// 405: CONNECT and TRACE are never proxied.
    #[error("method is never proxied")]
    Method,
    /// 408: the head was begun and not finished in time.
    #[error("AH01382: Request header read timeout")]
    Timeout,
    /// 414.
    #[error("request line longer than LimitRequestLine")]
    LineTooLong,
    /// 417.
    #[error("unknown expectation")]
    Expectation,
    /// 431, with the reason for the log: HTTP/2 alone has it, as in httpd.
    #[error("{0}")]
    Fields(&'static str),
    /// 400, with a page of its own: no TLS where there should be.
    #[error("plain HTTP on a TLS port")]
    PlainHttp,
    /// 501: a transfer coding besides chunked.
    #[error("AH01093: Transfer-Encoding is not supported")]
    Coding,
    /// 505.
    #[error("HTTP version is not supported")]
    Version,
}

impl Refusal {
    /// Status that answers it.
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) | Self::PlainHttp => 400,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::LineTooLong => 414,
            Self::Expectation => 417,
            Self::Fields(_) => 431,
            Self::Coding => 501,
            Self::Version => 505,
        }
    }
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The head is not there as a whole.
    Partial,
    /// A whole, acceptable head.
    Whole {
        /// The head with its empty line; blank lines in front left out.
        head: Range<usize>,
        /// What follows it.
        framing: Framing,
        /// Its target is a path of bytes that a URI may have: [`escape_target`] and [`is_uri`] need
        /// not look at it.
        plain: bool,
    },
    /// Answer this and close.
    Refused(Refusal),
}

/// Looks for the end of a head as bytes come in, without looking at any byte twice.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes seen.
    seen: usize,
    /// Just behind the last line feed seen.
    line: usize,
    /// Where the request line begins, once a byte of it was seen.
    start: Option<usize>,
    blank: usize,
}

impl Scanner {
    /// Whether the request line is there as a whole.
    pub fn has_line(&self) -> bool {
        self.start.is_some_and(|start| self.line > start)
    }

    /// Looks at `bytes`, which begin as they did in the calls before and may be longer now.
    pub fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Verdict {
        // Most heads come in one piece that ends with them. Where that is not so, or the head is none,
        // what follows finds out.
        if self.seen == 0
            && bytes.ends_with(b"\r\n\r\n")
            && bytes.first().copied().is_some_and(is_token)
            && let Ok((framing, plain, 0)) = check(bytes, limits)
        {
            self.seen = bytes.len();
            self.start = Some(0);
            self.line = bytes.len();
            return Verdict::Whole {
                head: 0..bytes.len(),
                framing,
                plain,
            };
        }
        while self.seen < bytes.len() {
            let at = self.seen;
            self.seen += 1;
            let Some(start) = self.start else {
                let after_return = at > 0 && bytes[at - 1] == b'\r';
                match bytes[at] {
                    b'\r' if !after_return => {}
                    byte if after_return && byte != b'\n' => {
                        return refuse("carriage return before the request");
                    }
                    b'\n' => {
                        self.blank += 1;
                        self.line = at + 1;
                        if self.blank > MAX_BLANK_LINES {
                            return refuse("blank lines before the request");
                        }
                    }
                    // A TLS handshake or other noise is told so at once.
                    byte if !is_token(byte) => return refuse("request line is no request line"),
                    _ => self.start = Some(at),
                }
                continue;
            };
            if bytes[at] != b'\n' {
                // On to the next line feed, many bytes at a time.
                let ahead = memchr::memchr(b'\n', &bytes[self.seen..]);
                self.seen = ahead.map_or(bytes.len(), |ahead| self.seen + ahead);
                continue;
            }
            let empty = matches!(&bytes[self.line..at], b"" | b"\r") && self.line > start;
            self.line = at + 1;
            if empty {
                return match check(&bytes[start..=at], limits) {
                    Ok((framing, plain, _)) => Verdict::Whole {
                        head: start..at + 1,
                        framing,
                        plain,
                    },
                    Err(refusal) => Verdict::Refused(refusal),
                };
            }
        }
        let Some(start) = self.start else {
            return Verdict::Partial;
        };
        // The line that is still coming in, and a carriage return that may end it.
        let unfinished = bytes.len() - self.line.max(start);
        if !self.has_line() {
            if unfinished > limits.line + 1 {
                return Verdict::Refused(Refusal::LineTooLong);
            }
        } else if unfinished > limits.field + 1 {
            return refuse("field longer than LimitRequestFieldSize");
        }
        if bytes.len() - start > MAX_HEAD {
            return refuse("request head too large");
        }
        Verdict::Partial
    }
}

const fn refuse(reason: &'static str) -> Verdict {
    Verdict::Refused(Refusal::Malformed(reason))
}

/// Checks a whole head, empty line included. With its framing, whether its target is plain, and how
/// many bytes follow it.
fn check(head: &[u8], limits: &Limits) -> Result<(Framing, bool, usize), Refusal> {
    let bad = Refusal::Malformed;
    if head.len() > MAX_HEAD {
        return Err(bad("request head too large"));
    }
    let (line, mut rest) = take_line(head)?;
    if line.len() > limits.line {
        return Err(Refusal::LineTooLong);
    }
    let RequestLine {
        method,
        is_11,
        absolute,
        plain,
    } = check_request_line(line)?;

    let (mut fields, mut hosts) = (0, 0);
    let mut length: Option<u64> = None;
    let mut coding = None;
    loop {
        let (field, after) = take_line(rest)?;
        rest = after;
        if field.is_empty() {
            break;
        }
        fields += 1;
        if limits.fields != 0 && fields > limits.fields {
            return Err(bad("more fields than LimitRequestFields"));
        }
        if field.len() > limits.field {
            return Err(bad("field longer than LimitRequestFieldSize"));
        }
        let colon = field
            .iter()
            .position(|&byte| !is_token(byte))
            .filter(|&at| at > 0 && field[at] == b':')
            .ok_or(bad("field name is no token followed by a colon"))?;
        let value = trim_blanks(&field[colon + 1..]);
        if !are_values(value) {
            return Err(bad("control character in a field value"));
        }
        let name = &field[..colon];
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                hosts += 1;
                if value.is_empty() && !absolute {
                    return Err(bad("empty Host"));
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect")
                && !value.eq_ignore_ascii_case(b"100-continue") =>
            {
                return Err(Refusal::Expectation);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9112 section 6.3 lets equal repeats pass; httpd does not, and neither does
                // anybody who means well send them.
                if length.is_some() {
                    return Err(bad("repeated Content-Length"));
                }
                length = Some(parse_length(value).ok_or(bad("invalid Content-Length"))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if coding.is_some() {
                    return Err(bad("repeated Transfer-Encoding"));
                }
                coding = Some(value);
            }
            _ => {}
        }
    }
    if hosts > 1 {
        return Err(bad("repeated Host"));
    }
    if hosts == 0 && is_11 {
        return Err(bad("HTTP/1.1 request without Host"));
    }
    let framing = match (coding, length) {
        (None, length) => Framing::Length(length.unwrap_or(0)),
        (Some(_), Some(_)) => return Err(bad("both Content-Length and Transfer-Encoding")),
        (Some(_), None) if !is_11 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
        (Some(coding), None) => {
            let last = coding.rsplit(|&byte| byte == b',').next().unwrap_or(b"");
            if coding.eq_ignore_ascii_case(b"chunked") {
                Framing::Chunked
            } else if trim_blanks(last).eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Coding);
            } else {
                return Err(bad("Transfer-Encoding does not end in chunked"));
            }
        }
    };
    // Last, so that a malformed request is 400 whatever its method.
    if matches!(method, b"CONNECT" | b"TRACE") {
        return Err(Refusal::Method);
    }
    Ok((framing, plain, rest.len()))
}

/// Splits off one line that ends in CR LF; a bare line feed is refused.
fn take_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let end = memchr::memchr(b'\n', bytes).ok_or(Refusal::Malformed("head without end"))?;
    match bytes[..end].split_last() {
        Some((b'\r', line)) => Ok((line, &bytes[end + 1..])),
        _ => Err(Refusal::Malformed("line does not end in CR LF")),
    }
}

/// A request line that is one.
struct RequestLine<'a> {
    method: &'a [u8],
    is_11: bool,
    /// The target is in absolute form.
    absolute: bool,
    /// See [`Verdict::Whole`].
    plain: bool,
}

fn check_request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let bad = Refusal::Malformed;
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("request line is not method, target, version"));
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(bad("method is no token"));
    }
    // As for values: without an early end.
    let any = |is: fn(u8) -> bool| target.iter().fold(false, |any, &byte| any | is(byte));
    if target.is_empty() || any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(bad("control character in the target"));
    }
    if any(|byte| byte == b'#') {
        return Err(bad("fragment in the target"));
    }
    let is_11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Refusal::Version);
        }
        _ => return Err(bad("version is not HTTP/digit.digit")),
    };
    let is_path = target[0] == b'/';
    Ok(RequestLine {
        method,
        is_11,
        absolute: !is_path && target.contains(&b':'),
        plain: is_path && !any(is_strange),
    })
}

/// Bytes of targets that httpd and real clients use and the URI type behind hyper does not take.
const fn is_strange(byte: u8) -> bool {
    byte >= 0x80 || matches!(byte, b'<' | b'>' | b'"' | b'`')
}

/// The head with those bytes of its target percent-encoded that the URI type behind hyper does not
/// take (raw UTF-8, `<`, `>`, `"`, a backtick). `None`: none there.
pub fn escape_target(head: &[u8]) -> Option<Vec<u8>> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let begin = head.iter().position(|&byte| byte == b' ')? + 1;
    let length = head[begin..].iter().position(|&byte| byte == b' ')?;
    let (target, rest) = head[begin..].split_at(length);
    if !target.iter().any(|&byte| is_strange(byte)) {
        return None;
    }
    let mut out = head[..begin].to_vec();
    for &byte in target {
        if is_strange(byte) {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
        } else {
            out.push(byte);
        }
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// Whether hyper's URI type takes the target of this head, which [`check`] has passed. A target in
/// origin form that needed no escaping always is one; what is looked at here is authorities.
pub fn is_uri(head: &[u8]) -> bool {
    let target = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    http::Uri::try_from(target).is_ok()
}

/// Without the blanks that may surround a value (RFC 9110 section 5.5): space and tab, nothing else.
const fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Digits only: no sign, no list, no blanks, no overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |length, &digit| {
        length
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))
            // hyper keeps the two largest values for itself.
            .filter(|&length| length < u64::MAX - 1)
    })
}

/// RFC 9110 section 5.6.2.
const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_tchar(byte as u8);
        byte += 1;
    }
    table
};

const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        )
        || matches!(byte, b'`' | b'|' | b'~')
}

/// RFC 9110 section 5.5: visible, obs-text, blank, tab.
fn are_values(bytes: &[u8]) -> bool {
    // Without an early end, so that the compiler looks at many bytes at once.
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    let controls = bytes
        .iter()
        .fold(false, |any, &byte| any | is_control(byte));
    !controls
}

#[cfg(test)]
mod tests;
