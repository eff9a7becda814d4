//! How large the tables of flows are, and the clock that their entries are stamped by. Pure, but for
//! asking the kernel how long a tick is.

use lb_common::{abi::map, flow_table::WAYS, settings::Sizes};

use crate::config::spec::{Forward, Sluice};

/// Flows that the table holds where `SteerFlowTable` does not say.
const DEFAULT_FLOWS: u32 = 262_144;

/// Entries of the maps that are sized at load: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableSizes {
    sets4: u32,
    sets6: u32,
    nat: u32,
}

/// A change of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resize {
    /// A table that may hold flows is changed.
    pub(super) loses: bool,
}

impl TableSizes {
    /// What a configuration wants: the smallest there can be where nothing is steered.
    pub(super) fn of(sluice: &Sluice) -> Self {
        if sluice.steers.is_empty() {
            return Self {
                sets4: 1,
                sets6: 1,
                nat: 1,
            };
        }
        let flows = sluice.flow_table.unwrap_or(DEFAULT_FLOWS);
        let sets = flows.div_ceil(WAYS as u32).next_power_of_two();
        let nat = sluice.steers.iter().any(|s| s.forward == Forward::Nat);
        Self {
            sets4: sets,
            sets6: sets,
            nat: if nat { sets * WAYS as u32 } else { 1 },
        }
    }

    /// What the maps have.
    pub(super) fn are([sets4, sets6, nat]: [usize; 3]) -> Self {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            sets4: size(sets4),
            sets6: size(sets6),
            nat: size(nat),
        }
    }

    /// Flows of each family.
    pub(super) const fn flows(self) -> u32 {
        self.sets4 * WAYS as u32
    }

    /// Whether the maps must change to be as `wanted`. Tables that are there are left as they are
    /// while nothing is steered.
    pub(super) fn change_to(self, wanted: Self) -> Option<Resize> {
        let pairs = [
            (self.sets4, wanted.sets4),
            (self.sets6, wanted.sets6),
            (self.nat, wanted.nat),
        ];
        let changed = pairs.iter().filter(|(is, to)| is != to && *to > 1);
        changed.clone().next()?;
        Some(Resize {
            loses: changed.into_iter().any(|(is, _)| *is > 1),
        })
    }

    /// By map.
    pub(super) const fn entries(self) -> [(&'static str, u32); 3] {
        [
            (map::FLOWS4, self.sets4),
            (map::FLOWS6, self.sets6),
            (map::NAT, self.nat),
        ]
    }

    /// For the program.
    pub(super) const fn sizes(self, beat_shift: u32) -> Sizes {
        Sizes {
            mask4: self.sets4 - 1,
            mask6: self.sets6 - 1,
            nat_mask: self.nat - 1,
            beat_shift,
        }
    }
}

/// How beats follow from the monotonic clock: `(now / tick + offset) >> shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Nanoseconds.
    pub(super) tick: u32,
    pub(super) shift: u32,
    pub(super) offset: u64,
}

impl Beat {
    /// The coarse clock's resolution is the kernel's tick; its count of ticks begins 300 s before
    /// 2^32 (`INITIAL_JIFFIES`), and goes on as the monotonic clock does.
    pub(super) fn of_host() -> Self {
        let resolution = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
        let ns = u32::try_from(resolution.tv_nsec).unwrap_or(0);
        Self::of_tick(if resolution.tv_sec == 0 { ns } else { 0 })
    }

    fn of_tick(ns: u32) -> Self {
        // 100 to 1000 Hz are what kernels are built with; anything else is no tick.
        let tick = if (900_000..=11_000_000).contains(&ns) {
            ns
        } else {
            4_000_000
        };
        let hz = (1_000_000_000 + tick / 2) / tick;
        // The power of two nearest to a second: 181 ticks and more of 128 are nearer to 256.
        let shift = (hz * 181 / 128).ilog2();
        Self {
            tick,
            shift,
            offset: (1 << 32) - 300 * u64::from(hz),
        }
    }

    /// The beat at a time of the monotonic clock.
    pub(super) const fn at(self, now: u64) -> u32 {
        if self.tick == 0 {
            return 0;
        }
        ((now / self.tick as u64).wrapping_add(self.offset) >> self.shift) as u32
    }

    /// The same, rounded down.
    pub(super) const fn whole_seconds(self, beats: u32) -> u64 {
        ((beats as u64) << self.shift) * self.tick as u64 / 1_000_000_000
    }

    /// Seconds of so many beats.
    pub(super) fn seconds(self, beats: u32) -> f64 {
        f64::from(beats) * f64::from(1u32 << self.shift) * f64::from(self.tick) / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beat_is_about_a_second_at_every_tick() {
        for (hz, shift) in [(100, 7), (250, 8), (300, 8), (1000, 10)] {
            let beat = Beat::of_tick(1_000_000_000 / hz);
            assert_eq!(beat.shift, shift, "{hz}");
            assert!((0.8..=1.3).contains(&beat.seconds(1)), "{hz}");
            assert_eq!(beat.at(0), beat.at(100_000_000));
            assert!(beat.at(3_000_000_000) > beat.at(0));
        }
        assert_eq!(Beat::of_tick(1), Beat::of_tick(4_000_000));
        assert!(Beat::of_host().tick > 0);
    }

    #[test]
    fn nothing_steered_takes_no_room_and_gives_none_back() {
        let mut sluice = Sluice::default();
        let none = TableSizes::of(&sluice);
        assert_eq!(
            none.sizes(8),
            Sizes {
                beat_shift: 8,
                ..Sizes::default()
            }
        );
        sluice.flow_table = Some(5000);
        sluice.steers.push(crate::config::spec::Steer {
            transport: crate::config::spec::Transport::Tcp,
            address: None,
            first_port: 1,
            last_port: 1,
            balancer: 0,
            forward: Forward::Dsr,
            hash: crate::config::spec::FlowHash::FiveTuple,
            reset_on_empty: false,
            at: crate::config::spec::Place::default(),
        });
        let some = TableSizes::of(&sluice);
        assert_eq!(some.flows(), 8192);
        assert_eq!(none.change_to(some), Some(Resize { loses: false }));
        assert_eq!(some.change_to(none), None);
        sluice.flow_table = Some(9000);
        assert_eq!(
            some.change_to(TableSizes::of(&sluice)),
            Some(Resize { loses: true })
        );
    }
}
