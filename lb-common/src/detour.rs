//! What few packets of forwarded services need: fragments, ICMP, addresses rewritten, QUIC, packets
//! to be unpacked, answers of our own. Each function here is one that the XDP program outlines.

use crate::{
    addr::Address,
    answer::{self, Problem},
    forward::{Forward, hash_kind, mode, on_empty},
    fragment::FragmentValue,
    frame::{Edit, Frame},
    guard::Limited,
    journey::{Decision, Found, Then},
    nat,
    parse::Headers,
    quic,
    send::{self, SendTables},
    service::{flag, proto},
    settings::gate,
    steer::{self, Question, Spend, Steered},
    verdict::Reason,
};

mod fragments;
mod icmp;
mod unpack;

pub use fragments::fragment;
use fragments::fragment_key;
pub use icmp::icmp;
pub(crate) use icmp::ports_v6;
pub use unpack::unpack;

/// How a packet that took a detour left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Detoured {
    /// Its service; 0: the one that was known before.
    pub service: u16,
    /// Its member; 0: none.
    pub member: u16,
    /// Why.
    pub reason: Reason,
    /// Interface that it is sent from; 0: the one it came in by.
    pub ifindex: u32,
}

impl Detoured {
    /// Ends with a reason, sent nowhere.
    #[inline(always)]
    #[must_use]
    pub const fn end(member: u16, reason: Reason) -> Self {
        Self {
            service: 0,
            member,
            reason,
            ifindex: 0,
        }
    }

    /// As it is counted: what was steered though over a limit that reports has a reason of its own.
    /// What was not sent, and ICMP, which no flow's limit is about, keep theirs.
    #[inline(always)]
    #[must_use]
    pub const fn under(mut self, limited: Limited) -> Self {
        let since = self.reason.0.wrapping_sub(Reason::STEERED.0);
        if limited.is_reported() && since <= Reason::STEERED_ANEW.0 - Reason::STEERED.0 {
            self.reason = Reason::STEERED_REPORTED;
        }
        self
    }

    /// As one word, for a function that can return no more.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        // Service and member ids are below 2^12.
        (self.ifindex as u64) << 32
            | (self.service as u64 & 0xfff) << 20
            | (self.member as u64 & 0xfff) << 8
            | self.reason.0 as u64
    }

    /// From [`pack`](Self::pack).
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            service: (word >> 20) as u16 & 0xfff,
            member: (word >> 8) as u16 & 0xfff,
            reason: Reason(word as u8),
            ifindex: (word >> 32) as u32,
        }
    }
}

/// Where a step goes on as another one: a jump in the XDP program, a call on the host.
pub trait Detours<F: Edit + ?Sized>: SendTables + Sized {
    /// [`rest`].
    fn rest(
        &self,
        frame: &mut F,
        headers: &Headers,
        service: u16,
        steered: &Steered<'_>,
    ) -> Detoured {
        rest(
            frame,
            headers,
            service,
            steered.member,
            steered.reason,
            self,
        )
        .under(steered.limited)
    }
    /// [`answer`].
    fn answer(
        &self,
        frame: &mut F,
        headers: &Headers,
        service: u16,
        member: u16,
        reason: Reason,
    ) -> Detoured {
        answer(frame, headers, service, member, reason, self)
    }
    /// [`steer`] by the table that `decision` names.
    fn steer(&self, frame: &mut F, headers: &Headers, decision: &Decision) -> Detoured {
        if decision.then == Then::Steer4 {
            steer::<F, Self, false>(frame, headers, decision, self)
        } else {
            steer::<F, Self, true>(frame, headers, decision, self)
        }
    }
    /// [`named`].
    fn named(&self, frame: &F, headers: &Headers, forward: &Forward) -> u16 {
        named(frame, headers, forward, self)
    }
    /// [`quoted`].
    fn quoted(&self, frame: &mut F, about: &Headers, service: u16, member: u16) -> Detoured {
        quoted(frame, about, service, member, self)
    }
    /// [`crate::journey::find`].
    fn find_service(&self, headers: &Headers) -> Found {
        crate::journey::find(headers, self)
    }
}

