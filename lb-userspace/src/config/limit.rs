//! `GuardLimit` as text, for the directive, `sluice limit set` and `sluice limit list`.

use std::fmt;

use lb_common::limit::{Limit, LimitKind, action};

use super::spec::{GuardLimit, Per, Place};

/// Parses the arguments of a `GuardLimit`: `syn 100/s burst=200 per=/32,/64 action=drop`.
///
/// The result has no `addresses` and an empty place. The error says what was expected.
pub fn parse_limit(text: &str) -> Result<GuardLimit, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    parse_words(&words).map_err(|error| error.message)
}

/// Why a limit was refused, and by which of its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitError {
    /// Index of the word.
    pub word: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

/// As [`parse_limit`], on words.
pub(crate) fn parse_words(words: &[&str]) -> Result<GuardLimit, LimitError> {
    let fail = |word: usize, message: String| Err(LimitError { word, message });
    let [kind, rate, options @ ..] = words else {
        let message = "GuardLimit takes a kind and a rate, for example: syn 100/s";
        return fail(0, message.to_owned());
    };
    let index = LimitKind::NAMES
        .iter()
        .position(|name| name.eq_ignore_ascii_case(kind));
    let Some(index) = index else {
        let message = format!("unknown kind '{kind}'; expected syn, flows, packets, udp or icmp");
        return fail(0, message);
    };
    let Some(rate) = rate_of(rate) else {
        let message = format!("'{rate}' is not a rate; expected N/s with N from 1 to {MAX}");
        return fail(1, message);
    };
    let mut limit = GuardLimit {
        kind: index as u8,
        rate,
        burst: rate,
        per: DEFAULT_PER,
        action: action::DROP,
        addresses: None,
        at: Place::default(),
    };
    for (i, option) in options.iter().enumerate() {
        let word = i + 2;
        let Some((key, value)) = option.split_once('=') else {
            let message = format!("'{option}' is not key=value; {OPTIONS}");
            return fail(word, message);
        };
        match key.to_ascii_lowercase().as_str() {
            "burst" => {
                if let Some(burst) = number(value) {
                    limit.burst = burst;
                } else {
                    let message = format!("burst={value}: expected a number from 1 to {MAX}");
                    return fail(word, message);
                }
            }
            "per" => {
                if let Some(per) = per_of(value) {
                    limit.per = per;
                } else {
                    let message = format!(
                        "per={value}: expected service, or the prefix lengths of a source: /32,/64"
                    );
                    return fail(word, message);
                }
            }
            "action" => match value.to_ascii_lowercase().as_str() {
                "drop" => limit.action = action::DROP,
                "report" => limit.action = action::REPORT,
                "cookie" => {
                    let message = "action=cookie is not supported by this version of sluice";
                    return fail(word, message.to_owned());
                }
                _ => {
                    let message = format!("action={value}: expected drop or report");
                    return fail(word, message);
                }
            },
            _ => return fail(word, format!("unknown key '{key}'; {OPTIONS}")),
        }
    }
    Ok(limit)
}

fn rate_of(text: &str) -> Option<u32> {
    number(text.strip_suffix("/s")?)
}

/// A number from 1 to [`MAX`].
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|n| digits && (1..=MAX).contains(n))
}

/// `service`, `/24` or `/24,/56`.
fn per_of(text: &str) -> Option<Per> {
    if text.eq_ignore_ascii_case("service") {
        return Some(Per::Service);
    }
    let length = |text: &str, max: u8| {
        let digits = text.strip_prefix('/')?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|n: &u8| plain && *n <= max)
    };
    match text.split_once(',') {
        None => Some(Per::Source {
            v4: length(text, 32)?,
            v6: 64,
        }),
        Some((v4, v6)) => Some(Per::Source {
            v4: length(v4, 32)?,
            v6: length(v6, 128)?,
        }),
    }
}

impl GuardLimit {
    /// As the packet path takes it: at most `burst` packets in the time in which `rate` allows
    /// them (lb_common::limit).
    pub fn to_limit(&self) -> Limit {
        let (prefix4, prefix6) = match self.per {
            Per::Source { v4, v6 } => (v4, v6),
            Per::Service => (0, 0),
        };
        Limit {
            // Below 2^31 * 10^9 / 1: no overflow. At least 1 ns however large the rate.
            window_ns: (u64::from(self.burst) * 1_000_000_000 / u64::from(self.rate.max(1))).max(1),
            packets: self.burst,
            rate: self.rate,
            action: self.action,
            prefix4,
            prefix6,
            origin: lb_common::limit::origin::FILE,
            pad: [0; 4],
        }
    }
}

