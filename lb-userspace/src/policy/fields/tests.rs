//! Fields: what each action makes of them.

use std::cell::RefCell;

use super::*;
use crate::{
    expr::Dialect,
    policy::environment::{Environment, tests::Probe},
};

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_str(value).expect("a value"));
    }
    map
}

fn named(name: &str) -> FieldName {
    FieldName::try_from(name.to_owned()).expect("a name")
}

fn format(text: &str) -> Value {
    Value::format(text).expect("a format")
}

/// What fields `a` become, `|` between them.
fn edited(before: &[&str], action: Action) -> String {
    let environment = RefCell::new(Environment::default());
    environment
        .borrow_mut()
        .set("site", b"north\r\nX: y".to_vec());
    let pairs: Vec<_> = before.iter().map(|value| ("a", *value)).collect();
    let mut fields = map(&pairs);
    let edit = FieldEdit {
        action,
        name: named("a"),
        condition: Condition::Always,
    };
    let times = Times {
        received_us: 5,
        elapsed_us: 7,
    };
    let request = map(&[("x-a", "1"), ("y", "2")]);
    apply(
        [&edit],
        &mut fields,
        &request,
        &Probe::new(&environment),
        &|| times,
        false,
    );
    let values = fields.get_all("a");
    let mut shown: Vec<_> = values
        .iter()
        .map(|v| v.to_str().expect("ASCII").to_owned())
        .collect();
    shown.extend(fields.get("x-a").map(|_| "echoed".to_owned()));
    shown.join("|")
}

#[test]
fn actions_do_what_httpds_do() {
    let value = || format("v");
    let pattern = |text: &str| Pattern::new(text, false).expect("a pattern");
    for (before, action, after) in [
        (&["1", "2"][..], Action::Set(value()), "v"),
        (&["1"], Action::SetIfEmpty(value()), "1"),
        (&[], Action::SetIfEmpty(value()), "v"),
        (&["1"], Action::Add(value()), "1|v"),
        (&["1", "2"], Action::Append(value()), "1, v|2"),
        (&[], Action::Append(value()), "v"),
        (&["1"], Action::Merge(value()), "1, v"),
        (&["1, v"], Action::Merge(value()), "1, v"),
        (&["\"1, v\""], Action::Merge(value()), "\"1, v\", v"),
        (&["1", "2"], Action::Unset, ""),
        (
            &["abab", "b"],
            Action::Edit(pattern("b"), value(), false),
            "avab|v",
        ),
        (&["abab"], Action::Edit(pattern("b"), value(), true), "avav"),
        (
            &["ab"],
            Action::Edit(pattern("(a)(b)"), format("$2-$1-&"), true),
            "b-a-ab",
        ),
        (
            &["ab"],
            Action::Edit(pattern("x*"), format("-"), true),
            "-a-b",
        ),
        (
            &["ab"],
            Action::Edit(pattern("^"), format("-"), false),
            "-ab",
        ),
        (&["ab"], Action::Edit(pattern("c"), value(), true), "ab"),
        (&[], Action::Echo(pattern("^x-")), "echoed"),
    ] {
        let shown = format!("{action:?}");
        assert_eq!(edited(before, action), after, "{shown}");
    }
}

#[test]
fn values_are_filled_in_and_clean() {
    for (text, value) in [
        ("%D %t", "D=7 t=5"),
        ("%{site}e", "north  X: y"),
        ("%{absent}e %{SSL_PROTOCOL}s", "(null) (null)"),
        ("100%% a\\tb\\\\ \\x", "100% a\tb\\ \\x"),
        ("a%", "a%"),
    ] {
        assert_eq!(edited(&[], Action::Set(format(text))), value, "{text}");
    }
    assert_eq!(Value::format("%q"), Err(BadFormat::Unknown('q')));
    assert_eq!(Value::format("%l"), Err(BadFormat::NotHere('l')));
    let expr = Expr::text("%{REQUEST_METHOD}!", Dialect::Request).expect("an expression");
    assert_eq!(edited(&[], Action::Set(Value::Expr(expr))), "GET!");
}

#[test]
fn conditions_decide() {
    let environment = RefCell::new(Environment::default());
    environment.borrow_mut().set("on", b"1".to_vec());
    let expr = |text| Expr::condition(text, Dialect::Request).expect("an expression");
    for (condition, late, early) in [
        (Condition::Always, true, false),
        (Condition::Early, false, true),
        (Condition::Environment("ON".to_owned(), true), true, false),
        (Condition::Environment("on".to_owned(), false), false, false),
        (Condition::Environment("off".to_owned(), false), true, false),
        (
            Condition::Expr(expr("%{REQUEST_METHOD} == 'GET'")),
            true,
            false,
        ),
        (Condition::Expr(expr("false")), false, false),
    ] {
        let edit = FieldEdit {
            action: Action::Set(format("v")),
            name: named("a"),
            condition,
        };
        for (phase, wanted) in [(false, late), (true, early)] {
            let mut fields = HeaderMap::new();
            let facts = Probe::new(&environment);
            let request = HeaderMap::new();
            apply(
                [&edit],
                &mut fields,
                &request,
                &facts,
                &Times::default,
                phase,
            );
            assert_eq!(fields.contains_key("a"), wanted, "{edit:?}");
        }
    }
}

#[test]
fn note_is_the_first_value_and_leaves_the_field_alone() {
    let environment = RefCell::default();
    let note = |name: &str| FieldEdit {
        action: Action::Note(format("kept")),
        name: named(name),
        condition: Condition::Always,
    };
    let mut fields = map(&[("a", "1"), ("a", "2")]);
    let before = fields.clone();
    let notes = apply(
        &[note("a"), note("b")],
        &mut fields,
        &HeaderMap::new(),
        &Probe::new(&environment),
        &Times::default,
        false,
    );
    assert_eq!(notes, [("kept".to_owned(), b"1".to_vec())]);
    assert_eq!(fields, before);
}
