//! `ErrorLog syslog`: datagrams to the system log, in the form that glibc's syslog(3) sends.
//!
//! Never waits: a system log that does not read costs lines, which are counted.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::sink;

/// Where every Linux system log listens.
const SOCKET: &str = "/dev/log";

/// The system log.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    /// Shifted: the upper bits of a priority.
    facility: u8,
    tag: String,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    /// Lines of a facility (0 to 23) under a tag. Connects with the first line.
    pub fn new(facility: u8, tag: &str) -> Self {
        Self::at(Path::new(SOCKET), facility, tag)
    }

    fn at(path: &Path, facility: u8, tag: &str) -> Self {
        Self {
            path: path.to_owned(),
            facility: facility.min(23) << 3,
            tag: tag.to_owned(),
            socket: Mutex::new(None),
        }
    }

    /// Sends a line (without its end) of a severity, 0 to 7.
    pub fn send(&self, severity: u8, time: &jiff::Zoned, line: &str) {
        let datagram = format!(
            "<{}>{} {}[{}]: {line}",
            self.facility | severity.min(7),
            time.strftime("%b %e %H:%M:%S"),
            self.tag,
            std::process::id()
        );
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        for attempt in 0..2 {
            if socket.is_none() {
                *socket = self.connect().ok();
            }
            let Some(connected) = &*socket else { break };
            match connected.send(datagram.as_bytes()) {
                Ok(_) => return,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // The system log was restarted: once more over a new socket.
                Err(_) if attempt == 0 => *socket = None,
                Err(_) => break,
            }
        }
        sink::lose(b"\n");
    }

    fn connect(&self) -> std::io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_as_syslogs_also_after_it_was_restarted() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let server = UnixDatagram::bind(&path).expect("socket");
        let log = Syslog::at(&path, 19, "lb");
        let time: jiff::Timestamp = "2026-11-02T14:00:00Z".parse().expect("time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        let read = |server: &UnixDatagram| {
            let mut buffer = [0; 256];
            let count = server.recv(&mut buffer).expect("a datagram");
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        log.send(3, &time, "one");
        let pid = std::process::id();
        assert_eq!(
            read(&server),
            format!("<155>Nov  2 14:00:00 lb[{pid}]: one")
        );
        drop(server);
        std::fs::remove_file(&path).expect("removed");
        log.send(3, &time, "lost");
        let server = UnixDatagram::bind(&path).expect("socket");
        log.send(6, &time, "two");
        assert_eq!(
            read(&server),
            format!("<158>Nov  2 14:00:00 lb[{pid}]: two")
        );
    }

    #[test]
    fn system_log_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let _server = UnixDatagram::bind(&path).expect("socket");
        let log = Syslog::at(&path, 3, "lb");
        let _alone = sink::COUNTING.lock().expect("no panic");
        sink::take_lost();
        let time = jiff::Zoned::now();
        for _ in 0..10_000 {
            log.send(4, &time, "full");
        }
        assert!(sink::take_lost() > 0, "it did not take them all");
    }
}
