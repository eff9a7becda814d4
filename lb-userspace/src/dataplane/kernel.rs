//! The kernel's maps and program, by aya: adopting pinned maps or making new ones, loading the
//! program, and the part of the store that is reached by system calls. Where the program runs is in
//! `hook.rs`.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
    programs::{ProgramError, Xdp},
};
use lb_common::{
    abi::{ABI_VERSION, map},
    deny::PrefixEntry,
    limit::{ServiceLimits, ServiceWindows},
    member::{MemberId, MemberName},
    meta::{MAGIC, Meta},
    settings::Settings,
    verdict::{Counter, Reason},
};

use super::{
    DataplaneError, Place,
    hook::Hooks,
    pin::{self, Layout, Object, PinDir},
    prefix::{List, PrefixKey},
    store::{Rest, Row, Store},
    sys,
};
use crate::config::spec::Interface;

/// The program and the object it comes from, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.bpf.o"));

/// Name of the program that guards.
pub(super) const PROGRAM: &str = "sluice_xdp";

/// What opening gave.
pub(super) struct Opened {
    pub(super) kernel: Kernel,
    pub(super) store: Store,
    /// For the operator.
    pub(super) notices: Vec<String>,
}

/// The loaded program and where it runs.
pub(super) struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) hooks: Hooks,
}

impl Kernel {
    /// Maps first (adopted where they fit, made anew where they do not), then the program, then the
    /// pins, then the hooks. What was made is taken away again when a later step fails.
    pub(super) fn open(place: &Place, interfaces: &[Interface]) -> Result<Opened, DataplaneError> {
        sys::bpf_probe().map_err(|source| no_bpf("creating a map", source))?;
        pin::check_bpffs(&place.bpffs)?;
        let pins = PinDir::of(place);
        pins.ensure()?;
        let opened = Self::load(&pins, interfaces);
        if opened.is_err() {
            pins.remove_if_empty();
        }
        opened
    }

    fn load(pins: &PinDir, interfaces: &[Interface]) -> Result<Opened, DataplaneError> {
        let Checked {
            adopt,
            replace,
            mut notices,
        } = check(pins)?;
        let mut loader = EbpfLoader::new();
        for name in &adopt {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| refused(&error))?;
        let program: &mut Xdp = (ebpf.program_mut(PROGRAM))
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| DataplaneError::Program {
                reason: format!("the object has no XDP program {PROGRAM}"),
            })?;
        program.load().map_err(|error| not_loaded(&error))?;

        // Nothing is pinned yet, so nothing is lost by an error up to here.
        let maps = Maps::of_object(&mut ebpf)?;
        let store = maps.into_store()?;
        stamp(&store);
        let mut kernel = Self {
            ebpf,
            hooks: Hooks::new(pins.clone()),
        };
        let mut made = Vec::new();
        let done = kernel
            .pin(pins, &adopt, &replace, &store, &mut made)
            .and_then(|()| kernel.attach_missing(interfaces, &mut notices).map(drop));
        if let Err(error) = done {
            for name in made {
                // The start failed already; a pin that stays is adopted by the next one.
                let _ = fs::remove_file(pins.map(name));
            }
            return Err(error);
        }
        Ok(Opened {
            kernel,
            store,
            notices,
        })
    }

    /// Pins what is new, `META` first: pins without it belong to nobody.
    fn pin(
        &mut self,
        pins: &PinDir,
        adopt: &[&'static str],
        replace: &[&'static str],
        store: &Store,
        made: &mut Vec<&'static str>,
    ) -> Result<(), DataplaneError> {
        for name in map::ALL.iter().filter(|name| !adopt.contains(name)) {
            let path = pins.map(name);
            let failed = |what| {
                let path = path.clone();
                move |source| DataplaneError::Path { what, path, source }
            };
            if replace.contains(name) {
                fs::remove_file(&path).map_err(failed("remove"))?;
            }
            let descriptor = store.descriptor(name);
            let pinned = match descriptor {
                Some(fd) => fd
                    .try_clone_to_owned()
                    .map_err(failed("pin"))
                    .and_then(|fd| MapData::from_fd(fd).map_err(|e| map_error(name, "pinning", e)))
                    .and_then(|data| {
                        data.pin(&path)
                            .map_err(|error| failed("pin")(io::Error::other(error)))
                    }),
                None => match self.ebpf.map(name) {
                    Some(map) => map
                        .pin(&path)
                        .map_err(|error| failed("pin")(io::Error::other(error))),
                    None => Ok(()),
                },
            };
            pinned?;
            if !replace.contains(name) {
                made.push(name);
            }
        }
        Ok(())
    }
}
