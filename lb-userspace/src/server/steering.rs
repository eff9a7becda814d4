//! Whether giving connections to the shard of the receiving CPU does good. A NIC with fewer queues
//! than there are shards would leave shards without work. Pure.

/// Connections per shard that a judgement is based on.
const ENOUGH: u64 = 256;
/// A shard with less than this part of a fair share is idle.
const IDLE_PART: u64 = 4;

/// Looks at what shards accept.
#[derive(Clone, Debug, Default)]
pub(super) struct Balance {
    /// What they had accepted at the last judgement; empty: not looked yet.
    seen: Vec<u64>,
}

impl Balance {
    /// Takes how many connections each shard has accepted so far; whether some shard has been left
    /// idle since the last judgement.
    pub(super) fn leaves_shards_idle(&mut self, accepted: &[u64]) -> bool {
        if self.seen.len() != accepted.len() {
            self.seen = accepted.to_vec();
            return false;
        }
        let since: Vec<u64> = (accepted.iter().zip(&self.seen))
            .map(|(now, seen)| now.saturating_sub(*seen))
            .collect();
        let shards = accepted.len() as u64;
        let total: u64 = since.iter().sum();
        if total < ENOUGH * shards {
            return false;
        }
        self.seen = accepted.to_vec();
        let least = since.into_iter().min().unwrap_or(0);
        least * shards * IDLE_PART < total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_queue_for_two_shards_leaves_one_idle() {
        let mut balance = Balance::default();
        assert!(!balance.leaves_shards_idle(&[5000, 0]), "the first look");
        assert!(!balance.leaves_shards_idle(&[5400, 10]), "too few to tell");
        assert!(balance.leaves_shards_idle(&[5600, 20]));
    }

    #[test]
    fn an_uneven_share_is_no_idle_shard() {
        let mut balance = Balance::default();
        balance.leaves_shards_idle(&[0, 0, 0]);
        assert!(!balance.leaves_shards_idle(&[1000, 500, 150]));
        assert!(balance.leaves_shards_idle(&[2000, 1500, 200]));
    }
}
