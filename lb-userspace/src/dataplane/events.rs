//! Sampled packets: which are wanted, and how the pinned ring buffer hands them over. One reader at a time: what one takes
//! the other does not see.

use std::{os::fd::AsFd, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::{
    abi::map,
    addr::Address,
    capture::{Capture, Event, SNAP},
    settings::{Settings, gate},
    verdict::Reason,
};

use super::{
    Dataplane, DataplaneError, Place, diff::Op, maps::map_error, pin::PinDir, table::monotonic_ns,
};
use crate::admin::protocol::CaptureWanted;

/// How long packets are sampled for somebody who does not ask again, ns.
const CAPTURE_NS: u64 = 3_000_000_000;

/// The ring buffer of an instance.
pub struct Events(RingBuf<MapData>);

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Kernel monotonic clock, ns.
    pub time: u64,
    /// Interface that it came in by.
    pub ifindex: u32,
    /// Interface that it was sent from; 0: the same, or none.
    pub sent: u32,
    /// Bytes of the frame as it left.
    pub len: u32,
    /// Service id.
    pub service: u16,
    /// Member id; 0: none.
    pub member: u16,
    /// Why.
    pub reason: Reason,
    /// The frame's first bytes.
    pub data: Vec<u8>,
}

impl Events {
    /// Opens an instance's pin.
    pub fn open(place: &Place) -> Result<Self, DataplaneError> {
        let failed = |error| map_error(map::EVENTS, "opening", error);
        let path = PinDir::of(place).map(map::EVENTS);
        let data = MapData::from_pin(path).map_err(failed)?;
        let map = Map::from_map_data(data).map_err(failed)?;
        Ok(Self(RingBuf::try_from(map).map_err(failed)?))
    }

    /// Waits at most so long for packets, and takes one.
    pub fn next(&mut self, patience: Duration) -> std::io::Result<Option<Captured>> {
        if let Some(item) = self.0.next() {
            return Ok(parse(&item));
        }
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(1),
            tv_nsec: patience.subsec_nanos().into(),
        };
        let ready = rustix::event::PollFlags::IN;
        let fd = self.0.as_fd();
        let mut fds = [rustix::event::PollFd::new(&fd, ready)];
        rustix::event::poll(&mut fds, Some(&timeout))?;
        Ok(self.0.next().and_then(|item| parse(&item)))
    }
}

impl Dataplane {
    /// Has packets sampled into `EVENTS` for [`CAPTURE_NS`], or no longer.
    pub fn capture(&mut self, wanted: Option<&CaptureWanted>) -> Result<(), DataplaneError> {
        let was = self.store.rest.settings()?;
        let gates = if let Some(wanted) = wanted {
            self.store.rest.set_capture(&Capture {
                reasons: wanted.reasons,
                every: wanted.every,
                address: wanted.address.map_or(Address::ANY, Address::from),
                port: wanted.port.to_be_bytes(),
                service: wanted.service,
                member: wanted.member,
                ..Capture::default()
            })?;
            self.capture_until = monotonic_ns().saturating_add(CAPTURE_NS);
            was.gates | gate::CAPTURE
        } else {
            self.capture_until = 0;
            was.gates & !gate::CAPTURE
        };
        let settings = Settings { gates, ..was };
        self.store.apply_all(&[Op::Settings(settings)]).map(drop)
    }
}

/// What is cut short is no packet.
fn parse(bytes: &[u8]) -> Option<Captured> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let time: [u8; 8] = bytes[..8].try_into().ok()?;
    let captured = usize::from(half(22)).min(SNAP);
    Some(Captured {
        time: u64::from_ne_bytes(time),
        ifindex: word(8),
        len: word(12),
        service: half(16),
        member: half(18),
        reason: Reason(bytes[20]),
        sent: word(24),
        data: bytes[32..32 + captured].to_vec(),
    })
}

const _: () = assert!(core::mem::offset_of!(Event, reason) == 20);
const _: () = assert!(core::mem::offset_of!(Event, captured) == 22);
const _: () = assert!(core::mem::offset_of!(Event, sent) == 24);
const _: () = assert!(core::mem::offset_of!(Event, data) == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_events_are_nothing() {
        assert_eq!(parse(&[0; 255]), None);
        let mut bytes = [0u8; 256];
        bytes[20] = 32;
        bytes[22..24].copy_from_slice(&u16::MAX.to_ne_bytes());
        let event = parse(&bytes).expect("whole");
        assert_eq!((event.reason, event.data.len()), (Reason::STEERED, SNAP));
    }
}
