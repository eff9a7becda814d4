//! What members say of places, on any bytes: what is rewritten leads to the client's side, and a
//! cookie keeps its name, its value and its other attributes.

#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::{
    config::spec::{Reverse, ReverseTarget},
    proxy::reverse::{Rule, rewrite, rewrite_cookie},
};

#[derive(Debug)]
struct Input<'a> {
    internal: &'a str,
    domain: &'a str,
    place: &'a str,
    cookie: &'a str,
    asked: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            internal: data.arbitrary()?,
            domain: data.arbitrary()?,
            place: data.arbitrary()?,
            cookie: data.arbitrary()?,
            asked: data.bytes(data.len().min(500))?,
        })
    }
}

const ORIGIN: &str = "https://front.test";

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let reverse = Reverse {
        path: "/front/".to_owned(),
        location: None,
        target: ReverseTarget::Url(format!("http://back.test/{}", input.internal)),
        interpolate: false,
    };
    let rules = Rule::all(&[reverse], &[]);
    let whole = format!("http://back.test/{}{}", input.internal, input.place);
    for place in [input.place, &whole] {
        if let Some(new) = rewrite(&rules, input.asked, place, ORIGIN) {
            assert!(new.starts_with("https://front.test/front/") || new.starts_with("/front/"), "{new}");
        }
    }
    let pair = |from: &str, to: &str| vec![(from.to_owned(), to.to_owned())];
    let (paths, domains) = (pair(input.internal, "/p"), pair(input.domain, "d.test"));
    let new = rewrite_cookie(input.cookie, &paths, &domains);
    let (old, new): (Vec<_>, Vec<_>) = (input.cookie.split(';').collect(), new.split(';').collect());
    assert_eq!(old.len(), new.len());
    assert_eq!(old[0], new[0], "name and value");
    for (old, new) in old.iter().zip(&new).skip(1) {
        let name = |part: &str| part.split_once('=').map(|(name, _)| name.to_owned());
        assert_eq!(name(old), name(new));
        assert!(old == new || new.ends_with("=/p") || new.ends_with("=d.test"));
    }
});
