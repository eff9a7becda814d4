//! What the shards count, in memory that control reads while they do.
//!
//! Each shard of each proxy process has a block of its own and is its only writer, so counting is a
//! relaxed load and a relaxed store: no locked instruction, no allocation, nothing to wait for. A
//! block belongs to a column of `BUSY` and a shard, and is gone on with by the next process of that
//! column: counters outlive a proxy, gauges are cleared when it dies. The memory ends with control.

use std::{
    hash::Hasher as _,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lb_common::{
    abi::{BUSY_COLUMNS, MAX_MEMBERS},
    member::MemberId,
};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::dataplane::sys::{Mapping, fd_of, memory_file};

/// Most reasons of failed requests.
pub const MAX_REASONS: usize = 64;
/// Classes of a request's end: no answer, then 1xx to 5xx.
pub const CLASSES: usize = 6;
/// Ends of TLS handshakes that are told apart.
pub const HANDSHAKES: usize = 32;
/// Buckets of a histogram; the last has no upper bound.
pub const BUCKETS: usize = 21;
/// Balancers with histograms; a configuration's further ones have none.
pub const MAX_BALANCERS: usize = 256;

/// Upper bound of a bucket, µs; `None`: none. Doubles from 128 µs to 67 s.
pub const fn bound_us(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(128 << bucket)
    } else {
        None
    }
}

/// The bucket of a duration, µs.
const fn bucket(us: u64) -> usize {
    if us <= 128 {
        return 0;
    }
    let doublings = (u64::BITS - (us - 1).leading_zeros()) as usize - 7;
    if doublings < BUCKETS {
        doublings
    } else {
        BUCKETS - 1
    }
}

/// A shard's numbers that are not about one member or balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Connections accepted.
    Accepted,
    /// Client connections open (gauge).
    Clients,
    /// Connections to members open (gauge).
    Open,
    /// Of them, idle in a pool (gauge, once a second).
    Idle,
    /// Requests that wait for a connection to a member (gauge).
    Waiting,
    /// Log lines that were not written.
    LinesLost,
    /// Client connections that spoke HTTP/2.
    H2Connections,
    /// Requests over HTTP/2.
    H2Streams,
    /// Of them, reset by the client.
    H2Resets,
    /// HTTP/2 connections closed for what they flooded us with.
    H2Floods,
    /// Connections that are tunnels (gauge).
    Tunnels,
    /// Members put into error for failing answers (`ejectmax`).
    Ejections,
    /// Requests not tried again for want of `retrybudget`.
    RetriesRefused,
}

impl Number {
    const GAUGES: [Self; 5] = [
        Self::Clients,
        Self::Open,
        Self::Idle,
        Self::Waiting,
        Self::Tunnels,
    ];
}

// Offsets within a block, in cells of 8 bytes; each part begins on a cache line.
const CLASS: usize = 32;
const REASON: usize = 40;
const MEMBER: usize = REASON + MAX_REASONS;
const MEMBER_CELLS: usize = 8;
const BALANCER: usize = MEMBER + MAX_MEMBERS as usize * MEMBER_CELLS;
const BALANCER_CELLS: usize = 64;
const TIMES: [usize; 2] = [0, 32];
const SUM: usize = BUCKETS;
const HANDSHAKE: usize = BALANCER + MAX_BALANCERS * BALANCER_CELLS;
const BLOCK: usize = HANDSHAKE + HANDSHAKES;
/// Two words of a balancer's name, hashed, for each row: the shards find their rows by it.
const DIRECTORY: usize = MAX_BALANCERS * 2;

const _: () =
    assert!((Number::RetriesRefused as usize) < CLASS && CLASSES <= MEMBER_CELLS && BUCKETS < 32);

/// Which of a balancer's histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the request's head to the response's.
    FirstByte,
    /// From the request's head to the response's end.
    Total,
}

/// A histogram's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations by bucket, not cumulated.
    pub buckets: [u64; BUCKETS],
    /// Sum of all, µs.
    pub sum_us: u64,
}

/// The memory of all shards.
pub struct Counters {
    cells: Mapping<AtomicU64>,
    shards: usize,
}

impl Counters {
    /// Cells of a block: told apart by it are layouts of different builds.
    pub const LAYOUT: usize = BLOCK;

    /// New memory for `shards` shards, and its file for the proxy. Pages are taken when written.
    pub fn anonymous(shards: usize) -> io::Result<(Self, OwnedFd)> {
        let bytes = Self::cells(shards) * size_of::<AtomicU64>();
        let file = memory_file("sluice-counters", bytes as u64)?;
        Ok((Self::map(fd_of(&file), shards)?, file))
    }

