//! What few packets of forwarded services need: fragments, ICMP, addresses rewritten, QUIC, packets
//! to be unpacked, answers of our own. Each function here is one that the XDP program outlines.

use network_types::eth::EtherType;

use crate::{
    addr::{Address, Be16},
    answer::{self, Problem},
    checksum,
    forward::{Forward, Link, hash_kind, mode, on_empty},
    fragment::{FragmentKey, FragmentValue, LIFETIME},
    frame::{Edit, Frame},
    journey::{Decision, Found, Then},
    nat,
    parse::{Headers, Reach, next},
    quic,
    send::{self, SendTables},
    service::{flag, kind, proto},
    settings::gate,
    steer::{self, Question, Spend, Steered},
    verdict::Reason,
};

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
    let question = Question {
        headers,
        service,
        is_limited: settings.gates & gate::LIMITS != 0 && decision.flags & flag::LIMITED != 0,
        is_quoted: decision.flags & flag::QUOTED != 0,
        forward,
        settings,
    };
    let named = if forward.hash == hash_kind::QUIC && headers.proto == proto::UDP {
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
        })
    } else if IS_WIDE {
        steer::choose6(&question, tables)
    } else {
        steer::choose4(&question, tables)
    };
    let mut steered = match steered {
        Ok(steered) => steered,
        Err(reason) if reason.0 == Reason::NO_MEMBER.0 => {
            return tables.answer(frame, headers, service, 0, reason);
        }
        Err(reason) => return Detoured::end(0, reason),
    };
    if decision.flags & flag::QUOTED != 0 {
        steered.reason = Reason::STEERED_ICMP;
        if forward.mode == mode::NAT {
            // What it quotes are the ends before they were rewritten.
            return Detoured::end(steered.member, Reason::ICMP_TO_VIP);
        }
    } else if headers.is_fragment || forward.mode == mode::NAT {
        return tables.rest(frame, headers, service, &steered);
    }
    let reason = steered.reason;
    if decision.reason.0 == Reason::LIMIT_REPORTED.0 && decision.flags & flag::QUOTED == 0 {
        steered.reason = Reason::STEERED_REPORTED;
    }
    deliver(frame, headers, forward, service, &steered, reason, tables)
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

/// Sends a steered packet, and counts it for its member as `counted`.
#[inline(always)]
fn deliver<F, T>(
    frame: &mut F,
    headers: &Headers,
    forward: &Forward,
    service: u16,
    steered: &Steered<'_>,
    counted: Reason,
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
            tables.count_member(member, bytes, counted);
            Detoured {
                service,
                member,
                reason: steered.reason,
                ifindex,
            }
        }
        Err(reason) if reason.0 == Reason::TOO_BIG.0 => {
            tables.answer(frame, headers, service, member, reason)
        }
        Err(reason) => Detoured::end(member, reason),
    }
}

