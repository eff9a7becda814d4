//! The steps of a packet's journey after the first, each a program of its own: a stack of 512 bytes
//! holds one of them. A jump from one to the next is patched in by the kernel as such, for its index
//! is a number known at load, and costs less than a call's return.

use core::arch::asm;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use lb_common::{
    detour::{self, Detoured, Detours},
    forward::Forward,
    guard::Limited,
    journey::{Decision, Found, Then},
    parse::Headers,
    steer::Steered,
    verdict::{Reason, Verdict},
};

use crate::{
    maps::{SCRATCH, STEPS, Scratch},
    outline,
    packet::Editable,
    stats,
    tables::Maps,
};

/// Jumps to a step. Returns only if there is none, which control does not let happen.
macro_rules! go {
    ($ctx:expr, $step:expr) => {{
        // Of several jumps that differ in their number alone LLVM would make one to a number known
        // at run time only, which the kernel cannot patch in.
        // SAFETY: sets a register that nobody uses.
        unsafe { asm!("{0} = {1}", out(reg) _, const $step as i32, options(nostack)) };
        // SAFETY: the programs there are of this kind.
        unsafe { STEPS.tail_call($ctx, $step as u32) };
    }};
}

/// Has a packet judged.
#[inline(always)]
pub(crate) fn judge(ctx: &XdpContext) {
    go!(ctx, Then::Judge);
}

/// Leaves what is known of a packet for the next step and goes there.
#[inline(always)]
pub(crate) fn begin(ctx: &XdpContext, headers: &Headers, decision: &Decision, bytes: u64) {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own, and no other packet comes before this one is done with.
    let scratch = unsafe { &mut *scratch };
    scratch.headers = *headers;
    scratch.bytes = bytes;
    scratch.service = u32::from(decision.service);
    scratch.flags = decision.flags;
    scratch.member = 0;
    scratch.reason = u32::from(decision.reason.0);
    match decision.then {
        Then::Done | Then::Judge => {}
        Then::Steer4 => go!(ctx, Then::Steer4),
        Then::Steer6 => go!(ctx, Then::Steer6),
        then => {
            // SAFETY: as in `go`.
            unsafe { STEPS.tail_call(ctx, then as u32) };
        }
    }
}

/// What the step before left.
#[inline(always)]
fn left<'a>() -> Option<&'a mut Scratch> {
    // SAFETY: as in `begin`.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Ends a step: counts, and tells the driver.
#[inline(always)]
fn end(ctx: &XdpContext, scratch: &Scratch, done: &Detoured) -> u32 {
    let service = if done.service == 0 {
        scratch.service as u16
    } else {
        done.service
    };
    let verdict = Verdict {
        service,
        member: done.member,
        reason: done.reason,
        bytes: scratch.bytes,
    };
    stats::finish_sent(ctx, &scratch.headers, &verdict, done.ifindex)
}

/// Where nothing was left: never.
const LOST: u32 = aya_ebpf::bindings::xdp_action::XDP_ABORTED;

/// Steps that go on as others: by a jump.
impl Detours<Editable<'_>> for Maps {
    #[inline(always)]
    fn rest(&self, _: &mut Editable<'_>, _: &Headers, _: u16, steered: &Steered<'_>) -> Detoured {
        if let Some(scratch) = left() {
            scratch.member = u32::from(steered.member);
            scratch.reason = u32::from(steered.reason.0);
            scratch.flags = steered.limited.0;
            go!(&XdpContext::new(self.ctx), Then::Rest);
        }
        Detoured::end(0, Reason::NOT_FORWARDED)
    }

    #[inline(always)]
    fn answer(
        &self,
        _: &mut Editable<'_>,
        _: &Headers,
        _: u16,
        member: u16,
        reason: Reason,
    ) -> Detoured {
        if let Some(scratch) = left() {
            scratch.member = u32::from(member);
            scratch.reason = u32::from(reason.0);
            go!(&XdpContext::new(self.ctx), Then::Answer);
        }
        Detoured::end(0, reason)
    }

    #[inline(always)]
    fn steer(&self, _: &mut Editable<'_>, headers: &Headers, decision: &Decision) -> Detoured {
        if let Some(scratch) = left() {
            scratch.headers = *headers;
            scratch.service = u32::from(decision.service);
            scratch.flags = decision.flags;
            scratch.reason = u32::from(decision.reason.0);
            let ctx = &XdpContext::new(self.ctx);
            if decision.then == Then::Steer4 {
                go!(ctx, Then::Steer4);
            } else {
                go!(ctx, Then::Steer6);
            }
        }
        Detoured::end(0, Reason::NOT_FORWARDED)
    }

    #[inline(always)]
    fn named(&self, _: &Editable<'_>, headers: &Headers, forward: &Forward) -> u16 {
        let what = u32::from(forward.balancer) | u32::from(forward.quic_len) << 16;
        outline::sluice_named(self.ctx, headers, what) as u16
    }

    #[inline(always)]
    fn quoted(&self, _: &mut Editable<'_>, about: &Headers, service: u16, member: u16) -> Detoured {
        if let Some(scratch) = left() {
            scratch.headers = *about;
            scratch.service = u32::from(service);
            scratch.member = u32::from(member);
            go!(&XdpContext::new(self.ctx), Then::Quoted);
        }
        Detoured::end(0, Reason::NOT_FORWARDED)
    }

    #[inline(always)]
    fn find_service(&self, headers: &Headers) -> Found {
        Found::unpack(outline::sluice_find(headers))
    }
}

