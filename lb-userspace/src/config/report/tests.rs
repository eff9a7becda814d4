//! How reports look.

use super::*;

fn report() -> Report {
    Report {
        severity: Severity::Error,
        file: "/etc/sluice.conf".into(),
        line: 41,
        text_line: 40,
        column: 11,
        width: 5,
        line_text: "ProxyPass\t/appp http://h/".to_owned(),
        message: "bad\x1b[2Jthing".to_owned(),
        help: "expected a\nor b".to_owned(),
    }
}

#[test]
fn a_report_shows_place_line_caret_and_help() {
    assert_eq!(
        report().render(),
        "/etc/sluice.conf:41:11: error: bad\\u{1b}[2Jthing\n \
         40 | ProxyPass /appp http://h/\n    |           ^^^^^\n   = expected a\n   = or b"
    );
}

#[test]
fn a_long_line_is_cut_around_the_caret() {
    let mut long = report();
    long.line_text = format!("{}/appp{}", "x".repeat(1000), "y".repeat(1000));
    long.column = 1001;
    let text = long.render();
    let lines: Vec<&str> = text.lines().collect();
    let caret = lines[2].find('^').expect("there is a caret");
    assert_eq!(&lines[1][caret..caret + 5], "/appp");
    assert!(lines[1].len() < 200);
}

#[test]
fn a_report_about_a_file_has_no_line() {
    let text = Report::about_file(Severity::Warning, Path::new("/a"), "gone").render();
    assert_eq!(text, "/a: warning: gone");
}

#[test]
fn reports_beyond_a_hundred_are_counted() {
    let mut reports = Reports::default();
    for order in 0..250 {
        reports.push_file(Severity::Error, Path::new("/a"), order, "x", "");
    }
    reports.push_file(Severity::Notice, Path::new("/a"), 0, "n", "");
    let list = reports.finish(Path::new("/a"));
    assert_eq!(list.len(), 102);
    assert_eq!(list[101].message, "and 150 more errors");
}
