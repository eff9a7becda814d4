//! Where the program is attached.

use sluice::{
    config::spec::XdpMode,
    dataplane::{Dataplane, DataplaneError},
};

use crate::lab::{app, auto, index_of, ip, on, program_on, run, veth, with};

isolated! { fn the_holder_of_the_hook_is_named_and_nothing_is_left_behind(lab) {
    let _first = lab.open(&[auto("v0")]);
    let holder = program_on("v0");
    // v1 was attached before v0 was refused: it must be free again.
    let two = lab.named("two");
    let error = Dataplane::open(&two, &with(&[auto("v1"), auto("v0")])).err().expect("taken");
    let text = error.to_string();
    assert!(text.contains(&format!("v0 already runs XDP program {holder} \"sluice_xdp\"")), "{text}");
    let shown = run("bpftool", &["-j", "prog", "show", "id", &holder.to_string()]).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("json");
    let tag = shown["tag"].as_str().expect("tag");
    assert!(text.contains(&format!("tag {tag}")), "{text} / {tag}");
    assert_eq!(program_on("v1"), 0);
    assert!(!lab.place.bpffs.join("sluice/two").exists());
    assert_eq!(program_on("v0"), holder);
} }

isolated! { fn without_native_mode_the_fallback_is_told_or_refused(lab) {
    let error = lab.refused(&[on("lo", XdpMode::Native)]);
    assert!(error.to_string().contains("lo cannot run XDP in native mode"), "{error}");
    assert!(!lab.pin("").exists(), "pins are left");
    let mut plane = lab.open(&[auto("lo")]);
    let notices = plane.publish(&app(&[], &[auto("lo")])).expect("publish").notices;
    assert!(notices.iter().any(|n| n.contains("generic")), "{notices:?}");
    assert_eq!(plane.snapshot().expect("snapshot").interfaces[0].mode, "generic");
} }

isolated! { fn another_mode_is_attached_anew(lab) {
    drop(lab.open(&[auto("v0")]));
    assert_eq!(lab.read().interfaces[0].mode, "native");
    let generic = [on("v0", XdpMode::Generic)];
    let mut plane = lab.open(&generic);
    let notices = plane.publish(&app(&[], &generic)).expect("publish").notices;
    assert!(notices.iter().any(|n| n.contains("another mode")), "{notices:?}");
    assert_eq!(plane.snapshot().expect("snapshot").interfaces[0].mode, "generic");
} }

isolated! { fn a_change_of_mode_that_fails_leaves_the_program_on(lab) {
    let (lo, v0) = (on("lo", XdpMode::Generic), on("v0", XdpMode::Generic));
    let mut plane = lab.open(&[lo.clone(), v0.clone()]);
    plane.publish(&app(&[], &[lo, v0])).expect("publish");
    // v0 changes its mode before lo turns out to have no native one.
    let native = [on("v0", XdpMode::Native), on("lo", XdpMode::Native)];
    plane.publish(&app(&[], &native)).expect_err("lo has no native mode");
    let modes: Vec<(String, String)> = (plane.snapshot().expect("snapshot").interfaces.into_iter())
        .map(|view| (view.name, view.mode))
        .collect();
    let generic = |name: &str| (name.to_owned(), "generic".to_owned());
    assert_eq!(modes, [generic("lo"), generic("v0")]);
} }

/// What is wrong with the interfaces that the configuration names.
fn alarms(plane: &Dataplane) -> Vec<(String, String)> {
    let shown = plane.snapshot().expect("snapshot").interfaces;
    (shown.into_iter().filter(|view| !view.alarm.is_empty()))
        .map(|view| (view.name, view.alarm))
        .collect()
}

isolated! { fn interface_that_comes_late_is_attached_to_when_it_is_there(lab) {
    let wanted = [auto("v0"), auto("late0")];
    let mut plane = lab.open(&wanted);
    let notices = plane.publish(&app(&[], &wanted)).expect("publish").notices;
    assert!(notices.iter().any(|n| n.contains("late0 is not there yet")), "{notices:?}");
    assert_ne!(program_on("v0"), 0, "the other one is guarded");
    plane.follow_host(true);
    let said = alarms(&plane);
    assert!(said.len() == 1 && said[0].0 == "late0", "{said:?}");
    assert!(said[0].1.contains("is not there"), "{said:?}");
    ip("link add late0 type veth peer name late1");
    plane.follow_host(true);
    assert_ne!(program_on("late0"), 0);
    assert_eq!(alarms(&plane), []);
    // Gone, and back as another.
    ip("link del late0");
    plane.tick();
    assert!(alarms(&plane)[0].1.contains("has vanished"));
    ip("link add late0 type veth peer name late1");
    plane.tick();
    assert_ne!(program_on("late0"), 0);
    assert_eq!(alarms(&plane), []);
    assert_eq!(lab.links().len(), 2, "the pin of the one that is gone is gone");
} }

isolated! { fn renamed_interface_keeps_the_program_until_another_has_its_name(lab) {
    let wanted = [auto("v0")];
    let mut plane = lab.open(&wanted);
    plane.publish(&app(&[], &wanted)).expect("publish");
    let program = program_on("v0");
    ip("link set v0 down");
    ip("link set v0 name other0");
    plane.follow_host(true);
    assert_eq!(program_on("other0"), program, "it is guarded all the same");
    let said = alarms(&plane);
    assert!(said[0].0 == "v0" && said[0].1.contains("is called other0 now"), "{said:?}");
    // The name comes back to another interface: that is the one the configuration means.
    ip("link set v1 name v0");
    plane.follow_host(true);
    assert_ne!(program_on("v0"), 0);
    assert_eq!(program_on("other0"), 0);
    assert_eq!(alarms(&plane), []);
    assert_eq!(lab.links().len(), 1);
} }