macro_rules! step {
    ($(#[doc = $doc:literal])* $name:ident, |$frame:ident, $scratch:ident, $maps:ident| $done:expr) => {
        $(#[doc = $doc])*
        #[xdp(frags)]
        pub fn $name(ctx: XdpContext) -> u32 {
            let Some($scratch) = left() else {
                return LOST;
            };
            let $scratch = &*$scratch;
            let $maps = &Maps { ctx: ctx.ctx };
            let $frame = &mut Editable::new(&ctx);
            let done = $done;
            end(&ctx, $scratch, &done)
        }
    };
}

#[inline(always)]
fn decision(scratch: &Scratch, then: Then) -> Decision {
    Decision {
        service: scratch.service as u16,
        reason: Reason(scratch.reason as u8),
        then,
        flags: scratch.flags,
    }
}

step! {
    /// [`Then::Steer4`].
    sluice_steer4, |frame, scratch, maps| detour::steer::<_, _, false>(
        frame, &scratch.headers, &decision(scratch, Then::Steer4), maps,
    )
}

step! {
    /// [`Then::Steer6`].
    sluice_steer6, |frame, scratch, maps| detour::steer::<_, _, true>(
        frame, &scratch.headers, &decision(scratch, Then::Steer6), maps,
    )
}

step! {
    /// [`Then::Fragment`].
    sluice_fragment, |frame, scratch, maps| detour::fragment(
        frame, &scratch.headers, &decision(scratch, Then::Fragment), maps,
    )
}

step! {
    /// [`Then::Rest`].
    sluice_rest, |frame, scratch, maps| detour::rest(
        frame,
        &scratch.headers,
        scratch.service as u16,
        scratch.member as u16,
        Reason(scratch.reason as u8),
        maps,
    )
    .under(Limited::of_flags(scratch.flags))
}

step! {
    /// [`Then::Answer`].
    sluice_answer, |frame, scratch, maps| detour::answer(
        frame,
        &scratch.headers,
        scratch.service as u16,
        scratch.member as u16,
        Reason(scratch.reason as u8),
        maps,
    )
}

step! {
    /// [`Then::Icmp`].
    sluice_icmp, |frame, scratch, maps| detour::icmp(
        frame, &scratch.headers, &decision(scratch, Then::Icmp), maps,
    )
}

step! {
    /// [`Then::Return`].
    sluice_return, |frame, scratch, maps| detour::give_back(frame, &scratch.headers, maps)
}

step! {
    /// [`Then::Quoted`].
    sluice_quoted, |frame, scratch, maps| detour::quoted(
        frame, &scratch.headers, scratch.service as u16, scratch.member as u16, maps,
    )
}

step! {
    /// [`Then::Unpack`].
    sluice_unpack, |frame, scratch, maps| detour::unpack(
        frame, &scratch.headers, &decision(scratch, Then::Unpack), maps,
    )
}
