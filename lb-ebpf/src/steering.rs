//! The maps as `lb_common::steer` and `lb_common::send` ask them.

use core::ptr;

use aya_ebpf::{Global, helpers::generated::bpf_jiffies64};
use lb_common::{
    addr::Address,
    flow_table::{Flow4Key, Flow4Set, Flow6Key, Flow6Set, WAYS},
    forward::{Forward, Hop, Link},
    fragment::{FragmentKey, FragmentValue},
    guard::Limited,
    member::MemberHead,
    nat::NatEntry,
    parse::Headers,
    quic::{ServerIdKey, ServerIdValue},
    ring::RingRow,
    send::SendTables,
    settings::Sizes,
    steer::{FlowSet, Spend, SteerTables},
    verdict::Reason,
};

use crate::{
    atomic,
    maps::{
        BUDGETS, FLOWS4, FLOWS6, FORWARD, FRAGMENTS, HOPS, MEMBER_STATS, MEMBERS, NAT, RINGS,
        SERVER_IDS,
    },
    outline,
    tables::{Maps, lists},
};

/// Set by the loader.
#[unsafe(no_mangle)]
static SIZES: Global<Sizes> = Global::new(Sizes {
    mask4: 0,
    mask6: 0,
    nat_mask: 0,
    beat_shift: 8,
});

/// One of [`SIZES`], alone: loading them all costs as many instructions.
macro_rules! size {
    ($field:ident) => {{
        const { assert!(size_of_val(&SIZES) == size_of::<Sizes>()) };
        let sizes = (&raw const SIZES).cast::<Sizes>();
        // SAFETY: what a `Global` holds is nothing but its value, which the loader wrote.
        unsafe { ptr::read_volatile(&raw const (*sizes).$field) }
    }};
}

/// A set of `FLOWS4`.
pub(crate) struct Set4(*mut Flow4Set);

impl Set4 {
    /// Address of word `index` of a way: 0 the key, 1 the value.
    #[inline(always)]
    fn word(&self, way: usize, index: usize) -> *mut u64 {
        self.0.cast::<u64>().wrapping_add(way % WAYS * 2 + index)
    }
}

impl FlowSet<Flow4Key> for Set4 {
    #[inline(always)]
    fn value(&self, way: usize) -> u64 {
        // SAFETY: a word of a map value, which lives while the program runs and is 8-aligned.
        unsafe { atomic::load(self.word(way, 1)) }
    }

    #[inline(always)]
    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        // SAFETY: as in `value`.
        unsafe { atomic::replace(self.word(way, 1), old, new) }
    }

    #[inline(always)]
    fn is(&self, way: usize, key: &Flow4Key) -> bool {
        // SAFETY: as in `value`.
        unsafe { atomic::load(self.word(way, 0)) == key.word() }
    }

    #[inline(always)]
    fn fill(&self, way: usize, key: &Flow4Key) {
        // SAFETY: as in `value`.
        unsafe { ptr::write_volatile(self.word(way, 0), key.word()) };
    }
}

/// A set of `FLOWS6`.
pub(crate) struct Set6(*mut Flow6Set);

/// Words of a [`Flow6Set`] before each of its parts.
const TAILS: usize = WAYS;
const SOURCES: usize = 2 * WAYS;
const DESTINATIONS: usize = 4 * WAYS;
const _: () = assert!(core::mem::offset_of!(Flow6Set, tails) == TAILS * 8);
const _: () = assert!(core::mem::offset_of!(Flow6Set, sources) == SOURCES * 8);
const _: () = assert!(core::mem::offset_of!(Flow6Set, destinations) == DESTINATIONS * 8);

impl Set6 {
    #[inline(always)]
    fn word(&self, index: usize) -> *mut u64 {
        self.0.cast::<u64>().wrapping_add(index)
    }

    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        // SAFETY: as in `Set4::value`.
        unsafe { atomic::load(self.word(index)) }
    }

    #[inline(always)]
    fn store(&self, index: usize, word: u64) {
        // SAFETY: as in `Set4::value`.
        unsafe { ptr::write_volatile(self.word(index), word) };
    }
}

impl FlowSet<Flow6Key> for Set6 {
    #[inline(always)]
    fn value(&self, way: usize) -> u64 {
        self.load(way % WAYS)
    }

