//! What comes to control from outside, and waiting for something without being deaf to it.

use std::collections::VecDeque;

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};

use super::{
    control::{Control, TICK},
    signals::{Asked, Signals},
    socket::Ask,
};
use crate::admin::protocol::Request;

/// Requests over the control socket, signals, the clock.
pub(super) struct Inbox {
    asks: mpsc::Receiver<Ask>,
    signals: Signals,
    tick: Interval,
    /// What came while control waited for something else, to be done now.
    late: VecDeque<Came>,
}

/// One of them.
pub(super) enum Came {
    Ask(Ask),
    Signal(Asked),
    Tick,
}

/// A stop was asked for, and is the next thing in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service is stopping")]
pub(super) struct Stopped;

impl Inbox {
    pub(super) fn new(asks: mpsc::Receiver<Ask>, signals: Signals) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            asks,
            signals,
            tick,
            late: VecDeque::new(),
        }
    }

    /// The next thing to do. Cancelled: nothing is lost.
    pub(super) async fn next(&mut self) -> Came {
        match self.late.pop_front() {
            Some(late) => late,
            None => self.fresh().await,
        }
    }

    async fn fresh(&mut self) -> Came {
        tokio::select! {
            asked = self.signals.next() => Came::Signal(asked),
            Some(ask) = self.asks.recv() => Came::Ask(ask),
            _ = self.tick.tick() => Came::Tick,
        }
    }
}

impl Control {
    /// Waits for `work`, and meanwhile shows what it is asked to show, says that it lives, and keeps
    /// what is to be changed for later. A stop ends the wait.
    pub(super) async fn attend<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut inbox = self.inbox.lock().await;
        let mut work = std::pin::pin!(work);
        loop {
            let came = tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                came = inbox.fresh() => came,
            };
            match came {
                Came::Tick => self.dataplane.heartbeat(),
                Came::Signal(Asked::Reload) => inbox.late.push_back(came),
                Came::Signal(Asked::Stop { .. }) => {
                    inbox.late.push_front(came);
                    return Err(Stopped);
                }
                Came::Ask(ask) => match (self.look(&ask.request), &ask.request) {
                    // The client may have left.
                    (Some(response), _) => drop(ask.reply.send(response)),
                    (None, Request::Stop { .. }) => {
                        inbox.late.push_front(Came::Ask(ask));
                        return Err(Stopped);
                    }
                    (None, _) => inbox.late.push_back(Came::Ask(ask)),
                },
            }
        }
    }
}
