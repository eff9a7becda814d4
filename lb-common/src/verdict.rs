//! What becomes of a packet, why, and where it is counted.

/// One cell of `COUNTERS`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of the frames, link layer included.
    pub bytes: u64,
}

/// Why a packet was passed or dropped. Dense: an index into `COUNTERS`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Reason(pub u8);

/// What the program tells the driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Up the stack, untouched.
    Pass,
    /// Gone.
    Drop,
    /// Out again, by this interface or another.
    Send,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $index:literal, $text:literal, $action:ident;)*) => {
        impl Reason {
            $($(#[doc = $doc])* pub const $name: Self = Self($index);)*
            /// Reasons there may be: the width of a service's row in `COUNTERS`, a power of two so
            /// that reasons can be added without moving the others.
            pub const COUNT: u32 = 64;
            /// Every reason in use.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name under which it is counted, logged and listed in docs/reasons.md.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    _ => "unknown",
                }
            }

            /// What a packet with this reason suffers.
            #[inline(always)]
            #[must_use]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$action,)*
                    _ => Action::Pass,
                }
            }
        }
    };
}

reasons! {
    /// Not IP, or of an address, protocol or port that is no service of ours.
    NOT_A_SERVICE = 0, "not_a_service", Pass;
    /// A local service's packet, to the stack.
    LOCAL = 1, "local", Pass;
    /// Over a limit whose action is `report`.
    LIMIT_REPORTED = 2, "limit_reported", Pass;
    /// The guard is switched off.
    GUARD_OFF = 3, "guard_off", Pass;
    /// ICMP to the host, within its limit.
    ICMP = 4, "icmp", Pass;
    /// A later fragment of a datagram that has no ports to look a service up by.
    FRAGMENT = 5, "fragment", Pass;
    /// IP whose ports cannot be reached (a header length below 20, a frame that ends before them,
    /// more than six IPv6 extension headers), so that it is no service's: the stack's business.
    UNPARSED = 6, "unparsed", Pass;
    /// Neighbour discovery, packet too big, fragmentation needed: never denied, never limited.
    VITAL = 7, "vital", Pass;
    /// Source on the deny list.
    DENIED = 8, "denied", Drop;
    /// IP header of a service's packet is wrong: a length beyond the frame or before the transport
    /// header, or IPv4's checksum.
    BAD_IP_HEADER = 9, "bad_ip_header", Drop;
    /// Transport header of a service's packet is cut short or its length is wrong.
    BAD_TRANSPORT_HEADER = 10, "bad_transport_header", Drop;
    /// TCP flags that no stack sends: two of SYN, RST and FIN together, or none of SYN, RST and
    /// ACK.
    BAD_TCP_FLAGS = 11, "bad_tcp_flags", Drop;
    /// Source address that cannot be one: multicast, broadcast, loopback, unspecified, or the
    /// destination itself (a LAND packet).
    BAD_SOURCE = 12, "bad_source", Drop;
    /// TCP from port 0.
    BAD_PORT = 13, "bad_port", Drop;
    /// Over the source's SYN limit.
    SYN_SOURCE_LIMIT = 16, "syn_source_limit", Drop;
    /// Over the service's SYN limit.
    SYN_SERVICE_LIMIT = 17, "syn_service_limit", Drop;
    /// Over the source's packet limit.
    PACKET_SOURCE_LIMIT = 18, "packet_source_limit", Drop;
    /// Over the service's packet limit.
    PACKET_SERVICE_LIMIT = 19, "packet_service_limit", Drop;
    /// Over the source's datagram limit.
    UDP_SOURCE_LIMIT = 20, "udp_source_limit", Drop;
    /// Over the service's datagram limit.
    UDP_SERVICE_LIMIT = 21, "udp_service_limit", Drop;
    /// Over the source's ICMP limit.
    ICMP_SOURCE_LIMIT = 22, "icmp_source_limit", Drop;
    /// Over the host's ICMP limit.
    ICMP_SERVICE_LIMIT = 23, "icmp_service_limit", Drop;
    /// Over the source's limit of new flows.
    FLOW_SOURCE_LIMIT = 24, "flow_source_limit", Drop;
    /// Over the service's limit of new flows.
    FLOW_SERVICE_LIMIT = 25, "flow_service_limit", Drop;
    /// To the member that the flow table names.
    STEERED = 32, "steered", Send;
    /// A new flow, entered in the table: to the member that the ring names.
    STEERED_NEW = 33, "steered_new", Send;
    /// Not in the table and not entered (its set is full of live flows, this beat's inserts are used
    /// up, or nothing is entered for it): to the member that the ring names.
    STEERED_BY_RING = 34, "steered_by_ring", Send;
    /// In the table, but its member is stopped, failed or gone: to another that the ring names.
    STEERED_ANEW = 35, "steered_anew", Send;
    /// Steered, though over a limit whose action is `report`: of packets, or of new flows.
    STEERED_REPORTED = 36, "steered_reported", Send;
    /// A later fragment: to the member that got the first.
    STEERED_FRAGMENT = 37, "steered_fragment", Send;
    /// An ICMP error about a flow of the service: to that flow's member.
    STEERED_ICMP = 38, "steered_icmp", Send;
    /// A member's answer, its addresses put back: to the client.
    RETURNED = 39, "returned", Send;
    /// ICMP echo to a service's address, answered.
    ECHO_ANSWERED = 40, "echo_answered", Send;
    /// Too large for the way to its member: the sender was told so.
    TOO_BIG_ANSWERED = 41, "too_big_answered", Send;
    /// No member may take it: the sender was told so (TCP reset, ICMP unreachable).
    REFUSED = 42, "refused", Send;
    /// Unpacked, to the stack.
    UNPACKED = 43, "unpacked", Pass;
    /// No member may take it.
    NO_MEMBER = 48, "no_member", Drop;
    /// Too large for the way to its member, and the sender was not told: answers are used up, or
    /// it is a later fragment or an ICMP error.
    TOO_BIG = 49, "too_big", Drop;
    /// Its time to live ends here.
    TTL_EXPIRED = 50, "ttl_expired", Drop;
    /// Nobody knows the next hop's link-layer address.
    NO_NEIGHBOUR = 51, "no_neighbour", Drop;
    /// A later fragment whose first was not seen.
    FRAGMENT_UNKNOWN = 52, "fragment_unknown", Drop;
    /// Echo to a service's address that is not answered; under `nat` an ICMP error about a
    /// connection that is not known.
    ICMP_TO_VIP = 53, "icmp_to_vip", Drop;
    /// No source port is left towards that member.
    NO_PORT = 54, "no_port", Drop;
    /// A member's answer to no connection that we know.
    NO_CONNECTION = 55, "no_connection", Drop;
    /// The way to its member cannot be taken: client and member of different families in `nat`, a
    /// member behind a VLAN whose tag the packet does not bear, `nat` without an address to come from
    /// yet, or a service that says nothing of how to forward.
    NOT_FORWARDED = 56, "not_forwarded", Drop;
    /// The frame could not be rewritten: no room in front of it, or it is shorter than its headers
    /// say.
    NOT_REWRITTEN = 57, "not_rewritten", Drop;
    /// An encapsulated packet whose inner packet is malformed or for nobody here.
    BAD_INNER = 58, "bad_inner", Drop;
    /// Our own encapsulated packet came back.
    LOOPED = 59, "looped", Drop;
}

