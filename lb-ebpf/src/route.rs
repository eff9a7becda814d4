//! The kernel's routes and neighbours, asked for members' next hops.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{bpf_fib_lookup as Lookup, xdp_md},
    helpers::bpf_fib_lookup,
};
use lb_common::{
    addr::Address,
    forward::{Hop, Link},
};

use crate::maps::HOPS;

/// Address families of the lookup.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Answers (enum in linux/bpf.h): found; for this host, or for nobody;
/// not asked to forward; a route, but no neighbour.
const SUCCESS: i64 = 0;
const NOT_FORWARDED: i64 = 4;
const FORWARDING_DISABLED: i64 = 5;
const NO_NEIGHBOUR: i64 = 7;

/// Asks the way to `to` and writes what is known into the member's hop.
///
/// A route without a neighbour leaves what was learned before: the kernel is resolving it, or
/// nobody has asked it to. No route at all takes it away; what control gave is control's to take, and
/// is used until it does.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "words of one map value, one after the other"
)]
#[inline(always)]
pub(crate) fn ask(ctx: *mut xdp_md, to: &Address, member: u32, beat: u32) {
    let Some(hop) = HOPS.get_ptr_mut(member) else {
        return;
    };
    let mut lookup = MaybeUninit::<Aligned>::uninit();
    let (answer, lookup) = look(ctx, to, &mut lookup);
    // SAFETY: a map value, whose words other CPUs may write too; each is written at once.
    unsafe {
        if answer == SUCCESS {
            let to = mac(&raw const lookup.dmac) | 1 << 48;
            let from = mac(&raw const lookup.smac);
            set(&raw mut (*hop).learned, to, from, lookup.ifindex);
        } else if answer != NO_NEIGHBOUR {
            set(&raw mut (*hop).learned, 0, 0, 0);
        }
        ptr::write_volatile(&raw mut (*hop).asked, u64::from(beat) + 1);
    }
}

/// Whether a packet for `to` that came in here would not be sent on: it is for this host, or this
/// host sends nothing on.
#[inline(always)]
pub(crate) fn is_local(ctx: *mut xdp_md, to: &Address) -> bool {
    let mut lookup = MaybeUninit::<Aligned>::uninit();
    let (answer, _) = look(ctx, to, &mut lookup);
    answer == NOT_FORWARDED || answer == FORWARDING_DISABLED
}

/// Asks the kernel's routes about an address.
#[inline(always)]
fn look<'a>(
    ctx: *mut xdp_md,
    to: &Address,
    lookup: &'a mut MaybeUninit<Aligned>,
) -> (i64, &'a Lookup) {
    let words = lookup.as_mut_ptr().cast::<u64>();
    for i in 0..WORDS {
        // SAFETY: the structure is this many words long and aligned as such.
        unsafe { words.wrapping_add(i).write_volatile(0) };
    }
    // SAFETY: all of it was written; zero is a value of every field.
    let lookup = unsafe { &mut lookup.assume_init_mut().0 };
    // SAFETY: the kernel's context.
    lookup.ifindex = unsafe { (*ctx).ingress_ifindex };
    let a = &to.0;
    if to.as_v4().is_some() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
    } else {
        lookup.family = AF_INET6;
        let word = |i: usize| u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]);
        lookup.__bindgen_anon_4.ipv6_dst = [word(0), word(4), word(8), word(12)];
    }
    // SAFETY: context and parameters are ours; the kernel fills in the latter.
    let answer = unsafe { bpf_fib_lookup(ctx.cast(), ptr::from_mut(lookup), BYTES, 0) };
    (answer, lookup)
}

/// Words of a lookup.
const WORDS: usize = size_of::<Lookup>() / 8;
const _: () = assert!(WORDS * 8 == size_of::<Lookup>());
/// Bytes of it, as the kernel wants them.
#[expect(clippy::cast_possible_wrap, reason = "64")]
const BYTES: i32 = WORDS as i32 * 8;

/// A lookup as words.
#[repr(C, align(8))]
struct Aligned(Lookup);

/// A MAC as the low six bytes of a word, in memory order. Read in halves of words: it lies at an odd
/// pair of bytes, and the verifier allows no misaligned access to the stack.
///
/// # Safety
/// `mac` is readable and 2-aligned.
#[expect(clippy::cast_ptr_alignment, reason = "the caller promises it")]
#[inline(always)]
unsafe fn mac(mac: *const [u8; 6]) -> u64 {
    let halves = mac.cast::<u16>();
    // SAFETY: the caller's promise.
    let half = |i: usize| unsafe { u64::from(ptr::read_volatile(halves.wrapping_add(i))) };
    half(0) | half(1) << 16 | half(2) << 32
}

/// Writes a link word by word; the size of packets stays control's business.
///
/// # Safety
/// `link` lies in a map value that lives while the program runs.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "words of one map value, one after the other"
)]
#[inline(always)]
unsafe fn set(link: *mut Link, to: u64, from: u64, ifindex: u32) {
    // SAFETY: the caller's promise; the fields are 8-aligned in `Hop`.
    unsafe {
        ptr::write_volatile((&raw mut (*link).to).cast(), to);
        ptr::write_volatile((&raw mut (*link).from).cast(), from);
        ptr::write_volatile((&raw mut (*link).ifindex).cast(), u64::from(ifindex));
    }
}

const _: () = assert!(core::mem::offset_of!(Hop, learned) % 8 == 0);
const _: () = assert!(core::mem::offset_of!(Link, ifindex) == 16);
