//! Every map of the program, under the names and sizes of `lb_common::abi`. All are BTF-defined, so
//! that bpftool prints field names, and pinned by the loader.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY},
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf,
    },
    helpers::generated::bpf_map_lookup_elem,
    macros::btf_map,
};
use lb_common::{
    abi::{
        BUSY_COLUMNS, EVENT_BYTES, FLOW_SETS, MAX_DECAP, MAX_FRAGMENTS, MAX_MEMBERS, MAX_PREFIXES,
        MAX_SERVER_IDS, MAX_SERVICES, MAX_SOURCES, NAT_ENTRIES, SERVICE_SETS,
    },
    capture::{Capture, Event},
    deny::PrefixEntry,
    flow_table::{Budget, Flow4Set, Flow6Set},
    forward::{Forward, Hop, MemberCounter},
    fragment::{FragmentKey, FragmentValue},
    journey::Then,
    limit::{ServiceLimits, ServiceWindows, SourceKey, SourceWindow},
    member::{MemberName, MemberSlot},
    meta::Meta,
    nat::NatEntry,
    parse::Headers,
    quic::{ServerIdKey, ServerIdValue},
    ring::{MAX_RINGS, RING_ROWS, RingRow},
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

/// A ring. As a template: control makes the real ones, with this size and these flags. It tells the
/// sizes of key and value, not their types: those would give the template BTF, which what control
/// makes has not, and before Linux 6.2 the kernel takes no map for another that differs in that.
#[repr(C)]
pub(crate) struct Ring {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<RingRow>()],
    max_entries: *const [i32; RING_ROWS as usize],
    map_flags: *const [i32; MMAPABLE],
}

impl Ring {
    /// A row, which nobody writes once the ring is in [`RINGS`].
    #[inline(always)]
    pub(crate) fn row(&self, row: u32) -> Option<RingRow> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the kernel checks map and key.
        let found = unsafe { bpf_map_lookup_elem(map, (&raw const row).cast()) };
        // SAFETY: a row or null.
        unsafe { found.cast::<RingRow>().as_ref() }.copied()
    }
}

/// Balancer id -> ring. Written by control, a ring at a time.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<Ring, { MAX_RINGS as usize }> = ArrayOfMaps::new();

/// Service id -> how to forward. Written by control.
#[btf_map]
pub(crate) static FORWARD: Array<Forward, { MAX_SERVICES as usize }, MMAPABLE> = Array::new();

/// Member id -> next hop. Written by control and here.
#[btf_map]
pub(crate) static HOPS: Array<Hop, { MAX_MEMBERS as usize }, MMAPABLE> = Array::new();

/// Set -> IPv4 flows. Written here; sized by the loader.
#[btf_map]
pub(crate) static FLOWS4: Array<Flow4Set, { FLOW_SETS as usize }, MMAPABLE> = Array::new();

/// Set -> all other flows. Written here; sized by the loader.
#[btf_map]
pub(crate) static FLOWS6: Array<Flow6Set, { FLOW_SETS as usize }, MMAPABLE> = Array::new();

/// Member id -> packets sent to it, per CPU. Written here.
#[btf_map]
pub(crate) static MEMBER_STATS: PerCpuArray<MemberCounter, { MAX_MEMBERS as usize }> =
    PerCpuArray::new();

/// What each CPU may still do in this beat. Written here.
#[btf_map]
pub(crate) static BUDGETS: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// Fragmented datagrams. Written here; the kernel evicts the least recently used.
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

/// Connections with rewritten addresses. Written here; sized by the loader.
#[btf_map]
pub(crate) static NAT: Array<NatEntry, { NAT_ENTRIES as usize }, MMAPABLE> = Array::new();

/// IPv4 prefixes whose encapsulated packets are unpacked. Written by control.
#[btf_map]
pub(crate) static DECAP4: LpmTrie<[u8; 4], PrefixEntry, { MAX_DECAP as usize }> = LpmTrie::new();

/// IPv6 prefixes whose encapsulated packets are unpacked. Written by control.
#[btf_map]
pub(crate) static DECAP6: LpmTrie<[u8; 16], PrefixEntry, { MAX_DECAP as usize }> = LpmTrie::new();

/// Server ids of QUIC connection ids. Written by control.
#[btf_map]
pub(crate) static SERVER_IDS: HashMap<ServerIdKey, ServerIdValue, { MAX_SERVER_IDS as usize }> =
    HashMap::new();

/// What is to be captured. Written by control.
#[btf_map]
pub(crate) static CAPTURE: Array<Capture, 1> = Array::new();

/// Captured packets. Written here.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// The steps of a packet's journey after the first. Written by the loader.
#[btf_map]
pub(crate) static STEPS: ProgramArray<{ Then::COUNT as usize }> = ProgramArray::new();

/// What one step leaves for the next, per CPU: nothing that outlives the packet. Not pinned.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Value of [`SCRATCH`].
#[repr(C)]
pub(crate) struct Scratch {
    /// What the parser found.
    pub(crate) headers: Headers,
    /// Bytes of the frame as it came.
    pub(crate) bytes: u64,
    /// Service.
    pub(crate) service: u32,
    /// Its flags; under the step that sends what was steered what limits said.
    pub(crate) flags: u32,
    /// Member that was chosen.
    pub(crate) member: u32,
    /// Reason so far.
    pub(crate) reason: u32,
}
