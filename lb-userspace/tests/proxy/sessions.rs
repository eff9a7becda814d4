//! `stickycookie=On`: the session's cookie is sluice's to write.

use lb_common::member::MemberState;
use sluice::{
    config::spec::{Spec, Sticky},
    pattern::Pattern,
};

use crate::support::{Lab, Member, Reply, dead_address, eventually, respond, sticky};

fn written() -> Sticky {
    Sticky {
        cookie_written: true,
        ..sticky()
    }
}

fn lab(members: &[&Member], change: impl FnOnce(&mut Spec)) -> Lab {
    let addresses: Vec<_> = members.iter().map(|member| member.address).collect();
    Lab::configured(&addresses, |spec| {
        spec.balancers[0].sticky = Some(written());
        change(spec);
    })
}

/// The cookie that a browser would send back.
fn cookie(reply: &Reply) -> String {
    let set = reply.field("set-cookie").expect("a cookie is set");
    let pair = set.split(';').next().unwrap_or_default();
    format!("Cookie: {pair}\r\n")
}

#[test]
fn a_new_client_gets_a_cookie_that_leads_back() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = lab(&[&a, &b], |_| {});
    let first = lab.get("/", "");
    assert_eq!(
        first.field("set-cookie").as_deref(),
        Some("ROUTEID=.n0; Path=/; HttpOnly; SameSite=Lax")
    );
    let second = lab.get("/", "");
    assert_eq!((first.text().as_str(), second.text().as_str()), ("a", "b"));
    for reply in [&first, &second] {
        for _ in 0..3 {
            let again = lab.get("/", &cookie(reply));
            assert_eq!(again.text(), reply.text());
            assert_eq!(again.field("set-cookie"), None, "nothing changed");
        }
    }
    let by_path = lab.get("/x;routeid=.n1", "");
    assert_eq!(
        (by_path.text().as_str(), by_path.field("set-cookie")),
        ("b", None)
    );
}

#[test]
fn a_session_whose_member_is_gone_moves_with_its_cookie() {
    let b = Member::named("b");
    let lab = Lab::configured(&[dead_address(), b.address], |spec| {
        spec.balancers[0].sticky = Some(written());
    });
    let moved = lab.get("/", "Cookie: ROUTEID=.n0\r\n");
    assert_eq!(moved.text(), "b");
    assert_eq!(cookie(&moved), "Cookie: ROUTEID=.n1\r\n");
    for bad in ["ROUTEID=.nosuch", "ROUTEID=n1", "ROUTEID=", "OTHER=.n1"] {
        let reply = lab.get("/", &format!("Cookie: {bad}\r\n"));
        assert_eq!(cookie(&reply), "Cookie: ROUTEID=.n1\r\n", "{bad}");
    }
}

#[test]
fn a_draining_member_keeps_its_sessions_and_gets_no_new_ones() {
    let (a, b) = (Member::named("a"), Member::named("b"));
    let lab = lab(&[&a, &b], |_| {});
    let session = cookie(&lab.get("/", ""));
    lab.cell(0, 0).set_state(MemberState::DRAIN);
    let kept = lab.get("/", &session);
    assert_eq!(
        (kept.text().as_str(), kept.field("set-cookie")),
        ("a", None)
    );
    assert_eq!(lab.get("/", "").text(), "b");
    lab.cell(0, 0).set_state(MemberState::DISABLED);
    let moved = lab.get("/", &session);
    assert_eq!(cookie(&moved), "Cookie: ROUTEID=.n1\r\n");
}

#[test]
fn a_cookie_of_the_application_stands() {
    let a = Member::with(|_, stream| {
        let fields = "Set-Cookie: other=1\r\nSet-Cookie: ROUTEID=own.n0; Path=/x\r\n";
        respond(stream, "200 OK", fields, b"a")
    });
    let lab = lab(&[&a], |_| {});
    let reply = lab.get("/", "");
    let set: Vec<_> = reply
        .head
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("set-cookie"))
        .collect();
    assert_eq!(set.len(), 2, "{set:?}");
    assert!(set[1].ends_with("ROUTEID=own.n0; Path=/x"));
}

#[test]
fn a_cookie_of_another_name_is_no_reason_to_set_none() {
    let a = Member::with(|_, stream| {
        respond(
            stream,
            "200 OK",
            "Set-Cookie: XROUTEID=1\r\nSet-Cookie: x=ROUTEID=1\r\n",
            b"a",
        )
    });
    let lab = lab(&[&a], |_| {});
    let reply = lab.get("/", "");
    assert!(
        reply.head.contains("ROUTEID=.n0; Path=/; HttpOnly"),
        "{}",
        reply.head
    );
}

#[test]
fn the_path_is_the_proxied_one_unless_there_are_several() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/app", 0, "");
    lab.spec.balancers[0].sticky = Some(written());
    lab.apply();
    let set = lab.get("/app/y", "").field("set-cookie").expect("set");
    assert!(set.contains("; Path=/app;"), "{set}");
    lab.route("/other", 0, "");
    lab.apply();
    let set = lab.get("/app/y", "").field("set-cookie").expect("set");
    assert!(set.contains("; Path=/;"), "{set}");
}

#[test]
fn the_path_of_a_pattern_is_no_path() {
    let a = Member::named("a");
    let mut lab = Lab::new(1);
    lab.add_balancer("x", &[a.address]);
    lab.route("/app/(.*)", 0, "/$1");
    let pattern = Pattern::new("/app/(.*)", false).expect("a pattern");
    lab.spec.hosts[0].routes[0].pattern = Some(pattern);
    lab.spec.balancers[0].sticky = Some(written());
    lab.apply();
    let set = lab.get("/app/y", "").field("set-cookie").expect("set");
    assert!(set.contains("; Path=/;"), "{set}");
}

#[test]
fn pages_of_ours_and_other_balancers_set_nothing() {
    let a = Member::named("a");
    let lab = Lab::configured(&[a.address], |spec| {
        spec.balancers[0].sticky = Some(sticky());
    });
    assert_eq!(lab.get("/", "").field("set-cookie"), None);
    let lab = Lab::configured(&[dead_address()], |spec| {
        spec.balancers[0].sticky = Some(written());
    });
    let reply = lab.get("/", "");
    assert_eq!((reply.status, reply.field("set-cookie")), (503, None));
    eventually("nobody is busy", || lab.busy(0, 0) == 0);
}
