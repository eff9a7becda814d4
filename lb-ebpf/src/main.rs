//! The XDP programs of sluice: entry points and nothing else.
//!
//! A packet is read by `packet.rs`, judged by `lb_common` on the tables of `tables.rs`, counted by
//! `stats.rs`. What decides lives in `lb_common`, where the host's tests reach it.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the target has no AtomicU64::fetch_add; see atomic.rs"
)]
// The `xdp` attribute makes each entry point a second, public function without a docstring.
#![expect(missing_docs, unreachable_pub, reason = "expanded from #[xdp]")]

mod atomic;
mod maps;
mod packet;
mod stats;
mod tables;

use core::hint::black_box;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    journey,
    parse::{self, Headers},
    verdict::{Action, Reason, Verdict},
};

use crate::{packet::Packet, tables::Maps};

/// Guards the services of this host: every packet of an interface comes through here.
#[xdp(frags)]
pub fn sluice_xdp(ctx: XdpContext) -> u32 {
    let mut headers = Headers::default();
    // Opaque, or LLVM takes the headers apart into more registers than there are and runs out of
    // stack.
    parse::parse_into(&Packet::new(&ctx), black_box(&mut headers));
    let word = sluice_judge(ctx.ctx, &headers);
    let verdict = unpack(word);
    stats::count(&verdict);
    if stats::is_logged() {
        sluice_log(&headers, word);
    }
    match verdict.reason.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
    }
}

/// The second half of a packet's journey, as a *global* function in the verifier's sense: verified
/// once, for any headers, and not once for every way through the parser that leads here (a fifth
/// of the work in all). Such a function takes and returns plain words only.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_judge(ctx: *mut xdp_md, headers: *const Headers) -> u64 {
    // SAFETY: the verifier hands a global function valid memory of the type or null.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    let ctx = XdpContext::new(ctx);
    pack(&journey::judge(&Packet::new(&ctx), headers, &Maps))
}

/// Logs one verdict: a function of its own like [`sluice_judge`], for what aya-log expands to is
/// longer than all the rest.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sluice_log(headers: *const Headers, word: u64) -> u32 {
    // SAFETY: the verifier hands a global function valid memory of the type or null.
    let Some(headers) = (unsafe { headers.as_ref() }) else {
        return 0;
    };
    stats::log(headers, &unpack(word));
    1
}

#[inline(always)]
fn pack(verdict: &Verdict) -> u64 {
    verdict.bytes << 32 | u64::from(verdict.reason.0) << 16 | u64::from(verdict.service)
}

#[inline(always)]
fn unpack(word: u64) -> Verdict {
    Verdict {
        service: word as u16,
        reason: Reason((word >> 16) as u8),
        bytes: word >> 32,
    }
}

/// Passes everything: what the peer of a veth pair must run for `XDP_TX` and native mode to work.
#[xdp(frags)]
pub fn sluice_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Never reached: a loop without end, so that the verifier rejects a program in which it could be.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel asks before it lets a program call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
