//! What changes made on the balancer-manager's page do to who is elected (apache.md 5.3, 9.2).

use super::stage::{Stage, name_of};

/// The nonce of every balancer here.
const NONCE: &str = "0123";

/// One step: so many requests, those of a session, or a change of the balancer.
enum Step {
    Get(usize),
    Of(&'static str, usize),
    Change(&'static str),
    /// A form as it is, with this Referer.
    Form(&'static str, &'static str),
}
use Step::{Change, Form, Get, Of};

/// Balancer, lines, steps, who answers.
type Play = (&'static str, &'static str, &'static [Step], &'static str);

const HERE: &str = "http://site.test/";

#[rustfmt::skip] // One play after another, steps in a line: it is read as a table.
const PLAYS: &[Play] = &[
    ("factor", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(3), Change("w=http://{a}&w_lf=3"), Get(9)], "a b a a a a b a a a b a"),
    ("factors", "BalancerMember http://{a}\nBalancerMember http://{b}\nBalancerMember http://{c}",
        &[Get(4), Change("w=http://{b}&w_lf=2.5"), Get(5), Change("w=http://{c}&w_lf=4"), Get(9)], "a b c a b a b c b c b c a c b c b c"),
    ("range", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(1), Change("w=http://{a}&w_lf=0.5"), Change("w=http://{a}&w_lf=101"), Get(4)], "a b a b a"),
    ("disable", "BalancerMember http://{a} loadfactor=2\nBalancerMember http://{b}\nBalancerMember http://{c}",
        &[Get(5), Change("w=http://{b}&w_status_D=1"), Get(5), Change("w=http://{b}&w_status_D=0"), Get(8)], "a b c a a c a a c a b a c a b a c a"),
    ("stop", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(1), Change("w=http://{b}&w_status_S=1"), Get(3), Change("w=http://{b}&w_status_S=0"), Get(4)], "a a a a b a b a"),
    ("drain", "BalancerMember http://{a} route=a\nBalancerMember http://{b} route=b\nProxySet stickysession=S",
        &[Get(2), Change("w=http://{b}&w_status_N=1"), Get(3), Of("b", 2), Change("w=http://{b}&w_status_N=0"), Get(4)], "a b a a a b b a a a b"),
    ("standby", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(3), Change("w=http://{a}&w_status_H=1"), Get(3), Change("w=http://{a}&w_status_H=0"), Get(4)], "a b a b b b b a b a"),
    ("spare", "BalancerMember http://{a}\nBalancerMember http://{b}\nBalancerMember http://{c} status=D",
        &[Get(3), Change("w=http://{b}&w_status_R=1"), Get(4)], "a b a b a b a"),
    ("set", "BalancerMember http://{a}\nBalancerMember http://{b}\nBalancerMember http://{c}",
        &[Get(2), Change("w=http://{a}&w_ls=1"), Get(4), Change("w=http://{a}&w_ls=100"), Get(2)], "a b c c b c b c"),
    ("method", "BalancerMember http://{a} loadfactor=2\nBalancerMember http://{b}",
        &[Get(4), Change("b_lbm=bybusyness"), Get(5), Change("b_lbm=byrequests"), Get(6), Change("b_lbm=nosuch"), Get(3)], "a b a a a b a a b a b a a b a a b a"),
    ("traffic", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(3), Change("b_lbm=bytraffic"), Get(4)], "a b a a b a b"),
    ("route", "BalancerMember http://{a} route=a\nBalancerMember http://{b} route=b\nProxySet stickysession=S",
        &[Change("w=http://{b}&w_wr=new"), Of("new", 2), Of("b", 3)], "b b a a a"),
    ("redirect", "BalancerMember http://{a} route=a\nBalancerMember http://{b} route=b status=D\nBalancerMember http://{c} route=c\nProxySet stickysession=S",
        &[Of("b", 2), Change("w=http://{b}&w_rr=c"), Of("b", 3)], "a c c c c"),
    ("sticky", "BalancerMember http://{a} route=a\nBalancerMember http://{b} route=b",
        &[Of("b", 2), Change("b_ss=S"), Of("b", 3), Change("b_sforce=1"), Change("w=http://{b}&w_status_D=1"), Of("b", 2), Change("b_sforce=0"), Of("b", 2), Change("b_ss=-"), Of("a", 2)], "a b b b b 503 503 a a a a"),
    ("added", "BalancerMember http://{a}\nBalancerMember http://{b}\nProxySet growth=1",
        &[Get(3), Change("b_wyes=1&b_nwrkr=http://{c}"), Get(3), Change("w=http://{c}&w_status_D=0"), Get(7), Change("b_wyes=1&b_nwrkr=http://{d}"), Get(3)], "a b a b a b a b c a b c a (400) b c a"),
    ("refused", "BalancerMember http://{a}\nBalancerMember http://{b}",
        &[Get(1),
          Form("b=refused&nonce=0124&w=http://{a}&w_status_D=1", HERE),
          Form("b=refused&w=http://{a}&w_status_D=1", HERE),
          Form("b=refused&nonce=0123&w=http://{a}&w_status_D=1", "http://else.where/"),
          Form("b=refused&nonce=0123&w=http://{a}&w_status_D=1", ""),
          Get(3)], "a b a b"),
];

#[test]
fn changes_on_the_page_lead_to_the_same_sequences() {
    let mut text = "<Location /manager>\nSetHandler balancer-manager\n</Location>\n".to_owned();
    for (name, lines, ..) in PLAYS {
        text.extend([
            "<Proxy balancer://",
            name,
            ">\n",
            lines,
            "\nProxySet nonce=",
            NONCE,
        ]);
        text.extend([
            "\n</Proxy>\nProxyPass /",
            name,
            "/ balancer://",
            name,
            "/\n",
        ]);
    }
    let Some(stage) = Stage::start(&["a", "b", "c", "d"], &[], &text) else {
        return;
    };
    let mut failures = Vec::new();
    for (name, _, steps, expected) in PLAYS {
        let [theirs, ours] = stage.sides.each_ref().map(|side| {
            let mut names = Vec::new();
            let line = format!("GET /{name}/x");
            let post = |form: &str, referer: &str| {
                let form = side.with_ports(form);
                let fields = [
                    format!("Content-Length: {}", form.len()),
                    "Content-Type: application/x-www-form-urlencoded".to_owned(),
                    format!("Referer: {referer}"),
                ];
                let fields = fields.each_ref().map(String::as_str);
                let given = if referer.is_empty() {
                    &fields[..2]
                } else {
                    &fields[..]
                };
                let seen = side.send("POST /manager", given, form.as_bytes());
                (seen.status != 200).then(|| format!("({})", seen.status))
            };
            for step in *steps {
                match step {
                    Get(times) => names.extend((0..*times).map(|_| name_of(&side.ask(&line, &[])))),
                    Of(route, times) => {
                        let cookie = format!("Cookie: S=x.{route}");
                        let asks = (0..*times).map(|_| name_of(&side.ask(&line, &[&cookie])));
                        names.extend(asks);
                    }
                    Change(form) => {
                        let form = format!("b={name}&nonce={NONCE}&{form}");
                        names.extend(post(&form, HERE));
                    }
                    Form(form, referer) => names.extend(post(form, referer)),
                }
            }
            names.join(" ")
        });
        if theirs != ours || theirs != *expected {
            failures.push(format!(
                "{name}: expected\n  {expected}\nhttpd\n  {theirs}\nsluice\n  {ours}"
            ));
        }
    }
    stage.end(&failures);
}
