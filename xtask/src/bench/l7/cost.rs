//! What a tree of processes has used, from /proc: nothing of the processes themselves is touched.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// What has been used so far, by a process and all below it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Time on a CPU, ns, of the threads that live.
    pub(super) cpu: u64,
    /// Of which in user mode, in the process and in the kernel for it: ticks of 10 ms.
    pub(super) user: u64,
    /// In the kernel, ticks.
    pub(super) system: u64,
    /// Context switches, of one's own accord or not.
    pub(super) switches: u64,
}

impl Used {
    /// Reads it now.
    pub(super) fn by(root: i32) -> Self {
        let mut used = Self::default();
        for pid in tree(root) {
            let (user, system) = ticks(pid).unwrap_or_default();
            used.user += user;
            used.system += system;
            for task in tasks(pid) {
                used.cpu += first_number(&task.join("schedstat")).unwrap_or(0);
                used.switches += switches(&task.join("status"));
            }
        }
        used
    }

    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            // A thread that has ended took its time with it.
            cpu: self.cpu.saturating_sub(before.cpu),
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// A process and all below it.
pub(super) fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in tasks(pid) {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<i32>().ok()),
            );
        }
    }
    found
}

/// Whether every thread of the tree is traced.
pub(super) fn is_traced(root: i32) -> bool {
    tree(root).into_iter().flat_map(tasks).all(|task| {
        fs::read_to_string(task.join("status"))
            .is_ok_and(|status| field(&status, "TracerPid:").is_some_and(|pid| pid != 0))
    })
}

/// Proportional set size of a tree, bytes: shared pages are divided by those that share them.
pub(super) fn pss(root: i32) -> Result<u64> {
    let mut sum = 0;
    for pid in tree(root) {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        sum += field(&text, "Pss:").with_context(|| format!("no Pss in {path}"))? * 1024;
    }
    Ok(sum)
}

/// Ticks of 10 ms that all CPUs together were not idle.
pub(super) fn machine() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user.
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| numbers.get(*place))
        .sum()
}

/// Kernel memory of TCP sockets, bytes, of the whole host.
pub(super) fn socket_memory() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = text.lines().find_map(|line| {
        let mut words = line.strip_prefix("TCP:")?.split_whitespace();
        words.find(|word| *word == "mem")?;
        words.next()?.parse::<u64>().ok()
    });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn tasks(pid: i32) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// utime and stime of a process; threads that have ended are in it.
fn ticks(pid: i32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; fields 14 and 15, of which it is the second.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn switches(status: &Path) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"]
        .iter()
        .filter_map(|name| field(&text, name))
        .sum()
}

fn first_number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The number behind a name at a line's beginning.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_use_grows_with_work() {
        let me = i32::try_from(std::process::id()).expect("a process id");
        let before = Used::by(me);
        let mut n = 0u64;
        while Used::by(me).since(before).cpu < 20_000_000 {
            n = std::hint::black_box(n + 1);
        }
        assert!(tree(me).contains(&me));
        assert!(pss(me).expect("smaps_rollup") > 100_000);
        assert!(!is_traced(me));
    }
}
