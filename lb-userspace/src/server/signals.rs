//! Signals as httpd takes them: TERM and INT stop, WINCH stops gracefully, USR1 and HUP reload.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// USR1, HUP.
    Reload,
    /// TERM, INT, WINCH.
    Stop {
        /// WINCH.
        graceful: bool,
    },
}

/// The signals of control.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    winch: Signal,
    hangup: Signal,
    usr1: Signal,
}

impl Signals {
    /// Takes them over; needs a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            winch: signal(SignalKind::window_change())?,
            hangup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Returns when a stop is asked for. A reload is no business of a start: it reads the file
    /// anyway.
    pub(super) async fn stop(&mut self) {
        while self.next().await == Asked::Reload {}
    }

    /// The next one that asks for something.
    pub(super) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop { graceful: false },
                _ = self.interrupt.recv() => return Asked::Stop { graceful: false },
                _ = self.hangup.recv() => return Asked::Reload,
                _ = self.usr1.recv() => return Asked::Reload,
                _ = self.winch.recv() => {
                    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
                    if !is_in_foreground(&stat) {
                        return Asked::Stop { graceful: true };
                    }
                    // httpd stops when its terminal is resized; that is nobody's wish.
                    tracing::info!(
                        notice = true,
                        "WINCH ignored: the terminal sends it when it is resized; \
                         `sluice stop --graceful` stops"
                    );
                }
            }
        }
    }
}

/// Whether a process is in the foreground of a terminal, from its line in proc(5): its process
/// group (field 5) is the terminal's (field 8).
fn is_in_foreground(stat: &str) -> bool {
    // The name, field 2, may hold anything; nothing after its parenthesis does.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    match (fields.get(2), fields.get(5)) {
        (Some(group), Some(foreground)) => group == foreground,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_is_told_from_a_graceful_stop_by_the_process_group() {
        assert!(is_in_foreground("7 (a) b) S 1 70 60 34816 70 0"));
        assert!(!is_in_foreground("7 (sluice) S 1 70 60 34816 80 0"));
        assert!(!is_in_foreground("7 (sluice) S 1 70 60 0 -1 0"));
        assert!(!is_in_foreground(""));
    }
}
