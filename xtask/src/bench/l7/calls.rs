//! System calls per request: one more drive, never a timed one, under `perf stat` with the kernel's
//! tracepoints, which costs next to nothing. Where there is no perf, or it may not, `strace -c`
//! counts: under it everything is several times slower, so that fewer events wait when a peer asks
//! for them, and calls that a peer spreads over a batch (epoll_wait) come out dearer than they are.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use lab::wait;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::{cases::Case, cost, drive, peers::Peer, tls::Tls};

/// Calls and what they were.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    /// Per request.
    pub(super) total: f64,
    /// By name, per request, the most frequent first; by perf only those of a list.
    pub(super) names: Vec<(String, f64)>,
    /// The program that counted.
    pub(super) by: &'static str,
}

/// Counts while a drive of one second runs.
pub(super) fn count(peer: &Peer, case: &Case, dir: &Path, tls: &Tls) -> Result<Calls> {
    let by_perf = if lab::has_tool("perf") {
        perf(peer, case, dir, tls)
    } else {
        Err(anyhow::anyhow!("perf is not installed"))
    };
    by_perf.or_else(|error| {
        eprintln!("    counting system calls by strace: {error:#}");
        strace(peer, case, dir, tls)
    })
}

/// The tracepoint of every call.
const ALL: &str = "raw_syscalls:sys_enter";
/// Calls that proxies make, counted by name too.
const NAMES: [&str; 26] = [
    "accept4",
    "clock_gettime",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "fcntl",
    "futex",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ioctl",
    "poll",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "splice",
    "write",
    "writev",
];
const BY_NAME: &str = "syscalls:sys_enter_";

/// perf is attached and waits before the drive begins, and stops before anything else happens.
fn perf(peer: &Peer, case: &Case, dir: &Path, tls: &Tls) -> Result<Calls> {
    let drive = drive::prepare(peer, case, 1, tls)?;
    let report = dir.join("perf");
    let mut orders = Fifo::make(dir, "perf-orders")?;
    let mut answers = Fifo::make(dir, "perf-answers")?;
    let named = NAMES.map(|name| format!("{BY_NAME}{name}"));
    let events = format!("{ALL},{}", named.join(","));
    let pids: Vec<_> = cost::tree(peer.pid)
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut perf = Command::new(lab::tool_path("perf").context("perf is not installed")?)
        .args(["stat", "-x", ";", "-D", "-1", "-e", &events])
        .args(["-p", &pids.join(",")])
        .arg(format!("--control=fifo:{},{}", orders.path, answers.path))
        .arg("-o")
        .arg(&report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("perf-errors"))?)
        .spawn()?;
    let counted = (|| {
        order(&mut perf, &mut orders, &mut answers, "enable")?;
        let count = drive()?;
        order(&mut perf, &mut orders, &mut answers, "disable")?;
        anyhow::Ok(count)
    })();
    interrupt(&perf);
    perf.wait()?;
    let requests = counted
        .with_context(|| fs::read_to_string(dir.join("perf-errors")).unwrap_or_default())?
        .requests;
    let text = fs::read_to_string(&report).context("perf's report")?;
    let mut total = None;
    let mut names = Vec::new();
    for (name, calls) in text.lines().filter_map(event) {
        match name.strip_prefix(BY_NAME) {
            Some(name) => names.push((name.to_owned(), calls / requests)),
            None if name == ALL => total = Some(calls / requests),
            None => {}
        }
    }
    let total = total.context("perf counted no calls")?;
    Ok(sorted(total, names, "perf"))
}

/// A pipe with a name, of which this end never blocks.
struct Fifo {
    path: String,
    file: fs::File,
}

impl Fifo {
    fn make(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        if !path.exists() {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &path, FileType::Fifo, mode, 0).context("making a pipe for perf")?;
        }
        // For both, so that opening it waits for nobody.
        let file = fs::File::options()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits())?)
            .open(&path)?;
        Ok(Self {
            path: path.display().to_string(),
            file,
        })
    }
}

/// Tells perf what to do and waits until it has done so.
fn order(perf: &mut Child, orders: &mut Fifo, answers: &mut Fifo, what: &str) -> Result<()> {
    orders.file.write_all(format!("{what}\n").as_bytes())?;
    let done = wait::until("perf to do as it is told", wait::PATIENCE, || {
        if !matches!(perf.try_wait(), Ok(None)) {
            return Some(false);
        }
        let mut answer = [0; 64];
        let length = answers.file.read(&mut answer).ok()?;
        answer[..length].starts_with(b"ack").then_some(true)
    })?;
    if !done {
        bail!("perf ended before it counted");
    }
    Ok(())
}

/// INT makes both programs detach and write their reports.
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    }
}

/// `29;;raw_syscalls:sys_enter;1234;100.00;;`: event and count. One that never came is 0, or
/// `<not counted>`.
fn event(text: &str) -> Option<(&str, f64)> {
    let mut words = text.split(';');
    let count = words.next()?;
    let name = words.nth(1)?;
    let count = if count == "<not counted>" {
        0.0
    } else {
        count.parse().ok()?
    };
    Some((name, count))
}

fn sorted(total: f64, mut names: Vec<(String, f64)>, by: &'static str) -> Calls {
    names.retain(|(_, calls)| *calls > 0.0);
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    Calls { total, names, by }
}

fn strace(peer: &Peer, case: &Case, dir: &Path, tls: &Tls) -> Result<Calls> {
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
    interrupt(&strace);
    strace.wait()?;
    let requests = sample?.requests;
    let text = fs::read_to_string(&report).context("strace's report")?;
    let mut names: Vec<_> = text.lines().filter_map(line).collect();
    let total = names.iter().map(|(_, calls)| calls).sum::<f64>() / requests;
    for (_, calls) in &mut names {
        *calls /= requests;
    }
    Ok(sorted(total, names, "strace"))
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
    use super::{event, line};

    #[test]
    fn events_are_read_whether_they_came_or_not() {
        let came = "29;;raw_syscalls:sys_enter;2112908;100.00;;";
        assert_eq!(event(came), Some(("raw_syscalls:sys_enter", 29.0)));
        let never = "<not counted>;;syscalls:sys_enter_read;0;100.00;;";
        assert_eq!(event(never), Some(("syscalls:sys_enter_read", 0.0)));
        assert_eq!(event("# started on Mon Nov 23"), None);
        assert_eq!(event("<not supported>;;x;0;100.00;;"), None);
    }

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
