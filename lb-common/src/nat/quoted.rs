//! ICMP errors about connections with rewritten addresses: the error and what it quotes.
//!
//! Who gets the error sees in it a packet that it sent itself (RFC 5508 section 4). The checksum of a
//! quoted transport header stays as it is: it may be cut off, and nobody looks at it.

use super::Ends;
use crate::{checksum, detour::ports_v6, frame::Edit, parse::Headers};

/// Rewrites an error. `about`: the flow that is quoted, against the way of the quoted packet, with
/// the error's own place in the frame; `ends`: what the flow becomes.
#[inline(always)]
pub(super) fn rewrite<F: Edit + ?Sized>(frame: &mut F, about: &Headers, ends: &Ends) -> Option<()> {
    let (l3, icmp) = (about.l3, about.l4);
    let quote = icmp + 8;
    let (s, d) = (&ends.source.0, &ends.destination.0);
    let ports = if about.version == 4 {
        let [first] = frame.read::<1>(quote)?;
        let forth = [s[12], s[13], s[14], s[15], d[12], d[13], d[14], d[15]];
        let back = [d[12], d[13], d[14], d[15], s[12], s[13], s[14], s[15]];
        // Both headers keep their sums by their own checksums, so that ICMP's sees no change.
        for (at, new) in [(l3, forth), (quote, back)] {
            let old = checksum::sum(&frame.read::<8>(at + 12)?);
            let check = frame.read::<2>(at + 10)?;
            let check = checksum::update(check, old, checksum::sum(&new));
            frame.write(at + 10, check)?;
            frame.write(at + 12, new)?;
        }
        quote + usize::from(first & 15) * 4
    } else {
        let [following] = frame.read::<1>(quote + 6)?;
        quote + ports_v6(following)
    };
    let [p, q] = [ends.destination_port, ends.source_port];
    let (was, new) = (frame.read::<4>(ports)?, [p[0], p[1], q[0], q[1]]);
    let (mut minus, mut plus) = (checksum::sum(&was), checksum::sum(&new));
    frame.write(ports, new)?;
    if about.version == 6 {
        // ICMPv6 sums up the addresses of its own packet as well.
        for (at, first, second) in [(l3, s, d), (quote, d, s)] {
            minus += checksum::sum(&frame.read::<16>(at + 8)?);
            minus += checksum::sum(&frame.read::<16>(at + 24)?);
            plus += checksum::sum(first) + checksum::sum(second);
            frame.write(at + 8, *first)?;
            frame.write(at + 24, *second)?;
        }
    }
    let check = frame.read::<2>(icmp + 2)?;
    frame.write(icmp + 2, checksum::update(check, minus, plus))
}
