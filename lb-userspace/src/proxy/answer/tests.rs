//! What a member may say, and what is made of it.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    to_head: false,
    limit: 8192,
    bad_header: BadHeader::IsError,
};

fn answer(text: &[u8]) -> Result<Option<Answer>, BadAnswer> {
    read(&mut BytesMut::from(text), &mut Scanner::default(), &RULES)
}

fn whole(text: &[u8]) -> Answer {
    answer(text).expect("a response").expect("a whole one")
}

/// With these fields.
fn with(fields: &str) -> Result<Option<Answer>, BadAnswer> {
    answer(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes())
}

#[test]
fn head_is_read_when_its_empty_line_is_there_however_it_comes() {
    for text in [
        &b"HTTP/1.1 404 Nowhere\r\nA: 1\r\nb: \xe9x \r\na:\r\nContent-Length: 3\r\n\r\n"[..],
        b"HTTP/1.1 404 Nowhere\nA: 1\nb: \xe9x\na:\nContent-Length: 3\n\n",
        b"\r\n\r\nHTTP/1.1 404 Nowhere\r\nA: 1\nb: \xe9x\r\na:\r\ncontent-length: 3\n\r\n",
    ] {
        let mut buffer = BytesMut::new();
        let mut scanner = Scanner::default();
        let mut found = None;
        for (at, byte) in text.iter().enumerate() {
            assert!(found.is_none(), "{at}");
            buffer.extend_from_slice(&[*byte]);
            found = read(&mut buffer, &mut scanner, &RULES).expect("acceptable");
        }
        buffer.extend_from_slice(b"abc");
        let answer = found.expect("whole");
        assert_eq!(answer.head.status(), 404);
        let fields = answer.head.headers();
        let values: Vec<_> = fields.get_all("a").iter().collect();
        assert_eq!(values, ["1", ""]);
        assert_eq!(fields["b"].as_bytes(), b"\xe9x");
        let reason = answer.head.extensions().get::<hyper::ext::ReasonPhrase>();
        assert_eq!(reason.expect("unusual").as_bytes(), b"Nowhere");
        assert_eq!(answer.line_bytes, 22);
        assert_eq!(answer.framing, Framing::Length(3));
        assert!(answer.keeps);
    }
}

#[test]
fn what_is_no_head_of_http_1_is_refused() {
    for bad in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na b: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\rx\r\n\r\n",
    ] {
        let text = String::from_utf8_lossy(bad);
        assert!(
            matches!(answer(bad), Err(BadAnswer::Malformed(_))),
            "{text}"
        );
    }
    let many = "a: 1\r\n".repeat(MAX_FIELDS);
    assert!(with(&many).is_ok());
    assert!(with(&format!("{many}a: 1\r\n")).is_err());
}

#[test]
fn a_field_may_be_as_long_as_the_limit_and_no_longer() {
    let with = |limit| {
        let mut text = BytesMut::from(&b"HTTP/1.1 200 OK\r\na: b\r\nname: value\r\n\r\n"[..]);
        read(
            &mut text,
            &mut Scanner::default(),
            &Rules { limit, ..RULES },
        )
    };
    assert!(with(11).is_ok());
    assert_eq!(with(10).err(), Some(BadAnswer::TooLong));
}

#[test]
fn ambiguous_framing_is_refused_or_resolved() {
    let chunked = Framing::Chunked(Chunks::Start, 0);
    for (fields, framing, keeps) in [
        ("", Framing::Close, false),
        ("content-length: 2\r\n", Framing::Length(2), true),
        ("transfer-encoding: Chunked\r\n", chunked, true),
        // Both: a proxy on the way may have read the other.
        (
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
            chunked,
            false,
        ),
    ] {
        let answer = with(fields).expect("good").expect("whole");
        assert_eq!((answer.framing, answer.keeps), (framing, keeps), "{fields}");
        let has_length = answer.head.headers().contains_key("content-length");
        assert_eq!(has_length, matches!(framing, Framing::Length(_)));
    }
    for bad in [
        "content-length: 2, 2\r\n",
        "content-length: 2\r\ncontent-length: 2\r\n",
        "content-length: +2\r\n",
        "content-length:\r\n",
        "content-length: 18446744073709551616\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: identity\r\ncontent-length: 2\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        assert!(matches!(with(bad), Err(BadAnswer::Framing(_))), "{bad}");
    }
}

