//! On what was measured: figures of another machine are other figures.

use std::fs;

use serde_json::{Value, json};

/// The host as far as figures depend on it.
#[derive(Debug)]
pub(super) struct Machine {
    processor: String,
    cpus: usize,
    kernel: String,
    /// Load average over a minute before the run.
    load: f64,
    /// Commit of the sources, `+` behind it where they were changed.
    commit: String,
}

impl Machine {
    /// Looks now.
    pub(super) fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
            .unwrap_or("unknown processor");
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: processor.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            load: load
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(-1.0),
            commit: crate::exec::output(std::process::Command::new("git").args([
                "describe",
                "--always",
                "--dirty=+",
            ]))
            .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned()),
        }
    }

    /// One line for above a table.
    pub(super) fn line(&self) -> String {
        let busy = if self.load > 0.5 {
            ": the machine was not quiet"
        } else {
            ""
        };
        format!(
            "{}, {} CPUs, Linux {}, sources at {}; load before the run {:.2}{busy}",
            self.processor, self.cpus, self.kernel, self.commit, self.load
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "processor": self.processor, "cpus": self.cpus, "kernel": self.kernel,
            "load_before": self.load, "commit": self.commit,
        })
    }
}
