//! Rate windows: whether one more packet is admitted, and how it is counted.
//!
//! Two fixed windows and a sliding estimate between them: the count of the current window plus the
//! part of the previous one that a window ending now would still cover. Only admitted packets are
//! counted, so a source that keeps sending above its limit gets its limit through, not nothing.
//!
//! **Error bound.** Checking and counting are two steps: packets that several CPUs check at the
//! same moment may all be admitted, so at most `CPUs - 1` packets too many pass each time the
//! limit is reached. Counting itself loses nothing: a new window is begun by compare-and-swap.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::Ordering::Relaxed;

use crate::limit::{Limit, Windows};

/// A [`Windows`] that several CPUs share: the only operations that the packet path needs.
pub trait SharedWindows {
    /// Reads word `index & 1`.
    fn load(&self, index: usize) -> u64;
    /// Adds 1 to word `index & 1`.
    fn increment(&self, index: usize);
    /// Puts `new` into word `index & 1` if it still holds `old`; whether it did.
    fn replace(&self, index: usize, old: u64, new: u64) -> bool;
}

#[cfg(target_has_atomic = "64")]
impl SharedWindows for [core::sync::atomic::AtomicU64; 2] {
    fn load(&self, index: usize) -> u64 {
        self[index & 1].load(Relaxed)
    }

    fn increment(&self, index: usize) {
        self[index & 1].fetch_add(1, Relaxed);
    }

    fn replace(&self, index: usize, old: u64, new: u64) -> bool {
        self[index & 1]
            .compare_exchange(old, new, Relaxed, Relaxed)
            .is_ok()
    }
}

/// Counts stop here, so that a count never runs over into the epoch.
const MAX_COUNT: u64 = 1 << 31;

/// The window that `now` lies in, cut to 32 bits, and the time since it began, ns.
#[inline(always)]
fn position(window_ns: u64, now: u64) -> (u64, u64) {
    // An unset length must not divide by zero; `Limit` promises that it does not happen.
    let window_ns = if window_ns == 0 { 1 } else { window_ns };
    let window = now / window_ns;
    (window & 0xffff_ffff, now - window * window_ns)
}

/// The count in `word` if it belongs to `epoch`, else 0.
#[inline(always)]
const fn count_of(word: u64, epoch: u64) -> u64 {
    if word >> 32 == epoch {
        word & 0xffff_ffff
    } else {
        0
    }
}

/// Whether `limit` admits one more packet at `now` (kernel monotonic clock, ns).
///
/// Says nothing about an unset limit (`packets` 0): ask only about set ones.
#[inline(always)]
pub fn admits<W: SharedWindows>(windows: &W, limit: &Limit, now: u64) -> bool {
    let (epoch, elapsed) = position(limit.window_ns, now);
    let previous = epoch.wrapping_sub(1) & 0xffff_ffff;
    let limit_packets = u64::from(limit.packets);
    let current = count_of(windows.load((epoch & 1) as usize), epoch);
    if current >= limit_packets {
        return false;
    }
    let before = count_of(windows.load((previous & 1) as usize), previous);
    // No division: `current + before * left / window < limit` times the window's length. Counts
    // are below 2^31 and lengths, in units of 1024 ns, below 2^32 (73 minutes), so that the sum of
    // the products stays below 2^64.
    let before = if before > MAX_COUNT {
        MAX_COUNT
    } else {
        before
    };
    let window = (limit.window_ns >> 10).clamp(1, 0xffff_ffff);
    let left = ((limit.window_ns - elapsed) >> 10).min(window);
    current * window + before * left < limit_packets * window
}

/// Counts one packet at `now` into the window it belongs to.
#[inline(always)]
pub fn count<W: SharedWindows>(windows: &W, window_ns: u64, now: u64) {
    let (epoch, _) = position(window_ns, now);
    let index = (epoch & 1) as usize;
    let word = windows.load(index);
    if word >> 32 != epoch {
        if windows.replace(index, word, epoch << 32 | 1) {
            return;
        }
        // Another CPU has begun the window meanwhile: this packet adds to it.
    } else if word & 0xffff_ffff >= MAX_COUNT {
        return;
    }
    windows.increment(index);
}

/// The windows of a source that has just been seen for the first time, this packet counted.
#[inline(always)]
#[must_use]
pub fn first(window_ns: u64, now: u64) -> Windows {
    let (epoch, _) = position(window_ns, now);
    let word = epoch << 32 | 1;
    Windows {
        words: if epoch & 1 == 0 { [word, 0] } else { [0, word] },
    }
}

/// Packets that the windows hold at `now`, the previous window's part rounded down: for display.
#[must_use]
pub fn estimate<W: SharedWindows>(windows: &W, window_ns: u64, now: u64) -> u64 {
    let (epoch, elapsed) = position(window_ns, now);
    let previous = epoch.wrapping_sub(1) & 0xffff_ffff;
    let current = count_of(windows.load((epoch & 1) as usize), epoch);
    let before = count_of(windows.load((previous & 1) as usize), previous);
    let window = (window_ns >> 10).clamp(1, 0xffff_ffff);
    let left = (window_ns.saturating_sub(elapsed) >> 10).min(window);
    current + before.min(MAX_COUNT) * left / window
}

#[cfg(test)]
mod tests;
