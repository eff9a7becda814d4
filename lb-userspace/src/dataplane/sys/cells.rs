//! The mmapable maps' values, every field an atomic, at the offsets of `lb_common` (asserted below).

use std::{
    mem::offset_of,
    sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64},
};

use lb_common::{
    abi::{SERVICE_WAYS, map},
    flow_table::{Flow4Set, Flow6Set, WAYS},
    forward::Hop,
    member::{MemberElection, MemberHead, MemberRecord, MemberSlot, MemberTraffic},
    meta::Meta,
    nat::NatEntry,
    service::{ServiceSet, ServiceWay},
};

use super::Cell;

/// [`MemberSlot`] through atomics.
#[repr(C, align(64))]
pub struct MemberCell {
    /// `head.identity`.
    pub identity: [AtomicU64; 2],
    /// `head.state`.
    pub state: AtomicU64,
    /// `head.address`, as two native words of its 16 bytes.
    pub address: [AtomicU64; 2],
    /// `head.incarnation`.
    pub incarnation: AtomicU32,
    /// `head.weight`.
    pub weight: AtomicU32,
    /// `head.balancer`.
    pub balancer: AtomicU16,
    /// `head.port`: native word of its 2 network-order bytes.
    pub port: AtomicU16,
    /// `head.lbset` and padding, in memory order.
    pub lbset_pad: AtomicU16,
    /// `head.mac`, three native words.
    pub mac: [AtomicU16; 3],
    /// `election.lbstatus`.
    pub lbstatus: AtomicI64,
    /// `election.elected`.
    pub elected: AtomicU64,
    /// `election.error_since`.
    pub error_since: AtomicU64,
    /// `election.retries`.
    pub retries: AtomicU64,
    /// `election.failed`.
    pub failed: AtomicU64,
    election_reserved: [AtomicU64; 3],
    /// `traffic.read`.
    pub read: AtomicU64,
    /// `traffic.transferred`.
    pub transferred: AtomicU64,
    /// `traffic.responses`.
    pub responses: AtomicU64,
    traffic_reserved: [AtomicU64; 5],
    /// `record.status`.
    pub(in crate::dataplane) record_status: AtomicU64,
    /// `record.weight`.
    pub(in crate::dataplane) record_weight: AtomicU32,
    /// `record.lbset` and padding, in memory order.
    pub(in crate::dataplane) record_lbset_pad: AtomicU32,
    /// `record.retired`.
    pub(in crate::dataplane) retired: AtomicU64,
    record_reserved: [AtomicU64; 5],
}

/// [`ServiceSet`] through atomics.
#[repr(C, align(64))]
pub(in crate::dataplane) struct ServiceCell {
    pub(in crate::dataplane) ways: [WayCell; SERVICE_WAYS],
}

/// [`ServiceWay`] through atomics.
#[repr(C)]
pub(in crate::dataplane) struct WayCell {
    /// As two native words of its 16 bytes.
    pub(in crate::dataplane) address: [AtomicU64; 2],
    /// `port`, `proto`, `kind`, in memory order.
    pub(in crate::dataplane) port_proto_kind: AtomicU32,
    pub(in crate::dataplane) id: AtomicU16,
    pub(in crate::dataplane) balancer: AtomicU16,
    pub(in crate::dataplane) flags: AtomicU32,
    /// First and last port, in memory order.
    pub(in crate::dataplane) range: AtomicU32,
}

/// [`Meta`] through atomics.
#[repr(C, align(64))]
pub(in crate::dataplane) struct MetaCell {
    pub(in crate::dataplane) magic: AtomicU64,
    pub(in crate::dataplane) abi: AtomicU32,
    pub(in crate::dataplane) phase: AtomicU32,
    pub(in crate::dataplane) generation: AtomicU64,
    pub(in crate::dataplane) heartbeat: AtomicU64,
    pub(in crate::dataplane) control_pid: AtomicU32,
    pub(in crate::dataplane) proxy_pid: AtomicU32,
    pub(in crate::dataplane) proxy_incarnation: AtomicU64,
    pub(in crate::dataplane) state_sequence: AtomicU64,
    pub(in crate::dataplane) build: AtomicU64,
    pub(in crate::dataplane) boot: AtomicU64,
    pub(in crate::dataplane) beat_tick: AtomicU32,
    pub(in crate::dataplane) beat_shift: AtomicU32,
    pub(in crate::dataplane) beat_offset: AtomicU64,
    pub(in crate::dataplane) layouts: [AtomicU32; map::ALL.len()],
}

/// [`Hop`] through atomics: each word is written at once.
#[repr(C, align(64))]
pub(in crate::dataplane) struct HopCell {
    /// `given`, three words.
    pub(in crate::dataplane) given: [AtomicU64; 3],
    /// `learned`, three words.
    pub(in crate::dataplane) learned: [AtomicU64; 3],
    pub(in crate::dataplane) asked: AtomicU64,
    reserved: AtomicU64,
}

/// [`Flow4Set`] through atomics: key and value of each way.
#[repr(C, align(64))]
pub(in crate::dataplane) struct Flow4Cell {
    pub(in crate::dataplane) ways: [[AtomicU64; 2]; WAYS],
}

