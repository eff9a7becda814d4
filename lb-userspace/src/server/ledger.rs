//! What control knows for metrics beside the maps: the shards' counters and whose they are, reloads.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    admin::metrics::{BalancerNumbers, Numbers},
    config::spec::Spec,
    dataplane::{Published, table::MemberTable},
    proxy::{reason::Reason, tls::outcome},
    telemetry::{
        counters::{Counters, Latency, MAX_BALANCERS, Number},
        sink,
    },
};
use lb_common::member::MemberId;

/// Control's side of the counters.
pub(super) struct Ledger {
    counters: Counters,
    file: OwnedFd,
    /// Columns that some proxy of this control counted in.
    columns: Vec<u32>,
    /// Balancers by row, and whether the configuration still has them.
    rows: Vec<(String, bool)>,
    /// Life of each slot that was counted for.
    lives: HashMap<MemberId, u32>,
    started: SystemTime,
    loaded: SystemTime,
    /// Reloads that were done, and that were refused.
    reloads: [u64; 2],
    last_load_failed: bool,
    /// Log lines of control's own that were not written.
    lines_lost: Cell<u64>,
}

/// What a successor must know to go on with the counters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LedgerState {
    /// What the counters mean; another build's may be laid out otherwise.
    meaning: String,
    columns: Vec<u32>,
    rows: Vec<(String, bool)>,
    lives: Vec<(u32, u32)>,
    started: SystemTime,
    loaded: SystemTime,
    reloads: [u64; 2],
}

/// Of this build.
fn meaning() -> String {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    format!("{} {}", Counters::LAYOUT, reasons.join(" "))
}

impl Ledger {
    /// Goes on with the counters of a predecessor; anew where they are not for these shards or this
    /// build, with the reason.
    pub(super) fn inherit(
        state: LedgerState,
        file: OwnedFd,
        shards: (usize, usize),
    ) -> io::Result<(Self, Option<&'static str>)> {
        let (before, now) = shards;
        if state.meaning != meaning() {
            return Ok((Self::new(now)?, Some("this build counts otherwise")));
        }
        if before != now {
            return Ok((Self::new(now)?, Some("there is another number of shards")));
        }
        Ok((
            Self {
                counters: Counters::map(file.as_fd(), now)?,
                file,
                columns: state.columns,
                rows: state.rows,
                lives: (state.lives.into_iter())
                    .map(|(id, life)| (MemberId(id), life))
                    .collect(),
                started: state.started,
                loaded: state.loaded,
                reloads: state.reloads,
                last_load_failed: false,
                lines_lost: Cell::new(0),
            },
            None,
        ))
    }

    /// For [`Ledger::inherit`].
    pub(super) fn state(&self) -> LedgerState {
        LedgerState {
            meaning: meaning(),
            columns: self.columns.clone(),
            rows: self.rows.clone(),
            lives: (self.lives.iter())
                .map(|(id, life)| (id.0, *life))
                .collect(),
            started: self.started,
            loaded: self.loaded,
            reloads: self.reloads,
        }
    }

    pub(super) fn new(shards: usize) -> io::Result<Self> {
        let (counters, file) = Counters::anonymous(shards)?;
        let now = SystemTime::now();
        Ok(Self {
            counters,
            file,
            columns: Vec::new(),
            rows: Vec::new(),
            lives: HashMap::new(),
            started: now,
            loaded: now,
            reloads: [0; 2],
            last_load_failed: false,
            lines_lost: Cell::new(0),
        })
    }

    /// For the proxy.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A proxy begins to count in a column.
    pub(super) fn proxy_started(&mut self, column: u32) {
        self.counters.clear_gauges(column);
        if !self.columns.contains(&column) {
            self.columns.push(column);
        }
    }

    /// The proxy of a column is dead.
    pub(super) fn proxy_ended(&self, column: u32) {
        self.counters.clear_gauges(column);
    }

    /// A generation was published and goes to the proxy next: makes room for what it counts. The
    /// balancers that get no histograms, for a notice.
    pub(super) fn published(
        &mut self,
        spec: &Spec,
        published: &Published,
        table: &MemberTable,
    ) -> Option<String> {
        for id in published.ids.iter().flatten() {
            let life = table.cell(*id).map_or(0, |cell| {
                cell.incarnation.load(std::sync::atomic::Ordering::Relaxed)
            });
            if self.lives.insert(*id, life).is_some_and(|old| old != life) {
                self.counters.clear_member(&self.columns, *id);
            }
        }
        let is_wanted = |name: &str| spec.balancers.iter().any(|b| b.name == name);
        for (name, wanted) in &mut self.rows {
            *wanted = is_wanted(name);
        }
        let mut without = 0;
        for balancer in &spec.balancers {
            without += usize::from(!self.give_row(&balancer.name));
        }
        (without > 0).then(|| {
            format!(
                "{without} balancers have no latency histograms: there is room for {MAX_BALANCERS}"
            )
        })
    }

