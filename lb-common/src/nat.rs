//! `NAT`: connections whose addresses are rewritten. One entry serves both directions, so that both
//! live and die together.
//!
//! An entry's index is made of the member (address, port, protocol) and of our source port, modulo
//! the table. A member's answer names all four, so it finds its entry at once; a client's packet
//! tries the source ports that its flow's hash names, one after the other.

#![expect(
    clippy::many_single_char_names,
    reason = "the bytes of header fields, side by side"
)]

use core::hint::black_box;

use crate::{
    addr::Address,
    checksum,
    flow::{self, Flow, slot},
    flow_table::{Entry, State},
    forward::{Forward, Link},
    frame::Edit,
    member::MemberHead,
    parse::{Headers, tcp},
    send::{self, SendTables, macs},
    service::proto,
    settings::Settings,
    track::{Ages, CLOSING_BEATS, SEEN_BEATS},
    verdict::Reason,
};

mod quoted;

/// One connection, 64 bytes: one cache line. Filled as the ways of [`crate::flow_table`] are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NatEntry {
    /// [`crate::flow_table::Entry`]: member, state, last beat, tag of the client's flow.
    pub value: u64,
    /// Client's port, service's port, our port: network order.
    pub client_port: [u8; 2],
    /// As above.
    pub service_port: [u8; 2],
    /// As above.
    pub our_port: [u8; 2],
    /// Service id.
    pub service: u16,
    /// Client.
    pub client: Address,
    /// The service's address as the client named it.
    pub destination: Address,
    /// Bits of [`seen`].
    pub seen: u8,
    /// Interface that the client's packets come in by, little-endian.
    pub ifindex: [u8; 3],
    /// Where the client's frames come from.
    pub client_mac: [u8; 6],
    /// Where they go to: ours.
    pub our_mac: [u8; 6],
}

/// What was seen of a connection.
pub mod seen {
    /// A FIN of the client.
    pub const CLIENT_FIN: u8 = 1 << 0;
    /// A FIN of the member.
    pub const MEMBER_FIN: u8 = 1 << 1;
    /// An answer of the member: the connection is two-way.
    pub const ANSWERED: u8 = 1 << 2;
    /// UDP, not TCP.
    pub const UDP: u8 = 1 << 7;
}

/// Source ports that are tried before a new connection is refused.
pub const PROBES: usize = 8;

const _: () = assert!(size_of::<NatEntry>() == 64);
const _: () = assert!(core::mem::offset_of!(NatEntry, seen) == 48);

/// Where the connections with one member begin: all its source ports lie behind, one an entry.
#[inline(always)]
const fn bank(address: &Address, port: [u8; 2], is_udp: bool, seed: u64) -> u32 {
    let [a, b] = address.words();
    let [x, y] = port;
    let tail = (x as u64) | (y as u64) << 8 | (is_udp as u64) << 16;
    let h = (a ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let h = (h ^ (h >> 32) ^ b).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let h = (h ^ (h >> 29) ^ tail).wrapping_mul(0x94D0_49BB_1331_11EB);
    (h >> 32) as u32
}

/// Whether an entry may be given to another connection.
#[inline(always)]
fn is_free(entry: Entry, ages: &Ages) -> bool {
    let age = entry.age(ages.now);
    match entry.state() {
        State::EMPTY => true,
        State::FILLING | State::CLOSING => age >= CLOSING_BEATS,
        // Nobody has answered.
        State::NEW => age >= SEEN_BEATS,
        _ => ages.is_idle(entry),
    }
}

/// A packet's addresses and ports.
struct Ends {
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// What is rewritten.
#[derive(Clone, Copy)]
enum What {
    /// Addresses and ports.
    Whole,
    /// Addresses: a later fragment has no ports.
    Fragment,
    /// An ICMP error, and the packet of the flow that it quotes.
    Quoted,
}

impl What {
    #[inline(always)]
    const fn of(is_quoted: bool) -> Self {
        if is_quoted { Self::Quoted } else { Self::Whole }
    }
}

/// The way to a member, which must be of the packet's family and VLAN; there must be an address to
/// come from.
#[inline(always)]
fn way<F: Edit + ?Sized, T: SendTables>(
    frame: &F,
    headers: &Headers,
    forward: &Forward,
    member: u16,
    to: &Address,
    tables: &T,
) -> Result<Link, Reason> {
    if to.as_v4().is_some() != (headers.version == 4) || forward.nat_ports == 0 {
        return Err(Reason::NOT_FORWARDED);
    }
    let link = send::link(tables, member, to).ok_or(Reason::NO_NEIGHBOUR)?;
    if send::may_leave(frame, headers, &link) {
        Ok(link)
    } else {
        Err(Reason::NOT_FORWARDED)
    }
}

/// Gives a packet its new ends and sends it by a link.
#[inline(always)]
fn leave<F: Edit + ?Sized>(
    frame: &mut F,
    headers: &Headers,
    ends: &Ends,
    link: &Link,
    what: What,
) -> Result<(), Reason> {
    send::lower_ttl(frame, headers)?;
    match what {
        What::Whole => rewrite(frame, headers, ends, true),
        What::Fragment => rewrite(frame, headers, ends, false),
        What::Quoted => quoted::rewrite(frame, headers, ends),
    }
    .and_then(|()| frame.write(0, macs(link)))
    .ok_or(Reason::NOT_REWRITTEN)
}

/// Rewrites a client's packet for its member, or an ICMP error about one of its connections, whose
/// flow `headers` then is. Returns the interface to send it from.
#[expect(
    clippy::too_many_arguments,
    reason = "one packet, and all that is known of it"
)]
#[inline(always)]
pub fn translate<F, T>(
    frame: &mut F,
    headers: &Headers,
    forward: &Forward,
    service: u16,
    member: u16,
    head: &MemberHead,
    is_quoted: bool,
    tables: &T,
) -> Result<u32, Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let ours = forward.source(headers.version == 4);
    let Some(settings) = tables.settings() else {
        return Err(Reason::NOT_FORWARDED);
    };
    let to = Address(head.address);
    let link = way(frame, headers, forward, member, &to, tables)?;
    let our_port = connection(
        frame, headers, forward, service, member, head, is_quoted, settings, tables,
    )?;
    let ends = Ends {
        source: ours,
        destination: to,
        source_port: our_port,
        destination_port: head.port,
    };
    leave(frame, headers, &ends, &link, What::of(is_quoted))?;
    Ok(link.ifindex)
}

