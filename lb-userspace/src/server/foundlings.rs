//! Children that the program before this one had and that nobody waits for any more: the programs of
//! its logs, which read on until the old proxy has written its last line. This process is still their
//! parent, so without a wait each would stay a zombie until control ends.

use std::fs;

use rustix::process::{Pid, WaitOptions, waitpid};

/// Found when control starts as a successor; they leave one by one.
#[derive(Debug, Default)]
pub(super) struct Foundlings(Vec<Pid>);

impl Foundlings {
    /// All children of this process but those that are somebody's: `known`, by process id. To be
    /// called before this program starts any of its own.
    pub(super) fn of_predecessor(known: &[u32]) -> Self {
        let own = rustix::process::getpid();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let children = entries.filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent(&stat)? == own && !known.contains(&pid)).then_some(pid)
        });
        Self(
            children
                .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
                .collect(),
        )
    }

    /// Takes leave of those that have ended. Never waits.
    pub(super) fn tend(&mut self) {
        // Nobody's child any more (ECHILD) is gone, too.
        self.0
            .retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
    }
}

/// The fourth field of `/proc/PID/stat` (proc(5)); the second, in parentheses, may hold anything.
fn parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split(' ').nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn parent_is_found_behind_any_name() {
        let found = |stat| parent(stat).map(|pid| pid.as_raw_nonzero().get());
        assert_eq!(found("17 (cat) S 4 17 17 0 -1"), Some(4));
        assert_eq!(found("17 (a) S 9 ) (b) R 4 17 17"), Some(4));
        assert_eq!(found("17 (a"), None);
        assert_eq!(found(""), None);
    }
}
