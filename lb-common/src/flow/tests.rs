//! The flow hash: spread, seeds, and that every bit counts.

use super::*;

fn flow(n: u32) -> Flow {
    // What clients look like: a few addresses, ports that count up.
    let a = (n / 256).to_be_bytes();
    Flow {
        source: Address::from_v4([10, a[1], a[2], a[3]]),
        destination: Address::from_v4([192, 0, 2, 1]),
        source_port: Be16::new(32768 + (n % 256) as u16 * 2),
        destination_port: Be16::new(443),
        proto: 6,
    }
}

#[test]
fn hash_is_a_function_of_flow_and_seed() {
    assert_eq!(flow(1).hash(5), flow(1).hash(5));
    assert_ne!(flow(1).hash(5), flow(2).hash(5));
    assert_ne!(flow(1).hash(5), flow(1).hash(6));
}

/// Chi-square of regular flows over slots: within six standard deviations of its mean, which an
/// even hash misses once in hundreds of millions of tries; a hash that keeps the regularity in its
/// input misses it by orders of magnitude, above or below.
#[test]
fn flows_spread_evenly() {
    let (slots, flows) = if cfg!(miri) {
        (16, 512)
    } else {
        (1021, 200_000)
    };
    for seed in [0, 1, 0xdead_beef] {
        let mut counts = vec![0u32; slots as usize];
        for n in 0..flows {
            counts[slot(flow(n).hash(seed), slots) as usize] += 1;
        }
        let expected = f64::from(flows) / f64::from(slots);
        let chi: f64 = counts
            .iter()
            .map(|n| (f64::from(*n) - expected).powi(2) / expected)
            .sum();
        let freedom = f64::from(slots - 1);
        let bound = 6.0 * (2.0 * freedom).sqrt();
        assert!(
            (chi - freedom).abs() < bound,
            "seed {seed}: chi-square {chi}, of {freedom}"
        );
    }
}

#[test]
fn every_input_bit_moves_about_half_of_the_output_bits() {
    let samples = if cfg!(miri) { 2 } else { 64 };
    let flip = |f: &Flow, bit: usize| {
        let mut f = *f;
        match bit {
            0..128 => f.source.0[bit / 8] ^= 1 << (bit % 8),
            128..256 => f.destination.0[bit / 8 - 16] ^= 1 << (bit % 8),
            256..272 => f.source_port.0[bit / 8 - 32] ^= 1 << (bit % 8),
            272..288 => f.destination_port.0[bit / 8 - 34] ^= 1 << (bit % 8),
            _ => f.proto ^= 1 << (bit % 8),
        }
        f
    };
    for bit in 0..296 {
        let moved: u32 = (0..samples)
            .map(|n| (flow(n).hash(9) ^ flip(&flow(n), bit).hash(9)).count_ones())
            .sum();
        let mean = f64::from(moved) / f64::from(samples);
        let slack = if cfg!(miri) { 20.0 } else { 5.0 };
        assert!((mean - 32.0).abs() < slack, "bit {bit} moves {mean} bits");
    }
}

#[test]
fn source_hash_ignores_all_but_the_source() {
    let (mut a, mut b) = (flow(3), flow(3));
    b.source_port = Be16::new(1);
    b.destination_port = Be16::new(2);
    b.proto = 17;
    assert_eq!(a.hash_source(1), b.hash_source(1));
    a.source.0[15] ^= 1;
    assert_ne!(a.hash_source(1), b.hash_source(1));
}

#[test]
fn slot_is_below_the_number_of_slots() {
    for slots in [1, 2, 7, 65537, u32::MAX] {
        assert_eq!(slot(0, slots), 0);
        assert_eq!(slot(u64::MAX, slots), slots - 1);
    }
}
