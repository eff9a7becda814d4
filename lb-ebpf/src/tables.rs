//! The maps as `lb_common::journey` asks them.

use aya_ebpf::{
    bindings::BPF_NOEXIST, btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_coarse_ns,
};
use lb_common::{
    addr::Address,
    deny::PrefixEntry,
    journey::Tables,
    limit::{LimitKind, ServiceLimits, SourceKey, Windows},
    service::ServiceSet,
    settings::Settings,
    window::SharedWindows,
};

use crate::{
    atomic,
    maps::{ALLOW4, ALLOW6, DENY4, DENY6, LIMITS, SERVICES, SETTINGS, SOURCES, WINDOWS},
};

/// The pinned maps.
pub(crate) struct Maps;

/// Windows in a map value: address of the first word.
pub(crate) struct Shared(*mut u64);

impl SharedWindows for Shared {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        // SAFETY: the pointer came from a lookup of two words; the index is cut to them.
        unsafe { atomic::load(self.0.wrapping_add(index & 1)) }
    }

    #[inline(always)]
    fn increment(&self, index: usize) {
        // SAFETY: as in `load`; map values are 8-aligned.
        unsafe { atomic::add(self.0.wrapping_add(index & 1), 1) }
    }

    #[inline(always)]
    fn replace(&self, index: usize, old: u64, new: u64) -> bool {
        // SAFETY: as in `increment`.
        unsafe { atomic::replace(self.0.wrapping_add(index & 1), old, new) }
    }
}

impl Tables for Maps {
    type Windows<'a> = Shared;

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: reads a clock.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn deny(&self, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry> {
        if version == 4 {
            DENY4.get(&Key::new(bits, last_four(address))).copied()
        } else {
            DENY6.get(&Key::new(bits, address.0)).copied()
        }
    }

    #[inline(always)]
    fn allow(&self, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry> {
        if version == 4 {
            ALLOW4.get(&Key::new(bits, last_four(address))).copied()
        } else {
            ALLOW6.get(&Key::new(bits, address.0)).copied()
        }
    }

    #[inline(always)]
    fn service_set(&self, set: u32) -> Option<&ServiceSet> {
        SERVICES.get(set)
    }

    #[inline(always)]
    fn limits(&self, service: u16) -> Option<&ServiceLimits> {
        LIMITS.get(u32::from(service))
    }

    #[inline(always)]
    fn service_windows(&self, service: u16, kind: LimitKind) -> Option<Shared> {
        let windows = WINDOWS.get_ptr_mut(u32::from(service))?;
        // Two words a kind; the kind is one of `LimitKind::COUNT`, a power of two.
        let word = (usize::from(kind.0) % LimitKind::COUNT) * 2;
        Some(Shared(windows.cast::<u64>().wrapping_add(word)))
    }

    #[inline(always)]
    fn source_windows(&self, key: &SourceKey) -> Option<Shared> {
        SOURCES
            .get_ptr_mut(key)
            .map(|windows| Shared(windows.cast()))
    }

    #[inline(always)]
    fn add_source(&self, key: &SourceKey, windows: &Windows) {
        // Another CPU may have entered it meanwhile: then its windows stay and this packet is the
        // one that goes uncounted.
        let _ = SOURCES.insert(key, windows, u64::from(BPF_NOEXIST));
    }
}

/// The IPv4 address of a mapped one.
#[inline(always)]
fn last_four(address: &Address) -> [u8; 4] {
    let a = &address.0;
    [a[12], a[13], a[14], a[15]]
}
