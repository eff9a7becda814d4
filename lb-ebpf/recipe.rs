//! How the XDP object is made, and of what: shared, as a file, by `cargo xtask ebpf` and by the build
//! script of `sluice`, so that both mean the same inputs.
//!
//! The object is a function of [`hash`]'s inputs: two machines with the same inputs build the same
//! bytes, wherever the sources, the registry and the toolchain lie. Nothing here installs anything.

use std::{
    collections::{BTreeSet, VecDeque},
    env,
    ffi::OsString,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest as _, Sha256};

/// Version of bpf-linker that makes the committed object.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// What the program is compiled for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The committed object, from the workspace.
pub(crate) const OBJECT: &str = "lb-ebpf/prebuilt/sluice.bpf.o";
/// Hash of the inputs that the committed object was made of, from the workspace.
pub(crate) const OBJECT_HASH: &str = "lb-ebpf/prebuilt/inputs.sha256";

/// Compiler flags. The map and context layouts are those of `x86_64` and `aarch64` alike; aya-ebpf
/// picks its bindings by this word, and XDP's are the same in both.
const FLAGS: [&str; 4] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    // Packet memory is read in words, not byte by byte: 7 ns less for IPv4 and 16 for IPv6 (both of
    // some 50). The verifier allows it on packets where the processor does, as x86-64 and arm64 do,
    // but never on the stack: see the keys in tables.rs.
    "-Ctarget-feature=+allows-misaligned-mem-access",
];
/// The release profile, set here so that a change of the workspace's own does not matter.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
];
/// Crates of the workspace that the object is compiled from.
const CRATES: [&str; 2] = ["lb-ebpf", "lb-common"];

/// What the object depends on.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// SHA-256 over all of it, lower-case hex.
    pub(crate) hash: String,
    /// The files among it, from the workspace, sorted.
    pub(crate) files: Vec<PathBuf>,
}

