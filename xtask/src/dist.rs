//! `cargo xtask dist`: the release build that is published, optimised with a profile of traffic, in
//! an archive with all that a package needs.
//!
//! Three steps: a build that counts where it goes, traffic through it (`training`), and the build
//! that knows. Given the same sources, toolchain and profile, the archive is the same byte for byte;
//! a profile never is, so it is kept beside the archive, and `--profile` takes it again.

mod archive;
mod licences;
mod training;

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::exec::{self, step};

/// How to build.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Without a profile: one build, no traffic
    #[arg(long)]
    no_pgo: bool,
    /// With this profile (an earlier run's .profdata), instead of one made now
    #[arg(long, value_name = "FILE", conflicts_with = "no_pgo")]
    profile: Option<PathBuf>,
    /// Seconds of traffic
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// What the profile and the final build lie in, below cargo's target folder.
#[derive(Debug)]
struct Place {
    root: PathBuf,
    /// For what is published.
    dist: PathBuf,
    /// For cargo.
    build: PathBuf,
    triple: String,
    /// Seconds since 1970 that everything in the archive is dated.
    epoch: u64,
}

/// Where the build with a profile is put for `bench l7 --pgo`, and what it was made of.
const PROGRAM: &str = "sluice-pgo";
const MANIFEST: &str = "sluice-pgo.json";
const PROFILE: &str = "sluice.profdata";
/// Beginning of the names of control's counts; the proxy's are named by the compiler.
const OF_CONTROL: &str = "control-";
/// What the program is made of.
const SOURCES: [&str; 6] = [
    "lb-userspace",
    "lb-common",
    "lb-ebpf",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
];

/// Builds and packs.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    build(root, &exec::target_dir()?.join("dist"), arguments).map(drop)
}

/// The program built with a profile; fails if it is of other sources than these.
pub(crate) fn profiled(root: &Path) -> Result<PathBuf> {
    let dist = exec::target_dir()?.join("dist");
    let text = fs::read_to_string(dist.join(MANIFEST))
        .context("there is no build with a profile yet: cargo xtask dist makes it")?;
    let manifest: Value = serde_json::from_str(&text).context(MANIFEST)?;
    ensure!(
        manifest["sources_sha256"] == sources(root)?.as_str(),
        "the build with a profile is of other sources than these: cargo xtask dist, or name a \
         program (--pgo=FILE)"
    );
    Ok(dist.join(PROGRAM))
}

/// Everything into `dist`; gives the archive.
fn build(root: &Path, dist: &Path, arguments: &Arguments) -> Result<PathBuf> {
    let place = Place {
        root: root.to_owned(),
        dist: dist.to_owned(),
        build: dist.join("build"),
        triple: host()?,
        epoch: epoch()?,
    };
    // A build takes minutes, in which people go on working.
    let (commit, sources_sha256) = (commit(), sources(root)?);
    fs::create_dir_all(dist).with_context(|| format!("making {}", dist.display()))?;
    let profile = match (&arguments.profile, arguments.no_pgo) {
        (_, true) => None,
        (Some(given), _) => Some(given.canonicalize().context("--profile")?),
        (None, _) => Some(make_profile(&place, arguments.seconds)?),
    };
    step("the build that is published");
    let flags: Vec<String> = profile
        .iter()
        .map(|path| format!("-Cprofile-use={}", path.display()))
        .collect();
    // Names of functions stay, for whoever has to read where it failed.
    let program = cargo_build(&place, &flags, "debuginfo")?;
    ensure!(
        sources(root)? == sources_sha256,
        "the sources changed while they were built"
    );
    let manifest = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": place.triple,
        "rustc": exec::output(Command::new("rustc").arg("--version")).unwrap_or_default().trim(),
        "commit": commit,
        "source_date_epoch": place.epoch,
        "sources_sha256": sources_sha256,
        "profile_sha256": profile.as_deref().map(sha256).transpose()?,
        "program_sha256": sha256(&program)?,
    });
    if profile.is_some() {
        fs::copy(&program, dist.join(PROGRAM))?;
        write_json(&dist.join(MANIFEST), &manifest)?;
    }
    let archive = archive::pack(&place, &program, &manifest, profile.is_some())?;
    println!("program  {:>11} bytes", fs::metadata(&program)?.len());
    println!(
        "archive  {:>11} bytes  {}",
        fs::metadata(&archive)?.len(),
        archive.display()
    );
    println!("sha256   {}", sha256(&archive)?);
    if let Some(profile) = profile {
        println!("profile  {}", profile.display());
    }
    Ok(archive)
}

/// Builds with counters, sends traffic, merges what was counted.
fn make_profile(place: &Place, seconds: u64) -> Result<PathBuf> {
    let profdata = profdata(&place.triple)?;
    // The path is compiled in: the proxy process is given no environment to name another.
    let raw = place.dist.join("profile");
    let _ = fs::remove_dir_all(&raw);
    fs::create_dir_all(&raw)?;
    step("a build that counts where it goes");
    let counting = counting(place, &raw)?;
    step(&format!("{seconds} s of traffic"));
    // What runs at build time counts as well.
    for file in files(&raw)? {
        fs::remove_file(file)?;
    }
    open_to_proxy(&raw)?;
    let seen = training::run(&wrapper(place, &counting, &raw)?, seconds)?;
    println!("{seen}");
    let counted = files(&raw)?;
    let is_of_control = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(OF_CONTROL)
    };
    // Without the proxy's counts the profile is of the wrong process.
    ensure!(
        counted.iter().any(is_of_control) && !counted.iter().all(is_of_control),
        "not both processes wrote their counts to {}: can the proxy's user reach it?",
        raw.display()
    );
    let profile = place.dist.join(PROFILE);
    exec::run(
        Command::new(profdata)
            .args(["merge", "-o"])
            .arg(&profile)
            .args(&counted),
    )?;
    Ok(profile)
}

