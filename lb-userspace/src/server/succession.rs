//! How a proxy whose control died learns that another control serves, and may leave.
//!
//! Until then it goes on accepting: a control killed and started again costs no request. The sign
//! is the text of the instance's lock file, of which the proxy was given a descriptor.

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
};

use crate::dataplane::Holder;

/// Longest text that is looked at, bytes.
const LONGEST: usize = 64;

/// The lock file of the instance, as the proxy sees it.
#[derive(Debug)]
pub(super) struct Succession {
    file: File,
    /// The control that started this proxy.
    control: u32,
}

impl Succession {
    /// From the descriptor that control sent.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut this = Self {
            file: File::from(fd),
            control: 0,
        };
        this.control = this.read()?.control;
        Ok(this)
    }

    /// Whether another control serves through another proxy, or none ever can: the file is gone.
    pub(super) fn has_happened(&self) -> bool {
        let unlinked = self.file.metadata().is_ok_and(|data| data.nlink() == 0);
        unlinked
            || self.read().is_ok_and(|holder| {
                holder.control != 0 && holder.control != self.control && holder.proxy.is_some()
            })
    }

    fn read(&self) -> io::Result<Holder> {
        let mut text = [0; LONGEST];
        let length = self.file.read_at(&mut text, 0)?;
        Ok(Holder::parse(&String::from_utf8_lossy(&text[..length])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn succession(text: &str) -> (tempfile::NamedTempFile, Succession) {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("write");
        let reader = File::open(file.path()).expect("open");
        (file, Succession::new(reader.into()).expect("read"))
    }

    #[test]
    fn another_control_that_serves_ends_the_wait() {
        let (file, succession) = succession("41\nserving 42\n");
        assert!(!succession.has_happened(), "its own control");
        std::fs::write(file.path(), "51\n").expect("write");
        assert!(!succession.has_happened(), "the next does not serve yet");
        std::fs::write(file.path(), "51\norphan 42\n").expect("write");
        assert!(!succession.has_happened(), "nor does it when it names us");
        std::fs::write(file.path(), "").expect("write");
        assert!(!succession.has_happened(), "half written");
        std::fs::write(file.path(), "51\nserving 52\n").expect("write");
        assert!(succession.has_happened());
    }

    #[test]
    fn a_lock_file_that_is_gone_ends_the_wait() {
        let (file, succession) = succession("41\n");
        file.close().expect("unlink");
        assert!(succession.has_happened());
    }
}
