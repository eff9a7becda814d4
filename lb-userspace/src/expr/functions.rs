//! Functions of expressions that need nothing but their argument.

use std::borrow::Cow;

use base64::{Engine as _, alphabet, engine};
use md5::{Digest as _, Md5};
use sha1::Sha1;

use super::Table;

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    /// An entry of a table.
    Entry(Table),
    /// `env`: of the notes, else of the request's environment, else of the process's.
    AnyEnvironment,
    Lower,
    Upper,
    Escape,
    Unescape,
    Base64,
    Unbase64,
    Sha1,
    Md5,
    Ldap,
}

impl Function {
    /// The function of this name, in lower case.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "req" | "http" | "req_novary" => Self::Entry(Table::Request),
            "resp" => Self::Entry(Table::Response),
            "reqenv" => Self::Entry(Table::Environment),
            "osenv" => Self::Entry(Table::Process),
            "note" => Self::Entry(Table::Notes),
            "hc" => Self::Entry(Table::HealthCheck),
            "env" => Self::AnyEnvironment,
            "tolower" => Self::Lower,
            "toupper" => Self::Upper,
            "escape" => Self::Escape,
            "unescape" => Self::Unescape,
            "base64" => Self::Base64,
            "unbase64" => Self::Unbase64,
            "sha1" => Self::Sha1,
            "md5" => Self::Md5,
            "ldap" => Self::Ldap,
            _ => return None,
        })
    }
}

/// The value of a function that asks nobody.
pub(super) fn pure(function: Function, argument: Cow<'_, [u8]>) -> Vec<u8> {
    match function {
        Function::Lower => argument.to_ascii_lowercase(),
        Function::Upper => argument.to_ascii_uppercase(),
        Function::Escape => escape(&argument),
        Function::Unescape => unescape(&argument).unwrap_or_default(),
        Function::Base64 => LENIENT.encode(argument).into_bytes(),
        Function::Unbase64 => unbase64(&argument),
        Function::Sha1 => hex(&Sha1::digest(argument)),
        Function::Md5 => hex(&Md5::digest(argument)),
        Function::Ldap => ldap(&argument),
        Function::Entry(_) | Function::AnyEnvironment => argument.into_owned(),
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
    let pairs = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)]);
    pairs.collect()
}

/// Padded, and read whether padded or not.
const LENIENT: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

/// Decodes as much as there is: what follows the first byte that is not of the alphabet is left.
fn unbase64(text: &[u8]) -> Vec<u8> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut end = text.iter().take_while(|byte| is_digit(byte)).count();
    // A digit alone says nothing.
    if end % 4 == 1 {
        end -= 1;
    }
    LENIENT.decode(&text[..end]).unwrap_or_default()
}

/// As a path in a URL: what may not stand there becomes `%xx`, lower case, as in httpd.
fn escape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"$-_.+!*'(),:;@&=/~".contains(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(&hex(&[*byte]));
        }
    }
    out
}

/// Decodes `%xx`, but leaves `%2F` as it is. `None`: a bad escape, or a NUL.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else {
            return None;
        };
        let nibble = |byte: u8| char::from(byte).to_digit(16);
        let byte = u8::try_from(nibble(*high)? << 4 | nibble(*low)?).ok()?;
        rest = after;
        match byte {
            0 => return None,
            b'/' => out.extend_from_slice(&[b'%', *high, *low]),
            byte => out.push(byte),
        }
    }
    Some(out)
}

/// As a value in an LDAP filter and in a distinguished name (RFC 4515, RFC 4514).
fn ldap(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for (at, byte) in text.iter().enumerate() {
        let edge = at == 0 || at + 1 == text.len();
        let special = b"*()\\\"+,;<=>".contains(byte)
            || (*byte == b'#' && at == 0)
            || (*byte == b' ' && edge)
            || !(0x20..0x7F).contains(byte);
        if special {
            out.push(b'\\');
            out.extend_from_slice(&hex(&[*byte]));
        } else {
            out.push(*byte);
        }
    }
    out
}
