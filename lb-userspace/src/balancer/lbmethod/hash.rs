//! `lbmethod=hash`: requests with one key (`hashkey`) go to one member, and as few keys as can be move
//! when members come and go. Beyond httpd.
//!
//! The ring is that of packets ([`lb_common::maglev`]), of all members that the balancer has: who is
//! out keeps its slots, and a key that would be its goes on to the next slot whose member may be
//! taken. So the keys of one that fails spread over all others, nobody else's move, and all come
//! back. A member that has its share of the load already, and a quarter more, is passed by likewise
//! (bounded load: Mirrokni, Thorup and Zadimoghaddam, SODA 2018).

use std::sync::{Mutex, PoisonError};

use lb_common::maglev::{self, Entry, SLOTS};

use crate::{
    balancer::{Ask, Balancer, Head, draw, rampup},
    dataplane::ring::seed,
};

/// What a member may have of the load: its share, in hundredths.
const BOUND_PERCENT: u64 = 125;

/// A balancer's ring.
#[derive(Default)]
pub struct Ring(Mutex<Made>);

#[derive(Default)]
struct Made {
    /// Of each member when it was made.
    weights: Vec<u32>,
    /// Index of a member, plus one; empty: not made yet.
    slots: Vec<u16>,
}

impl Made {
    /// Makes the ring anew if a weight is another than it was.
    fn refresh(&mut self, urls: impl Iterator<Item = (impl AsRef<str>, u32)> + Clone) {
        if !self.slots.is_empty()
            && urls
                .clone()
                .map(|(_, weight)| weight)
                .eq(self.weights.iter().copied())
        {
            return;
        }
        self.weights = urls.clone().map(|(_, weight)| weight).collect();
        let mut entries: Vec<Entry> = urls
            .zip(1_u16..)
            .map(|((url, weight), value)| Entry::new(seed(url.as_ref()), weight, value))
            .collect();
        let mut ring: Box<[u16; SLOTS]> = vec![0; SLOTS]
            .into_boxed_slice()
            .try_into()
            .expect("a vector of that many slots");
        maglev::fill(&mut entries, &mut ring);
        self.slots = ring.to_vec();
    }

    /// Members in the order in which the key asks for them, the same one many times.
    fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = draw(key, 0, SLOTS);
        let (end, begin) = self.slots.split_at(start.min(self.slots.len()));
        begin
            .iter()
            .chain(end)
            .map(|slot| usize::from(*slot).wrapping_sub(1))
    }
}

impl Ring {
    /// Makes the ring before anybody asks for it: it takes a millisecond or two.
    pub(in crate::balancer) fn prepare(&self, balancer: &Balancer) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.refresh(balancer.placements());
    }
}

/// Requests that a member of this weight may have in flight, one more counted, when all that may be
/// taken have `total`.
fn bound(total: u64, weight: u64, all_weights: u64) -> u64 {
    let share = u128::from(total + 1) * u128::from(weight) * u128::from(BOUND_PERCENT);
    let bound = share.div_ceil(u128::from(all_weights.max(1)) * 100);
    u64::try_from(bound).unwrap_or(u64::MAX)
}

/// What is known of a member that may be taken.
#[derive(Clone, Copy)]
struct Standing {
    busy: u64,
    weight: u64,
    share: u64,
}

/// Elects a member. Credits stay as they are. Under the election lock.
///
/// Shards that elect at one moment see the load before either's request: each may take a member
/// one beyond its bound.
pub(in crate::balancer) fn elect(
    balancer: &Balancer,
    ask: &Ask<'_>,
    heads: &[Head],
) -> Option<usize> {
    let mut standings: Vec<Option<Standing>> = vec![None; balancer.members().len()];
    let first = super::pick(balancer, heads, ask.now_ns, |candidate, best| {
        standings[candidate] = Some(Standing {
            busy: balancer.busy(candidate),
            weight: balancer.weight(candidate),
            share: balancer.share(candidate, ask.now_ns),
        });
        best.is_none()
    })?;
    let mut made = balancer
        .ring
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    made.refresh(balancer.placements());
    Some(choose(&standings, made.walk(ask.key), ask.key).unwrap_or(first))
}