/// Hashes everything that the object is made of: the sources and manifests of the crates it is
/// compiled from (tests left out), the entries of the lock file that they reach, the lines of the
/// workspace manifest that they inherit, the toolchain's version, the linker's version, the flags.
///
/// Not the whole lock file: a new version of a proxy's dependency changes nothing here.
pub(crate) fn hash(root: &Path) -> Result<Inputs, String> {
    let mut files = Vec::new();
    for name in CRATES {
        files.push(PathBuf::from(name).join("Cargo.toml"));
        walk(root, &PathBuf::from(name).join("src"), &mut files)?;
    }
    files.push(PathBuf::from("lb-ebpf/recipe.rs"));
    files.sort();

    let mut sum = Sha256::new();
    let mut add = |name: &str, text: &[u8]| {
        sum.update((name.len() as u64).to_le_bytes());
        sum.update(name);
        sum.update((text.len() as u64).to_le_bytes());
        sum.update(text);
    };
    let mut direct = BTreeSet::new();
    for file in &files {
        let text = read(&root.join(file))?;
        if file.ends_with("Cargo.toml") {
            direct.extend(dependencies(&text));
        }
        add(&file.to_string_lossy(), text.as_bytes());
    }
    add(
        "workspace",
        inherited(&read(&root.join("Cargo.toml"))?, &direct).as_bytes(),
    );
    add(
        "lock",
        reachable(&read(&root.join("Cargo.lock"))?, &direct).as_bytes(),
    );
    add("toolchain", toolchain(root)?.as_bytes());
    add("linker", LINKER_VERSION.as_bytes());

    let mut hash = String::new();
    for byte in sum.finalize() {
        // Writing into a String cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    Ok(Inputs { hash, files })
}

/// The pinned toolchain's version.
pub(crate) fn toolchain(root: &Path) -> Result<String, String> {
    let text = read(&root.join("rust-toolchain.toml"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .map(|channel| channel.trim_matches('"').to_owned())
        .ok_or_else(|| "rust-toolchain.toml names no channel".to_owned())
}

/// Builds the object from source into `target`, a folder of its own, and returns its bytes,
/// stripped of DWARF.
///
/// Needs the pinned toolchain with rust-src, and bpf-linker on the path or in cargo's bin folder.
pub(crate) fn build(root: &Path, target: &Path) -> Result<Vec<u8>, String> {
    let root = root
        .canonicalize()
        .map_err(|e| format!("{}: {e}", root.display()))?;
    let sysroot = PathBuf::from(output(rustc(&root).args(["--print", "sysroot"]))?.trim());
    let sysroot = sysroot
        .canonicalize()
        .map_err(|e| format!("{}: {e}", sysroot.display()))?;
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("the toolchain lacks rust-src".to_owned());
    }

    let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
    // rustc takes the last prefix that matches.
    for (from, to) in [
        (root.join(""), ""),
        (target.join(""), "target/"),
        (sysroot.join("lib/rustlib/src/rust/"), "rust/"),
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    for registry in registries()? {
        flags.push(format!(
            "--remap-path-prefix={}=registry/",
            registry.join("").display()
        ));
    }

    let mut cargo = Command::new("cargo");
    cargo.current_dir(&root);
    // What an outer cargo, clippy or a user's environment sets for the host is not for this build.
    for (name, _) in env::vars_os() {
        if is_foreign(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["build", "--release", "--locked", "--package", "lb-ebpf"])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", target)
        .env("PATH", path()?)
        .envs(PROFILE);
    output(&mut cargo)?;

    let built = target.join(TARGET).join("release/lb-ebpf");
    let stripped = target.join("sluice.bpf.o");
    // rustc brings its own objcopy: the same version wherever the toolchain is the same.
    let host = output(rustc(&root).arg("-vV"))?;
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or("rustc -vV names no host")?;
    let objcopy = sysroot
        .join("lib/rustlib")
        .join(host)
        .join("bin/rust-objcopy");
    output(
        Command::new(objcopy)
            .arg("--strip-debug")
            .arg(built)
            .arg(&stripped),
    )?;
    fs::read(&stripped).map_err(|e| format!("{}: {e}", stripped.display()))
}

/// Whether bpf-linker of the right version can be run.
pub(crate) fn has_linker() -> bool {
    path().is_ok_and(|path| {
        output(
            Command::new("bpf-linker")
                .arg("--version")
                .env("PATH", path),
        )
        .is_ok_and(|text| text.trim() == format!("bpf-linker {LINKER_VERSION}"))
    })
}

/// `PATH`, cargo's bin folder behind it.
fn path() -> Result<OsString, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = env::split_paths(&path).chain([cargo_home()?.join("bin")]);
    env::join_paths(all).map_err(|e| format!("PATH: {e}"))
}

fn rustc(root: &Path) -> Command {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(root);
    rustc
}

/// Environment that would change the build.
fn is_foreign(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"];
    (name.starts_with("CARGO") && !kept.contains(&&*name))
        || (name.starts_with("RUSTC") || name == "RUSTFLAGS" || name == "RUSTDOCFLAGS")
        || ["OUT_DIR", "TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG"].contains(&&*name)
}

fn cargo_home() -> Result<PathBuf, String> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .ok_or_else(|| "neither CARGO_HOME nor a home folder".to_owned())
}

/// Where cargo unpacks registry crates: one folder a registry, named with a hash of its address.
fn registries() -> Result<Vec<PathBuf>, String> {
    let sources = cargo_home()?.join("registry/src");
    match fs::read_dir(&sources) {
        Ok(entries) => {
            let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            found.sort();
            Ok(found)
        }
        // Nothing is unpacked yet; the caller downloads first (`cargo fetch`).
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(format!("{}: {e}", sources.display())),
    }
}

/// Runs a command to its end and returns what it wrote; its errors go into the error.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{name}: {e}"))?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(format!(
            "{name}: {}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        ))
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Every Rust source under `folder` but the tests, which the object does not hold.
fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let fault = |e: io::Error| format!("{}: {e}", folder.display());
    for entry in fs::read_dir(root.join(folder)).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let path = folder.join(entry.file_name());
        if entry.file_type().map_err(fault)?.is_dir() {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Names under `[dependencies]` of a manifest, optional ones left out: the object's build turns no
/// feature on.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#') && !line.contains("optional = true"))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The lines of the workspace manifest that the crates inherit and that change code: the edition,
/// and their dependencies' versions and features.
fn inherited(manifest: &str, direct: &BTreeSet<String>) -> String {
    let lines: Vec<&str> = manifest
        .lines()
        .filter(|line| {
            let name = line.split([' ', '=']).next().unwrap_or_default();
            name == "edition" || direct.contains(name)
        })
        .collect();
    lines.join("\n")
}

/// The lock file's entries that `direct` reach.
fn reachable(lock: &str, direct: &BTreeSet<String>) -> String {
    let entries: Vec<&str> = lock.split("[[package]]\n").skip(1).collect();
    let of_name = |wanted: &str| {
        // "name", or "name version" where two versions are in use.
        let (name, version) = wanted.split_once(' ').unwrap_or((wanted, ""));
        let name = format!("name = \"{name}\"\n");
        let version = format!("version = \"{version}");
        entries
            .iter()
            .copied()
            .filter(|entry| entry.starts_with(&name) && entry.contains(&version))
            .collect::<Vec<_>>()
    };
    let mut reached = BTreeSet::new();
    // The workspace's own crates are hashed by their files, and their lists here hold what only
    // tests or optional features need.
    let mut queue: VecDeque<String> = direct
        .iter()
        .filter(|name| !CRATES.contains(&name.as_str()))
        .cloned()
        .collect();
    while let Some(name) = queue.pop_front() {
        for entry in of_name(&name) {
            if reached.insert(entry) {
                queue.extend(
                    entry
                        .lines()
                        .filter_map(|line| line.strip_prefix(" \""))
                        .filter_map(|line| line.strip_suffix("\","))
                        .map(str::to_owned),
                );
            }
        }
    }
    reached.into_iter().collect()
}
