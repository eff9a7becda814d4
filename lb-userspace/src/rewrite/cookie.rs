//! What `[CO=...]` sets, before it is a field.

use crate::expr::number;

/// What `[CO=NAME:VALUE:DOMAIN[:MINUTES[:PATH[:SECURE[:HTTPONLY[:SAMESITE]]]]]]` sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookie {
    /// Name.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Domain.
    pub domain: Vec<u8>,
    /// How long it lives; 0: as long as the browser runs.
    pub minutes: i64,
    /// Path.
    pub path: Vec<u8>,
    /// `Secure`.
    pub secure: bool,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`, where it is given.
    pub same_site: Option<Vec<u8>>,
}

impl Cookie {
    /// What follows `CO=`, filled in; `None`: something is missing.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let (text, separator) = match text.strip_prefix(b";") {
            Some(rest) => (rest, b';'),
            None => (text, b':'),
        };
        // As strtok: empty parts are none.
        let mut parts = text
            .split(|&byte| byte == separator)
            .filter(|part| !part.is_empty());
        let is = |part: Option<&[u8]>, word: &str| {
            part.is_some_and(|part| {
                part == b"1"
                    || part.eq_ignore_ascii_case(b"true")
                    || part.eq_ignore_ascii_case(word.as_bytes())
            })
        };
        Some(Self {
            name: parts.next()?.to_vec(),
            value: parts.next()?.to_vec(),
            domain: parts.next()?.to_vec(),
            minutes: number(parts.next().unwrap_or_default()),
            path: parts.next().unwrap_or(b"/").to_vec(),
            secure: is(parts.next(), "secure"),
            http_only: is(parts.next(), "httponly"),
            same_site: parts
                .next()
                .filter(|part| *part != b"0" && !part.eq_ignore_ascii_case(b"false"))
                .map(<[u8]>::to_vec),
        })
    }
}
