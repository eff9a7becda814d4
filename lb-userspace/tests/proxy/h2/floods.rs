//! What a client may send too much of: the connection ends, what it held is let go, and others are
//! served meanwhile.

use super::*;
use crate::support::eventually;

/// RFC 9113 section 7.
const CALM: u32 = 0xb;

/// Sends frames until the proxy ends the connection; returns the code it gave.
fn flood(lab: &Lab, what: &str, mut frame: impl FnMut(u32) -> Vec<u8>) {
    let mut raw = Raw::connect(lab.address);
    let mut reader = Raw {
        stream: raw.stream.try_clone().expect("clone"),
        buffer: Vec::new(),
    };
    let reader = std::thread::spawn(move || reader.goodbye());
    // Another client, in the middle of it.
    let begun = Instant::now();
    for number in 0.. {
        assert!(begun.elapsed() < PATIENCE, "{what}: taken");
        if number == 300 {
            run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
        }
        if raw.send(&frame(number)).is_err() {
            break;
        }
    }
    // The code is lost where a reset overtakes it.
    let code = reader.join().expect("reader");
    assert!(code.is_none_or(|code| code == CALM), "{what}: {code:?}");
    eventually("nothing is held", || lab.busy(0, 0) == 0);
    run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
}

#[test]
fn floods_end_the_connection_and_no_other() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let bytes =
        |kind, flags, stream, payload: &[u8]| Frame::new(kind, flags, stream, payload).bytes();
    let get = |stream| bytes(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET));
    flood(&lab, "pings", |_| bytes(PING, 0, 0, &[7; 8]));
    flood(&lab, "settings", |_| bytes(SETTINGS, 0, 0, &[]));
    flood(&lab, "settings of windows", |number| {
        bytes(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, number as u8])
    });
    flood(&lab, "priorities", |_| {
        bytes(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])
    });
    flood(&lab, "unknown frames", |_| bytes(0xbe, 0, 0, b"?"));
    flood(&lab, "window updates", |_| {
        bytes(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    });
    flood(&lab, "rapid resets", |number| {
        let stream = number * 2 + 1;
        [get(stream), bytes(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    // Each is answered by a reset of ours: a window beyond its bound.
    flood(&lab, "resets that we are made to send", |number| {
        let stream = number * 2 + 1;
        let beyond = bytes(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [get(stream), beyond].concat()
    });
    flood(&lab, "malformed requests", |number| {
        let malformed = block(&GET[..3]);
        bytes(
            HEADERS,
            END_HEADERS | END_STREAM,
            number * 2 + 1,
            &malformed,
        )
    });
    let post = [&[(":method", "POST")], &GET[1..]].concat();
    flood(&lab, "empty data", |number| match number {
        0 => bytes(HEADERS, END_HEADERS, 1, &block(&post)),
        _ => bytes(DATA, 0, 1, b""),
    });
    for (what, more) in [
        ("continuations of nothing", &b""[..]),
        ("continuations of fields", &block(&[("x", "y")])),
    ] {
        flood(&lab, what, |number| match number {
            0 => bytes(HEADERS, END_STREAM, 1, &block(GET)),
            _ => bytes(CONTINUATION, 0, 1, more),
        });
    }
}

/// A field of 4 KiB is put into the table once and named thousands of times.
#[test]
fn fields_that_unpack_to_much_are_refused() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let mut raw = Raw::connect(lab.address);
    let value = "v".repeat(3900);
    let mut bomb = block(GET);
    let mut field = block(&[("bomb", &value)]);
    // Literal with indexing, then its index.
    field[0] = 0x40;
    bomb.extend(&field);
    bomb.extend([0xbe; 12_000]);
    let result = raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
    if result.is_ok() {
        // Answered with 431 or the end; the member never sees it.
        let frame = raw.receive();
        assert!(frame.is_some() || raw.rest().is_empty());
    }
    run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
    assert_eq!(a.seen().len(), 1);
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let a = Member::with(|_, stream| {
        let _ = stream.read(&mut [0]);
        Ok(false)
    });
    let lab = lab(&[a.address], |spec| spec.hosts[0].protocols.max_streams = 5);
    let mut raw = Raw::connect(lab.address);
    for number in 0..8 {
        raw.get(number * 2 + 1).expect("send");
    }
    for number in 5..8 {
        let reset = raw.until(RST_STREAM);
        // REFUSED_STREAM: it may be sent again.
        assert_eq!((reset.stream, reset.code()), (number * 2 + 1, 7));
    }
    eventually("five are at the member", || lab.busy(0, 0) == 5);
    eventually("they have seen them", || a.seen().len() == 5);
}

#[test]
fn connection_errors_are_told() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let and = |field| block(&[GET, &[field]].concat());
    let (upper, blank) = (and(("UPPER", "1")), and(("a b", "1")));
    let (unknown, line_end) = (and((":unknown", "1")), and(("x", "a\r\nb")));
    for (what, code, frame) in [
        ("data of no stream", 1, Frame::new(DATA, 0, 0, b"x")),
        ("data of an idle stream", 1, Frame::new(DATA, 0, 7, b"x")),
        (
            "headers of an even stream",
            1,
            Frame::new(HEADERS, 5, 2, &block(GET)),
        ),
        (
            "continuation of nothing",
            1,
            Frame::new(CONTINUATION, 4, 1, b""),
        ),
        ("ping of seven bytes", 6, Frame::new(PING, 0, 0, &[0; 7])),
        (
            "settings of five bytes",
            6,
            Frame::new(SETTINGS, 0, 0, &[0; 5]),
        ),
        ("settings of a stream", 1, Frame::new(SETTINGS, 0, 1, b"")),
        (
            "a window of nothing",
            1,
            Frame::new(WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "a frame beyond the limit",
            6,
            Frame::new(DATA, 0, 1, &vec![0; 16_385]),
        ),
        ("upper case", 1, Frame::new(HEADERS, 5, 1, &upper)),
        ("a blank in a name", 1, Frame::new(HEADERS, 5, 1, &blank)),
        (
            "an unknown pseudo field",
            1,
            Frame::new(HEADERS, 5, 1, &unknown),
        ),
        (
            "a line end in a value",
            1,
            Frame::new(HEADERS, 5, 1, &line_end),
        ),
        (
            "fields that are no HPACK",
            9,
            Frame::new(HEADERS, 5, 1, &[0xff; 20]),
        ),
    ] {
        let mut raw = Raw::connect(lab.address);
        raw.send(&frame.bytes()).expect("send");
        // The library says PROTOCOL_ERROR where a more particular code is due.
        let said = raw.goodbye();
        assert!([Some(code), Some(1)].contains(&said), "{what}: {said:?}");
    }
    // The connection's window is exceeded: the client sends more than it was given.
    let mut raw = Raw::connect(lab.address);
    raw.frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])
        .expect("send");
    assert_eq!(raw.goodbye(), Some(3), "a window beyond its bound");
}
