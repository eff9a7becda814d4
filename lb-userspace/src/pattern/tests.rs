//! Patterns: PCRE's meaning of what is written, bounds, bytes.

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text, false).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_pcre_writes_differently_means_the_same_here() {
    for (text, subject, matches) in [
        ("^[^[]+$", "abc", true),
        ("^[^[]+$", "a[c", false),
        ("[a&&b]", "&", true),
        ("[a&&b]x", "bx", true),
        ("[~~]", "~", true),
        ("[]a]", "]", true),
        ("[^]a]", "]", false),
        ("[[:digit:]x]+$", "12x", true),
        ("a{", "a{", true),
        ("a{,5}", "a{,5}", true),
        ("a{2,3}$", "aa", true),
        ("^a{2}$", "aaa", false),
        ("}", "}", true),
        (r"\<b\>", "<b>", true),
        (r"\/x\-y\_z", "/x-y_z", true),
        ("a.b", "a\nb", true),
        ("a$", "a\n", false),
        (r"a\Z", "a\n", false),
        (r"\.(gif|jpe?g)$", "/x.jpg", true),
        ("^/(?!admin/)", "/x", true),
        ("^/(?!admin/)", "/admin/x", false),
        (r"^/([^/]+)/\1$", "/ab/ab", true),
        (r"^\x{2f}a", "/a", true),
        ("^(?:a|b)++$", "abab", true),
    ] {
        assert_eq!(
            pattern(text).is_match(subject.as_bytes()),
            matches,
            "{text} on {subject}"
        );
    }
}

#[test]
fn what_is_no_pattern_is_an_error() {
    for text in ["(", "[a", "*", r"\", "a**b(", "(?P>x)"] {
        assert!(Pattern::new(text, false).is_err(), "{text}");
    }
    assert!(Pattern::new(&"a".repeat(9000), false).is_err());
}

#[test]
fn bytes_match_as_bytes() {
    let accented = pattern("^/caf(é)/(.)$");
    let subject = "/café/x".as_bytes();
    let found = accented.captures(subject).expect("it matches");
    assert_eq!(found.group(subject, 1), "é".as_bytes());
    assert_eq!(found.group(subject, 2), b"x");
    let broken = [b'/', 0xFF, b'a'];
    let found = pattern("^/(.)a$").captures(&broken).expect("it matches");
    assert_eq!(found.group(&broken, 1), [0xFF]);
    assert_eq!(found.range(1), Some(1..2));
}

#[test]
fn a_group_that_took_no_part_is_empty() {
    let found = pattern("(a)|(b)").captures(b"b").expect("it matches");
    assert_eq!(found.range(1), None);
    assert_eq!(found.group(b"b", 1), b"");
    assert_eq!(found.group(b"b", 2), b"b");
    assert_eq!(found.group(b"b", 9), b"");
}

#[test]
fn a_later_match_is_found_from_an_offset() {
    let subject = "é,b,c".as_bytes();
    let comma = pattern(",(.)");
    let first = comma.captures(subject).expect("it matches");
    assert_eq!(first.range(0), Some(2..4));
    let second = comma.captures_from(subject, 4).expect("it matches again");
    assert_eq!(second.group(subject, 1), b"c");
    assert_eq!(comma.captures_from(subject, 6), None);
    assert_eq!(comma.captures_from(subject, 600), None);
}

#[test]
fn names_of_groups_are_known() {
    let named = pattern("^/(?<site>[^/]+)/(x)");
    assert_eq!(named.groups(), 2);
    assert_eq!(named.names(), [(1, "site".to_owned())]);
}

#[test]
fn a_pattern_that_explodes_ends() {
    let bomb = pattern(r"^(a+)+\1$");
    assert!(!bomb.is_match(&[b"a".repeat(4000), b"!".to_vec()].concat()));
}

#[test]
fn case_counts_unless_it_does_not() {
    assert!(!pattern("ABC").is_match(b"abc"));
    assert!(Pattern::new("ABC", true).expect("valid").is_match(b"abc"));
}
