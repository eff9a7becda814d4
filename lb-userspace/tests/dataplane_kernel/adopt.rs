//! What outlives a process, and what the next one makes of it.

use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use lb_common::{abi::map, member::MemberState, meta::phase};
use sluice::{
    config::spec::XdpMode,
    dataplane::{Dataplane, DataplaneError, Place, detach_dead, read_pins},
};

use crate::lab::{
    Ended, INSIDE, Lab, app, auto, meta, on, prefix, program_on, run, steering, until, with,
};

isolated! { fn the_capabilities_of_the_unit_are_enough_to_adopt(lab) {
    let unit = include_str!("../../../packaging/sluice.service");
    let granted = unit.lines().find_map(|l| l.strip_prefix("CapabilityBoundingSet=")).expect("set");
    let granted: Vec<&str> = granted.split_whitespace().collect();
    drop(lab.open(&[auto("v0")]));
    let before = program_on("v0");
    for cap in caps::all() {
        if !granted.contains(&cap.to_string().as_str()) {
            caps::drop(None, caps::CapSet::Effective, cap).expect("dropped");
        }
    }
    let mut plane = lab.open(&[auto("v0")]);
    plane.publish(&app(&["http://a"], &[auto("v0")])).expect("publish");
    assert_eq!(plane.snapshot().expect("snapshot").members[0].url, "http://a");
    let after = plane.snapshot().expect("snapshot").interfaces[0].program;
    assert!(before != 0 && u64::from(after) != before, "replaced in place");
    assert_eq!(plane.detach().expect("detach").len(), 1);
} }

isolated! { fn state_and_guard_outlive_the_process_and_are_adopted(lab) {
    let v0 = [on("v0", XdpMode::Native)];
    let mut first = lab.open(&v0);
    let wanted = app(&["http://a", "http://b"], &v0);
    let ids = first.publish(&wanted).expect("publish").ids;
    let table = first.table();
    let b = table.cell(ids[0][1]).expect("b");
    b.set_state(MemberState::DRAIN);
    b.elected.store(42, Relaxed);
    first.deny(prefix("198.51.100.0", 24), None).expect("deny");
    let column = first.proxy_started(1);
    table.busy(column, ids[0][1]).expect("cell").store(3, Relaxed);
    let before = program_on("v0");
    assert_ne!(before, 0);
    // As kill -9 would: nothing is said to anybody.
    drop(first);

    assert_eq!(program_on("v0"), before, "the program went with its process");
    let dead = lab.read();
    assert!(!dead.daemon);
    assert_eq!(dead.phase, "ready");
    let b = dead.members.iter().find(|m| m.url == "http://b").expect("b");
    assert_eq!((b.state.as_slice(), b.elected, b.busy), (&['N'][..], 42, 3));
    assert_eq!((b.balancer.as_str(), b.route.as_str()), ("app", "r1"));
    assert_eq!(b.address, "127.0.0.1:8001");
    assert_eq!(dead.prefixes[0].prefix, "198.51.100.0/24");
    assert_eq!(dead.interfaces[0].name, "v0");
    assert_eq!(dead.interfaces[0].mode, "native");
    assert_eq!(dead.services[1].address, "*:80");

    let mut second = lab.open(&v0);
    // Reordered and with a newcomer, in the same breath.
    let wanted = app(&["http://c", "http://b", "http://a"], &v0);
    let published = second.publish(&wanted).expect("publish");
    assert_eq!((published.ids[0][1], published.ids[0][2]), (ids[0][1], ids[0][0]));
    assert_eq!(published.generation, 2);
    assert!(published.notices.iter().any(|n| n.contains("http://b")), "{published:?}");
    let live = second.snapshot().expect("snapshot");
    let b = live.members.iter().find(|m| m.url == "http://b").expect("b");
    // Process 1 is alive, so its column of requests in flight was not taken for a dead one's.
    assert_eq!((b.state.as_slice(), b.elected, b.busy), (&['N'][..], 42, 3));
    let c = live.members.iter().find(|m| m.url == "http://c").expect("c");
    assert_eq!((c.state.as_slice(), c.elected), (&[][..], 0));
    let after = program_on("v0");
    assert!(after != 0 && after != before, "the program was not replaced");
    assert!(!published.notices.iter().any(|n| n.contains("anew")), "{published:?}");
    second.close().expect("close");

    // After a clean stop the file wins.
    assert_eq!(lab.read().phase, "stopped");
    let mut third = lab.open(&v0);
    third.publish(&wanted).expect("publish");
    let members = third.snapshot().expect("snapshot").members;
    let b = members.iter().find(|m| m.url == "http://b").expect("b");
    assert_eq!((b.state.as_slice(), b.elected), (&[][..], 0));
} }

