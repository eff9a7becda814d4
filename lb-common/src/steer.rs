//! Steering: which member a packet of a forwarded service goes to, and what it must ask the maps.
//!
//! Known flows stay with their member; a new one takes the place in the ring that its hash names.
//! Sending it there is [`crate::send`].

use core::hint::black_box;

use crate::{
    flow::{self, Flow, slot},
    flow_table::{Entry, Flow4Key, Flow6Key, State},
    forward::{Forward, hash_kind},
    fragment::{FragmentKey, FragmentValue},
    guard::Limited,
    journey::Tables,
    member::{MemberHead, MemberState},
    parse::{Headers, tcp},
    quic::{ServerIdKey, ServerIdValue},
    ring::{RING_SLOTS, RingRow, place},
    service::proto,
    settings::{Settings, gate},
    track::{self, Ages, Place},
    verdict::Reason,
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
    /// Line 0 of a slot of `MEMBERS`, free ones included.
    fn member(&self, id: u16) -> Option<&MemberHead>;
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
    fn spend(&self, what: Spend, limit: u32, beat: u32) -> bool;
    /// Whether this CPU's budget for this beat is used up.
    fn is_spent(&self, what: Spend, limit: u32, beat: u32) -> bool;
    /// `FRAGMENTS`.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers where a datagram's fragments go. May fail.
    fn add_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// `SERVER_IDS`.
    fn server_id(&self, key: &ServerIdKey) -> Option<ServerIdValue>;
    /// Counts a packet for a member in `MEMBER_STATS`.
    fn count_member(&self, member: u16, bytes: u64, reason: Reason);
    /// [`crate::guard::limit_flow`], for an implementation to outline.
    #[inline(always)]
    fn limit_flow(&self, headers: &Headers, service: u16) -> Limited
    where
        Self: Sized,
    {
        crate::guard::limit_flow(self, headers, service)
    }
}

/// What [`crate::flow_table::Budget`] counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spend {
    /// `inserts`.
    Insert,
    /// `promotions`.
    Promotion,
    /// `answers`.
    Answer,
}

/// A packet of a forwarded service, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its headers.
    pub headers: &'a Headers,
    /// Its service.
    pub service: u16,
    /// `flag::LIMITED` of the service, and limits count.
    pub is_limited: bool,
    /// What limits of packets say of it.
    pub limited: Limited,
    /// The flow is quoted by an ICMP error: to be found, neither to be entered nor refreshed.
    pub is_quoted: bool,
    /// How the service forwards.
    pub forward: &'a Forward,
    /// `SETTINGS`.
    pub settings: &'a Settings,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Steered<'a> {
    /// Member id.
    pub member: u16,
    /// The member.
    pub head: &'a MemberHead,
    /// Why there.
    pub reason: Reason,
    /// What limits say of it; nobody is steered who is over one.
    pub limited: Limited,
}

/// Any of these, and a member takes no new flow.
const NOT_FOR_NEW: u64 = MemberState::UNUSABLE | MemberState::DRAIN | MemberState::RETIRED;
/// Any of these, and a member keeps no flow.
const NOT_FOR_ANY: u64 = MemberState::STOPPED | MemberState::HEALTH_FAILED;
/// Beats of silence after which a SYN with a known flow's ports is a new connection if its member
/// takes no new ones, or is not of the service's balancer any more.
const REUSED_BEATS: u32 = 2;

/// Finds the member of an IPv4 packet to a service on one address and port, and keeps the flow table
/// up to date. `Err`: the reason to drop it.
#[inline(always)]
pub fn choose4<'a, T: SteerTables>(
    question: &Question<'_>,
    tables: &'a T,
) -> Result<Steered<'a>, Reason> {
    let (headers, seed) = (question.headers, question.settings.flow_seed);
    let a = &headers.source.0;
    let key = Flow4Key::new(
        [a[12], a[13], a[14], a[15]],
        headers.source_port.0,
        question.service,
    );
    let place = key.place(seed, tables.mask4());
    choose_in(question, tables, &key, &place, |set| tables.set4(set))
}

/// As [`choose4`] for every other packet.
#[inline(always)]
pub fn choose6<'a, T: SteerTables>(
    question: &Question<'_>,
    tables: &'a T,
) -> Result<Steered<'a>, Reason> {
    let (headers, seed) = (question.headers, question.settings.flow_seed);
    let key = track::wide_key(
        headers.source,
        headers.destination,
        (headers.source_port.0, headers.destination_port.0),
        question.service,
    );
    let place = key.place(seed, tables.mask6());
    choose_in(question, tables, &key, &place, |set| tables.set6(set))
}

