//! Deadlines: one coarse wheel a shard for every idle, header, connect and I/O timeout.
//!
//! A request moves its deadlines several times and almost none is ever reached, so moving one is a
//! store to a cell: an alarm stays queued where it was and is queued again, at its true deadline,
//! when its slot comes round. Resolution is [`TICK`]; an alarm never rings early.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Length of one tick.
pub const TICK: Duration = Duration::from_millis(100);

/// Slots; a deadline further away than this many ticks is looked at once a round.
const SLOTS: usize = 512;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// The wheel of one shard.
#[derive(Default)]
pub struct Wheel {
    now: Cell<u64>,
    slots: RefCell<Vec<Vec<Weak<Ring>>>>,
}

/// What a wheel knows of an alarm.
struct Ring {
    /// Tick at which it rings.
    deadline: Cell<u64>,
    /// Tick of the slot it is queued in; [`NEVER`]: in none.
    queued: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

/// One deadline that can be moved and waited for.
pub struct Alarm {
    wheel: Rc<Wheel>,
    ring: Rc<Ring>,
}

impl Wheel {
    /// A wheel at tick 0.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(0),
            slots: RefCell::new(vec![Vec::new(); SLOTS]),
        })
    }

    /// Ticks so far.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// An alarm that is not set.
    pub fn alarm(self: &Rc<Self>) -> Alarm {
        Alarm {
            wheel: Rc::clone(self),
            ring: Rc::new(Ring {
                deadline: Cell::new(NEVER),
                queued: Cell::new(NEVER),
                waker: RefCell::new(None),
            }),
        }
    }

    /// Moves on to tick `to`, waking every alarm whose deadline is reached.
    pub fn advance(&self, to: u64) {
        // After a long sleep of the thread one round visits every slot.
        let from = self.now.get().max(to.saturating_sub(SLOTS as u64));
        for tick in from + 1..=to {
            self.now.set(tick);
            let due = std::mem::take(&mut self.slots.borrow_mut()[tick as usize % SLOTS]);
            for weak in due {
                let Some(ring) = weak.upgrade() else { continue };
                // Stale entry: it was queued again for an earlier tick since.
                if ring.queued.get() % SLOTS as u64 != tick % SLOTS as u64 {
                    continue;
                }
                ring.queued.set(NEVER);
                let deadline = ring.deadline.get();
                if deadline <= tick {
                    if let Some(waker) = ring.waker.borrow_mut().take() {
                        waker.wake();
                    }
                } else if deadline != NEVER {
                    self.queue(&ring, deadline);
                }
            }
        }
        self.now.set(self.now.get().max(to));
    }

    fn queue(&self, ring: &Rc<Ring>, deadline: u64) {
        // Beyond one round: wait in the slot that comes last and look again there.
        let at = deadline.min(self.now.get() + SLOTS as u64 - 1);
        ring.queued.set(at);
        self.slots.borrow_mut()[at as usize % SLOTS].push(Rc::downgrade(ring));
    }
}

impl Alarm {
    /// Sets the deadline to `after` from now; rings between that and one tick later.
    pub fn set(&self, after: Duration) {
        let ticks = after.as_millis().div_ceil(TICK.as_millis()) + 1;
        let ticks = u64::try_from(ticks).unwrap_or(NEVER / 2).min(NEVER / 2);
        let deadline = self.wheel.now.get() + ticks;
        self.ring.deadline.set(deadline);
        if deadline < self.ring.queued.get() {
            self.wheel.queue(&self.ring, deadline);
        }
    }

    /// Ticks of its wheel so far.
    pub fn now(&self) -> u64 {
        self.wheel.now()
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.ring.deadline.set(NEVER);
    }

    /// Whether a deadline is set, reached or not.
    pub fn is_set(&self) -> bool {
        self.ring.deadline.get() != NEVER
    }

    /// Ready when the deadline is reached; else the task is woken when it is.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ring.deadline.get() <= self.wheel.now.get() {
            return Poll::Ready(());
        }
        let mut waker = self.ring.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|own| own.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the deadline.
    pub async fn reached(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    /// Waits for `future`, at most `limit`. `None`: the time is up.
    pub async fn limit<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        self.set(limit);
        let mut future = std::pin::pin!(future);
        let output = std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await;
        self.clear();
        output
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Advances tick by tick until the alarm rings; the ticks that took.
    fn rings_after(wheel: &Wheel, alarm: &Alarm, limit: u64) -> Option<u64> {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let start = wheel.now();
        while wheel.now() < start + limit {
            if alarm.poll(&mut cx).is_ready() {
                return Some(wheel.now() - start);
            }
            let woken = count.0.load(Relaxed);
            wheel.advance(wheel.now() + 1);
            if alarm.poll(&mut cx).is_ready() {
                assert_eq!(count.0.load(Relaxed), woken + 1, "woken when it rings");
            }
        }
        None
    }

    #[test]
    fn moved_deadline_rings_at_its_last_place_only() {
        let wheel = Wheel::new();
        let alarm = wheel.alarm();
        alarm.set(TICK * 10);
        alarm.set(TICK * 3);
        alarm.set(TICK * 20);
        assert_eq!(rings_after(&wheel, &alarm, 100), Some(21));
    }

    #[test]
    fn cleared_alarm_stays_silent() {
        let wheel = Wheel::new();
        let alarm = wheel.alarm();
        alarm.set(TICK * 3);
        alarm.clear();
        assert_eq!(rings_after(&wheel, &alarm, 2000), None);
    }

    #[test]
    fn deadline_beyond_one_round_is_kept() {
        let wheel = Wheel::new();
        let alarm = wheel.alarm();
        alarm.set(TICK * 3 * SLOTS as u32);
        assert_eq!(
            rings_after(&wheel, &alarm, 5000),
            Some(3 * SLOTS as u64 + 1)
        );
    }

    proptest! {
        #[test]
        fn rings_once_never_early_and_at_most_a_tick_late(
            moves in prop::collection::vec((0_u64..1500, 0_u64..40), 1..20)
        ) {
            let wheel = Wheel::new();
            let alarm = wheel.alarm();
            let mut last = 0;
            for (after, pause) in moves {
                alarm.set(TICK * after as u32);
                last = after;
                wheel.advance(wheel.now() + pause.min(after));
                last -= pause.min(after);
            }
            let rang = rings_after(&wheel, &alarm, 3000).expect("rings");
            prop_assert!(rang == last + 1, "{rang} {last}");
        }
    }
}
