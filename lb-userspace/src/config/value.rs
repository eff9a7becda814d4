//! Arguments to values, by httpd's rules (apache.md 2). Pure.

use std::time::Duration;

/// C's `atoi`: blanks, a sign, digits; what follows is ignored, no digit is 0. Saturates.
pub(crate) fn atoi(text: &str) -> i64 {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = digits
        .bytes()
        .take_while(u8::is_ascii_digit)
        .fold(0_i64, |n, d| {
            n.saturating_mul(10).saturating_add(i64::from(d - b'0'))
        })
        .min(i64::from(i32::MAX));
    if negative { -value } else { value }
}

/// What `atoi` would ignore after the number; `None`: nothing.
pub(crate) fn junk_after_number(text: &str) -> Option<&str> {
    let digits = text.trim_start().trim_start_matches(['-', '+']);
    let junk = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    (!junk.is_empty()).then_some(junk)
}

/// Unit of a time without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// httpd's time with units: an integer and `h`, `mi...`, `s...` or `ms...`. `None`: wrong format.
pub(crate) fn time(text: &str, default: Unit) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let mut letters = unit.bytes();
    let duration = match (letters.next(), letters.next()) {
        (None, _) if default == Unit::Milliseconds => Duration::from_millis(number),
        (None | Some(b's'), _) => Duration::from_secs(number),
        (Some(b'h'), _) => Duration::from_secs(number.checked_mul(3600)?),
        (Some(b'm'), Some(b'i')) => Duration::from_secs(number.checked_mul(60)?),
        (Some(b'm'), Some(b's')) => Duration::from_millis(number),
        _ => return None,
    };
    // A century: what is longer is a slip, and sums of such times must not overflow.
    (duration <= Duration::from_hours(876_000)).then_some(duration)
}

/// `On` or `Off`, in any case.
pub(crate) fn flag(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("on") {
        Some(true)
    } else if text.eq_ignore_ascii_case("off") {
        Some(false)
    } else {
        None
    }
}

/// The known name nearest to a misspelt one.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The distance is quadratic in the length: noise gets no suggestion.
    if name.len() > 64 {
        return None;
    }
    let wanted = name.to_ascii_lowercase();
    let letters = letters(&wanted);
    known
        .filter_map(|candidate| {
            let bound = (candidate.len().max(3) / 3).min(4);
            // Nearly all fail here, at a hundredth of the price.
            if letters_apart(&letters, &self::letters(candidate)) > bound {
                return None;
            }
            let distance = strsim::damerau_levenshtein(&wanted, &candidate.to_ascii_lowercase());
            (distance <= bound).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How often each letter occurs, without case; further bytes share places.
fn letters(text: &str) -> [u8; 32] {
    let mut counts = [0_u8; 32];
    for byte in text.bytes() {
        let count = &mut counts[usize::from(byte & 31)];
        *count = count.saturating_add(1);
    }
    counts
}

/// Edits that it takes at least from one to the other: each adds, removes or replaces one letter.
fn letters_apart(one: &[u8; 32], other: &[u8; 32]) -> usize {
    let missing = |of: &[u8; 32], from: &[u8; 32]| -> usize {
        let pairs = of.iter().zip(from);
        pairs
            .map(|(of, from)| usize::from(of.saturating_sub(*from)))
            .sum()
    };
    missing(one, other).max(missing(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_at_the_first_other_character() {
        for (text, value, junk) in [
            ("5", 5, None),
            ("5min", 5, Some("min")),
            ("1.5", 1, Some(".5")),
            ("-3", -3, None),
            ("x", 0, Some("x")),
            ("", 0, None),
            ("99999999999999999999", 2_147_483_647, None),
        ] {
            assert_eq!(atoi(text), value, "{text}");
            assert_eq!(junk_after_number(text), junk, "{text}");
        }
    }

    #[test]
    fn times_take_httpds_units() {
        for (text, milliseconds) in [
            ("5", Some(5000)),
            ("5s", Some(5000)),
            ("5sec", Some(5000)),
            ("2mi", Some(120_000)),
            ("2minutes", Some(120_000)),
            ("300ms", Some(300)),
            ("1h", Some(3_600_000)),
            ("5m", None),
            ("5q", None),
            ("x", None),
            ("", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("18446744073709551615h", None),
        ] {
            let got = time(text, Unit::Seconds).map(|t| t.as_millis());
            assert_eq!(got, milliseconds, "{text}");
        }
        assert_eq!(
            time("5", Unit::Milliseconds),
            Some(Duration::from_millis(5))
        );
    }

    #[test]
    fn a_slip_of_a_letter_or_two_is_recognised() {
        let known = ["ProxyPass", "ProxyPassReverse", "Listen"];
        let nearest = |name| nearest(name, known.into_iter());
        assert_eq!(nearest("ProxyPas"), Some("ProxyPass"));
        assert_eq!(nearest("proxypassrevers"), Some("ProxyPassReverse"));
        assert_eq!(nearest("Lisetn"), Some("Listen"));
        assert_eq!(nearest("Gzip"), None);
    }

    proptest::proptest! {
        #[test]
        fn letters_never_say_that_names_are_further_apart_than_they_are(
            one in "[A-Za-z<]{0,12}", other in "[A-Za-z<]{0,12}"
        ) {
            let distance = strsim::damerau_levenshtein(
                &one.to_ascii_lowercase(), &other.to_ascii_lowercase());
            proptest::prop_assert!(letters_apart(&letters(&one), &letters(&other)) <= distance);
        }
    }
}
