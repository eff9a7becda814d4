//! What members say of themselves: heartbeats as mod_heartbeat sends them and mod_heartmonitor keeps
//! them. Parsed and remembered here; who listens is [`crate::health`].
//!
//! A heartbeat is `v=1&ready=N&busy=M` in a datagram (or the body of a POST), told apart by the
//! address it comes from; a line of a storage file is the address, a blank and the same pairs with
//! `lastseen=SECONDS`.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use crate::dataplane::table::MemberTable;

/// Bytes of a datagram that are read, as in httpd.
pub const MOST_BYTES: usize = 1000;
/// Bytes of a storage file that are read.
pub const MOST_FILE_BYTES: u64 = 1 << 20;
/// Seconds after which a member that was not heard of takes no requests.
pub const SEEN_SECONDS: u64 = 10;
/// Seconds after which a heartbeat is forgotten.
const KEPT_SECONDS: u64 = 30;
const SECOND: u64 = 1_000_000_000;

/// What one heartbeat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Requests in flight.
    pub busy: u32,
    /// Requests that it could take beside them.
    pub ready: u32,
}

/// No heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeatError {
    /// A pair is missing.
    #[error("malformed message: v=, ready= and busy= are needed")]
    Malformed,
}

/// The last heartbeat of each address.
pub struct Heartbeats {
    table: Arc<MemberTable>,
    began_ns: u64,
    heard: RwLock<HashMap<IpAddr, Heard>>,
}

#[derive(Clone, Copy)]
struct Heard {
    beat: Beat,
    /// When it came to our ears, on the monotonic clock.
    at_ns: u64,
    /// How old it was by then.
    before_ns: u64,
}

impl Heard {
    /// How old it is. A request's clock may be a moment behind ours: nothing gets younger by that.
    const fn age_ns(self, now_ns: u64) -> u64 {
        self.before_ns
            .saturating_add(now_ns.saturating_sub(self.at_ns))
    }
}

impl Beat {
    /// Reads a datagram.
    pub fn parse(message: &[u8]) -> Result<Self, BeatError> {
        let pairs = pairs(message);
        let number = |name: &[u8]| pairs.get(name).map(|value| count(value));
        let is_beat = pairs.contains_key(&b"v"[..]);
        match (is_beat, number(b"busy"), number(b"ready")) {
            (true, Some(busy), Some(ready)) => Ok(Self { busy, ready }),
            _ => Err(BeatError::Malformed),
        }
    }

    /// Places for requests. Who has none in flight has probably just begun, and is not flooded: a
    /// quarter, as in httpd.
    const fn places(self) -> u32 {
        if self.busy == 0 {
            self.ready / 4
        } else {
            self.ready
        }
    }
}

/// `KEY=VALUE` with `&` between; of equal keys the last counts.
fn pairs(text: &[u8]) -> HashMap<&[u8], &[u8]> {
    let pairs = text.split(|byte| *byte == b'&').map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = pair.split_at(equals.unwrap_or(pair.len()));
        (name, value.get(1..).unwrap_or_default())
    });
    pairs.collect()
}

/// As C's `atoi`, and what is below 0 is 0.
fn count(text: &[u8]) -> u32 {
    let digits = text.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u32, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u32::from(digit - b'0'))
    })
}

