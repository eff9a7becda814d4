//! Where configuration text comes from: the file system, or a map in memory for tests and fuzzing.
//!
//! The one door through which the configuration reaches the outside. It reads; it never writes and
//! never opens anything but regular files and directories.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A socket, a device, a FIFO: never read, for reading it might not end.
    Other,
}

/// Somewhere to read configuration files from.
pub trait Source {
    /// What `path` leads to, symbolic links followed.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// The file's bytes; [`io::ErrorKind::FileTooLarge`] above `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Names in a directory, in any order, without `.` and `..`.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// A name that is equal for two paths to one file.
    fn identity(&self, path: &Path) -> PathBuf;
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Source for Files {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let meta = fs::metadata(path)?;
        Ok(if meta.is_dir() {
            Kind::Directory
        } else if meta.is_file() {
            Kind::File
        } else {
            Kind::Other
        })
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        use io::Read as _;

        // Read one byte more than allowed instead of trusting the size: the file may grow.
        let mut bytes = Vec::new();
        fs::File::open(path)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn identity(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// Files in memory, by absolute path; directories are the parents of files.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Memory {
    /// One file.
    pub fn new(path: &str, text: impl Into<Vec<u8>>) -> Self {
        Self::default().with(path, text)
    }

    /// And another file.
    #[must_use]
    pub fn with(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.files.insert(PathBuf::from(path), text.into());
        self
    }
}

impl Source for Memory {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        if self.files.contains_key(path) {
            return Ok(Kind::File);
        }
        if self.files.keys().any(|file| file.starts_with(path)) {
            return Ok(Kind::Directory);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if bytes.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.clone())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        if self.kind(path)? != Kind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(path).ok()?.iter().next())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn identity(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}