/// Finds or makes the entry of a client's packet: our port. None is made for a quoted one.
#[expect(
    clippy::too_many_arguments,
    reason = "one packet, and all that is known of it"
)]
#[inline(always)]
fn connection<F, T>(
    frame: &F,
    headers: &Headers,
    forward: &Forward,
    service: u16,
    member: u16,
    head: &MemberHead,
    is_quoted: bool,
    settings: &Settings,
    tables: &T,
) -> Result<[u8; 2], Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let is_udp = headers.proto != proto::TCP;
    let ages = Ages::of(forward, tables.beat());
    let mut hash = Flow::of(headers).hash(settings.flow_seed[0]);
    let tag = hash as u16;
    let bank = bank(
        &Address(head.address),
        head.port,
        is_udp,
        settings.flow_seed[1],
    );
    let mut free = (false, 0, 0, 0);
    for _ in 0..black_box(PROBES) {
        let port = forward
            .nat_first
            .wrapping_add(slot(hash, u32::from(forward.nat_ports)) as u16);
        let index = bank.wrapping_add(u32::from(port)) & tables.nat_mask();
        if let Some(is) = tables.nat(index) {
            let entry = Entry(is.value);
            let is_udp_too = (is.seen & seen::UDP != 0) == is_udp;
            if entry.state() > State::FILLING
                && entry.tag() == tag
                && entry.member() == member
                && entry.incarnation() == head.incarnation as u8
                && is.service == service
                && is_udp_too
                && is.our_port == port.to_be_bytes()
                && is.client_port == headers.source_port.0
                && is.service_port == headers.destination_port.0
                && is.client.words() == headers.source.words()
                && is.destination.words() == headers.destination.words()
            {
                // Its ports again, for another connection: in the same place, for there its next
                // packets look first.
                if headers.is_syn() && entry.state() == State::CLOSING {
                    free = (true, index, port, is.value);
                    break;
                }
                if !is_quoted {
                    let fin = seen::CLIENT_FIN;
                    go_on(headers, index, entry, is.seen, fin, ages.now, tables);
                }
                return Ok(is.our_port);
            }
            if !free.0 && is_free(entry, &ages) {
                free = (true, index, port, is.value);
            }
        }
        hash = flow::again(hash);
    }
    if is_quoted {
        return Err(Reason::ICMP_TO_VIP);
    }
    // What is in the middle of a connection that we do not know of begins none.
    if !is_udp && !headers.is_syn() {
        return Err(Reason::NO_CONNECTION);
    }
    let (true, index, port, old) = free else {
        return Err(Reason::NO_PORT);
    };
    let macs = frame.read::<12>(0).ok_or(Reason::NOT_REWRITTEN)?;
    let m = macs;
    let [a, b, c, _] = tables.ingress().to_le_bytes();
    let filling = Entry::new(0, 0, State::FILLING, ages.now, 0).0;
    if !tables.replace_nat(index, old, filling) {
        return Err(Reason::NO_PORT);
    }
    let mut value = Entry::new(member, head.incarnation as u8, State::NEW, ages.now, tag);
    if is_udp {
        value.0 |= Entry::DATAGRAM;
    }
    let entry = NatEntry {
        value: 0,
        client_port: headers.source_port.0,
        service_port: headers.destination_port.0,
        our_port: port.to_be_bytes(),
        service,
        client: headers.source,
        destination: headers.destination,
        seen: if is_udp { seen::UDP } else { 0 },
        ifindex: [a, b, c],
        client_mac: [m[6], m[7], m[8], m[9], m[10], m[11]],
        our_mac: [m[0], m[1], m[2], m[3], m[4], m[5]],
    };
    tables.fill_nat(index, &entry);
    if !tables.replace_nat(index, filling, value.0) {
        return Err(Reason::NO_PORT);
    }
    Ok(port.to_be_bytes())
}

