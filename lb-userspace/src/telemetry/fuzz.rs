//! Body of the fuzz target for log formats: what must hold of any format and any request.

use std::time::{Duration, SystemTime};

use super::{
    access::{Clock, Connection, Entry, Format},
    error_format::{self, Parts},
};
use crate::config;

/// Reads the text up to the first zero byte as a format of either kind and has it write a line about
/// what follows.
pub fn fuzz_formats(data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == 0);
    let text = String::from_utf8_lossy(halves.next().unwrap_or_default());
    let hostile = halves.next().unwrap_or_default();
    let shown = String::from_utf8_lossy(hostile);
    if let Ok(items) = config::log_format::parse(&text) {
        let line = access_line(&text, hostile, &shown);
        assert_eq!(line.last(), Some(&b'\n'));
        let is_literal = |item: &config::log_format::Item| match item {
            config::log_format::Item::Text(text) => {
                !text.bytes().all(|b| (b' '..0x7f).contains(&b))
            }
            config::log_format::Item::Tag(_) => false,
        };
        if !items.iter().any(is_literal) {
            let body = &line[..line.len() - 1];
            let plain = body.iter().all(|byte| (b' '..0x7f).contains(byte));
            assert!(plain, "nothing from outside forges a line");
        }
    }
    if config::error_format::parse(&text).is_ok() {
        let time = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
        let _line = error_format::Format::compile(&text).line(&Parts {
            time: &time,
            module: "core",
            level: "error",
            severity: 3,
            pid: 1,
            tid: 2,
            source: None,
            client: "",
            request: "",
            connection: "",
            server_name: "",
            message: &shown,
        });
    }
}

fn access_line(format: &str, hostile: &[u8], shown: &str) -> Vec<u8> {
    let format = Format::compile(format);
    let value = http::HeaderValue::from_bytes(hostile).ok();
    let mut line = Vec::new();
    let entry = Entry {
        remote: ([192, 0, 2, 1], 1).into(),
        local: ([192, 0, 2, 2], 80).into(),
        begun: SystemTime::UNIX_EPOCH,
        took: Duration::from_secs(1),
        request_line: shown,
        method: shown,
        path: hostile,
        query: Some(shown),
        protocol: shown,
        status: 200,
        body_bytes: 1,
        bytes_in: 2,
        bytes_out: 3,
        filename: shown,
        server_name: shown,
        host_name: shown,
        port: 80,
        keepalives: 0,
        connection: Connection::Kept,
        request_fields: &vec![value.clone(); format.request_fields().len()],
        response_fields: &vec![value; format.response_fields().len()],
        log_id: 0,
        connection_log_id: 0,
        handler: "",
        environment: &[("SLUICE_REASON".into(), shown.to_owned())],
        notes: &[("kept".to_owned(), shown.to_owned())],
    };
    format.write(&entry, &mut Clock::default(), &mut line);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_format_and_no_request_break_a_line(
            format in "([%a-zA-Z{}!<>,0-9^ +:-]|%\\{[a-zA-Z%:_]{1,6}\\}[a-zA-Z]|%M ){0,12}",
            hostile in proptest::collection::vec(proptest::num::u8::ANY, 0..40)
        ) {
            fuzz_formats(&[format.as_bytes(), &[0], &hostile].concat());
        }
    }
}
