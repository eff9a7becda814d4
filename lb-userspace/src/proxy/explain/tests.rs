//! Where requests would go, by files as operators write them.

use super::*;
use crate::config;

const FILE: &str = r#"
ServerName main.test
Listen 127.0.0.1:8080
Listen 127.0.0.1:8081
<Proxy "balancer://shop">
    BalancerMember http://192.0.2.1 route=a
    BalancerMember http://192.0.2.2/deep/ route=b loadfactor=2
    BalancerMember http://192.0.2.3 route=c status=+H
    BalancerMember http://192.0.2.4 route=d lbset=1
    BalancerMember http://192.0.2.5 route=e status=+D
    ProxySet stickysession=ID
</Proxy>
<VirtualHost 127.0.0.1:8080>
    ServerName shop.test
    ServerAlias *.shop.test
    RewriteEngine On
    RewriteRule ^/old/(.*) /app/$1 [PT]
    RewriteRule ^/moved/(.*) /app/$1 [R=301]
    <Location /app/admin>
        Require ip 192.0.2.9
    </Location>
    ProxyPass /app/static !
    ProxyPass /app/ balancer://shop/
    ProxyPass /one http://192.0.2.7/two
</VirtualHost>
<VirtualHost 127.0.0.1:8080>
    ServerName other.test
    Redirect /here http://elsewhere.test/
</VirtualHost>
"#;

fn spec() -> Spec {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("route.conf");
    std::fs::write(&file, FILE).expect("written");
    let loaded = config::load(&file, &config::Options::default());
    let reports: Vec<_> = loaded.reports.iter().map(config::Report::render).collect();
    loaded.spec.unwrap_or_else(|| panic!("{reports:?}"))
}

fn ask(spec: &Spec, url: &str, fields: &[(&str, &str)], client: Option<&str>) -> RouteView {
    let question = RouteQuestion {
        method: "GET".to_owned(),
        url: url.to_owned(),
        fields: (fields.iter())
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        client: client.map(|ip| ip.parse().expect("an address")),
        local: None,
    };
    explain(spec, &|_, _| None, "machine", &question).expect("an answer")
}

/// `target`, or the verdict with its status.
fn end(view: &RouteView) -> String {
    let status = view.status.map(|status| format!(" {status}"));
    view.target
        .clone()
        .or_else(|| view.location.clone())
        .unwrap_or_else(|| format!("{}{}", view.verdict, status.unwrap_or_default()))
}

#[test]
fn each_request_ends_where_its_lines_say() {
    let spec = spec();
    for (url, wanted) in [
        (
            "http://shop.test:8080/app/x?y=1",
            "http://192.0.2.2/deep/x?y=1",
        ),
        ("http://a.shop.test:8080/app/x", "http://192.0.2.2/deep/x"),
        // The first of its address.
        ("http://unknown.test:8080/app/x", "http://192.0.2.2/deep/x"),
        ("http://shop.test:8080/old/x", "http://192.0.2.2/deep/x"),
        (
            "http://shop.test:8080/moved/x",
            "http://shop.test:8080/app/x",
        ),
        ("http://shop.test:8080/app/static/x", "error 404"),
        ("http://shop.test:8080/nothing", "error 404"),
        ("http://shop.test:8080/app/admin", "error 403"),
        ("http://shop.test:8080/app/%2e%2e/%zz", "error 400"),
        ("http://shop.test:8080/one/x", "http://192.0.2.7/two/x"),
        ("http://other.test:8080/here/x", "http://elsewhere.test//x"),
        ("http://other.test:8080/app/x", "error 404"),
        ("http://main.test:8081/app/x", "error 404"),
        ("http://shop.test/app/x", "unheard"),
        ("https://shop.test:8080/app/x", "error 400"),
    ] {
        let view = ask(&spec, url, &[], None);
        assert_eq!(end(&view), wanted, "{url}: {view:#?}");
    }
    let allowed = ask(
        &spec,
        "http://shop.test:8080/app/admin",
        &[],
        Some("192.0.2.9"),
    );
    assert_eq!(allowed.verdict, "member");
}

#[test]
fn each_member_is_told_why() {
    let spec = spec();
    let why = |view: &RouteView| -> Vec<String> {
        let all = view.candidates.iter();
        all.map(|candidate| candidate.why.clone()).collect()
    };
    let view = ask(&spec, "http://shop.test:8080/app/x", &[], None);
    assert_eq!(
        why(&view),
        [
            "usable; another is before it",
            "byrequests: 0 + its factor is the most",
            "standby: when all others are out",
            "of set 1, used when set 0 has nobody",
            "disabled"
        ]
    );
    let cookie = [("Cookie", "x=1; ID=s.c")];
    let view = ask(&spec, "http://shop.test:8080/app/x", &cookie, None);
    assert_eq!(view.session.as_deref(), Some("c"));
    assert_eq!(why(&view)[2], "the session's route is its");
    assert_eq!(why(&view)[0], "usable; the session is another's");
    let url = "http://shop.test:8080/app/x;ID=s.e";
    let view = ask(&spec, url, &[], None);
    assert_eq!(
        view.elected.as_deref(),
        Some("http://192.0.2.2/deep/"),
        "e is disabled"
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let spec = spec();
    let question = |url: &str, method: &str, field: (&str, &str)| RouteQuestion {
        method: method.to_owned(),
        url: url.to_owned(),
        fields: vec![(field.0.to_owned(), field.1.to_owned())],
        ..RouteQuestion::default()
    };
    let fine = ("X", "y");
    for question in [
        question("/path", "GET", fine),
        question("ftp://h/", "GET", fine),
        question("http://", "GET", fine),
        question("http://h/\u{1}", "GET", fine),
        question("http://h/", "G T", fine),
        question("http://h/", "GET", ("a b", "c")),
        question("http://h/", "GET", ("a", "b\r\nc: d")),
    ] {
        let answer = explain(&spec, &|_, _| None, "machine", &question);
        assert!(answer.is_err(), "{question:?}: {answer:?}");
    }
    let odd = [("Host", "a..b")];
    assert_eq!(
        end(&ask(&spec, "http://127.0.0.1:8080/", &odd, None)),
        "error 400"
    );
}
