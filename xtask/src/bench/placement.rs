//! On which processors what is measured runs, and on which whoever drives and answers it.
//!
//! Left to the scheduler, who shares a processor with whom changes from row to row and from peer to
//! peer, and costs more than what is compared: one peer's request was measured at 20 and at 27 us in
//! the same minutes.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use, divided.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    all: CpuSet,
    first: CpuSet,
    others: CpuSet,
}

impl Placement {
    /// The first of our processors for who is measured, the others for the rest; with one processor
    /// there is nothing to divide.
    pub(super) fn look() -> Result<Self> {
        let all = sched_getaffinity(None).context("which processors are ours")?;
        let (mut first, mut others) = (CpuSet::new(), CpuSet::new());
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)) {
            let set = if first.count() == 0 {
                &mut first
            } else {
                &mut others
            };
            set.set(cpu);
        }
        if others.count() == 0 {
            others = all;
        }
        Ok(Self { all, first, others })
    }

    /// Whoever is started by this thread while this is held has the first processor, or with more
    /// than one `workers` all.
    pub(super) fn of_peer(&self, workers: u32) -> Result<Held> {
        Held::on(if workers > 1 { &self.all } else { &self.first })
    }

    /// Whoever is started by this thread while this is held has the others.
    pub(super) fn of_rest(&self) -> Result<Held> {
        Held::on(&self.others)
    }

    /// For the report.
    pub(super) fn describe(&self) -> String {
        format!(
            "A peer with one worker is held on one processor, whoever drives and answers it on {} \
             other(s): where the scheduler puts them is not what is compared.",
            self.others.count()
        )
    }
}

/// This thread on some processors, until it is dropped.
pub(super) struct Held {
    before: CpuSet,
}

impl Held {
    fn on(cpus: &CpuSet) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, cpus).context("choosing processors")?;
        Ok(Self { before })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Where it came from it may go back to.
        let _ = sched_setaffinity(None, &self.before);
    }
}
