//! Distinguished names of certificates as text (RFC 4514, which httpd's SSL_CLIENT_S_DN follows):
//! last part first. Pure. For logs: nothing is decided by them.

use std::fmt::Write as _;

use super::validity::element;

/// Types with a name: arcs of the OID as DER has them.
const TYPES: [(&[u8], &str); 17] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 97], "organizationIdentifier"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        "DC",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "emailAddress",
    ),
];

/// The whole name (DER of a Name); what cannot be read is left out.
pub(crate) fn text(der: &[u8]) -> String {
    let mut all = parts(der);
    all.reverse();
    let mut text = String::new();
    for (index, part) in all.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, (kind, value)) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            text.push_str(kind);
            text.push('=');
            escape(value, &mut text);
        }
    }
    text
}

/// The value of a type (`CN`) that has so many of its type before it.
pub(crate) fn value(der: &[u8], wanted: &str, before: usize) -> Option<String> {
    let all = parts(der).into_iter().flatten();
    let mut of_type = all.filter(|(kind, _)| kind == wanted);
    of_type.nth(before).map(|(_, value)| value)
}

/// Types and values, in the order of the certificate.
fn parts(der: &[u8]) -> Vec<Vec<(String, String)>> {
    let mut parts = Vec::new();
    let Some((_, mut rest, _)) = element(der) else {
        return parts;
    };
    while let Some((_, mut set, after)) = element(rest) {
        rest = after;
        let mut part = Vec::new();
        while let Some((_, pair, after)) = element(set) {
            set = after;
            if let Some((_, oid, tail)) = element(pair)
                && let Some((tag, value, _)) = element(tail)
            {
                part.push((kind(oid), string(tag, value)));
            }
        }
        parts.push(part);
    }
    parts
}

fn kind(oid: &[u8]) -> String {
    if let Some((_, name)) = TYPES.iter().find(|(known, _)| *known == oid) {
        return (*name).to_owned();
    }
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in oid {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    let arcs: Vec<String> = arcs.iter().map(u64::to_string).collect();
    arcs.join(".")
}

/// UTF8String, PrintableString, IA5String, T61String, BMPString; others in hexadecimal.
fn string(tag: u8, value: &[u8]) -> String {
    match tag {
        0x0c | 0x12 | 0x13 | 0x16 => String::from_utf8_lossy(value).into_owned(),
        0x14 => value.iter().map(|byte| char::from(*byte)).collect(),
        0x1e => {
            let units: Vec<u16> = value
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
                .collect();
            String::from_utf16_lossy(&units)
        }
        _ => hexadecimal(value),
    }
}

/// Two digits a byte, upper case.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => {
                text.push('\\');
                text.push(c);
            }
            '#' if index == 0 => text.push_str("\\#"),
            ' ' if index == 0 || index == last => text.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
        [&[tag, contents.len() as u8], contents].concat()
    }

    fn part(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        let pair = [tlv(6, oid), tlv(tag, value)].concat();
        tlv(0x31, &tlv(0x30, &pair))
    }

    #[test]
    fn names_are_written_last_part_first_and_escaped() {
        let name = tlv(
            0x30,
            &[
                part(&[0x55, 4, 6], 0x13, b"DE"),
                part(&[0x55, 4, 10], 0x0c, b"Acme, \"Inc\"\n"),
                part(&[0x2a, 3, 0x84, 1], 0x04, &[1, 0xff]),
                part(&[0x55, 4, 3], 0x1e, &[0, b' ', 0x20, 0xac]),
            ]
            .concat(),
        );
        assert_eq!(
            text(&name),
            "CN=\\ \u{20ac},1.2.3.513=01FF,O=Acme\\, \\\"Inc\\\"\\0A,C=DE"
        );
        assert_eq!(value(&name, "C", 0).as_deref(), Some("DE"));
        assert_eq!((value(&name, "OU", 0), value(&name, "C", 1)), (None, None));
        for length in 0..name.len() {
            let _ = text(&name[..length]);
        }
    }
}
