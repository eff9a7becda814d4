//! Lines and words against what httpd 2.4 does (apache.md 1.1).

use super::*;

fn lines(text: &str) -> Vec<(u32, String)> {
    let file = FileText::new("t".into(), text.as_bytes().to_vec());
    Lines::new(&file).map(|l| (l.line, l.text)).collect()
}

fn words(text: &str) -> Vec<String> {
    let file = FileText::new("t".into(), text.as_bytes().to_vec());
    let line = Lines::new(&file).next().unwrap_or_default();
    line.words(0, line.text.len())
        .into_iter()
        .map(|w| w.text)
        .collect()
}

#[test]
fn a_backslash_before_the_newline_joins_and_the_last_line_counts() {
    assert_eq!(
        lines("\nProxyPass /a \\\n  http://h/ \\\r\n retry=1\nB"),
        [
            (4, "ProxyPass /a   http://h/  retry=1".to_owned()),
            (5, "B".to_owned())
        ]
    );
    assert_eq!(lines("A b\\"), [(1, "A b\\".to_owned())], "end of the file");
    assert_eq!(
        lines("A b\\ \nC"),
        [(1, "A b\\".to_owned()), (2, "C".to_owned())]
    );
}

#[test]
fn a_comment_swallows_its_continuation() {
    assert_eq!(
        lines("# a \\\nListen 80\nListen 81"),
        [(3, "Listen 81".to_owned())]
    );
}

#[test]
fn words_are_split_and_unquoted_as_httpd_does() {
    for (text, expected) in [
        ("A b\tc", &["A", "b", "c"][..]),
        (r#"A "b c" 'd e'"#, &["A", "b c", "d e"]),
        (r#"A "b\"c\\d\n""#, &["A", "b\"c\\d\\n"]),
        (r"A 'b\'c'", &["A", "b'c"]),
        (r#"A b"c d"e"#, &["A", "b\"c", "d\"e"]),
        (r#"A "b"c"#, &["A", "b", "c"]),
        (r#"A "b c"#, &["A", "b c"]),
        (r"A b\\c b\d", &["A", "b\\c", "b\\d"]),
        (r#"A "" b"#, &["A", "", "b"]),
        ("A b # c", &["A", "b", "#", "c"]),
    ] {
        assert_eq!(words(text), expected, "{text}");
    }
}

#[test]
fn variables_are_replaced_before_words_are_split() {
    let file = FileText::new(
        "t".into(),
        b"  Listen ${A} ${B} ${no} ${m:k} $ ${A ${}".to_vec(),
    );
    let mut line = Lines::new(&file).next().unwrap_or_default();
    let mut unknown = Vec::new();
    assert!(line.substitute(
        1000,
        |name| match name {
            "A" => Some("80 ${B}".to_owned()),
            "B" => Some(String::new()),
            _ => None,
        },
        |name, span| unknown.push((name.to_owned(), span.column, span.width)),
    ));
    assert_eq!(line.text, "Listen 80 ${B}  ${no} ${m:k} $ ${A ${}");
    assert_eq!(
        unknown,
        [("no".to_owned(), 20, 5), ("A ${".to_owned(), 35, 7)]
    );
}

#[test]
fn a_variable_cannot_grow_a_line_beyond_the_limit() {
    let file = FileText::new("t".into(), b"A ${B}${B}".to_vec());
    let mut line = Lines::new(&file).next().unwrap_or_default();
    assert!(!line.substitute(10, |_| Some("xxxxxx".to_owned()), |_, _| {}));
}

#[test]
fn a_word_knows_its_place_across_continuations_and_variables() {
    let file = FileText::new("t".into(), "  Aé  b\\\n   cc ${V}z \"d e\"".into());
    let mut line = Lines::new(&file).next().unwrap_or_default();
    line.substitute(1000, |_| Some("long value".to_owned()), |_, _| {});
    let spans: Vec<_> = line
        .words(0, line.text.len())
        .into_iter()
        .map(|w| (w.text, w.span.line, w.span.column, w.span.width))
        .collect();
    assert_eq!(
        spans,
        [
            ("Aé".to_owned(), 1, 3, 2),
            ("b".to_owned(), 1, 7, 1),
            ("cc".to_owned(), 2, 4, 2),
            ("long".to_owned(), 2, 7, 4),
            ("valuez".to_owned(), 2, 7, 5),
            ("d e".to_owned(), 2, 13, 5),
        ]
    );
}

#[test]
fn the_last_line_is_the_last_that_holds_text() {
    for (text, last) in [("", 1), ("a", 1), ("a\n", 1), ("a\nb", 2), ("a\nb\n\n", 3)] {
        assert_eq!(
            FileText::new("t".into(), text.into()).last_line(),
            last,
            "{text:?}"
        );
    }
}

#[test]
fn braces_nest_and_end() {
    for (raw, word, rest) in [
        ("{a b} c", "a b", "c"),
        ("  {%{X} =~ /^[0-9]{3}$/} ", "%{X} =~ /^[0-9]{3}$/", ""),
        (r"{a\} b}", "a} b", ""),
        (r"{\d\\}", r"\d\", ""),
        ("{a", "a", ""),
        ("{} x", "", "x"),
        ("\"a b\" c", "a b", "c"),
        ("a {b}", "a", "{b}"),
        ("", "", ""),
    ] {
        assert_eq!(braced(raw), (word.to_owned(), rest), "{raw}");
    }
    assert_eq!(rest_after_word("name  {x y}"), "{x y}");
    assert_eq!(rest_after_word("name"), "");
}
