//! Expressions on any bytes: whatever is read can be asked, in bounded time, of a request whose every
//! value is what somebody sent.

#![no_main]

use std::{borrow::Cow, net::IpAddr};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::expr::{Dialect, Expr, Facts, Moment, Table, Variable};

#[derive(Debug)]
struct Input<'a> {
    text: &'a str,
    value: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            text: data.arbitrary()?,
            value: data.bytes(data.len().min(2000))?,
        })
    }
}

struct Probe<'a>(&'a [u8]);

impl Facts for Probe<'_> {
    fn variable(&self, _: &Variable) -> Option<Cow<'_, [u8]>> {
        Some(self.0.into())
    }

    fn entry(&self, _: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        (name.len() % 2 == 0).then(|| self.0.into())
    }

    fn remote(&self) -> Option<IpAddr> {
        Some([192, 0, 2, 7].into())
    }

    fn now(&self) -> Moment {
        Moment::default()
    }
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let probe = Probe(input.value);
    for dialect in [Dialect::Request, Dialect::HealthCheck] {
        if let Ok(condition) = Expr::condition(input.text, dialect) {
            assert_eq!(condition.source(), input.text);
            assert_eq!(condition.holds(&probe), condition.holds(&probe));
        }
        if let Ok(text) = Expr::text(input.text, dialect) {
            assert_eq!(text.value(&probe), text.value(&probe));
        }
    }
});
