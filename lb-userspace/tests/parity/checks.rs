//! Health checks (apache.md 5.6): what is sent, what takes a member out, what brings it back. When that
//! happens is not compared.

use super::{
    harness::wait_until,
    stage::{Stage, name_of},
};

const CONFIGURATION: &str = "ProxyHCExpr fine {%{REQUEST_STATUS} == 418}\n\
    ProxyHCTemplate often hcinterval=200ms hcfails=2 hcpasses=2\n\
    <Proxy balancer://get>\nBalancerMember http://{a} hcmethod=GET hcuri=/health hcinterval=200ms\n\
    BalancerMember http://{b}\n</Proxy>\nProxyPass /get/ balancer://get/\n\
    <Proxy balancer://head>\nBalancerMember http://{c}/app hctemplate=often hcmethod=HEAD hcuri=/health\n\
    BalancerMember http://{b}\n</Proxy>\nProxyPass /head/ balancer://head/\n\
    <Proxy balancer://expr>\nBalancerMember http://{d} hctemplate=often hcmethod=GET11 hcuri=/health hcexpr=fine\n\
    BalancerMember http://{b}\n</Proxy>\nProxyPass /expr/ balancer://expr/\n\
    <Proxy balancer://tcp>\nBalancerMember http://{x} hcuri=/health hcmethod=GET hctemplate=often retry=600\n\
    BalancerMember http://{b}\n</Proxy>\nProxyPass /tcp/ balancer://tcp/\n\
    <Proxy balancer://off>\nBalancerMember http://{e} hcmethod=OPTIONS11 hcuri=/health hcinterval=200ms status=S\n\
    BalancerMember http://{f} hcmethod=OPTIONS hcinterval=200ms status=D\n\
    BalancerMember http://{b}\n</Proxy>\nProxyPass /off/ balancer://off/\n";

#[test]
fn checks_take_members_out_and_bring_them_back() {
    let up = &["a", "b", "c", "d", "e", "f"];
    let Some(stage) = Stage::start(up, &["x"], CONFIGURATION) else {
        return;
    };
    for side in &stage.sides {
        let who = side.who;
        let asks = |balancer: &str| {
            let line = format!("GET /{balancer}/x");
            [(); 4].map(|()| name_of(&side.ask(&line, &[])))
        };
        let out = |balancer: &str| {
            wait_until(&format!("{who}: {balancer} without its first"), || {
                asks(balancer).iter().all(|name| name == "b")
            });
        };
        let back = |balancer: &str, name: &str| {
            wait_until(&format!("{who}: {balancer} with {name}"), || {
                let names = asks(balancer);
                names.iter().filter(|found| *found == name).count() == 2
            });
        };
        // A check that is never passed by what other members would pass.
        out("expr");
        side.actor("d").set_health(418);
        back("expr", "d");
        side.actor("a").set_health(503);
        out("get");
        side.actor("a").set_health(302);
        back("get", "a");
        side.actor("c").set_health(404);
        out("head");
        side.actor("c").set_health(399);
        back("head", "c");
        // The template has taken the place of what stands before it, and says nothing of how.
        out("tcp");
        side.actor("x").rise();
        // What ends the error, long before retry does, is the check.
        back("tcp", "x");
    }
    for side in &stage.sides {
        wait_until("a disabled member is checked", || {
            !side.actor("f").heads().is_empty()
        });
    }
    let checks = stage.sides.each_ref().map(|side| {
        ["a", "c", "d", "f", "e", "x"].map(|name| {
            let heads = side.actor(name).heads();
            let mut heads = heads.iter().filter(|head| !head.contains("/x "));
            heads.next().map(|head| side.without_ports(head))
        })
    });
    let [theirs, ours] = checks;
    assert!(theirs[..4].iter().all(Option::is_some), "{theirs:?}");
    assert_eq!(theirs[4..], [None, None], "stopped; TCP alone");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours, "httpd, sluice");
    }
}