/// What a packet makes of its connection's entry. `fin`: the bit of its direction.
#[inline(always)]
fn go_on<T: SendTables>(
    headers: &Headers,
    index: u32,
    entry: Entry,
    was: u8,
    fin: u8,
    now: u32,
    tables: &T,
) {
    let is_tcp = headers.proto == proto::TCP;
    let flags = if is_tcp { headers.tcp_flags } else { 0 };
    let mut bits = was;
    if fin == seen::MEMBER_FIN {
        bits |= seen::ANSWERED;
    }
    if flags & tcp::FIN != 0 {
        bits |= fin;
    }
    if bits != was {
        tables.mark_nat(index, bits);
    }
    let both = seen::CLIENT_FIN | seen::MEMBER_FIN;
    let state = if flags & tcp::RST != 0 || bits & both == both {
        State::CLOSING
    } else if bits & seen::ANSWERED != 0 && entry.state() != State::CLOSING {
        State::LIVE
    } else {
        entry.state()
    };
    let new = entry.seen_as(state, now);
    if new != entry {
        // Lost to another CPU: that one saw a packet of the connection as well.
        tables.replace_nat(index, entry.0, new.0);
    }
}

/// Puts the addresses of a member's answer back, or of an ICMP error about what was sent to it, whose
/// flow `headers` then is.
#[inline(always)]
pub fn give_back<F, T>(
    frame: &mut F,
    headers: &Headers,
    is_quoted: bool,
    tables: &T,
) -> Result<Back, Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let Some(settings) = tables.settings() else {
        return Err(Reason::NO_CONNECTION);
    };
    let is_udp = headers.proto != proto::TCP;
    let bank = bank(
        &headers.source,
        headers.source_port.0,
        is_udp,
        settings.flow_seed[1],
    );
    let our_port = u32::from(headers.destination_port.to_u16());
    let index = bank.wrapping_add(our_port) & tables.nat_mask();
    let (Some(is), now) = (tables.nat(index), tables.beat()) else {
        return Err(Reason::NO_CONNECTION);
    };
    let entry = Entry(is.value);
    if is.our_port != headers.destination_port.0
        || (is.seen & seen::UDP != 0) != is_udp
        || !is_between(headers, &is, Some(headers.source_port.0), tables)
    {
        return Err(Reason::NO_CONNECTION);
    }
    if !is_quoted {
        let fin = seen::MEMBER_FIN;
        go_on(headers, index, entry, is.seen, fin, now, tables);
    }
    to_client(frame, headers, &is, index, What::of(is_quoted))
}

/// What is known of a packet that went back to its client.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    /// Service.
    pub service: u16,
    /// Member that it is from.
    pub member: u16,
    /// Interface to send it from.
    pub ifindex: u32,
    /// Its connection's entry.
    pub index: u32,
}

/// Whether a packet is from an entry's member, as that is now, to the address that its service sends
/// from. `port`: the member's, where the packet names it.
#[inline(always)]
fn is_between<T: SendTables>(
    headers: &Headers,
    is: &NatEntry,
    port: Option<[u8; 2]>,
    tables: &T,
) -> bool {
    let entry = Entry(is.value);
    let (Some(head), Some(forward)) = (tables.member(entry.member()), tables.forward(is.service))
    else {
        return false;
    };
    let ours = forward.source(headers.version == 4);
    entry.state() > State::FILLING
        && head.incarnation as u8 == entry.incarnation()
        && port.is_none_or(|port| port == head.port)
        && Address(head.address).words() == headers.source.words()
        && ours.words() == headers.destination.words()
}

