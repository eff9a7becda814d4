//! What the gate lets through and what it refuses.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    line: 8190,
    fields: 100,
    field: 8190,
};

fn verdict(bytes: &[u8]) -> Verdict {
    Scanner::default().scan(bytes, &LIMITS)
}

fn framing(text: &str) -> Result<Framing, u16> {
    match verdict(text.as_bytes()) {
        Verdict::Whole { framing, .. } => Ok(framing),
        Verdict::Refused(refusal) => Err(refusal.status()),
        Verdict::Partial => panic!("not a whole head: {text:?}"),
    }
}

#[test]
fn plain_requests_pass_with_their_framing() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", Framing::Length(0)),
        ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
        ("brew /x HTTP/1.1\r\nhost:h\r\n\r\n", Framing::Length(0)),
        (
            "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            Framing::Length(0),
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:  3 \r\n\r\n",
            Framing::Length(3),
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Framing::Chunked,
        ),
        (
            "GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n",
            Framing::Length(0),
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nA:\r\nB: \u{e9}\tx\r\n\r\n",
            Framing::Length(0),
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(framing(text), Ok(expected), "{text:?}");
    }
}

#[test]
fn what_is_ambiguous_or_broken_is_refused() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    let mut cases: Vec<(String, u16)> = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: \x0ch\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nfoo\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nfo(o: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /#f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTX/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\n\r\n", 400),
    ]
    .map(|(text, status)| (text.to_owned(), status))
    .into();
    for (fields, status) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", 400),
        ("Content-Length: 3\r\nContent-Length: 3", 400),
        ("Content-Length: 3\r\nContent-Length: 4", 400),
        ("Content-Length: +3", 400),
        ("Content-Length:", 400),
        ("Content-Length: \x0c3", 400),
        ("Content-Length: 3\r", 400),
        ("Transfer-Encoding: chunked\r", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Content-Length: 3,3", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 3 3", 400),
        ("Content-Length: 0x3", 400),
        ("Content-Length: 99999999999999999999", 400),
        ("Content-Length: 18446744073709551615", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: chunked,", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Expect: foo", 417),
    ] {
        cases.push((post(fields), status));
    }
    for (text, status) in cases {
        assert_eq!(framing(&text), Err(status), "{text:?}");
    }
}

#[test]
fn strange_bytes_of_a_target_are_encoded_and_nothing_else_is() {
    let escape = |text: &str| escape_target(text.as_bytes());
    assert_eq!(escape("GET /a?b=c HTTP/1.1\r\nA: \u{e9}\r\n\r\n"), None);
    assert_eq!(
        escape("GET /\u{e9}?<\"> HTTP/1.1\r\nA: \u{e9}\r\n\r\n").as_deref(),
        Some("GET /%C3%A9?%3C%22%3E HTTP/1.1\r\nA: \u{e9}\r\n\r\n".as_bytes())
    );
}

#[test]
fn limits_hold_at_their_edge_and_before_the_line_ends() {
    let line = |len: usize| {
        let fixed = "GET / HTTP/1.1".len();
        format!("GET /{} HTTP/1.1", "a".repeat(len - fixed))
    };
    let with = |line: &str, fields: &str| format!("{line}\r\nHost: h\r\n{fields}\r\n");
    assert!(framing(&with(&line(8190), "")).is_ok());
    assert_eq!(framing(&with(&line(8191), "")), Err(414));
    let open = format!("GET /{}", "a".repeat(9000));
    assert_eq!(
        verdict(open.as_bytes()),
        Verdict::Refused(Refusal::LineTooLong)
    );
    let field = |len: usize| format!("A: {}\r\n", "a".repeat(len - 3));
    assert!(framing(&with("GET / HTTP/1.1", &field(8190))).is_ok());
    assert_eq!(framing(&with("GET / HTTP/1.1", &field(8191))), Err(400));
    let open = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}", "a".repeat(9000));
    assert!(matches!(verdict(open.as_bytes()), Verdict::Refused(_)));
    assert!(framing(&with("GET / HTTP/1.1", &"A: b\r\n".repeat(99))).is_ok());
    assert_eq!(
        framing(&with("GET / HTTP/1.1", &"A: b\r\n".repeat(100))),
        Err(400)
    );
    let large = field(8000).repeat(9);
    assert_eq!(framing(&with("GET / HTTP/1.1", &large)), Err(400));
}

#[test]
fn noise_is_refused_at_its_first_byte() {
    assert!(matches!(verdict(b"\x16\x03\x01"), Verdict::Refused(_)));
    assert!(matches!(verdict(b" GET"), Verdict::Refused(_)));
    assert_eq!(verdict(b"\r\nGE"), Verdict::Partial);
    assert_eq!(verdict(b""), Verdict::Partial);
    assert!(matches!(verdict(&b"\r\n".repeat(11)), Verdict::Refused(_)));
    // Else a client could fill the memory with what no limit counts.
    assert!(matches!(verdict(b"\r\r"), Verdict::Refused(_)));
    assert!(matches!(verdict(b"\rGET"), Verdict::Refused(_)));
}

