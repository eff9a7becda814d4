//! Taking a publish back, and what a control that becomes another program leaves to it.

use std::{fs::File, io, os::fd::OwnedFd};

use lb_common::abi::map;

use super::{
    Dataplane, DataplaneError, Desired, Place,
    diff::{FileLimits, Op},
    kernel::{Kernel, Opened},
    pin::{self, Lock},
    store::Store,
    table::monotonic_ns,
};
use crate::config::spec::Interface;

/// What was before the last publish.
pub(super) struct Undo {
    pub(super) steps: Vec<Op>,
    pub(super) file_limits: FileLimits,
}

/// What a control that becomes another program leaves to it.
#[derive(Debug)]
pub(crate) struct Inheritance {
    /// The instance's lock.
    pub(crate) lock: File,
    /// Proxies that run: column and process id.
    pub(crate) proxies: Vec<(u32, u32)>,
    /// `MEMBERS`, `BUSY` and `META`, where they are memory of processes and no kernel maps.
    pub(crate) memory: Option<[OwnedFd; 3]>,
}

/// What tells apart the layouts of the maps that different builds expect.
pub(crate) fn layouts() -> u64 {
    let hashes = pin::layouts();
    (hashes.iter().zip(map::REVISIONS)).fold(0, |all: u64, (layout, revision)| {
        all.rotate_left(7) ^ u64::from(layout.hash(revision))
    })
}

impl Dataplane {
    /// As [`Dataplane::open`], or [`Dataplane::anonymous`] where memory was left, as the successor of
    /// a control that became this process: nothing of its proxies' is cleared.
    pub(crate) fn inherit(
        place: &Place,
        interfaces: &[Interface],
        left: Inheritance,
    ) -> Result<Self, DataplaneError> {
        let lock = Lock::inherit(place, left.lock);
        let proxies = Some(left.proxies);
        if let Some([members, busy, meta]) = left.memory {
            let store = Store::in_memory(members, busy, meta)?;
            return Self::over(place, lock, store, None, Vec::new(), proxies);
        }
        let Opened {
            kernel,
            store,
            notices,
        } = Kernel::open(place, interfaces)?;
        Self::over(place, lock, store, Some(kernel), notices, proxies)
    }

    /// What a successor needs; the proxies are the caller's to know.
    pub(crate) fn leave(&self, proxies: Vec<(u32, u32)>) -> io::Result<Inheritance> {
        let memory = match &self.store.meta_file {
            None => None,
            Some(meta) => Some([
                self.store.members.try_clone()?,
                self.store.busy.try_clone()?,
                meta.try_clone()?,
            ]),
        };
        Ok(Inheritance {
            lock: File::from(self.lock.as_fd().try_clone_to_owned()?),
            proxies,
            memory,
        })
    }

    /// Takes the last publish back, after a proxy did not take its generation: members, services,
    /// lists and settings are as they were, run-time changes of an operator among them. `before` is
    /// the generation that was on. Nothing else may have been changed since.
    pub fn unpublish(&mut self, before: &Desired) -> Result<(), DataplaneError> {
        let Some(undo) = self.undo.take() else {
            return Ok(());
        };
        self.store.take_back(undo.steps, monotonic_ns())?;
        self.file_limits = undo.file_limits;
        self.state_changed();
        self.prefixes = self.store.rest.prefixes()?;
        if let Some(kernel) = &mut self.kernel {
            let wanted = &before.spec.sluice.interfaces;
            let mut notices = Vec::new();
            kernel.attach_missing(wanted, &mut notices)?;
            kernel.detach_others(wanted, &mut notices);
        }
        Ok(())
    }
}
