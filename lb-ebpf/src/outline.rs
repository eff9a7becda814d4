//! Functions that are *global* in the verifier's sense: verified once, for any arguments, and not
//! once for every way through the program that leads to them. They take and return plain words and
//! pointers to plain structs only.
//!
//! A call has its price (its return is a guarded jump on processors that need one), so the common
//! way of a packet comes through none of them.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    addr::Address,
    detour,
    forward::Forward,
    guard::{self, Limited},
    journey::{self, List, Rare},
    parse::Headers,
    verdict::{Reason, Verdict},
};

use crate::{capture, packet::Editable, route, stats, tables::Maps};

/// Looks a source up in a prefix list. Non-zero: a living entry covers it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_covers(list: u32, version: u32, source: *const Address) -> u32 {
    // SAFETY: the verifier hands a global function valid memory of the type or null.
    let Some(source) = (unsafe { source.as_ref() }) else {
        return 0;
    };
    let list = if list == List::Deny as u32 {
        List::Deny
    } else {
        List::Allow
    };
    let maps = Maps::without_packet();
    u32::from(journey::covers(&maps, list, version as u8, source))
}

/// [`journey::find_rare`]; `what` is a [`Rare`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_find_rare(headers: *const Headers, what: u32) -> u64 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let what = match what {
        0 => Rare::Vip,
        1 => Rare::Unpacker,
        2 => Rare::Range,
        _ => Rare::RangeOfAny,
    };
    journey::find_rare(&Maps::without_packet(), headers, what).pack()
}

/// [`detour::named`]; `what`: balancer, and the id's length in the high half.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_named(ctx: *mut xdp_md, headers: *const Headers, what: u32) -> u32 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let forward = Forward {
        balancer: what as u16,
        quic_len: (what >> 16) as u8,
        ..Forward::default()
    };
    let ctx = XdpContext::new(ctx);
    let maps = Maps { ctx: ctx.ctx };
    u32::from(detour::named(
        &Editable::new(&ctx),
        headers,
        &forward,
        &maps,
    ))
}

/// Puts a packet into the ring of captured ones, if it is wanted. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_capture(
    ctx: *mut xdp_md,
    headers: *const Headers,
    verdict: u64,
    sent: u32,
) -> u32 {
    // SAFETY: as in `sluice_covers`.
    if let Some(headers) = unsafe { headers.as_ref() } {
        capture::take(ctx, headers, &unpack(verdict), sent);
    }
    0
}

/// [`journey::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_find(headers: *const Headers) -> u64 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    journey::find(headers, &Maps::without_packet()).pack()
}

/// Puts a packet through the limits of a service. Returns a [`Limited`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_limit(headers: *const Headers, service: u32) -> u32 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return Limited::WITHIN.0;
    };
    guard::limit(&Maps::without_packet(), headers, service as u16).0
}

/// As [`sluice_limit`] for a new flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_limit_flow(headers: *const Headers, service: u32) -> u32 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return Limited::WITHIN.0;
    };
    guard::limit_flow(&Maps::without_packet(), headers, service as u16).0
}

/// Whether the kernel would keep a packet for this address.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_is_local(ctx: *mut xdp_md, address: *const Address) -> u32 {
    // SAFETY: as in `sluice_covers`.
    match unsafe { address.as_ref() } {
        Some(address) => u32::from(route::is_local(ctx, address)),
        None => 0,
    }
}

/// Asks the kernel's routes for a member. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_route(
    ctx: *mut xdp_md,
    to: *const Address,
    member: u32,
    beat: u32,
) -> u32 {
    // SAFETY: as in `sluice_covers`.
    if let Some(to) = unsafe { to.as_ref() } {
        route::ask(ctx, to, member, beat);
    }
    0
}

/// Logs one verdict, [`pack`]ed. What aya-log expands to is longer than all the rest.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_log(headers: *const Headers, verdict: u64) -> u32 {
    // SAFETY: as in `sluice_covers`.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    stats::log(headers, &unpack(verdict));
    1
}

/// A verdict as one word.
#[inline(always)]
pub(crate) fn pack(verdict: &Verdict) -> u64 {
    (verdict.bytes << 32)
        | u64::from(verdict.reason.0) << 24
        | u64::from(verdict.member & 0xfff) << 12
        | u64::from(verdict.service & 0xfff)
}

#[inline(always)]
fn unpack(word: u64) -> Verdict {
    Verdict {
        service: word as u16 & 0xfff,
        member: (word >> 12) as u16 & 0xfff,
        reason: Reason((word >> 24) as u8),
        bytes: word >> 32,
    }
}
