//! `aya::Pod` for every map type, so that userspace can read and write them.

#![allow(
    unsafe_code,
    reason = "Pod is an unsafe trait; every type here is repr(C) integers"
)]

use crate::{
    capture::{Capture, Event},
    deny::PrefixEntry,
    flow_table::{Budget, Flow4Set, Flow6Set},
    forward::{Forward, Hop, MemberCounter},
    fragment::{FragmentKey, FragmentValue},
    limit::{ServiceLimits, ServiceWindows, SourceKey, Windows},
    member::{MemberName, MemberSlot},
    meta::Meta,
    nat::NatEntry,
    quic::{ServerIdKey, ServerIdValue},
    ring::RingRow,
    service::ServiceSet,
    settings::{Settings, Sizes},
    verdict::Counter,
};

macro_rules! pod {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: `repr(C)`, built of integers and byte arrays with explicit padding: every
            // byte is initialised and every bit pattern is a value.
            unsafe impl aya::Pod for $type {}
        )*
    };
}

pod!(
    Budget,
    Capture,
    Counter,
    Event,
    Flow4Set,
    Flow6Set,
    Forward,
    FragmentKey,
    FragmentValue,
    Hop,
    MemberCounter,
    NatEntry,
    RingRow,
    ServerIdKey,
    ServerIdValue,
    MemberName,
    MemberSlot,
    Meta,
    PrefixEntry,
    ServiceLimits,
    ServiceSet,
    ServiceWindows,
    Settings,
    Sizes,
    SourceKey,
    Windows,
);
