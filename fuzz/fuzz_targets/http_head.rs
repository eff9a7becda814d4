//! The gate on any bytes: it gives one verdict however the bytes come in, and the parser behind it
//! reads every head that passed in the same way. A chunked body ends at one place.

#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::proxy::gate::{
    Chunks, Framing, Limits, MAX_HEAD, Scanner, Verdict, escape_target, is_uri,
};

const LIMITS: Limits = Limits {
    line: 8190,
    fields: 100,
    field: 8190,
};

#[derive(Debug)]
struct Input<'a> {
    cut: usize,
    bytes: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            cut: usize::from(data.arbitrary::<u8>()?) + 1,
            bytes: data.bytes(data.len())?,
        })
    }
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let bytes = input.bytes;
    let verdict = Scanner::default().scan(bytes, &LIMITS);
    let mut scanner = Scanner::default();
    let mut end = 0;
    let pieces = loop {
        end = bytes.len().min(end + input.cut);
        let verdict = scanner.scan(&bytes[..end], &LIMITS);
        if verdict != Verdict::Partial || end == bytes.len() {
            break verdict;
        }
    };
    // A limit may be seen to be passed before the byte that would be refused for another reason.
    if !matches!((&pieces, &verdict), (Verdict::Refused(_), Verdict::Refused(_))) {
        assert_eq!(pieces, verdict);
    }
    match verdict {
        Verdict::Partial => assert!(bytes.len() <= MAX_HEAD + 22, "nothing is held beyond the limit"),
        Verdict::Refused(_) => {}
        Verdict::Whole { head, framing, plain } => {
            let whole = &bytes[head.clone()];
            assert!(!plain || (escape_target(whole).is_none() && is_uri(whole)));
            read_alike(&bytes[head.clone()], framing);
            follow_alike(&bytes[head.end..], input.cut);
        }
    }
});

/// What hyper's parser makes of a head that passed, as far as the connection depends on it.
fn read_alike(head: &[u8], framing: Framing) {
    let escaped = escape_target(head);
    let head = escaped.as_deref().unwrap_or(head);
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(head).expect("a head that passed is a head");
    assert_eq!(parsed, httparse::Status::Complete(head.len()));
    let target = request.path.expect("target");
    assert!(!target.starts_with('/') || is_uri(head), "{target}");
    let values = |name: &str| -> Vec<&[u8]> {
        request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match framing {
        Framing::Chunked => {
            assert!(lengths.is_empty());
            assert!(matches!(&codings[..], [one] if one.eq_ignore_ascii_case(b"chunked")));
        }
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            let said = lengths.first().map(|value| std::str::from_utf8(value).expect("digits"));
            assert_eq!(said.map_or(Ok(0), str::parse), Ok(length));
        }
    }
    assert!(values("host").len() <= 1);
}

fn follow_alike(body: &[u8], cut: usize) {
    let mut whole = Chunks::default();
    let took = whole.follow(body);
    let (mut chunks, mut taken) = (Chunks::default(), 0);
    for piece in body.chunks(cut) {
        taken += chunks.follow(piece);
        if matches!(chunks, Chunks::End | Chunks::Broken) {
            break;
        }
    }
    assert_eq!((chunks, taken), (whole, took));
    if whole == Chunks::End {
        assert!(body[..took].ends_with(b"\r\n\r\n"));
    }
}
