//! What an archive has to hold, and that the training's traffic is what it says. Both take minutes
//! or a built sluice: `cargo xtask test --all`.

use std::{collections::BTreeSet, process::Command};

use anyhow::Result;

use super::*;

fn listed(archive: &Path) -> BTreeSet<String> {
    let said = exec::output(Command::new("tar").arg("-tzf").arg(archive)).expect("an archive");
    let names = said.lines().filter(|name| !name.ends_with('/'));
    names
        .filter_map(|name| Some(name.split_once('/')?.1.to_owned()))
        .collect()
}

/// All that a package needs, each file as SHA256SUMS says, and a program that runs.
fn is_whole(archive: &Path) -> Result<()> {
    let names = listed(archive);
    for name in [
        "bin/sluice",
        "share/man/man1/sluice.1",
        "share/man/man1/sluice-run.1",
        "share/man/man1/sluice-member-drain.1",
        "lib/systemd/system/sluice.service",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "LICENSES-OF-DEPENDENCIES",
        "SHA256SUMS",
        "BUILD.json",
        "share/doc/sluice/docs/configuration.md",
        "share/doc/sluice/examples/minimal.conf",
        "share/bash-completion/completions/sluice",
    ] {
        assert!(names.contains(name), "{name} is missing of {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("profraw")));
    let first = sha256(archive)?;
    let sum = fs::read_to_string(archive.with_extension("gz.sha256"))?;
    assert!(sum.starts_with(&first), "{sum}");

    // Every file is what SHA256SUMS says.
    let out = tempfile::tempdir()?;
    exec::run(
        Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(out.path()),
    )?;
    let tree = fs::read_dir(out.path())?
        .next()
        .expect("one folder")?
        .path();
    let sums = fs::read_to_string(tree.join("SHA256SUMS"))?;
    assert_eq!(sums.lines().count(), names.len() - 1);
    exec::run(Command::new("sha256sum").current_dir(&tree).args([
        "--check",
        "--quiet",
        "--strict",
        "SHA256SUMS",
    ]))?;
    let licences = fs::read_to_string(tree.join("LICENSES-OF-DEPENDENCIES"))?;
    for name in ["hyper ", "rustls ", "aws-lc-sys ", "tokio "] {
        assert!(licences.contains(&format!("\n{name}")), "{name}");
    }
    let said = exec::output(Command::new(tree.join("bin/sluice")).arg("--version"));
    assert_eq!(said.as_deref().map(str::trim), Some("sluice 0.1.0"));
    Ok(())
}

#[test]
#[ignore = "builds for release: minutes"]
fn archive_holds_what_a_package_needs_and_is_the_same_again() -> Result<()> {
    let root = lab::workspace_root();
    // Kept, so that the next run builds only what has changed.
    let dist = root.join("target/dist-test");
    let plain = Arguments {
        no_pgo: true,
        profile: None,
        seconds: 1,
    };
    let archive = build(&root, &dist, &plain)?;
    is_whole(&archive)?;
    let first = sha256(&archive)?;
    assert_eq!(sha256(&build(&root, &dist, &plain)?)?, first);
    Ok(())
}

#[test]
#[ignore = "needs a built sluice"]
fn what_is_built_already_packs_whole_and_the_same_again() -> Result<()> {
    let Ok(program) = lab::sluice::program() else {
        return lab::skip("no sluice is built beside this test");
    };
    let dist = tempfile::tempdir()?;
    let place = Place {
        root: lab::workspace_root(),
        dist: dist.path().to_owned(),
        build: dist.path().to_owned(),
        triple: host()?,
        epoch: epoch()?,
    };
    let pack = || archive::pack(&place, &program, &json!({}), false);
    let archive = pack()?;
    is_whole(&archive)?;
    let first = sha256(&archive)?;
    assert_eq!(sha256(&pack()?)?, first);
    Ok(())
}

#[test]
#[ignore = "needs a built sluice"]
fn training_is_answered_with_all_that_the_profile_is_to_know() -> Result<()> {
    let Ok(program) = lab::sluice::program() else {
        return lab::skip("no sluice is built beside this test");
    };
    println!("{}", training::run(&program, 1)?);
    Ok(())
}
