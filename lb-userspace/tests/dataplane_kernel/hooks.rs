//! Where the program is attached.

use sluice::{
    config::spec::{Place as At, XdpMode},
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

isolated! { fn an_interface_that_is_not_there_is_named_with_its_line(lab) {
    let mut missing = auto("nope0");
    missing.at = At { file: "site.conf".into(), line: 7 };
    let error = lab.refused(&[auto("v0"), missing]);
    let text = error.to_string();
    assert!(text.contains("nope0") && text.contains("site.conf:7"), "{text}");
    assert_eq!(program_on("v0"), 0);
} }

isolated! { fn a_publish_attaches_what_is_added_and_takes_off_what_is_dropped(lab) {
    let (v0, v1) = (auto("v0"), auto("v1"));
    let mut plane = lab.open(std::slice::from_ref(&v0));
    plane.publish(&app(&["http://a"], &[v0.clone(), v1.clone()])).expect("publish");
    assert!(program_on("v0") != 0 && program_on("v1") != 0);
    // A reload that fails changes nothing.
    let bad = app(&["http://b"], &[v1.clone(), auto("nope0")]);
    plane.publish(&bad).expect_err("no such interface");
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
