//! The shared maps: the kernel's by aya, or the same layout in anonymous memory.

use std::{net::SocketAddr, os::fd::BorrowedFd, path::PathBuf, sync::Arc};

use lb_common::member::MemberId;

use crate::{
    admin::protocol::{InterfaceView, PrefixView, ServiceView, Snapshot},
    config::spec::{Interface, Prefix, Spec},
};

#[allow(
    unsafe_code,
    reason = "the one module that maps memory and calls the kernel"
)]
pub mod sys;
pub mod table;

use table::MemberTable;

/// Where an instance keeps its things.
#[derive(Clone, Debug)]
pub struct Place {
    /// Instance's name.
    pub instance: String,
    /// A mounted bpf filesystem; pins go to `<bpffs>/sluice/<instance>/`.
    pub bpffs: PathBuf,
    /// Lock file and control socket: `<run_dir>/<instance>.lock`, `<run_dir>/<instance>.sock`.
    pub run_dir: PathBuf,
}

/// What can go wrong with the maps, the program or its pins. Exit code by [`DataplaneError::exit_code`].
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Replaced by the real ones.
    #[error("placeholder")]
    Placeholder,
}

impl DataplaneError {
    /// 3: no usable dataplane; 1: anything else (DESIGN section 8).
    pub const fn exit_code(&self) -> i32 {
        3
    }
}

/// What a generation wants the maps to hold; made from a [`Spec`] and resolved addresses by
/// [`Desired::of`], pure.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Per balancer, per member: where it is. Parallel to `spec.balancers[b].members[m]`.
    pub addresses: Vec<Vec<SocketAddr>>,
    /// The configuration it was made from.
    pub spec: Arc<Spec>,
}

/// Result of publishing.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its number.
    pub generation: u64,
    /// `ids[b][m]` is the slot of `spec.balancers[b].members[m]`.
    pub ids: Vec<Vec<MemberId>>,
    /// For the operator: members adopted with their drains, a repair, a capacity near its end.
    pub notices: Vec<String>,
}

/// The maps of one instance, owned by control.
pub struct Dataplane {
    _private: (),
}

impl Dataplane {
    /// Takes the lock, checks, adopts or creates the pinned maps, loads the program and attaches it
    /// to `interfaces` (replacing our own earlier program in place). Nothing is left behind on error.
    pub fn open(_place: &Place, _interfaces: &[Interface]) -> Result<Self, DataplaneError> {
        unimplemented!("dataplane")
    }

    /// The same slots in anonymous memory, still under the instance's lock.
    pub fn anonymous(_place: &Place) -> Result<Self, DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Whether there are kernel maps.
    pub fn is_kernel(&self) -> bool {
        unimplemented!("dataplane")
    }

    /// The member table, mapped in this process.
    pub fn table(&self) -> Arc<MemberTable> {
        unimplemented!("dataplane")
    }

    /// Descriptors of `MEMBERS` and `BUSY`, for the proxy process.
    pub fn table_fds(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        unimplemented!("dataplane")
    }

    /// Preflight, members, services, lists, removals; undone on error. Attaches and detaches
    /// interfaces that the new configuration adds or drops.
    pub fn publish(&mut self, _desired: &Desired) -> Result<Published, DataplaneError> {
        unimplemented!("dataplane")
    }

    /// A new proxy process: picks its column of `BUSY`, empties it, writes `META`.
    pub fn proxy_started(&mut self, _pid: u32) -> u32 {
        unimplemented!("dataplane")
    }

    /// Once a second: heartbeat, expired denies.
    pub fn tick(&mut self) {
        unimplemented!("dataplane")
    }

    /// Adds or replaces a deny entry. `seconds` `None`: for ever.
    pub fn deny(&mut self, _prefix: Prefix, _seconds: Option<u64>) -> Result<(), DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Removes a deny entry; whether there was one.
    pub fn undeny(&mut self, _prefix: Prefix) -> Result<bool, DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Replaces (or with `None` removes) one limit of one service at run time.
    pub fn set_limit(
        &mut self,
        _service: u16,
        _kind: u8,
        _per_service: bool,
        _limit: Option<lb_common::limit::Limit>,
    ) -> Result<(), DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Changes a run-time setting: `guard on|off`, `log on|off`, `log_every N`.
    pub fn set(&mut self, _name: &str, _value: &str) -> Result<(), DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Tells that a member's state changed (`META.state_sequence`).
    pub fn state_changed(&self) {
        unimplemented!("dataplane")
    }

    /// Takes the program off every interface and unpins the links; the maps stay.
    pub fn detach(&mut self) -> Result<Vec<InterfaceView>, DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Clean stop: marks `META`, keeps pins and attached program unless `detach`.
    pub fn close(self) -> Result<(), DataplaneError> {
        unimplemented!("dataplane")
    }

    /// Members, services, lists, settings, interfaces as the maps hold them now; what only the
    /// daemon knows is left at its default for the caller to fill in.
    pub fn snapshot(&self) -> Result<Snapshot, DataplaneError> {
        unimplemented!("dataplane")
    }
}

/// Reads an instance's pins without its daemon: no lock, nothing written.
pub fn read_pins(_place: &Place) -> Result<Snapshot, DataplaneError> {
    unimplemented!("dataplane")
}

/// `sluice detach` with no daemon: unpins the links of a dead instance.
pub fn detach_dead(_place: &Place) -> Result<Vec<InterfaceView>, DataplaneError> {
    unimplemented!("dataplane")
}

/// Used by views of both kinds.
pub type Views = (Vec<ServiceView>, Vec<PrefixView>);
