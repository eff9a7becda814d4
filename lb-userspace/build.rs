//! Puts the XDP object where the binary embeds it from: `OUT_DIR/sluice.bpf.o`, its inputs' hash in
//! the environment as `SLUICE_BPF_HASH`.
//!
//! The committed object where it was made of these sources; else a fresh one if the tools are
//! there; else an error that names the command. `SLUICE_BPF_OBJECT=path` overrides all of it.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sha2::{Digest as _, Sha256};

#[path = "../lb-ebpf/recipe.rs"]
mod recipe;

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets its folder")?);
    let root = here.parent().ok_or("the package lies in a workspace")?;

    println!("cargo::rerun-if-env-changed=SLUICE_BPF_OBJECT");
    let (object, hash) = match env::var_os("SLUICE_BPF_OBJECT") {
        Some(path) => {
            let path = PathBuf::from(path);
            watch(&path);
            let object = fs::read(&path)
                .map_err(|e| format!("SLUICE_BPF_OBJECT={}: {e}", path.display()))?;
            let hash = hex(&Sha256::digest(&object));
            (object, hash)
        }
        None => committed_or_built(root, &out)?,
    };
    let to = out.join("sluice.bpf.o");
    fs::write(&to, object).map_err(|e| format!("{}: {e}", to.display()))?;
    println!("cargo::rustc-env=SLUICE_BPF_HASH={hash}");
    Ok(())
}

fn committed_or_built(root: &Path, out: &Path) -> Result<(Vec<u8>, String), String> {
    let inputs = recipe::hash(root)?;
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        recipe::OBJECT,
    ] {
        watch(&root.join(file));
    }
    for file in inputs.files.iter().map(PathBuf::as_path).chain([
        Path::new(recipe::OBJECT_HASH),
        // A file that is added is an input too.
        Path::new("lb-ebpf/src"),
        Path::new("lb-common/src"),
    ]) {
        watch(&root.join(file));
    }

    let committed = fs::read_to_string(root.join(recipe::OBJECT_HASH)).unwrap_or_default();
    if committed.trim() == inputs.hash {
        let object =
            fs::read(root.join(recipe::OBJECT)).map_err(|e| format!("{}: {e}", recipe::OBJECT))?;
        return Ok((object, inputs.hash));
    }
    let advice = "the sources of the XDP program differ from those of the committed object\n\
                  to build it anew: cargo xtask setup && cargo xtask ebpf\n\
                  to use another one: SLUICE_BPF_OBJECT=path cargo build";
    if !recipe::has_linker() {
        return Err(format!(
            "bpf-linker {} is missing, and {advice}",
            recipe::LINKER_VERSION
        ));
    }
    println!(
        "cargo::warning={} is not of these sources; building {} (cargo xtask ebpf refreshes it)",
        recipe::OBJECT,
        recipe::TARGET,
    );
    let object = recipe::build(root, &out.join("bpf")).map_err(|e| format!("{e}\n{advice}"))?;
    Ok((object, inputs.hash))
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
