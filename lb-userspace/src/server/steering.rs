//! What wakes control for the sake of steered packets: members' states, which the proxy's shards
//! write too, and the host's interfaces, routes and neighbours.

use std::time::Duration;

use tokio::{
    io::unix::AsyncFd,
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::dataplane::Watch;

/// Between looks at members' states: a state is in the ring within 60 ms of being written, whoever
/// wrote it. A look costs a few loads for each member that is steered to.
const LOOK: Duration = Duration::from_millis(20);
/// News of the host come in bursts: they are answered together.
const SETTLE: Duration = Duration::from_millis(50);

/// When to look at members' states.
pub(super) fn looks() -> Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// News of the host.
pub(super) struct News {
    /// `None`: this process may not listen; neighbours are looked at once a second all the same.
    watch: Option<AsyncFd<Watch>>,
    /// There were some, which are to be answered then.
    due: Option<Instant>,
}

impl News {
    /// Begins to listen.
    pub(super) fn new() -> Self {
        let watch = Watch::new().and_then(AsyncFd::new);
        let watch = watch
            .inspect_err(|error| {
                tracing::warn!("news of interfaces and neighbours cannot be listened to: {error}");
            })
            .ok();
        Self { watch, due: None }
    }

    /// Something of the host changed. May be dropped and called again at any point.
    pub(super) async fn next(&mut self) {
        loop {
            if let Some(due) = self.due {
                tokio::time::sleep_until(due).await;
                self.due = None;
                return;
            }
            let Some(watch) = &self.watch else {
                return std::future::pending().await;
            };
            let Ok(mut ready) = watch.readable().await else {
                return std::future::pending().await;
            };
            let any = watch.get_ref().drain();
            ready.clear_ready();
            if any {
                self.due = Some(Instant::now() + SETTLE);
            }
        }
    }
}
