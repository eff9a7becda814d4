//! Offloads of interfaces: switched off while the program is attached, and on again afterwards.

use sluice::{
    config::spec::XdpMode,
    dataplane::{Dataplane, detach_dead},
};

use crate::lab::{app, auto, on, program_on, run, steering};

/// Whether the interface takes VLAN tags off, by what ethtool says.
fn untags(interface: &str) -> bool {
    let said = run("ethtool", &["-k", interface]).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let is = |how: &str| said.contains(&format!("rx-vlan-offload: {how}"));
    assert!(is("on") || is("off"), "{said}");
    is("on")
}

isolated! { fn tags_stay_on_packets_while_they_are_steered(lab) {
    let desired = steering(&[auto("v0")]);
    assert!(untags("v0") && untags("v1"));
    // Who guards alone needs no tags.
    let mut plane = lab.open(&[auto("v0")]);
    plane.publish(&app(&["http://a"], &[auto("v0")])).expect("publish");
    assert!(untags("v0"));
    let notices = plane.publish(&desired).expect("publish").notices;
    assert!(!untags("v0"), "the program must see tags");
    assert!(untags("v1"), "nobody's business");
    assert!(notices.iter().any(|n| n.contains("rx-vlan-hw-parse")), "{notices:?}");
    // What a publish changed is changed back when it is taken back.
    plane.unpublish(&app(&["http://a"], &[auto("v0")])).expect("unpublish");
    assert!(untags("v0"));
    // One that fails while it ends steering has not ended it.
    plane.publish(&desired).expect("publish");
    let bad = app(&["http://a"], &[auto("v0"), on("lo", XdpMode::Native)]);
    plane.publish(&bad).expect_err("lo has no native mode");
    assert!(!untags("v0"));
    plane.publish(&app(&["http://a"], &[auto("v0")])).expect("publish");
    assert!(untags("v0"));
    plane.publish(&desired).expect("publish");
    assert!(!untags("v0"));
    plane.detach().expect("detach");
    assert!(untags("v0"), "as it was before");
    assert_eq!(std::fs::read_dir(lab.pin("")).expect("pins")
        .filter(|e| e.as_ref().expect("entry").file_name().to_string_lossy().starts_with("offloads"))
        .count(), 0);
} }

isolated! { fn offloads_are_restored_by_whoever_detaches_and_on_error(lab) {
    let desired = steering(&[auto("v0")]);
    let mut plane = Dataplane::open(&lab.place, &desired.spec.sluice).expect("open");
    plane.publish(&desired).expect("publish");
    assert!(!untags("v0"));
    // The process ends, the program stays, and so do the offloads: another one takes both over.
    drop(plane);
    assert!(!untags("v0"));
    let again = Dataplane::open(&lab.place, &desired.spec.sluice).expect("open");
    drop(again);
    assert_eq!(detach_dead(&lab.place).expect("detach").len(), 1);
    assert!(untags("v0"));
    assert_eq!(detach_dead(&lab.place).expect("detach"), [], "once more is no error");
    // Those that an operator had switched off stay off.
    run("ethtool", &["-K", "v0", "rxvlan", "off"]);
    let mut plane = Dataplane::open(&lab.place, &desired.spec.sluice).expect("open");
    plane.detach().expect("detach");
    drop(plane);
    assert!(!untags("v0"));
    // A start that fails leaves the interface as it found it.
    run("ethtool", &["-K", "v0", "rxvlan", "on"]);
    let native = on("lo", XdpMode::Native);
    let bad = steering(&[auto("v0"), native]);
    let failed = Dataplane::open(&lab.place, &bad.spec.sluice).err().expect("lo has no native mode");
    assert!(failed.to_string().contains("native"), "{failed}");
    assert_eq!(program_on("v0"), 0);
    assert!(untags("v0"));
} }
