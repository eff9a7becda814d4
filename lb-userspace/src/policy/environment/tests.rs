//! Variables of a request: when they are set, from what, and in which order.

use std::net::IpAddr;

use super::*;
use crate::expr::{Dialect, Moment};

/// A GET of `/shop/cart` from 192.0.2.7.
pub(in crate::policy) struct Probe<'e>(&'e RefCell<Environment>);

const FIELDS: &[(&str, &str)] = &[
    ("host", "shop.test"),
    ("user-agent", "Mozilla/5.0 (X11)"),
    ("x-a", "first"),
    ("x-b", "second"),
];

impl<'e> Probe<'e> {
    pub(in crate::policy) fn new(environment: &'e RefCell<Environment>) -> Self {
        Self(environment)
    }
}

impl Facts for Probe<'_> {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let text: &[u8] = match variable {
            Variable::Method => b"GET",
            Variable::Protocol => b"HTTP/1.1",
            Variable::Uri => b"/shop/cart",
            Variable::RemoteAddress => b"192.0.2.7",
            _ => return None,
        };
        Some(text.into())
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match table {
            Table::Request => FIELDS
                .iter()
                .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_bytes().into()),
            Table::Environment => {
                let environment = self.0.borrow();
                environment.value(name).map(|value| value.to_vec().into())
            }
            _ => None,
        }
    }

    fn remote(&self) -> Option<IpAddr> {
        Some([192, 0, 2, 7].into())
    }

    fn now(&self) -> Moment {
        Moment::default()
    }
}

impl Request for Probe<'_> {
    fn server_address(&self) -> String {
        "192.0.2.1".to_owned()
    }

    fn fields(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        for (name, value) in FIELDS {
            each(name.as_bytes(), value.as_bytes());
        }
    }
}

fn rule(subject: &str, pattern: &str, changes: &[&str]) -> SetEnvIf {
    SetEnvIf {
        test: Test::Matches(
            Subject::named(subject, false).expect("a subject"),
            Pattern::new(pattern, false).expect("a pattern"),
        ),
        changes: changes.iter().map(|text| Change::parse(text)).collect(),
    }
}

fn environment(rules: &[SetEnvIf]) -> Environment {
    let environment = RefCell::default();
    apply(rules, &environment, &Probe(&environment));
    environment.into_inner()
}

#[test]
fn properties_and_fields_are_matched() {
    for (subject, pattern, change, value) in [
        ("Remote_Addr", r"^192\.0\.", "near", Some("1")),
        ("Remote_Addr", r"^10\.", "near", None),
        ("Server_Addr", "1$", "here=yes", Some("yes")),
        ("Request_URI", "^/([^/]+)/", "app=$1", Some("shop")),
        ("request_method", "GET", "m=[$0]", Some("[GET]")),
        ("Request_Protocol", r"HTTP/1\.1", "p", Some("1")),
        (
            "User-Agent",
            "Mozilla/([0-9.]+)",
            "v=$1;\\$1",
            Some("5.0;$1"),
        ),
        ("Referer", "^$", "direct", Some("1")),
        ("^x-", ".+", "last=$0", Some("second")),
        ("X-A", "s", "x=a=b", Some("a=b")),
    ] {
        let name = change.split('=').next().expect("a name");
        let environment = environment(&[rule(subject, pattern, &[change])]);
        let found = environment.value(name.as_bytes());
        assert_eq!(found, value.map(str::as_bytes), "{subject} {change}");
    }
}

#[test]
fn later_rules_see_what_earlier_ones_set() {
    let rules = [
        rule("Request_URI", "^/shop", &["site=shop", "other"]),
        rule("site", "^shop$", &["seen=yes", "!other"]),
        rule("other", ".", &["never"]),
    ];
    let environment = environment(&rules);
    assert_eq!(environment.value(b"SEEN"), Some(&b"yes"[..]));
    assert_eq!(environment.value(b"other"), None);
    assert_eq!(environment.value(b"never"), None);
}

#[test]
fn expressions_give_their_groups() {
    let holds = |text: &str, change: &str| SetEnvIf {
        test: Test::Holds(Expr::condition(text, Dialect::Request).expect("an expression")),
        changes: vec![Change::parse(change)],
    };
    let rules = [
        holds("%{REQUEST_URI} =~ m#^/(.+)/#", "a=$1"),
        holds("%{REQUEST_METHOD} == 'GET'", "b=$1"),
        holds("%{REQUEST_METHOD} == 'PUT'", "c"),
    ];
    let environment = environment(&rules);
    assert_eq!(environment.value(b"a"), Some(&b"shop"[..]));
    assert_eq!(environment.value(b"b"), Some(&b"$1"[..]));
    assert_eq!(environment.value(b"c"), None);
}