#[test]
fn some_responses_have_no_body_whatever_their_fields_say() {
    for line in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
        let text = format!("HTTP/1.1 {line}\r\nContent-Length: 5\r\n\r\n");
        let answer = whole(text.as_bytes());
        assert!(answer.framing.is_end() && answer.keeps, "{line}");
        assert!(whole(format!("HTTP/1.1 {line}\r\n\r\n").as_bytes()).keeps);
    }
    let mut text = BytesMut::from(&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..]);
    let to_head = read(
        &mut text,
        &mut Scanner::default(),
        &Rules {
            to_head: true,
            ..RULES
        },
    );
    let to_head = to_head.expect("good").expect("whole");
    assert!(to_head.framing.is_end() && to_head.keeps);
}

#[test]
fn connection_is_kept_as_the_version_and_the_field_say() {
    let keeps = |version: &str, connection: &str| {
        let text =
            format!("{version} 200 OK\r\ncontent-length: 0\r\nConnection: {connection}\r\n\r\n");
        whole(text.as_bytes()).keeps
    };
    assert!(keeps("HTTP/1.1", "x"));
    assert!(!keeps("HTTP/1.1", "x , Close"));
    assert!(keeps("HTTP/1.0", "Keep-Alive"));
    assert!(!keeps("HTTP/1.0", "x"));
    assert!(!keeps("HTTP/1.0", "keep-alive, close"));
}

#[test]
fn line_without_a_colon_is_an_error_or_nothing_or_the_body() {
    let text = &b"HTTP/1.1 200 OK\r\na: 1\r\nno colon\r\ncontent-length: 3\r\nnone\r\n\r\nabc"[..];
    let read_as = |bad_header, text: &[u8]| {
        let mut buffer = BytesMut::from(text);
        let rules = Rules {
            bad_header,
            ..RULES
        };
        let answer = read(&mut buffer, &mut Scanner::default(), &rules);
        answer.map(|answer| (answer.expect("whole"), buffer))
    };
    assert!(read_as(BadHeader::IsError, text).is_err());
    let (answer, rest) = read_as(BadHeader::Ignore, text).expect("left out");
    assert_eq!(answer.head.headers().len(), 2);
    assert_eq!(
        (answer.framing, &rest[..]),
        (Framing::Length(3), &b"abc"[..])
    );
    assert!(answer.keeps);
    let (answer, rest) = read_as(BadHeader::StartBody, text).expect("a body");
    assert_eq!(answer.head.headers().len(), 1);
    assert_eq!((answer.framing, answer.keeps), (Framing::Close, false));
    assert!(rest.starts_with(b"no colon\r\ncontent-length: 3"));
    for bad_header in [BadHeader::Ignore, BadHeader::StartBody] {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab\nc";
        let (answer, rest) = read_as(bad_header, good).expect("good");
        assert_eq!(
            (answer.framing, &rest[..]),
            (Framing::Length(3), &b"ab\nc"[..])
        );
    }
}

/// What is read of a body that comes in pieces of `step` bytes, how it ended, and what is left over.
fn body(mut framing: Framing, bytes: &[u8], step: usize) -> (Vec<u8>, Piece, Vec<u8>) {
    let mut buffer = BytesMut::new();
    let mut data = Vec::new();
    let mut pieces = bytes.chunks(step);
    loop {
        match framing.take(&mut buffer, 8192) {
            Piece::Data(piece) => data.extend_from_slice(&piece),
            Piece::Missing => match pieces.next() {
                Some(more) => buffer.extend_from_slice(more),
                None => return (data, Piece::Missing, buffer.to_vec()),
            },
            end => {
                pieces.for_each(|more| buffer.extend_from_slice(more));
                return (data, end, buffer.to_vec());
            }
        }
    }
}

#[test]
fn chunks_are_read_and_nothing_behind_them() {
    let chunked = Framing::Chunked(Chunks::default(), 0);
    let bytes = b"3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\ntrailer: 1\r\n\r\nHTTP";
    for step in 1..bytes.len() {
        let (data, end, rest) = body(chunked, bytes, step);
        assert_eq!(data, b"abc0123456789", "{step}");
        assert_eq!((end, &rest[..]), (Piece::End, &b"HTTP"[..]), "{step}");
    }
    for broken in [
        &b"x\r\n"[..],
        b"3\r\nabcd\r\n",
        b"3\n",
        b"ffffffffffffffffff\r\n",
    ] {
        assert_eq!(body(chunked, broken, 1).1, Piece::Broken);
    }
    assert_eq!(body(chunked, b"3\r\nabc\r\n", 2).1, Piece::Missing);
}

