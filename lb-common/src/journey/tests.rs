//! The order of decisions: deny, lookup, guard, and what is never dropped.

use proptest::prelude::*;

use super::*;
use crate::{
    limit::action,
    model::{Model, Setup, limit, service},
    packet::{Packet, flags},
    verdict::Action,
};

const A4: &str = "192.0.2.1:1234";
const B4: &str = "198.51.100.7:80";
const A6: &str = "[2001:db8::1]:1234";
const B6: &str = "[2001:db8:1::2]:80";

fn web() -> Setup {
    Setup::guarded(&[
        service(1, "198.51.100.7", 80, 6),
        service(2, "*", 443, 6),
        service(3, "2001:db8:1::2", 80, 6),
    ])
}

fn verdict(model: &Model, packet: &Packet) -> (u16, Reason) {
    let frame = packet.build();
    let verdict = model.travel(&frame).0.verdict;
    assert_eq!(verdict.bytes, frame.len() as u64);
    (verdict.service, verdict.reason)
}

#[test]
fn address_and_port_name_the_service_and_the_wildcard_takes_the_rest() {
    let model = Model::new(&web());
    let to = |to: &str| verdict(&model, &Packet::tcp(A4, to, flags::SYN));
    assert_eq!(to(B4), (1, Reason::LOCAL));
    assert_eq!(to("198.51.100.8:80"), (0, Reason::NOT_A_SERVICE));
    assert_eq!(to("198.51.100.8:443"), (2, Reason::LOCAL));
    assert_eq!(
        verdict(&model, &Packet::tcp(A6, B6, flags::SYN)),
        (3, Reason::LOCAL)
    );
    assert_eq!(
        verdict(&model, &Packet::udp(A4, B4, 0)),
        (0, Reason::NOT_A_SERVICE)
    );
}

#[test]
fn exact_address_wins_over_the_wildcard() {
    let setup = Setup::guarded(&[service(8, "*", 80, 6), service(9, "198.51.100.7", 80, 6)]);
    let model = Model::new(&setup);
    assert_eq!(
        verdict(&model, &Packet::tcp(A4, B4, flags::SYN)),
        (9, Reason::LOCAL)
    );
    let other = Packet::tcp(A4, "198.51.100.8:80", flags::SYN);
    assert_eq!(verdict(&model, &other), (8, Reason::LOCAL));
}

#[test]
fn deny_drops_the_hosts_other_traffic_too() {
    let model = Model::new(&web().deny("192.0.2.0/24").deny("2001:db8::/64"));
    for packet in [
        Packet::tcp(A4, B4, flags::SYN),
        Packet::tcp(A4, "198.51.100.7:22", flags::SYN),
        Packet::udp(A4, B4, 64).fragment(5, false),
        Packet::raw(A4, B4, 47, &[0; 8]),
        Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0),
        Packet::tcp(A6, B6, flags::ACK),
    ] {
        assert_eq!(verdict(&model, &packet), (0, Reason::DENIED), "{packet:?}");
    }
    let other = Packet::tcp("192.0.3.1:1", B4, flags::SYN);
    assert_eq!(verdict(&model, &other), (1, Reason::LOCAL));
}

#[test]
fn vital_messages_are_never_denied_nor_limited() {
    let setup = web()
        .deny("0.0.0.0/0")
        .deny("::/0")
        .limit_source(0, LimitKind::ICMP, limit(1, action::DROP))
        .limit_service(0, LimitKind::ICMP, limit(1, action::DROP));
    let model = Model::new(&setup);
    for _ in 0..3 {
        for kind in [2, 133, 134, 135, 136, 137] {
            let packet = Packet::icmp("fe80::1", "fe80::2", kind, 0);
            assert_eq!(verdict(&model, &packet), (0, Reason::VITAL));
        }
        let needed = Packet::icmp("192.0.2.1", "198.51.100.7", 3, 4);
        assert_eq!(verdict(&model, &needed), (0, Reason::VITAL));
    }
}

