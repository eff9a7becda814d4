//! The licences of everything that is linked into the program, as their authors ship them: most of
//! them demand to go along with the binary.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::files;
use crate::exec;

/// Beginnings of the names that licence files have, in lower case.
const NAMES: [&str; 6] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// One text, package by package in order of names.
pub(super) fn of_dependencies(root: &Path, triple: &str) -> Result<String> {
    let said = exec::output(
        Command::new("cargo")
            .current_dir(root)
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", triple]),
    )
    .context("cargo metadata failed")?;
    let metadata: Value = serde_json::from_str(&said)?;
    let mut text = String::from(
        "Software that is linked into sluice, and under what licences its authors give it.\n",
    );
    for package in linked(&metadata)? {
        let word = |key: &str| package[key].as_str().unwrap_or_default();
        let _ = write!(
            text,
            "\n\n{:=<78}\n{} {}: {}\n",
            "",
            word("name"),
            word("version"),
            word("license")
        );
        let folder = Path::new(word("manifest_path")).parent();
        for file in files(folder.context("a package without a folder")?)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let lower = name.to_lowercase();
            if NAMES.iter().any(|begin| lower.starts_with(begin)) {
                let bytes = fs::read(&file)?;
                let _ = write!(text, "\n--- {name}\n\n{}", String::from_utf8_lossy(&bytes));
            }
        }
    }
    Ok(text)
}

/// What sluice is linked with, from elsewhere: no test, no build script, nothing of our own.
fn linked(metadata: &Value) -> Result<Vec<&Value>> {
    let list = |value: &'static str, of: &'_ Value| -> Vec<Value> {
        of[value].as_array().cloned().unwrap_or_default()
    };
    let packages = metadata["packages"].as_array().context("no packages")?;
    let start = packages
        .iter()
        .find(|package| package["name"] == "sluice")
        .and_then(|package| package["id"].as_str())
        .context("no package sluice")?;
    let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list("nodes", &metadata["resolve"]) {
        let normal = list("deps", &node)
            .into_iter()
            .filter(|dep| {
                list("dep_kinds", dep)
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            })
            .filter_map(|dep| dep["pkg"].as_str().map(str::to_owned))
            .collect();
        edges.insert(node["id"].as_str().unwrap_or_default().to_owned(), normal);
    }
    let mut found = BTreeSet::from([start.to_owned()]);
    let mut open = vec![start.to_owned()];
    while let Some(id) = open.pop() {
        for next in edges.get(&id).into_iter().flatten() {
            if found.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    let mut linked: Vec<_> = packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter(|package| package["id"].as_str().is_some_and(|id| found.contains(id)))
        .collect();
    linked.sort_by_key(|package| {
        let word = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        (word("name"), word("version"))
    });
    Ok(linked)
}
