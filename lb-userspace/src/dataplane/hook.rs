//! The program on its interfaces: attaching, replacing in place, taking off. Links are pinned, so
//! that the program stays when the process goes; the pins are the truth, nothing is kept open.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

use super::{
    DataplaneError,
    kernel::PROGRAM,
    maps::pin_error,
    netlink::{self, Link},
    pin::{self, Object, PinDir},
    sys,
};
use crate::{
    admin::protocol::InterfaceView,
    config::spec::{Interface, XdpMode},
};

/// Where the program runs.
pub(super) struct Hooks {
    pins: PinDir,
    /// Inode of this network namespace.
    netns: u64,
    /// Interfaces attached to by this process, new ones and those taken over.
    attached: Vec<Attached>,
}

struct Attached {
    name: String,
    index: u32,
    /// Not taken over from an earlier process.
    new: bool,
}

/// What became of a pinned link.
enum Takeover {
    Done,
    /// There is none, or its interface is gone.
    Absent,
    /// It ran in this mode, which is not the one asked for, and is off.
    OtherMode(XdpMode),
}

/// An interface that the program was attached to, for undoing it.
pub(super) struct Change {
    interface: Interface,
    /// The mode it ran in before, if it did.
    before: Option<XdpMode>,
}

impl Hooks {
    pub(super) fn new(pins: PinDir) -> Result<Self, DataplaneError> {
        Ok(Self {
            pins,
            netns: netns()?,
            attached: Vec::new(),
        })
    }

    /// See [`super::kernel::Kernel::attach_missing`].
    pub(super) fn attach_missing(
        &mut self,
        program: &mut Xdp,
        wanted: &[Interface],
        notices: &mut Vec<String>,
    ) -> Result<Vec<Change>, DataplaneError> {
        let mut changes = Vec::new();
        for interface in wanted {
            match self.attach(program, interface, notices) {
                Ok(change) => changes.extend(change),
                Err(error) => {
                    self.take_back(program, changes);
                    return Err(error);
                }
            }
        }
        Ok(changes)
    }