    /// Whether a balancer has a row now.
    fn give_row(&mut self, name: &str) -> bool {
        if self.rows.iter().any(|(known, _)| known == name) {
            return true;
        }
        let entry = (name.to_owned(), true);
        let row = if self.rows.len() < MAX_BALANCERS {
            self.rows.push(entry);
            self.rows.len() - 1
        } else if let Some(free) = self.rows.iter().position(|(_, wanted)| !wanted) {
            self.rows[free] = entry;
            self.counters.clear_row(&self.columns, free);
            free
        } else {
            return false;
        };
        self.counters.name_row(row, name);
        true
    }

    /// A reload ended.
    pub(super) fn reloaded(&mut self, done: bool) {
        self.reloads[usize::from(!done)] += 1;
        self.last_load_failed = !done;
        if done {
            self.loaded = SystemTime::now();
        }
    }

    /// Client connections open now.
    pub(super) fn clients(&self) -> u64 {
        self.counters.number(&self.columns, Number::Clients)
    }

    /// Connections that a shard has accepted.
    pub(super) fn accepted_by(&self, shard: usize) -> u64 {
        let columns = &self.columns;
        self.counters.shard_number(columns, shard, Number::Accepted)
    }

    /// Everything, summed.
    pub(super) fn numbers(&self, ids: impl Iterator<Item = MemberId>) -> Numbers {
        self.lines_lost
            .set(self.lines_lost.get() + sink::take_lost());
        let (counters, columns) = (&self.counters, self.columns.as_slice());
        Numbers {
            started: self.started,
            loaded: self.loaded,
            reloads: self.reloads,
            last_load_failed: self.last_load_failed,
            accepted: counters.number(columns, Number::Accepted),
            http2: [
                Number::H2Connections,
                Number::H2Streams,
                Number::H2Resets,
                Number::H2Floods,
            ]
            .map(|number| counters.number(columns, number)),
            open: counters.number(columns, Number::Open),
            idle: counters.number(columns, Number::Idle),
            waiting: counters.number(columns, Number::Waiting),
            tunnels: counters.number(columns, Number::Tunnels),
            ejections: counters.number(columns, Number::Ejections),
            retries_refused: counters.number(columns, Number::RetriesRefused),
            lines_lost: counters.number(columns, Number::LinesLost) + self.lines_lost.get(),
            usage: Vec::new(),
            classes: counters.classes(columns),
            failures: Reason::ALL
                .iter()
                .map(|reason| (reason.name(), counters.failures(columns, *reason as usize)))
                .collect(),
            handshakes: outcome::made_labels()
                .map(|(labels, end)| (labels, counters.handshakes(columns, end)))
                .collect(),
            failed_handshakes: outcome::failed_labels()
                .map(|(labels, end)| (labels, counters.handshakes(columns, end)))
                .collect(),
            certificates: Vec::new(),
            members: ids
                .map(|id| (id.0, counters.member_classes(columns, id)))
                .collect(),
            balancers: self
                .rows
                .iter()
                .enumerate()
                .filter(|(_, (_, wanted))| *wanted)
                .map(|(row, (name, _))| BalancerNumbers {
                    name: name.clone(),
                    first_byte: counters.histogram(columns, row, Latency::FirstByte),
                    total: counters.histogram(columns, row, Latency::Total),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counters::{Histogram, Tally};
    use std::{sync::Arc, time::Duration};

    #[test]
    fn a_balancers_row_is_given_away_when_it_is_gone_and_no_other_is_left() {
        let mut ledger = Ledger::new(1).expect("memory");
        ledger.proxy_started(3);
        for index in 0..MAX_BALANCERS {
            assert!(ledger.give_row(&format!("b{index}")));
        }
        assert!(ledger.give_row("b7"), "it has one");
        assert!(!ledger.give_row("late"));
        let same = Counters::map(ledger.file(), 1).expect("second mapping");
        let tally = Tally::new(Arc::new(same), 3, 0);
        for row in [7, 8] {
            tally.took(row, Latency::Total, Duration::from_millis(1));
        }
        ledger.rows[7].1 = false;
        assert!(ledger.give_row("late"));
        assert_eq!(ledger.counters.row("late"), Some(7));
        assert_eq!(ledger.counters.row("b7"), None);
        let total = |row| ledger.counters.histogram(&[3], row, Latency::Total);
        assert_eq!(total(7), Histogram::default(), "not the predecessor's");
        assert_eq!(total(8).sum_us, 1000);
    }
}
