//! Every map of the program, under the names and sizes of `lb_common::abi`. All are BTF-defined, so
//! that bpftool prints field names, and pinned by the loader.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    abi::{BUSY_COLUMNS, MAX_MEMBERS, MAX_PREFIXES, MAX_SERVICES, MAX_SOURCES, SERVICE_SETS},
    deny::PrefixEntry,
    limit::{ServiceLimits, ServiceWindows, SourceKey, SourceWindow},
    member::{MemberName, MemberSlot},
    meta::Meta,
    service::ServiceSet,
    settings::Settings,
    verdict::{Counter, Reason},
};

/// Userspace maps these into its own memory.
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

/// Whose maps these are. Written by control, not read here.
#[btf_map]
pub(crate) static META: Array<Meta, 1, MMAPABLE> = Array::new();

/// What can change at run time. Written by control.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

/// Member id -> member. Written by control, shards and health; not yet read here.
#[btf_map]
pub(crate) static MEMBERS: Array<MemberSlot, { MAX_MEMBERS as usize }, MMAPABLE> = Array::new();

/// Member id -> names for people. Written by control.
#[btf_map]
pub(crate) static NAMES: Array<MemberName, { MAX_MEMBERS as usize }> = Array::new();

/// Column * `MAX_MEMBERS` + member id -> requests in flight. Written by shards.
#[btf_map]
pub(crate) static BUSY: Array<u64, { (BUSY_COLUMNS * MAX_MEMBERS) as usize }, MMAPABLE> =
    Array::new();

/// Set -> services. Written by control.
#[btf_map]
pub(crate) static SERVICES: Array<ServiceSet, { SERVICE_SETS as usize }, MMAPABLE> = Array::new();

/// Service id -> limits. Written by control.
#[btf_map]
pub(crate) static LIMITS: Array<ServiceLimits, { MAX_SERVICES as usize }> = Array::new();

/// Service id -> windows of the whole service. Written here.
#[btf_map]
pub(crate) static WINDOWS: Array<ServiceWindows, { MAX_SERVICES as usize }> = Array::new();

/// Source, service, kind -> windows. Written here; the kernel evicts the least recently used.
#[btf_map]
pub(crate) static SOURCES: LruHashMap<SourceKey, SourceWindow, { MAX_SOURCES as usize }> =
    LruHashMap::new();

/// Service id * `Reason::COUNT` + reason -> packets and bytes, per CPU. Written here.
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counter, { (MAX_SERVICES * Reason::COUNT) as usize }> =
    PerCpuArray::new();

/// IPv4 prefixes that are dropped. Written by control.
#[btf_map]
pub(crate) static DENY4: LpmTrie<[u8; 4], PrefixEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();

/// IPv6 prefixes that are dropped. Written by control.
#[btf_map]
pub(crate) static DENY6: LpmTrie<[u8; 16], PrefixEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();

/// IPv4 prefixes that are neither denied nor limited. Written by control.
#[btf_map]
pub(crate) static ALLOW4: LpmTrie<[u8; 4], PrefixEntry, { MAX_PREFIXES as usize }> = LpmTrie::new();

/// IPv6 prefixes that are neither denied nor limited. Written by control.
#[btf_map]
pub(crate) static ALLOW6: LpmTrie<[u8; 16], PrefixEntry, { MAX_PREFIXES as usize }> =
    LpmTrie::new();
