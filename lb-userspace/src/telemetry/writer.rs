//! The thread that writes access logs, so that a slow disk holds up no request: shards hand over
//! blocks of lines and go on. The queue is bounded; what does not fit is lost and counted.

use std::{
    sync::{
        OnceLock,
        mpsc::{self, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use super::sink::{self, Sink};

/// Most blocks that wait: with blocks of 64 KiB some 4 MiB.
const QUEUE: usize = 64;

enum Job {
    Lines(Sink, Vec<u8>),
    /// Told when everything before it was written.
    Settle(SyncSender<()>),
}

static WRITER: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();

fn writer() -> Option<&'static SyncSender<Job>> {
    WRITER
        .get_or_init(|| {
            let (jobs, queue) = mpsc::sync_channel(QUEUE);
            let thread = std::thread::Builder::new().name("access-log".to_owned());
            thread.spawn(move || write(&queue)).ok().map(|_| jobs)
        })
        .as_ref()
}

fn write(queue: &mpsc::Receiver<Job>) {
    // One message for a run of failures.
    let mut broken = false;
    while let Ok(job) = queue.recv() {
        match job {
            Job::Lines(sink, lines) => match sink.write(&lines) {
                Ok(()) => broken = false,
                Err(error) if !broken => {
                    broken = true;
                    tracing::error!(target: "sluice::proxy", "access log: lines lost: {error}");
                }
                Err(_) => {}
            },
            Job::Settle(done) => drop(done.send(())),
        }
    }
}

/// Has whole lines written, soon.
pub(crate) fn hand_over(sink: &Sink, lines: Vec<u8>) {
    let Some(writer) = writer() else {
        // No thread to be had: written here, late being better than never.
        drop(sink.write(&lines));
        return;
    };
    let sent = writer.try_send(Job::Lines(sink.clone(), lines));
    if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = sent
        && let Job::Lines(_, lines) = job
    {
        sink::lose(&lines);
    }
}

/// Waits until what was handed over is written, at most `limit`.
pub(crate) fn settle(limit: Duration) {
    let Some(Some(writer)) = WRITER.get() else {
        return;
    };
    let end = Instant::now() + limit;
    loop {
        let (done, told) = mpsc::sync_channel(1);
        if writer.try_send(Job::Settle(done)).is_ok() {
            // Told or not, that was all there is to do.
            let _ = told.recv_timeout(end.saturating_duration_since(Instant::now()));
            return;
        }
        if Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
