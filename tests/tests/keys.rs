//! A private key that root alone may read, and a proxy that is nobody.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use lab::{
    Member, Sluice, missing,
    netns::run,
    skip,
    sluice::Place,
    wait::{self, PATIENCE},
};
use rustix::process::{Pid, Signal, kill_process};

/// A certificate that anybody may read and its key, which root may.
fn make(dir: &Path, subject: &str) -> Result<()> {
    run(Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", &format!("/O={subject}/CN=a.test")])
        .args(["-addext", "subjectAltName=DNS:a.test"])
        .args(["-keyout", "new.key", "-out", "new.pem"])
        .current_dir(dir))?;
    let mode =
        |name: &str, mode| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode));
    mode("new.key", 0o600)?;
    mode("new.pem", 0o644)?;
    fs::rename(dir.join("new.key"), dir.join("a.key"))?;
    fs::rename(dir.join("new.pem"), dir.join("a.pem"))?;
    Ok(())
}

/// Whose certificate a client is shown, which gets an answer over it.
fn shown(dir: &Path, port: u16) -> Result<String> {
    let said = run(Command::new("curl")
        .args([
            "-sSv",
            "--max-time",
            "20",
            "--stderr",
            "-",
            "--cacert",
            "a.pem",
        ])
        .args(["--resolve", &format!("a.test:{port}:127.0.0.1")])
        .arg(format!("https://a.test:{port}/name"))
        .current_dir(dir))?;
    ensure!(said.contains("< x-member: m"), "{said}");
    let subject = said.lines().find_map(|line| line.split_once("subject: O="));
    let (_, subject) = subject.with_context(|| said.clone())?;
    Ok(subject
        .split([';', ','])
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn proxy(sluice: &Sluice) -> Result<Pid> {
    let pid = sluice.json(&["status"])?["proxy_pid"].as_i64();
    Pid::from_raw(i32::try_from(pid.context("a number")?)?).context("a process")
}

fn generation(sluice: &Sluice) -> Result<u64> {
    let number = sluice.json(&["status"])?["generation"].as_u64();
    number.context("a number")
}

/// Fails if the proxy process, as who it is, could open the key, or has it open.
fn cannot_open_the_key(pid: Pid, dir: &Path) -> Result<()> {
    let of = |what: &str| format!("/proc/{}/{what}", pid.as_raw_pid());
    let status = fs::read_to_string(of("status"))?;
    let field = |name: &str| -> Result<Vec<String>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line
            .with_context(|| format!("no {name}"))?
            .split_whitespace();
        Ok(words.map(str::to_owned).collect())
    };
    let (users, groups) = (field("Uid:")?, field("Gid:")?);
    ensure!(users.iter().chain(&groups).all(|id| id != "0"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        ensure!(field(set)? == ["0000000000000000"], "{status}");
    }
    let reads = |name: &str| -> Result<bool> {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                &users[1],
                "--regid",
                &groups[1],
                "--clear-groups",
                "--",
            ])
            .arg("cat")
            .arg(dir.join(name))
            .output()?;
        Ok(output.status.success())
    };
    // The one shows that it is the mode which keeps it from the other.
    ensure!(reads("a.pem")? && !reads("a.key")?);
    let key = dir.join("a.key").canonicalize()?;
    for entry in fs::read_dir(of("fd"))?.flatten() {
        ensure!(fs::read_link(entry.path()).ok().as_ref() != Some(&key));
    }
    Ok(())
}

#[test]
fn key_of_roots_serves_a_proxy_that_is_nobody_through_reload_and_crash() -> Result<()> {
    if let Some(reason) = missing() {
        return skip(&reason);
    }
    let place = tempfile::tempdir()?;
    let dir = place.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    make(dir, "first")?;
    let here: SocketAddr = ([127, 0, 0, 1], 0).into();
    let member = Member::start_here("m", here)?;
    let listen = TcpListener::bind(here)?.local_addr()?;
    let text = format!(
        "Listen {listen}\nUser nobody\nGroup nogroup\nServerName a.test\nSSLEngine on\n\
         SSLCertificateFile {0}/a.pem\nSSLCertificateKeyFile {0}/a.key\n\
         ProxyPass / http://{1}/\n",
        dir.display(),
        member.address(),
    );
    let at = Place::here(dir, "keys", listen)?;
    let sluice = Sluice::start_in(at, &text, &["--no-xdp"])?;
    let first = proxy(&sluice)?;
    ensure!(shown(dir, listen.port())? == "first");
    cannot_open_the_key(first, dir)?;

    // Control reads it again, and so another one in its place.
    let before = generation(&sluice)?;
    sluice.signal(Signal::USR1)?;
    wait::until("the reload", PATIENCE, || {
        (generation(&sluice).ok()? > before).then_some(())
    })?;
    ensure!(shown(dir, listen.port())? == "first");
    make(dir, "second")?;
    sluice.cli(&["reload"])?.ok()?;
    ensure!(shown(dir, listen.port())? == "second");
    ensure!(proxy(&sluice)? == first);

    kill_process(first, Signal::KILL)?;
    let second = wait::until("another proxy", PATIENCE, || {
        proxy(&sluice).ok().filter(|pid| *pid != first)
    })?;
    ensure!(shown(dir, listen.port())? == "second");
    cannot_open_the_key(second, dir)?;
    // Nobody but control can have read it: what there is no file of any more is served on.
    fs::remove_file(dir.join("a.key"))?;
    kill_process(second, Signal::KILL)?;
    wait::until("a third proxy", PATIENCE, || {
        proxy(&sluice).ok().filter(|pid| *pid != second)
    })?;
    ensure!(shown(dir, listen.port())? == "second");
    Ok(())
}
