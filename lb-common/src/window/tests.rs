//! Rate windows: alone, sliding, and under threads that race.

use std::{
    sync::{Barrier, atomic::AtomicU64},
    thread,
};

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn limit(packets: u32, window_ns: u64) -> Limit {
    Limit {
        window_ns,
        packets,
        ..Limit::default()
    }
}

fn fresh() -> [AtomicU64; 2] {
    Default::default()
}

/// Asks and, if admitted, counts: what the guard does.
fn offer(windows: &[AtomicU64; 2], limit: &Limit, now: u64) -> bool {
    let admitted = admits(windows, limit, now);
    if admitted {
        count(windows, limit.window_ns, now);
    }
    admitted
}

#[test]
fn window_admits_its_limit_and_no_more() {
    let (windows, limit) = (fresh(), limit(5, 100 * MS));
    let now = 12_345 * 100 * MS + 7;
    let admitted = (0..50).filter(|_| offer(&windows, &limit, now)).count();
    assert_eq!(admitted, 5);
    assert_eq!(estimate(&windows, limit.window_ns, now), 5);
}

#[test]
fn previous_window_counts_by_the_part_still_covered() {
    let (windows, limit) = (fresh(), limit(100, 1024 * MS));
    let start = 1000 * limit.window_ns;
    for _ in 0..100 {
        assert!(offer(&windows, &limit, start));
    }
    let quarter = start + limit.window_ns + limit.window_ns / 4;
    assert_eq!(estimate(&windows, limit.window_ns, quarter), 75);
    let admitted = (0..200)
        .filter(|_| offer(&windows, &limit, quarter))
        .count();
    assert_eq!(admitted, 25);
}

#[test]
fn window_before_the_previous_one_is_forgotten() {
    let (windows, limit) = (fresh(), limit(3, 100 * MS));
    let start = 500 * limit.window_ns;
    while offer(&windows, &limit, start) {}
    assert_eq!(
        estimate(&windows, limit.window_ns, start + 2 * limit.window_ns),
        0
    );
    assert!(offer(&windows, &limit, start + 2 * limit.window_ns));
}

#[test]
fn refused_packets_are_not_counted() {
    let (windows, limit) = (fresh(), limit(2, 100 * MS));
    for _ in 0..1000 {
        offer(&windows, &limit, 0);
    }
    assert_eq!(count_of(windows[0].load(Relaxed), 0), 2);
}

#[test]
fn first_packet_of_a_source_is_counted() {
    for epoch in [4, 5] {
        let now = epoch * 100 * MS;
        let windows = first(100 * MS, now).words.map(AtomicU64::new);
        assert_eq!(estimate(&windows, 100 * MS, now), 1);
    }
}

#[test]
fn epochs_run_over_without_a_gap() {
    let limit = limit(10, MS);
    let windows = fresh();
    let last = ((1 << 32) - 1) * MS;
    for _ in 0..10 {
        assert!(offer(&windows, &limit, last));
    }
    // Epoch 0 again: the window before it is still seen.
    assert!(!offer(&windows, &limit, last + MS));
    assert!(offer(&windows, &limit, last + MS + MS / 2));
}

#[test]
fn count_never_runs_into_the_epoch() {
    let windows = [AtomicU64::new(7 << 32 | MAX_COUNT), AtomicU64::new(0)];
    windows[1].store(7 << 32 | MAX_COUNT, Relaxed);
    count(&windows, MS, 7 * MS);
    assert_eq!(windows[1].load(Relaxed), 7 << 32 | MAX_COUNT);
}

#[test]
fn longest_window_and_largest_limit_do_not_overflow() {
    let limit = limit((1 << 31) - 1, 1 << 42);
    let windows = [AtomicU64::new(4 << 32 | ((1 << 31) - 1)), AtomicU64::new(0)];
    assert!(!admits(&windows, &limit, 4 * limit.window_ns));
    // In debug builds an overflow would panic here.
    assert!(!admits(&windows, &limit, 5 * limit.window_ns));
    assert!(admits(&windows, &limit, 6 * limit.window_ns - 1));
}

