//! Pins that are not what they should be.

use std::{fs, os::unix::fs::symlink, path::Path};

use lb_common::{abi::map, member::MemberState, meta::Meta};
use sluice::dataplane::{Dataplane, DataplaneError, read_pins};

use crate::lab::{app, auto, meta, prefix, program_on, run, with};

isolated! { fn a_map_of_another_layout_alone_is_made_anew(lab) {
    let mut first = lab.open(&[]);
    let id = first.publish(&app(&["http://a"], &[])).expect("publish").ids[0][0];
    first.table().cell(id).expect("a").set_state(MemberState::DRAIN);
    first.deny(prefix("198.51.100.0", 24), None).expect("deny");
    drop(first);
    // As an older version would have left it.
    let mut array = meta(&lab.pin(map::META));
    let mut value = array.get(&0, 0).expect("read");
    let deny = map::ALL.iter().position(|name| *name == map::DENY4).expect("DENY4");
    value.layouts[deny] ^= 1;
    array.set(0, value, 0).expect("write");

    let error = read_pins(&lab.place).expect_err("another layout");
    assert!(matches!(error, DataplaneError::OtherLayout { map: map::DENY4, .. }), "{error}");
    let mut second = lab.open(&[]);
    let published = second.publish(&app(&["http://a"], &[])).expect("publish");
    assert!(published.notices.iter().any(|n| n.contains(map::DENY4)), "{published:?}");
    let snapshot = second.snapshot().expect("snapshot");
    assert_eq!(snapshot.members[0].state, ['N']);
    assert!(snapshot.prefixes.is_empty());
    assert_eq!(lab.read().members[0].state, ['N']);
} }

isolated! { fn what_is_not_ours_is_neither_adopted_nor_removed(lab) {
    let foreign = |what: &str, path: &Path| {
        let error = lab.refused(&[auto("v0")]);
        assert!(matches!(error, DataplaneError::ForeignPin { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!(path.symlink_metadata().is_ok(), "{what} was removed");
        assert_eq!(program_on("v0"), 0);
    };
    drop(lab.open(&[]));

    // A map of another shape, where META says that one of ours was.
    let counters = lab.pin(map::COUNTERS);
    let text = counters.to_str().expect("utf-8");
    let replace = |size: &str, name: &str| {
        fs::remove_file(&counters).expect("remove");
        let create = ["map", "create", text, "type", "array", "key", "4", "value", size];
        run("bpftool", &[&create[..], &["entries", "4", "name", name]].concat());
    };
    replace("32", "COUNTERS");
    foreign("COUNTERS", &counters);
    replace("16", "other");
    foreign("\"other\"", &counters);

    // A symbolic link, a directory.
    fs::remove_file(&counters).expect("remove");
    symlink(lab.pin(map::META), &counters).expect("symlink");
    foreign("symbolic link", &counters);
    fs::remove_file(&counters).expect("remove");
    fs::create_dir(&counters).expect("directory");
    foreign("directory", &counters);
    fs::remove_dir(&counters).expect("remove");

    // A program.
    let _two = Dataplane::open(&lab.named("two"), &with(&[auto("v1")])).expect("another instance");
    run("bpftool", &["prog", "pin", "id", &program_on("v1").to_string(), text]);
    foreign("it is a program", &counters);
    fs::remove_file(&counters).expect("remove");

    // META without our mark, and none at all.
    let path = lab.pin(map::META);
    let mut array = meta(&path);
    let value = array.get(&0, 0).expect("read");
    array.set(0, Meta { magic: 1, ..value }, 0).expect("write");
    foreign("0x1", &path);
    fs::remove_file(&path).expect("remove");
    foreign("no META", &lab.pin(map::MEMBERS));
} }

isolated! { fn a_missing_map_is_made_and_the_others_are_kept(lab) {
    let mut first = lab.open(&[]);
    let id = first.publish(&app(&["http://a"], &[])).expect("publish").ids[0][0];
    first.table().cell(id).expect("a").set_state(MemberState::DRAIN);
    drop(first);
    fs::remove_file(lab.pin(map::COUNTERS)).expect("remove");
    drop(lab.open(&[]));
    assert_eq!(lab.read().members[0].state, ['N']);
} }

isolated! { fn a_directory_that_others_may_write_is_not_trusted(lab) {
    let directory = lab.place.bpffs.join("sluice");
    fs::create_dir(&directory).expect("directory");
    run("chmod", &["0777", directory.to_str().expect("utf-8")]);
    let error = lab.refused(&[]);
    assert!(error.to_string().contains("other users may write"), "{error}");
} }
