//! The floor programs themselves, and those that drive another program with changing or restored
//! packets.

use super::{
    COUNTS, FLOWS, MEMBERS, NEXT, ORIGINAL, VIPS, at,
    code::{Code, Size, helper, r},
};

pub(super) const XDP_ABORTED: i32 = 0;
pub(super) const XDP_DROP: i32 = 1;
pub(super) const XDP_PASS: i32 = 2;
pub(super) const XDP_TX: i32 = 3;

/// Bytes that a tunnel's outer IPv4 header adds.
const OUTER: i32 = 20;
/// The source of what is sent on, as the outer header has it: 192.0.2.1.
const OUTER_SOURCE: u32 = u32::from_le_bytes([192, 0, 2, 1]);
/// Knuth's multiplier: the upper bits choose a member.
const SPREAD: u32 = 0x9E37_79B1;

/// Does nothing but answer.
pub(super) fn answer(action: i32) -> (Code, i32) {
    (Code::default(), action)
}

/// Leaves unless the packet is IPv4 without options and TCP; `r::DATA` then points to it.
fn parse(code: &mut Code) {
    code.copy(r::SAVED, r::CTX)
        .packet(r::SAVED, r::DATA, at::END)
        .load(Size::Two, r::A, r::DATA, at::ETHERTYPE)
        .leave_unless(r::A, 0x0008)
        .load(Size::One, r::A, r::DATA, at::VERSION)
        .leave_unless(r::A, 0x45)
        .load(Size::One, r::A, r::DATA, at::PROTOCOL)
        .leave_unless(r::A, 6);
}

/// Reads as far as addresses and ports.
pub(super) fn parse_only() -> (Code, i32) {
    let mut code = Code::default();
    parse(&mut code);
    code.load(Size::Four, r::A, r::DATA, at::SOURCE)
        .load(Size::Four, r::TWO, r::DATA, at::DESTINATION)
        .xor_register(r::A, r::TWO)
        .load(Size::Four, r::TWO, r::DATA, at::PORTS)
        .xor_register(r::A, r::TWO)
        // Something must depend on what was read.
        .leave_unless(r::A, 0x1234_5678)
        .set(r::RETURN, XDP_DROP)
        .exit();
    (code, XDP_PASS)
}

