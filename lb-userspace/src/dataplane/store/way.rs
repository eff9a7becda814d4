//! One service's place in `SERVICES`, read and written through atomics.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lb_common::{addr::Be16, service::ServiceWay};

use super::{address, words};
use crate::dataplane::sys::WayCell;

impl WayCell {
    pub(super) fn load(&self) -> ServiceWay {
        let [p0, p1, proto, kind] = self.port_proto_kind.load(Relaxed).to_ne_bytes();
        ServiceWay {
            id: self.id.load(Acquire),
            address: address(self.address.each_ref().map(|w| w.load(Relaxed))),
            port: Be16([p0, p1]),
            proto,
            kind,
            balancer: self.balancer.load(Relaxed),
            flags: self.flags.load(Relaxed),
            range: {
                let [a, b, c, d] = self.range.load(Relaxed).to_ne_bytes();
                [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
            },
        }
    }

    /// The id is taken off first, unless only what hangs on it changes, and put on last.
    pub(super) fn store(&self, way: &ServiceWay) {
        let old = self.load();
        let place = |way: &ServiceWay| (way.id, way.address, way.port, way.proto, way.range);
        if place(&old) != place(way) {
            self.id.store(0, Release);
        }
        for (cell, word) in self.address.iter().zip(words(way.address)) {
            cell.store(word, Release);
        }
        let [p0, p1] = way.port.0;
        self.port_proto_kind
            .store(u32::from_ne_bytes([p0, p1, way.proto, way.kind]), Release);
        self.balancer.store(way.balancer, Release);
        self.flags.store(way.flags, Release);
        let ([a, b], [c, d]) = (way.range[0].to_ne_bytes(), way.range[1].to_ne_bytes());
        self.range.store(u32::from_ne_bytes([a, b, c, d]), Release);
        self.id.store(way.id, Release);
    }
}
