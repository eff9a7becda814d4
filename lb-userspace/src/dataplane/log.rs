//! What the XDP program logs (`settings set log on`), handed on to `tracing`.

use std::{io, os::fd::AsFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec};

/// The ring buffer in which the loaded program leaves its log.
pub struct KernelLog {
    logger: EbpfLogger<Forward>,
}

/// Gives each record to `tracing`.
struct Forward;

impl KernelLog {
    /// Takes the ring out of the object; it can be taken once.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        let logger = EbpfLogger::init_with_logger(ebpf, Forward).ok()?;
        Some(Self { logger })
    }

    /// Hands on what is there; returns at once.
    pub fn drain(&mut self) {
        self.logger.flush();
    }

    /// Waits up to `milliseconds` for something to be there, and hands it on. For a thread of its
    /// own.
    pub fn wait(&mut self, milliseconds: u32) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: i64::from(milliseconds / 1000),
            tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
        };
        let mut ring = [PollFd::from_borrowed_fd(self.logger.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut ring, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.drain();
        Ok(())
    }
}

impl Log for Forward {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!(target: "sluice::xdp", "{}", record.args());
    }

    fn flush(&self) {}
}
