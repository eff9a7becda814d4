//! What the parity tests cannot show: limits, refusals and that no target's host is a request's.

use std::{borrow::Cow, cell::RefCell, net::IpAddr};

use super::*;
use crate::{
    expr::{Facts, Moment, Table, Variable},
    policy::environment::{self, Environment},
};

/// A GET from 192.0.2.7 to `http://shop.test`.
struct Probe<'e>(&'e RefCell<Environment>);

impl Facts for Probe<'_> {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let text: &[u8] = match variable {
            Variable::Method => b"GET",
            Variable::Scheme => b"http",
            Variable::Uri => b"/asked",
            Variable::RemoteAddress => b"192.0.2.7",
            _ => return None,
        };
        Some(text.into())
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match table {
            Table::Request if name.eq_ignore_ascii_case(b"host") => Some(b"shop.test"[..].into()),
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

impl environment::Request for Probe<'_> {
    fn server_address(&self) -> String {
        "192.0.2.1".to_owned()
    }

    fn fields(&self, _: &mut dyn FnMut(&[u8], &[u8])) {}
}

impl Request for Probe<'_> {
    fn origin(&self) -> Vec<u8> {
        b"http://shop.test".to_vec()
    }

    fn is_here(&self, host: &[u8], port: Option<u16>) -> bool {
        host.eq_ignore_ascii_case(b"shop.test") && port.is_none_or(|port| port == 80)
    }
}

/// Rules of lines: `RewriteRule` ones, and `?` before the text of a `RewriteCond`.
fn rules(lines: &[&str]) -> Vec<Rule> {
    let mut conditions = Vec::new();
    let mut rules = Vec::new();
    for line in lines {
        if let Some(condition) = line.strip_prefix('?') {
            let (condition, _) = parse::condition(condition, &[]).expect("a condition");
            conditions.push(condition);
            continue;
        }
        let mut rule = parse::rule(line, &[]).expect("a rule").rule;
        rule.conditions = std::mem::take(&mut conditions);
        rules.push(rule);
    }
    rules
}

fn outcome(lines: &[&str], path: &str) -> Outcome {
    let environment = RefCell::default();
    let probe = Probe(&environment);
    apply(&rules(lines), &probe, &environment, path.as_bytes(), None).outcome
}