    /// What had to be changed for the program to run there in a mode that was asked for.
    fn attach(
        &mut self,
        program: &mut Xdp,
        interface: &Interface,
        notices: &mut Vec<String>,
    ) -> Result<Option<Change>, DataplaneError> {
        let name = &interface.name;
        let link = find(interface)?;
        let there = self.attached.iter().any(|a| a.index == link.index);
        let path = self.pins.link(self.netns, link.index);
        if there && fits(&link, interface.mode) && pin::is_pinned(&path)? {
            return Ok(None);
        }
        self.attached
            .retain(|a| a.index != link.index && a.name != *name);
        let before = match take_over(program, &path, &link, interface, notices)? {
            Takeover::Done => {
                self.note(interface, &link, false, notices);
                return Ok(None);
            }
            Takeover::Absent => None,
            Takeover::OtherMode(mode) => Some(mode),
        };
        if let Err(error) = attach_fresh(program, &path, &link, interface, notices) {
            if let Some(mode) = before {
                self.attach_back(program, interface, mode);
            }
            return Err(error);
        }
        self.note(interface, &link, before.is_none(), notices);
        Ok(Some(Change {
            interface: interface.clone(),
            before,
        }))
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
        for Change { interface, before } in changes.into_iter().rev() {
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
        let done = find(&as_before).and_then(|link| {
            let path = self.pins.link(self.netns, link.index);
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

    /// Takes the program off interfaces by name.
    pub(super) fn detach_these(&mut self, names: &[String]) {
        for attached in self.attached.extract_if(.., |a| names.contains(&a.name)) {
            let path = self.pins.link(self.netns, attached.index);
            if let Err(error) = unpin(&path) {
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
            match unpin(&path) {
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

fn find(interface: &Interface) -> Result<Link, DataplaneError> {
    let name = interface.name.clone();
    let found = netlink::by_name(&name).map_err(|source| DataplaneError::Hook {
        what: "look at",
        interface: name.clone(),
        source,
    })?;
    found.ok_or_else(|| DataplaneError::NoInterface {
        name,
        at: if interface.at.line == 0 {
            String::new()
        } else {
            format!(" ({}:{})", interface.at.file.display(), interface.at.line)
        },
    })
}

/// Whether the mode it runs in is one that was asked for.
fn fits(link: &Link, mode: XdpMode) -> bool {
    let running = link.xdp.map(|xdp| xdp.mode);
    match mode {
        XdpMode::Auto => true,
        XdpMode::Native => running == Some("native"),
        XdpMode::Generic => running == Some("generic"),
    }
}

/// Puts the program in the place of the one that an earlier process of this instance left running.
fn take_over(
    program: &mut Xdp,
    path: &Path,
    link: &Link,
    interface: &Interface,
    notices: &mut Vec<String>,
) -> Result<Takeover, DataplaneError> {
    if !pin::is_pinned(path)? {
        return Ok(Takeover::Absent);
    }
    match on_interface(path)? {
        Some(index) if index == link.index => {}
        Some(index) => {
            return Err(DataplaneError::ForeignPin {
                path: path.to_owned(),
                found: format!("it is a link on interface {index}"),
            });
        }
        // The interface it was on is gone; this one has its number now.
        None => {
            unpin(path)?;
            return Ok(Takeover::Absent);
        }
    }
    if !fits(link, interface.mode) {
        notices.push(format!(
            "interface {} is attached anew in another mode: a few packets pass unguarded",
            interface.name
        ));
        unpin(path)?;
        return Ok(Takeover::OtherMode(match link.xdp.map(|xdp| xdp.mode) {
            Some("native") => XdpMode::Native,
            Some("generic") => XdpMode::Generic,
            _ => XdpMode::Auto,
        }));
    }
    let pinned =
        PinnedLink::from_pin(path).and_then(|pinned| XdpLink::try_from(FdLink::from(pinned)));
    let updated = pinned
        .map_err(|error| link_error(&error))
        .and_then(|link| program.attach_to_link(link).map_err(|e| program_error(&e)))
        .and_then(|id| program.take_link(id).map_err(|e| program_error(&e)));
    match updated {
        // Dropped, its descriptor is closed; the pin holds the link.
        Ok(link) => {
            drop(link);
            Ok(Takeover::Done)
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            unpin(path)?;
            Ok(Takeover::Absent)
        }
        Err(source) => Err(DataplaneError::Hook {
            what: "replace the program on",
            interface: interface.name.clone(),
            source,
        }),
    }
}

/// Interface of the pinned link; `None` when that is gone. Anything but a link of a program of
/// ours is foreign.
fn on_interface(path: &Path) -> Result<Option<u32>, DataplaneError> {
    let failed = |what| {
        move |source| DataplaneError::Path {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let foreign = |found: String| DataplaneError::ForeignPin {
        path: path.to_owned(),
        found,
    };
    let fd = sys::open_pin(path).map_err(failed("open"))?;
    if pin::object_of(fd.as_fd()) != Object::Link {
        return Err(foreign("it is no link".to_owned()));
    }
    let info = sys::link_info(fd.as_fd()).map_err(failed("look at"))?;
    let info = info.ok_or_else(|| foreign("it is not a link of an XDP program".to_owned()))?;
    // Without CAP_SYS_ADMIN, as under systemd, nothing is told about programs. The link lies in a
    // directory that only this user can have filled, which must do.
    if let Some((name, _)) = told_of(info.program)
        && name != PROGRAM
    {
        return Err(foreign(format!(
            "it is a link of program {} \"{name}\"",
            info.program
        )));
    }
    Ok((info.interface != 0).then_some(info.interface))
}

/// Takes the program off by a link of ours, and removes its pin.
fn unpin(path: &Path) -> Result<(), DataplaneError> {
    if on_interface(path)?.is_some() {
        // Without it the interface is taken for a moment longer, and attaching anew fails. Where
        // it fails the interface has just gone.
        let _ = sys::open_pin(path).and_then(|fd| sys::link_detach(fd.as_fd()));
    }
    fs::remove_file(path).map_err(|source| DataplaneError::Path {
        what: "remove",
        path: path.to_owned(),
        source,
    })
}

fn attach_fresh(
    program: &mut Xdp,
    path: &Path,
    link: &Link,
    interface: &Interface,
    notices: &mut Vec<String>,
) -> Result<(), DataplaneError> {
    let name = &interface.name;
    let native = match interface.mode {
        XdpMode::Generic => None,
        XdpMode::Auto | XdpMode::Native => Some(attach_as(program, link, AyaMode::Driver)),
    };
    let attached = match native {
        Some(Ok(fd)) => fd,
        Some(Err(error)) if interface.mode == XdpMode::Native || is_final(&error) => {
            return Err(refused(name, "native", error));
        }
        other => {
            let fd = attach_as(program, link, AyaMode::Skb)
                .map_err(|error| refused(name, "generic", error))?;
            if let Some(Err(error)) = other {
                notices.push(format!(
                    "interface {name} cannot run XDP natively ({error}): attached in generic mode, \
                     which is slower; `sluice doctor` tells more"
                ));
            }
            fd
        }
    };
    // Where pinning fails the link is dropped here, and the program is off again.
    (attached.pin(path).map(drop)).map_err(|error| DataplaneError::Path {
        what: "pin a link at",
        path: path.to_owned(),
        source: pin_error(error),
    })
}

fn attach_as(program: &mut Xdp, link: &Link, mode: AyaMode) -> io::Result<FdLink> {
    let attached = (program.attach_to_if_index(link.index, mode))
        .and_then(|id| program.take_link(id))
        .map_err(|error| program_error(&error))?;
    // aya falls back to a netlink attachment on EINVAL, which cannot be pinned: that is the mode
    // refused. Dropping it takes it off again.
    FdLink::try_from(attached).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Errors that another mode does not cure.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)
    )
}

fn refused(interface: &str, mode: &'static str, source: io::Error) -> DataplaneError {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            let link = netlink::by_name(&interface).ok().flatten();
            let id = link.and_then(|link| link.xdp).map_or(0, |xdp| xdp.program);
            let (name, tag) = describe(id);
            DataplaneError::HookTaken {
                interface,
                id,
                name,
                tag,
            }
        }
        Some(libc::EPERM) => super::kernel::no_bpf(&format!("attaching to {interface}"), source),
        Some(libc::ENODEV) => DataplaneError::Hook {
            what: "attach to",
            interface,
            source,
        },
        _ => DataplaneError::Mode {
            interface,
            mode,
            source,
        },
    }
}

/// Name and tag of a program, as bpftool prints them.
pub(super) fn describe(id: u32) -> (String, String) {
    told_of(id).unwrap_or_else(|| ("unknown".to_owned(), "unknown".to_owned()))
}

/// As [`describe`]; `None` where the kernel does not tell this process.
fn told_of(id: u32) -> Option<(String, String)> {
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)?;
    Some((
        String::from_utf8_lossy(info.name()).into_owned(),
        (info.tag().to_be_bytes().iter())
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}")),
    ))
}

fn program_error(error: &ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => again(&error.io_error),
        error => io::Error::other(super::kernel::chain(error)),
    }
}

fn link_error(error: &LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(error) => again(&error.io_error),
        error => io::Error::other(super::kernel::chain(error)),
    }
}

/// The same error once more: `io::Error` is not `Clone`.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
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
            },
            None => InterfaceView {
                name: format!("{index} of network namespace {netns}"),
                index,
                mode: String::new(),
                program: info.program,
            },
        });
    }
    Ok(views)
}

/// Unpins every link of an instance; returns where the program was.
pub(super) fn detach_pinned(pins: &PinDir) -> Result<Vec<InterfaceView>, DataplaneError> {
    let views = pinned_views(pins, netns()?)?;
    for (_, _, path) in pins.links()? {
        unpin(&path)?;
    }
    Ok(views)
}

/// As [`pinned_views`], from this network namespace.
pub(super) fn views_here(pins: &PinDir) -> Result<Vec<InterfaceView>, DataplaneError> {
    pinned_views(pins, netns()?)
}
