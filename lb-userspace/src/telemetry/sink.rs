//! Where log lines end up: files, pipes to programs, standard error.
//!
//! A line that cannot be written is lost and counted ([`take_lost`]); nothing here waits for a
//! program that does not read.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where a log's lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// A file opened for appending.
    File(Arc<File>),
    /// The end of a pipe that does not block.
    Pipe(Arc<File>),
    /// Standard error.
    Stderr,
}

/// Most bytes that a pipe takes as a whole or not at all, so that lines of several writers do not
/// mix (`PIPE_BUF`, pipe(7)). A longer line is cut.
const PIPE_BUF: usize = 4096;

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that were lost since it was asked last.
pub fn take_lost() -> u64 {
    LOST.swap(0, Relaxed)
}

/// Counts lines that will not be written.
pub(crate) fn lose(lines: &[u8]) {
    LOST.fetch_add(memchr::memchr_iter(b'\n', lines).count() as u64, Relaxed);
}

impl Sink {
    /// Of an open file: a FIFO is a pipe, by whatever name it was opened.
    pub fn of(file: Arc<File>) -> Self {
        let is_pipe = rustix::fs::fstat(&*file)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo());
        if is_pipe {
            Self::Pipe(file)
        } else {
            Self::File(file)
        }
    }

    /// Writes whole lines, each with its end. What was not written is counted as lost.
    ///
    /// # Errors
    ///
    /// The system's, of the first line that was lost.
    pub fn write(&self, lines: &[u8]) -> io::Result<()> {
        let result = match self {
            Self::File(file) => (&**file).write_all(lines),
            Self::Stderr => io::stderr().lock().write_all(lines),
            Self::Pipe(pipe) => return write_pipe(pipe.as_fd(), lines),
        };
        if result.is_err() {
            lose(lines);
        }
        result
    }
}

fn write_pipe(pipe: BorrowedFd<'_>, mut lines: &[u8]) -> io::Result<()> {
    while !lines.is_empty() {
        let ahead = &lines[..lines.len().min(PIPE_BUF)];
        let written = if let Some(end) = memchr::memrchr(b'\n', ahead) {
            let (whole, rest) = lines.split_at(end + 1);
            rustix::io::write(pipe, whole).map(|_| rest)
        } else {
            // One line, longer than may be written at once.
            let mut cut = ahead.to_vec();
            if let Some(last) = cut.last_mut() {
                *last = b'\n';
            }
            let end = memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
            rustix::io::write(pipe, &cut).map(|_| &lines[end..])
        };
        match written {
            Ok(rest) => lines = rest,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                lose(lines);
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Held by a test that looks at what is lost: the count is the process's, and whoever takes it takes it
/// from another test that runs beside it.
#[cfg(test)]
pub(crate) static COUNTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pipe() -> (File, Sink) {
        let flags = rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags).expect("pipe");
        (File::from(read), Sink::of(Arc::new(File::from(write))))
    }

    #[test]
    fn pipe_that_nobody_reads_costs_whole_lines_and_no_time() {
        let (mut read, sink) = pipe();
        assert!(matches!(sink, Sink::Pipe(_)));
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let _alone = COUNTING.lock().expect("no panic");
        let block = line.repeat(5000);
        let error = sink.write(&block).expect_err("more than a pipe holds");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut got = vec![0; 1 << 20];
        let count = read.read(&mut got).expect("what was written");
        assert_eq!(count % 100, 0, "only whole lines");
        assert!(count >= 40 << 10, "{count}");
        // Other tests of this process lose lines too.
        assert!(take_lost() >= 5000 - count as u64 / 100);
        sink.write(b"again\n").expect("there is room once more");
    }

    #[test]
    fn line_too_long_for_a_pipe_is_cut_and_the_next_one_whole() {
        let (mut read, sink) = pipe();
        let lines = [b"a\n".as_slice(), &b"x".repeat(9000), b"\nb\n"].concat();
        sink.write(&lines).expect("written");
        let mut got = vec![0; 16 << 10];
        let count = read.read(&mut got).expect("read");
        let got = &got[..count];
        let lines: Vec<usize> = got.split(|b| *b == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lines, [1, PIPE_BUF - 1, 1, 0]);
    }
}
