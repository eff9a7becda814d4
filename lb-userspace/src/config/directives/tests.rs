//! The table against its documentation.

use super::*;

mod sweep;

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

/// The directives as the tables of docs/configuration.md, in Markdown.
fn documentation() -> String {
    let mut out = String::new();
    for (title, rows) in PARTS {
        out.extend([
            "### ",
            title,
            "\n\n| directive | context | default | what it does |\n|---|---|---|---|\n",
        ]);
        for row in rows {
            out += &directive(row);
        }
        out += "\n";
        if title == "Balancers" {
            out += &keys(
                "Keys of a member",
                keys::MEMBER_KEYS,
                keys::MEMBER_KEYS_NOT_YET,
            );
            out += &keys(
                "Keys of a balancer",
                keys::BALANCER_KEYS,
                keys::BALANCER_KEYS_NOT_YET,
            );
        }
    }
    out += "### Known and refused\n\nErrors that say so, with file and line:\n\n";
    let names: Vec<String> = foreign::names()
        .map(|name| format!("`{name}{}`", if name.starts_with('<') { ">" } else { "" }))
        .collect();
    out + &names.join(" ") + "\n"
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn directive(row: &Directive) -> String {
    let note = match row.effect {
        Effect::Only(values) => format!(
            "{}. This version has `{}` only.",
            row.help,
            values.join("`, `")
        ),
        Effect::Notice(text) | Effect::Warning(text) => format!("{}. {text}.", row.help),
        _ => format!("{}.", row.help),
    };
    let close = if row.name.starts_with('<') { ">" } else { "" };
    let space = if row.syntax.is_empty() { "" } else { " " };
    let contexts = if row.contexts == Contexts::ALL {
        "everywhere".to_owned()
    } else {
        row.contexts.names()
    };
    format!(
        "| `{}{space}{}{close}` | {contexts} | {} | {} |\n",
        row.name,
        row.syntax.replace('|', "\\|"),
        cell(row.default),
        cell(&note)
    )
}

fn keys(title: &str, keys: &[keys::Key], refused: &[&str]) -> String {
    let mut out = format!("### {title}\n\n| key | default | meaning |\n|---|---|---|\n");
    for (name, default, meaning) in keys {
        let (default, meaning) = (cell(default), cell(meaning));
        out.extend(["| `", name, "` | ", &default, " | ", &meaning, " |\n"]);
    }
    out += "\n";
    if !refused.is_empty() {
        out.extend(["Not in this version: `", &refused.join("`, `"), "`.\n\n"]);
    }
    out
}

/// Each documented key is taken: none of them is called unknown or not supported.
#[test]
fn every_documented_key_is_known() {
    let read = |line: String| {
        let text = format!("Listen 80\n<Proxy balancer://b>\n{line}\n</Proxy>\n");
        let source = crate::config::source::Memory::new("/c", text);
        let options = crate::config::Options::default();
        let environment = crate::config::Environment::default();
        let loaded = crate::config::load_with(&source, "/c".as_ref(), &options, environment);
        let texts = loaded.reports.iter().map(|report| report.message.clone());
        texts.collect::<Vec<_>>().join("\n")
    };
    for (key, ..) in keys::MEMBER_KEYS {
        let said = read(format!("BalancerMember http://h {key}=^"));
        assert!(
            !said.contains("unknown Worker") && !said.contains("not supported"),
            "{said}"
        );
    }
    for (key, ..) in keys::BALANCER_KEYS {
        let said = read(format!("ProxySet {key}=^"));
        assert!(
            !said.contains("unknown Balancer") && !said.contains("not supported"),
            "{said}"
        );
    }
    for key in keys::MEMBER_KEYS_NOT_YET {
        let said = read(format!("BalancerMember http://h {key}=1"));
        assert!(said.contains("not supported"), "{key}: {said}");
    }
    for key in keys::BALANCER_KEYS_NOT_YET {
        let said = read(format!("ProxySet {key}=1"));
        assert!(said.contains("not supported"), "{key}: {said}");
    }
}
