//! Maglev rings: which member each hash slot of a balancer belongs to (Eisenbud et al., NSDI 2016,
//! section 3.4), with weights.
//!
//! Every member walks its own permutation of the slots and takes the next free one in its turn.
//! Turns go round by seed, never by position in a list, so that equal members give equal rings on
//! every host; a member's share of turns is its weight's share of the heaviest weight. Control
//! computes rings in memory of its own; the packet path only reads them.

/// Slots of a ring: prime, so that every step walks all of them, and more than sixteen times the
/// members there can be.
pub const SLOTS: usize = 65537;

/// One member of a ring, and the place where it is in its walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Hash of what the member is called, equal on every host. Two members of one ring differ.
    pub seed: [u64; 2],
    /// Share of the slots, from 1.
    pub weight: u32,
    /// What its slots hold: never 0, which is a slot that belongs to nobody.
    pub value: u16,
    at: u32,
    step: u32,
    credit: u64,
}

impl Entry {
    /// A member that has not begun to walk. A weight of 0 counts as 1.
    #[must_use]
    pub const fn new(seed: [u64; 2], weight: u32, value: u16) -> Self {
        Self {
            seed,
            weight: if weight == 0 { 1 } else { weight },
            value,
            at: 0,
            step: 0,
            credit: 0,
        }
    }
}

/// Fills `ring` for `entries`, whose order and walking state it changes. Without entries every slot
/// is 0. Every entry gets a slot as long as there are no more entries than slots.
pub fn fill(entries: &mut [Entry], ring: &mut [u16; SLOTS]) {
    ring.fill(0);
    entries.sort_unstable_by_key(|entry| (entry.seed, entry.value));
    let heaviest = entries.iter().map(|entry| entry.weight).max();
    let Some(heaviest) = heaviest.map(u64::from) else {
        return;
    };
    for entry in &mut *entries {
        let [offset, step] = entry.seed;
        // Both below 65537.
        entry.at = (offset % SLOTS as u64) as u32;
        entry.step = (step % (SLOTS as u64 - 1)) as u32 + 1;
        // In the first round everybody has a turn.
        entry.credit = heaviest - u64::from(entry.weight);
    }
    let mut left = SLOTS;
    loop {
        for entry in &mut *entries {
            entry.credit += u64::from(entry.weight);
            if entry.credit < heaviest {
                continue;
            }
            entry.credit -= heaviest;
            take_next(entry, ring);
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

/// Gives the entry the next free slot of its walk. There is one: the walk comes by all of them.
fn take_next(entry: &mut Entry, ring: &mut [u16; SLOTS]) {
    let mut at = entry.at;
    loop {
        let slot = &mut ring[at as usize];
        at += entry.step;
        if at >= SLOTS as u32 {
            at -= SLOTS as u32;
        }
        if *slot == 0 {
            *slot = entry.value;
            entry.at = at;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