#[test]
fn extensions_and_trailers_do_not_go_on_for_ever() {
    let chunked = Framing::Chunked(Chunks::default(), 0);
    let mut endless = b"1\r\na\r\n0\r\n".to_vec();
    endless.extend(b"x: y\r\n".repeat(MAX_NOISE / 6 + 2));
    assert_eq!(body(chunked, &endless, 4096).1, Piece::Broken);
    let mut many = b"1;x\r\na\r\n".repeat(MAX_NOISE);
    many.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(
        body(chunked, &many, 65536).1,
        Piece::End,
        "noise between data is no matter"
    );
}

#[test]
fn length_ends_where_it_says_and_the_connections_end_where_it_does() {
    let (data, end, rest) = body(Framing::Length(3), b"abcdef", 2);
    assert_eq!(
        (&data[..], end, &rest[..]),
        (&b"abc"[..], Piece::End, &b"def"[..])
    );
    let (data, end, _) = body(Framing::Close, b"abcdef", 4);
    assert_eq!((&data[..], end), (&b"abcdef"[..], Piece::Missing));
}

#[test]
fn small_pieces_do_not_keep_the_buffer_they_were_read_into() {
    let read_into = |text: &[u8]| {
        let mut buffer = BytesMut::with_capacity(8192);
        buffer.extend_from_slice(text);
        buffer
    };
    let mut buffer = read_into(b"event");
    let piece = Framing::Close.take(&mut buffer, 8192);
    assert_eq!(piece, Piece::Data(Bytes::from_static(b"event")));
    assert!(buffer.try_reclaim(8192), "nobody else has it");
    let mut buffer = read_into(&[b'x'; 4096]);
    let piece = Framing::Close.take(&mut buffer, 8192);
    assert!(!buffer.try_reclaim(8192), "a large one is not copied");
    drop(piece);
}

#[test]
fn small_chunks_that_came_together_go_together() {
    let mut framing = Framing::Chunked(Chunks::default(), 0);
    let mut buffer = BytesMut::from(&b"1\r\na\r\n1\r\nb\r\n0\r\n\r\nHTTP"[..]);
    let piece = framing.take(&mut buffer, 8192);
    assert_eq!(piece, Piece::Data(Bytes::from_static(b"ab")));
    assert!(framing.is_end());
    assert_eq!(framing.take(&mut buffer, 8192), Piece::End);
    assert_eq!(buffer, b"HTTP"[..]);
    let mut framing = Framing::Chunked(Chunks::default(), 0);
    let mut buffer = BytesMut::from(&b"1\r\na\r\nrubbish"[..]);
    let piece = framing.take(&mut buffer, 8192);
    assert_eq!(piece, Piece::Data(Bytes::from_static(b"a")));
    assert_eq!(framing.take(&mut buffer, 8192), Piece::Broken);
}

proptest! {
    #[test]
    fn nothing_a_member_says_makes_it_panic_and_pieces_make_no_difference(
        bytes in prop::collection::vec(prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()), Just(b"Content-Length: 7\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()), Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()), Just(b"3\r\nabc\r\n".to_vec()), Just(b"0\r\n\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..12).prop_map(|parts| parts.concat()),
        step in 1_usize..9,
    ) {
        let read_in = |step: usize| {
            let (mut buffer, mut scanner) = (BytesMut::new(), Scanner::default());
            let mut pieces = bytes.chunks(step);
            loop {
                match read(&mut buffer, &mut scanner, &RULES) {
                    Err(_) => return None,
                    Ok(Some(answer)) => {
                        let rest: Vec<u8> = [buffer.to_vec(), pieces.flatten().copied().collect()].concat();
                        let (data, end, rest) = body(answer.framing, &rest, step);
                        return Some((answer.head.status(), answer.framing, data, end, rest));
                    }
                    Ok(None) => match pieces.next() {
                        Some(more) => buffer.extend_from_slice(more),
                        None => return None,
                    },
                }
            }
        };
        prop_assert_eq!(read_in(step), read_in(usize::MAX));
    }
}
