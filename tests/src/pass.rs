//! The `pass` program on a veth device whose peer runs XDP.
//!
//! veth gives frames that its peer sends from XDP (`XDP_TX`, `XDP_REDIRECT`) to the stack only if
//! it runs an XDP program of its own, be it one that does nothing.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode, xdp::XdpLinkId},
};
use lb_common::abi::map;

use crate::{Namespace, workspace_root};

/// Name of the program in the XDP object.
const PROGRAM: &str = "sluice_pass";

/// The attached program. Dropping it detaches.
pub struct Pass {
    _object: Ebpf,
    _link: XdpLinkId,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pass")
    }
}

impl Pass {
    /// Attaches it to `interface` of `namespace`, in the driver's native mode.
    pub fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let path = object_path();
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        namespace.inside(|| {
            let mut object = EbpfLoader::new()
                // The object's maps are of no use here: make them as small as they may be.
                .map_max_entries(map::MEMBERS, 1)
                .map_max_entries(map::NAMES, 1)
                .map_max_entries(map::BUSY, 1)
                .map_max_entries(map::SERVICES, 1)
                .map_max_entries(map::LIMITS, 1)
                .map_max_entries(map::WINDOWS, 1)
                .map_max_entries(map::SOURCES, 1)
                .map_max_entries(map::COUNTERS, 1)
                .load(&bytes)
                .with_context(|| format!("loading {}", path.display()))?;
            let program: &mut Xdp = object
                .program_mut(PROGRAM)
                .with_context(|| format!("{} has no {PROGRAM}", path.display()))?
                .try_into()?;
            program.load()?;
            let link = program
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("attaching {PROGRAM} to {interface}"))?;
            Ok(Self {
                _object: object,
                _link: link,
            })
        })?
    }
}

/// The XDP object under test: the committed one, or what `SLUICE_BPF_OBJECT` names.
pub fn object_path() -> PathBuf {
    std::env::var_os("SLUICE_BPF_OBJECT").map_or_else(
        || workspace_root().join("lb-ebpf/prebuilt/sluice.bpf.o"),
        PathBuf::from,
    )
}
