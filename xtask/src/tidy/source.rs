//! Rules for Rust files: header, size, names, and who may use what.

use super::{Complaint, File};

/// Lines from which a file is told to be long, and from which it fails.
const LONG: usize = 600;
const TOO_LONG: usize = 900;

/// Names that say nothing, or that the lexicon has another word for.
const BANNED_FILES: [&str; 5] = ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "mod.rs"];
const BANNED_FUNCTIONS: [&str; 3] = ["get_", "handle_", "process_"];
const BANNED_TYPES: [&str; 3] = ["Manager", "Helper", "Util"];

/// Which words may not occur below which folder: the arrows of the design.
const LAYERS: [(&str, &[&str], &str); 6] = [
    (
        "lb-userspace/src/balancer",
        &["tokio", "hyper", "aya"],
        "elections are pure",
    ),
    (
        "lb-userspace/src/config",
        &["tokio", "hyper", "aya"],
        "the configuration reader opens nothing",
    ),
    (
        "lb-userspace/src/proxy",
        &["server"],
        "arrows go from server to proxy",
    ),
    (
        "lb-userspace/src/dataplane",
        &["server", "proxy"],
        "arrows go down to dataplane",
    ),
    (
        "lb-common/src",
        &["aya_ebpf", "tokio", "libc"],
        "lb-common is pure",
    ),
    ("lb-ebpf/src", &["std"], "there is no std in the kernel"),
];

/// Where `unsafe` is at home.
const UNSAFE: [&str; 3] = [
    "lb-ebpf/",
    "lb-userspace/src/dataplane/sys",
    "lb-common/src/user.rs",
];

/// All rules on one file.
pub(super) fn check(file: &File) -> Vec<Complaint> {
    if !has_extension(&file.path, "rs") {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    if !file.text.starts_with("//!") {
        complaints.push(Complaint::error(format!(
            "{}: does not begin with //! saying what lives here",
            file.path
        )));
    }
    let lines = file.text.lines().count();
    let size = format!("{}: {lines} lines; split it by what it decides", file.path);
    if lines > TOO_LONG {
        complaints.push(Complaint::error(size));
    } else if lines > LONG {
        complaints.push(Complaint::warning(size));
    }
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if BANNED_FILES.contains(&name) {
        complaints.push(Complaint::error(format!(
            "{}: name it after what it holds",
            file.path
        )));
    }
    // The crate whose `use` list a line stands in: `server::` there is a module of that crate.
    let mut list: Option<&str> = None;
    for (number, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let foreign = list.or_else(|| foreign_use(code));
        list = foreign.filter(|_| !code.contains(';'));
        let place = || format!("{}:{}", file.path, number + 1);
        complaints.extend(names(code).map(|what| Complaint::error(format!("{}: {what}", place()))));
        let code = match foreign {
            Some(_) if foreign_use(code).is_some() => head(code),
            Some(_) => "",
            None => code,
        };
        complaints.extend(layers(&file.path, code).map(|(word, why)| {
            Complaint::error(format!("{}: {word} has no place here: {why}", place()))
        }));
        let at_home = UNSAFE.iter().any(|home| file.path.starts_with(home));
        let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .any(|form| code.contains(form) && !code.contains('"'));
        if opens && !at_home {
            complaints.push(Complaint::error(format!(
                "{}: unsafe outside its home",
                place()
            )));
        }
    }
    complaints
}

/// Banned names that a line of code defines.
fn names(code: &str) -> impl Iterator<Item = String> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let mut found = Vec::new();
    for pair in words.windows(2) {
        let name = pair[1]
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or("");
        match pair[0] {
            "fn" if BANNED_FUNCTIONS.iter().any(|start| name.starts_with(start)) => {
                found.push(format!("fn {name}: say what it does, not that it does"));
            }
            "struct" | "enum" | "trait" if BANNED_TYPES.iter().any(|end| name.ends_with(end)) => {
                found.push(format!("{name}: name it after what it is"));
            }
            _ => {}
        }
    }
    found.into_iter()
}

