//! The program on its interfaces: attaching, replacing in place, taking off. Links are pinned, so
//! that the program stays when the process goes; the pins are the truth, nothing is kept open.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use aya::programs::Xdp;

use super::{
    DataplaneError,
    netlink::{self, Link},
    pin::PinDir,
    sys,
};
use crate::{
    admin::protocol::InterfaceView,
    config::spec::{Interface, XdpMode},
};

mod link;
mod offloads;

pub(super) use link::describe;
use link::{Takeover, attach_fresh, fits, on_interface, runs_on, take_over, unpin};

/// Where the program runs.
pub(super) struct Hooks {
    pins: PinDir,
    /// Inode of this network namespace.
    netns: u64,
    /// Interfaces attached to by this process, new ones and those taken over.
    attached: Vec<Attached>,
    /// Packets are sent on from here: what their VLAN tags are matters.
    steering: bool,
    /// As it was before the last [`Hooks::attach_missing`].
    steered: bool,
}

struct Attached {
    name: String,
    index: u32,
    /// Not taken over from an earlier process.
    new: bool,
}

/// How it is with an interface that the configuration names.
pub(super) enum Standing {
    /// The program runs on it.
    Runs,
    /// The program did not run on it and was attached; what the operator should know.
    Attached(Vec<String>),
    /// There is none of that name; whether there was one.
    Missing { vanished: bool },
    /// Its name is another now; the program runs on it.
    Renamed { to: String },
    /// It is there, and the program is not on it.
    Refused { index: u32, why: String },
    /// The kernel did not say.
    Unknown,
}

/// An interface that the program was attached to, for undoing it.
pub(super) struct Change {
    interface: Interface,
    index: u32,
    /// The program was attached, and this is the mode it ran in before, if it did.
    attached: Option<Option<XdpMode>>,
    /// Offloads that were switched off.
    off: Vec<String>,
}

impl Hooks {
    pub(super) fn new(pins: PinDir) -> Result<Self, DataplaneError> {
        Ok(Self {
            pins,
            netns: netns()?,
            attached: Vec::new(),
            steering: false,
            steered: false,
        })
    }

    /// See [`super::kernel::Kernel::attach_missing`].
    pub(super) fn attach_missing(
        &mut self,
        program: &mut Xdp,
        wanted: &[Interface],
        steering: bool,
        notices: &mut Vec<String>,
    ) -> Result<Vec<Change>, DataplaneError> {
        self.steered = std::mem::replace(&mut self.steering, steering);
        let mut changes = Vec::new();
        for interface in wanted {
            let done = self.attach(program, interface, wanted, notices);
            let cleared = done.and_then(|change| {
                changes.extend(change);
                self.clear_offloads(interface, notices)
            });
            match cleared {
                Ok(change) => changes.extend(change),
                Err(error) => {
                    self.take_back(program, changes);
                    return Err(error);
                }
            }
        }
        Ok(changes)
    }

    /// Of an interface that the program ran on already: what is in the way of a generation that
    /// steers may not have been in the way of the one before.
    fn clear_offloads(
        &mut self,
        interface: &Interface,
        notices: &mut Vec<String>,
    ) -> Result<Option<Change>, DataplaneError> {
        let attached = self.attached.iter().find(|a| a.name == interface.name);
        let Some(index) = attached.map(|a| a.index) else {
            return Ok(None);
        };
        let record = self.pins.offloads(self.netns, index);
        let off = offloads::clear(&interface.name, index, &record, self.steering, notices)?;
        Ok((!off.is_empty()).then(|| Change {
            interface: interface.clone(),
            index,
            attached: None,
            off,
        }))
    }

