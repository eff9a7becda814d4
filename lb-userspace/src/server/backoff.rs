//! When a crashed proxy is started again.

use std::time::{Duration, Instant};

/// Restarts at once, unless the proxy keeps dying young.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// A life of this length was no crash loop.
    const LONG_LIFE: Duration = Duration::from_secs(10);
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// A proxy started at `born` died at `now`: how long to wait before the next. The first death
    /// after a long life costs nothing, then 0.1 s, doubled up to 5 s.
    pub(crate) fn after_death(&mut self, born: Instant, now: Instant) -> Duration {
        if now.saturating_duration_since(born) >= Self::LONG_LIFE {
            self.deaths = 0;
        }
        let wait = match self.deaths {
            0 => Duration::ZERO,
            n => (Self::FIRST * 2_u32.pow((n - 1).min(10))).min(Self::LONGEST),
        };
        self.deaths = self.deaths.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_crash_restarts_at_once_and_a_loop_slows_down() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let waits: Vec<u128> = (0..9)
            .map(|_| backoff.after_death(now, now).as_millis())
            .collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_long_life_is_forgiven() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        backoff.after_death(now, now);
        backoff.after_death(now, now);
        let later = now + Backoff::LONG_LIFE;
        assert_eq!(backoff.after_death(now, later), Duration::ZERO);
    }
}
