//! Percent-encoding as httpd does it in what it sends to clients: with small letters, unlike the
//! proxy's.

use super::Escape;

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    out.extend([
        b'%',
        HEX[usize::from(byte >> 4)],
        HEX[usize::from(byte & 15)],
    ]);
}

/// What a path keeps: letters, digits and `$-_.+!*'(),:;@&=/~`.
pub(crate) fn path(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"$-_.+!*'(),:;@&=/~".contains(&byte) {
            out.push(byte);
        } else {
            push_escaped(&mut out, byte);
        }
    }
    out
}

/// What follows the host of a URL whose first `scheme` bytes name its scheme; `mailto:` and the
/// like have none.
pub(super) fn url(text: &[u8], scheme: usize) -> Vec<u8> {
    let mut start = scheme;
    if text[..scheme].ends_with(b"/") {
        let slash = text[scheme..].iter().position(|&byte| byte == b'/');
        start = slash.map_or(text.len(), |at| scheme + at + 1);
    }
    let mut out = text[..start].to_vec();
    out.extend(path(&text[start..]));
    out
}

/// A group before it is filled in.
pub(super) fn group(text: &[u8], escape: &Escape) -> Vec<u8> {
    let is_in = |set: &Option<String>, byte: u8| {
        set.as_ref()
            .is_some_and(|set| set.as_bytes().contains(&byte))
    };
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        let all = if escape.controls {
            byte <= b' ' || byte == 0x7f
        } else {
            escape.only.is_none()
        };
        let wanted = (all || is_in(&escape.only, byte)) && !is_in(&escape.never, byte);
        if !wanted || byte.is_ascii_alphanumeric() || byte == b'_' {
            out.push(byte);
        } else if byte == b' ' && !escape.no_plus {
            out.push(b'+');
        } else {
            push_escaped(&mut out, byte);
        }
    }
    out
}

/// Decodes what is encoded; what is no escape stays.
pub(crate) fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'%'
            && let (Some(high), Some(low)) = (digit(text.get(at + 1)), digit(text.get(at + 2)))
        {
            out.push((high << 4 | low) as u8);
            at += 3;
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    out
}
