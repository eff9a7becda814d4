//! Steering: which member a packet of a forwarded service goes to, and what it must ask the maps.

use crate::{
    addr::Address,
    flow_table::{Budget, Flow4Key, Flow6Key},
    forward::{Forward, Hop, Link},
    fragment::{FragmentKey, FragmentValue},
    journey::Tables,
    nat::NatEntry,
    quic::{ServerIdKey, ServerIdValue},
    ring::RingRow,
};

/// A set of a flow table as several CPUs share it: the only operations that steering needs.
pub trait FlowSet<K> {
    /// Value word of a way, read whole.
    fn value(&self, way: usize) -> u64;
    /// Puts `new` where `old` still stands; whether it did.
    fn replace(&self, way: usize, old: u64, new: u64) -> bool;
    /// Whether the way's key is `key`.
    fn is(&self, way: usize, key: &K) -> bool;
    /// Writes the way's key: only by who has put `State::FILLING` into its value.
    fn fill(&self, way: usize, key: &K);
}

/// What steering must know of a member: a copy of parts of its line 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Candidate {
    /// [`crate::member::MemberState`] bits.
    pub state: u64,
    /// Its address.
    pub address: Address,
    /// Its port, network order.
    pub port: [u8; 2],
    /// Low byte of its incarnation.
    pub incarnation: u8,
}

/// What a steered packet may ask of the maps, beside what every packet may.
pub trait SteerTables: Tables {
    /// A set of `FLOWS4`.
    type Set4<'a>: FlowSet<Flow4Key>
    where
        Self: 'a;
    /// A set of `FLOWS6`.
    type Set6<'a>: FlowSet<Flow6Key>
    where
        Self: 'a;

    /// `FORWARD`; `None` beyond the array.
    fn forward(&self, service: u16) -> Option<&Forward>;
    /// A row of a balancer's ring; `None` where there is no ring.
    fn ring_row(&self, balancer: u16, row: u32) -> Option<RingRow>;
    /// `MEMBERS`; a free slot is no candidate.
    fn candidate(&self, member: u16) -> Option<Candidate>;
    /// Sets of `FLOWS4` less one.
    fn mask4(&self) -> u32;
    /// Sets of `FLOWS6` less one.
    fn mask6(&self) -> u32;
    /// A set of `FLOWS4`.
    fn set4(&self, set: u32) -> Option<Self::Set4<'_>>;
    /// A set of `FLOWS6`.
    fn set6(&self, set: u32) -> Option<Self::Set6<'_>>;
    /// The flow clock, in beats.
    fn beat(&self) -> u32;
    /// Spends one of this CPU's budget for this beat: whether there was one left.
    fn spend(&self, what: Spend, limit: u32) -> bool;
    /// `FRAGMENTS`.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers where a datagram's fragments go. May fail.
    fn add_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// `SERVER_IDS`.
    fn server_id(&self, key: &ServerIdKey) -> Option<ServerIdValue>;
    /// Counts a packet for a member in `MEMBER_STATS`.
    fn count_member(&self, member: u16, bytes: u64, is_new: bool, by_ring: bool);
}

/// What [`Budget`] counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spend {
    /// [`Budget::inserts`].
    Insert,
    /// [`Budget::promotions`].
    Promotion,
    /// [`Budget::answers`].
    Answer,
}

/// What sending asks: next hops, and connections whose addresses are rewritten.
pub trait SendTables: SteerTables {
    /// `HOPS`.
    fn hop(&self, member: u16) -> Option<Hop>;
    /// Entries of `NAT` less one.
    fn nat_mask(&self) -> u32;
    /// An entry of `NAT`, copied.
    fn nat(&self, index: u32) -> Option<NatEntry>;
    /// The kernel's route and neighbour towards `to`, asked at most once a beat and member.
    fn route(&self, member: u16, to: &Address) -> Option<Link>;
}

// Named by the docs above.
const _: usize = size_of::<Budget>();