/// The end of a packet's journey: one of these per packet, made in one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The service it belongs to; 0: none.
    pub service: u16,
    /// The member it was sent to; 0: none.
    pub member: u16,
    /// Why.
    pub reason: Reason,
    /// Bytes of the whole frame, link layer included.
    pub bytes: u64,
}

impl Verdict {
    /// Its cell in `COUNTERS`: service id times [`Reason::COUNT`] plus reason.
    #[inline(always)]
    #[must_use]
    pub const fn cell(&self) -> u32 {
        self.service as u32 * Reason::COUNT + self.reason.0 as u32
    }
}

const _: () = assert!(size_of::<Counter>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    /// One row per reason, in order: `| number | name | passed or dropped | meaning |`.
    #[test]
    fn docs_list_every_reason_as_it_is() {
        let docs: Vec<String> = include_str!("../../docs/reasons.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                let number: u8 = cells.next()?.parse().ok()?;
                Some(format!("{number} {} {}", cells.next()?, cells.next()?))
            })
            .collect();
        let code: Vec<String> = Reason::ALL
            .iter()
            .map(|reason| {
                let action = match reason.action() {
                    Action::Pass => "passed",
                    Action::Drop => "dropped",
                    Action::Send => "sent",
                };
                format!("{} `{}` {action}", reason.0, reason.name())
            })
            .collect();
        assert_eq!(docs, code);
    }

    #[test]
    fn every_reason_has_a_cell_of_its_own_in_its_services_row() {
        assert!(Reason::ALL.is_sorted_by(|a, b| a.0 < b.0));
        for reason in Reason::ALL {
            assert!(u32::from(reason.0) < Reason::COUNT);
            let verdict = Verdict {
                service: 3,
                member: 0,
                reason: *reason,
                bytes: 0,
            };
            assert_eq!(verdict.cell() / Reason::COUNT, 3);
        }
    }
}
