//! How values are written into a line: escaped as httpd does, without the formatting machinery; and
//! the time, which is made once a second.

use std::{
    io::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;

/// A cookie's value; its name has no case, as in httpd.
pub(super) fn cookie<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    cookies.split(|&byte| byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|&byte| byte == b'=')?;
        (pair[..at]
            .trim_ascii()
            .eq_ignore_ascii_case(name.as_bytes()))
        .then(|| pair[at + 1..].trim_ascii())
    })
}

pub(super) fn field(out: &mut Vec<u8>, values: &[Option<HeaderValue>], index: usize) {
    let value = values.get(index).and_then(Option::as_ref);
    escaped(out, value.map_or(b"", HeaderValue::as_bytes));
}

/// Writes escaped text, `-` for none.
pub(super) fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    if text.is_empty() {
        out.push(b'-');
    } else {
        escape(out, text);
    }
}

/// Makes what a client sent harmless to whoever reads the file, as httpd does.
pub(super) fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // Without an early end, so that the compiler looks at many bytes at once.
    if text.iter().fold(true, |all, &byte| all & is_plain(byte)) {
        out.extend_from_slice(text);
        return;
    }
    for &byte in text {
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0b => b'v',
            b'\r' => b'r',
            b' '..=b'~' => {
                out.push(byte);
                continue;
            }
            _ => {
                out.extend_from_slice(&[
                    b'\\',
                    b'x',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// Appends an address; one of IPv4 in its own form, however it was written.
pub(crate) fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(octet));
            }
        }
        // Writing to a Vec does not fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The time as text, made once a second for each format.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    text: String,
    others: Vec<(Arc<str>, u64, String)>,
    thread: Option<u64>,
}

impl Clock {
    /// `[10/Oct/2000:13:55:36 -0700]`.
    pub(super) fn stamp(&mut self, time: SystemTime) -> &str {
        let second = since_epoch(time).as_secs();
        if self.text.is_empty() || second != self.second {
            self.second = second;
            self.text = zoned(time).map_or_else(
                || "-".to_owned(),
                |zoned| zoned.strftime("[%d/%b/%Y:%H:%M:%S %z]").to_string(),
            );
        }
        &self.text
    }

    /// By a format of strftime(3).
    pub(super) fn formatted(&mut self, format: &Arc<str>, time: SystemTime) -> &str {
        let second = since_epoch(time).as_secs();
        // As many as configurations have, which is few.
        let place = self.others.iter().position(|(known, _, _)| known == format);
        let place = place.unwrap_or_else(|| {
            self.others
                .push((Arc::clone(format), u64::MAX, String::new()));
            self.others.len() - 1
        });
        let (_, made, text) = &mut self.others[place];
        if *made != second {
            *made = second;
            *text = zoned(time)
                .and_then(|zoned| jiff::fmt::strtime::format(&**format, &zoned).ok())
                .unwrap_or_else(|| "-".to_owned());
        }
        text
    }

    /// The thread that writes, as the error log and ps(1) know it.
    pub(super) fn thread(&mut self) -> u64 {
        *self.thread.get_or_insert_with(|| {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            u64::from(id.unsigned_abs())
        })
    }
}

pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn zoned(time: SystemTime) -> Option<jiff::Zoned> {
    let timestamp = jiff::Timestamp::try_from(time).ok()?;
    Some(timestamp.to_zoned(jiff::tz::TimeZone::system()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_httpds_and_is_made_once_a_second() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let mut clock = Clock::default();
        let stamp = clock.stamp(time).to_owned();
        assert!(stamp.starts_with("[09/Sep/2001:") || stamp.starts_with("[08/Sep/2001:"));
        assert!(stamp.ends_with(']') && stamp.len() == "[09/Sep/2001:01:46:40 +0000]".len());
        clock.text = "kept".to_owned();
        assert_eq!(clock.stamp(time + Duration::from_millis(999)), "kept");
        assert_ne!(clock.stamp(time + Duration::from_secs(1)), "kept");

        let (year, second) = (Arc::from("%Y"), Arc::from("%s"));
        assert_eq!(clock.formatted(&year, time), "2001");
        assert_eq!(clock.formatted(&second, time), "1000000000");
        assert_eq!(clock.formatted(&year, time), "2001");
        let later = time + Duration::from_secs(1);
        assert_eq!(clock.formatted(&second, later), "1000000001");
    }
}
