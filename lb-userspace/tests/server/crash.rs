//! kill -9 of either process, and of both.

use rustix::process::Signal;

use super::harness::{Client, Member, Sluice, fetch, is_alive, send_signal, wait_until};

#[test]
fn a_killed_proxy_is_restarted_and_no_connection_is_refused() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a, &b]);
    sluice.ok(&["member", "drain", "app", "b"]);
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    let first = sluice.proxy_pid();
    send_signal(first, Signal::KILL);
    // Every one of these connects, now or after the restart, and is answered.
    let mut answered = 0;
    while answered < 50 {
        let mut client = Client::connect(sluice.port).expect("connections are not refused");
        // One that the dying process had accepted is cut; that is in flight on the dead part.
        if client.send("/").is_ok() && client.receive().is_ok_and(|(answer, _)| answer.body == "a")
        {
            answered += 1;
        }
    }
    // It may answer before control has heard that it does, and before a request is counted out.
    wait_until("the dead one's column is cleared", || {
        let status = sluice.status();
        status["proxy_restarts"] == 1
            && status["proxy_pid"] != first
            && status["members"][0]["busy"] == 0
    });
    let status = sluice.status();
    assert_eq!(status["proxy_restarts"], 1);
    assert_eq!(status["members"][1]["state"], serde_json::json!(["N"]));
    assert!(held.receive().is_err());
    a.release();
}

#[test]
fn a_proxy_left_alone_serves_until_the_next_control_does() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    let mut held = Client::connect(sluice.port).expect("connect");
    held.send("/hold").expect("send");
    wait_until("the request is at the member", || a.count() == 1);
    sluice.kill_control();
    assert_eq!(fetch(sluice.port, "/").expect("served on").body, "a");
    // The next control does not wait for the last requests of the old proxy.
    sluice.run();
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    assert!(is_alive(proxy), "it still has a request");
    a.release();
    assert_eq!(held.receive().expect("the answer").0.body, "a");
    wait_until("the old proxy left", || !is_alive(proxy));
}

#[test]
fn a_start_that_fails_leaves_the_orphan_to_the_next() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    let good = sluice.config(&[&a]);
    sluice.kill_control();
    let taken = format!("{good}Listen 127.0.0.1:{}\n", a.address.port());
    sluice.write(&taken);
    let file = sluice.file();
    let mut refused = sluice.command(&["run", "--no-xdp", "-f"]);
    let refused = refused.arg(&file).output().expect("command runs");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    sluice.write(&good);
    sluice.run();
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
    wait_until("the old proxy left", || !is_alive(proxy));
}

#[test]
fn after_a_kill_of_both_a_start_finds_its_way() {
    let a = Member::start("a");
    let mut sluice = Sluice::start(&[&a]);
    let proxy = sluice.proxy_pid();
    send_signal(proxy, Signal::STOP);
    sluice.kill_control();
    send_signal(proxy, Signal::KILL);
    wait_until("both are gone", || !is_alive(proxy));
    assert_eq!(sluice.cli(&["status"]).status.code(), Some(4));
    assert_eq!(
        sluice.cli(&["member", "drain", "app", "a"]).status.code(),
        Some(4)
    );
    sluice.run();
    assert_eq!(fetch(sluice.port, "/").expect("an answer").body, "a");
}
