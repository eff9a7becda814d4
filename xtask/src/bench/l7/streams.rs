//! A closed-loop drive by h2load, and what its report says.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{
    drive::Count,
    tls::{GROUP, SUITE, Tls},
};

/// Asks for `path` on `connections` connections with `streams` streams each, for whole seconds.
pub(super) fn h2load(
    address: SocketAddr,
    path: &str,
    connections: u32,
    streams: u32,
    seconds: u32,
    tls: &Tls,
) -> Result<Count> {
    let mut command = Command::new(lab::tool_path("h2load").context("h2load is not installed")?);
    command
        .args(["-t1", "--npn-list=h2"])
        .arg(format!("-c{connections}"))
        .arg(format!("-m{streams}"))
        .arg(format!("-D{seconds}s"))
        .arg(format!("--tls13-ciphers={SUITE}"))
        .arg(format!("--groups={GROUP}"))
        .arg(format!("https://{address}{path}"));
    tls.restrict(&mut command);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let count = parse(&said).with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("h2load said: {said}{errors}")
    })?;
    ensure!(
        said.lines().any(|line| line == "Application protocol: h2")
            && said.lines().any(|line| line == format!("Cipher: {SUITE}")),
        "h2load negotiated otherwise: {said}"
    );
    Ok(count)
}

/// Reads `finished in 1.00s, ...`, `requests: 4 total, 4 started, ...` and `status codes: 4 2xx, ...`.
fn parse(said: &str) -> Option<Count> {
    let line = |begin: &str| said.lines().find_map(|line| line.strip_prefix(begin));
    let number = |list: &str, name: &str| {
        list.split(',').find_map(|part| {
            let (number, what) = part.trim().split_once(' ')?;
            (what == name).then(|| number.parse::<u64>().ok())?
        })
    };
    let seconds = super::drive::duration(line("finished in ")?.split(',').next()?)?;
    let requests = line("requests: ")?;
    let statuses = line("status codes: ")?;
    let good = number(statuses, "2xx")?;
    // What is `failed` is the sum of errors and timeouts; requests cut off at the end are in none.
    let bad = ["3xx", "4xx", "5xx"]
        .iter()
        .filter_map(|class| number(statuses, class))
        .sum::<u64>();
    Some(Count {
        requests: good as f64,
        errors: bad + number(requests, "errored")? + number(requests, "timeout")?,
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_those_with_status_200_and_failures_are_counted() {
        let said = "finished in 1.50s, 23028.00 req/s, 3.97MB/s\n\
            requests: 23040 total, 23156 started, 23028 done, 23020 succeeded, 15 failed, 4 errored, 3 timeout\n\
            status codes: 23020 2xx, 0 3xx, 1 4xx, 7 5xx\n";
        let count = parse(said).expect("h2load's report");
        assert!((count.requests - 23_020.0).abs() < 0.5);
        assert_eq!(count.errors, 8 + 4 + 3);
        assert!((count.seconds - 1.5).abs() < 1e-9);
        assert!(parse("").is_none());
    }
}
