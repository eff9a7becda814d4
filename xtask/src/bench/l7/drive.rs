//! A closed-loop drive, mostly by wrk, and what the peer used meanwhile. Latencies are not looked
//! at: a client that waits for each answer before it asks again does not see what a stall costs.

use std::{net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    cases::{Case, Drive},
    cost,
    handshakes::Handshakes,
    peers::Peer,
    script, streams,
    tls::Tls,
};

/// What a client counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Answers.
    pub(super) requests: f64,
    /// Connections that failed, timeouts, statuses that are not 2xx or 3xx, sessions that were not
    /// resumed where that was asked for.
    pub(super) errors: u64,
    /// Length, seconds.
    pub(super) seconds: f64,
}

/// What one drive came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Answers.
    pub(super) requests: f64,
    /// As the client counted them.
    pub(super) errors: u64,
    /// Length, seconds.
    pub(super) seconds: f64,
    /// What the peer used.
    pub(super) used: cost::Used,
    /// Ticks of 10 ms in which a CPU was busy, with whatever.
    pub(super) machine: u64,
}

impl Sample {
    /// CPU of the peer, us per request.
    pub(super) fn cpu(&self) -> f64 {
        self.used.cpu as f64 / 1e3 / self.requests
    }

    /// CPU of all that runs here (client and members too), us per request.
    pub(super) fn machine(&self) -> f64 {
        self.machine as f64 * 1e4 / self.requests
    }

    /// Part of the peer's CPU in user mode, 0.0..=1.0, by ticks.
    pub(super) fn user_share(&self) -> f64 {
        let ticks = (self.used.user + self.used.system).max(1);
        self.used.user as f64 / ticks as f64
    }

    pub(super) fn switches(&self) -> f64 {
        self.used.switches as f64 / self.requests
    }

    pub(super) fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// After a drive, until the peer has seen its connections end.
const SETTLE: Duration = Duration::from_millis(30);
/// CPU of ended threads that goes unremarked: the resolution of ticks, twice.
const ENDED: Duration = Duration::from_millis(40);

/// Drives a peer for whole seconds.
pub(super) fn peer(peer: &Peer, case: &Case, seconds: u32, tls: &Tls) -> Result<Sample> {
    let drive = prepare(peer, case, seconds, tls)?;
    let (before, machine) = (cost::Used::by(peer.pid), cost::machine());
    let count = drive().with_context(|| format!("driving {}", peer.kind.name()))?;
    thread::sleep(SETTLE);
    let used = cost::Used::by(peer.pid).since(before);
    ensure!(
        count.requests > 0.0,
        "{} answered nothing",
        peer.kind.name()
    );
    // A thread that ended took its part of `cpu` with it; ticks are the process's.
    let ticks = Duration::from_millis(10 * (used.user + used.system));
    ensure!(
        Duration::from_nanos(used.cpu) + ENDED > ticks,
        "threads of {} ended during a drive: {ticks:?} used, {} ns of it by those that live",
        peer.kind.name(),
        used.cpu,
    );
    Ok(Sample {
        requests: count.requests,
        errors: count.errors,
        seconds: count.seconds,
        used,
        machine: cost::machine().saturating_sub(machine),
    })
}

/// A drive that has yet to start.
pub(super) type Prepared<'a> = Box<dyn FnOnce() -> Result<Count> + 'a>;

/// Does what is not to be counted, and gives what is.
pub(super) fn prepare<'a>(
    peer: &'a Peer,
    case: &'a Case,
    seconds: u32,
    tls: &'a Tls,
) -> Result<Prepared<'a>> {
    let address = peer.at(case.is_tls);
    let resumes = case.drive == Drive::Resumed;
    Ok(match case.drive {
        Drive::Kept | Drive::Closing => Box::new(move || wrk(address, case, None, seconds, tls)),
        Drive::Spread | Drive::Sessions => {
            let script = script::write(&peer.dir, case, address)?;
            Box::new(move || wrk(address, case, Some(&script), seconds, tls))
        }
        Drive::Streams(streams) => Box::new(move || {
            streams::h2load(address, case.path, case.connections, streams, seconds, tls)
        }),
        Drive::Full | Drive::Resumed => {
            let clients = Handshakes::prepare(address, case.path, case.connections, resumes, tls)?;
            Box::new(move || Ok(clients.run(Duration::from_secs(seconds.into()))))
        }
    })
}

fn wrk(
    address: SocketAddr,
    case: &Case,
    script: Option<&Path>,
    seconds: u32,
    tls: &Tls,
) -> Result<Count> {
    let mut command = Command::new(lab::tool_path("wrk").context("wrk is not installed")?);
    tls.restrict(&mut command);
    command
        .args(["-t1", "--timeout", "5s"])
        .arg(format!("-c{}", case.connections))
        .arg(format!("-d{seconds}s"));
    if case.drive == Drive::Closing {
        command.args(["-H", "Connection: close"]);
    }
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let scheme = if case.is_tls { "https" } else { "http" };
    let output = command
        .arg(format!("{scheme}://{address}{}", case.path))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    parse(&said).with_context(|| {
        format!(
            "wrk said: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Reads `N requests in 1.00s, ...` and the lines about errors.
fn parse(said: &str) -> Option<Count> {
    let mut sample = None;
    let mut errors = 0;
    for line in said.lines().map(str::trim) {
        if let Some((requests, rest)) = line.split_once(" requests in ") {
            let time = rest.split(',').next()?;
            sample = Some((requests.trim().parse().ok()?, duration(time)?));
        } else if let Some(rest) = line.strip_prefix("Socket errors:") {
            let numbers = rest.split([' ', ',']).filter_map(|w| w.parse::<u64>().ok());
            errors += numbers.sum::<u64>();
        } else if let Some(rest) = line.strip_prefix("Non-2xx or 3xx responses:") {
            errors += rest.trim().parse::<u64>().ok()?;
        }
    }
    let (requests, seconds) = sample?;
    Some(Count {
        requests,
        errors,
        seconds,
    })
}

/// wrk's and h2load's `1.00s`, `1.50m`, `900.00ms`, `900us`, as seconds.
pub(super) fn duration(text: &str) -> Option<f64> {
    let number = |text: &str| text.parse::<f64>().ok();
    if let Some(text) = text.strip_suffix("us") {
        return Some(number(text)? / 1e6);
    }
    if let Some(text) = text.strip_suffix("ms") {
        return Some(number(text)? / 1e3);
    }
    if let Some(text) = text.strip_suffix('m') {
        return Some(number(text)? * 60.0);
    }
    number(text.strip_suffix('s')?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn errors_of_sockets_and_statuses_count_alike() {
        let said = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  \
            Thread Stats   Avg\n  31734 requests in 1.10s, 7.32MB read\n  \
            Socket errors: connect 1, read 2, write 0, timeout 4\n  \
            Non-2xx or 3xx responses: 10\nRequests/sec:  28849.13\n";
        let count = parse(said).expect("wrk's report");
        assert_eq!(count.errors, 17);
        assert!((count.requests / count.seconds - 28_849.0).abs() < 1.0);
    }

    #[test]
    fn no_report_is_no_count() {
        assert!(parse("unable to connect to 127.0.0.1:1 Connection refused\n").is_none());
    }
}