    #[inline(always)]
    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        // SAFETY: as in `Set4::value`.
        unsafe { atomic::replace(self.word(way % WAYS), old, new) }
    }

    #[inline(always)]
    fn is(&self, way: usize, key: &Flow6Key) -> bool {
        let way = way % WAYS;
        let (s, d) = (key.source.words(), key.destination.words());
        self.load(TAILS + way) == key.tail()
            && self.load(SOURCES + way * 2) == s[0]
            && self.load(SOURCES + way * 2 + 1) == s[1]
            && self.load(DESTINATIONS + way * 2) == d[0]
            && self.load(DESTINATIONS + way * 2 + 1) == d[1]
    }

    #[inline(always)]
    fn fill(&self, way: usize, key: &Flow6Key) {
        let way = way % WAYS;
        let (s, d) = (key.source.words(), key.destination.words());
        self.store(TAILS + way, key.tail());
        self.store(SOURCES + way * 2, s[0]);
        self.store(SOURCES + way * 2 + 1, s[1]);
        self.store(DESTINATIONS + way * 2, d[0]);
        self.store(DESTINATIONS + way * 2 + 1, d[1]);
    }
}

impl SteerTables for Maps {
    type Set4<'a> = Set4;
    type Set6<'a> = Set6;

    #[inline(always)]
    fn forward(&self, service: u16) -> Option<&Forward> {
        FORWARD.get(u32::from(service))
    }

    #[inline(always)]
    fn ring_row(&self, balancer: u16, row: u32) -> Option<RingRow> {
        RINGS.get(u32::from(balancer))?.row(row)
    }

    #[inline(always)]
    fn member(&self, id: u16) -> Option<&MemberHead> {
        MEMBERS.get(u32::from(id)).map(|slot| &slot.head)
    }

    #[inline(always)]
    fn mask4(&self) -> u32 {
        size!(mask4)
    }

    #[inline(always)]
    fn mask6(&self) -> u32 {
        size!(mask6)
    }

    #[inline(always)]
    fn set4(&self, set: u32) -> Option<Set4> {
        FLOWS4.get_ptr_mut(set).map(Set4)
    }

    #[inline(always)]
    fn set6(&self, set: u32) -> Option<Set6> {
        FLOWS6.get_ptr_mut(set).map(Set6)
    }

    #[inline(always)]
    fn beat(&self) -> u32 {
        // SAFETY: reads a clock. The kernel makes a load of it.
        let ticks = unsafe { bpf_jiffies64() };
        (ticks >> (size!(beat_shift) & 31)) as u32
    }

    #[inline(always)]
    fn spend(&self, what: Spend, limit: u32, beat: u32) -> bool {
        let Some(budget) = BUDGETS.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: this CPU's own, which no other run of the program can interrupt.
        let budget = unsafe { &mut *budget };
        if budget.beat != u64::from(beat) {
            budget.beat = u64::from(beat);
            budget.inserts = 0;
            budget.promotions = 0;
            budget.answers = 0;
        }
        let spent = match what {
            Spend::Insert => &mut budget.inserts,
            Spend::Promotion => &mut budget.promotions,
            Spend::Answer => &mut budget.answers,
        };
        if *spent >= u64::from(limit) {
            return false;
        }
        *spent += 1;
        true
    }

    #[inline(always)]
    fn is_spent(&self, what: Spend, limit: u32, beat: u32) -> bool {
        let Some(budget) = BUDGETS.get(0) else {
            return true;
        };
        let spent = match what {
            Spend::Insert => budget.inserts,
            Spend::Promotion => budget.promotions,
            Spend::Answer => budget.answers,
        };
        budget.beat == u64::from(beat) && spent >= u64::from(limit)
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: copied at once; an entry that is reused meanwhile gives another datagram's value,
        // which the kernel allows for and which misfiles one fragment.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn add_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn server_id(&self, key: &ServerIdKey) -> Option<ServerIdValue> {
        // SAFETY: as in `fragment`; control alone writes here.
        unsafe { SERVER_IDS.get(key) }.copied()
    }

    #[inline(always)]
    fn count_member(&self, member: u16, bytes: u64, reason: Reason) {
        let Some(counter) = MEMBER_STATS.get_ptr_mut(u32::from(member)) else {
            return;
        };
        // SAFETY: as in `spend`.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
        if reason.0 != Reason::STEERED.0 {
            counter.flows +=
                u64::from(reason.0 == Reason::STEERED_NEW.0 || reason.0 == Reason::STEERED_ANEW.0);
            counter.by_ring += u64::from(reason.0 == Reason::STEERED_BY_RING.0);
        }
    }

    #[inline(always)]
    fn limit_flow(&self, headers: &Headers, service: u16) -> Limited {
        Limited(outline::sluice_limit_flow(headers, u32::from(service)))
    }
}