/// Reads a storage file: addresses with what they said and how many seconds before the file was
/// written. Lines that say nothing are passed by, as in httpd.
pub fn parse_file(text: &[u8]) -> Vec<(IpAddr, Beat, u64)> {
    let line = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?;
        let (address, rest) = text.split_once(' ').filter(|_| !text.starts_with('#'))?;
        let pairs = pairs(rest.as_bytes());
        let number = |name: &[u8]| pairs.get(name).map_or(0, |value| count(value));
        let beat = Beat {
            busy: number(b"busy"),
            ready: number(b"ready"),
        };
        // Without lastseen httpd takes it for fresh.
        Some((address.parse().ok()?, beat, u64::from(number(b"lastseen"))))
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

impl Heartbeats {
    /// Nobody was heard of yet. `table`: only addresses of members in it are remembered.
    pub fn new(table: Arc<MemberTable>, now_ns: u64) -> Self {
        Self {
            table,
            began_ns: now_ns,
            heard: RwLock::default(),
        }
    }

    /// A heartbeat came from an address, or was written down so many seconds ago. Returns whether it
    /// is a member's.
    pub fn hear(&self, ip: IpAddr, beat: Beat, seconds_ago: u64, now_ns: u64) -> bool {
        let ip = ip.to_canonical();
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        if !heard.contains_key(&ip) {
            // Anybody can send datagrams: who is no member costs no memory.
            if !self.is_member(ip) {
                return false;
            }
            let fresh = |heard: &Heard| heard.age_ns(now_ns) < KEPT_SECONDS * SECOND;
            heard.retain(|_, known| fresh(known));
        }
        let new = Heard {
            beat,
            at_ns: now_ns,
            before_ns: seconds_ago.saturating_mul(SECOND),
        };
        heard.insert(ip, new);
        true
    }

    /// Places for requests that an address has; `None`: not heard of lately.
    pub fn ready(&self, ip: IpAddr, now_ns: u64) -> Option<u32> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let known = heard.get(&ip.to_canonical())?;
        (known.age_ns(now_ns) < SEEN_SECONDS * SECOND).then(|| known.beat.places())
    }

    /// Whether this has just begun and nobody was heard of yet.
    pub fn is_waiting(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.began_ns) < SEEN_SECONDS * SECOND
            && self
                .heard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty()
    }

    fn is_member(&self, ip: IpAddr) -> bool {
        let mut cells = (1..lb_common::abi::MAX_MEMBERS)
            .filter_map(|id| self.table.cell(lb_common::member::MemberId(id)));
        cells.any(|cell| cell.identity() != [0, 0] && cell.address().ip().to_canonical() == ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeats(members: &[&str]) -> Heartbeats {
        let (table, _members, _busy) = MemberTable::anonymous().expect("memfd");
        for (id, ip) in (1..).zip(members) {
            let cell = table.cell(lb_common::member::MemberId(id)).expect("slot");
            cell.set_address(ip.parse().expect("address"), 80);
            cell.identity[0].store(1, std::sync::atomic::Ordering::Relaxed);
        }
        Heartbeats::new(Arc::new(table), SECOND)
    }

    #[test]
    fn datagrams_of_httpd_are_understood() {
        let beat = |busy, ready| Ok(Beat { busy, ready });
        assert_eq!(Beat::parse(b"v=1&ready=75&busy=0"), beat(0, 75));
        assert_eq!(Beat::parse(b"v=1&ready=7x&busy=-3&port=8080\n"), beat(0, 7));
        assert_eq!(Beat::parse(b"v=1&busy=2&ready=1&busy=3"), beat(3, 1));
        for bad in [
            "",
            "v=1",
            "ready=1&busy=1",
            "v=1&ready=1",
            "\u{0}\u{ff}&&&=",
        ] {
            assert_eq!(
                Beat::parse(bad.as_bytes()),
                Err(BeatError::Malformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn files_of_httpd_are_understood() {
        let text = b"# comment\n127.0.0.1 &ready=10&busy=2&lastseen=3&port=80\nnobody\n\nx y\n::1 ready=5\n";
        let read = parse_file(text);
        let local = "127.0.0.1".parse().expect("address");
        assert_eq!(read[0], (local, Beat { busy: 2, ready: 10 }, 3));
        assert_eq!(read[1].2, 0);
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn who_is_silent_for_ten_seconds_has_no_places() {
        let beats = heartbeats(&["192.0.2.1", "192.0.2.2"]);
        let ip: IpAddr = "192.0.2.1".parse().expect("address");
        assert!(beats.is_waiting(2 * SECOND) && !beats.is_waiting(11 * SECOND));
        assert!(beats.hear(ip, Beat { busy: 1, ready: 8 }, 0, 5 * SECOND));
        assert!(!beats.is_waiting(5 * SECOND));
        assert_eq!(beats.ready(ip, 15 * SECOND - 1), Some(8));
        assert_eq!(beats.ready(ip, 15 * SECOND), None);
        assert!(beats.hear(ip, Beat { busy: 0, ready: 8 }, 9, 20 * SECOND));
        assert_eq!(
            beats.ready(ip, 20 * SECOND),
            Some(2),
            "a quarter, for who does nothing"
        );
        assert_eq!(beats.ready(ip, 21 * SECOND), None);
        // Written down too long ago, and a request whose clock stopped before it was read.
        assert!(beats.hear(ip, Beat { busy: 1, ready: 8 }, 10, 30 * SECOND));
        assert_eq!(beats.ready(ip, 30 * SECOND), None);
        assert_eq!(beats.ready(ip, 30 * SECOND - 1), None);
    }

    #[test]
    fn strangers_are_not_remembered() {
        let beats = heartbeats(&["192.0.2.1"]);
        for n in 0..=255 {
            let ip = IpAddr::from([198, 51, 100, n]);
            assert!(!beats.hear(ip, Beat { busy: 1, ready: 9 }, 0, SECOND));
        }
        assert!(beats.heard.read().expect("lock").is_empty());
    }
}
