//! A member's response on any bytes: it is read alike however the bytes come in, what is passed on
//! is framed in one way only, and no byte is lost or made up.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::{
    config::spec::BadHeader,
    proxy::answer::{Framing, Piece, Rules, Scanner, read},
};

#[derive(Debug)]
struct Input<'a> {
    cut: usize,
    rules: Rules,
    bytes: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            cut: usize::from(data.arbitrary::<u8>()?) + 1,
            rules: Rules {
                to_head: data.arbitrary()?,
                limit: 8192,
                bad_header: *data.choose(&[
                    BadHeader::IsError,
                    BadHeader::Ignore,
                    BadHeader::StartBody,
                ])?,
            },
            bytes: data.bytes(data.len())?,
        })
    }
}

/// Status, fields, body, how it ended and what is left over.
type Heard = (u16, Vec<(String, Vec<u8>)>, Vec<u8>, Piece, Vec<u8>);

fn hear(bytes: &[u8], cut: usize, rules: &Rules) -> Option<Heard> {
    let (mut buffer, mut scanner) = (BytesMut::new(), Scanner::default());
    let mut pieces = bytes.chunks(cut);
    let answer = loop {
        match read(&mut buffer, &mut scanner, rules) {
            Err(_) => return None,
            Ok(Some(answer)) => break answer,
            Ok(None) => buffer.extend_from_slice(pieces.next()?),
        }
    };
    let fields = answer.head.headers();
    let coded = fields.contains_key("transfer-encoding");
    assert!(!(coded && fields.contains_key("content-length")), "one framing");
    assert!(answer.keeps <= (answer.framing != Framing::Close), "its end is the connection's");
    let mut framing = answer.framing;
    let mut body = Vec::new();
    let end = loop {
        match framing.take(&mut buffer, 8192) {
            Piece::Data(data) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Piece::Missing => match pieces.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => break Piece::Missing,
            },
            end => break end,
        }
    };
    if let Framing::Length(length) = answer.framing {
        assert!(body.len() as u64 <= length);
        assert_eq!(end == Piece::End, body.len() as u64 == length);
    }
    let fields = fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let fields = fields.collect();
    pieces.for_each(|more| buffer.extend_from_slice(more));
    // What follows a broken body is nobody's.
    let rest = if end == Piece::Broken { Vec::new() } else { buffer.to_vec() };
    Some((answer.head.status().as_u16(), fields, body, end, rest))
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let whole = hear(input.bytes, usize::MAX, &input.rules);
    let pieces = hear(input.bytes, input.cut, &input.rules);
    assert_eq!(whole, pieces);
});