#[test]
fn allow_beats_deny_and_limits_but_not_malformed() {
    let setup = web()
        .deny("192.0.2.0/24")
        .allow("192.0.2.1/32")
        .limit_service(1, LimitKind::SYN, limit(1, action::DROP))
        .limit_source(1, LimitKind::SYN, limit(1, action::DROP));
    let model = Model::new(&setup);
    for _ in 0..5 {
        let syn = Packet::tcp(A4, B4, flags::SYN);
        assert_eq!(verdict(&model, &syn), (1, Reason::LOCAL));
    }
    let bad = Packet::tcp(A4, B4, flags::SYN | flags::FIN);
    assert_eq!(verdict(&model, &bad), (1, Reason::BAD_TCP_FLAGS));
    let denied = Packet::tcp("192.0.2.2:9", B4, flags::SYN);
    assert_eq!(verdict(&model, &denied), (0, Reason::DENIED));
}

#[test]
fn timed_entry_ends_and_the_shorter_one_behind_it_stays() {
    let now = Model::new(&web()).now.get();
    let setup = web()
        .deny("192.0.0.0/8")
        .deny_until("192.0.2.0/24", now)
        .deny_until("192.0.2.1/32", now - 1);
    let model = Model::new(&setup);
    assert_eq!(
        verdict(&model, &Packet::tcp(A4, B4, flags::SYN)),
        (0, Reason::DENIED)
    );
    let setup = web().deny_until("192.0.2.0/24", now + 1);
    let model = Model::new(&setup);
    assert_eq!(
        verdict(&model, &Packet::tcp(A4, B4, flags::SYN)),
        (0, Reason::DENIED)
    );
    model.now.set(now + 1);
    assert_eq!(
        verdict(&model, &Packet::tcp(A4, B4, flags::SYN)),
        (1, Reason::LOCAL)
    );
}

#[test]
fn guard_that_is_off_passes_and_counts_everything() {
    let mut setup =
        web()
            .deny("192.0.2.0/24")
            .limit_service(1, LimitKind::SYN, limit(1, action::DROP));
    setup.is_guarded = false;
    let model = Model::new(&setup);
    for flags in [flags::SYN, flags::SYN | flags::FIN, 0] {
        assert_eq!(
            verdict(&model, &Packet::tcp(A4, B4, flags)),
            (1, Reason::GUARD_OFF)
        );
    }
}

#[test]
fn icmp_has_the_hosts_limits() {
    let ping = Packet::icmp("192.0.2.1", "198.51.100.7", 8, 0);
    let free = Model::new(&web());
    assert_eq!(verdict(&free, &ping), (0, Reason::ICMP));
    let setup = web().limit_source(0, LimitKind::ICMP, limit(2, action::DROP));
    let model = Model::new(&setup);
    assert_eq!(verdict(&model, &ping), (0, Reason::ICMP));
    assert_eq!(verdict(&model, &ping), (0, Reason::ICMP));
    assert_eq!(verdict(&model, &ping), (0, Reason::ICMP_SOURCE_LIMIT));
}

#[test]
fn clock_is_read_only_where_time_matters() {
    let plain = Model::new(&web().deny("203.0.113.0/24"));
    verdict(&plain, &Packet::tcp(A4, B4, flags::SYN));
    verdict(&plain, &Packet::tcp("203.0.113.1:5", B4, flags::SYN));
    verdict(&plain, &Packet::udp(A4, "198.51.100.7:53", 1));
    assert_eq!(plain.clock_reads.get(), 0);
    let setup = web()
        .limit_service(1, LimitKind::SYN, limit(5, action::DROP))
        .limit_service(1, LimitKind::PACKETS, limit(5, action::DROP))
        .limit_source(1, LimitKind::SYN, limit(5, action::DROP));
    let limited = Model::new(&setup);
    verdict(&limited, &Packet::tcp(A4, B4, flags::SYN));
    assert_eq!(limited.clock_reads.get(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 1024 }))]

    /// However strange a packet is: if it is no service's and its source is not denied, it passes.
    #[test]
    fn nothing_is_dropped_that_is_no_services(
        noise in proptest::collection::vec(any::<u8>(), 0..120),
        ether_type in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100)],
        byte in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), any::<u8>()],
    ) {
        let mut frame = noise;
        if frame.len() > 14 {
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            frame[14] = byte;
        }
        let model = Model::new(&Setup::guarded(&[]));
        let verdict = model.travel(&frame).0.verdict;
        prop_assert_eq!(verdict.reason.action(), Action::Pass);
        prop_assert_eq!(verdict.service, 0);
    }
}
