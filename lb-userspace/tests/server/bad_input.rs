//! Each bad input: one clear message, the documented exit code, nothing half-started.

use std::{fs, net::TcpListener, process::Output};

use super::harness::{Member, Sluice, bare, exists, fetch, text};

fn run(sluice: &Sluice, words: &[&str]) -> Output {
    let file = sluice.file();
    let mut command = sluice.command(&["run", "-f"]);
    command.arg(&file).args(words).output().expect("run")
}

/// Exit code and message of a start that fails; nothing is left of it.
fn refused(sluice: &Sluice, words: &[&str], code: i32) -> String {
    let output = run(sluice, words);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!exists(&sluice.socket()), "socket left behind");
    said
}

#[test]
fn syntax_ok_is_said_as_httpd_says_it() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let file = sluice.file();
    let file = file.to_str().expect("path");
    for words in [&["configtest", "-f", file][..], &["-t", "-f", file]] {
        let output = bare(words).output().expect("run");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stderr).ends_with("Syntax OK\n"), "{output:?}");
    }
}

#[test]
fn every_error_of_a_file_is_reported_and_nothing_runs() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    sluice.write("Listen 127.0.0.1:1\nKeepAliv On\nTimeout soon\n");
    let file = sluice.file();
    let output = bare(&["configtest", "-f"])
        .arg(&file)
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("KeepAliv") && said.contains("Timeout"),
        "{said}"
    );
    assert!(!said.contains("Syntax OK"), "{said}");
    refused(&sluice, &["--no-xdp"], 1);
}

#[test]
fn a_configuration_that_is_none_is_exit_code_1() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let directory = sluice.dir.path().to_owned();
    let missing = directory.join("missing.conf");
    let noise = directory.join("noise.conf");
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let bytes: Vec<u8> = (0..10_000_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    fs::write(&noise, bytes).expect("written");
    for path in [&directory, &missing, &noise] {
        for verb in ["configtest", "run"] {
            let output = sluice
                .command(&[verb, "-f"])
                .arg(path)
                .output()
                .expect("run");
            assert_eq!(output.status.code(), Some(1), "{verb} {}", path.display());
            assert!(!output.stderr.is_empty());
        }
    }
}

#[test]
fn usage_errors_are_exit_code_2() {
    for words in [
        &["frobnicate"][..],
        &[],
        &["run", "--frobnicate"],
        &["-t", "status"],
        &["member", "set", "app", "a", "weight=3"],
        &["deny", "add", "192.0.2.1", "--for", "ever"],
        &["detach"],
    ] {
        let output = bare(words).output().expect("run");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
    }
}

#[test]
fn nobody_there_is_exit_code_4() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    for words in [
        &["status"][..],
        &["member", "list", "--json"],
        &["member", "drain", "app", "a"],
        &["reload"],
        &["stop"],
        &["deny", "add", "192.0.2.1"],
    ] {
        let output = sluice.cli(words);
        assert_eq!(output.status.code(), Some(4), "{words:?}: {output:?}");
    }
}

#[test]
fn a_port_in_use_is_named_with_its_directive() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let _other = TcpListener::bind(("127.0.0.1", sluice.port)).expect("bind");
    let said = refused(&sluice, &["--no-xdp"], 1);
    assert!(
        said.contains(&format!("127.0.0.1:{}", sluice.port)),
        "{said}"
    );
    assert!(said.contains("sluice.conf:1"), "{said}");
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn a_second_instance_of_the_same_name_is_refused_and_the_first_serves_on() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let output = run(&sluice, &["--no-xdp"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("already running"), "{said}");
    assert!(said.contains(&sluice.control_pid().to_string()), "{said}");
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    sluice.ok(&["status"]);
}

#[test]
fn configtest_warns_of_an_interface_that_is_not_there() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let text = sluice.config(&[&a]);
    sluice.write(&format!(
        "{text}<IfModule sluice_module>\nXDPInterface nosuch0\n</IfModule>\n"
    ));
    let file = sluice.file();
    let output = sluice
        .command(&["configtest", "-f"])
        .arg(&file)
        .output()
        .expect("configtest");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let warned =
        |line: &str| line.starts_with("warning: ") && line.contains("XDPInterface nosuch0");
    assert!(said.lines().any(warned), "{said}");
    assert!(said.contains("Syntax OK"), "{said}");
}

#[test]
fn without_a_dataplane_a_file_that_needs_one_is_exit_code_3() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let config = sluice.config(&[&a]);
    sluice.write(&format!(
        "{config}<IfModule sluice_module>\nGuardLimit syn 10/s\n</IfModule>\n"
    ));
    // The bpffs of these tests is no bpf filesystem.
    let said = refused(&sluice, &[], 3);
    assert!(said.contains("--no-xdp"), "{said}");
}

#[test]
fn a_file_that_needs_no_dataplane_runs_without_one() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let file = sluice.file();
    let mut child = sluice
        .command(&["run", "-f"])
        .arg(&file)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start");
    super::harness::wait_until("it serves", || fetch(sluice.port, "/").is_ok());
    assert_eq!(sluice.status()["dataplane"], "memory");
    sluice.ok(&["stop"]);
    assert!(child.wait().expect("wait").success());
}

#[test]
fn the_proxy_process_is_not_for_hands() {
    let output = bare(&["proxy-process"]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("sluice run"), "{output:?}");
}
