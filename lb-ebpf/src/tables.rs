//! The maps as `lb_common::journey` asks them.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, xdp_md},
    btf_maps::lpm_trie::Key,
    helpers::generated::bpf_ktime_get_coarse_ns,
};
use lb_common::{
    addr::Address,
    deny::PrefixEntry,
    guard::Limited,
    journey::{Found, List, Rare, Tables},
    limit::{LimitKind, ServiceLimits, SourceKey, Windows},
    parse::Headers,
    service::ServiceSet,
    settings::Settings,
    window::SharedWindows,
};

use crate::{
    atomic,
    maps::{ALLOW4, ALLOW6, DENY4, DENY6, LIMITS, SERVICES, SETTINGS, SOURCES, WINDOWS},
    outline,
};

/// The pinned maps, and the packet that asks.
pub(crate) struct Maps {
    /// For what the kernel answers about packets only.
    pub(crate) ctx: *mut xdp_md,
}

impl Maps {
    /// For functions that ask about no packet.
    #[inline(always)]
    pub(crate) const fn without_packet() -> Self {
        Self {
            ctx: core::ptr::null_mut(),
        }
    }
}

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
    fn prefix(&self, list: List, version: u8, address: &Address, bits: u32) -> Option<PrefixEntry> {
        if version == 4 {
            let key = Key4::new(bits, address);
            match list {
                List::Deny => DENY4.get(&key.key).copied(),
                List::Allow => ALLOW4.get(&key.key).copied(),
            }
        } else {
            let key = Key6::new(bits, address);
            match list {
                List::Deny => DENY6.get(&key.key).copied(),
                List::Allow => ALLOW6.get(&key.key).copied(),
            }
        }
    }

    #[inline(always)]
    fn covers(&self, list: List, version: u8, source: &Address) -> bool {
        outline::sluice_covers(list as u32, u32::from(version), source) != 0
    }

    #[inline(always)]
    fn limit(&self, headers: &Headers, service: u16) -> Limited {
        Limited(outline::sluice_limit(headers, u32::from(service)))
    }

    #[inline(always)]
    fn find_rare(&self, headers: &Headers, what: Rare) -> Found {
        Found::unpack(outline::sluice_find_rare(headers, what as u32))
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

pub(crate) mod lists {
    //! Tries that are no operator's lists of services.

    use lb_common::addr::Address;

    use super::{Key4, Key6};
    use crate::maps::{DECAP4, DECAP6};

    /// Whether a source may send encapsulated packets.
    #[inline(always)]
    pub(crate) fn may_encapsulate(version: u8, source: &Address) -> bool {
        if version == 4 {
            DECAP4.get(&Key4::new(32, source).key).is_some()
        } else {
            DECAP6.get(&Key6::new(128, source).key).is_some()
        }
    }
}

/// A trie's key is packed; on the stack it must lie so that the words written into it are aligned.
#[repr(C, align(8))]
struct Key4 {
    key: Key<[u8; 4]>,
}

impl Key4 {
    /// The first `bits` of a mapped IPv4 address.
    #[inline(always)]
    fn new(bits: u32, address: &Address) -> Self {
        let a = &address.0;
        Self {
            key: Key::new(bits, [a[12], a[13], a[14], a[15]]),
        }
    }
}

/// As [`Key4`]: the address begins at offset 8.
#[repr(C, align(8))]
struct Key6 {
    pad: u32,
    key: Key<[u8; 16]>,
}

impl Key6 {
    /// The first `bits` of an IPv6 address.
    #[inline(always)]
    fn new(bits: u32, address: &Address) -> Self {
        Self {
            pad: 0,
            key: Key::new(bits, address.0),
        }
    }
}
