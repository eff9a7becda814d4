//! The control socket against clients that mean no good.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
};

use super::harness::{Member, Sluice};

#[test]
fn noise_gets_an_answer_and_harms_nobody() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    for noise in [
        &b"\n"[..],
        b"hello\n",
        b"{\"do\":\"stop\"}\n",
        b"{\"do\":\"fly\"}\n",
        b"\xff\xfe\x00\n",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    ] {
        let mut stream = UnixStream::connect(sluice.socket()).expect("connect");
        stream.write_all(noise).expect("write");
        let mut line = String::new();
        BufReader::new(&stream)
            .read_line(&mut line)
            .expect("an answer");
        assert!(line.contains("\"refused\""), "{noise:?}: {line}");
    }
    sluice.ok(&["status"]);
}

#[test]
fn an_endless_line_is_cut_off() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let mut stream = UnixStream::connect(sluice.socket()).expect("connect");
    let part = [b'x'; 4096];
    // Refused at 64 KiB: writing a megabyte fails, or the answer is there.
    let written = (0..256).try_for_each(|_| stream.write_all(&part));
    let mut line = String::new();
    let read = BufReader::new(&stream).read_line(&mut line);
    assert!(
        written.is_err() || read.is_err() || line.contains("refused"),
        "{line}"
    );
    sluice.ok(&["status"]);
}

#[test]
fn silent_clients_do_not_hold_up_others() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let mut silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(sluice.socket()).expect("connect"))
        .collect();
    for stream in &mut silent {
        stream.write_all(b"{\"do\":").expect("write");
    }
    sluice.ok(&["status"]);
    // They are not kept for ever: each is closed by the time its patience is over.
    silent[0]
        .set_read_timeout(Some(super::harness::PATIENCE))
        .expect("timeout");
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).expect("closed in time");
}

#[test]
fn a_crowd_of_silent_clients_passes() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let crowd: Vec<UnixStream> = (0..300)
        .map(|_| UnixStream::connect(sluice.socket()).expect("connect"))
        .collect();
    let before = std::time::Instant::now();
    sluice.ok(&["status"]);
    assert!(before.elapsed() < super::harness::PATIENCE);
    drop(crowd);
}

#[test]
fn a_person_may_not_connect_unless_told_so() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let mode = std::fs::metadata(sluice.socket())
        .expect("socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_deny_that_cuts_the_operator_off_is_refused() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let output = sluice
        .command(&["deny", "add", "198.51.100.0/24"])
        .env("SSH_CONNECTION", "198.51.100.7 4000 192.0.2.1 22")
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let said = super::harness::text(&output.stderr);
    assert!(said.contains("your SSH session"), "{said}");
    // sudo takes the variable away; a process above still has it.
    let mut below = std::process::Command::new("sh");
    below
        .args(["-c", "env -u SSH_CONNECTION \"$@\"; exit $?", "sh"])
        .arg(env!("CARGO_BIN_EXE_sluice"))
        .args(["deny", "add", "198.51.100.0/24", "--run-dir"])
        .arg(sluice.run_dir())
        .env_remove("SLUICE_INSTANCE")
        .env("SSH_CONNECTION", "198.51.100.7 4000 192.0.2.1 22");
    let output = below.output().expect("run");
    let said = super::harness::text(&output.stderr);
    assert!(said.contains("your SSH session"), "{said}");
    let output = sluice.cli(&["deny", "add", "127.0.0.0/8"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_no_packet_will_meet_is_not_said_to_be_done() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    for words in [
        &["deny", "add", "198.51.100.7"][..],
        &["limit", "set", "1", "syn", "5/s"],
        &["settings", "set", "guard", "off"],
    ] {
        let output = sluice.cli(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = super::harness::text(&output.stderr);
        assert!(said.contains("runs without XDP"), "{said}");
    }
    assert_eq!(
        sluice.json(&["deny", "list", "--json"])["prefixes"],
        serde_json::json!([])
    );
}
