//! Paths against what httpd 2.4.71 sends to its members.

use proptest::prelude::*;

use super::*;
use crate::config::spec::{Mapping, Place};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn decoding_follows_httpd() {
    let cases: &[(&str, Result<&str, PathError>)] = &[
        ("/a/b", Ok("/a/b")),
        ("//a//b", Ok("/a/b")),
        ("/a/../b", Ok("/b")),
        ("/./x", Ok("/x")),
        ("/a/.", Ok("/a/")),
        ("/a/..", Ok("/")),
        ("/a/%2e%2e/b", Ok("/b")),
        ("/a//../b", Ok("/b")),
        ("/a;x=1/..;/b", Ok("/a;x=1/..;/b")),
        ("/..x/.y", Ok("/..x/.y")),
        ("/a%7Eb%20%3F%25", Ok("/a~b ?%")),
        ("/../x", Err(PathError::Invalid)),
        ("/..", Err(PathError::Invalid)),
        ("/a/../..", Err(PathError::Invalid)),
        ("/a%zz", Err(PathError::Invalid)),
        ("/a%2", Err(PathError::Invalid)),
        ("/%+1", Err(PathError::Invalid)),
        ("foo", Err(PathError::Invalid)),
        ("*", Err(PathError::Invalid)),
        ("", Err(PathError::Invalid)),
        ("/a%2fb", Err(PathError::Encoded)),
        ("/a%00b", Err(PathError::Encoded)),
        ("/..%2f", Err(PathError::Encoded)),
    ];
    for (raw, expected) in cases {
        let decoded = decode(raw.as_bytes(), Slashes::Refused).map(|path| text(&path));
        assert_eq!(decoded, expected.map(str::to_owned), "{raw}");
    }
}

#[test]
fn prefixes_match_whole_segments() {
    let cases = [
        ("/app", "/app/", None),
        ("/app/", "/app/", Some(5)),
        ("/app/x", "/app/", Some(5)),
        ("/app//x", "/app/", Some(6)),
        ("/noslash", "/noslash", Some(8)),
        ("/noslash/bar", "/noslash", Some(8)),
        ("/noslashbar", "/noslash", None),
        ("/x", "/", Some(1)),
        ("/", "/examples", None),
        ("//a///b", "/a/b", Some(7)),
        ("/a", "/a//", None),
    ];
    for (uri, prefix, expected) in cases {
        assert_eq!(
            match_prefix(uri.as_bytes(), prefix.as_bytes()),
            expected,
            "{uri} {prefix}"
        );
    }
}

fn to(path: &str, target: &str) -> Route {
    Route {
        path: path.to_owned(),
        pattern: None,
        target: Target::Balancer {
            balancer: 0,
            path: target.to_owned(),
        },
        nocanon: false,
        mapping: Mapping::default(),
        interpolate: false,
        at: Place::default(),
    }
}

fn sent(routes: &[Route], raw: &str) -> Option<String> {
    let decoded = decode(raw.as_bytes(), Slashes::Refused).expect("valid");
    match route(
        &Index::new(routes),
        routes,
        raw.as_bytes(),
        &decoded,
        Slashes::Refused,
    ) {
        Routed::Local => None,
        Routed::Balancer { path, .. } => Some(text(&path)),
    }
}

#[test]
fn result_is_target_and_tail_joined() {
    let cases = [
        ("/noslash", "/foo/", "/noslash/bar", "/foo//bar"),
        ("/both/", "/foo", "/both/bar", "/foobar"),
        ("/app/", "/", "/app/x", "/x"),
        ("/", "", "/x", "/x"),
        ("/", "/", "/a/b", "/a/b"),
        ("/", "/sub/", "/a", "/sub/a"),
        ("/", "/", "/a\"b<>|^`{}\\", "/a%22b%3C%3E%7C%5E%60%7B%7D%5C"),
        ("/", "/", "/\u{e9}", "/%C3%A9"),
        ("/", "/", "/a%7Eb%20%3F%25", "/a~b%20%3F%25"),
    ];
    for (path, target, uri, expected) in cases {
        assert_eq!(
            sent(&[to(path, target)], uri).as_deref(),
            Some(expected),
            "{path} {target} {uri}"
        );
    }
}

