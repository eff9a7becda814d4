//! The parser on any bytes: what it says it found must be there.

#![no_main]

use lb_common::{
    flow::{Flow, slot},
    parse::{Reach, parse},
};

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    let h = parse(frame);
    assert_eq!(h.version == 0, h.reach == Reach::NotIp);
    if h.version != 0 {
        let at = h.l3 + if h.version == 4 { 12 } else { 8 };
        let len = if h.version == 4 { 4 } else { 16 };
        assert_eq!(frame[at..at + len], h.source.0[16 - len..]);
        assert_eq!(frame[at + len..at + 2 * len], h.destination.0[16 - len..]);
    }
    if h.reach == Reach::Ports {
        assert_eq!(frame[h.l4..h.l4 + 2], h.source_port.0);
        assert_eq!(frame[h.l4 + 2..h.l4 + 4], h.destination_port.0);
    }
    if h.reach == Reach::Icmp {
        assert_eq!(frame[h.l4..h.l4 + 2], [h.icmp_type, h.icmp_code]);
    }
    // A frame that is cut tells less, never something else.
    let cut = parse(&frame[..frame.len() - frame.len().min(1)]);
    if cut.reach == Reach::Ports {
        assert_eq!(Flow::of(&cut), Flow::of(&h));
    }
    assert!(slot(Flow::of(&h).hash(1), 65537) < 65537);
});