/// The crate that a line begins to use, if it is not ours.
fn foreign_use(code: &str) -> Option<&str> {
    let code = code.trim_start();
    let path = code
        .strip_prefix("pub use ")
        .or_else(|| code.strip_prefix("use "))?;
    let root = path.split("::").next()?;
    (!["crate", "super", "self"].contains(&root)).then_some(root)
}

/// The part of a `use` line before its list.
fn head(code: &str) -> &str {
    code.split('{').next().unwrap_or(code)
}

/// Modules that a line uses though its layer may not.
fn layers<'a>(path: &'a str, code: &'a str) -> impl Iterator<Item = (&'static str, &'static str)> {
    LAYERS
        .iter()
        .filter(move |(folder, ..)| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
                && !path.ends_with("/user.rs")
        })
        .flat_map(move |(_, words, why)| {
            words
                .iter()
                .filter(move |word| uses(code, word))
                .map(move |word| (*word, *why))
        })
}

/// Whether a line names `module` as a path's beginning: `module::` or `crate::module::`.
fn uses(code: &str, module: &str) -> bool {
    code.match_indices(module).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + module.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let inside = code[..at].ends_with("::") && !code[..at].ends_with("crate::");
        // A name in a text is not a use.
        let quoted = code[..at].matches('"').count() % 2 == 1;
        starts && !inside && !quoted && after.starts_with("::")
    })
}

/// Whether a path ends in this extension.
pub(super) fn has_extension(path: &str, extension: &str) -> bool {
    std::path::Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::{File, check};

    fn complaints(path: &str, text: &str) -> usize {
        check(&File {
            path: path.to_owned(),
            text: text.to_owned(),
        })
        .len()
    }

    #[test]
    fn file_without_header_is_found() {
        assert_eq!(complaints("a/b.rs", "use std::io;\n"), 1);
        assert_eq!(complaints("a/b.rs", "//! Why.\nuse std::io;\n"), 0);
    }

    #[test]
    fn empty_names_are_found_where_they_are_defined() {
        assert_eq!(complaints("a.rs", "//! x\npub fn get_name() {}\n"), 1);
        assert_eq!(
            complaints("a.rs", "//! x\nmap.get_name(); // fn get_x\n"),
            0
        );
        assert_eq!(complaints("a.rs", "//! x\nstruct PoolManager;\n"), 1);
        assert_eq!(complaints("a/utils.rs", "//! x\n"), 1);
    }

    #[test]
    fn pure_layers_may_not_reach_for_the_network() {
        let text = "//! x\nuse tokio::net::TcpStream;\n";
        assert_eq!(complaints("lb-userspace/src/balancer/elect.rs", text), 1);
        assert_eq!(complaints("lb-userspace/src/balancer.rs", text), 1);
        assert_eq!(complaints("lb-userspace/src/proxy/pool.rs", text), 0);
        assert_eq!(
            complaints(
                "lb-userspace/src/proxy/pool.rs",
                "//! x\nuse crate::server::X;\n"
            ),
            1
        );
        assert_eq!(
            complaints(
                "lb-userspace/src/proxy/pool.rs",
                "//! x\nuse hyper::server::X;\n"
            ),
            0
        );
    }

    #[test]
    fn unsafe_stays_at_home() {
        let text = "//! x\nlet a = unsafe { b() };\n";
        assert_eq!(complaints("lb-userspace/src/proxy.rs", text), 1);
        assert_eq!(complaints("lb-userspace/src/dataplane/sys.rs", text), 0);
    }

    #[test]
    fn long_file_is_told_and_longer_one_fails() {
        let of = |lines: usize| {
            let file = File {
                path: "a.rs".into(),
                text: "//! x\n".repeat(lines),
            };
            check(&file).first().map(|complaint| complaint.fatal)
        };
        assert_eq!((of(600), of(601), of(901)), (None, Some(false), Some(true)));
    }
}
