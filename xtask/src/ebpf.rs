//! `cargo xtask ebpf`: builds the XDP object from source and refreshes the committed one, or checks
//! that the committed one is what the sources give, byte for byte.
//!
//! What it is made of and how is in `lb-ebpf/recipe.rs`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

#[path = "../../lb-ebpf/recipe.rs"]
mod recipe;
mod stack;

/// Builds the object from source and writes it to `lb-ebpf/prebuilt/` with its inputs' hash; with
/// `check`, compares it with the committed one, and builds it a second time in a copy of its sources
/// elsewhere, so that a path that slipped into the bytes is noticed.
///
/// `root` is the workspace. Fails if a tool is missing (naming the command that installs it), if
/// the build fails, if a program's stack is too deep for Linux 6.1, or, checking, if hash or bytes differ.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    if !recipe::has_linker() {
        bail!(
            "bpf-linker {} is missing: run `cargo xtask setup`",
            recipe::LINKER_VERSION
        );
    }
    // So that every crate is unpacked before its folder is looked for.
    let fetched = Command::new("cargo")
        .current_dir(root)
        .args(["fetch", "--locked"])
        .status()
        .context("cargo fetch")?;
    ensure!(fetched.success(), "cargo fetch failed");

    let inputs = recipe::hash(root).map_err(anyhow::Error::msg)?;
    let built = recipe::build(root, &root.join("target/bpf")).map_err(anyhow::Error::msg)?;
    let deepest = stack::check(&built)?;
    println!(
        "stack: {} of 512 bytes as Linux 6.1 reckons it, in {}",
        deepest.bytes,
        deepest.names.join(" -> ")
    );
    let object = root.join(recipe::OBJECT);
    let hash = root.join(recipe::OBJECT_HASH);
    if check {
        let committed = fs::read_to_string(&hash).with_context(|| hash.display().to_string())?;
        ensure!(
            committed.trim() == inputs.hash,
            "{} was made of other sources: run `cargo xtask ebpf` and commit the result",
            recipe::OBJECT,
        );
        let bytes = fs::read(&object).with_context(|| object.display().to_string())?;
        ensure!(
            bytes == built,
            "{} is not what the sources give: run `cargo xtask ebpf` and commit the result",
            recipe::OBJECT,
        );
        check_elsewhere(root, &inputs, &built)?;
        println!(
            "{}: as committed, in two folders, {} bytes",
            recipe::OBJECT,
            built.len()
        );
    } else {
        fs::create_dir_all(object.parent().context("a file has a folder")?)?;
        fs::write(&object, &built).with_context(|| object.display().to_string())?;
        fs::write(&hash, format!("{}\n", inputs.hash))
            .with_context(|| hash.display().to_string())?;
        println!(
            "{}: {} bytes, inputs {}",
            recipe::OBJECT,
            built.len(),
            inputs.hash
        );
    }
    Ok(())
}

/// Builds a copy of the sources in another folder and compares.
fn check_elsewhere(root: &Path, inputs: &recipe::Inputs, expected: &[u8]) -> Result<()> {
    let copy = root.join("target/bpf-elsewhere/some/other place");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    let whole = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"].map(PathBuf::from);
    // Cargo wants every member of the workspace to have a manifest and a target.
    let members = ["lb-userspace", "xtask", "tests"];
    for file in inputs.files.iter().chain(&whole) {
        copy_file(root, &copy, file)?;
    }
    for member in members {
        copy_file(root, &copy, &Path::new(member).join("Cargo.toml"))?;
        let source = copy.join(member).join("src");
        fs::create_dir_all(&source)?;
        for name in ["lib.rs", "main.rs"] {
            fs::write(source.join(name), "fn main() {}\n")?;
        }
    }
    let target = root.join("target/bpf-elsewhere/target");
    let built = recipe::build(&copy, &target).map_err(anyhow::Error::msg)?;
    ensure!(
        built == expected,
        "the object depends on the folder it is built in: a path slipped into its bytes",
    );
    Ok(())
}

fn copy_file(root: &Path, copy: &Path, file: &Path) -> Result<()> {
    let to = copy.join(file);
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(root.join(file), &to).with_context(|| file.display().to_string())?;
    Ok(())
}

/// Installs bpf-linker for the pinned toolchain, unless it is there: about 95 s on two cores.
///
/// It is linked to the toolchain's own libLLVM, which reads what that rustc writes, so no LLVM needs
/// to be installed. The link breaks if the toolchain is removed: run this again then.
pub(crate) fn install_bpf_linker() -> Result<()> {
    if recipe::has_linker() {
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in a workspace")?;
    let sysroot = Command::new("rustc")
        .current_dir(root)
        .args(["--print", "sysroot"])
        .output()
        .context("rustc --print sysroot")?;
    ensure!(sysroot.status.success(), "rustc --print sysroot failed");
    let lib = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim()).join("lib");
    let llvm = fs::read_dir(&lib)
        .with_context(|| lib.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        })
        .with_context(|| format!("no libLLVM.so.* in {}", lib.display()))?;
    // llvm-sys looks for PREFIX/lib/libLLVM.so.
    let prefix = root.join("target/llvm-prefix");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(&llvm, &link)?;
    let done = Command::new("cargo")
        .current_dir(root)
        .args(["install", "bpf-linker", "--version", recipe::LINKER_VERSION])
        .args([
            "--no-default-features",
            "--features",
            "llvm-22",
            "--locked",
            "--force",
        ])
        .env("LLVM_PREFIX", &prefix)
        .env(
            "RUSTFLAGS",
            format!("-Clink-arg=-Wl,-rpath,{}", lib.display()),
        )
        .status()
        .context("cargo install bpf-linker")?;
    ensure!(done.success(), "cargo install bpf-linker failed");
    Ok(())
}
