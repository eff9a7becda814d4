//! Rules of names.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_member_keeps_its_address_while_the_answer_has_it() {
    let answer = [ip("192.0.2.2"), ip("192.0.2.1")];
    assert_eq!(
        choose(Some(ip("192.0.2.1")), &answer),
        Some(ip("192.0.2.1"))
    );
    assert_eq!(
        choose(Some(ip("192.0.2.9")), &answer),
        Some(ip("192.0.2.2"))
    );
    assert_eq!(choose(None, &answer), Some(ip("192.0.2.2")));
    assert_eq!(choose(Some(ip("192.0.2.1")), &[]), None);
}

#[test]
fn an_answer_is_of_one_family_and_bounded() {
    let mixed = [ip("2001:db8::1"), ip("192.0.2.1"), ip("::ffff:192.0.2.1")];
    let answer = Answer::of(mixed, Duration::ZERO).expect("addresses");
    assert_eq!(answer.addresses, [ip("192.0.2.1")]);
    let many = (0..=255).map(|n| IpAddr::from([10, 0, 0, n]));
    let answer = Answer::of(many, Duration::ZERO).expect("addresses");
    assert_eq!(answer.addresses.len(), MOST_ADDRESSES);
}

#[test]
fn an_address_that_cannot_be_a_members_is_none() {
    for text in [
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
        "::ffff:0.0.0.0",
    ] {
        assert_eq!(Answer::of([ip(text)], Duration::ZERO), None, "{text}");
    }
}

#[test]
fn times_of_records_are_bounded_and_those_of_the_file_are_not() {
    let seconds = Duration::from_secs;
    assert_eq!(holds(AddressTtl::Record, Duration::ZERO), SHORTEST);
    assert_eq!(holds(AddressTtl::Record, seconds(90)), seconds(90));
    assert_eq!(holds(AddressTtl::Record, seconds(u64::MAX)), LONGEST);
    let day = AddressTtl::Every(seconds(86_400));
    assert_eq!(holds(day, seconds(5)), seconds(86_400));
    assert_eq!(
        holds(AddressTtl::Every(Duration::ZERO), seconds(5)),
        SHORTEST
    );
}

#[test]
fn pauses_grow_with_failures_and_spread_by_a_tenth() {
    let pauses: Vec<u64> = (1..9).map(|n| pause(Err(n), 0).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(pause(Err(u32::MAX), 0), LONGEST_FAILING);
    let hold = Duration::from_secs(100);
    assert_eq!(pause(Ok(hold), 0), hold);
    let longest = pause(Ok(hold), 255);
    assert!(longest > hold && longest < hold + hold / 10, "{longest:?}");
}