#[inline(always)]
fn choose_in<'a, K, S, G, T>(
    question: &Question<'_>,
    tables: &'a T,
    key: &K,
    place: &Place,
    set_of: G,
) -> Result<Steered<'a>, Reason>
where
    S: FlowSet<K>,
    G: Fn(u32) -> Option<S>,
    T: SteerTables,
{
    let headers = question.headers;
    let Some(mut set) = set_of(place.first) else {
        return Err(Reason::NOT_FORWARDED);
    };
    let settings = question.settings;
    let is_syn = headers.is_syn();
    // A flood, most likely. It would find nothing, and may enter nothing: so it does not even look,
    // which would cost more than all the rest. A known flow's SYN, sent again, goes where the ring has
    // it, which is where its flow is unless the ring changed.
    let is_flood = is_syn
        && !question.is_limited
        && settings.gates & gate::FLOWS != 0
        && tables.is_spent(Spend::Insert, settings.inserts, tables.beat());
    let (mut way, mut entry) = (0, Entry(0));
    if !is_flood {
        (way, entry) = track::find(&set, key, place.tag);
        if entry.state() == State::EMPTY
            && track::is_overflowed(&set)
            && let Some(other) = set_of(place.second())
        {
            (way, entry) = track::find(&other, key, place.tag);
            set = other;
        }
    }

    let ages = Ages::of(question.forward, tables.beat());
    let is_tcp = headers.proto == proto::TCP;
    let is_end = is_tcp && headers.tcp_flags & (tcp::FIN | tcp::RST) != 0;
    let is_known = entry.state() != State::EMPTY;
    let mut reason = Reason::STEERED_NEW;
    let mut limited = question.limited;
    if is_known {
        let keeper = match tables.member(entry.member()) {
            Some(head) if keeps(head, entry.incarnation()) => {
                let is_over = if is_tcp {
                    let takes_new =
                        head.state & NOT_FOR_NEW == 0 && head.balancer == question.forward.balancer;
                    is_syn
                        && (entry.state() == State::CLOSING
                            || (!takes_new && entry.age(ages.now) >= REUSED_BEATS))
                } else {
                    ages.is_idle(entry)
                };
                (!is_over).then_some(head)
            }
            _ => {
                reason = Reason::STEERED_ANEW;
                None
            }
        };
        if let Some(head) = keeper {
            let state = track::next_state(entry, is_syn, is_end, ages.now, || {
                tables.spend(Spend::Promotion, settings.promotions, ages.now)
            });
            let new = entry.seen_as(state, ages.now);
            if new != entry && !question.is_quoted {
                // Lost to another CPU: that one saw a packet of the flow as well.
                set.replace(way, entry.0, new.0);
            }
            return Ok(Steered {
                member: entry.member(),
                head,
                reason: Reason::STEERED,
                limited,
            });
        }
    } else if question.is_limited && !question.is_quoted {
        limited = limited.and(tables.limit_flow(headers, question.service));
        if let Some(over) = limited.is_over() {
            return Err(over);
        }
    }

    let member = by_ring(question, tables);
    let Some(head) = tables.member(member).filter(|_| member != 0) else {
        return Err(Reason::NO_MEMBER);
    };
    let state = if is_end { State::CLOSING } else { State::NEW };
    let mut new = Entry::new(member, head.incarnation as u8, state, ages.now, place.tag);
    if !is_tcp {
        new.0 |= Entry::DATAGRAM;
    }
    if question.is_quoted {
        // The flow's own packets say what becomes of it.
    } else if is_known {
        set.replace(way, entry.0, new.0 | (entry.0 & Entry::OVERFLOWED));
    } else {
        // The end of a flow that is not known is nothing to remember.
        let is_entered = settings.gates & gate::FLOWS != 0
            && !is_flood
            && !is_end
            && tables.spend(Spend::Insert, settings.inserts, ages.now)
            && track::enter(set_of, place, key, new, &ages);
        if !is_entered {
            reason = Reason::STEERED_BY_RING;
        }
    }
    Ok(Steered {
        member,
        head,
        reason,
        limited,
    })
}

/// Whether a member may keep its flows: it is still the one that took them, and not stopped or
/// failing.
#[inline(always)]
pub(crate) const fn keeps(head: &MemberHead, incarnation: u8) -> bool {
    is_in_use(head) && head.incarnation as u8 == incarnation && head.state & NOT_FOR_ANY == 0
}

/// Whether somebody has this slot.
#[inline(always)]
pub(crate) const fn is_in_use(head: &MemberHead) -> bool {
    head.identity[0] != 0
}

/// Places that are asked, one after the other, while the first ones' members take no new flows:
/// until control has made the ring that leaves those out.
const PROBES: usize = 8;

/// The member that the ring names for a new flow; 0: nobody.
///
/// A stopped member is never taken. One that is disabled, drained or failing is taken when nobody
/// else is found: that the ring still names it means that control found nobody better.
#[inline(always)]
pub fn by_ring<T: SteerTables>(question: &Question<'_>, tables: &T) -> u16 {
    let forward = question.forward;
    let flow = Flow::of(question.headers);
    let mut hash = if forward.hash == hash_kind::SOURCE {
        flow.hash_source(forward.seed)
    } else {
        flow.hash(forward.seed)
    };
    let mut last = 0;
    for _ in 0..black_box(PROBES) {
        let (row, at) = place(slot(hash, RING_SLOTS));
        let Some(row) = tables.ring_row(forward.balancer, row) else {
            break;
        };
        let member = row.at(at);
        if member == 0 {
            break;
        }
        if let Some(head) = tables.member(member)
            && is_in_use(head)
        {
            if head.state & NOT_FOR_NEW == 0 {
                return member;
            }
            if last == 0 && head.state & MemberState::STOPPED == 0 {
                last = member;
            }
        }
        hash = flow::again(hash);
    }
    last
}

#[cfg(test)]
mod tests;