impl From<&GuardLimit> for Limit {
    fn from(limit: &GuardLimit) -> Self {
        limit.to_limit()
    }
}

/// A limit of the packet path as the configuration writes it.
#[derive(Clone, Copy, Debug)]
pub struct LimitText<'a> {
    /// Index into [`LimitKind::NAMES`].
    pub kind: u8,
    /// Whether it stands among the limits of the whole service.
    pub per_service: bool,
    /// The limit; `packets` 0 is shown as `off`.
    pub limit: &'a Limit,
}

impl fmt::Display for LimitText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = LimitKind::NAMES
            .get(usize::from(self.kind))
            .copied()
            .unwrap_or("unknown");
        let limit = self.limit;
        if limit.packets == 0 {
            return write!(f, "{kind} off");
        }
        write!(f, "{kind} {}/s burst={}", limit.rate, limit.packets)?;
        if self.per_service {
            write!(f, " per=service")?;
        } else {
            write!(f, " per=/{},/{}", limit.prefix4, limit.prefix6)?;
        }
        match limit.action {
            action::DROP => write!(f, " action=drop"),
            action::REPORT => write!(f, " action=report"),
            other => write!(f, " action={other}"),
        }
    }
}

/// `per=` where none is given.
const DEFAULT_PER: Per = Per::Source { v4: 32, v6: 64 };
/// Largest rate and burst: windows count in 31 bits.
const MAX: u32 = (1 << 31) - 1;
/// What may follow the rate.
const OPTIONS: &str = "expected burst=, per= or action=";

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> Result<String, String> {
        let limit = parse_limit(text)?;
        let shown = LimitText {
            kind: limit.kind,
            per_service: limit.per == Per::Service,
            limit: &limit.to_limit(),
        };
        Ok(shown.to_string())
    }

    #[test]
    fn limits_are_read_and_written() {
        for (text, shown) in [
            ("syn 100/s", "syn 100/s burst=100 per=/32,/64 action=drop"),
            (
                "SYN 100/s burst=200 per=/24 action=report",
                "syn 100/s burst=200 per=/24,/64 action=report",
            ),
            (
                "udp 2147483647/s per=service",
                "udp 2147483647/s burst=2147483647 per=service action=drop",
            ),
            (
                "packets 5/s per=/0,/128",
                "packets 5/s burst=5 per=/0,/128 action=drop",
            ),
        ] {
            assert_eq!(round_trip(text).as_deref(), Ok(shown));
            assert_eq!(
                round_trip(shown).as_deref(),
                Ok(shown),
                "what is shown is read again"
            );
        }
    }

    #[test]
    fn what_is_no_limit_says_what_was_expected() {
        for (text, needle) in [
            ("", "takes a kind and a rate"),
            ("syn", "takes a kind and a rate"),
            ("sin 3/s", "expected syn, flows, packets, udp or icmp"),
            ("syn 3", "expected N/s"),
            ("syn 0/s", "expected N/s"),
            ("syn +3/s", "expected N/s"),
            ("syn 2147483648/s", "expected N/s"),
            ("syn 3/s burst=0", "burst=0"),
            ("syn 3/s per=/33", "per=/33"),
            ("syn 3/s per=32", "per=32"),
            ("syn 3/s per=/32,/129", "per=/32,/129"),
            ("syn 3/s action=cookie", "not supported by this version"),
            ("syn 3/s action=x", "expected drop or report"),
            ("syn 3/s x", "not key=value"),
            ("syn 3/s x=y", "unknown key 'x'"),
        ] {
            let error = parse_limit(text).expect_err(text);
            assert!(error.contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn the_window_is_the_time_in_which_the_rate_allows_the_burst() {
        let limit = parse_limit("syn 100/s burst=25")
            .expect("a limit")
            .to_limit();
        assert_eq!((limit.packets, limit.window_ns), (25, 250_000_000));
        let extreme = parse_limit("syn 2147483647/s burst=1")
            .expect("a limit")
            .to_limit();
        assert_eq!(extreme.window_ns, 1, "never zero where there is a limit");
        let slow = parse_limit("syn 1/s burst=2147483647")
            .expect("a limit")
            .to_limit();
        assert_eq!(slow.window_ns, 2_147_483_647_000_000_000);
    }
}
