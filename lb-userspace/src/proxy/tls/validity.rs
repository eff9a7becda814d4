//! From when to when a certificate is valid (RFC 5280 section 4.1.2.5), and its two names: as much of
//! X.509 as that takes. Pure. Signatures and chains are webpki's.

use std::time::{Duration, SystemTime};

/// Seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    /// First second.
    pub(crate) from: i64,
    /// Last second.
    pub(crate) to: i64,
}

impl Validity {
    /// What is wrong with it at `now`.
    pub(crate) fn complaint(self, now: SystemTime) -> Option<String> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
            .cast_signed();
        let days = |seconds: i64| seconds / 86_400;
        if now > self.to {
            let ago = days(now - self.to);
            Some(format!("the certificate has expired, {ago} days ago"))
        } else if now < self.from {
            let left = days(self.from - now);
            Some(format!("the certificate is not valid yet, for {left} days"))
        } else {
            None
        }
    }
}

/// Reads it from a certificate; `None` where it is not as expected.
pub(crate) fn of(certificate: &[u8]) -> Option<Validity> {
    let (_, validity, _) = element(after_serial(certificate, 2)?)?;
    let (from_tag, from, rest) = element(validity)?;
    let (to_tag, to, _) = element(rest)?;
    Some(Validity {
        from: time(from_tag, from)?,
        to: time(to_tag, to)?,
    })
}

/// The version of X.509 that it is of, 1 to 3; `None` where it is not as expected.
pub(crate) fn version(certificate: &[u8]) -> Option<u8> {
    let (_, certificate, _) = element(certificate)?;
    let (_, inner, _) = element(certificate)?;
    let (tag, version, _) = element(inner)?;
    if tag != 0xa0 {
        return Some(1);
    }
    match element(version)? {
        (2, [number @ 0..=2], _) => Some(number + 1),
        _ => None,
    }
}

/// The issuer's name, DER as it stands in the certificate; `None` where it is not as expected.
pub(crate) fn issuer(certificate: &[u8]) -> Option<&[u8]> {
    first(after_serial(certificate, 1)?)
}

/// The subject's name, as above.
pub(crate) fn subject(certificate: &[u8]) -> Option<&[u8]> {
    first(after_serial(certificate, 3)?)
}

/// What follows the serial number and so many elements more: algorithm, issuer, validity, subject.
fn after_serial(certificate: &[u8], more: usize) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    // [0] version is optional.
    if *rest.first()? == 0xa0 {
        rest = element(rest)?.2;
    }
    for _ in 0..=more {
        rest = element(rest)?.2;
    }
    Some(rest)
}

/// The first element, whole.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let after = element(bytes)?.2;
    bytes.get(..bytes.len() - after.len())
}

/// The serial number, bytes.
pub(crate) fn serial(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if *rest.first()? == 0xa0 {
        rest = element(rest)?.2;
    }
    Some(element(rest)?.1)
}

/// Tag, contents, what follows.
pub(super) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (contents, after) = rest.split_at_checked(length)?;
    Some((tag, contents, after))
}

/// UTCTime (two digits of year, 1950 to 2049) or GeneralizedTime, both to the second and in UTC.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        0x17 => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970: years begin in March, so that the leap day is their last.
    let shifted = year - i64::from(month < 3);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted.div_euclid(4) - shifted.div_euclid(100)
        + shifted.div_euclid(400)
        + day_of_year
        - 719_468;
    Some(days * 86_400 + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(time(0x17, b"700101000000Z"), Some(0));
        assert_eq!(time(0x17, b"240229120000Z"), Some(1_709_208_000));
        assert_eq!(time(0x18, b"21000301000001Z"), Some(4_107_542_401));
        assert_eq!(time(0x17, b"500101000000Z"), Some(-631_152_000));
        for bad in [
            "",
            "Z",
            "7001010000Z",
            "701301000000Z",
            "70010100000\u{e9}Z",
        ] {
            assert_eq!(time(0x17, bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn cut_short_anywhere_it_is_none() {
        let whole = [
            0x30, 0x82, 0x00, 0x2f, 0x30, 0x2d, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x05,
            0x30, 0x00, 0x30, 0x00, 0x30, 0x1e, 0x17, 0x0d, b'2', b'4', b'0', b'1', b'0', b'1',
            b'0', b'0', b'0', b'0', b'0', b'0', b'Z', 0x17, 0x0d, b'2', b'5', b'0', b'1', b'0',
            b'1', b'0', b'0', b'0', b'0', b'0', b'0', b'Z', 0x30,
        ];
        let valid = of(&whole).expect("complete");
        assert_eq!(
            valid,
            Validity {
                from: 1_704_067_200,
                to: 1_735_689_600
            }
        );
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(valid.complaint(at(1_710_000_000)), None);
        assert!(
            valid
                .complaint(at(1_735_689_600 + 3 * 86_400))
                .is_some_and(|c| c.contains("3 days ago"))
        );
        assert!(
            valid
                .complaint(at(1_700_000_000))
                .is_some_and(|c| c.contains("not valid yet"))
        );
        for length in 0..whole.len() - 1 {
            let _ = of(&whole[..length]);
        }
    }
}
