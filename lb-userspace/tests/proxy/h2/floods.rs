//! What a client may send too much of: the connection ends, what it held is let go, and others are
//! served meanwhile.

use super::*;
use crate::support::eventually;

/// RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;
const CALM: u32 = 0xb;

/// Sends frames until the proxy ends the connection; returns the code it gave.
fn flood(lab: &Lab, settings: &[(u16, u32)], mut frame: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let mut raw = Raw::with(lab.address, settings);
    let mut reader = Raw {
        stream: raw.stream.try_clone().expect("clone"),
        buffer: Vec::new(),
    };
    let reader = std::thread::spawn(move || reader.goodbye());
    // Another client, in the middle of it.
    for number in 0..200_000 {
        if number == 300 {
            run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
        }
        if raw.send(&frame(number)).is_err() {
            break;
        }
        assert!(number < 199_999, "the flood was taken");
    }
    let code = reader.join().expect("reader");
    eventually("nothing is held", || lab.busy(0, 0) == 0);
    run(async { assert_eq!(H2::connect(lab.address).await.get("/").await.body, b"a") });
    code
}

#[test]
fn floods_end_the_connection_and_no_other() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    let bytes = |kind, flags, stream, payload: &[u8]| Frame::new(kind, flags, stream, payload).bytes();
    let get = |stream| bytes(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET));
    // The code may be lost where a reset overtakes it.
    let calm = |code: Option<u32>, what: &str| {
        assert!(code.is_none_or(|code| code == CALM), "{what}: {code:?}");
    };
    calm(flood(&lab, &[], |_| bytes(PING, 0, 0, &[7; 8])), "pings");
    calm(flood(&lab, &[], |_| bytes(SETTINGS, 0, 0, &[])), "settings");
    let code = flood(&lab, &[], |_| bytes(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]));
    calm(code, "settings that change the window");
    calm(flood(&lab, &[], |_| bytes(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), "priorities");
    calm(flood(&lab, &[], |_| bytes(0xbe, 0, 0, b"?")), "unknown frames");
    let code = flood(&lab, &[], |_| bytes(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    calm(code, "window updates");
    let code = flood(&lab, &[], |number| {
        let stream = number * 2 + 1;
        [get(stream), bytes(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    calm(code, "rapid resets");
    // Each is answered by a reset of ours: a window beyond its bound.
    let code = flood(&lab, &[], |number| {
        let stream = number * 2 + 1;
        let beyond = bytes(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [get(stream), beyond].concat()
    });
    calm(code, "resets that we are made to send");
    // Malformed requests.
    let code = flood(&lab, &[], |number| {
        bytes(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &block(&GET[..3]))
    });
    calm(code, "malformed requests");
    // Empty DATA.
    let post = [&[(":method", "POST")], &GET[1..]].concat();
    let code = flood(&lab, &[], |number| match number {
        0 => bytes(HEADERS, END_HEADERS, 1, &block(&post)),
        _ => bytes(DATA, 0, 1, b""),
    });
    calm(code, "empty data");
    // CONTINUATION without end, with nothing in it and with fields.
    for more in [&b""[..], &block(&[("x", "y")])] {
        let code = flood(&lab, &[], |number| match number {
            0 => bytes(HEADERS, END_STREAM, 1, &block(GET)),
            _ => bytes(CONTINUATION, 0, 1, more),
        });
        assert!(
            code.is_none_or(|code| [CALM, PROTOCOL_ERROR].contains(&code)),
            "continuation: {code:?}"
        );
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
    bomb.extend([0x80 | 62; 12_000]);
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
    assert_eq!(a.seen().len(), 5);
}

#[test]
fn connection_errors_are_told() {
    let a = Member::named("a");
    let lab = lab(&[a.address], |_| {});
    for (what, code, frame) in [
        ("data of no stream", 1, Frame::new(DATA, 0, 0, b"x")),
        ("data of an idle stream", 1, Frame::new(DATA, 0, 7, b"x")),
        ("headers of an even stream", 1, Frame::new(HEADERS, 5, 2, &block(GET))),
        ("continuation of nothing", 1, Frame::new(CONTINUATION, 4, 1, b"")),
        ("ping of seven bytes", 6, Frame::new(PING, 0, 0, &[0; 7])),
        ("settings of five bytes", 6, Frame::new(SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", 1, Frame::new(SETTINGS, 0, 1, b"")),
        ("a window of nothing", 1, Frame::new(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a frame beyond the limit", 6, Frame::new(DATA, 0, 1, &[0; 16_385])),
        ("fields that are no HPACK", 9, Frame::new(HEADERS, 5, 1, &[0xff; 20])),
    ] {
        let mut raw = Raw::connect(lab.address);
        raw.send(&frame.bytes()).expect("send");
        assert_eq!(raw.goodbye(), Some(code), "{what}");
    }
    // The connection's window is exceeded: the client sends more than it was given.
    let mut raw = Raw::connect(lab.address);
    raw.frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).expect("send");
    assert_eq!(raw.goodbye(), Some(3), "a window beyond 2^31");
}
