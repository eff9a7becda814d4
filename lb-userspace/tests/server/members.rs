//! `sluice member`: what an operator changes is what the next request sees.

use std::collections::BTreeSet;

use super::harness::{Member, Sluice, fetch, text};

/// Who answers the next requests.
fn answering(sluice: &Sluice) -> BTreeSet<String> {
    (0..8)
        .map(|_| {
            let answer = fetch(sluice.port, "/").expect("an answer");
            assert_eq!(answer.status, 200);
            answer.body
        })
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_drain_moves_new_requests_and_enable_brings_them_back() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a, &b]);
    assert_eq!(answering(&sluice), set(&["a", "b"]));

    let said = sluice.ok(&["member", "drain", "app", "a"]);
    assert!(said.contains("drains: existing sessions only"), "{said}");
    assert_eq!(answering(&sluice), set(&["b"]));
    let members = sluice.json(&["member", "list", "--json"]);
    assert_eq!(members["members"][0]["state"], serde_json::json!(["N"]));
    assert!(sluice.ok(&["member", "list"]).contains("N drain"));

    sluice.ok(&["member", "enable", "balancer://app", &a.url()]);
    assert_eq!(answering(&sluice), set(&["a", "b"]));

    sluice.ok(&["member", "disable", "app", &b.address.to_string()]);
    assert_eq!(answering(&sluice), set(&["a"]));
    assert!(sluice.log().contains(": disabled"), "{}", sluice.log());
}

#[test]
fn a_new_load_factor_is_followed_at_once() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = Sluice::start(&[&a, &b]);
    let said = sluice.ok(&["member", "set", "app", "a", "loadfactor=3", "lbset=0"]);
    assert!(said.contains("loadfactor 3 (was 1)"), "{said}");
    for _ in 0..40 {
        fetch(sluice.port, "/").expect("an answer");
    }
    assert_eq!((a.count(), b.count()), (30, 10));
}

#[test]
fn several_changes_are_made_together_or_not_at_all() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let output = sluice.cli(&["member", "set", "app", "a", "loadfactor=7", "status=+E"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = sluice.json(&["member", "show", "app", "a", "--json"]);
    assert_eq!(shown["lbfactor"], 1.0);
}

#[test]
fn an_unknown_member_brings_candidates_and_exit_code_1() {
    let a = Member::start("a");
    let sluice = Sluice::start(&[&a]);
    let output = sluice.cli(&["member", "drain", "app", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&a.url()), "{output:?}");
    let output = sluice.cli(&["member", "drain", "ap", "a"]);
    assert!(
        text(&output.stderr).contains("did you mean app?"),
        "{output:?}"
    );
}
