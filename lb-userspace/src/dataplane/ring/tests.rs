//! Who is in a ring, by states and sets.

use super::*;

const D: u64 = MemberState::DISABLED;
const S: u64 = MemberState::STOPPED;
const N: u64 = MemberState::DRAIN;
const H: u64 = MemberState::STANDBY;
const R: u64 = MemberState::SPARE;
const I: u64 = MemberState::IGNORE_ERRORS;
const E: u64 = MemberState::ERROR;
const C: u64 = MemberState::HEALTH_FAILED;

/// Members 1.. with these states, all of set 0 and one weight.
fn members(states: &[u64]) -> Vec<Candidate> {
    (1..)
        .zip(states)
        .map(|(id, state)| Candidate {
            id,
            seed: seed(&format!("http://10.0.0.{id}")),
            state: MemberState(*state),
            weight: 100,
            lbset: 0,
            on_trial: false,
        })
        .collect()
}

/// Ids that new flows go to; `None`: the ring is kept.
fn ids(members: &[Candidate]) -> Option<Vec<u16>> {
    match wish(members, true) {
        Wish::Keep => None,
        Wish::Of(shares) => Some(shares.iter().map(|share| share.id).collect()),
    }
}

#[test]
fn each_bit_means_what_it_means_to_requests() {
    for (states, expected) in [
        (&[0, 0, 0][..], &[1, 2, 3][..]),
        (&[D, 0, 0], &[2, 3]),
        (&[S, 0, 0], &[2, 3]),
        (&[N, 0, 0], &[2, 3]),
        (&[E, 0, 0], &[2, 3]),
        (&[C, 0, 0], &[2, 3]),
        (&[I, 0, 0], &[1, 2, 3]),
        // A standby waits until nobody else is left, and all of them step in.
        (&[0, H, H], &[1]),
        (&[C, H, H], &[2, 3]),
        // A spare for each that is out, no more.
        (&[0, 0, R], &[1, 2]),
        (&[0, D, R, R], &[1, 3]),
        (&[N, 0, R], &[2, 3]),
        (&[D, D, R, H], &[3]),
        (&[D, D, R | C, H], &[4]),
        // A drained spare or standby is not out, nor used.
        (&[D, R | N, R], &[3]),
    ] {
        assert_eq!(
            ids(&members(states)).as_deref(),
            Some(expected),
            "{states:?}"
        );
    }
}

#[test]
fn higher_set_is_used_when_the_lower_has_nobody() {
    let mut all = members(&[0, 0, 0, 0]);
    all[2].lbset = 1;
    all[3].lbset = 7;
    assert_eq!(ids(&all), Some(vec![1, 2]));
    all[0].state = MemberState(D);
    assert_eq!(ids(&all), Some(vec![2]));
    all[1].state = MemberState(C);
    assert_eq!(ids(&all), Some(vec![3]));
    all[2].state = MemberState(N);
    assert_eq!(ids(&all), Some(vec![4]));
}

#[test]
fn ring_is_kept_when_all_are_in_error_and_emptied_when_all_are_off() {
    assert_eq!(ids(&members(&[E, E])), None);
    assert_eq!(wish(&members(&[E, E]), false), Wish::Of(Vec::new()));
    assert_eq!(ids(&members(&[D, D])), Some(Vec::new()));
    assert_eq!(ids(&members(&[C, C])), Some(Vec::new()));
    // As in httpd: one that is merely disabled prevents recovery.
    assert_eq!(ids(&members(&[E, D])), Some(Vec::new()));
    assert_eq!(ids(&[]), Some(Vec::new()));
    let forced: Vec<u16> = forced(&members(&[E, E | N, E | S]))
        .iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(forced, [1]);
}

#[test]
fn member_on_trial_waits_for_a_request_to_succeed() {
    let mut all = members(&[0, 0]);
    all[0].on_trial = true;
    assert_eq!(ids(&all), Some(vec![2]));
    all[1].on_trial = true;
    assert_eq!(ids(&all), None);
}

#[test]
fn ring_is_of_urls_and_not_of_ids() {
    let shares = |base: u16| -> Vec<Share> {
        (0..3)
            .map(|n| Share {
                id: base + n,
                seed: seed(&format!("tcp://10.0.0.{n}")),
                weight: 100,
            })
            .collect()
    };
    let (one, other) = (slots(&shares(1)), slots(&shares(1001)));
    assert!(one.iter().zip(other.iter()).all(|(a, b)| a + 1000 == *b));
    let counts = count(&one[..]);
    assert_eq!(counts.values().sum::<u32>() as usize, SLOTS);
    assert_eq!(counts.len(), 3);
}

/// What every other host computes for these names: a change splits a cluster while it is upgraded.
#[test]
fn seeds_are_those_of_every_other_host() {
    assert_eq!(
        seed("http://192.0.2.21:8080"),
        [17_868_008_540_327_870_246, 551_325_748_119_761_161]
    );
    assert_eq!(flow_seed("app"), 10_914_614_353_324_782_701);
}