/// Sends what was steered and needs more than an outer header: a first fragment, whose datagram is
/// noted for the later ones, or a packet of `nat`.
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
        };
        tables.add_fragment(&key, &value);
    }
    let steered = Steered {
        member,
        head,
        reason,
    };
    if forward.mode == mode::NAT {
        let bytes = crate::journey::bytes(frame, headers);
        return match nat::translate(frame, headers, forward, service, member, head, tables) {
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
    deliver(frame, headers, forward, service, &steered, reason, tables)
}

/// What the fragments of a datagram have in common; `None` where it cannot be read.
#[inline(always)]
fn fragment_key<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<FragmentKey> {
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
    let bytes = frame.total_len() as u64;
    // Nobody has looked at its lengths yet.
    if headers.end > frame.total_len() || headers.end < headers.l4 {
        return Detoured {
            service: value.service,
            ..Detoured::end(0, Reason::BAD_IP_HEADER)
        };
    }
    let (reason, ifindex) = match send::send(frame, headers, forward, value.member, head, tables) {
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
    if kind == if is_v4 { 8 } else { 128 } && code == 0 && decision.flags & flag::ECHO != 0 {
        let is_answered = !headers.is_fragment
            && headers.end >= headers.l4
            && headers.end <= frame.total_len()
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
    let is_error = if is_v4 {
        kind == 3 || kind == 11 || kind == 12
    } else {
        kind >= 1 && kind <= 4
    };
    let mut about = Headers::default();
    if !is_error || headers.is_fragment || !quoted(frame, headers, &mut about) {
        return Detoured::end(0, decision.reason);
    }
    let found = tables.find_service(&about);
    if found.kind != kind::FORWARDED {
        return Detoured::end(0, decision.reason);
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
        at + 40
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

/// A member's answer under `nat`: back to its client.
#[inline(always)]
pub fn give_back<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    match nat::give_back(frame, headers, tables) {
        Ok((service, member, ifindex)) => Detoured {
            service,
            member,
            reason: Reason::RETURNED,
            ifindex,
        },
        Err(reason) => Detoured::end(0, reason),
    }
}

/// Takes the outer header off a packet from a source that may send such, and hands it to the stack.
/// All others are the stack's as they are: the host may have tunnels of its own.
#[inline(always)]
pub fn unpack<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Detoured
where
    F: Edit + ?Sized,
    T: SendTables,
{
    if headers.is_fragment || !tables.may_encapsulate(headers.version, &headers.source) {
        return Detoured::end(0, Reason::NOT_A_SERVICE);
    }
    let reason = match unwrap(frame, headers, tables) {
        Some(()) => Reason::UNPACKED,
        None => Reason::BAD_INNER,
    };
    Detoured::end(0, reason)
}

/// `None`: the inner packet is none, or for nobody here.
#[inline(always)]
fn unwrap<F, T>(frame: &mut F, headers: &Headers, tables: &T) -> Option<()>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let l3 = headers.l3;
    let at = if headers.proto == proto::UDP {
        headers.l4 + 8
    } else {
        headers.l4
    };
    let outer = frame.read::<2>(l3)?;
    let outer_tos = if headers.version == 4 {
        outer[1]
    } else {
        (outer[0] << 4) | (outer[1] >> 4)
    };
    let first = frame.read::<20>(at)?;
    let version = first[0] >> 4;
    let is_right = match headers.proto {
        proto::IPIP => version == 4,
        proto::IPV6 => version == 6,
        _ => version == 4 || version == 6,
    };
    if !is_right || headers.end > frame.total_len() {
        return None;
    }
    let (len, to, inner) = if version == 4 {
        let f = first;
        if f[0] & 15 < 5 {
            return None;
        }
        (
            u16::from_be_bytes([f[2], f[3]]) as usize,
            Address::from_v4([f[16], f[17], f[18], f[19]]),
            f[1],
        )
    } else {
        (
            u16::from_be_bytes([first[4], first[5]]) as usize + 40,
            Address::from_v6(frame.read::<16>(at + 24)?),
            (first[0] << 4) | (first[1] >> 4),
        )
    };
    // The outer packet holds the inner one, and the inner one is for this host.
    if len < 20 || at + len > headers.end || !tables.is_local(&to) {
        return None;
    }
    let tos = unpacked_tos(outer_tos, inner)?;
    let macs = frame.read::<12>(0)?;
    let tags = frame.read::<8>(12)?;
    frame.pull(at - l3)?;
    let link = Link::new(
        [macs[0], macs[1], macs[2], macs[3], macs[4], macs[5]],
        [macs[6], macs[7], macs[8], macs[9], macs[10], macs[11]],
        0,
        0,
    );
    let ether_type = if version == 4 {
        EtherType::Ipv4
    } else {
        EtherType::Ipv6
    };
    send::link_header(frame, l3, &link, tags, ether_type as u16)?;
    if tos == inner {
        return Some(());
    }
    if version == 4 {
        let check = frame.read::<2>(l3 + 10)?;
        let word = |tos| u64::from(u16::from_ne_bytes([first[0], tos]));
        frame.write(l3 + 10, checksum::update(check, word(inner), word(tos)))?;
        frame.write(l3 + 1, [tos])
    } else {
        frame.write(l3, [0x60 | (tos >> 4), (tos << 4) | (first[1] & 15)])
    }
}

/// The inner traffic class after what the way of the tunnel made of the outer one (RFC 6040 section
/// 4.2). `None`: congestion was marked on a packet whose sender does not know the mark.
#[inline(always)]
const fn unpacked_tos(outer: u8, inner: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (0, 3) => None,
        (1 | 2, 3) => Some(inner | 3),
        (2, 1) => Some(inner & !3 | 1),
        _ => Some(inner),
    }
}
