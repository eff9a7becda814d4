//! Which protocols a host speaks to its clients, and the limits of HTTP/2.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A protocol that clients may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// `http/1.1`
    Http11,
    /// `h2`: HTTP/2 over TLS.
    H2,
    /// `h2c`: HTTP/2 in clear.
    H2c,
}

/// Which protocols a host's clients may choose, and the limits of HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// `Protocols`, the preferred one first. Default HTTP/1.1 alone.
    pub offered: Vec<Protocol>,
    /// `ProtocolsHonorOrder`: this order beats the client's. Default on.
    pub honor_order: bool,
    /// `H2Direct`: h2c is spoken to who begins with its preface. Default on.
    pub direct: bool,
    /// `H2MaxSessionStreams`. Default 100.
    pub max_streams: u32,
    /// `H2WindowSize`, bytes. Default 65535.
    pub window: u32,
    /// `H2MaxDataFrameLen`, bytes; 0: what the client allows.
    pub data_frame: u32,
    /// `H2StreamTimeout`; `None`: [`super::Host::timeout`].
    pub stream_timeout: Option<Duration>,
}

impl Default for Protocols {
    fn default() -> Self {
        Self {
            offered: vec![Protocol::Http11],
            honor_order: true,
            direct: true,
            max_streams: 100,
            window: 65_535,
            data_frame: 0,
            stream_timeout: None,
        }
    }
}

impl Protocols {
    /// Whether a connection in clear may begin with HTTP/2.
    pub fn has_h2c(&self) -> bool {
        self.direct && self.offered.contains(&Protocol::H2c)
    }
}