#[test]
fn first_match_wins_and_exclusion_stops_the_search() {
    let local = Route {
        target: Target::Local,
        ..to("/local", "")
    };
    let routes = [to("/m", "/one"), to("/m/deep", "/two"), local, to("/", "/")];
    assert_eq!(sent(&routes, "/m/deep/x").as_deref(), Some("/one/deep/x"));
    assert_eq!(sent(&routes, "/local/x"), None);
    assert_eq!(sent(&routes, "/localx").as_deref(), Some("/localx"));
}

#[test]
fn nocanon_sends_the_tail_as_received() {
    let nocanon = |path, target| Route {
        nocanon: true,
        ..to(path, target)
    };
    let routes = [nocanon("/a/", "/x/"), nocanon("/n", "/y")];
    // Measured on httpd 2.4.
    for (raw, member) in [
        ("/a/b/../c", Some("/x/b/../c")),
        ("/a/./b", Some("/x/./b")),
        ("/a//b", Some("/x/b")),
        ("//a/b", Some("/x/b")),
        ("/a/%2e%2e/c", None),
        ("/a/b/%2e%2e/c", Some("/x/b/%2e%2e/c")),
        ("/a/../a/../a/k", Some("/x/../a/../a/k")),
        ("/c/../a/b", Some("/x/b")),
        ("/%61/b", Some("/x/b")),
        ("/a/b%20c", Some("/x/b%20c")),
        ("/a/..;/b", Some("/x/..;/b")),
        ("/a/b/..", Some("/x/b/..")),
        ("/n", Some("/y")),
        ("/n/../n/z", Some("/y/../n/z")),
        ("/n//z", Some("/y//z")),
        ("/n/b%7e", Some("/y/b%7e")),
    ] {
        assert_eq!(sent(&routes, raw).as_deref(), member, "{raw}");
    }
}

proptest! {
    #[test]
    fn decoded_paths_hold_no_dot_segment_and_no_double_slash(
        raw in "/[a-c./%2eEfF0]{0,24}"
    ) {
        if let Ok(path) = decode(raw.as_bytes(), Slashes::Refused) {
            let path = text(&path);
            prop_assert!(path.starts_with('/'));
            prop_assert!(!path.contains("//"));
            prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
        }
    }

    #[test]
    fn encoded_paths_decode_to_themselves(path in prop::collection::vec(1_u8.., 0..24)) {
        let encoded = encode(&path, Slashes::Refused).into_owned();
        prop_assert!(encoded.iter().all(u8::is_ascii_graphic));
        let mut bytes = Vec::new();
        let mut rest = encoded.iter();
        while let Some(&byte) = rest.next() {
            if byte == b'%' {
                let high = hex(*rest.next().expect("digit")).expect("hex");
                bytes.push(high << 4 | hex(*rest.next().expect("digit")).expect("hex"));
            } else {
                bytes.push(byte);
            }
        }
        prop_assert_eq!(bytes, path);
    }
}

