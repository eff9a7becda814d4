//! The table against its documentation.

use super::*;

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = rows()
        .map(|row| row.name)
        .chain(foreign::names())
        .map(str::to_ascii_lowercase)
        .collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands in the table twice");
}

#[test]
fn every_conditional_section_has_a_row() {
    for (name, _) in Condition::NAMES {
        assert!(find(&format!("<{name}")).is_some(), "{name}");
    }
}

/// docs/configuration.md holds the table between two marks. To write it anew:
/// `SLUICE_BLESS=1 cargo test -p sluice documentation`.
#[test]
fn documentation_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).expect("docs/configuration.md is readable");
    let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
    let (before, rest) = page.split_once(begin).expect("the first mark");
    let (table, after) = rest.split_once(end).expect("the second mark");
    let expected = documentation();
    if std::env::var_os("SLUICE_BLESS").is_some() {
        let page = format!("{before}{begin}{expected}{end}{after}");
        std::fs::write(path, page).expect("docs/configuration.md is writable");
        return;
    }
    assert!(
        table == expected,
        "docs/configuration.md differs from the table: SLUICE_BLESS=1 cargo test -p sluice documentation"
    );
}
