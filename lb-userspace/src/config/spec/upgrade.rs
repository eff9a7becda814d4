//! `upgrade=` of a member.

use serde::{Deserialize, Serialize};

/// Which protocols a client may have a member's connection switched to (apache.md 6.6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upgrade {
    /// None: the Upgrade field is not passed on.
    #[default]
    Never,
    /// `ANY`.
    Any,
    /// These, in lower case.
    To(Vec<String>),
}

impl Upgrade {
    /// Whether it may be this protocol. h2c has to be named: requests within it would pass by
    /// everything that is configured here.
    pub fn takes(&self, protocol: &[u8]) -> bool {
        match self {
            Self::Never => false,
            Self::Any => !protocol.eq_ignore_ascii_case(b"h2c"),
            Self::To(list) => list
                .iter()
                .any(|known| known.as_bytes().eq_ignore_ascii_case(protocol)),
        }
    }
}