/// Puts the client's addresses into a packet and sends it the way that the client's came.
#[inline(always)]
fn to_client<F: Edit + ?Sized>(
    frame: &mut F,
    headers: &Headers,
    is: &NatEntry,
    index: u32,
    what: What,
) -> Result<Back, Reason> {
    let ends = Ends {
        source: is.destination,
        destination: is.client,
        source_port: is.service_port,
        destination_port: is.client_port,
    };
    let [a, b, c] = is.ifindex;
    let link = Link::new(is.client_mac, is.our_mac, 0, 0);
    leave(frame, headers, &ends, &link, what)?;
    Ok(Back {
        service: is.service,
        member: Entry(is.value).member(),
        ifindex: u32::from_le_bytes([a, b, c, 0]),
        index,
    })
}

/// Puts the addresses of a later fragment of a member's answer back, which has no ports. `index`: the
/// entry that its first fragment had; `service`: that entry's then.
#[inline(always)]
pub fn give_back_fragment<F, T>(
    frame: &mut F,
    headers: &Headers,
    index: u32,
    service: u16,
    tables: &T,
) -> Result<Back, Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    match tables.nat(index) {
        Some(is) if is.service == service && is_between(headers, &is, None, tables) => {
            to_client(frame, headers, &is, index, What::Fragment)
        }
        _ => Err(Reason::NO_CONNECTION),
    }
}

/// Rewrites the addresses of a later fragment, which has no ports.
#[inline(always)]
pub fn translate_fragment<F, T>(
    frame: &mut F,
    headers: &Headers,
    forward: &Forward,
    member: u16,
    head: &MemberHead,
    tables: &T,
) -> Result<u32, Reason>
where
    F: Edit + ?Sized,
    T: SendTables,
{
    let to = Address(head.address);
    let link = way(frame, headers, forward, member, &to, tables)?;
    let ends = Ends {
        source: forward.source(headers.version == 4),
        destination: to,
        source_port: [0; 2],
        destination_port: [0; 2],
    };
    leave(frame, headers, &ends, &link, What::Fragment)?;
    Ok(link.ifindex)
}

/// Writes other ends into a packet, and what its checksums become by it (RFC 1624).
#[inline(always)]
fn rewrite<F: Edit + ?Sized>(
    frame: &mut F,
    headers: &Headers,
    ends: &Ends,
    has_ports: bool,
) -> Option<()> {
    let halves = |a: &Address| {
        let [x, y] = a.words();
        (x >> 32) + (x & 0xffff_ffff) + (y >> 32) + (y & 0xffff_ffff)
    };
    // Of a mapped address the words that it does not have on the wire cancel each other.
    let old = halves(&headers.source) + halves(&headers.destination);
    let new = halves(&ends.source) + halves(&ends.destination);
    let l3 = headers.l3;
    if headers.version == 4 {
        let check = frame.read::<2>(l3 + 10)?;
        frame.write(l3 + 10, checksum::update(check, old, new))?;
        let (s, d) = (&ends.source.0, &ends.destination.0);
        frame.write(
            l3 + 12,
            [s[12], s[13], s[14], s[15], d[12], d[13], d[14], d[15]],
        )?;
    } else {
        frame.write(l3 + 8, ends.source.0)?;
        frame.write(l3 + 24, ends.destination.0)?;
    }
    if !has_ports {
        return Some(());
    }
    let port = |p: [u8; 2]| u64::from(u16::from_ne_bytes(p));
    let old = old + port(headers.source_port.0) + port(headers.destination_port.0);
    let new = new + port(ends.source_port) + port(ends.destination_port);
    let is_udp = headers.proto == proto::UDP;
    let at = headers.l4 + if is_udp { 6 } else { 16 };
    let check = frame.read::<2>(at)?;
    // UDP over IPv4 may go without; and what comes out as 0 is written as the other zero.
    if !is_udp || check != [0, 0] {
        let mut check = checksum::update(check, old, new);
        if is_udp && check == [0, 0] {
            check = [0xff, 0xff];
        }
        frame.write(at, check)?;
    }
    let ([a, b], [c, d]) = (ends.source_port, ends.destination_port);
    frame.write(headers.l4, [a, b, c, d])
}

#[cfg(test)]
mod tests;