isolated! { fn requests_in_flight_of_a_dead_proxy_are_forgotten(lab) {
    let mut first = lab.open(&[]);
    let id = first.publish(&app(&["http://a"], &[])).expect("publish").ids[0][0];
    let mut child = Command::new("true").spawn().expect("true");
    let column = first.proxy_started(child.id());
    child.wait().expect("true");
    first.table().busy(column, id).expect("cell").store(7, Relaxed);
    let next = first.proxy_started(std::process::id());
    assert_ne!(next, column);
    assert_eq!(first.table().busy_sum(id), 0);
    first.table().busy(next, id).expect("cell").store(1, Relaxed);
    drop(first);
    // This process stands for a proxy that outlived its control.
    assert_eq!(lab.open(&[]).table().busy_sum(id), 1);
} }

isolated! { fn a_start_that_is_abandoned_leaves_what_it_found(lab) {
    let mut first = lab.open(&[auto("v0")]);
    first.publish(&app(&["http://a"], &[auto("v0")])).expect("publish");
    first.abandon();
    assert_eq!(program_on("v0"), 0);
    assert!(!lab.pin("").exists(), "pins are left");

    let mut first = lab.open(&[auto("v0")]);
    first.publish(&app(&["http://a"], &[auto("v0")])).expect("publish");
    drop(first);
    lab.open(&[auto("v0"), auto("v1")]).abandon();
    assert_ne!(program_on("v0"), 0);
    assert_eq!(program_on("v1"), 0);
    assert_eq!(lab.read().members.len(), 1);
} }

isolated! { fn a_start_that_is_abandoned_after_it_published_leaves_the_rings_it_found(lab) {
    let before = steering(&[auto("v0")]);
    let mut first = Dataplane::open(&lab.place, &before.spec.sluice).expect("open");
    first.publish(&before).expect("publish");
    drop(first);
    let seen = lab.read();
    let of = |snapshot: &sluice::admin::protocol::Snapshot| {
        let members: Vec<_> = (snapshot.members.iter())
            .map(|m| (m.id, m.url.clone(), m.steered.as_ref().and_then(|s| s.slots)))
            .collect();
        let services: Vec<_> = snapshot.services.iter().map(|s| (s.id, s.kind.clone())).collect();
        (members, services, snapshot.phase.clone())
    };
    assert_eq!(seen.members[0].steered.as_ref().and_then(|s| s.slots), Some(65537));
    // Another configuration steers to somebody else, or nothing at all; and its proxy does not start.
    let mut other = before.clone();
    let spec = Arc::make_mut(&mut other.spec);
    "http://b".clone_into(&mut spec.balancers[0].members[0].url);
    for next in [other, app(&["http://c"], &[auto("v0")])] {
        let mut second = Dataplane::open(&lab.place, &next.spec.sluice).expect("open");
        second.publish(&next).expect("publish");
        assert_ne!(of(&lab.read()), of(&seen));
        second.abandon();
        assert_eq!(of(&lab.read()), of(&seen));
        assert_ne!(program_on("v0"), 0);
    }
} }

isolated! { fn a_second_instance_of_the_name_is_refused_and_another_name_is_not(lab) {
    let first = lab.open(&[auto("v0")]);
    let error = lab.refused(&[auto("v0")]);
    let me = std::process::id().to_string();
    assert!(error.to_string().contains(&me), "{error}");
    assert_eq!(error.exit_code(), 1);
    let other = Dataplane::open(&lab.named("two"), &with(&[auto("v1")])).expect("another name");
    drop((first, other));
} }

isolated! { fn without_bpffs_or_pins_the_exit_code_says_so(lab) {
    let elsewhere = Place { bpffs: lab.root.clone(), ..lab.place.clone() };
    let error = Dataplane::open(&elsewhere, &with(&[])).err().expect("no bpffs");
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
    assert_eq!(read_pins(&lab.place).expect_err("no pins").exit_code(), 4);
    assert_eq!(detach_dead(&lab.place).expect_err("no pins").exit_code(), 4);
    let dotted = Dataplane::open(&lab.named("../x"), &with(&[])).err().expect("a bad name");
    assert!(matches!(dotted, DataplaneError::BadInstance { .. }), "{dotted}");
} }

isolated! { fn a_dead_instance_is_detached_and_a_living_one_is_not(lab) {
    let plane = lab.open(&[auto("v0")]);
    let error = detach_dead(&lab.place).expect_err("it lives");
    assert!(matches!(error, DataplaneError::AlreadyRunning { .. }), "{error}");
    drop(plane);
    assert_ne!(program_on("v0"), 0);
    let off = detach_dead(&lab.place).expect("dead");
    assert_eq!(off[0].name, "v0");
    assert_eq!(program_on("v0"), 0);
    assert!(lab.pin(map::MEMBERS).exists(), "the maps stay");
} }

