//! Fragments: the later ones go where the first went.

use super::Detoured;
use crate::{
    forward::mode,
    fragment::{FragmentKey, LIFETIME},
    frame::{Edit, Frame},
    guard,
    journey::Decision,
    nat,
    parse::{Headers, next},
    send::{self, SendTables},
    steer,
    verdict::Reason,
};

/// What the fragments of a datagram have in common; `None` where it cannot be read.
#[inline(always)]
pub(super) fn fragment_key<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<FragmentKey> {
    let mut key = FragmentKey {
        source: headers.source,
        destination: headers.destination,
        ..FragmentKey::default()
    };
    if headers.version == 4 {
        let [a, b] = frame.read::<2>(headers.l3 + 4)?;
        key.id = u32::from_ne_bytes([a, b, 0, 0]);
        key.proto = u32::from(headers.proto);
    } else {
        key.id = u32::from_ne_bytes(frame.read::<4>(fragment_header(frame, headers)? + 4)?);
    }
    Some(key)
}

/// Where IPv6's fragment header begins.
#[inline(always)]
fn fragment_header<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<usize> {
    let [mut number] = frame.read::<1>(headers.l3 + 6)?;
    let mut off = headers.l3 + 40;
    for _ in 0..core::hint::black_box(crate::parse::MAX_EXTENSIONS) {
        if number == next::FRAGMENT {
            return Some(off);
        }
        let [following, len] = frame.read::<2>(off)?;
        off += if number == next::AUTHENTICATION {
            (len as usize + 2) * 4
        } else {
            (len as usize + 1) * 8
        };
        number = following;
    }
    None
}

/// Sends a later fragment where the first went: to its member, or what a member answered to its client.
#[inline(always)]
pub fn fragment<F, T>(frame: &mut F, headers: &Headers, decision: &Decision, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let found = fragment_key(frame, headers)
        .and_then(|key| tables.fragment(&key))
        .filter(|value| tables.beat().wrapping_sub(value.beat) <= LIFETIME);
    let Some(value) = found else {
        // To an address that is no service's: of whomever the stack talks to.
        let reason = if decision.service == 0 {
            decision.reason
        } else {
            Reason::FRAGMENT_UNKNOWN
        };
        return Detoured::end(0, reason);
    };
    let of = |member, reason, ifindex| Detoured {
        service: value.service,
        member,
        reason,
        ifindex,
    };
    // Nobody has looked at its header yet.
    if let Some(reason) = guard::malformed_header(frame, headers) {
        return of(0, reason, 0);
    }
    if value.answer != 0 {
        let index = value.answer - 1;
        return match nat::give_back_fragment(frame, headers, index, value.service, tables) {
            Ok(back) => of(back.member, Reason::RETURNED, back.ifindex),
            Err(reason) => of(0, reason, 0),
        };
    }
    let (Some(forward), Some(head)) = (tables.forward(value.service), tables.member(value.member))
    else {
        return Detoured::end(0, Reason::NOT_FORWARDED);
    };
    if !steer::is_in_use(head) || head.incarnation != value.incarnation {
        return of(0, Reason::FRAGMENT_UNKNOWN, 0);
    }
    let bytes = frame.total_len() as u64;
    let sent = if forward.mode == mode::NAT {
        nat::translate_fragment(frame, headers, forward, value.member, head, tables)
    } else {
        send::send(frame, headers, forward, value.member, head, tables)
    };
    match sent {
        Ok(ifindex) => {
            tables.count_member(value.member, bytes, Reason::STEERED_FRAGMENT);
            of(value.member, Reason::STEERED_FRAGMENT, ifindex)
        }
        Err(reason) => of(value.member, reason, 0),
    }
}