/// Steers a packet and sends it to its member. `IS_WIDE`: by `FLOWS6`.
#[inline(always)]
pub fn steer<F, T, const IS_WIDE: bool>(
    frame: &mut F,
    headers: &Headers,
    decision: &Decision,
    tables: &T,
) -> Detoured
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let service = decision.service;
    let (Some(settings), Some(forward)) = (tables.settings(), tables.forward(service)) else {
        return Detoured::end(0, Reason::NOT_FORWARDED);
    };
    let is_quoted = decision.flags & flag::QUOTED != 0;
    let question = Question {
        headers,
        service,
        is_limited: settings.gates & gate::LIMITS != 0 && decision.flags & flag::LIMITED != 0,
        limited: Limited::of_flags(decision.flags),
        is_quoted,
        forward,
        settings,
    };
    // Behind the ports of a quoted flow there is nothing of its client's.
    let named = if forward.hash == hash_kind::QUIC && headers.proto == proto::UDP && !is_quoted {
        tables.named(frame, headers, forward)
    } else {
        0
    };
    let steered = if let Some(head) = tables.member(named)
        && named != 0
    {
        Ok(Steered {
            member: named,
            head,
            reason: Reason::STEERED,
            limited: question.limited,
        })
    } else if IS_WIDE {
        steer::choose6(&question, tables)
    } else {
        steer::choose4(&question, tables)
    };
    let mut steered = match steered {
        Ok(steered) => steered,
        // An ICMP error is answered by nothing (RFC 1122 section 3.2.2).
        Err(reason) if reason.0 == Reason::NO_MEMBER.0 && !is_quoted => {
            return tables.answer(frame, headers, service, 0, reason);
        }
        Err(reason) => return Detoured::end(0, reason),
    };
    if is_quoted {
        steered.reason = Reason::STEERED_ICMP;
    }
    if is_quoted && forward.mode == mode::NAT {
        return tables.quoted(frame, headers, service, steered.member);
    }
    if headers.is_fragment || forward.mode == mode::NAT {
        return tables.rest(frame, headers, service, &steered);
    }
    let limited = steered.limited;
    deliver(frame, headers, forward, service, &steered, tables).under(limited)
}

/// The member that a QUIC connection id names; 0: nobody who takes packets.
#[inline(always)]
pub fn named<F, T>(frame: &F, headers: &Headers, forward: &Forward, tables: &T) -> u16
where
    F: Frame + ?Sized,
    T: SendTables,
{
    let Some(key) = quic::server_id(frame, headers, forward.balancer, forward.quic_len) else {
        return 0;
    };
    let Some(value) = tables.server_id(&key) else {
        return 0;
    };
    match tables.member(value.member) {
        Some(head) if steer::keeps(head, value.incarnation) => value.member,
        _ => 0,
    }
}

/// Sends a steered packet, and counts it for its member.
#[inline(always)]
fn deliver<F, T>(
    frame: &mut F,
    headers: &Headers,
    forward: &Forward,
    service: u16,
    steered: &Steered<'_>,
    tables: &T,
) -> Detoured
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let bytes = crate::journey::bytes(frame, headers);
    let member = steered.member;
    match send::send(frame, headers, forward, member, steered.head, tables) {
        Ok(ifindex) => {
            tables.count_member(member, bytes, steered.reason);
            Detoured {
                service,
                member,
                reason: steered.reason,
                ifindex,
            }
        }
        Err(reason)
            if reason.0 == Reason::TOO_BIG.0 && steered.reason.0 != Reason::STEERED_ICMP.0 =>
        {
            tables.answer(frame, headers, service, member, reason)
        }
        Err(reason) => Detoured::end(member, reason),
    }
}

/// Sends what was steered and needs more than an outer header: a first fragment, whose datagram is
/// noted for the later ones, or a packet of `nat`. Whether it is over a limit the caller adds.
#[inline(always)]
pub fn rest<F, T>(
    frame: &mut F,
    headers: &Headers,
    service: u16,
    member: u16,
    reason: Reason,
    tables: &T,
) -> Detoured
where
    F: Edit + ?Sized,
    T: Detours<F>,
{
    let (Some(forward), Some(head)) = (tables.forward(service), tables.member(member)) else {
        return Detoured::end(0, Reason::NOT_FORWARDED);
    };
    if headers.is_fragment
        && let Some(key) = fragment_key(frame, headers)
    {
        let value = FragmentValue {
            beat: tables.beat(),
            member,
            service,
            answer: 0,
            incarnation: head.incarnation,
        };
        tables.add_fragment(&key, &value);
    }
    let steered = Steered {
        member,
        head,
        reason,
        limited: Limited::WITHIN,
    };
    if forward.mode == mode::NAT {
        let bytes = crate::journey::bytes(frame, headers);
        return match nat::translate(
            frame, headers, forward, service, member, head, false, tables,
        ) {
            Ok(ifindex) => {
                tables.count_member(member, bytes, reason);
                Detoured {
                    service,
                    member,
                    reason,
                    ifindex,
                }
            }
            Err(reason) => Detoured::end(member, reason),
        };
    }
    deliver(frame, headers, forward, service, &steered, tables)
}

