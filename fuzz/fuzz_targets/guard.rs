//! The journey of any frames through full tables: the first byte says what is switched on, the rest
//! is one frame, sent a few times.

#![no_main]

use lb_common::{
    limit::{LimitKind, action},
    parse::{Reach, parse},
    verdict::{Action, Reason},
};

#[path = "../../tests/src/model.rs"]
#[allow(dead_code, unused_imports, reason = "the file is a module of another crate too")]
mod model;

use model::{Model, Setup, limit, service};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((switches, frame)) = input.split_first() else {
        return;
    };
    let has = |bit: u8| switches & 1 << bit != 0;
    let mut setup = Setup::guarded(&[service(1, "*", 80, 6), service(2, "*", 53, 17)]);
    setup.is_guarded = has(0);
    if has(1) {
        setup = setup.deny("10.0.0.0/8").deny_until("10.1.0.0/16", 1).deny("2000::/4");
    }
    if has(2) {
        setup = setup.allow("10.2.0.0/16").allow("2001:db8::/32");
    }
    let drop_third = limit(2, action::DROP);
    if has(3) {
        setup = setup
            .limit_service(1, LimitKind::PACKETS, drop_third)
            .limit_source(1, LimitKind::SYN, drop_third)
            .limit_source(2, LimitKind::UDP, drop_third);
    }
    if has(4) {
        setup = setup.limit_source(0, LimitKind::ICMP, drop_third);
    }
    let model = Model::new(&setup);
    let headers = parse(frame);
    for turn in 0..4 {
        let verdict = model.travel(frame).0.verdict;
        let is_dropped = verdict.reason.action() == Action::Drop;
        assert!(Reason::ALL.contains(&verdict.reason));
        assert_eq!(verdict.bytes, frame.len() as u64);
        // Nothing is dropped without the guard, and nothing vital ever.
        assert!(!is_dropped || has(0) && !headers.is_vital());
        // A service's packet has ports; what is dropped is a service's, denied, or ICMP over a limit.
        assert!(verdict.service == 0 || headers.reach == Reach::Ports);
        assert!(
            !is_dropped
                || verdict.service != 0
                || verdict.reason == Reason::DENIED && has(1)
                || headers.reach == Reach::Icmp && has(4) && turn >= 2
        );
    }
});