fn passed(lines: &[&str], path: &str) -> String {
    match outcome(lines, path) {
        Outcome::Passed { path, .. } => String::from_utf8_lossy(&path).into_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn host_of_a_target_is_always_the_files() {
    let lines = &["^/(.*)$ http://inside.test$1 [P]"];
    for path in ["/.evil.test/x", "/@evil.test/", "/:99/", "/%2F"] {
        let Outcome::Proxied { path: to, .. } = outcome(lines, path) else {
            panic!("{path} is proxied");
        };
        assert_eq!(to, path.as_bytes(), "what is filled in is path alone");
    }
    for line in [
        "^/a /b [P]",
        "^/a $1 [P]",
        "^/(.*) http://$1/ [P]",
        "^/(.*) http://%{HTTP_HOST}/$1 [P]",
        "^/(.*) %{ENV:to}://h/$1 [P]",
        "^/(.*) http://h:%{ENV:port}/$1 [P]",
        "^/(.*) http://h%{QUERY_STRING} [P]",
        "^/(.*) balancer://$1 [P]",
        "^/(.*) http:///$1 [P]",
    ] {
        let refused = parse::rule(line, &[]);
        let open = match &refused {
            Err(parse::ParseError::OpenProxy(_)) => true,
            // The port is none: the worker's URL is refused when it is made.
            Ok(read) => read
                .target
                .as_ref()
                .is_some_and(|target| target.base == "http://h:"),
            Err(_) => false,
        };
        assert!(open, "{line}: {refused:?}");
    }
}

#[test]
fn rounds_and_lengths_are_bounded() {
    for lines in [
        &["^ - [N]"][..],
        &["^(.*)$ $1 [N=100000]"],
        &["^(.*)$ $1$1$1$1 [N]"],
        &["^(.*)$ $1$1$1$1", "^(.*)$ $1$1$1$1", "^ - [N]"],
        &[
            "^(.*)$ - [E=a:%{ENV:a}%{ENV:a}$1]",
            "^ - [E=a:%{ENV:a}%{ENV:a}%{ENV:a}%{ENV:a}%{ENV:a}]",
            "^ - [N]",
        ],
    ] {
        let outcome = outcome(lines, &format!("/{}", "x".repeat(200)));
        assert!(
            matches!(outcome, Outcome::Failed { status: 500, .. }),
            "{lines:?}: {outcome:?}"
        );
    }
}

#[test]
fn skips_and_chains_may_reach_beyond_the_end() {
    assert_eq!(passed(&["^/a /b [PT]"], "/a"), "/b");
    assert_eq!(outcome(&["^/a - [S=4000000000]"], "/a"), Outcome::Declined);
    assert_eq!(outcome(&["^/b - [C]"], "/a"), Outcome::Declined);
    assert_eq!(
        passed(&["?%{REQUEST_METHOD} POST [OR]", "^ /or [PT]"], "/a"),
        "/or"
    );
}

#[test]
fn urls_of_this_server_become_paths() {
    assert_eq!(
        passed(&["^/a http://shop.test/b", "^/b /c [PT]"], "/a"),
        "/c"
    );
    assert_eq!(
        passed(&["^/a HTTP://Shop.Test:80/b", "^/b /c [PT]"], "/a"),
        "/c"
    );
    for url in ["http://other.test/b", "http://shop.test:81/b"] {
        let outcome = outcome(&[&format!("^/a {url}")], "/a");
        assert_eq!(
            outcome,
            Outcome::Redirected {
                status: 302,
                place: url.as_bytes().to_vec()
            }
        );
    }
}

#[test]
fn what_no_variable_is_called_is_remarked() {
    let hints = |line: &str| parse::rule(line, &[]).expect("a rule").remarks.join("\n");
    assert!(hints("^ /%{HTTP_X_FORWARDED_PROTO}").contains("%{HTTP:X-FORWARDED-PROTO}"));
    assert!(hints("^ /%{SSL_PROTOCOL}").contains("%{SSL:SSL_PROTOCOL}"));
    assert!(hints("^ /%{REQUEST_URI}%{TIME_YEAR}%{ENV:a}").is_empty());
    assert!(hints("^/a(.*) http://h$1 [P]").contains("behind a slash"));
    assert!(hints("^(.*) http://h$1 [P]").is_empty());
    assert!(hints("^/a(/.*) http://h$1 [P]").is_empty());
    assert!(hints("^/\\((a)(/.*) http://h$2 [P]").is_empty());
}

#[test]
fn rules_stay_what_they_are_between_processes() {
    let maps = [("lc".to_owned(), Function::ToLower)];
    let rule = parse::rule(
        "!^/(.*)[[:alpha:]]$ /${lc:%{HTTP_HOST}$1|x}?\\$1 [NC,QSA,B=/,E=a:b]",
        &maps,
    )
    .expect("a rule")
    .rule;
    let text = serde_json::to_string(&rule).expect("text");
    let back: Rule = serde_json::from_str(&text).expect("a rule");
    assert_eq!(back, rule);
}

#[test]
fn queries_that_no_request_line_may_hold_are_refused() {
    let refused = outcome(&["^/a/(.*) /b?q=$1 [PT]"], "/a/x y");
    assert!(matches!(refused, Outcome::Failed { status: 403, .. }));
    let question = outcome(&["^/a/(.*) /b/$1 [PT]"], "/a/x?y");
    assert!(matches!(question, Outcome::Failed { status: 403, .. }));
    assert_eq!(
        passed(&["^/a/(.*) /b/$1 [PT,UnsafeAllow3F]"], "/a/x?y"),
        "/b/x"
    );
}

fn within(proxied: Option<&str>, line: &str, path: &str) -> Outcome {
    let environment = RefCell::default();
    let probe = Probe(&environment);
    let directory = Directory {
        path: "/app/",
        base: Some("/base"),
        proxied: proxied.map(str::as_bytes),
    };
    let rules = rules(&[line]);
    apply_within(
        directory,
        &rules,
        &probe,
        &environment,
        path.as_bytes(),
        None,
    )
    .outcome
}

#[test]
fn rule_of_a_section_does_not_choose_whom_sluice_speaks_to() {
    let going = Some("proxy:http://inside.test");
    let asked = "proxy:http://inside.test/app/x";
    let onward = |line| match within(going, line, asked) {
        Outcome::Onward { path, .. } => String::from_utf8_lossy(&path).into_owned(),
        other => format!("{other:?}"),
    };
    assert_eq!(onward("^(.*)/app/(.*)$ $1/moved/$2"), "/moved/x");
    for line in [
        "^ proxy:http://evil.test/",
        "^ proxy:http://inside.test.evil.test/x",
        "^ proxy:http://inside.test@evil.test/",
        "^ proxy:http://inside.test:81/",
        "^ proxy:unix:/run/s|http://inside.test/",
        "^ proxy:http://inside.test",
    ] {
        let outcome = within(going, line, asked);
        assert!(
            matches!(outcome, Outcome::Failed { .. }),
            "{line}: {outcome:?}"
        );
        // Nor where ProxyPass has sent it nowhere.
        let outcome = within(None, line, "/app/x");
        assert!(
            matches!(outcome, Outcome::Anew { .. } | Outcome::Failed { .. }),
            "{line}: {outcome:?}"
        );
    }
}

#[test]
fn results_of_sections_are_relative_to_their_base() {
    let anew = |line, path| match within(None, line, path) {
        Outcome::Anew { path, .. } => String::from_utf8_lossy(&path).into_owned(),
        Outcome::Redirected { place, .. } => String::from_utf8_lossy(&place).into_owned(),
        other => format!("{other:?}"),
    };
    assert_eq!(anew("/x$ y", "/app/x"), "/base/y");
    assert_eq!(anew("/x$ /y", "/app/x"), "/y");
    assert_eq!(anew("/x$ /app/y", "/app/x"), "/base/y");
    assert_eq!(anew("/x$ y [R]", "/app/x"), "http://shop.test/base/y");
    assert_eq!(anew("/x$ /y [R]", "/app/x"), "http://shop.test/y");
    assert_eq!(anew("/x$ x", "/app/x"), "Declined");
    assert_eq!(anew("^x$ y", "/app/x"), "Declined");
}

#[test]
fn map_file_has_the_first_value_of_a_key() {
    let file = MapFile::read("# a 1\na 2 3\na 4\n b 5\nc\nd\t6|7|8\n\ne 9\r\n", false);
    let value = |key: &str| file.value(key.as_bytes(), |_| 1).map(str::to_owned);
    assert_eq!(value("a").as_deref(), Some("2"));
    assert_eq!(value("d").as_deref(), Some("6|7|8"));
    assert_eq!(value("e").as_deref(), Some("9"));
    for key in ["#", "b", "c", "", "a 2"] {
        assert_eq!(value(key), None, "{key:?}");
    }
    let random = MapFile::read("d 6|7|8\n", true);
    for (pick, wanted) in [(0, "6"), (1, "7"), (2, "8"), (5, "8")] {
        let picked = random.value(b"d", |count| {
            assert_eq!(count, 3);
            pick
        });
        assert_eq!(picked, Some(wanted));
    }
}