/// A [`Link`] read word by word.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "words of one map value, one after the other"
)]
#[inline(always)]
fn link(link: &Link) -> Link {
    // SAFETY: words of a map value, 8-aligned by the layout of `Hop`.
    let (to, from) = unsafe {
        (
            atomic::load((&raw const link.to).cast()),
            atomic::load((&raw const link.from).cast()),
        )
    };
    Link {
        to: to.to_ne_bytes(),
        from: from.to_ne_bytes(),
        ifindex: link.ifindex,
        mtu: link.mtu,
    }
}

impl SendTables for Maps {
    #[inline(always)]
    fn hop(&self, member: u16) -> Option<Hop> {
        let hop = HOPS.get(u32::from(member))?;
        Some(Hop {
            given: link(&hop.given),
            learned: link(&hop.learned),
            // SAFETY: a word of a map value.
            asked: unsafe { atomic::load(&raw const hop.asked) },
            reserved: 0,
        })
    }

    #[expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "words of one map value, one after the other"
    )]
    #[inline(always)]
    fn fresh_link(&self, member: u16, beat: u32) -> Option<Link> {
        let hop = HOPS.get(u32::from(member))?;
        // As `send::known`, but of the two links one is read.
        // SAFETY: words of a map value.
        let (given, asked) = unsafe {
            let given = atomic::load((&raw const hop.given.to).cast()).to_ne_bytes();
            (given, atomic::load(&raw const hop.asked))
        };
        let is_given = given[7] != 0;
        if !is_given && asked != u64::from(beat) + 1 {
            return None;
        }
        let learned = if is_given {
            Link::default()
        } else {
            link(&hop.learned)
        };
        let link = if learned.is_set() {
            Link {
                mtu: hop.given.mtu,
                ..learned
            }
        } else {
            link(&hop.given)
        };
        link.is_set().then_some(link)
    }

    #[inline(always)]
    fn ask_route(&self, member: u16, to: &Address, beat: u32) {
        outline::sluice_route(self.ctx, to, u32::from(member), beat);
    }

    #[inline(always)]
    fn nat_mask(&self) -> u32 {
        size!(nat_mask)
    }

    #[inline(always)]
    fn may_encapsulate(&self, version: u8, source: &Address) -> bool {
        lists::may_encapsulate(version, source)
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        outline::sluice_is_local(self.ctx, address) != 0
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn nat(&self, index: u32) -> Option<NatEntry> {
        NAT.get(index).copied()
    }

    #[expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "a field's address, and the word there"
    )]
    #[inline(always)]
    fn replace_nat(&self, index: u32, old: u64, new: u64) -> bool {
        let Some(entry) = NAT.get_ptr_mut(index) else {
            return false;
        };
        // SAFETY: a word of a map value.
        unsafe { atomic::replace(&raw mut (*entry).value, old, new) }
    }

    #[inline(always)]
    fn fill_nat(&self, index: u32, entry: &NatEntry) {
        let Some(to) = NAT.get_ptr_mut(index) else {
            return;
        };
        // Word by word: the verifier allows no misaligned access to the stack.
        let words = to.cast::<u64>();
        let half = |bytes: [u8; 2]| u64::from(u16::from_le_bytes(bytes));
        let ports = half(entry.client_port)
            | half(entry.service_port) << 16
            | half(entry.our_port) << 32
            | u64::from(entry.service) << 48;
        let [index0, index1, index2] = entry.ifindex;
        let (theirs, ours) = (entry.client_mac, entry.our_mac);
        let link = u64::from_le_bytes([
            entry.seen, index0, index1, index2, theirs[0], theirs[1], theirs[2], theirs[3],
        ]);
        let macs = u64::from_le_bytes([
            theirs[4], theirs[5], ours[0], ours[1], ours[2], ours[3], ours[4], ours[5],
        ]);
        let [client0, client1] = entry.client.words();
        let [to0, to1] = entry.destination.words();
        let words_behind = [ports, client0, client1, to0, to1, link, macs];
        for (at, word) in words_behind.into_iter().enumerate() {
            // SAFETY: seven words of a map value behind its first, whose filler we are.
            unsafe { ptr::write_volatile(words.wrapping_add(at + 1), word) };
        }
    }

    #[expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "a field's address, and the byte there"
    )]
    #[inline(always)]
    fn mark_nat(&self, index: u32, seen: u8) {
        if let Some(entry) = NAT.get_ptr_mut(index) {
            // SAFETY: a byte of a map value. Two CPUs at once may lose a bit of one; a FIN that is
            // lost leaves the entry to its idle time.
            unsafe {
                let byte = &raw mut (*entry).seen;
                ptr::write_volatile(byte, ptr::read_volatile(byte) | seen);
            }
        }
    }
}