    /// What had to be changed for the program to run there in a mode that was asked for. An
    /// interface that is not there is nobody's fault: [`Hooks::follow`] attaches when it comes.
    fn attach(
        &mut self,
        program: &mut Xdp,
        interface: &Interface,
        wanted: &[Interface],
        notices: &mut Vec<String>,
    ) -> Result<Option<Change>, DataplaneError> {
        let name = &interface.name;
        let Some(link) = find(name)? else {
            return Ok(None);
        };
        let path = self.pins.link(self.netns, link.index);
        let known = self.attached.iter_mut().find(|a| a.index == link.index);
        if let Some(known) = known
            && fits(&link, interface.mode)
            && runs_on(&path, link.index)?
        {
            known.name.clone_from(name);
            return Ok(None);
        }
        self.attached.retain(|a| a.index != link.index);
        let before = match take_over(program, &path, &link, interface, notices)? {
            Takeover::Done => {
                self.leave_earlier(name, link.index, wanted);
                self.note(interface, &link, false, notices);
                return Ok(None);
            }
            Takeover::Absent => None,
            Takeover::OtherMode(mode) => Some(mode),
        };
        let record = self.pins.offloads(self.netns, link.index);
        let done = offloads::clear(name, link.index, &record, self.steering, notices)
            .and_then(|_| attach_fresh(program, &path, &link, interface, notices));
        if let Err(error) = done {
            if let Some(mode) = before {
                self.attach_back(program, interface, mode);
            } else {
                offloads::restore(link.index, &record);
            }
            // It went while we looked at it.
            if before.is_none() && find(name)?.is_none() {
                return Ok(None);
            }
            return Err(error);
        }
        self.leave_earlier(name, link.index, wanted);
        self.note(interface, &link, before.is_none(), notices);
        notices.extend(lost_carrier(&link));
        Ok(Some(Change {
            interface: interface.clone(),
            index: link.index,
            attached: Some(before),
            off: Vec::new(),
        }))
    }

    /// Another interface has the name now: takes the program off the one that had it, unless that is
    /// wanted by its new name.
    fn leave_earlier(&mut self, name: &str, index: u32, wanted: &[Interface]) {
        let earlier: Vec<Attached> = (self.attached)
            .extract_if(.., |a| a.name == name && a.index != index)
            .collect();
        for mut earlier in earlier {
            let now = netlink::by_index(earlier.index).ok().flatten();
            if let Some(link) = now
                && wanted.iter().any(|wanted| wanted.name == link.name)
            {
                earlier.name = link.name;
                self.attached.push(earlier);
                continue;
            }
            if let Err(error) = self.take_off(earlier.index) {
                tracing::warn!(interface = name, %error, "the program could not be taken off");
            }
        }
    }

    /// Sees to it that the program runs on one of the `wanted` interfaces, whatever became of it.
    pub(super) fn follow(
        &mut self,
        program: &mut Xdp,
        interface: &Interface,
        wanted: &[Interface],
    ) -> Standing {
        let name = &interface.name;
        let index = match find(name) {
            Ok(Some(link)) => link.index,
            Ok(None) => return self.missing(name),
            Err(_) => return Standing::Unknown,
        };
        let known = self.attached.iter().any(|a| a.index == index);
        let mut notices = Vec::new();
        match self.attach(program, interface, wanted, &mut notices) {
            Ok(None) if known => Standing::Runs,
            Ok(None) => match self.attached.iter().any(|a| a.index == index) {
                true => Standing::Attached(notices),
                false => Standing::Unknown,
            },
            Ok(Some(_)) => Standing::Attached(notices),
            Err(error) => Standing::Refused {
                index,
                why: error.to_string(),
            },
        }
    }

    /// What became of an interface whose name nobody has.
    fn missing(&self, name: &str) -> Standing {
        let Some(had) = self.attached.iter().find(|a| a.name == name) else {
            return Standing::Missing { vanished: false };
        };
        let path = self.pins.link(self.netns, had.index);
        match netlink::by_index(had.index) {
            Ok(Some(link)) if runs_on(&path, had.index).unwrap_or(false) => {
                Standing::Renamed { to: link.name }
            }
            Err(_) => Standing::Unknown,
            _ => Standing::Missing { vanished: true },
        }
    }

