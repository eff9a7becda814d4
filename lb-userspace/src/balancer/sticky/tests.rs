//! Routes in cookies and URLs against apache.md 5.4.

use proptest::prelude::*;

use super::session;
use crate::{balancer::tests::sticky, config::spec::Sticky};

fn route(sticky: &Sticky, url: &str, cookies: &[&str]) -> Option<String> {
    session(
        sticky,
        url.as_bytes(),
        cookies.iter().map(|cookie| cookie.as_bytes()),
    )
    .map(|session| String::from_utf8(session.route).expect("test routes are UTF-8"))
}

#[test]
fn cookie_route_follows_httpds_rules() {
    let cases: &[(&str, Option<&str>)] = &[
        ("ROUTEID=.n2", Some("n2")),
        ("a=b; ROUTEID=x.n2", Some("n2")),
        ("a=b,ROUTEID=.n2,c=d", Some("n2")),
        ("ROUTEID  =.n2", Some("n2")),
        ("ROUTEID=abc.n2.x", Some("n2.x")),
        ("ROUTEID=n2", None),
        ("XROUTEID=.n1; ROUTEID=.n2", Some("n2")),
        ("ROUTEID=.", Some("")),
        ("ROUTEID=", None),
        ("routeid=.n2", None),
        ("ROUTEID=\".n2\"", Some("n2\"")),
        ("", None),
    ];
    for (cookie, expected) in cases {
        assert_eq!(
            route(&sticky(), "/", &[cookie]).as_deref(),
            *expected,
            "{cookie}"
        );
    }
}

#[test]
fn url_route_beats_the_cookie_and_ends_where_httpd_ends_it() {
    let cookie = &["ROUTEID=.c"];
    let cases: &[(&str, bool, Option<&str>)] = &[
        ("/a;routeid=.n1", false, Some("n1")),
        ("/a?routeid=.n1&b=c", false, Some("n1")),
        ("/a;routeid=.n1?q=1", false, Some("n1")),
        ("/a;routeid=.n1;v=1", false, Some("n1;v=1")),
        ("/a;routeid=.n1;v=1", true, Some("n1")),
        ("/a;xrouteid=.n1", false, Some("n1")),
        ("/a;routeid=n1", false, None),
        ("/a;routeid", false, Some("c")),
        ("/a", false, Some("c")),
    ];
    for (url, semicolon, expected) in cases {
        let sticky = Sticky {
            scolonpathdelim: *semicolon,
            ..sticky()
        };
        assert_eq!(route(&sticky, url, cookie).as_deref(), *expected, "{url}");
    }
}

#[test]
fn separator_off_takes_the_whole_value() {
    let sticky = Sticky {
        separator: None,
        ..sticky()
    };
    assert_eq!(route(&sticky, "/", &["ROUTEID=n2"]).as_deref(), Some("n2"));
}

proptest! {
    #[test]
    fn session_reads_anything(url in prop::collection::vec(any::<u8>(), 0..80),
                              text in prop::collection::vec(any::<u8>(), 0..80)) {
        session(&sticky(), &url, [text.as_slice()]);
    }

    #[test]
    fn route_is_a_part_of_what_it_was_read_from(url in "[/a.;&?=]{0,5}(routeid)?[.=;&?a]{0,8}",
                                                text in "[ ;,a]{0,2}(ROUTEID)?[ =.;,&a]{0,8}") {
        if let Some(found) = session(&sticky(), url.as_bytes(), [text.as_bytes()]) {
            let (from, ends) = if found.in_url { (url, "?&") } else { (text, ";,") };
            let route = String::from_utf8(found.route).expect("a part of a text");
            prop_assert!(from.contains(&route));
            prop_assert!(!route.contains(|c| ends.contains(c)), "{route}");
        }
    }
}