/// [`Flow6Set`] through atomics.
#[repr(C, align(64))]
pub(in crate::dataplane) struct Flow6Cell {
    pub(in crate::dataplane) values: [AtomicU64; WAYS],
    pub(in crate::dataplane) tails: [AtomicU64; WAYS],
    pub(in crate::dataplane) sources: [[AtomicU64; 2]; WAYS],
    pub(in crate::dataplane) destinations: [[AtomicU64; 2]; WAYS],
}

/// [`NatEntry`] through atomics, as native words.
#[repr(C, align(64))]
pub(in crate::dataplane) struct NatCell {
    pub(in crate::dataplane) words: [AtomicU64; 8],
}

// SAFETY: repr(C), atomics only; the assertions below leave no gap.
unsafe impl Cell for HopCell {}
// SAFETY: as above.
unsafe impl Cell for Flow4Cell {}
// SAFETY: as above.
unsafe impl Cell for Flow6Cell {}
// SAFETY: as above.
unsafe impl Cell for NatCell {}
const _: () = assert!(size_of::<HopCell>() == size_of::<Hop>());
const _: () = assert!(offset_of!(HopCell, learned) == offset_of!(Hop, learned));
const _: () = assert!(offset_of!(HopCell, asked) == offset_of!(Hop, asked));
const _: () = assert!(size_of::<Flow4Cell>() == size_of::<Flow4Set>());
const _: () = assert!(size_of::<Flow6Cell>() == size_of::<Flow6Set>());
const _: () = assert!(offset_of!(Flow6Cell, tails) == offset_of!(Flow6Set, tails));
const _: () = assert!(offset_of!(Flow6Cell, sources) == offset_of!(Flow6Set, sources));
const _: () = assert!(offset_of!(Flow6Cell, destinations) == offset_of!(Flow6Set, destinations));
const _: () = assert!(size_of::<NatCell>() == size_of::<NatEntry>());

// SAFETY: repr(C), atomics only; the assertions below leave no gap.
unsafe impl Cell for MemberCell {}
// SAFETY: as above.
unsafe impl Cell for ServiceCell {}
// SAFETY: as above.
unsafe impl Cell for MetaCell {}

macro_rules! same_offsets {
    ($cell:ident: $($field:ident = $base:expr, $type:ident . $of:ident;)*) => {
        $(const _: () = assert!(
            offset_of!($cell, $field) == $base + offset_of!($type, $of)
        );)*
    };
}

const HEAD: usize = offset_of!(MemberSlot, head);
const ELECTION: usize = offset_of!(MemberSlot, election);
const TRAFFIC: usize = offset_of!(MemberSlot, traffic);
const RECORD: usize = offset_of!(MemberSlot, record);

const _: () = assert!(size_of::<MemberCell>() == size_of::<MemberSlot>());
same_offsets! { MemberCell:
    identity = HEAD, MemberHead.identity;
    state = HEAD, MemberHead.state;
    address = HEAD, MemberHead.address;
    incarnation = HEAD, MemberHead.incarnation;
    weight = HEAD, MemberHead.weight;
    balancer = HEAD, MemberHead.balancer;
    port = HEAD, MemberHead.port;
    lbset_pad = HEAD, MemberHead.lbset;
    mac = HEAD, MemberHead.mac;
    lbstatus = ELECTION, MemberElection.lbstatus;
    elected = ELECTION, MemberElection.elected;
    error_since = ELECTION, MemberElection.error_since;
    retries = ELECTION, MemberElection.retries;
    failed = ELECTION, MemberElection.failed;
    read = TRAFFIC, MemberTraffic.read;
    transferred = TRAFFIC, MemberTraffic.transferred;
    responses = TRAFFIC, MemberTraffic.responses;
    record_status = RECORD, MemberRecord.status;
    record_weight = RECORD, MemberRecord.weight;
    record_lbset_pad = RECORD, MemberRecord.lbset;
    retired = RECORD, MemberRecord.retired;
}

const _: () = assert!(size_of::<ServiceCell>() == size_of::<ServiceSet>());
const _: () = assert!(size_of::<WayCell>() == size_of::<ServiceWay>());
same_offsets! { WayCell:
    address = 0, ServiceWay.address;
    port_proto_kind = 0, ServiceWay.port;
    id = 0, ServiceWay.id;
    balancer = 0, ServiceWay.balancer;
    flags = 0, ServiceWay.flags;
    range = 0, ServiceWay.range;
}
const _: () = assert!(offset_of!(ServiceWay, proto) == offset_of!(ServiceWay, port) + 2);
const _: () = assert!(offset_of!(ServiceWay, kind) == offset_of!(ServiceWay, port) + 3);

const _: () = assert!(size_of::<MetaCell>() == size_of::<Meta>());
same_offsets! { MetaCell:
    magic = 0, Meta.magic;
    abi = 0, Meta.abi;
    phase = 0, Meta.phase;
    generation = 0, Meta.generation;
    heartbeat = 0, Meta.heartbeat;
    control_pid = 0, Meta.control_pid;
    proxy_pid = 0, Meta.proxy_pid;
    proxy_incarnation = 0, Meta.proxy_incarnation;
    state_sequence = 0, Meta.state_sequence;
    build = 0, Meta.build;
    boot = 0, Meta.boot;
    beat_tick = 0, Meta.beat_tick;
    beat_shift = 0, Meta.beat_shift;
    beat_offset = 0, Meta.beat_offset;
    layouts = 0, Meta.layouts;
}
