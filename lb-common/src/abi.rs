//! Names, kinds and capacities of the shared maps: the file a reviewer reads first.
//!
//! `cargo xtask abi` dumps every layout of this crate to `lb-common/abi.txt`; CI fails when that
//! dump changes and [`ABI_VERSION`] does not.

/// Version of all layouts together. Raised with any change to a map's key, value or meaning.
pub const ABI_VERSION: u32 = 1;

/// Slots of `MEMBERS`; id 0 means "absent", so `MAX_MEMBERS - 1` members fit.
pub const MAX_MEMBERS: u32 = 4096;
/// Slots of `LIMITS` and service rows of `COUNTERS`; id 0 means "no service".
pub const MAX_SERVICES: u32 = 1024;
/// Sets of the set-associative `SERVICES` array; a power of two.
pub const SERVICE_SETS: u32 = 2048;
/// Services one set can hold.
pub const SERVICE_WAYS: usize = 4;
/// Columns of `BUSY`: proxy processes that may be alive at once (old and new during an upgrade).
pub const BUSY_COLUMNS: u32 = 8;
/// Entries of `SOURCES`, the least recently used evicted first.
pub const MAX_SOURCES: u32 = 131_072;
/// Entries of each deny and allow trie.
pub const MAX_PREFIXES: u32 = 65_536;

/// Sets of `FLOWS4` and of `FLOWS6` in the object; the loader chooses another power of two.
pub const FLOW_SETS: u32 = 1;
/// Entries of `NAT` in the object; the loader chooses another power of two.
pub const NAT_ENTRIES: u32 = 1;
/// Entries of `FRAGMENTS`, the least recently used evicted first.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// Entries of `SERVER_IDS`.
pub const MAX_SERVER_IDS: u32 = 4096;
/// Entries of each trie of decapsulation sources.
pub const MAX_DECAP: u32 = 1024;
/// Bytes of `EVENTS`.
pub const EVENT_BYTES: u32 = 1 << 20;

/// Map names: the ELF symbol, the pin's file name and what `bpftool` shows.
pub mod map {
    /// Array, mmapable: member id -> [`crate::member::MemberSlot`].
    pub const MEMBERS: &str = "MEMBERS";
    /// Array: member id -> [`crate::member::MemberName`].
    pub const NAMES: &str = "NAMES";
    /// Array, mmapable: column * `MAX_MEMBERS` + member id -> requests in flight (`u64`).
    pub const BUSY: &str = "BUSY";
    /// Array, mmapable: set -> [`crate::service::ServiceSet`].
    pub const SERVICES: &str = "SERVICES";
    /// Array: service id -> [`crate::limit::ServiceLimits`].
    pub const LIMITS: &str = "LIMITS";
    /// Array: service id -> [`crate::limit::ServiceWindows`], shared windows of the whole service.
    pub const WINDOWS: &str = "WINDOWS";
    /// LRU hash, shared by all CPUs: [`crate::limit::SourceKey`] -> [`crate::limit::SourceWindow`].
    pub const SOURCES: &str = "SOURCES";
    /// Per-CPU array: service id * `Reason::COUNT` + reason -> [`crate::verdict::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// LPM trie: IPv4 prefix -> [`crate::deny::PrefixEntry`].
    pub const DENY4: &str = "DENY4";
    /// LPM trie: IPv6 prefix -> [`crate::deny::PrefixEntry`].
    pub const DENY6: &str = "DENY6";
    /// LPM trie: IPv4 prefix -> [`crate::deny::PrefixEntry`].
    pub const ALLOW4: &str = "ALLOW4";
    /// LPM trie: IPv6 prefix -> [`crate::deny::PrefixEntry`].
    pub const ALLOW6: &str = "ALLOW6";
    /// Array of one: [`crate::settings::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of one, mmapable: [`crate::meta::Meta`].
    pub const META: &str = "META";

    /// Array of arrays: balancer id -> rows of its ring, [`crate::ring::RingRow`].
    pub const RINGS: &str = "RINGS";
    /// Array, mmapable: service id -> [`crate::forward::Forward`].
    pub const FORWARD: &str = "FORWARD";
    /// Array, mmapable: member id -> [`crate::forward::Hop`].
    pub const HOPS: &str = "HOPS";
    /// Array, mmapable, sized at load: set -> [`crate::flow_table::Flow4Set`].
    pub const FLOWS4: &str = "FLOWS4";
    /// Array, mmapable, sized at load: set -> [`crate::flow_table::Flow6Set`].
    pub const FLOWS6: &str = "FLOWS6";
    /// Per-CPU array: member id -> [`crate::forward::MemberCounter`].
    pub const MEMBER_STATS: &str = "MEMBER_STATS";
    /// Per-CPU array of one: [`crate::flow_table::Budget`].
    pub const BUDGETS: &str = "BUDGETS";
    /// LRU hash: [`crate::fragment::FragmentKey`] -> [`crate::fragment::FragmentValue`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Array, mmapable, sized at load: [`crate::nat::NatEntry`].
    pub const NAT: &str = "NAT";
    /// LPM trie: IPv4 prefix that may send us encapsulated packets -> [`crate::deny::PrefixEntry`].
    pub const DECAP4: &str = "DECAP4";
    /// LPM trie: IPv6 prefix that may send us encapsulated packets -> [`crate::deny::PrefixEntry`].
    pub const DECAP6: &str = "DECAP6";
    /// Hash: [`crate::quic::ServerIdKey`] -> [`crate::quic::ServerIdValue`].
    pub const SERVER_IDS: &str = "SERVER_IDS";
    /// Array of one: [`crate::capture::Capture`].
    pub const CAPTURE: &str = "CAPTURE";
    /// Ring buffer of [`crate::capture::Event`].
    pub const EVENTS: &str = "EVENTS";

    /// Program array: [`crate::journey::Then`] -> the program of that step. Belongs to the loaded
    /// object: a program that replaces another brings its own.
    pub const STEPS: &str = "STEPS";

    /// Every pinned map, in the order in which they are created.
    pub const ALL: [&str; 29] = [
        META,
        SETTINGS,
        MEMBERS,
        NAMES,
        BUSY,
        SERVICES,
        LIMITS,
        WINDOWS,
        SOURCES,
        COUNTERS,
        DENY4,
        DENY6,
        ALLOW4,
        ALLOW6,
        RINGS,
        FORWARD,
        HOPS,
        FLOWS4,
        FLOWS6,
        MEMBER_STATS,
        BUDGETS,
        FRAGMENTS,
        NAT,
        DECAP4,
        DECAP6,
        SERVER_IDS,
        CAPTURE,
        EVENTS,
        STEPS,
    ];

    /// Revision of each map's layout, parallel to [`ALL`]: raised together with
    /// [`super::ABI_VERSION`] when a field moves or changes its meaning. Sizes and capacities need
    /// no revision: they are part of the layout hash in `META`.
    pub const REVISIONS: [u32; ALL.len()] = [1; ALL.len()];
}