isolated! { fn bpftool_shows_field_names(lab) {
    let mut plane = lab.open(&[]);
    let id = plane.publish(&app(&["http://a"], &[])).expect("publish").ids[0][0];
    let dump = |name: &str| {
        let path = lab.pin(name);
        let out = run("bpftool", &["map", "dump", "pinned", path.to_str().expect("utf-8")]);
        String::from_utf8(out.stdout).expect("utf-8")
    };
    let members = dump(map::MEMBERS);
    for field in ["\"identity\"", "\"weight\": 100", "\"lbstatus\"", "\"retired\""] {
        assert!(members.contains(field), "{field} is missing");
    }
    assert!(members.contains(&format!("\"key\": {}", id.0)));
    assert!(dump(map::META).contains("\"generation\": 1"));
    assert!(dump(map::SETTINGS).contains("\"service_seed\""));
    assert!(dump(map::SERVICES).contains("\"port\""));
} }

/// Publishes two configurations in turn until it is killed.
fn publish_for_ever(lab: &Lab) {
    let mut plane = lab.open(&[]);
    for turn in 0u64.. {
        let odd = turn % 2 == 1;
        let urls: Vec<String> = (0..40)
            .filter(|n| !odd || n % 3 != 0)
            .map(|n| format!("http://m{n}"))
            .collect();
        let mut urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        if odd {
            urls.reverse();
        }
        let mut desired = app(&urls, &[]);
        let spec = Arc::make_mut(&mut desired.spec);
        spec.sluice.deny = (0..20)
            .map(|n| prefix(&format!("10.{n}.0.0"), 16 + u8::from(odd)))
            .collect();
        plane.publish(&desired).expect("publish");
    }
}

/// Not a test: what [`a_publish_that_was_killed_is_repaired`] starts and kills.
#[test]
#[ignore = "started by a_publish_that_was_killed_is_repaired"]
fn publisher() {
    let root = env::var_os(INSIDE).expect("started inside a lab");
    publish_for_ever(&Lab::at(PathBuf::from(root)));
}

isolated! { fn a_publish_that_was_killed_is_repaired(lab) {
    let mut drained = lab.open(&[]);
    let id = drained.publish(&app(&["http://m1"], &[])).expect("publish").ids[0][0];
    drained.table().cell(id).expect("m1").set_state(MemberState::DRAIN);
    drop(drained);
    let mut cut = 0;
    for round in 0..12 {
        let child = Command::new(env::current_exe().expect("own path"))
            .args(["adopt::publisher", "--exact", "--ignored"])
            .spawn()
            .expect("child");
        let mut child = Ended(child);
        let before = lab.read().generation;
        // It is in the middle of a publish, another one in every round.
        let meta = meta(&lab.pin(map::META));
        until("the child publishes", || {
            let now = meta.get(&0, 0).expect("META");
            now.generation >= before + 2 + round && now.phase == phase::APPLYING
        });
        child.0.kill().expect("kill -9");
        child.0.wait().expect("wait");
        cut += u32::from(lab.read().phase == "applying");

        let mut plane = lab.open(&[]);
        let wanted = app(&["http://m2", "http://m1"], &[]);
        let published = plane.publish(&wanted).expect("repair");
        assert_eq!(published.ids[0][1], id);
        let snapshot = plane.snapshot().expect("snapshot");
        assert_eq!(snapshot.phase, "ready");
        assert_eq!(snapshot.members.len(), 2);
        let m1 = snapshot.members.iter().find(|m| m.url == "http://m1").expect("m1");
        assert_eq!(m1.state, ['N']);
        assert!(snapshot.prefixes.is_empty(), "{:?}", snapshot.prefixes);
        assert_eq!(snapshot.services.len(), 2);
    }
    assert!(cut > 0, "no publish was cut in the middle");
    eprintln!("{cut} of 12 publishes were cut in the middle");
} }

isolated! { fn anonymous_memory_is_one_instance_too(lab) {
    let Place { instance, .. } = &lab.place;
    let mut first = Dataplane::anonymous(&lab.place).expect("memory");
    assert!(Dataplane::anonymous(&lab.place).is_err(), "{instance} runs twice");
    first.publish(&app(&["http://a"], &[])).expect("publish");
    let snapshot = first.snapshot().expect("snapshot");
    assert_eq!((snapshot.dataplane.as_str(), snapshot.members.len()), ("memory", 1));
    assert!(!lab.pin("").exists());
} }
