//! Error log lines by an `ErrorLogFormat` of httpd's.

use std::fmt::Write as _;

use crate::config::error_format::{self, Item, Tag};

/// A compiled format.
#[derive(Clone, Debug)]
pub struct Format(Vec<Item>);

/// What a line is made of. Values are escaped where they came from outside.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// When.
    pub time: &'a jiff::Zoned,
    /// Module's name.
    pub module: &'a str,
    /// `error`, `warn`, ...
    pub level: &'static str,
    /// The same as a number: 3 error, 4 warn, 5 notice, 6 info, 7 debug, 8 trace.
    pub severity: u8,
    /// Process.
    pub pid: i32,
    /// Thread.
    pub tid: i32,
    /// Source file and line.
    pub source: Option<(&'static str, u32)>,
    /// Client's address and port, where there is one.
    pub client: &'a str,
    /// Request's id; empty: none.
    pub request: &'a str,
    /// Connection's id; empty: none.
    pub connection: &'a str,
    /// `ServerName` of the virtual host.
    pub server_name: &'a str,
    /// The message.
    pub message: &'a str,
}

impl Format {
    /// Compiles a format string; one that `configtest` would refuse writes the message alone.
    pub fn compile(text: &str) -> Self {
        let message = || {
            let tag = Tag {
                name: 'M',
                argument: String::new(),
                least: 0,
                hyphen: false,
                required: false,
            };
            vec![Item::Tag(tag)]
        };
        Self(error_format::parse(text).unwrap_or_else(|_| message()))
    }

    /// The line without its end. `None`: something required is not there, so there is no line.
    pub fn line(&self, parts: &Parts<'_>) -> Option<String> {
        let mut line = String::new();
        let (mut start, mut skipping) = (0, false);
        for item in &self.0 {
            match item {
                Item::Boundary => {
                    if !std::mem::take(&mut skipping) {
                        start = line.len();
                    }
                }
                Item::Tag(tag) if tag.name == 'M' => line.push_str(parts.message),
                _ if skipping => {}
                Item::Text(text) => line.push_str(text),
                Item::Tag(tag) => {
                    let before = line.len();
                    if tag.least <= parts.severity {
                        tag_value(tag, parts, &mut line);
                    } else {
                        // Not wanted at this severity, whatever else it asks for.
                        line.truncate(start);
                        skipping = true;
                        continue;
                    }
                    if line.len() > before {
                        continue;
                    }
                    if tag.required {
                        return None;
                    }
                    if tag.hyphen {
                        line.push('-');
                    } else {
                        line.truncate(start);
                        skipping = true;
                    }
                }
            }
        }
        // A field that was left out at the beginning leaves the blank before the next one.
        let blanks = line.len() - line.trim_start_matches(' ').len();
        if blanks > 0 && self.0.first() != Some(&Item::Boundary) {
            line.drain(..blanks);
        }
        Some(line)
    }
}

fn tag_value(tag: &Tag, parts: &Parts<'_>, line: &mut String) {
    let _never_fails_on_a_string = match (tag.name, tag.argument.as_str()) {
        ('a', _) => line.write_str(parts.client),
        ('l', _) => line.write_str(parts.level),
        ('m', _) => line.write_str(parts.module),
        ('L', "c" | "C") => line.write_str(parts.connection),
        ('L', _) => line.write_str(parts.request),
        ('P', _) => write!(line, "{}", parts.pid),
        ('T', _) => write!(line, "{}", parts.tid),
        ('v' | 'V', _) => line.write_str(parts.server_name),
        ('F', _) => match parts.source {
            Some((file, number)) => {
                let name = file.rsplit('/').next().unwrap_or(file);
                write!(line, "{name}({number})")
            }
            None => Ok(()),
        },
        ('t', how) => {
            let compact = how.contains('c');
            let fraction = match (how.contains('u'), how.contains('m')) {
                (true, _) => ".%6f",
                (false, true) => ".%3f",
                (false, false) => "",
            };
            let format = if compact {
                format!("%Y-%m-%d %H:%M:%S{fraction}")
            } else {
                format!("%a %b %d %H:%M:%S{fraction} %Y")
            };
            write!(line, "{}", parts.time.strftime(&format))
        }
        _ => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: &str, change: impl FnOnce(&mut Parts<'_>)) -> Option<String> {
        let time: jiff::Timestamp = "2026-11-22T14:00:00.012345Z".parse().expect("time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        let mut parts = Parts {
            time: &time,
            module: "proxy",
            level: "error",
            severity: 3,
            pid: 7,
            tid: 8,
            source: Some(("a/b.rs", 9)),
            client: "192.0.2.1:4000",
            request: "00ab",
            connection: "",
            server_name: "www.test",
            message: "AH01114: gone",
        };
        change(&mut parts);
        Format::compile(format).line(&parts)
    }

    /// httpd's own format (ErrorLogFormat's documentation).
    const DEFAULT: &str =
        r"[%{u}t] [%-m:%l] [pid %P:tid %T] %7F: %E: [client\ %a] %M% ,\ referer\ %{Referer}i";

    #[test]
    fn httpds_default_format_gives_httpds_default_line() {
        let start = "[Sun Nov 22 14:00:00.012345 2026] [proxy:error] [pid 7:tid 8] ";
        assert_eq!(
            line(DEFAULT, |_| {}),
            Some(format!("{start}[client 192.0.2.1:4000] AH01114: gone"))
        );
        assert_eq!(
            line(DEFAULT, |parts| parts.client = ""),
            Some(format!("{start}AH01114: gone"))
        );
        let debug = line(DEFAULT, |parts| {
            parts.severity = 7;
            parts.level = "debug";
        });
        let debug = debug.expect("a line");
        assert!(debug.contains("] b.rs(9): [client"), "{debug}");
    }

    #[test]
    fn modifiers_do_what_httpd_says_of_them() {
        let cases = [
            ("[%L] [%{c}L] %M", Some("[00ab] AH01114: gone")),
            ("%{c}L %M", Some("AH01114: gone")),
            ("%-{c}L %M", Some("- AH01114: gone")),
            ("%+{c}L %M", None),
            (
                "%v %{cu}t %{cm}t %M%%",
                Some("www.test 2026-11-22 14:00:00.012345 2026-11-22 14:00:00.012 AH01114: gone%"),
            ),
            ("%t\\ %M", Some("Sun Nov 22 14:00:00 2026 AH01114: gone")),
        ];
        for (format, expected) in cases {
            assert_eq!(line(format, |_| {}).as_deref(), expected, "{format}");
        }
    }
}
