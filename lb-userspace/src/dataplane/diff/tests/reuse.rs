//! Slots and ids that come to somebody else, or back to who had them.

use lb_common::{
    flow_table::{Entry, Flow4Key, State},
    member::MemberState,
};

use super::*;

/// One member by name at this address.
fn at(address: &str) -> Desired {
    let mut desired = app(&["http://a"]);
    desired.addresses[0][0] = address.parse().expect("an address");
    desired
}

#[test]
fn a_member_whose_name_moved_has_another_slot_and_what_an_operator_said_of_it() {
    let mut rig = Rig::new();
    let first = rig.publish(&at("192.0.2.1:80"))[0];
    let cell = rig.store.table.cell(first).expect("a");
    cell.set_state(MemberState::DRAIN | MemberState::ERROR | MemberState::HEALTH_FAILED);
    cell.weight.store(700, Relaxed);
    cell.elected.store(5, Relaxed);
    let second = rig.publish(&at("192.0.2.2:80"))[0];
    assert_ne!(second, first, "flows of the old address keep its slot");
    let (old, new) = (rig.slot(first), rig.slot(second));
    assert_ne!(old.record.retired, 0);
    assert_eq!(old.head.address, Address::from_v4([192, 0, 2, 1]).0);
    assert_eq!(new.head.address, Address::from_v4([192, 0, 2, 2]).0);
    assert_eq!(new.record.retired, 0);
    assert_eq!(
        new.head.state,
        MemberState::DRAIN,
        "errors were the old address's"
    );
    assert_eq!((new.head.weight, new.election.elected), (700, 5));
    assert_eq!(new.head.balancer, old.head.balancer, "the ring stays");
    assert_eq!(new.head.identity, old.head.identity);
    rig.reopen();
    assert_eq!(
        rig.publish(&at("192.0.2.2:80")),
        [second],
        "a crash moves nobody"
    );
}

#[test]
fn a_member_whose_name_moves_back_meets_its_old_flows_again() {
    let mut rig = Rig::new();
    let first = rig.publish(&at("192.0.2.1:80"))[0];
    let second = rig.publish(&at("192.0.2.2:80"))[0];
    let cell = rig.store.table.cell(second).expect("a");
    cell.set_state(MemberState::DISABLED);
    assert_eq!(rig.publish(&at("192.0.2.1:80")), [first]);
    let back = rig.slot(first);
    assert_eq!(
        (back.record.retired, back.head.state),
        (0, MemberState::DISABLED)
    );
    assert_ne!(rig.slot(second).record.retired, 0);
    // Neither of two drained slots is taken for the member at a third address.
    let third = rig.publish(&at("192.0.2.3:80"))[0];
    assert!(third != first && third != second);
    rig.store.free_settled(rig.now + GRACE_NS);
    let freed = [first, second].map(|id| rig.slot(id).head.identity[0]);
    assert_eq!(freed, [0, 0]);
    assert_ne!(rig.slot(third).head.identity[0], 0);
}

#[test]
fn a_service_that_gets_the_id_of_a_former_one_gets_none_of_its_flows() {
    let mut rig = Rig::new();
    rig.publish(&ports(2));
    let service_at = |rig: &Rig, port: u16| {
        let ways = rig.store.ways();
        let way = ways.iter().find(|w| w.value.port.to_u16() == port);
        way.expect("a service").value.id
    };
    let (stays, goes) = (service_at(&rig, 1000), service_at(&rig, 1001));
    // One of each, in the sets that there are, and one that begins.
    let entry = |state| Entry::new(3, 1, state, 5, 9).0;
    let flow = |rig: &Rig, way: usize, service: u16, state: State| {
        let [key, value] = rig.store.l4.way4(0, way).expect("a way");
        let word = Flow4Key::new([192, 0, 2, 1], [1, 2], service).word();
        key.store(word, Relaxed);
        value.store(entry(state) | Entry::OVERFLOWED, Relaxed);
    };
    flow(&rig, 0, goes, State::LIVE);
    flow(&rig, 1, stays, State::LIVE);
    flow(&rig, 2, goes, State::NEW);
    rig.store.l4.plant(stays, goes, entry(State::SEEN));
    let left = |rig: &Rig| {
        let all = rig.store.l4.flows().chain(rig.store.l4.rewritten());
        let mut services: Vec<u16> = all.map(|flow| flow.service).collect();
        services.sort_unstable();
        services
    };
    let (a, b) = (stays.min(goes), stays.max(goes));
    assert_eq!((a, b), (stays, goes));
    let before = [vec![stays; 3], vec![goes; 4]].concat();
    assert_eq!(left(&rig), before);

    rig.publish(&ports(1));
    assert_eq!(left(&rig), before, "nobody's id yet");
    let mut other = ports(1);
    let mut spec = (*other.spec).clone();
    spec.listeners.push(listener(0, 2000));
    other.spec = std::sync::Arc::new(spec);
    rig.publish(&other);
    assert_eq!(service_at(&rig, 2000), goes);
    assert_eq!(left(&rig), [stays; 3]);
    let [_, value] = rig.store.l4.way4(0, 0).expect("a way");
    assert_eq!(value.load(Relaxed), Entry::OVERFLOWED, "the mark stays");
}

#[test]
fn a_removed_member_is_marked_for_the_packet_path_until_it_comes_back() {
    let mut rig = Rig::new();
    let two = app(&["http://a", "http://b"]);
    let ids = rig.publish(&two);
    let state = |rig: &Rig, at: usize| rig.slot(ids[at]).head.state;
    let cell = rig.store.table.cell(ids[1]).expect("b");
    cell.set_state(MemberState::DRAIN);
    rig.publish(&app(&["http://a"]));
    let drained = MemberState::DRAIN;
    assert_eq!(
        [state(&rig, 0), state(&rig, 1)],
        [0, drained | MemberState::RETIRED]
    );
    rig.reopen();
    assert_eq!(rig.publish(&two), ids);
    assert_eq!([state(&rig, 0), state(&rig, 1)], [0, drained]);
    // What a publish that failed took back, too.
    let plan = rig.plan(&app(&["http://a"])).expect("it fits");
    let undo = rig.store.apply_all(&plan.ops).expect("memory");
    assert_eq!(state(&rig, 1), drained | MemberState::RETIRED);
    rig.store.take_back(undo, rig.now).expect("memory");
    assert_eq!(state(&rig, 1), drained);
}