    fn note(&mut self, interface: &Interface, link: &Link, new: bool, notices: &mut Vec<String>) {
        let name = &interface.name;
        self.attached.push(Attached {
            name: name.clone(),
            index: link.index,
            new,
        });
        if !link.up {
            notices.push(format!(
                "interface {name} is down: `ip link set {name} up` to see packets"
            ));
        }
    }

    /// Undoes what [`Hooks::attach_missing`] did.
    pub(super) fn take_back(&mut self, program: &mut Xdp, changes: Vec<Change>) {
        self.steering = self.steered;
        for change in changes.into_iter().rev() {
            let interface = change.interface;
            let Some(before) = change.attached else {
                let record = self.pins.offloads(self.netns, change.index);
                offloads::take_back(change.index, &record, &change.off);
                continue;
            };
            self.detach_these(std::slice::from_ref(&interface.name));
            if let Some(mode) = before {
                self.attach_back(program, &interface, mode);
            }
        }
    }

    /// Attaches in the mode of before: a change that fails must not leave an interface unguarded.
    fn attach_back(&mut self, program: &mut Xdp, interface: &Interface, mode: XdpMode) {
        let as_before = Interface {
            mode,
            ..interface.clone()
        };
        let mut notices = Vec::new();
        let done = find(&as_before.name).and_then(|link| {
            // Gone meanwhile: there is nothing to guard.
            let Some(link) = link else { return Ok(()) };
            let path = self.pins.link(self.netns, link.index);
            let record = self.pins.offloads(self.netns, link.index);
            offloads::clear(&link.name, link.index, &record, self.steering, &mut notices)?;
            attach_fresh(program, &path, &link, &as_before, &mut notices)?;
            self.note(&as_before, &link, false, &mut notices);
            Ok(())
        });
        if let Err(error) = done {
            tracing::error!(
                "interface {} is not guarded any more: {error}",
                interface.name
            );
        }
    }

    /// Takes the program off an interface of this network namespace, which then is as it was before.
    fn take_off(&self, index: u32) -> Result<(), DataplaneError> {
        let done = unpin(&self.pins.link(self.netns, index));
        offloads::restore(index, &self.pins.offloads(self.netns, index));
        done
    }

    /// Takes the program off interfaces by name.
    pub(super) fn detach_these(&mut self, names: &[String]) {
        let these: Vec<Attached> = (self.attached)
            .extract_if(.., |a| names.contains(&a.name))
            .collect();
        for attached in these {
            if let Err(error) = self.take_off(attached.index) {
                tracing::warn!(interface = attached.name, %error, "the program could not be taken off");
            }
        }
    }

    /// Takes back what this process attached, after a start that failed; what it took over stays.
    pub(super) fn detach_new(&mut self) {
        let new = self.attached.iter().filter(|a| a.new);
        let names: Vec<String> = new.map(|a| a.name.clone()).collect();
        self.detach_these(&names);
    }

    /// See [`super::kernel::Kernel::detach_others`].
    pub(super) fn detach_others(&mut self, wanted: &[Interface], notices: &mut Vec<String>) {
        for attached in self.attached.iter().filter(|_| !self.steering) {
            let record = self.pins.offloads(self.netns, attached.index);
            offloads::allow_untagging(attached.index, &record);
        }
        let links = match self.pins.links() {
            Ok(links) => links,
            Err(error) => {
                notices.push(error.to_string());
                return;
            }
        };
        for (netns, index, path) in links {
            let here = netns == self.netns;
            let keep = here
                && (self.attached.iter())
                    .any(|a| a.index == index && wanted.iter().any(|w| w.name == a.name));
            if keep {
                continue;
            }
            if here {
                self.attached.retain(|a| a.index != index);
            } else if on_interface(&path).is_ok_and(|on| on.is_some()) {
                notices.push(format!(
                    "the program is still attached to interface {index} of network namespace \
                     {netns}; `sluice detach` takes it off"
                ));
                continue;
            }
            let done = if here {
                self.take_off(index)
            } else {
                unpin(&path)
            };
            match done {
                Ok(()) if here => notices.push(format!(
                    "interface {} is not configured any more: the program is off",
                    name_of(index)
                )),
                Ok(()) => {}
                Err(error) => notices.push(error.to_string()),
            }
        }
    }

