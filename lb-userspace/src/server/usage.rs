//! What the service's processes take, from `/proc`.

use std::time::Duration;

use crate::admin::metrics::Usage;

/// Of a process; what cannot be read is not there.
pub(super) fn of(process: &'static str, pid: u32) -> Usage {
    let directory = format!("/proc/{pid}");
    let read = |name: &str| std::fs::read_to_string(format!("{directory}/{name}"));
    let resident = read("statm").ok().and_then(|text| {
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    });
    Usage {
        process,
        resident,
        descriptors: descriptors(&format!("{directory}/fd")),
        cpu: read("stat").ok().and_then(|text| cpu(&text)),
    }
}

/// Times in user and kernel mode: the 14th and 15th field of proc_pid_stat(5).
fn cpu(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    let second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks * 1000 / second))
}

fn descriptors(directory: &str) -> Option<u64> {
    // Since Linux 6.2 the size says it, whoever asks; before, it is 0 and they are counted.
    match std::fs::metadata(directory).ok()?.len() {
        0 => Some(std::fs::read_dir(directory).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_takes_something() {
        let usage = of("control", std::process::id());
        assert!(usage.resident.is_some_and(|bytes| bytes > 1 << 20));
        assert!(usage.descriptors.is_some_and(|count| count >= 3));
        assert!(usage.cpu.is_some());
        let none = of("proxy", u32::MAX);
        assert_eq!(
            (none.resident, none.descriptors, none.cpu),
            (None, None, None)
        );
    }

    #[test]
    fn name_of_a_process_cannot_shift_its_times() {
        let stat = "7 (a) b 1 2) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("7 (a) S 1"), None);
    }
}
