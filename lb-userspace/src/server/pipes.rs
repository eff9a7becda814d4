//! Programs that read logs (`CustomLog "|..."`): control starts each with a pipe as its standard input,
//! and again when it ends.
//!
//! Control keeps both ends of the pipe. So a program that ends loses no line: what it has not read
//! waits for the next one, and who writes notices nothing. The pipe is the queue: what it does not hold
//! is lost and counted by who writes, for writing never waits.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::spec::LogProgram;

/// Bytes that a pipe holds, where the kernel allows it (`fs.pipe-max-size`).
const QUEUE: usize = 1 << 20;
/// A program that lived shorter than this is started again after a pause.
const STABLE: Duration = Duration::from_secs(10);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// A program and its pipe.
#[derive(Debug)]
pub(crate) struct Piped {
    program: LogProgram,
    read: OwnedFd,
    write: Arc<File>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    born: Instant,
    /// Before the next start; doubles.
    pause: Duration,
    again_at: Option<Instant>,
}

impl Piped {
    /// Starts it.
    pub(crate) fn start(program: &LogProgram) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // Its own end blocks; ours does not.
        rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::NONBLOCK)?;
        // A smaller queue is one too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, QUEUE);
        let child = spawn(program, &read)?;
        Ok(Self {
            program: program.clone(),
            read,
            write: Arc::new(File::from(write)),
            state: Mutex::new(State {
                child: Some(child),
                born: Instant::now(),
                pause: Duration::ZERO,
                again_at: None,
            }),
        })
    }

    /// What was started.
    pub(crate) fn program(&self) -> &LogProgram {
        &self.program
    }

    /// Where lines are written.
    pub(crate) fn end(&self) -> &Arc<File> {
        &self.write
    }

    /// Starts it again if it has ended.
    pub(crate) fn tend(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.program.words.first().map_or("", String::as_str);
        if let Some(child) = &mut state.child {
            let status = match child.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            state.child = None;
            let lived = state.born.elapsed();
            state.pause = if lived >= STABLE {
                Duration::ZERO
            } else {
                (state.pause * 2).clamp(Duration::from_secs(1), MAX_PAUSE)
            };
            state.again_at = Some(Instant::now() + state.pause);
            tracing::error!("AH00106: piped log program '{name}' failed unexpectedly ({status})");
        }
        if state.again_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        match spawn(&self.program, &self.read) {
            Ok(child) => {
                state.child = Some(child);
                state.born = Instant::now();
                state.again_at = None;
            }
            Err(error) => {
                state.pause = (state.pause * 2).clamp(Duration::from_secs(1), MAX_PAUSE);
                state.again_at = Some(Instant::now() + state.pause);
                tracing::error!("AH00105: unable to start piped log program '{name}': {error}");
            }
        }
    }
}

fn spawn(program: &LogProgram, read: &OwnedFd) -> io::Result<Child> {
    let mut words = program.words.iter();
    let first = words.next().map_or("", String::as_str);
    let mut command = if program.shell {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", first]);
        command
    } else {
        let mut command = Command::new(first);
        command.args(words);
        command
    };
    command
        .stdin(Stdio::from(read.as_fd().try_clone_to_owned()?))
        // Ctrl-C is for control; the program ends when it has read the last line.
        .process_group(0)
        .spawn()
}

impl Drop for Piped {
    /// It reads what is left and ends when the last writer is gone; somebody has to wait for it.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = state.child.take() {
            // Without a thread it stays a zombie until control ends.
            drop(std::thread::Builder::new().spawn(move || child.wait()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::sink::Sink;

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn program_that_ends_is_started_again_and_loses_no_line() {
        let directory = tempfile::tempdir().expect("directory");
        let out = directory.path().join("out");
        // Reads one line a life.
        let piped = Piped::start(&LogProgram {
            words: vec![format!("read line; echo \"$line\" >> {}", out.display())],
            shell: true,
        })
        .expect("started");
        let sink = Sink::of(Arc::clone(piped.end()));
        sink.write(b"one\n").expect("written");
        let content = || std::fs::read_to_string(&out).unwrap_or_default();
        until("the first line", || content() == "one\n");
        sink.write(b"two\n").expect("written");
        until("the second line", || {
            piped.tend();
            content() == "one\ntwo\n"
        });
    }

    #[test]
    fn program_reads_the_rest_after_its_log_is_given_up() {
        let directory = tempfile::tempdir().expect("directory");
        let out = directory.path().join("out");
        let piped = Piped::start(&LogProgram {
            words: vec!["/usr/bin/tee".to_owned(), out.display().to_string()],
            shell: false,
        })
        .expect("started");
        let pid = {
            let state = piped.state.lock().expect("not poisoned");
            state.child.as_ref().expect("running").id()
        };
        Sink::of(Arc::clone(piped.end()))
            .write(b"last\n")
            .expect("written");
        drop(piped);
        until("the line", || {
            std::fs::read_to_string(&out).is_ok_and(|text| text == "last\n")
        });
        let process = std::path::PathBuf::from(format!("/proc/{pid}"));
        until("it is gone", || !process.exists());
    }

    #[test]
    fn program_that_is_not_there_is_an_error() {
        let program = LogProgram {
            words: vec!["/nonexistent/rotatelogs".to_owned()],
            shell: false,
        };
        let error = Piped::start(&program).expect_err("not started");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
