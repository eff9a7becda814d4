//! Taking a publish back; what one control leaves to the next: by the lock file when it died, in an
//! [`Inheritance`] when it becomes another program.

use std::{fs::File, io, net::IpAddr, os::fd::OwnedFd, sync::atomic::Ordering::Release};

use lb_common::{abi::map, member::MemberId};

use super::{
    Dataplane, DataplaneError, Desired, Facts, Place,
    diff::{FileLimits, Op},
    kernel::{Kernel, Opened},
    pin::{self, Lock},
    steering::Steering,
    store::Store,
    table::monotonic_ns,
};
use crate::config::spec::{Interface, Sluice};

/// What was before the last publish.
pub(super) struct Undo {
    pub(super) steps: Vec<Op>,
    pub(super) file_limits: FileLimits,
    pub(super) steering: Steering,
    /// `XDPInterface`s, and whether an operator had taken the program off them.
    pub(super) interfaces: (Vec<Interface>, bool),
    /// Members whose next hops are looked after.
    pub(super) members: Vec<(MemberId, IpAddr)>,
    pub(super) facts: Facts,
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
        sluice: &Sluice,
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
        } = Kernel::open(place, &sluice.interfaces, sluice)?;
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

    /// The proxy of an earlier control of this instance that died, if that proxy still serves. It
    /// leaves once [`Dataplane::announce`] was called.
    pub fn orphan(&self) -> Option<u32> {
        self.lock
            .earlier_proxy()
            .filter(|pid| super::is_proxy_process(*pid))
    }

    /// Tells an orphaned proxy, and `sluice stop`, that this control serves through `proxy`.
    pub fn announce(&self, proxy: u32) -> io::Result<()> {
        self.lock.announce(proxy, &self.proxies)
    }

    /// A proxy that ran before serves on: [`Dataplane::proxy_started`] of another is not to count.
    pub(crate) fn proxy_serves_on(&self, pid: u32) {
        self.store.meta().proxy_pid.store(pid, Release);
    }

    /// The lock file, readable, for a proxy to see a later control announce itself in.
    pub fn lock_reader(&self) -> io::Result<File> {
        self.lock.reader()
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
        self.steering = undo.steering.unwritten();
        self.steering.refresh(&mut self.store, monotonic_ns())?;
        self.steering.remove_others(&mut self.store)?;
        let (interfaces, detached) = undo.interfaces;
        self.interfaces.turn_to(&interfaces, detached);
        self.facts = undo.facts;
        self.desired = Some(before.clone());
        self.hops.turn_back(undo.members);
        self.state_changed();
        self.prefixes = self.store.rest.prefixes()?;
        if let Some(kernel) = &mut self.kernel {
            let wanted: &[Interface] = if detached { &[] } else { &interfaces };
            let mut notices = Vec::new();
            kernel.attach_missing(wanted, &before.spec.sluice, &mut notices)?;
            kernel.detach_others(wanted, &mut notices);
        }
        Ok(())
    }
}
