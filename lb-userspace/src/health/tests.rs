//! What outcomes of checks mean, and when the next one comes.

use super::*;

const USED: MemberState = MemberState(0);
const FAILED: MemberState = MemberState(MemberState::HEALTH_FAILED);
const IN_ERROR: MemberState = MemberState(MemberState::ERROR);

fn policy(passes: u32, fails: u32) -> Health {
    Health {
        passes,
        fails,
        ..Health::default()
    }
}

#[test]
fn failures_add_up_whatever_succeeds_between() {
    let policy = policy(1, 3);
    let mut progress = Progress::default();
    for _ in 0..2 {
        assert_eq!(progress.observe(&policy, USED, false), None);
        assert_eq!(progress.observe(&policy, USED, true), None);
    }
    let third = progress.observe(&policy, USED, false);
    assert_eq!(third, Some(Change::Disabled));
    assert_eq!(progress, Progress::default());
}

#[test]
fn a_failed_member_comes_back_after_its_passes() {
    let policy = policy(2, 1);
    let mut progress = Progress::default();
    assert_eq!(
        progress.observe(&policy, USED, false),
        Some(Change::Disabled)
    );
    assert_eq!(progress.observe(&policy, FAILED, true), None);
    assert_eq!(progress.observe(&policy, FAILED, false), None);
    assert_eq!(
        progress.observe(&policy, FAILED, true),
        Some(Change::Enabled)
    );
}

#[test]
fn a_member_that_requests_put_into_error_is_cured_by_a_check() {
    let mut progress = Progress::default();
    let cured = progress.observe(&policy(1, 1), IN_ERROR, true);
    assert_eq!(cured, Some(Change::Enabled));
    assert_eq!(progress.observe(&policy(1, 1), USED, true), None);
}

#[test]
fn a_bound_of_zero_is_a_bound_of_one() {
    let mut progress = Progress::default();
    let first = progress.observe(&policy(0, 0), USED, false);
    assert_eq!(first, Some(Change::Disabled));
}

#[test]
fn stopped_members_are_left_alone() {
    assert!(!is_checked(MemberState(MemberState::STOPPED)));
    assert!(is_checked(MemberState(
        MemberState::DISABLED | MemberState::HEALTH_FAILED
    )));
}

#[test]
fn pauses_spread_around_the_interval() {
    let second = Duration::from_secs(1);
    assert_eq!(pause(second, 0), Duration::from_millis(900));
    let longest = pause(second, 255);
    assert!(longest > Duration::from_millis(1090) && longest < Duration::from_millis(1100));
    assert!(pause(Duration::from_hours(876_000), 255) > Duration::from_hours(876_000));
}
