//! Start, what is shown of it, and the ways to stop.

use std::{
    fs,
    io::Read as _,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use super::harness::{Client, Member, Sluice, exists, fetch, is_alive, wait_until};

#[test]
fn the_proxy_inherits_nothing_of_controls_surroundings() {
    let a = Member::start("a");
    let mut sluice = Sluice::prepare(&[&a]);
    let run = sluice.command(&["run", "--no-xdp", "-f"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 9</etc/passwd; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args())
        .arg(sluice.file())
        .current_dir(sluice.dir.path())
        .envs(run.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env_remove("SLUICE_INSTANCE")
        .env_remove("NOTIFY_SOCKET")
        .env("SOME_SECRET", "x");
    let log = fs::File::create(sluice.dir.path().join("stderr")).expect("log");
    sluice.run_as(shell, log);
    let of = |pid: u32, what: &str| format!("/proc/{pid}/{what}");
    let (control, proxy) = (sluice.control_pid(), sluice.proxy_pid());
    let files = |pid| -> Vec<_> {
        fs::read_dir(of(pid, "fd"))
            .expect("descriptors")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect()
    };
    assert!(files(control).contains(&"/etc/passwd".into()), "inherited");
    assert!(!files(proxy).contains(&"/etc/passwd".into()));
    let environment = fs::read(of(proxy, "environ")).expect("environment");
    assert!(!String::from_utf8_lossy(&environment).contains("SECRET"));
    assert_eq!(
        fs::read_link(of(proxy, "cwd")).expect("cwd"),
        Path::new("/")
    );
    let name = fs::read_to_string(of(proxy, "comm")).expect("name");
    assert_eq!(name, "sluice-proxy\n");
}

#[test]
fn a_running_service_shows_itself() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    assert_eq!(fetch(sluice.port, "/x").expect("an answer").body, "a");
    let status = sluice.status();
    assert_eq!(status["instance"], "default");
    assert_eq!(status["control_pid"], sluice.control_pid());
    assert_eq!(status["shards"], 2);
    assert_eq!(status["dataplane"], "memory");
    assert_eq!(status["proxy_restarts"], 0);
    assert_eq!(status["members"][0]["url"], a.url());
    assert_eq!(status["members"][0]["elected"], 1);
    assert_eq!(status["listeners"][0], format!("127.0.0.1:{}", sluice.port));
    let table = sluice.ok(&["status"]);
    assert!(table.contains("instance default: running"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour outside a terminal");
    for words in [
        &["member", "list"][..],
        &["service", "list", "--json"],
        &["limit", "list", "--json"],
        &["deny", "list", "--json"],
        &["settings", "--json"],
        &["version"],
    ] {
        sluice.ok(words);
    }
}

#[test]
fn the_proxy_process_has_no_privileges() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let status = fs::read_to_string(format!("/proc/{}/status", sluice.proxy_pid()))
        .expect("status of the proxy");
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find(|line| line.starts_with(name));
        let words = line.expect("field").split_whitespace().skip(1);
        words.map(str::to_owned).collect()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    if rustix::process::geteuid().is_root() {
        assert!(field("Uid:").iter().all(|uid| uid != "0"), "{status}");
        assert!(field("Gid:").iter().all(|gid| gid != "0"), "{status}");
        assert!(field("Groups:").iter().all(|gid| gid != "0"), "{status}");
        assert_eq!(field("CapBnd:"), ["0000000000000000"]);
    }
}

#[test]
fn term_stops_and_leaves_nothing() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    sluice.signal(Signal::TERM);
    assert_eq!(sluice.wait(), Some(0));
    assert!(!is_alive(proxy));
    assert!(!exists(&sluice.socket()));
    assert!(fetch(sluice.port, "/").is_err());
}

#[test]
fn a_graceful_stop_finishes_what_is_in_flight_and_accepts_nothing() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    sluice.signal(Signal::WINCH);
    wait_until("new connections are refused", || {
        fetch(sluice.port, "/").is_err()
    });
    a.release();
    let (answer, _) = held.receive().expect("the answer");
    assert_eq!(answer.body, "a");
    assert_eq!(sluice.wait(), Some(0));
}

#[test]
fn the_stop_command_returns_when_the_service_is_gone() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    sluice.ok(&["stop"]);
    assert!(!exists(&sluice.socket()));
    assert_eq!(sluice.wait(), Some(0));
}

#[test]
fn a_second_term_ends_requests_in_flight() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    sluice.signal(Signal::WINCH);
    wait_until("new connections are refused", || {
        fetch(sluice.port, "/").is_err()
    });
    sluice.signal(Signal::TERM);
    assert_eq!(sluice.wait(), Some(0));
    assert!(held.receive().is_err());
    a.release();
}

#[test]
fn the_service_manager_is_told_ready_and_stopping() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let path = sluice.dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("notify socket");
    manager
        .set_read_timeout(Some(super::harness::PATIENCE))
        .expect("timeout");
    let file = sluice.file();
    let mut child = sluice
        .command(&["run", "--no-xdp", "-f"])
        .arg(&file)
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let next = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).expect("a notice in time");
        super::harness::text(&text[..length])
    };
    assert_eq!(next(), "READY=1");
    assert_eq!(fetch(sluice.port, "/").expect("an answer").status, 200);
    for change in ["reload", "upgrade"] {
        sluice.ok(&[change]);
        let reloading = next();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(next(), "READY=1");
    }
    super::harness::send_signal(child.id(), Signal::TERM);
    assert_eq!(next(), "STOPPING=1");
    assert!(child.wait().expect("wait").success());
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let mut child = sluice
        .command(&["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    // Closed before anything can be written: the command has to connect first.
    drop(child.stdout.take());
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("piped");
    errors.read_to_string(&mut said).expect("read");
    assert!(child.wait().expect("wait").success());
    assert_eq!(said, "");
}

#[test]
fn the_error_log_is_in_local_time() {
    let a = Member::start("a");
    let sluice = Sluice::prepare(&[&a]);
    let log = sluice.dir.path().join("log");
    let file = sluice.file();
    let hour = || {
        let there = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(20);
        let there = there.to_zoned(jiff::tz::TimeZone::UTC);
        there.strftime("[%a %b %d %H:").to_string()
    };
    let before = hour();
    let mut child = sluice
        .command(&["run", "--no-xdp", "-f"])
        .arg(&file)
        // A zone of its own, which needs no database.
        .env("TZ", "XXX-20")
        .stderr(fs::File::create(&log).expect("log"))
        .spawn()
        .expect("start");
    wait_until("the start is logged", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("resuming normal operations"))
    });
    let after = hour();
    super::harness::send_signal(child.id(), Signal::TERM);
    child.wait().expect("wait");
    let text = fs::read_to_string(&log).expect("log");
    assert!(text.contains(&before) || text.contains(&after), "{text}");
}