#[test]
fn unset_window_length_does_not_divide_by_zero() {
    let (windows, limit) = (fresh(), limit(1, 0));
    offer(&windows, &limit, 9);
}

/// The documented bound: packets that several CPUs check at the same moment may all be admitted.
#[test]
fn cpus_that_race_admit_at_most_one_each_too_many_and_lose_no_count() {
    const CPUS: u64 = 4;
    let packets: u32 = if cfg!(miri) { 20 } else { 2000 };
    let windows = fresh();
    let limit = limit(packets, 100 * MS);
    let admitted: u64 = thread::scope(|scope| {
        let cpus: Vec<_> = (0..CPUS)
            .map(|_| {
                scope.spawn(|| {
                    (0..packets)
                        .map(|_| u64::from(offer(&windows, &limit, 0)))
                        .sum::<u64>()
                })
            })
            .collect();
        cpus.into_iter()
            .map(|cpu| cpu.join().expect("the thread does not panic"))
            .sum()
    });
    assert!(admitted >= u64::from(packets), "{admitted} of {packets}");
    assert!(
        admitted - u64::from(packets) < CPUS,
        "{admitted} of {packets}"
    );
    assert_eq!(count_of(windows[0].load(Relaxed), 0), admitted);
}

#[test]
fn window_begun_by_several_cpus_at_once_loses_no_packet() {
    const CPUS: u64 = 2;
    let (rounds, each) = if cfg!(miri) { (4, 3) } else { (500, 50) };
    let windows = fresh();
    let barrier = Barrier::new(CPUS as usize);
    thread::scope(|scope| {
        for _ in 0..CPUS {
            scope.spawn(|| {
                for epoch in 1..=rounds {
                    barrier.wait();
                    for _ in 0..each {
                        count(&windows, MS, epoch * MS);
                    }
                    barrier.wait();
                    let word = windows[(epoch & 1) as usize].load(Relaxed);
                    assert_eq!(word, epoch << 32 | (CPUS * each));
                    barrier.wait();
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    /// Whatever the arrivals: no window of the clock admits more than the limit, and neither does,
    /// on average, any run of windows.
    #[test]
    fn long_run_rate_is_the_limit(
        packets in 1u32..50,
        window_ms in 1u64..500,
        gaps in proptest::collection::vec(0u64..400, 1..if cfg!(miri) { 40 } else { 600 }),
    ) {
        let limit = limit(packets, window_ms * MS);
        let windows = fresh();
        let mut now = 77 * limit.window_ns;
        let begin = now;
        let mut admitted = 0u64;
        let mut by_window = std::collections::HashMap::<u64, u64>::new();
        for gap in gaps {
            now += gap * limit.window_ns / 200;
            if offer(&windows, &limit, now) {
                admitted += 1;
                *by_window.entry(now / limit.window_ns).or_default() += 1;
            }
        }
        prop_assert!(by_window.values().all(|n| *n <= u64::from(packets)));
        let passed = (now - begin) / limit.window_ns + 1;
        prop_assert!(admitted <= passed * u64::from(packets));
    }

    /// A sender that keeps to the rate, evenly, is never refused.
    #[test]
    fn even_sender_within_the_rate_is_never_refused(
        packets in 2u32..100,
        window_ms in 10u64..1000,
    ) {
        let limit = limit(packets, window_ms * MS);
        let windows = fresh();
        // One packet less a window than the limit, and not aligned to windows.
        let gap = limit.window_ns / u64::from(packets - 1) + 1;
        for n in 0..u64::from(packets) * 3 {
            prop_assert!(offer(&windows, &limit, 5 * limit.window_ns + 13 + n * gap), "packet {n}");
        }
    }
}
