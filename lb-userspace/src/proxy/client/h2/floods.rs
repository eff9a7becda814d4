//! How much of each kind of frame a connection may carry that costs us and moves no message: a
//! budget for each, spent by frames and refilled by time. Pure.
//!
//! The bounds are far above what browsers and the usual libraries send (docs/http.md has the table
//! with reasons). CONTINUATION, empty and tiny DATA frames and the size of field lists are bounded
//! by the protocol library itself.

use super::frames::{ACK, Frame, kind};

/// What a connection has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flood {
    /// Requests that the client opens and resets (CVE-2023-44487).
    Resets,
    /// Requests that make us reset: malformed, or more at a time than allowed (CVE-2025-8671).
    Refusals,
    /// PING.
    Pings,
    /// SETTINGS.
    Settings,
    /// `WINDOW_UPDATE`, measured by what it let us send.
    Windows,
    /// PRIORITY and frames of types that mean nothing here.
    Others,
}

impl Flood {
    /// For the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Resets => "requests that are reset",
            Self::Refusals => "requests that have to be refused",
            Self::Pings => "PING frames",
            Self::Settings => "SETTINGS frames",
            Self::Windows => "WINDOW_UPDATE frames",
            Self::Others => "PRIORITY or unknown frames",
        }
    }
}

/// Frames at once, and frames for each tick of 100 ms after that.
const BOUNDS: [(u32, u32); 6] = [
    (500, 3),
    (500, 3),
    (200, 5),
    (50, 1),
    (1000, 10),
    (1000, 20),
];

/// Bytes of DATA that pay for one `WINDOW_UPDATE`.
const BYTES_PER_WINDOW: u64 = 2048;

/// What a connection has spent.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    spent: [u32; BOUNDS.len()],
    tick: u64,
    /// Bytes of DATA sent that have paid for nothing yet.
    sent: u64,
}

impl Budgets {
    /// A frame came in.
    pub(crate) fn came(&mut self, frame: Frame, now: u64) -> Result<(), Flood> {
        let kind = match frame.kind {
            kind::DATA | kind::HEADERS | kind::CONTINUATION | kind::GOAWAY => return Ok(()),
            kind::SETTINGS | kind::PING if frame.flags & ACK != 0 => return Ok(()),
            kind::RST_STREAM => Flood::Resets,
            kind::PING => Flood::Pings,
            kind::SETTINGS => Flood::Settings,
            kind::WINDOW_UPDATE => Flood::Windows,
            _ => Flood::Others,
        };
        self.charge(kind, now)
    }

    /// A frame went out.
    pub(crate) fn went(&mut self, frame: Frame, now: u64) -> Result<(), Flood> {
        match frame.kind {
            kind::DATA => {
                self.sent += u64::from(frame.length);
                let paid = self.sent / BYTES_PER_WINDOW;
                self.sent %= BYTES_PER_WINDOW;
                let spent = &mut self.spent[Flood::Windows as usize];
                *spent = spent.saturating_sub(u32::try_from(paid).unwrap_or(u32::MAX));
                Ok(())
            }
            // Code 0 follows an answer that came before the request's end: nobody's fault.
            kind::RST_STREAM if frame.code != 0 => self.charge(Flood::Refusals, now),
            _ => Ok(()),
        }
    }

    fn charge(&mut self, flood: Flood, now: u64) -> Result<(), Flood> {
        let ticks = now.saturating_sub(self.tick);
        if ticks > 0 {
            self.tick = now;
            let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
            for (spent, (_, refill)) in self.spent.iter_mut().zip(BOUNDS) {
                *spent = spent.saturating_sub(refill.saturating_mul(ticks));
            }
        }
        let spent = &mut self.spent[flood as usize];
        if *spent >= BOUNDS[flood as usize].0 {
            return Err(flood);
        }
        *spent += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u32, code: u32) -> Frame {
        Frame {
            length,
            kind,
            flags,
            stream: 1,
            code,
        }
    }

    #[test]
    fn burst_is_taken_and_the_next_frame_is_a_flood() {
        for (kind, flood) in [
            (kind::RST_STREAM, Flood::Resets),
            (kind::PING, Flood::Pings),
            (kind::SETTINGS, Flood::Settings),
            (kind::WINDOW_UPDATE, Flood::Windows),
            (2, Flood::Others),
            (0x10, Flood::Others),
        ] {
            let mut budgets = Budgets::default();
            let frame = frame(kind, 0, 0, 0);
            for _ in 0..BOUNDS[flood as usize].0 {
                assert_eq!(budgets.came(frame, 7), Ok(()));
            }
            assert_eq!(budgets.came(frame, 7), Err(flood));
            // Time makes good what it can.
            assert_eq!(budgets.came(frame, 8), Ok(()));
        }
    }

    #[test]
    fn steady_rate_below_the_refill_is_no_flood() {
        let mut budgets = Budgets::default();
        for tick in 0..10_000 {
            assert_eq!(budgets.came(frame(kind::RST_STREAM, 0, 4, 8), tick), Ok(()));
            assert_eq!(budgets.came(frame(kind::PING, 0, 8, 0), tick), Ok(()));
        }
    }

    #[test]
    fn acknowledgements_and_messages_cost_nothing() {
        let mut budgets = Budgets::default();
        for _ in 0..10_000 {
            for (kind, flags) in [
                (kind::PING, ACK),
                (kind::SETTINGS, ACK),
                (kind::DATA, 0),
                (kind::HEADERS, 4),
            ] {
                assert_eq!(budgets.came(frame(kind, flags, 0, 0), 0), Ok(()));
            }
            assert_eq!(budgets.went(frame(kind::RST_STREAM, 0, 4, 0), 0), Ok(()));
        }
    }

    #[test]
    fn window_updates_are_paid_for_by_what_they_let_us_send() {
        let mut budgets = Budgets::default();
        for _ in 0..100_000 {
            // Both windows for each 8 KiB: what a cautious client sends.
            assert_eq!(budgets.went(frame(kind::DATA, 0, 8192, 0), 0), Ok(()));
            for _ in 0..2 {
                assert_eq!(budgets.came(frame(kind::WINDOW_UPDATE, 0, 4, 0), 0), Ok(()));
            }
        }
        let mut one_by_one = Budgets::default();
        let flood = (0..2000).find_map(|_| {
            one_by_one
                .went(frame(kind::DATA, 0, 1, 0), 0)
                .expect("no reset");
            one_by_one
                .came(frame(kind::WINDOW_UPDATE, 0, 4, 0), 0)
                .err()
        });
        assert_eq!(flood, Some(Flood::Windows));
    }
}
