//! Sessions in URLs and cookies on any bytes: a route lies within what it was read from, and the
//! cookie that is written for a route leads back to it.

#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::{balancer::sticky, config::spec::Sticky};

#[derive(Debug)]
struct Input<'a> {
    separator: Option<char>,
    scolonpathdelim: bool,
    secure: bool,
    route: &'a str,
    path: &'a str,
    url: &'a [u8],
    cookies: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            separator: data.arbitrary()?,
            scolonpathdelim: data.arbitrary()?,
            secure: data.arbitrary()?,
            route: data.arbitrary()?,
            path: data.arbitrary()?,
            url: data.arbitrary()?,
            cookies: data.bytes(data.len())?,
        })
    }
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let wanted = Sticky {
        cookie: "SID".to_owned(),
        path: "sid".to_owned(),
        separator: input.separator,
        scolonpathdelim: input.scolonpathdelim,
        cookie_written: true,
    };
    let fields: Vec<&[u8]> = input.cookies.split(|byte| *byte == b'\n').collect();
    if let Some(session) = sticky::session(&wanted, input.url, fields.iter().copied()) {
        let from = if session.in_url { input.url } else { input.cookies };
        // A session may be without a route: there is a value, and nothing behind its separator.
        let (route, length) = (&session.route[..], session.route.len());
        assert!(route.is_empty() || from.windows(length).any(|part| part == route));
        let ends: &[u8] = if session.in_url { b"?&" } else { b";,\n" };
        assert!(!route.iter().any(|byte| ends.contains(byte)));
    }
    // What the configuration lets through.
    let is_value = |c: char| c.is_ascii_graphic() && !"\",;\\".contains(c);
    let fits = input.separator.is_none_or(is_value) && input.route.chars().all(is_value);
    if input.route.is_empty() || !fits {
        return;
    }
    let set = sticky::cookie(&wanted, input.route, input.path, input.secure);
    assert!(sticky::is_for_cookie(set.as_bytes(), "SID"));
    assert!(!sticky::is_for_cookie(set.as_bytes(), "sid"));
    assert!(!set.contains(['\r', '\n']) && set.split(';').count() == 4 + usize::from(input.secure));
    let pair = set.split(';').next().expect("a first part");
    let back = sticky::session(&wanted, b"/", [pair.as_bytes()]).expect("a session");
    assert_eq!((back.route.as_slice(), back.in_url), (input.route.as_bytes(), false));
    // What a member sets is told apart on any bytes.
    let _ = sticky::is_for_cookie(input.cookies, "SID");
});
