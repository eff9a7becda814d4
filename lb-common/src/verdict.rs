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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Reason(pub u8);

/// What the program tells the driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Up the stack, untouched.
    Pass,
    /// Gone.
    Drop,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $index:literal, $text:literal, $action:ident;)*) => {
        impl Reason {
            $($(#[doc = $doc])* pub const $name: Self = Self($index);)*
            /// Reasons there may be: the width of a service's row in `COUNTERS`, a power of two so
            /// that reasons can be added without moving the others.
            pub const COUNT: u32 = 32;
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
}

/// The end of a packet's journey: one of these per packet, made in one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The service it belongs to; 0: none.
    pub service: u16,
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
                reason: *reason,
                bytes: 0,
            };
            assert_eq!(verdict.cell() / Reason::COUNT, 3);
        }
    }
}
