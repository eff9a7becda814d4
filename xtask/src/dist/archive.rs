//! The archive: program, manual pages, unit, completions, licences, documentation, and the digest of
//! each. Names are sorted and dates, owners and compression fixed, so that the same files make the
//! same archive.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Place, files, licences, sha256, write_json};
use crate::exec;

/// Makes it, and a `.sha256` beside it.
pub(super) fn pack(
    place: &Place,
    program: &Path,
    manifest: &Value,
    has_profile: bool,
) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let plain = if has_profile { "" } else { "-plain" };
    let name = format!("sluice-{version}-{}{plain}", place.triple);
    let tree = place.dist.join(&name);
    let _ = fs::remove_dir_all(&tree);
    fill(place, &tree, program, manifest)?;
    let sums = sums(&tree)?;
    put(&tree.join("SHA256SUMS"), sums.as_bytes(), 0o644)?;

    let tar = place.dist.join(format!("{name}.tar"));
    exec::run(
        Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&tar)
            .arg("--directory")
            .arg(&place.dist)
            .args(["--format=ustar", "--sort=name", "--numeric-owner"])
            .args(["--owner=0", "--group=0", "--mode=go-w,u+w"])
            .arg(format!("--mtime=@{}", place.epoch))
            .arg(&name),
    )?;
    // -n: neither name nor date of the input.
    exec::run(Command::new("gzip").args(["-n", "-9", "-f"]).arg(&tar))?;
    fs::remove_dir_all(&tree)?;
    let archive = place.dist.join(format!("{name}.tar.gz"));
    let line = format!("{}  {name}.tar.gz\n", sha256(&archive)?);
    fs::write(place.dist.join(format!("{name}.tar.gz.sha256")), line)?;
    Ok(archive)
}

fn fill(place: &Place, tree: &Path, program: &Path, manifest: &Value) -> Result<()> {
    let root = &place.root;
    put(&tree.join("bin/sluice"), &fs::read(program)?, 0o755)?;
    for (page, text) in manual(program)? {
        put(
            &tree.join("share/man/man1").join(page),
            text.as_bytes(),
            0o644,
        )?;
    }
    for (shell, path) in [
        ("bash", "share/bash-completion/completions/sluice"),
        ("zsh", "share/zsh/site-functions/_sluice"),
        ("fish", "share/fish/vendor_completions.d/sluice.fish"),
    ] {
        let script = ask(program, &["completions", shell])?;
        put(&tree.join(path), script.as_bytes(), 0o644)?;
    }
    let copies = [
        (
            "packaging/sluice.service",
            "lib/systemd/system/sluice.service",
        ),
        ("README.md", "share/doc/sluice/README.md"),
        ("CHANGELOG.md", "share/doc/sluice/CHANGELOG.md"),
        ("LICENSE-MIT", "LICENSE-MIT"),
        ("LICENSE-APACHE", "LICENSE-APACHE"),
    ];
    for (from, to) in copies {
        put(&tree.join(to), &read(&root.join(from))?, 0o644)?;
    }
    for folder in ["docs", "examples"] {
        for file in files(&root.join(folder))? {
            let name = file.file_name().context("a file without a name")?;
            let to = tree.join("share/doc/sluice").join(folder).join(name);
            put(&to, &read(&file)?, 0o644)?;
        }
    }
    let texts = licences::of_dependencies(root, &place.triple)?;
    put(
        &tree.join("LICENSES-OF-DEPENDENCIES"),
        texts.as_bytes(),
        0o644,
    )?;
    write_json(&tree.join("BUILD.json"), manifest)
}

/// sluice(1) and a page for each command, by file name.
fn manual(program: &Path) -> Result<Vec<(String, String)>> {
    let top = ask(program, &["man"])?;
    let mut pages = Vec::new();
    // Subcommands stand as `sluice\-member(1)` in the page above them.
    let mut open = vec![(Vec::<String>::new(), top)];
    while let Some((words, page)) = open.pop() {
        for word in commands(&page, &words) {
            let mut deeper = words.clone();
            deeper.push(word);
            let mut arguments = vec!["man"];
            arguments.extend(deeper.iter().map(String::as_str));
            let text = ask(program, &arguments)?;
            open.push((deeper, text));
        }
        let name = [vec!["sluice".to_owned()], words].concat().join("-");
        pages.push((format!("{name}.1"), page));
    }
    pages.sort();
    Ok(pages)
}

/// Names of the commands that a page refers to as its own.
fn commands(page: &str, words: &[String]) -> Vec<String> {
    let prefix = [vec!["sluice".to_owned()], words.to_vec()]
        .concat()
        .join("-")
        + "-";
    page.lines()
        .map(|line| line.replace("\\-", "-"))
        .filter_map(|line| {
            let word = line.strip_prefix(&prefix)?.strip_suffix("(1)")?;
            let is_help = word == "help";
            (!is_help).then(|| word.to_owned())
        })
        .collect()
}

fn ask(program: &Path, arguments: &[&str]) -> Result<String> {
    exec::output(Command::new(program).args(arguments))
        .with_context(|| format!("sluice {} failed", arguments.join(" ")))
}

/// `DIGEST  path` of every file, by path.
fn sums(tree: &Path) -> Result<String> {
    let mut paths = Vec::new();
    let mut open = vec![tree.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let name = path.strip_prefix(tree)?.display();
        let _ = writeln!(text, "{}  {name}", sha256(&path)?);
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    ensure!(!bytes.is_empty(), "{} would be empty", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}
