//! What network interfaces do to packets before the program sees them, and must not: merging
//! segments, taking VLAN tags off. It is switched off while the program is attached and, as it was
//! before, on again when the program is taken off.
//!
//! What was switched off is kept beside the link's pin, in the only thing beside pins that a bpf file
//! system takes: a symbolic link. So it lives exactly as long as the link does, whoever dies.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use crate::dataplane::{
    DataplaneError, netlink,
    sys::{self, Feature},
};

/// Segments merged by the NIC are not what came over the wire: drivers refuse XDP with it, or run the
/// program on the first part of a packet alone.
const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];
/// A tag that the NIC takes off is neither seen by the program nor on what it sends on.
const UNTAGGING: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
/// Longest record: all of them, with commas.
const MOST_BYTES: usize = 256;

/// Features that are on and in the way. `steering`: packets are sent on from here.
fn in_the_way(all: &[Feature], steering: bool) -> Vec<&Feature> {
    let bad = |name: &str| MERGING.contains(&name) || steering && UNTAGGING.contains(&name);
    all.iter().filter(|f| f.on && bad(&f.name)).collect()
}

fn names(features: &[&Feature]) -> Vec<String> {
    features.iter().map(|f| f.name.clone()).collect()
}

/// Switches off what is in the way on an interface, and remembers it in `record`; returns what it
/// switched off. Refused is an interface with VLANs that takes their tags off, come what may, where
/// packets are steered.
pub(super) fn clear(
    interface: &str,
    index: u32,
    record: &Path,
    steering: bool,
    notices: &mut Vec<String>,
) -> Result<Vec<String>, DataplaneError> {
    // A driver that tells nothing has nothing to switch off either.
    let Ok(all) = sys::features(interface) else {
        return Ok(Vec::new());
    };
    let wrong = in_the_way(&all, steering);
    if wrong.is_empty() {
        return Ok(Vec::new());
    }
    let (can, cannot): (Vec<_>, Vec<_>) = wrong.into_iter().partition(|f| f.changeable);
    check_fixed(interface, index, &cannot, notices)?;
    if can.is_empty() {
        return Ok(Vec::new());
    }
    let mut off = names(&can);
    // First, so that whoever comes after a death in between knows.
    let mut all_off = read(record);
    all_off.extend(
        off.iter()
            .filter(|name| !all_off.contains(name))
            .cloned()
            .collect::<Vec<_>>(),
    );
    write(record, &all_off).map_err(|source| DataplaneError::Path {
        what: "write down offloads at",
        path: record.to_owned(),
        source,
    })?;
    if let Err(error) = sys::set_features(interface, &all, &can, false) {
        notices.push(format!(
            "interface {interface}: {} cannot be switched off ({error})",
            off.join(", ")
        ));
    }
    // The kernel takes it as a wish: what the driver insists on is still on.
    let now = sys::features(interface).unwrap_or_default();
    let still: Vec<&Feature> = in_the_way(&now, steering)
        .into_iter()
        .filter(|f| off.contains(&f.name))
        .collect();
    off.retain(|name| !still.iter().any(|f| f.name == *name));
    if let Err(error) = check_fixed(interface, index, &still, notices) {
        restore(index, record);
        return Err(error);
    }
    if !off.is_empty() {
        notices.push(format!(
            "interface {interface}: {} switched off while the program is attached",
            off.join(", ")
        ));
    }
    Ok(off)
}

/// What is in the way and stays on.
fn check_fixed(
    interface: &str,
    index: u32,
    fixed: &[&Feature],
    notices: &mut Vec<String>,
) -> Result<(), DataplaneError> {
    if fixed.is_empty() {
        return Ok(());
    }
    let shown = names(fixed).join(", ");
    let untags = fixed.iter().any(|f| UNTAGGING.contains(&f.name.as_str()));
    if untags && has_vlans(index) {
        return Err(DataplaneError::Offload {
            interface: interface.to_owned(),
            feature: shown,
        });
    }
    notices.push(format!(
        "interface {interface}: its driver does not let {shown} be switched off{}",
        if untags {
            ": packets with VLAN tags must not come in there, they would be sent on without"
        } else {
            ": segments may be merged before they are judged"
        }
    ));
    Ok(())
}

/// Whether somebody has VLANs on the interface.
fn has_vlans(index: u32) -> bool {
    let links = netlink::links().unwrap_or_default();
    (links.iter()).any(|link| link.lower == Some(index) && link.kind.as_deref() == Some("vlan"))
}

/// Switches on again, of what `record` tells, what this process may, and forgets it.
pub(super) fn restore(index: u32, record: &Path) {
    let off = read(record);
    restore_these(index, &off);
    forget(record);
}

/// Undoes a [`clear`] that switched `off` off, and leaves what was off before it.
pub(super) fn take_back(index: u32, record: &Path, off: &[String]) {
    restore_these(index, off);
    let left: Vec<String> = (read(record).into_iter())
        .filter(|name| !off.contains(name))
        .collect();
    forget(record);
    if !left.is_empty()
        && let Err(error) = write(record, &left)
    {
        tracing::warn!("{} will stay off: {error}", left.join(", "));
    }
}

/// Nothing is steered from here any more: tags may be taken off again.
pub(super) fn allow_untagging(index: u32, record: &Path) {
    let off: Vec<String> = (read(record).into_iter())
        .filter(|name| UNTAGGING.contains(&name.as_str()))
        .collect();
    if !off.is_empty() {
        take_back(index, record, &off);
    }
}

fn restore_these(index: u32, off: &[String]) {
    if off.is_empty() {
        return;
    }
    // By its index: it may have another name now, or be gone.
    let Ok(Some(link)) = netlink::by_index(index) else {
        return;
    };
    let all = sys::features(&link.name).unwrap_or_default();
    let these: Vec<&Feature> = (all.iter())
        .filter(|f| !f.on && f.changeable && off.contains(&f.name))
        .collect();
    if these.is_empty() {
        return;
    }
    match sys::set_features(&link.name, &all, &these, true) {
        Ok(()) => tracing::info!(
            notice = true,
            "interface {}: {} on again, as before the program was attached",
            link.name,
            names(&these).join(", ")
        ),
        Err(error) => tracing::warn!(
            "interface {}: {} could not be switched on again: {error}",
            link.name,
            names(&these).join(", ")
        ),
    }
}

/// Names of a record; none where there is none, and of what is not ours only names of ours.
fn read(record: &Path) -> Vec<String> {
    let text = fs::read_link(record).unwrap_or_default();
    let text = text.to_string_lossy();
    let known = |name: &&str| MERGING.contains(name) || UNTAGGING.contains(name);
    let text = text.get(..MOST_BYTES.min(text.len())).unwrap_or_default();
    text.split(',').filter(known).map(str::to_owned).collect()
}

/// Another record in its place.
fn write(record: &Path, off: &[String]) -> io::Result<()> {
    forget(record);
    symlink(off.join(","), record)
}

fn forget(record: &Path) {
    // There mostly is none.
    let _ = fs::remove_file(record);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_holds_names_of_ours_and_nothing_else() {
        let dir = tempfile::tempdir().expect("directory");
        let record = dir.path().join("offloads_1_2");
        assert_eq!(read(&record), Vec::<String>::new());
        let off = ["rx-lro".to_owned(), "rx-vlan-hw-parse".to_owned()];
        write(&record, &off[..1]).expect("write");
        write(&record, &off).expect("write again");
        assert_eq!(read(&record), off);
        forget(&record);
        symlink("/etc/passwd,tx-checksum,rx-lro", &record).expect("symlink");
        assert_eq!(read(&record), ["rx-lro"]);
    }
}