#[test]
fn chunked_body_ends_where_it_ends() {
    let cases: &[(&[u8], &[u8])] = &[
        (b"0\r\n\r\n", b"GET"),
        (b"3\r\nabc\r\n0\r\n\r\n", b""),
        (
            b"A;x=\"y\"\r\n0123456789\r\n00\r\nT: v\r\nU: w\r\n\r\n",
            b"POST",
        ),
    ];
    for (body, next) in cases {
        let whole = [*body, *next].concat();
        let mut chunks = Chunks::default();
        assert_eq!(chunks.follow(&whole), body.len());
        assert_eq!(chunks, Chunks::End);
    }
}

/// Every place where hyper and the gate could see different ends, or a lenient member another one.
#[test]
fn chunked_body_that_is_not_plainly_right_is_broken() {
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n0\r\n\r\n",
        "3;x\ry\r\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\r\n\r\r\n",
        "3\r\nabc\r\n0\r\nT: v\n\r\n",
        "3\r\nabc\r\n0\r\nT: v\n\n",
        "3\r\nabc\r\n0\r\nT: \0\r\n\r\n",
        "\r\n",
        ";x\r\n",
        " 3\r\n",
        "-3\r\n",
        "+3\r\n",
        "0x3\r\n",
        "3 3\r\n",
        "fffffffffffffffff\r\n",
        "1000000000000000\r\n",
    ] {
        let mut chunks = Chunks::default();
        chunks.follow(body.as_bytes());
        assert_eq!(chunks, Chunks::Broken, "{body:?}");
    }
}

#[test]
fn plain_targets_are_those_that_need_no_second_look() {
    let plain = |head: &str| match Scanner::default().scan(head.as_bytes(), &LIMITS) {
        Verdict::Whole { plain, .. } => plain,
        other => panic!("{head:?}: {other:?}"),
    };
    let with = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    for target in ["/", "/a/b?c=d;e", "/%3C", "//x", "/a:b@c"] {
        assert!(plain(&with(target)), "{target}");
        assert!(is_uri(with(target).as_bytes()), "{target}");
    }
    for target in [
        "/<",
        "/a?\"",
        "/`",
        "/\u{e9}",
        "/>",
        "*",
        "http://h/",
        "h:80",
    ] {
        assert!(!plain(&with(target)), "{target}");
    }
}

#[test]
fn a_head_in_one_piece_is_read_as_one_with_something_behind_it() {
    for head in [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\nX: y\r\n\r\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "A\r\n\r\n",
    ] {
        let more = [head.as_bytes(), b"GET"].concat();
        let (alone, followed) = (
            Scanner::default().scan(head.as_bytes(), &LIMITS),
            Scanner::default().scan(&more, &LIMITS),
        );
        assert_eq!(alone, followed, "{head:?}");
    }
}

proptest! {
    #[test]
    fn pieces_give_the_verdict_of_the_whole(
        text in "(GET|POST|x) /[a-z%]{0,9} HTTP/1.[019]\r\n(Host: h\r\n)?([a-zA-Z -]{1,18}:? ?[a-z0-9, ]{0,9}\r?\n){0,4}\r\n",
        cuts in prop::collection::vec(1_usize..9, 0..40),
    ) {
        let bytes = text.as_bytes();
        let whole = verdict(bytes);
        let mut scanner = Scanner::default();
        let mut end = 0_usize;
        let mut last = Verdict::Partial;
        for cut in cuts.into_iter().chain(std::iter::repeat(usize::MAX)) {
            end = bytes.len().min(end.saturating_add(cut));
            last = scanner.scan(&bytes[..end], &LIMITS);
            if last != Verdict::Partial || end == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(last, whole);
    }

    #[test]
    fn pieces_of_a_chunked_body_end_at_the_same_byte(
        sizes in prop::collection::vec(1_usize..40, 0..6),
        cut in 1_usize..7,
    ) {
        let mut body = Vec::new();
        for size in sizes {
            body.extend(format!("{size:x}\r\n").bytes());
            body.extend(std::iter::repeat_n(b'\n', size));
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let end = body.len();
        body.extend(b"GET / HTTP/1.1");
        let mut chunks = Chunks::default();
        let mut taken = 0;
        for piece in body.chunks(cut) {
            let took = chunks.follow(piece);
            taken += took;
            if took < piece.len() {
                break;
            }
        }
        prop_assert_eq!(taken, end);
        prop_assert_eq!(chunks, Chunks::End);
    }
}
