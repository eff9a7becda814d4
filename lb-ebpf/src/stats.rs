//! Counting verdicts, and telling about a sample of them.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_log_ebpf::info;
use lb_common::{parse::Headers, settings::gate, verdict::Verdict};

use crate::maps::{COUNTERS, SETTINGS};

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

/// Whether this packet is one of those to log: one in `log_every`, if logging is on. Costs a test
/// of one bit if it is not.
#[inline(always)]
pub(crate) fn is_logged() -> bool {
    let Some(settings) = SETTINGS.get(0) else {
        return false;
    };
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
