//! RewriteRule and RewriteCond lines on any bytes, applied to any path and query: time and memory
//! are bounded, and where a `[P]` rule leads to is the file's to say.

#![no_main]

use std::{borrow::Cow, cell::RefCell, net::IpAddr};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use sluice::{
    expr::{Facts, Moment, Table, Variable},
    policy::environment::{self, Environment},
    rewrite::{self, Function, Outcome, Rule, parse},
};

#[derive(Debug)]
struct Input<'a> {
    lines: Vec<(bool, &'a str)>,
    query: Option<&'a [u8]>,
    path: &'a [u8],
}

impl<'a> Arbitrary<'a> for Input<'a> {
    fn arbitrary(data: &mut Unstructured<'a>) -> Result<Self> {
        let mut lines = Vec::new();
        for _ in 0..data.int_in_range(1..=6)? {
            lines.push((data.arbitrary()?, data.arbitrary()?));
        }
        Ok(Self {
            lines,
            query: data.arbitrary()?,
            path: data.bytes(data.len().min(2000))?,
        })
    }
}

struct Probe<'e>(&'e RefCell<Environment>, &'e [u8]);

impl Facts for Probe<'_> {
    fn variable(&self, _: &Variable) -> Option<Cow<'_, [u8]>> {
        Some(self.1.into())
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match table {
            Table::Environment => {
                let environment = self.0.borrow();
                environment.value(name).map(|value| value.to_vec().into())
            }
            _ => Some(self.1.into()),
        }
    }

    fn remote(&self) -> Option<IpAddr> {
        Some([192, 0, 2, 7].into())
    }

    fn now(&self) -> Moment {
        Moment::default()
    }
}

impl environment::Request for Probe<'_> {
    fn server_address(&self) -> String {
        "192.0.2.1".to_owned()
    }

    fn fields(&self, _: &mut dyn FnMut(&[u8], &[u8])) {}
}

impl rewrite::Request for Probe<'_> {
    fn origin(&self) -> Vec<u8> {
        b"http://shop.test".to_vec()
    }

    fn is_here(&self, host: &[u8], _: Option<u16>) -> bool {
        host == b"shop.test"
    }
}

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let maps = [("lc".to_owned(), Function::ToLower), ("un".to_owned(), Function::Unescape)];
    let mut conditions = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    for (is_condition, line) in input.lines {
        if is_condition {
            conditions.extend(parse::condition(line, &maps).map(|(condition, _)| condition));
        } else if let Ok(mut read) = parse::rule(line, &maps) {
            if let Some(target) = read.target {
                // What leads to a member names it, whole.
                assert!(target.base.contains("://") && !target.base.contains(['$', '%']));
            }
            read.rule.conditions = std::mem::take(&mut conditions);
            rules.push(read.rule);
        }
    }
    let environment = RefCell::default();
    let mut path = b"/".to_vec();
    path.extend_from_slice(input.path);
    let probe = Probe(&environment, input.path);
    let applied = rewrite::apply(&rules, &probe, &environment, &path, input.query);
    match applied.outcome {
        Outcome::Proxied { path, .. } | Outcome::Passed { path, .. } => {
            assert!(path.first() == Some(&b'/') && path.len() <= 16_380);
        }
        Outcome::Redirected { status, .. } => assert!((300..400).contains(&status)),
        Outcome::Failed { status, .. } => assert!((400..600).contains(&status)),
        Outcome::Declined | Outcome::Local | Outcome::Anew { .. } | Outcome::Onward { .. } => {}
    }
});
