//! Rules for all text: nothing of one machine or registry in it, links that lead somewhere, and an
//! ARCHITECTURE.md that names only what exists.

use std::{collections::HashSet, path::Path};

use super::{Complaint, File, source::has_extension};

/// What no committed file may contain: it is true on one machine or in one place only. Written in
/// pieces, so that this file does not contain it either.
const BANNED_TEXT: [(&str, &str); 9] = [
    (concat!("crates", ".io"), "a registry's host"),
    (concat!("deb.debian", ".org"), "a registry's host"),
    (concat!("registry.npmjs", ".org"), "a registry's host"),
    (concat!("pypi", ".org"), "a registry's host"),
    (concat!("static.rust-lang", ".org"), "a registry's host"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
];

/// The page whose every path and symbol must exist.
const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Text that may not be committed. Lock files name registries by nature.
pub(super) fn check_text(file: &File) -> Vec<Complaint> {
    if has_extension(&file.path, "lock") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (text, what) in BANNED_TEXT {
            if line.contains(text) {
                complaints.push(Complaint::error(format!(
                    "{}:{}: names {what}",
                    file.path,
                    number + 1
                )));
            }
        }
    }
    complaints
}

/// Links of Markdown pages to other files of the repository.
pub(super) fn check_links(root: &Path, files: &[File]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| has_extension(&file.path, "md")) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for target in links(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !root.join(folder).join(path).exists() {
                complaints.push(Complaint::error(format!(
                    "{}: links to {target}, which does not exist",
                    file.path
                )));
            }
        }
    }
    complaints
}

/// Paths and symbols that ARCHITECTURE.md puts in backticks.
pub(super) fn check_architecture(root: &Path, files: &[File]) -> Vec<Complaint> {
    let Some(page) = files.iter().find(|file| file.path == ARCHITECTURE) else {
        return vec![Complaint::error(format!("{ARCHITECTURE} is missing"))];
    };
    let known: HashSet<&str> = files
        .iter()
        .filter(|file| !has_extension(&file.path, "md"))
        .flat_map(|file| words(&file.text))
        .collect();
    let mut complaints = Vec::new();
    for quoted in backticked(&page.text) {
        let missing = match Kind::of(quoted) {
            Kind::Path(path) => !root.join(path).exists(),
            Kind::Symbol(symbol) => {
                // A file's or folder's name is a symbol too: `dataplane`, `balancer::elect`.
                !known.contains(symbol) && !files.iter().any(|file| is_module(&file.path, symbol))
            }
            Kind::Other => false,
        };
        if missing {
            complaints.push(Complaint::error(format!(
                "{ARCHITECTURE}: names `{quoted}`, which does not exist"
            )));
        }
    }
    complaints
}

#[derive(Debug, Eq, PartialEq)]
enum Kind<'a> {
    Path(&'a str),
    Symbol(&'a str),
    Other,
}

impl Kind<'_> {
    /// What a backticked text is. Commands, options and values are none of our business.
    fn of(text: &str) -> Kind<'_> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let extensions = ["rs", "md", "toml", "txt", "conf", "o"];
        let looks_like_path = text.chars().all(|c| is_name(c) || "./-".contains(c));
        if looks_like_path
            && !text.starts_with('/')
            && (text.trim_end_matches('/').contains('/')
                || text.ends_with('/')
                || extensions
                    .iter()
                    .any(|extension| has_extension(text, extension)))
        {
            return Kind::Path(text);
        }
        let path = text.trim_end_matches("()").trim_end_matches('!');
        let last = path.rsplit("::").next().unwrap_or_default();
        let is_path = path
            .split("::")
            .all(|part| !part.is_empty() && part.chars().all(is_name));
        if is_path && !last.starts_with(|c: char| c.is_ascii_digit()) {
            return Kind::Symbol(last);
        }
        Kind::Other
    }
}

fn is_module(path: &str, name: &str) -> bool {
    path.split('/')
        .any(|part| part.strip_suffix(".rs").unwrap_or(part) == name)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Texts in single backticks, outside fenced blocks.
fn backticked(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Targets of inline links that are not on the web.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{File, Kind, backticked, check_text, links};

    #[test]
    fn path_of_one_machine_is_found_outside_lock_files() {
        let text = format!("see {}x/y", concat!("/ho", "me/"));
        let file = |path: &str| File {
            path: path.to_owned(),
            text: text.clone(),
        };
        assert_eq!(check_text(&file("README.md")).len(), 1);
        assert_eq!(check_text(&file("Cargo.lock")).len(), 0);
    }

    #[test]
    fn backticked_text_is_a_path_a_symbol_or_neither() {
        assert_eq!(
            Kind::of("lb-common/src/abi.rs"),
            Kind::Path("lb-common/src/abi.rs")
        );
        assert_eq!(Kind::of("deny.toml"), Kind::Path("deny.toml"));
        assert_eq!(Kind::of("balancer::elect()"), Kind::Symbol("elect"));
        assert_eq!(Kind::of("MemberSlot"), Kind::Symbol("MemberSlot"));
        for other in [
            "sluice run -f FILE",
            "--json",
            "/sys/fs/bpf",
            "5:1",
            "a + b",
        ] {
            assert_eq!(Kind::of(other), Kind::Other, "{other}");
        }
    }

    #[test]
    fn fenced_blocks_are_not_read() {
        let text = "a `one` b\n```\n`two` [x](y.md)\n```\n[z](w.md#part) [web](https://x.test/)\n";
        assert_eq!(backticked(text), ["one"]);
        assert_eq!(links(text), ["w.md#part"]);
    }
}
