//! Fragments: the later ones go where the first went.

use super::Detoured;
use crate::{
    forward::mode,
    fragment::{FragmentKey, LIFETIME},
    frame::{Edit, Frame},
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

/// Sends a later fragment to the member that got the first.
#[inline(always)]
pub fn fragment<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let found = fragment_key(frame, headers)
        .and_then(|key| tables.fragment(&key))
        .filter(|value| tables.beat().wrapping_sub(value.beat) <= LIFETIME);
    let Some(value) = found else {
        return Detoured::end(0, Reason::FRAGMENT_UNKNOWN);
    };
    let (Some(forward), Some(head)) = (tables.forward(value.service), tables.member(value.member))
    else {
        return Detoured::end(0, Reason::NOT_FORWARDED);
    };
    if !steer::is_in_use(head) {
        return Detoured::end(0, Reason::FRAGMENT_UNKNOWN);
    }
    let bytes = frame.total_len() as u64;
    // Nobody has looked at its lengths yet.
    if headers.end > frame.total_len() || headers.end < headers.l4 {
        return Detoured {
            service: value.service,
            ..Detoured::end(0, Reason::BAD_IP_HEADER)
        };
    }
    let sent = if forward.mode == mode::NAT {
        nat::translate_fragment(frame, headers, forward, value.member, head, tables)
    } else {
        send::send(frame, headers, forward, value.member, head, tables)
    };
    let (reason, ifindex) = match sent {
        Ok(ifindex) => {
            tables.count_member(value.member, bytes, Reason::STEERED_FRAGMENT);
            (Reason::STEERED_FRAGMENT, ifindex)
        }
        Err(reason) => (reason, 0),
    };
    Detoured {
        service: value.service,
        member: value.member,
        reason,
        ifindex,
    }
}