isolated! { fn interfaces_that_swap_names_stay_guarded_both(lab) {
    let wanted = [auto("v0"), auto("v1")];
    let mut plane = lab.open(&wanted);
    plane.publish(&app(&[], &wanted)).expect("publish");
    for (from, to) in [("v0", "tmp0"), ("v1", "v0"), ("tmp0", "v1")] {
        ip(&format!("link set {from} down"));
        ip(&format!("link set {from} name {to}"));
        // However far it has got.
        plane.follow_host(true);
    }
    assert!(program_on("v0") != 0 && program_on("v1") != 0);
    assert_eq!(alarms(&plane), []);
    assert_eq!(lab.links().len(), 2);
} }

isolated! { fn interface_that_another_program_took_is_an_alarm_that_names_it(lab) {
    let wanted = [auto("v0"), auto("late0")];
    let mut plane = lab.open(&wanted);
    plane.publish(&app(&[], &wanted)).expect("publish");
    plane.tick();
    assert!(alarms(&plane)[0].1.contains("is not there"));
    // Another instance is first on the interface that appears.
    ip("link add late0 type veth peer name late1");
    let other = Dataplane::open(&lab.named("two"), &with(&[auto("late0")])).expect("two");
    plane.tick();
    let said = alarms(&plane);
    assert!(said[0].1.contains("is not guarded") && said[0].1.contains("sluice_xdp"), "{said:?}");
    drop(other);
} }

isolated! { fn detached_program_stays_off_until_a_publish(lab) {
    let wanted = [auto("v0")];
    let mut plane = lab.open(&wanted);
    let desired = app(&["http://a"], &wanted);
    plane.publish(&desired).expect("publish");
    assert_eq!(plane.detach().expect("detach").len(), 1);
    // News of the host, and changes made in the balancer-manager, are no reason to attach again.
    plane.follow_host(true);
    plane.tick();
    plane.publish_beside(&desired).expect("publish");
    assert_eq!(program_on("v0"), 0);
    assert_eq!(alarms(&plane), []);
    // Once more is no error.
    assert_eq!(plane.detach().expect("detach"), []);
    // A reload attaches; one that is taken back takes that back too.
    plane.publish(&desired).expect("publish");
    assert_ne!(program_on("v0"), 0);
    plane.unpublish(&desired).expect("unpublish");
    assert_eq!(program_on("v0"), 0);
    plane.publish(&desired).expect("publish");
    assert_ne!(program_on("v0"), 0);
} }

isolated! { fn a_publish_attaches_what_is_added_and_takes_off_what_is_dropped(lab) {
    let (v0, v1) = (auto("v0"), auto("v1"));
    let mut plane = lab.open(std::slice::from_ref(&v0));
    plane.publish(&app(&["http://a"], &[v0.clone(), v1.clone()])).expect("publish");
    assert!(program_on("v0") != 0 && program_on("v1") != 0);
    // A reload that fails changes nothing.
    let bad = app(&["http://b"], &[v1.clone(), on("lo", XdpMode::Native)]);
    plane.publish(&bad).expect_err("lo has no native mode");
    assert!(program_on("v0") != 0 && program_on("v1") != 0);
    assert_eq!(plane.snapshot().expect("snapshot").members[0].url, "http://a");
    let notices = plane.publish(&app(&["http://a"], &[v1])).expect("publish").notices;
    assert!(notices.iter().any(|n| n.contains("v0")), "{notices:?}");
    assert_eq!(program_on("v0"), 0);
    assert_ne!(program_on("v1"), 0);
    let off = plane.detach().expect("detach");
    assert_eq!(off[0].name, "v1");
    assert_eq!(program_on("v1"), 0);
} }

isolated! { fn a_link_whose_interface_is_gone_is_swept(lab) {
    drop(lab.open(&[auto("v0")]));
    assert_eq!(lab.links().len(), 1);
    ip("link del v0");
    veth();
    let mut plane = lab.open(&[auto("v0")]);
    plane.publish(&app(&[], &[auto("v0")])).expect("publish");
    assert_ne!(program_on("v0"), 0);
    assert_eq!(lab.links().len(), 1);
    // And while it runs: the next publish attaches to the interface of the same name.
    ip("link del v0");
    veth();
    plane.publish(&app(&[], &[auto("v0")])).expect("publish");
    assert_ne!(program_on("v0"), 0);
    assert_eq!(lab.links().len(), 1);
} }

isolated! { fn a_link_on_another_interface_is_not_taken_over(lab) {
    // The link of v1 under the name that v0's would have.
    drop(lab.open(&[auto("v1")]));
    let v1 = lab.links().remove(0);
    let name = v1.file_name().expect("name").to_string_lossy().into_owned();
    let netns = name.split('_').nth(1).expect("namespace");
    let v0 = v1.with_file_name(format!("link_{netns}_{}", index_of("v0")));
    std::fs::rename(&v1, &v0).expect("rename");
    let before = program_on("v1");
    let error = lab.refused(&[auto("v0")]);
    assert!(matches!(error, DataplaneError::ForeignPin { .. }), "{error}");
    assert!(error.to_string().contains(&*v0.to_string_lossy()), "{error}");
    assert_eq!(program_on("v1"), before);
} }
