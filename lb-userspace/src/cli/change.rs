//! Commands that change something; each prints what changed.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    FAILED, Failure, Outcome, USAGE,
    args::{Global, MemberChangeCommand},
    client::{self, NoAnswer, ask},
    output,
    show::find_service,
};
use crate::{
    admin::{
        change::loadfactor,
        protocol::{MemberChange, Request, Response},
    },
    dataplane,
};

pub(crate) fn member(global: &Global, command: &MemberChangeCommand) -> Outcome {
    let (which, changes) = match command {
        MemberChangeCommand::Drain(which) => (which, vec![MemberChange::Drain]),
        MemberChangeCommand::Disable(which) => (which, vec![MemberChange::Disable]),
        MemberChangeCommand::Enable(which) => (which, vec![MemberChange::Enable]),
        MemberChangeCommand::Set { which, changes } => {
            let changes: Result<Vec<_>, String> =
                changes.iter().map(|text| setting_of(text)).collect();
            (
                which,
                changes.map_err(|message| Failure::text(USAGE, message))?,
            )
        }
    };
    client::change(
        global,
        &Request::Member {
            balancer: which.balancer.clone(),
            member: which.member.clone(),
            changes,
        },
    )
}

/// `KEY=VALUE` of `member set`.
fn setting_of(text: &str) -> Result<MemberChange, String> {
    let expected = "expected loadfactor=1..100, lbset=0..99 or status=+H-D";
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text}: {expected}"))?;
    match key {
        "loadfactor" => Ok(MemberChange::LoadFactor {
            lbfactor: loadfactor(value).map_err(|error| format!("{text}: {error}"))?,
        }),
        "lbset" => Ok(MemberChange::LbSet {
            lbset: value
                .parse()
                .ok()
                .filter(|lbset| *lbset <= 99)
                .ok_or_else(|| format!("{text}: lbset must be between 0 and 99"))?,
        }),
        "status" => Ok(MemberChange::Status {
            flags: value.to_owned(),
        }),
        _ => Err(format!("{key}: no such setting; {expected}")),
    }
}

pub(crate) fn limit(global: &Global, service: &str, limit: &[String]) -> Outcome {
    let shown = client::snapshot(global)?;
    let service = find_service(&shown, service)?.id;
    client::change(
        global,
        &Request::Limit {
            service,
            limit: limit.join(" "),
        },
    )
}

pub(crate) fn deny_add(
    global: &Global,
    prefix: String,
    time: Option<Duration>,
    force: bool,
) -> Outcome {
    let caller = ssh_client();
    client::change(
        global,
        &Request::DenyAdd {
            prefix,
            seconds: time.map(|time| time.as_secs()),
            force,
            caller,
        },
    )
}

/// Address of the SSH client that this command serves, from its own environment or, since sudo(8)
/// takes the variable away, from that of a process above it.
fn ssh_client() -> Option<String> {
    /// Deeper than that nobody's shells are nested.
    const GENERATIONS: usize = 32;
    if let Ok(value) = std::env::var("SSH_CONNECTION") {
        return client_address(value.as_bytes());
    }
    let mut pid = rustix::process::getppid()?.as_raw_nonzero().get();
    for _ in 0..GENERATIONS {
        // Another user's is not readable: then it is not known.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="));
        if let Some(value) = value {
            return client_address(value);
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, field 2, may hold anything; after its parenthesis come state and parent.
        let (_, fields) = stat.rsplit_once(") ")?;
        pid = fields.split(' ').nth(1)?.parse().ok()?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

/// The first word of `SSH_CONNECTION`: address and port of the client, then of the server.
fn client_address(value: &[u8]) -> Option<String> {
    let first = value.split(|byte| *byte == b' ').next()?;
    String::from_utf8(first.to_vec()).ok()
}

pub(crate) fn deny_del(global: &Global, prefix: String) -> Outcome {
    client::change(global, &Request::DenyDelete { prefix })
}

pub(crate) fn setting(global: &Global, name: String, value: String) -> Outcome {
    client::change(global, &Request::Set { name, value })
}

pub(crate) fn reload(global: &Global) -> Outcome {
    client::change(global, &Request::Reload)
}

pub(crate) fn upgrade(
    global: &Global,
    binary: Option<PathBuf>,
    deadline: Option<Duration>,
) -> Outcome {
    // The daemon has a working directory of its own.
    let binary = binary.map(std::path::absolute).transpose()?;
    client::change(
        global,
        &Request::Upgrade {
            binary,
            deadline: deadline.map(|deadline| deadline.as_secs()),
        },
    )
}

/// Stops and waits until the service is gone.
pub(crate) fn stop(global: &Global, graceful: bool) -> Outcome {
    let place = global.place();
    if let Some(pid) = dataplane::orphan_of(&place) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::text(FAILED, "the lock file is damaged"))?;
        kill_process(pid, Signal::TERM)
            .map_err(|errno| Failure::text(FAILED, format_args!("proxy process {pid}: {errno}")))?;
        return output::line(&format!(
            "no daemon: its proxy, process {pid}, was told to finish its requests and leave"
        ));
    }
    client::change(global, &Request::Stop { graceful })?;
    // The socket is the last thing that goes.
    let path = client::socket(global);
    while std::os::unix::net::UnixStream::connect(&path).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    output::line("stopped")
}

pub(crate) fn detach(global: &Global, yes: bool) -> Outcome {
    if !yes
        && !confirmed(&question(
            dataplane::living_flows(&global.place()).unwrap_or(0),
        ))?
    {
        return Err(Failure::text(FAILED, "nothing changed"));
    }
    match ask(global, &Request::Detach) {
        Ok(Response::Done { message }) => output::line(&message),
        Ok(Response::Refused { message }) => Err(Failure::text(FAILED, message)),
        Ok(_) => Err(Failure::text(FAILED, "the daemon answered strangely")),
        Err(NoAnswer::Failed(failure)) => Err(failure),
        Err(NoAnswer::Ended) => Err(client::ended()),
        Err(NoAnswer::Dead) => {
            let gone = dataplane::detach_dead(&global.place())
                .map_err(|error| Failure::text(super::UNREACHABLE, error))?;
            for view in &gone {
                output::line(&format!("detached from {} (no daemon)", view.name))?;
            }
            if gone.is_empty() {
                return output::line("the program is attached to no interface (no daemon)");
            }
            Ok(())
        }
    }
}

/// What detaching does.
fn question(flows: u64) -> String {
    match flows {
        0 => "Packets will no longer be guarded. Detach?".to_owned(),
        1 => "Packets will no longer be guarded or steered: 1 flow breaks. Detach?".to_owned(),
        n => format!("Packets will no longer be guarded or steered: {n} flows break. Detach?"),
    }
}

/// Asks; without a terminal to ask on it is a usage error.
fn confirmed(question: &str) -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::text(
            USAGE,
            "no terminal to ask on; --yes goes ahead",
        ));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_says_how_many_flows_break() {
        assert!(!question(0).contains("flow"));
        assert!(question(1).contains("1 flow breaks") && question(7).contains("7 flows break"));
    }

    #[test]
    fn settings_are_checked_before_they_are_sent() {
        assert_eq!(
            setting_of("loadfactor=2.5"),
            Ok(MemberChange::LoadFactor { lbfactor: 250 })
        );
        assert_eq!(setting_of("lbset=1"), Ok(MemberChange::LbSet { lbset: 1 }));
        assert!(setting_of("status=+H-D").is_ok());
        for wrong in [
            "",
            "loadfactor",
            "loadfactor=0",
            "lbset=100",
            "lbset=-1",
            "weight=1",
        ] {
            assert!(setting_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
