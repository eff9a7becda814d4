//! Waiting for a condition with a deadline, in place of sleeps that hope.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long tests wait for what should take milliseconds. Long, because the machine may be busy;
/// it is only ever used up by a failure.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Asks `condition` every few milliseconds until it gives a value.
///
/// Fails after `patience`, naming `what` was waited for.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() > patience {
            bail!("gave up after {patience:?} waiting for {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
