//! ICMP to the addresses of forwarded services and of `nat`.

use super::{Detoured, Detours};
use crate::{
    addr::{Address, Be16},
    answer,
    frame::{Edit, Frame},
    guard,
    journey::{Decision, Found, Then},
    parse::{Headers, Reach, next},
    service::{flag, kind, proto},
    steer::Spend,
    verdict::Reason,
};

/// ICMP to an address of forwarded services: echo is answered, errors about a flow go where the flow
/// goes, all else is the stack's.
#[inline(always)]
pub fn icmp<F, T>(frame: &mut F, headers: &Headers, decision: &Decision, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let Some(settings) = tables.settings() else {
        return Detoured::end(0, decision.reason);
    };
    let is_v4 = headers.version == 4;
    let (kind, code) = (headers.icmp_type, headers.icmp_code);
    let is_echo =
        kind == if is_v4 { 8 } else { 128 } && code == 0 && decision.flags & flag::ECHO != 0;
    let mut about = Headers::default();
    let mut found = Found::default();
    if !is_echo {
        if !headers.is_icmp_error() || headers.is_fragment || !quoted(frame, headers, &mut about) {
            return Detoured::end(0, decision.reason);
        }
        found = tables.find_service(&about);
        if found.kind != kind::NAT && found.kind != kind::FORWARDED {
            return Detoured::end(0, decision.reason);
        }
    }
    // From here on it is ours, and nobody else looks.
    if let Some(reason) = guard::malformed_header(frame, headers) {
        return Detoured::end(0, reason);
    }
    if is_echo {
        let is_answered = !headers.is_fragment
            && tables.spend(Spend::Answer, settings.answers, tables.beat())
            && answer::echo(frame, headers).is_some();
        return Detoured::end(
            0,
            if is_answered {
                Reason::ECHO_ANSWERED
            } else {
                Reason::ICMP_TO_VIP
            },
        );
    }
    if found.kind == kind::NAT {
        return tables.quoted(frame, &about, 0, 0);
    }
    let decision = Decision {
        service: found.id,
        reason: decision.reason,
        then: if is_v4 && found.flags & flag::WIDE == 0 {
            Then::Steer4
        } else {
            Then::Steer6
        },
        flags: found.flags | flag::QUOTED,
    };
    let mut done = tables.steer(frame, &about, &decision);
    if done.service == 0 {
        done.service = found.id;
    }
    done
}

/// Bytes from a quoted IPv6 header to the ports behind it, by its next header. Of the extensions a
/// fragment's alone is looked behind: it is what "packet too big" brings about.
#[inline(always)]
pub(crate) const fn ports_v6(following: u8) -> usize {
    if following == next::FRAGMENT { 48 } else { 40 }
}

/// The flow that an ICMP error is about, as its client's packets have it, with the place and the
/// length of the error itself. Eight bytes behind the quoted IP header are enough (RFC 792).
#[inline(always)]
fn quoted<F: Frame + ?Sized>(frame: &F, headers: &Headers, about: &mut Headers) -> bool {
    if headers.end > frame.total_len() || headers.end < headers.l4 + 8 {
        return false;
    }
    let at = headers.l4 + 8;
    let l4 = if headers.version == 4 {
        let Some(ip) = frame.read::<20>(at) else {
            return false;
        };
        // A quoted later fragment has no ports.
        if ip[0] >> 4 != 4 || ip[0] & 15 < 5 || (ip[6] & 0x1f) | ip[7] != 0 {
            return false;
        }
        about.proto = ip[9];
        about.destination = Address::from_v4([ip[12], ip[13], ip[14], ip[15]]);
        about.source = Address::from_v4([ip[16], ip[17], ip[18], ip[19]]);
        at + (ip[0] & 15) as usize * 4
    } else {
        let (Some(ip), Some(from), Some(to)) = (
            frame.read::<8>(at),
            frame.read::<16>(at + 8),
            frame.read::<16>(at + 24),
        ) else {
            return false;
        };
        if ip[0] >> 4 != 6 {
            return false;
        }
        about.proto = ip[6];
        about.destination = Address::from_v6(from);
        about.source = Address::from_v6(to);
        if about.proto == next::FRAGMENT {
            let Some([following, _, high, low]) = frame.read::<4>(at + 40) else {
                return false;
            };
            if high | low & 0xf8 != 0 {
                return false;
            }
            about.proto = following;
        }
        at + ports_v6(ip[6])
    };
    if about.proto != proto::TCP && about.proto != proto::UDP
        || about.destination.words() != headers.destination.words()
    {
        return false;
    }
    let Some([a, b, c, d]) = frame.read::<4>(l4) else {
        return false;
    };
    about.destination_port = Be16([a, b]);
    about.source_port = Be16([c, d]);
    about.reach = Reach::Ports;
    about.version = headers.version;
    about.l3 = headers.l3;
    about.l4 = headers.l4;
    about.end = headers.end;
    true
}