/// The first on the walk that may be taken, has not too much to do and, where it is on its way up,
/// has come so far that the key is among its own again; else the first that may be taken.
fn choose(
    standings: &[Option<Standing>],
    walk: impl Iterator<Item = usize>,
    key: u64,
) -> Option<usize> {
    let known = || standings.iter().flatten();
    let total: u64 = known().map(|standing| standing.busy).sum();
    let weights: u64 = known().map(|standing| standing.weight).sum();
    let place = draw(key, 1, 1000) as u64;
    let mut left = known().count();
    let mut seen = vec![false; standings.len()];
    let mut fallback = None;
    for member in walk {
        let Some(Some(standing)) = standings.get(member) else {
            continue;
        };
        if std::mem::replace(&mut seen[member], true) {
            continue;
        }
        let comes_back = standing.share < rampup::WHOLE && place >= standing.share;
        if !comes_back && standing.busy < bound(total, standing.weight, weights) {
            return Some(member);
        }
        fallback = fallback.or(Some(member));
        left -= 1;
        if left == 0 {
            break;
        }
    }
    fallback
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(members: usize) -> Made {
        let mut made = Made::default();
        made.refresh((0..members).map(|n| (format!("http://192.0.2.{n}"), 100)));
        made
    }

    fn idle(members: usize) -> Vec<Option<Standing>> {
        let standing = Standing {
            busy: 0,
            weight: 100,
            share: rampup::WHOLE,
        };
        vec![Some(standing); members]
    }

    fn place(made: &Made, standings: &[Option<Standing>], key: u64) -> usize {
        choose(standings, made.walk(key), key).expect("somebody may be taken")
    }

    #[test]
    fn keys_spread_by_weight() {
        let mut made = Made::default();
        made.refresh([("a", 100), ("b", 300)].into_iter());
        let mut standings = idle(2);
        if let Some(b) = &mut standings[1] {
            b.weight = 300;
        }
        let of_b = (0..10_000)
            .filter(|key| place(&made, &standings, *key) == 1)
            .count();
        assert!((7200..7800).contains(&of_b), "{of_b}");
    }

    #[test]
    fn keys_of_who_fails_spread_and_no_others_move() {
        let made = ring(10);
        let before: Vec<usize> = (0..5000).map(|key| place(&made, &idle(10), key)).collect();
        let mut standings = idle(10);
        standings[3] = None;
        let after: Vec<usize> = (0..5000).map(|key| place(&made, &standings, key)).collect();
        let mut heirs = [0; 10];
        for (before, after) in before.iter().zip(&after) {
            if *before == 3 {
                heirs[*after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(heirs[3], 0);
        assert!(
            heirs
                .iter()
                .enumerate()
                .all(|(n, count)| n == 3 || *count > 15),
            "{heirs:?}"
        );
    }

    #[test]
    fn one_member_more_moves_about_its_share() {
        let (before, after) = (ring(10), ring(11));
        let moved = (0..10_000_u64)
            .filter(|key| place(&before, &idle(10), *key) != place(&after, &idle(11), *key))
            .count();
        // A tenth is its share; Maglev moves a little more.
        assert!((700..1800).contains(&moved), "{moved}");
    }

    #[test]
    fn who_comes_back_takes_its_keys_little_by_little() {
        let made = ring(4);
        let mut standings = idle(4);
        let mut own = Vec::new();
        for share in [100, 500, 1000] {
            if let Some(standing) = &mut standings[2] {
                standing.share = share;
            }
            let keys: Vec<u64> = (0..4000)
                .filter(|key| place(&made, &standings, *key) == 2)
                .collect();
            assert!(
                own.iter().all(|key| keys.contains(key)),
                "none is taken away again"
            );
            own = keys;
        }
        assert!((900..1100).contains(&own.len()), "{}", own.len());
    }

    proptest! {
        #[test]
        fn load_is_never_beyond_its_bound(
            members in 1..20_usize,
            keys in proptest::collection::vec(0..4_u64, 1..300),
            weights in proptest::collection::vec(100..10_000_u64, 20),
        ) {
            let mut made = Made::default();
            made.refresh((0..members).map(|n| (format!("m{n}"), weights[n] as u32)));
            let mut standings = idle(members);
            for (standing, weight) in standings.iter_mut().flatten().zip(&weights) {
                standing.weight = *weight;
            }
            let all: u64 = weights[..members].iter().sum();
            // Requests that never end, of a few hot keys.
            for (total, key) in keys.into_iter().enumerate() {
                let taken = place(&made, &standings, key);
                let standing = standings[taken].as_mut().expect("it may be taken");
                standing.busy += 1;
                let bound = bound(total as u64, standing.weight, all);
                prop_assert!(standing.busy <= bound, "{} of {bound}", standing.busy);
            }
        }
    }
}