/// The least that a balancer with a flow table does: service, flow (entered if it is new), member,
/// counter, an outer IPv4 header with its checksum, and out again where it came in. No limits, no
/// state of members, no IPv6, no fragments.
pub(super) fn balance() -> (Code, i32) {
    // Keys and what has to survive calls, on the stack.
    const SERVICE: i16 = -8;
    const FLOW: i16 = -24;
    const MEMBER: i16 = -28;
    const ZERO: i16 = -32;
    const LENGTH: i16 = -40;

    let mut code = Code::default();
    parse(&mut code);
    code.load(Size::Four, r::A, r::DATA, at::DESTINATION)
        .store(Size::Four, r::STACK, SERVICE, r::A)
        .load(Size::Two, r::A, r::DATA, at::PORTS + 2)
        .store(Size::Two, r::STACK, SERVICE + 4, r::A)
        .store_number(Size::Two, r::STACK, SERVICE + 6, 6)
        .lookup(VIPS, SERVICE)
        .leave_if(r::RETURN, 0);
    for (offset, place) in [
        (at::SOURCE, FLOW),
        (at::DESTINATION, FLOW + 4),
        (at::PORTS, FLOW + 8),
    ] {
        code.load(Size::Four, r::A, r::DATA, offset)
            .store(Size::Four, r::STACK, place, r::A);
    }
    code.store_number(Size::Four, r::STACK, FLOW + 12, 6)
        .lookup(FLOWS, FLOW);
    let known = code.jump_unless(r::RETURN, 0);
    code.load(Size::Four, r::A, r::STACK, FLOW)
        .load(Size::Four, r::TWO, r::STACK, FLOW + 8)
        .xor_register(r::A, r::TWO)
        // 32-bit: multiply, then keep the upper two bits.
        .op(0x24, r::A, 0, 0, SPREAD.cast_signed())
        .op(0x74, r::A, 0, 0, 30)
        .store(Size::Four, r::STACK, MEMBER, r::A)
        .map(r::CTX, FLOWS)
        .copy(r::TWO, r::STACK)
        .add(r::TWO, FLOW.into())
        .copy(r::THREE, r::STACK)
        .add(r::THREE, MEMBER.into())
        .set(r::FOUR, 0)
        .call(helper::UPDATE);
    let chosen = code.jump();
    code.here(known)
        .load(Size::Four, r::A, r::RETURN, 0)
        .store(Size::Four, r::STACK, MEMBER, r::A)
        .here(chosen)
        .lookup(MEMBERS, MEMBER)
        .leave_if(r::RETURN, 0)
        .copy(r::EIGHT, r::RETURN)
        .store_number(Size::Four, r::STACK, ZERO, 0)
        .lookup(COUNTS, ZERO)
        .leave_if(r::RETURN, 0)
        .load(Size::Eight, r::A, r::RETURN, 0)
        .add(r::A, 1)
        .store(Size::Eight, r::RETURN, 0, r::A)
        .load(Size::Two, r::A, r::DATA, at::LENGTH)
        .swap_two(r::A)
        .add(r::A, OUTER)
        .swap_two(r::A)
        .store(Size::Eight, r::STACK, LENGTH, r::A)
        .copy(r::CTX, r::SAVED)
        .set(r::TWO, -OUTER)
        .call(helper::ADJUST_HEAD)
        .leave_unless(r::RETURN, 0)
        .packet(r::SAVED, r::DATA, at::END);
    encapsulate(&mut code, LENGTH);
    code.set(r::RETURN, XDP_TX).exit();
    (code, XDP_PASS)
}

/// Writes Ethernet and outer IPv4 headers; `r::EIGHT` points to the member (address, MAC), the
/// stack holds the total length in network order.
fn encapsulate(code: &mut Code, length: i16) {
    let old: i16 = 20;
    // The member's MAC to, ours (what the packet was sent to) from.
    code.load(Size::Four, r::A, r::DATA, old)
        .store(Size::Four, r::DATA, 6, r::A)
        .load(Size::Two, r::A, r::DATA, old + 4)
        .store(Size::Two, r::DATA, 10, r::A)
        .load(Size::Four, r::A, r::EIGHT, 4)
        .store(Size::Four, r::DATA, 0, r::A)
        .load(Size::Two, r::A, r::EIGHT, 8)
        .store(Size::Two, r::DATA, 4, r::A)
        .store_number(Size::Two, r::DATA, at::ETHERTYPE, 0x0008)
        // Version and length of the header, no TOS; later TTL 64, protocol 4.
        .store_number(Size::Two, r::DATA, at::VERSION, 0x0045)
        .load(Size::Eight, r::A, r::STACK, length)
        .store(Size::Two, r::DATA, at::LENGTH, r::A)
        .store_number(Size::Four, r::DATA, at::IDENTIFICATION, 0)
        .store_number(Size::Two, r::DATA, at::TTL, 0x0440)
        .store_number(Size::Four, r::DATA, at::SOURCE, OUTER_SOURCE.cast_signed())
        .load(Size::Four, r::NINE, r::EIGHT, 0)
        .store(Size::Four, r::DATA, at::DESTINATION, r::NINE);
    // The sum of the 16-bit words; what is constant is summed up here.
    let constant = 0x0045 + 0x0440 + (OUTER_SOURCE & 0xffff) + (OUTER_SOURCE >> 16);
    code.add(r::A, constant.cast_signed())
        .copy(r::TWO, r::NINE)
        .and(r::TWO, 0xffff)
        .add_register(r::A, r::TWO)
        .shift_right(r::NINE, 16)
        .add_register(r::A, r::NINE);
    for _ in 0..2 {
        code.copy(r::TWO, r::A)
            .shift_right(r::TWO, 16)
            .and(r::A, 0xffff)
            .add_register(r::A, r::TWO);
    }
    code.xor(r::A, 0xffff)
        .store(Size::Two, r::DATA, at::CHECKSUM, r::A);
}

