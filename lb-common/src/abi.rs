//! Names, kinds and capacities of the shared maps: the file a reviewer reads first.
//!
//! `cargo xtask abi` dumps every layout of this crate to `lb-common/abi.txt`; CI fails when that
//! dump changes and [`ABI_VERSION`] does not.

/// Version of all layouts together. Raised with any change to a map's key, value or meaning.
pub const ABI_VERSION: u32 = 1;

/// Slots of `MEMBERS`; id 0 means "absent", so `MAX_MEMBERS - 1` members fit.
pub const MAX_MEMBERS: u32 = 4096;
/// Slots of `LIMITS` and service rows of `COUNTERS`; id 0 means "no service".
pub const MAX_SERVICES: u32 = 512;
/// Sets of the set-associative `SERVICES` array; a power of two.
pub const SERVICE_SETS: u32 = 512;
/// Services one set can hold.
pub const SERVICE_WAYS: usize = 4;
/// Columns of `BUSY`: proxy processes that may be alive at once (old and new during an upgrade).
pub const BUSY_COLUMNS: u32 = 8;
/// Entries of `SOURCES`, the least recently used evicted first.
pub const MAX_SOURCES: u32 = 131_072;
/// Entries of each deny and allow trie.
pub const MAX_PREFIXES: u32 = 65_536;

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

    /// Every pinned map, in the order in which they are created.
    pub const ALL: [&str; 14] = [
        META, SETTINGS, MEMBERS, NAMES, BUSY, SERVICES, LIMITS, WINDOWS, SOURCES, COUNTERS, DENY4,
        DENY6, ALLOW4, ALLOW6,
    ];

    /// Revision of each map's layout, parallel to [`ALL`]: raised together with
    /// [`super::ABI_VERSION`] when a field moves or changes its meaning. Sizes and capacities need
    /// no revision: they are part of the layout hash in `META`.
    pub const REVISIONS: [u32; ALL.len()] = [1; ALL.len()];
}