    /// Maps memory that [`Counters::anonymous`] made for as many shards.
    pub fn map(file: BorrowedFd<'_>, shards: usize) -> io::Result<Self> {
        Ok(Self {
            cells: Mapping::of(file, Self::cells(shards))?,
            shards,
        })
    }

    const fn cells(shards: usize) -> usize {
        DIRECTORY + BUSY_COLUMNS as usize * shards * BLOCK
    }

    fn block(&self, column: u32, shard: usize) -> usize {
        let column = column as usize % BUSY_COLUMNS as usize;
        DIRECTORY + (column * self.shards + shard % self.shards) * BLOCK
    }

    fn load(&self, at: usize) -> u64 {
        self.cells.cell(at).map_or(0, |cell| cell.load(Relaxed))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(cell) = self.cells.cell(at) {
            cell.store(value, Relaxed);
        }
    }

    /// The row of a balancer that [`Counters::name_row`] gave one.
    pub fn row(&self, balancer: &str) -> Option<usize> {
        let name = hash(balancer);
        (0..MAX_BALANCERS).find(|row| [self.load(row * 2), self.load(row * 2 + 1)] == name)
    }

    /// Gives a row to a balancer. Its histograms go on where they are: [`Counters::clear_row`].
    pub fn name_row(&self, row: usize, balancer: &str) {
        let [first, second] = hash(balancer);
        self.store(row * 2, first);
        self.store(row * 2 + 1, second);
    }

    fn blocks<'a>(&'a self, columns: &'a [u32]) -> impl Iterator<Item = usize> + 'a {
        let shards = 0..self.shards;
        columns
            .iter()
            .flat_map(move |column| shards.clone().map(|shard| self.block(*column, shard)))
    }

    fn sum(&self, columns: &[u32], at: usize) -> u64 {
        self.blocks(columns)
            .map(|block| self.load(block + at))
            .fold(0, u64::wrapping_add)
    }

    /// Empties a balancer's histograms. For a row that nobody counts in.
    pub fn clear_row(&self, columns: &[u32], row: usize) {
        self.clear(columns, BALANCER + row * BALANCER_CELLS, BALANCER_CELLS);
    }

    /// Empties a member's counters. For a slot that begins another life.
    pub fn clear_member(&self, columns: &[u32], id: MemberId) {
        self.clear(
            columns,
            MEMBER + id.0 as usize % MAX_MEMBERS as usize * MEMBER_CELLS,
            MEMBER_CELLS,
        );
    }

    /// Empties the gauges of a process that is gone.
    pub fn clear_gauges(&self, column: u32) {
        for gauge in Number::GAUGES {
            self.clear(&[column], gauge as usize, 1);
        }
    }

    fn clear(&self, columns: &[u32], at: usize, cells: usize) {
        for block in self.blocks(columns) {
            for cell in 0..cells {
                self.store(block + at + cell, 0);
            }
        }
    }

    /// A number of all shards of these columns.
    pub fn number(&self, columns: &[u32], number: Number) -> u64 {
        self.sum(columns, number as usize)
    }

    /// A number of one shard of these columns.
    pub fn shard_number(&self, columns: &[u32], shard: usize, number: Number) -> u64 {
        columns
            .iter()
            .map(|column| self.load(self.block(*column, shard) + number as usize))
            .fold(0, u64::wrapping_add)
    }

    /// Requests by class.
    pub fn classes(&self, columns: &[u32]) -> [u64; CLASSES] {
        std::array::from_fn(|class| self.sum(columns, CLASS + class))
    }

    /// Requests that failed for a reason.
    pub fn failures(&self, columns: &[u32], reason: usize) -> u64 {
        self.sum(columns, REASON + reason % MAX_REASONS)
    }

    /// TLS handshakes that ended in one way.
    pub fn handshakes(&self, columns: &[u32], end: usize) -> u64 {
        self.sum(columns, HANDSHAKE + end % HANDSHAKES)
    }

    /// Requests by class that a member was given last.
    pub fn member_classes(&self, columns: &[u32], id: MemberId) -> [u64; CLASSES] {
        let at = MEMBER + id.0 as usize % MAX_MEMBERS as usize * MEMBER_CELLS;
        std::array::from_fn(|class| self.sum(columns, at + class))
    }

    /// A balancer's histogram.
    pub fn histogram(&self, columns: &[u32], row: usize, latency: Latency) -> Histogram {
        let at = BALANCER + row % MAX_BALANCERS * BALANCER_CELLS + TIMES[latency as usize];
        Histogram {
            buckets: std::array::from_fn(|bucket| self.sum(columns, at + bucket)),
            sum_us: self.sum(columns, at + SUM),
        }
    }
}

