//! Expressions: what holds, what fills in, what is refused.

use std::collections::BTreeMap;

use super::*;

/// A request as a table of names.
#[derive(Default)]
struct Request {
    fields: BTreeMap<&'static str, &'static str>,
}

impl Facts for Request {
    fn variable(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(match variable {
            Variable::Method => b"GET",
            Variable::Uri => b"/shop/cart",
            Variable::RemoteAddress => b"192.0.2.7",
            Variable::Tls(name) if name == "SSL_PROTOCOL" => b"TLSv1.3",
            _ => return None,
        }))
    }

    fn entry(&self, table: Table, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        match table {
            Table::Request => self.fields.get(name.as_str()).map(|v| v.as_bytes().into()),
            Table::Environment => (name == "site").then(|| b"a"[..].into()),
            Table::HealthCheck => (name == "body").then(|| b"all is OK"[..].into()),
            _ => None,
        }
    }

    fn remote(&self) -> Option<IpAddr> {
        Some([192, 0, 2, 7].into())
    }

    fn now(&self) -> Moment {
        Moment {
            year: 2026,
            month: 3,
            day: 9,
            hour: 7,
            minute: 5,
            second: 1,
            weekday: 1,
        }
    }
}

fn request() -> Request {
    let fields = [
        ("host", "Shop.Example"),
        ("cookie", "a=1; b=2"),
        ("n", "12"),
    ];
    Request {
        fields: fields.into(),
    }
}

#[test]
fn conditions_hold_as_written() {
    for (text, holds) in [
        ("true", true),
        ("! true || true", true),
        ("!(true || true)", false),
        ("true || false && false", true),
        ("not true or true", true),
        ("%{REQUEST_METHOD} == 'GET'", true),
        ("%{request_method} = \"GET\"", true),
        ("%{REQUEST_METHOD} in {'HEAD', 'GET'}", true),
        ("%{REQUEST_METHOD} -in { 'HEAD' }", false),
        ("req('n') -gt 9", true),
        ("req('n') > '9'", false),
        ("req('n') -eq '012 monkeys'", true),
        ("10 lt 9", false),
        ("-n req('absent')", false),
        ("-z %{HTTP_REFERER}", true),
        ("-T 'oFf'", false),
        ("-T 'on'", true),
        ("-R '192.0.2.0/24'", true),
        ("-R '192.0.2'", true),
        ("-R '10.0.0.0/8'", false),
        ("%{REMOTE_ADDR} -ipmatch '192.0.2.0/255.255.255.0'", true),
        ("'::1' -ipmatch '::/1'", true),
        ("'x' -ipmatch '::/1'", false),
        ("%{HTTP_HOST} =~ /^shop\\./i", true),
        ("%{HTTP_HOST} !~ m#^shop#", true),
        ("%{REQUEST_URI} =~ m|^/([^/]+)/(.+)$| && $2 == 'cart'", true),
        ("%{REQUEST_URI} -strmatch '/shop/*'", true),
        ("%{REQUEST_URI} -fnmatch '/*'", false),
        ("%{REQUEST_URI} -fnmatch '/*/c[a-b]rt'", true),
        ("%{HTTP_HOST} -strcmatch 'shop.*'", true),
        ("tolower(%{HTTP_HOST}) == 'shop.example'", true),
        ("%{toupper:x%{REQUEST_METHOD}} == 'XGET'", true),
        ("'a' . 'b' . 1 == 'ab1'", true),
        ("\"%{REQUEST_METHOD}-$0\" == 'GET-'", true),
        ("env('site') == 'a' && reqenv('SITE') == 'a'", true),
        ("%{TIME_WDAY} -eq 1 && %{TIME} == '20260309070501'", true),
        ("%{SSL_PROTOCOL} == 'TLSv1.3'", true),
        ("'\\101\\t' == 'A\t'", true),
    ] {
        let expr = Expr::condition(text, Dialect::Request);
        let expr = expr.unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expr.holds(&request()), holds, "{text}");
    }
}

#[test]
fn texts_are_filled_in() {
    for (text, value) in [
        ("", ""),
        ("plain", "plain"),
        ("100% of %{REQUEST_METHOD}s", "100% of GETs"),
        ("%{req:Host}", "Shop.Example"),
        ("%{base64:a}%{unbase64:YQ==}%{unbase64:YQ}", "YQ==aa"),
        ("%{md5:a}", "0cc175b9c0f1b6a831c399e269772661"),
        ("%{sha1:a}", "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"),
        ("%{escape:a b/%}", "a%20b/%25"),
        ("%{unescape:a%20b%2Fc}", "a b%2Fc"),
        ("%{unescape:%zz}", ""),
        ("a } \\\" b", "a } \" b"),
    ] {
        let expr = Expr::text(text, Dialect::Request);
        let expr = expr.unwrap_or_else(|error| panic!("{text}: {error}"));
        let found = String::from_utf8(expr.value(&request())).expect("ASCII");
        assert_eq!(found, value, "{text}");
    }
}

#[test]
fn what_is_no_expression_is_an_error() {
    for text in [
        "",
        "%{HTTPS}",
        "'a'",
        "'a' == ",
        "== 'a'",
        "'a' == 'b",
        "%{HTTP",
        "%{NO_SUCH}",
        "%{a b}",
        "nosuch('a')",
        "hc('body') =~ /OK/",
        "-f '/etc/passwd'",
        "file('/etc/passwd') == ''",
        "'a' =~ 'b'",
        "'a' =~ /(/",
        "'a' =~ /b",
        "-q 'a'",
        "'a' -nosuch 'b'",
        "'a' -ipmatch 'b'",
        "'a' -ipmatch %{HTTP_HOST}",
        "'a' in 'b'",
        "'a' in {",
        "'a' in PeerExtList('1.2.3')",
        "true true",
        "(true",
        "true)",
        "'\\400' == ''",
        "'\\8' == ''",
        "'a\n' == ''",
        "#",
        "- 'a'",
    ] {
        assert!(Expr::condition(text, Dialect::Request).is_err(), "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    for deep in [
        "!".repeat(5000) + "true",
        "(".repeat(5000),
        "%{md5:".repeat(5000),
    ] {
        assert!(Expr::condition(&deep, Dialect::Request).is_err());
        let _ = Expr::text(&deep, Dialect::Request);
    }
    let wide = vec!["true"; 5000].join(" && ");
    let wide = Expr::condition(&wide, Dialect::Request).expect("wide is not deep");
    assert!(wide.holds(&request()));
}

#[test]
fn a_health_check_sees_the_body() {
    let expr = Expr::condition("hc('body') =~ /OK/", Dialect::HealthCheck).expect("valid");
    assert!(expr.holds(&request()));
}

#[test]
fn it_travels_as_its_text() {
    let expr = Expr::condition("true && %{HTTPS} == 'off'", Dialect::Request).expect("valid");
    let text = serde_json::to_string(&expr).expect("it is data");
    let back: Expr = serde_json::from_str(&text).expect("it parsed before");
    assert_eq!(back, expr);
    assert!(serde_json::from_str::<Expr>(&text.replace("off", "o'ff")).is_err());
}
