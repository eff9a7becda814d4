//! The guest's first and only file system: a cpio archive of busybox, modules, the programs under
//! test with the shared libraries that they are linked to, and `init.sh`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use object::{Object as _, ObjectSection as _};

use super::packages::Packages;
use crate::exec;

/// What the guest runs as process 1.
const INIT: &str = include_str!("init.sh");
/// What its sluice runs on.
const CONFIGURATION: &str = include_str!("guest.conf");
/// Modules of its network cards and of the members' ends of tunnels. What these need comes along.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "ipip", "sit", "ip6_tunnel"];
const USERS: &str = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What is put into the image beside what is always there.
pub(super) struct Contents<'a> {
    /// sluice itself.
    pub(super) sluice: &'a Path,
    /// The XDP object, for the tests that load it themselves.
    pub(super) object: &'a Path,
    /// Test programs by name.
    pub(super) tests: &'a [(String, PathBuf)],
    /// `PROGRAM:TEST`, in the order to run them.
    pub(super) list: &'a [String],
}

/// Packs the image into `folder`; its path.
pub(super) fn pack(folder: &Path, packages: &Packages, contents: &Contents<'_>) -> Result<PathBuf> {
    let root = folder.join("image");
    let _ = fs::remove_dir_all(&root);
    for dir in ["bin", "etc", "modules", "tests"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(packages.busybox()?, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/sh"))?;
    for (name, text) in [
        ("init", INIT),
        ("guest.conf", CONFIGURATION),
        ("etc/passwd", USERS),
        ("etc/group", GROUPS),
        ("tests/list", &contents.list.join("\n")),
    ] {
        fs::write(root.join(name), text)?;
    }
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::copy(contents.object, root.join("sluice.bpf.o"))?;

    let mut libraries = BTreeSet::new();
    program(contents.sluice, &root.join("sluice"), &mut libraries)?;
    for (name, path) in contents.tests {
        program(path, &root.join("tests").join(name), &mut libraries)?;
    }
    for library in &libraries {
        let place = root.join(library.strip_prefix("/").unwrap_or(library));
        fs::create_dir_all(place.parent().context("a library lies in a folder")?)?;
        fs::copy(library, &place).with_context(|| library.display().to_string())?;
    }
    for (place, module) in modules(&packages.modules())?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // The shell's order is the order to load them in.
        fs::copy(module, root.join(format!("modules/{place:02}-{name}")))?;
    }
    cpio(&packages.busybox()?, &root, &folder.join("image.cpio"))
}

/// Copies a program without its debug information, and notes what it is linked to.
fn program(from: &Path, to: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    let stripped = lab::has_tool("strip")
        && exec::output(Command::new("strip").arg("-o").args([to, from])).is_some();
    if !stripped {
        fs::copy(from, to).with_context(|| from.display().to_string())?;
    }
    let Some(said) = exec::output(Command::new("ldd").arg(from)) else {
        // What is linked to nothing makes ldd fail.
        return Ok(());
    };
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    libraries.extend(paths.map(PathBuf::from));
    Ok(())
}

/// The files of [`MODULES`] and of all they depend on, which come before them.
fn modules(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    find(folder, &mut files)?;
    let mut order = Vec::new();
    for name in MODULES {
        place(name, &files, &mut order)?;
    }
    Ok(order)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else if entry.path().extension().is_some_and(|end| end == "ko") {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Depth first; a kernel's modules have no cycles, or it could not load them.
fn place(name: &str, files: &[PathBuf], order: &mut Vec<PathBuf>) -> Result<()> {
    let same = |file: &&PathBuf| {
        (file.file_stem()).is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name)
    };
    let file =
        (files.iter().find(same)).with_context(|| format!("the kernel has no module {name}"))?;
    if order.contains(file) {
        return Ok(());
    }
    for needed in needs(file)? {
        place(&needed, files, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// `depends=` of a module's `.modinfo`.
fn needs(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file)?;
    let elf = object::File::parse(&*bytes).with_context(|| file.display().to_string())?;
    let info = elf
        .section_by_name(".modinfo")
        .with_context(|| format!("{} is no module", file.display()))?
        .uncompressed_data()?;
    let entry = info
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(entry.unwrap_or_default()).replace('-', "_");
    let names = names.split(',').filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

/// All below `root`, everything root's.
fn cpio(busybox: &Path, root: &Path, archive: &Path) -> Result<PathBuf> {
    let mut list = Vec::new();
    names(root, root, &mut list)?;
    let mut child = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(File::create(archive)?)
        .stderr(Stdio::null())
        .spawn()
        .context("running busybox cpio")?;
    let mut input = child.stdin.take().context("its input is a pipe")?;
    input.write_all(list.join("\n").as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "busybox cpio failed");
    Ok(archive.to_owned())
}

/// Folders before what is in them, as the kernel unpacks them.
fn names(root: &Path, folder: &Path, list: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.strip_prefix(root)?.to_str().map(str::to_owned);
        let Some(name) = name else {
            bail!("{} is not named in UTF-8", path.display());
        };
        list.push(name);
        if entry.file_type()?.is_dir() {
            names(root, &path, list)?;
        }
    }
    Ok(())
}