/// How many sources a driving program goes through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range {
    One,
    Low16,
    Low20,
    Low24,
}

/// Counts in the source's last two bytes, and if the range is wide carries into the one before. `frame`
/// points to the frame.
fn vary(code: &mut Code, range: Range, frame: u8) {
    let low = at::SOURCE + 2;
    let high = at::SOURCE + 1;
    if matches!(range, Range::One) {
        return;
    }
    code.load(Size::Two, r::A, frame, low)
        .add(r::A, 1)
        .and(r::A, 0xffff)
        .store(Size::Two, frame, low, r::A)
        .copy(r::TWO, r::A)
        .xor(r::TWO, 0xffff)
        .store(Size::Two, frame, at::IDENTIFICATION, r::TWO);
    if matches!(range, Range::Low20 | Range::Low24) {
        let mask = if matches!(range, Range::Low20) {
            0x0f
        } else {
            0xff
        };
        let same = code.jump_unless(r::A, 0);
        code.load(Size::One, r::A, frame, high)
            .add(r::A, 1)
            .and(r::A, mask)
            .store(Size::One, frame, high, r::A)
            .xor(r::A, 0xff)
            .store(Size::One, frame, at::TOS, r::A)
            .here(same);
    }
}

/// Runs what `NEXT` holds; comes back only when there is nothing: XDP_ABORTED, which no row expects.
fn go_on(code: &mut Code) {
    code.copy(r::CTX, r::SAVED)
        .map(r::TWO, NEXT)
        .set(r::THREE, 0)
        .call(helper::TAIL_CALL);
}

/// Gives each packet another source and runs what `NEXT` holds, which may not change the packet.
pub(super) fn changing(range: Range) -> (Code, i32) {
    let mut code = Code::default();
    code.copy(r::SAVED, r::CTX)
        .packet(r::SAVED, r::DATA, at::END);
    vary(&mut code, range, r::DATA);
    go_on(&mut code);
    (code, XDP_ABORTED)
}

/// Puts the packet's beginning and its first [`at::RESTORED`] bytes back to what `ORIGINAL` has,
/// where the source is counted on, and runs what `NEXT` holds.
pub(super) fn restoring(range: Range) -> (Code, i32) {
    const ZERO: i16 = -8;

    let mut code = Code::default();
    code.copy(r::SAVED, r::CTX)
        .store_number(Size::Four, r::STACK, ZERO, 0)
        .lookup(ORIGINAL, ZERO)
        .leave_if(r::RETURN, 0)
        .copy(r::NINE, r::RETURN)
        // By how much the last repeat moved the beginning, 0 included: the floor pays for it too.
        .load(Size::Four, r::TWO, r::SAVED, 4)
        .load(Size::Four, r::THREE, r::SAVED, 0)
        .subtract_register(r::TWO, r::THREE)
        .load(Size::Eight, r::THREE, r::NINE, 0)
        .subtract_register(r::TWO, r::THREE)
        .copy(r::CTX, r::SAVED)
        .call(helper::ADJUST_HEAD)
        .leave_unless(r::RETURN, 0)
        .add(r::NINE, 8);
    vary(&mut code, range, r::NINE);
    code.packet(r::SAVED, r::DATA, at::RESTORED.into());
    for offset in (0..at::RESTORED).step_by(8) {
        code.load(Size::Eight, r::A, r::NINE, offset)
            .store(Size::Eight, r::DATA, offset, r::A);
    }
    go_on(&mut code);
    (code, XDP_ABORTED)
}