    /// See [`super::kernel::Kernel::detach_all`].
    pub(super) fn detach_all(&mut self) -> Result<Vec<InterfaceView>, DataplaneError> {
        self.attached.clear();
        detach_pinned(&self.pins)
    }

    /// Where the program runs, as the kernel has it now.
    pub(super) fn views(&self) -> Vec<InterfaceView> {
        pinned_views(&self.pins, self.netns).unwrap_or_default()
    }
}

/// This thread's network namespace, by inode.
fn netns() -> Result<u64, DataplaneError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let stat = fs::metadata(path).map_err(|source| DataplaneError::Path {
        what: "look at",
        path: path.to_owned(),
        source,
    })?;
    Ok(stat.ino())
}

fn find(name: &str) -> Result<Option<Link>, DataplaneError> {
    netlink::by_name(name).map_err(|source| DataplaneError::Hook {
        what: "look at",
        interface: name.to_owned(),
        source,
    })
}

/// What to tell of an interface whose driver reset its link for the program: `before` it was attached
/// there was a carrier.
fn lost_carrier(before: &Link) -> Option<String> {
    let now = netlink::by_index(before.index).ok().flatten()?;
    let reset = now.carrier_changes != before.carrier_changes || !now.running;
    (before.running && reset).then(|| {
        format!(
            "interface {}: its driver reset the link for the program, packets were lost for a moment; \
             later changes of the program lose none",
            before.name
        )
    })
}

fn name_of(index: u32) -> String {
    let link = netlink::by_index(index).ok().flatten();
    link.map_or_else(|| index.to_string(), |link| link.name)
}

/// Where the pinned links say that the program runs; interfaces of other network namespaces by
/// number.
pub(super) fn pinned_views(pins: &PinDir, here: u64) -> Result<Vec<InterfaceView>, DataplaneError> {
    let mut views = Vec::new();
    for (netns, index, path) in pins.links()? {
        let fd = sys::open_pin(&path);
        let info = fd.and_then(|fd| sys::link_info(fd.as_fd()));
        let Some(info) = info.ok().flatten().filter(|info| info.interface != 0) else {
            continue;
        };
        let link = (netns == here)
            .then(|| netlink::by_index(index).ok().flatten())
            .flatten();
        views.push(match link {
            Some(link) => InterfaceView {
                mode: link.xdp.map_or("", |xdp| xdp.mode).to_owned(),
                name: link.name,
                index,
                program: info.program,
                alarm: String::new(),
            },
            None => InterfaceView {
                name: format!("{index} of network namespace {netns}"),
                index,
                mode: String::new(),
                program: info.program,
                alarm: String::new(),
            },
        });
    }
    Ok(views)
}

/// Unpins every link of an instance, and restores what was switched off for it; returns where the
/// program was. An interface that refuses keeps none of the others.
pub(super) fn detach_pinned(pins: &PinDir) -> Result<Vec<InterfaceView>, DataplaneError> {
    let here = netns()?;
    let views = pinned_views(pins, here)?;
    let mut refused = None;
    for (netns, index, path) in pins.links()? {
        if let Err(error) = unpin(&path) {
            refused.get_or_insert(error);
            continue;
        }
        let record = pins.offloads(netns, index);
        if netns == here {
            offloads::restore(index, &record);
        } else if fs::symlink_metadata(&record).is_ok() {
            tracing::warn!(
                "offloads of interface {index} of network namespace {netns} stay off: run `sluice \
                 detach` there"
            );
        }
    }
    refused.map_or(Ok(views), Err)
}

/// As [`pinned_views`], from this network namespace.
pub(super) fn views_here(pins: &PinDir) -> Result<Vec<InterfaceView>, DataplaneError> {
    pinned_views(pins, netns()?)
}
