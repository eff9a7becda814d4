//! The watch over files; what is in them is tested with the whole binary.

use super::*;

#[test]
fn a_change_is_told_once_and_only_when_it_has_settled() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("a.pem");
    fs::write(&path, "one").expect("written");
    let mut watch = Watch {
        files: vec![(path.clone(), stamp(&path))],
        changing: None,
    };
    assert!(!watch.has_changed());
    fs::write(&path, "another").expect("written");
    assert!(!watch.has_changed(), "may still be changing");
    fs::write(&path, "and another").expect("written");
    assert!(!watch.has_changed(), "was still changing");
    assert!(watch.has_changed());
    assert!(!watch.has_changed(), "told already");
    fs::remove_file(&path).expect("removed");
    assert!(!watch.has_changed());
    assert!(watch.has_changed(), "gone is a change too");
}
