//! Lines as httpd writes them, and whose levels count.

use super::*;

#[test]
fn a_line_reads_as_httpds() {
    let fields = Fields {
        message: "AH01114: failed\nforged".to_owned(),
        client: Some("192.0.2.1:4000".to_owned()),
        rest: " member=http://a".to_owned(),
        ..Fields::default()
    };
    let time: jiff::Timestamp = "2026-11-22T14:00:00.000001Z".parse().expect("time");
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    let line = Line {
        request: Request::default(),
        time,
        pid: 7,
        tid: 8,
        target: "sluice::proxy::forward",
        level: Level::ERROR,
        source: None,
        fields: &fields,
    };
    assert_eq!(
        line.to_string(),
        "[Sun Nov 22 14:00:00.000001 2026] [proxy:error] [pid 7:tid 8] [client 192.0.2.1:4000] \
         AH01114: failed\\nforged member=http://a\n"
    );
}

#[test]
fn a_line_of_a_request_carries_its_id_and_reason_in_either_form() {
    let fields = Fields {
        message: "[client 192.0.2.1:4000] AH01102: \"cut\"".to_owned(),
        reason: Some("no_response".to_owned()),
        rest: " n=1".to_owned(),
        ..Fields::default()
    };
    let time: jiff::Timestamp = "2026-11-22T14:00:00.000001Z".parse().expect("time");
    let line = Line {
        request: Request {
            host: 0,
            id: 0xab,
            connection: 0xcd,
            logged: false,
        },
        time: time.to_zoned(jiff::tz::TimeZone::UTC),
        pid: 7,
        tid: 8,
        target: "sluice::proxy",
        level: Level::ERROR,
        source: None,
        fields: &fields,
    };
    let text = line.to_string();
    let end = "AH01102: \"cut\" n=1 reason=no_response request=00000000000000ab\n";
    assert!(text.ends_with(end), "{text}");
    let object: serde_json::Value = serde_json::from_str(&line.json()).expect("JSON");
    let expected = serde_json::json!({
        "time": "2026-11-22T14:00:00.000001Z", "module": "proxy", "level": "error",
        "pid": 7, "tid": 8, "client": "192.0.2.1:4000", "request": "00000000000000ab",
        "id": "AH01102", "reason": "no_response", "message": "\"cut\" n=1",
    });
    assert_eq!(object, expected);
}

#[test]
fn levels_are_a_hosts_and_a_modules() {
    let log = |level, modules: &[(&str, LogLevel)]| Log {
        levels: LogLevels {
            level,
            modules: modules
                .iter()
                .map(|(name, level)| ((*name).to_owned(), *level))
                .collect(),
        },
        ..Log::default()
    };
    let targets = Targets {
        main: log(LogLevel::Warn, &[("ssl", LogLevel::Debug)]),
        hosts: vec![
            log(LogLevel::Warn, &[]),
            log(LogLevel::Info, &[("ssl", LogLevel::Error)]),
        ],
    };
    assert_eq!(targets.log(None).level("ssl"), LogLevel::Debug);
    assert_eq!(targets.log(Some(0)).level("ssl"), LogLevel::Warn);
    assert_eq!(targets.log(Some(1)).level("ssl"), LogLevel::Error);
    assert_eq!(targets.log(Some(1)).level("proxy"), LogLevel::Info);
    assert_eq!(targets.log(Some(9)).level("proxy"), LogLevel::Warn);
}

#[test]
fn levels_follow_loglevel() {
    assert_eq!(filter(LogLevel::Error as u8), LevelFilter::ERROR);
    assert_eq!(filter(LogLevel::Warn as u8), LevelFilter::WARN);
    assert_eq!(filter(LogLevel::Notice as u8), LevelFilter::WARN);
    assert_eq!(filter(LogLevel::Info as u8), LevelFilter::INFO);
    assert_eq!(filter(LogLevel::Trace as u8), LevelFilter::TRACE);
}
