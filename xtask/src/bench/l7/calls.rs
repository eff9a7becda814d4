//! System calls per request: one drive under `strace -c`, never a timed one. Under it everything
//! is several times slower, so that fewer events wait when a peer asks for them: calls that a peer
//! spreads over a batch (epoll_wait) come out dearer than they are.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use lab::wait;

use super::{cases::Case, cost, drive, peers::Peer, tls::Tls};

/// Calls and what they were.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    /// Per request.
    pub(super) total: f64,
    /// By name, per request, the most frequent first.
    pub(super) names: Vec<(String, f64)>,
}

/// Counts while a drive of one second runs.
pub(super) fn count(peer: &Peer, case: &Case, dir: &Path, tls: &Tls) -> Result<Calls> {
    let drive = drive::prepare(peer, case, 1, tls)?;
    let report = dir.join("strace");
    let mut command = Command::new(lab::tool_path("strace").context("strace is not installed")?);
    command.args(["-c", "-f", "-q", "-o"]).arg(&report);
    for pid in cost::tree(peer.pid) {
        command.arg("-p").arg(pid.to_string());
    }
    let mut strace = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let attached = wait::until("strace to attach", wait::PATIENCE, || {
        if !matches!(strace.try_wait(), Ok(None)) {
            return Some(false);
        }
        cost::is_traced(peer.pid).then_some(true)
    });
    let sample = match attached {
        Ok(true) => drive(),
        _ => Err(anyhow::anyhow!("strace could not attach")),
    };
    let pid = i32::try_from(strace.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // INT makes it detach and write its report.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
    strace.wait()?;
    let requests = sample?.requests;
    let text = fs::read_to_string(&report).context("strace's report")?;
    let mut names: Vec<_> = text.lines().filter_map(line).collect();
    let total = names.iter().map(|(_, calls)| calls).sum::<f64>() / requests;
    for (_, calls) in &mut names {
        *calls /= requests;
    }
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(Calls { total, names })
}

/// `12.34    0.001234           5       246        12 recvfrom`: name and calls.
fn line(text: &str) -> Option<(String, f64)> {
    let words: Vec<_> = text.split_whitespace().collect();
    let (name, calls) = (words.last()?, words.get(3)?);
    words.first()?.parse::<f64>().ok()?;
    (*name != "total").then_some(())?;
    Some(((*name).to_owned(), calls.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn report_lines_are_told_from_heading_and_sum() {
        let recv = " 12.34    0.001234           5       246        12 recvfrom";
        assert_eq!(line(recv), Some(("recvfrom".to_owned(), 246.0)));
        assert_eq!(line("100.00    0.010000           5      1000 total"), None);
        assert_eq!(
            line("% time     seconds  usecs/call     calls    errors syscall"),
            None
        );
        assert_eq!(
            line("------ ----------- ----------- --------- --------- ----"),
            None
        );
    }
}