/// One shard's block, for its thread alone.
pub struct Tally {
    counters: Arc<Counters>,
    block: usize,
}

impl Tally {
    /// The block of a shard. Nobody else may count in it.
    pub fn new(counters: Arc<Counters>, column: u32, shard: usize) -> Self {
        let block = counters.block(column, shard);
        Self { counters, block }
    }

    fn add(&self, at: usize, count: u64) {
        if let Some(cell) = self.counters.cells.cell(self.block + at) {
            cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
        }
    }

    /// So many more.
    pub fn count(&self, number: Number, count: u64) {
        self.add(number as usize, count);
    }

    /// One more.
    pub fn up(&self, number: Number) {
        self.add(number as usize, 1);
    }

    /// One less of a gauge.
    pub fn down(&self, gauge: Number) {
        self.add(gauge as usize, u64::MAX);
    }

    /// A gauge's value.
    pub fn set(&self, gauge: Number, value: u64) {
        self.counters.store(self.block + gauge as usize, value);
    }

    /// A request ended with this status; 0: without one.
    pub fn request(&self, status: u16) {
        self.add(CLASS + class(status), 1);
    }

    /// A request failed.
    pub fn failure(&self, reason: usize) {
        self.add(REASON + reason % MAX_REASONS, 1);
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, end: usize) {
        self.add(HANDSHAKE + end % HANDSHAKES, 1);
    }

    /// A request that a member was given last ended with this status.
    pub fn member_request(&self, id: MemberId, status: u16) {
        let slot = id.0 as usize % MAX_MEMBERS as usize;
        self.add(MEMBER + slot * MEMBER_CELLS + class(status), 1);
    }

    /// A balancer took this long.
    pub fn took(&self, row: usize, latency: Latency, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = BALANCER + row % MAX_BALANCERS * BALANCER_CELLS + TIMES[latency as usize];
        self.add(at + bucket(us), 1);
        self.add(at + SUM, us);
    }
}

fn class(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class < CLASSES { class } else { 0 }
}

fn hash(name: &str) -> [u64; 2] {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    let hash = hasher.finish128();
    [hash.h1.max(1), hash.h2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        for us in [
            0,
            1,
            127,
            128,
            129,
            255,
            256,
            257,
            1_000_000,
            67_108_864,
            u64::MAX,
        ] {
            let bucket = bucket(us);
            assert!(bound_us(bucket).is_none_or(|bound| us <= bound), "{us}");
            let before = bucket.checked_sub(1).and_then(bound_us);
            assert!(before.is_none_or(|bound| us > bound), "{us}");
        }
        assert_eq!(bound_us(BUCKETS - 2), Some(67_108_864));
    }

    #[test]
    fn every_shard_of_every_process_is_in_the_sum_and_nowhere_else() {
        let (counters, file) = Counters::anonymous(3).expect("memory");
        let other = Arc::new(Counters::map(fd_of(&file), 3).expect("second mapping"));
        counters.name_row(5, "app");
        assert_eq!((other.row("app"), other.row("none")), (Some(5), None));
        for (column, shard) in [(0, 0), (0, 2), (7, 1)] {
            let tally = Tally::new(Arc::clone(&other), column, shard);
            tally.up(Number::Accepted);
            tally.up(Number::Clients);
            tally.request(204);
            tally.member_request(MemberId(MAX_MEMBERS - 1), 503);
            tally.failure(MAX_REASONS - 1);
            tally.took(5, Latency::FirstByte, Duration::from_micros(200));
            tally.took(5, Latency::Total, Duration::from_hours(1));
        }
        let all = [0, 7];
        assert_eq!(counters.number(&all, Number::Accepted), 3);
        assert_eq!(counters.number(&[7], Number::Accepted), 1);
        assert_eq!(counters.classes(&all), [0, 0, 3, 0, 0, 0]);
        let last = MemberId(MAX_MEMBERS - 1);
        assert_eq!(counters.member_classes(&all, last), [0, 0, 0, 0, 0, 3]);
        assert_eq!(counters.failures(&all, MAX_REASONS - 1), 3);
        let first = counters.histogram(&all, 5, Latency::FirstByte);
        assert_eq!((first.buckets[1], first.sum_us), (3, 600));
        let total = counters.histogram(&all, 5, Latency::Total);
        assert_eq!(total.buckets[BUCKETS - 1], 3);
        counters.clear_gauges(7);
        assert_eq!(counters.number(&all, Number::Clients), 2);
        counters.clear_row(&all, 5);
        assert_eq!(
            counters.histogram(&all, 5, Latency::Total),
            Histogram::default()
        );
        assert_eq!(counters.classes(&all), [0, 0, 3, 0, 0, 0]);
    }
}