/// The program that counts where it goes, built unless it was built of the same sources before.
fn counting(place: &Place, raw: &Path) -> Result<PathBuf> {
    let program = place.dist.join("sluice-counting");
    let of = place.dist.join("sluice-counting.sources");
    let rustc = exec::output(Command::new("rustc").arg("-vV")).unwrap_or_default();
    let wanted = format!("{}\n{rustc}", sources(&place.root)?);
    if program.is_file() && fs::read_to_string(&of).is_ok_and(|text| text == wanted) {
        eprintln!("    {} is of these sources", program.display());
        return Ok(program);
    }
    let flag = format!("-Cprofile-generate={}", raw.display());
    fs::copy(cargo_build(place, &[flag], "none")?, &program)?;
    fs::write(of, wanted)?;
    Ok(program)
}

/// The counting program by another name, under which control writes its counts to a file of its own:
/// as root it would else own the one that the proxy, which is another user, has to write.
fn wrapper(place: &Place, counting: &Path, raw: &Path) -> Result<PathBuf> {
    let path = place.dist.join("sluice-counting.sh");
    let text = format!(
        "#!/bin/sh\nexport LLVM_PROFILE_FILE='{}/{OF_CONTROL}%m.profraw'\nexec '{}' \"$@\"\n",
        raw.display(),
        counting.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// As root the proxy runs as another user, who has to be able to write its counts.
fn open_to_proxy(dir: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let user = Some(training::NOBODY);
        std::os::unix::fs::chown(dir, user, user)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A release build of sluice with further flags for the compiler, and what of its symbols to take
/// away; gives the program.
fn cargo_build(place: &Place, flags: &[String], strip: &str) -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map_or_else(
        || env::home_dir().unwrap_or_default().join(".cargo"),
        PathBuf::from,
    );
    // Where it was built is nobody's business, and would make two builders' programs differ.
    let library = sysroot()?.join("lib/rustlib/src/rust");
    let mut all = vec![
        format!("--remap-path-prefix={}=/sluice", place.root.display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        format!("--remap-path-prefix={}=/rust", library.display()),
    ];
    all.extend_from_slice(flags);
    exec::run(
        Command::new("cargo")
            .current_dir(&place.root)
            .args(["build", "--release", "--locked", "--package", "sluice"])
            // With --target, flags are not for build scripts and macros.
            .args(["--target", &place.triple, "--target-dir"])
            .arg(&place.build)
            .env("CARGO_ENCODED_RUSTFLAGS", all.join("\x1f"))
            .env("CARGO_PROFILE_RELEASE_STRIP", strip)
            .env("SOURCE_DATE_EPOCH", place.epoch.to_string()),
    )?;
    let program = place.build.join(&place.triple).join("release/sluice");
    ensure!(program.is_file(), "cargo built no {}", program.display());
    Ok(program)
}

/// llvm-profdata of the compiler's own LLVM: another version does not read its profiles.
fn profdata(triple: &str) -> Result<PathBuf> {
    let path = sysroot()?
        .join("lib/rustlib")
        .join(triple)
        .join("bin/llvm-profdata");
    if !path.is_file() {
        bail!("llvm-profdata is missing: cargo xtask setup --dist installs it");
    }
    Ok(path)
}

fn sysroot() -> Result<PathBuf> {
    let said = exec::output(Command::new("rustc").args(["--print", "sysroot"]))
        .context("asking rustc for its folder")?;
    Ok(said.trim().into())
}

fn host() -> Result<String> {
    let said = exec::output(Command::new("rustc").arg("-vV")).context("asking rustc")?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// What the environment says, else the commit's time.
fn epoch() -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => exec::output(Command::new("git").args(["log", "-1", "--format=%ct"]))
            .context("neither SOURCE_DATE_EPOCH nor a commit says when this is")?,
    };
    text.trim().parse().context("SOURCE_DATE_EPOCH")
}

fn commit() -> String {
    exec::output(Command::new("git").args(["describe", "--always", "--dirty=+"]))
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// A digest over what the program is made of, as it lies here.
fn sources(root: &Path) -> Result<String> {
    let list = exec::output(
        Command::new("git")
            .current_dir(root)
            .args(["ls-files", "-z", "--"])
            .args(SOURCES),
    )
    .context("git lists no sources")?;
    let mut digest = Sha256::new();
    for path in list.split_terminator('\0') {
        // Deleted and not yet committed: gone.
        let Ok(bytes) = fs::read(root.join(path)) else {
            continue;
        };
        digest.update(format!("{path}\0{}\0", bytes.len()));
        digest.update(bytes);
    }
    Ok(hex(&digest.finalize()))
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Files of a folder, by name.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)? + "\n")
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests;
