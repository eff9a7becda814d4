//! `limit set`: one limit of one service, given as `GuardLimit` takes it, or `KIND off`.

use std::fmt;

use lb_common::limit::{Limit, LimitKind};

use crate::config::{
    limit::{LimitText, parse_limit},
    spec::Per,
};

/// What is to become of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// Index into [`LimitKind`].
    pub kind: u8,
    /// The new limit; `None`: none any more.
    pub limit: Option<Limit>,
    /// Of the whole service or per source; `None` (with `off` alone): both.
    per_service: Option<bool>,
}

impl LimitChange {
    /// Parses `syn 100/s burst=200 per=service`, `syn off` or `syn off per=service`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [kind, "off", rest @ ..] = &words[..] else {
            let limit = parse_limit(text)?;
            return Ok(Self {
                kind: limit.kind,
                limit: Some(limit.to_limit()),
                per_service: Some(limit.per == Per::Service),
            });
        };
        let index = LimitKind::NAMES
            .iter()
            .position(|name| name.eq_ignore_ascii_case(kind))
            .and_then(|index| u8::try_from(index).ok())
            .ok_or_else(|| {
                format!(
                    "unknown kind '{kind}'; expected one of {}",
                    LimitKind::NAMES.join(", ")
                )
            })?;
        let per_service = match rest {
            [] => None,
            ["per=service"] => Some(true),
            ["per=source"] => Some(false),
            _ => return Err("after off: per=service, per=source or nothing (both)".to_owned()),
        };
        Ok(Self {
            kind: index,
            limit: None,
            per_service,
        })
    }

    /// The rows of a service's limits that change: `true` is the one of the whole service.
    pub const fn rows(&self) -> &'static [bool] {
        match self.per_service {
            None => &[false, true],
            Some(false) => &[false],
            Some(true) => &[true],
        }
    }
}

impl fmt::Display for LimitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LimitText {
            kind: self.kind,
            per_service: self.per_service == Some(true),
            limit: &self.limit.unwrap_or_default(),
        }
        .fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_takes_both_rows_unless_told_which() {
        let rows = |text| LimitChange::parse(text).map(|change| change.rows());
        assert_eq!(rows("syn off"), Ok(&[false, true][..]));
        assert_eq!(rows("SYN off per=service"), Ok(&[true][..]));
        assert_eq!(rows("udp off per=source"), Ok(&[false][..]));
        assert_eq!(rows("syn 5/s per=service"), Ok(&[true][..]));
        assert_eq!(rows("syn 5/s"), Ok(&[false][..]));
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_was_expected() {
        for wrong in ["", "syn", "sny off", "syn off now", "syn 5"] {
            assert!(LimitChange::parse(wrong).is_err(), "{wrong:?}");
        }
        let error = LimitChange::parse("sny off").expect_err("refused");
        assert!(error.contains("syn, packets"), "{error}");
    }
}
