//! What a client may take: time to send, size of a head.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a client may take to send something (mod_reqtimeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTimeout {
    /// To begin with; zero: no limit but `Timeout`.
    pub initial: Duration,
    /// However much comes; `None`: no limit.
    pub max: Option<Duration>,
    /// Bytes that are good for one second more; 0: none are.
    pub min_rate: u32,
}

impl ReadTimeout {
    /// So long, whatever comes.
    pub const fn fixed(time: Duration) -> Self {
        Self {
            initial: time,
            max: None,
            min_rate: 0,
        }
    }

    /// The upper end; zero: no limit.
    pub fn longest(&self) -> Duration {
        self.max.unwrap_or(self.initial)
    }

    /// Time that there is in all once `bytes` came. `None`: no limit.
    pub fn allowed(&self, bytes: u64) -> Option<Duration> {
        if self.initial.is_zero() {
            return None;
        }
        let micros = bytes
            .saturating_mul(1_000_000)
            .checked_div(u64::from(self.min_rate));
        let time = (self.initial).saturating_add(Duration::from_micros(micros.unwrap_or(0)));
        Some(self.max.map_or(time, |max| time.min(max)))
    }
}

/// Limits on a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLimits {
    /// `LimitRequestLine`, bytes. Default 8190.
    pub line: u32,
    /// `LimitRequestFields`; 0: hyper's own bound. Default 100.
    pub fields: u32,
    /// `LimitRequestFieldSize`, bytes, name and value. Default 8190.
    pub field_size: u32,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            line: 8190,
            fields: 100,
            field_size: 8190,
        }
    }
}

/// `AllowEncodedSlashes`: what becomes of `%2F` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slashes {
    /// `Off`: 404.
    #[default]
    Refused,
    /// `On`: a slash like any other.
    Decoded,
    /// `NoDecode`: stays as it is, and the member gets it so.
    Kept,
}

/// What a host makes of the name that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// `StrictHostCheck`, of the first host of an address: requests for a name that is no host's
    /// are refused.
    pub strict_host: bool,
    /// `SSLStrictSNIVHostCheck`: requests on connections that named no host are refused, where there
    /// are several.
    pub strict_sni: bool,
    /// What the server calls itself.
    pub canonical: Canonical,
}

/// What the server calls itself where it says where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canonical {
    /// `UseCanonicalName On`: by `ServerName` and its port, whatever the client asked for.
    pub by_name: bool,
    /// `UseCanonicalPhysicalPort On`: where else its own port or the scheme's would count, it is that
    /// of the connection.
    pub physical_port: bool,
}
