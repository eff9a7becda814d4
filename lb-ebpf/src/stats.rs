//! Counting verdicts, and telling about a sample of them.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_prandom_u32, bpf_redirect},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use lb_common::{
    journey::Outcome,
    parse::Headers,
    settings::{Settings, gate},
    verdict::{Action, Verdict},
};

use crate::{
    maps::{COUNTERS, SETTINGS},
    outline,
};

/// Counts a packet: the one lookup in `COUNTERS` that it costs.
#[inline(always)]
pub(crate) fn count(verdict: &Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.cell()) {
        // SAFETY: this CPU's own cell, which no other program run on it can interrupt.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += verdict.bytes;
    }
}

/// The end of a packet that is not sent: counts and logs it, and tells the driver.
#[inline(always)]
pub(crate) fn finish(ctx: &XdpContext, headers: &Headers, verdict: &Verdict) -> u32 {
    note(ctx, headers, verdict, 0);
    match verdict.reason.action() {
        Action::Pass => xdp_action::XDP_PASS,
        // Sent it is not, and the stack must not have it.
        Action::Drop | Action::Send => xdp_action::XDP_DROP,
    }
}

/// The end of a packet that a step may have rewritten. `ifindex`: where it is sent from, 0: where it
/// came in.
#[inline(always)]
pub(crate) fn finish_sent(
    ctx: &XdpContext,
    headers: &Headers,
    verdict: &Verdict,
    ifindex: u32,
) -> u32 {
    note(ctx, headers, verdict, ifindex);
    leave(ctx, verdict, ifindex)
}

/// The end of a packet that hurried, which nobody wants to hear of.
#[inline(always)]
pub(crate) fn finish_hurried(ctx: &XdpContext, done: &Outcome) -> u32 {
    count(&done.verdict);
    leave(ctx, &done.verdict, done.ifindex)
}

#[expect(
    clippy::cast_sign_loss,
    reason = "the helper returns an action, which is never negative"
)]
#[inline(always)]
fn leave(ctx: &XdpContext, verdict: &Verdict, ifindex: u32) -> u32 {
    match verdict.reason.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Send if ifindex == 0 || ctx.ingress_ifindex() as u32 == ifindex => {
            xdp_action::XDP_TX
        }
        // SAFETY: notes where to send the packet; the kernel does it when the program has returned.
        Action::Send => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

#[inline(always)]
fn note(ctx: &XdpContext, headers: &Headers, verdict: &Verdict, ifindex: u32) {
    count(verdict);
    let Some(settings) = SETTINGS.get(0) else {
        return;
    };
    if settings.gates & (gate::LOG | gate::CAPTURE) == 0 {
        return;
    }
    if settings.gates & gate::CAPTURE != 0 {
        outline::sluice_capture(ctx.ctx, headers, outline::pack(verdict), ifindex);
    }
    if is_logged(settings) {
        outline::sluice_log(headers, outline::pack(verdict));
    }
}

/// Whether this packet is one of those to log: one in `log_every`, if logging is on.
#[inline(always)]
fn is_logged(settings: &Settings) -> bool {
    if settings.gates & gate::LOG == 0 {
        return false;
    }
    // SAFETY: draws a number.
    let drawn = unsafe { bpf_get_prandom_u32() };
    settings.log_every <= 1 || u64::from(drawn) % settings.log_every == 0
}

/// Logs a verdict.
#[inline(always)]
pub(crate) fn log(headers: &Headers, verdict: &Verdict) {
    // The reason by number (docs/reasons.md): its name would be a string picked at run time, which
    // needs pointers in read-only data that the loader does not relocate.
    info!(
        (),
        "service {} reason {} proto {} [{:i}]:{} > [{:i}]:{} {} bytes",
        verdict.service,
        verdict.reason.0,
        headers.proto,
        headers.source.0,
        headers.source_port.to_u16(),
        headers.destination.0,
        headers.destination_port.to_u16(),
        verdict.bytes
    );
}
