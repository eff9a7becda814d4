//! What a guest's lines mean.

use super::Report;

fn heard(lines: &[&str]) -> Report {
    let mut report = Report::default();
    for line in lines {
        report.hear(line);
    }
    report
}

#[test]
fn checks_are_counted_and_failures_named() {
    let report = heard(&[
        "KERNEL 6.1.0-1-cloud-amd64",
        "PASS it boots",
        "FAIL it forwards to both members",
        "    FAIL of what a check said",
        "END",
    ]);
    assert_eq!(report.kernel, "6.1.0-1-cloud-amd64");
    assert_eq!(report.passed, 1);
    assert_eq!(report.failed, ["it forwards to both members"]);
    assert!(report.ended);
}

#[test]
fn guest_that_stops_in_the_middle_did_not_end() {
    assert!(!heard(&["PASS it boots", "ENDLESS"]).ended);
}
