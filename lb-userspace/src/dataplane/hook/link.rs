//! One pinned link of the program: attaching it, putting the program into the place of an earlier one,
//! taking it off.

use std::{fs, io, os::fd::AsFd, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AyaMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

use crate::{
    config::spec::{Interface, XdpMode},
    dataplane::{
        DataplaneError,
        kernel::{self, PROGRAM},
        maps::pin_error,
        netlink::{self, Link},
        pin::{self, Object},
        sys,
    },
};

/// What became of a pinned link.
pub(super) enum Takeover {
    Done,
    /// There is none, or its interface is gone.
    Absent,
    /// It ran in this mode, which is not the one asked for, and is off.
    OtherMode(XdpMode),
}

/// Whether the link pinned there holds the program on this interface.
pub(super) fn runs_on(path: &Path, index: u32) -> Result<bool, DataplaneError> {
    if !pin::is_pinned(path)? {
        return Ok(false);
    }
    let info = sys::open_pin(path).and_then(|fd| sys::link_info(fd.as_fd()));
    // Whatever is wrong with it is told by who takes it over.
    Ok(info.is_ok_and(|info| info.is_some_and(|info| info.interface == index)))
}

/// Whether the mode it runs in is one that was asked for.
pub(super) fn fits(link: &Link, mode: XdpMode) -> bool {
    let running = link.xdp.map(|xdp| xdp.mode);
    match mode {
        XdpMode::Auto => true,
        XdpMode::Native => running == Some("native"),
        XdpMode::Generic => running == Some("generic"),
    }
}

/// Puts the program in the place of the one that an earlier process of this instance left running.
pub(super) fn take_over(
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
pub(super) fn on_interface(path: &Path) -> Result<Option<u32>, DataplaneError> {
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
pub(super) fn unpin(path: &Path) -> Result<(), DataplaneError> {
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

pub(super) fn attach_fresh(
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
        Some(libc::EPERM) => kernel::no_bpf(&format!("attaching to {interface}"), source),
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
pub(in crate::dataplane) fn describe(id: u32) -> (String, String) {
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
        error => io::Error::other(kernel::chain(error)),
    }
}

fn link_error(error: &LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(error) => again(&error.io_error),
        error => io::Error::other(kernel::chain(error)),
    }
}

/// The same error once more: `io::Error` is not `Clone`.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}
