//! What wakes control for the sake of steered packets: members' states, which the proxy's shards
//! write too, and the host's interfaces, routes and neighbours.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior},
};

use crate::dataplane::Watch;

/// Between looks at members' states: a state is in the ring within 60 ms of being written, whoever
/// wrote it. A look costs a few loads for each member that is steered to.
const LOOK: Duration = Duration::from_millis(20);

/// When to look at members' states.
pub(super) fn looks() -> Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// News of the host.
#[derive(Debug, Default)]
pub(super) struct News {
    told: Notify,
    /// Of more than neighbours, since somebody last asked.
    ways: AtomicBool,
}

impl News {
    /// Waits for news; whether they are of more than neighbours.
    pub(super) async fn next(&self) -> bool {
        self.told.notified().await;
        self.ways.swap(false, AcqRel)
    }
}

/// Begins to listen to news of the host, on a thread that ends with the process; told of them is who
/// waits. Without them interfaces and neighbours are looked at once a second all the same.
pub(super) fn news() -> Arc<News> {
    let news = Arc::new(News::default());
    let listen = || {
        let watch = Watch::new()?;
        let told = Arc::clone(&news);
        let thread = std::thread::Builder::new().name("host-news".to_owned());
        thread.spawn(move || {
            while let Ok(ways) = watch.wait() {
                told.ways.fetch_or(ways, AcqRel);
                told.told.notify_one();
            }
            tracing::warn!("news of interfaces and neighbours can no longer be listened to");
        })
    };
    if let Err(error) = listen() {
        tracing::warn!("news of interfaces and neighbours cannot be listened to: {error}");
    }
    news
}