/// Answers a packet that cannot be sent on, if its service says so and this beat's answers are not
/// used up: turns the frame into the answer. `reason`: [`Reason::TOO_BIG`] or [`Reason::NO_MEMBER`].
#[inline(always)]
pub fn answer<F, T>(
    frame: &mut F,
    headers: &Headers,
    service: u16,
    member: u16,
    reason: Reason,
    tables: &T,
) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let (Some(forward), Some(settings)) = (tables.forward(service), tables.settings()) else {
        return Detoured::end(member, reason);
    };
    let is_too_big = reason.0 == Reason::TOO_BIG.0;
    if !is_too_big && forward.on_empty == on_empty::DROP
        || !tables.spend(Spend::Answer, settings.answers, tables.beat())
    {
        return Detoured::end(member, reason);
    }
    if !is_too_big && headers.proto == proto::TCP {
        return match answer::reset(frame, headers) {
            Some(()) => Detoured::end(0, Reason::REFUSED),
            None => Detoured::end(0, reason),
        };
    }
    let (problem, answered) = if is_too_big {
        let is_v4 = (tables.member(member)).is_some_and(|m| Address(m.address).as_v4().is_some());
        let mtu = tables.hop(member).map_or(send::DEFAULT_MTU, |hop| {
            send::mtu(forward, &send::known(&hop))
        });
        let fits = mtu.saturating_sub(send::overhead(forward, is_v4) as u32);
        let problem = Problem::TooBig(fits.min(0xffff) as u16);
        (problem, Reason::TOO_BIG_ANSWERED)
    } else {
        (Problem::PortUnreachable, Reason::REFUSED)
    };
    match answer::error(frame, headers, problem) {
        Some(()) => Detoured::end(member, answered),
        None => Detoured::end(member, reason),
    }
}

/// A member's answer under `nat`: back to its client.
#[inline(always)]
pub fn give_back<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    give_back_as(frame, headers, false, tables)
}

#[inline(always)]
fn give_back_as<F, T>(frame: &mut F, headers: &Headers, is_quoted: bool, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    // Before the addresses are others.
    let key = if headers.is_fragment && !is_quoted {
        fragment_key(frame, headers)
    } else {
        None
    };
    match nat::give_back(frame, headers, is_quoted, tables) {
        Ok(back) => {
            if let Some(key) = key {
                let value = FragmentValue {
                    beat: tables.beat(),
                    member: back.member,
                    service: back.service,
                    answer: back.index + 1,
                    // Its connection's entry has that.
                    incarnation: 0,
                };
                tables.add_fragment(&key, &value);
            }
            Detoured {
                service: back.service,
                member: back.member,
                reason: Reason::RETURNED,
                ifindex: back.ifindex,
            }
        }
        Err(reason) => Detoured::end(0, reason),
    }
}

/// An ICMP error about a connection of `nat`, whose flow is `about`: to the member, or without one
/// back to the client.
#[inline(always)]
pub fn quoted<F, T>(
    frame: &mut F,
    about: &Headers,
    service: u16,
    member: u16,
    tables: &T,
) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    if member == 0 {
        return give_back_as(frame, about, true, tables);
    }
    let (Some(forward), Some(head)) = (tables.forward(service), tables.member(member)) else {
        return Detoured::end(0, Reason::NOT_FORWARDED);
    };
    let bytes = crate::journey::bytes(frame, about);
    match nat::translate(frame, about, forward, service, member, head, true, tables) {
        Ok(ifindex) => {
            let reason = Reason::STEERED_ICMP;
            tables.count_member(member, bytes, reason);
            Detoured {
                service,
                member,
                reason,
                ifindex,
            }
        }
        Err(reason) => Detoured::end(member, reason),
    }
}
