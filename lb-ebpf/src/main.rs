//! The XDP programs of sluice: entry points and nothing else.
//!
//! A packet is read by `packet.rs`, judged by `lb_common` on the tables of `tables.rs`, counted by
//! `stats.rs`. What decides lives in `lb_common`, where the host's tests reach it.

#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![expect(
    internal_features,
    reason = "the target has no AtomicU64::fetch_add; see atomic.rs"
)]
// The `xdp` attribute makes each entry point a second, public function without a docstring.
#![expect(missing_docs, unreachable_pub, reason = "expanded from #[xdp]")]

mod atomic;
mod capture;
mod maps;
mod outline;
mod packet;
mod route;
mod stats;
mod steering;
mod steps;
mod tables;

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    hurry::hurry,
    journey::{self, Tables as _, Then},
    parse,
    verdict::{Reason, Verdict},
};

use crate::{
    packet::{Editable, Packet},
    tables::Maps,
};

/// Guards and steers the services of this host: every packet of an interface comes through here.
/// What is common is done at once, in few instructions and little stack; all else is judged.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that #[xdp] calls"
)]
#[xdp(frags)]
pub fn sluice_xdp(ctx: XdpContext) -> u32 {
    let maps = Maps { ctx: ctx.ctx };
    if let Some(settings) = maps.settings()
        && let Some(done) = hurry(&mut Editable::new(&ctx), settings, &maps)
    {
        return stats::finish_hurried(&ctx, &done);
    }
    steps::judge(&ctx);
    // There is no such step, which control does not let happen: without it nothing is guarded.
    xdp_action::XDP_PASS
}

/// [`Then::Judge`].
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that #[xdp] calls"
)]
#[xdp(frags)]
pub fn sluice_judge(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
    let mut headers = MaybeUninit::uninit();
    // Opaque, or LLVM takes the headers apart into more registers than there are and runs out of
    // stack.
    let headers = black_box(packet::clear(&mut headers));
    parse::parse_into(&packet, headers);
    let bytes = journey::bytes(&packet, headers);
    let decision = journey::judge(&packet, headers, &Maps { ctx: ctx.ctx });
    let mut reason = decision.reason;
    if decision.then != Then::Done {
        // Comes back only if there is no such step: the stack shall not have a forwarded packet.
        steps::begin(&ctx, headers, &decision, bytes);
        reason = Reason::NOT_FORWARDED;
    }
    stats::finish(
        &ctx,
        headers,
        &Verdict {
            service: decision.service,
            member: 0,
            reason,
            bytes,
        },
    )
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