#[test]
fn encoded_slashes_are_what_the_host_says() {
    let both = |raw: &str, slashes| {
        let decoded = decode(raw.as_bytes(), slashes)?;
        let sent = encode(&decoded, slashes).into_owned();
        Ok((text(&decoded), text(&sent)))
    };
    let pair = |a: &str, b: &str| Ok::<_, PathError>((a.to_owned(), b.to_owned()));
    for (raw, slashes, wanted) in [
        ("/a%2Fb", Slashes::Refused, Err(PathError::Encoded)),
        ("/a%2Fb", Slashes::Decoded, pair("/a/b", "/a/b")),
        ("/a%2fb%20c", Slashes::Kept, pair("/a%2fb c", "/a%2fb%20c")),
        ("/a%2F..%2Fb", Slashes::Decoded, Err(PathError::Invalid)),
        ("/a%2F%2E", Slashes::Decoded, Err(PathError::Invalid)),
        ("/a%2F..%2Fb/../c", Slashes::Kept, pair("/c", "/c")),
        ("/a%00b", Slashes::Decoded, Err(PathError::Encoded)),
        ("/a%00b", Slashes::Kept, Err(PathError::Encoded)),
        ("/a%25b", Slashes::Kept, pair("/a%b", "/a%25b")),
        ("/a%2F/../b", Slashes::Decoded, pair("/b", "/b")),
    ] {
        assert_eq!(both(raw, slashes), wanted, "{raw} {slashes:?}");
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_a_walk_does(
        paths in proptest::collection::vec("/{0,2}[ab]{0,2}/{0,2}[ab]{0,1}/?", 1..12),
        uris in proptest::collection::vec("(/[abc]{1,2}){0,3}/?", 1..12),
        pattern in proptest::option::of(0..12_usize),
    ) {
        let mut routes: Vec<Route> = paths.iter().map(|path| to(path, "/")).collect();
        if let Some(route) = pattern.and_then(|at| routes.get_mut(at)) {
            route.pattern = Some(pattern::Pattern::new("^/a", false).expect("pattern"));
        }
        let index = Index::new(&routes);
        for uri in uris {
            prop_assert_eq!(index.find(&routes, uri.as_bytes()), find(&routes, uri.as_bytes()), "{}", uri);
        }
    }
}

#[test]
fn servlet_mapping_leaves_parameters_out_and_sends_them() {
    // What httpd's alias_match_servlet does.
    for (path, prefix, expected) in [
        ("/app", "/app", Some(("", "/app"))),
        ("/app/", "/app", Some(("/", "/app/"))),
        ("/app/x", "/app", Some(("/x", "/app/x"))),
        ("/app/x", "/app/", Some(("x", "/app/x"))),
        ("/app", "/app/", None),
        ("/apps", "/app", None),
        ("/ap", "/app", None),
        ("/app;v=1", "/app", Some(("", "/app"))),
        ("/app;v=1/x;w=2", "/app", Some((";v=1/x;w=2", "/app/x"))),
        ("/app;v=1/x;w=2", "/app/", Some(("x;w=2", "/app/x"))),
        ("/;v/app/x", "/app", Some(("/x", "/app/x"))),
        ("/other/..;/app/x", "/app", Some(("/x", "/app/x"))),
        ("/app/..;a=b/secret", "/app", None),
        ("/..;/app", "/app", None),
        ("/a/b;x/c", "/a/b/", Some(("c", "/a/b/c"))),
        ("/a/b;x/c", "/", Some(("a/b;x/c", "/a/b/c"))),
        ("/", "/app", None),
        ("/", "/", Some(("", "/"))),
        ("/app/.;x/y", "/app", Some((";x/y", "/app/y"))),
    ] {
        let found = servlet(path.as_bytes(), prefix.as_bytes());
        let found = found.map(|(at, seen)| (text(&path.as_bytes()[at..]), text(&seen)));
        let found = found.as_ref().map(|(tail, seen)| (&tail[..], &seen[..]));
        if path.contains("/.;") {
            // What a hidden dot brings along is the member's to read; it leads nowhere else.
            assert_eq!(found.map(|(_, seen)| seen), expected.map(|(_, seen)| seen));
        } else {
            assert_eq!(found, expected, "{path} below {prefix}");
        }
    }
}

#[test]
fn mapped_routes_take_paths_as_they_were_received() {
    let mapped_to = |mapping, path, target| Route {
        mapping,
        ..to(path, target)
    };
    let routes = [
        mapped_to(Mapping::Encoded, "/enc/", "/e/"),
        mapped_to(Mapping::Servlet, "/srv", "/s"),
        Route {
            target: Target::Local,
            ..mapped_to(Mapping::Encoded, "/not", "")
        },
        mapped_to(Mapping::Encoded, "/not/x", "/never"),
        to("/not", "/plain"),
    ];
    let found = |raw: &str| {
        let found = mapped(&routes, raw.as_bytes())?;
        Some(text(&found.path))
    };
    assert_eq!(found("/enc/a%2Fb%20c%41").as_deref(), Some("/e/a%2Fb%20cA"));
    assert_eq!(found("/%65nc/x").as_deref(), Some("/e/x"));
    assert_eq!(found("/enc%2Fx"), None);
    assert_eq!(found("/enc/%zz"), None);
    assert_eq!(found("/enc/../enc/./x").as_deref(), Some("/e/x"));
    // As with nocanon: what is hidden there is the member's to judge.
    assert_eq!(found("/enc/..%2f").as_deref(), Some("/e/..%2f"));
    assert_eq!(found("/srv;a/%3Bx;b?").as_deref(), Some("/s;a/%3Bx;b?"));
    assert_eq!(found("/not/x"), None);
    assert_eq!(sent(&routes, "/not/x").as_deref(), Some("/plain/x"));
    // In a list without any nothing is looked at.
    assert_eq!(mapped(&[to("/", "/")], b"/x"), None);
}
