//! `EVENTS`: a sample of packets with their verdicts, as they leave.

use core::arch::asm;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{
        bpf_get_prandom_u32, bpf_xdp_get_buff_len,
        generated::{bpf_ktime_get_ns, bpf_xdp_load_bytes},
    },
};
use lb_common::{
    capture::{self, Event, SNAP},
    parse::Headers,
    verdict::Verdict,
};

use crate::maps::{CAPTURE, EVENTS};

#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "fields of one reserved entry, written one after the other"
)]
/// Puts the packet into the ring if `CAPTURE` wants it and there is room.
#[inline(always)]
pub(crate) fn take(ctx: *mut xdp_md, headers: &Headers, verdict: &Verdict, sent: u32) {
    let Some(wanted) = CAPTURE.get(0) else {
        return;
    };
    if !capture::matches(wanted, headers, verdict) {
        return;
    }
    // SAFETY: draws a number.
    if wanted.every > 1 && u64::from(unsafe { bpf_get_prandom_u32() }) % wanted.every != 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        return;
    };
    // SAFETY: a pure question about the packet.
    let len = unsafe { bpf_xdp_get_buff_len(ctx) } as u32;
    let mut captured = u64::from(len);
    // SAFETY: copies a register to itself: the length's bounds shall be tested on the register that
    // the helper gets.
    unsafe {
        asm!("{0} = {0}", inout(reg) captured, options(pure, nomem, nostack, preserves_flags));
    }
    if captured > SNAP as u64 {
        captured = SNAP as u64;
    }
    if captured < 14 {
        entry.discard(0);
        return;
    }
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved entry, of this size, ours until it is submitted; `captured` bytes fit into
    // its last field.
    unsafe {
        (*event).time = bpf_ktime_get_ns();
        (*event).ifindex = (*ctx).ingress_ifindex;
        (*event).len = len;
        (*event).service = verdict.service;
        (*event).member = verdict.member;
        (*event).reason = verdict.reason.0;
        (*event).pad = 0;
        (*event).captured = captured as u16;
        (*event).sent = sent;
        (*event).reserved = 0;
        if bpf_xdp_load_bytes(ctx, 0, (&raw mut (*event).data).cast(), captured as u32) != 0 {
            (*event).captured = 0;
        }
    }
    entry.submit(0);
}

const _: usize = size_of::<Event>();
