//! What puts a member into error, who gets its requests then, what clients see of it, and what ends it
//! (apache.md 5.5, 6.4, 6.5). Where the error must last, `retry` is ten minutes.

use super::{
    harness::wait_until,
    stage::{Stage, ask, name_of, scene, with},
};

/// 200 kB.
static LARGE: [u8; 200_000] = [b'x'; 200_000];

#[test]
fn dead_members_are_passed_over_as_often_as_httpd_does() {
    Stage::play(
        &["a", "b"],
        &["x", "y", "z"],
        &[
            scene(
                "one",
                "{a}; {x} retry=600; {b}",
                &[ask(7, "GET /x")],
                "a b b a b a b",
            ),
            scene(
                "three",
                "{x} retry=600; {y} retry=600; {z} retry=600; {a}",
                &[ask(4, "GET /x")],
                "a a a a",
            ),
            scene(
                "none",
                "{x} retry=600; {y} retry=600; {a}; ProxySet maxattempts=0",
                &[ask(5, "GET /x")],
                "503 503 a a a",
            ),
            scene(
                "once",
                "{x} retry=600; {y} retry=600; {a}; ProxySet maxattempts=1",
                &[ask(4, "GET /x")],
                "503 a a a",
            ),
            scene(
                "always",
                "{x} retry=0; {a}",
                &[ask(6, "GET /x")],
                "a a a a a a",
            ),
            scene(
                "weighed",
                "{x} retry=600 loadfactor=3; {a}; {b} loadfactor=2",
                &[ask(8, "GET /x")],
                "b a b b a b b a",
            ),
            scene(
                "ignoring",
                "{x} status=I; {a}",
                &[ask(5, "GET /x")],
                "503 a 503 a 503",
            ),
            scene(
                "all",
                "{x} retry=600; {y} retry=600",
                &[ask(3, "GET /x")],
                "503 503 503",
            ),
            scene(
                "allstay",
                "{x} retry=600; {y} retry=600; ProxySet forcerecovery=Off",
                &[ask(3, "GET /x")],
                "503 503 503",
            ),
            scene("single", "{x} retry=600", &[ask(2, "GET /x")], "503 503"),
            scene(
                "traffic",
                "{a}; {x} retry=600; {b}; ProxySet lbmethod=bytraffic",
                &[ask(6, "GET /x")],
                "a b a b a b",
            ),
            scene(
                "busyness",
                "{a}; {x} retry=600; {b}; ProxySet lbmethod=bybusyness",
                &[ask(6, "GET /x")],
                "a b b a b a",
            ),
        ],
    );
}

#[test]
fn statuses_and_broken_responses_count_as_for_httpd() {
    const FRESH: &str = "{a} retry=600 disablereuse=On; {b} retry=600 disablereuse=On";
    let own = |rest: &str| format!("{FRESH}; ProxySet {rest}");
    Stage::play(
        &["a", "b"],
        &["x"],
        &[
            scene(
                "listed",
                &own("failonstatus=503,500"),
                &[ask(2, "GET /x?a=503"), ask(4, "GET /x")],
                "a/503 b b b b b",
            ),
            scene(
                "listedpost",
                &own("failonstatus=500"),
                &[
                    with(1, "POST /x?a=500", "Content-Length: 0"),
                    ask(3, "GET /x"),
                ],
                "a/500 b b b",
            ),
            scene(
                "unlisted",
                &own("failonstatus=503"),
                &[ask(2, "GET /x?a=500"), ask(3, "GET /x")],
                "a/500 b a b a",
            ),
            scene(
                "no",
                FRESH,
                &[ask(4, "GET /x?a=503&b=500"), ask(2, "GET /x?a=404")],
                "a/503 b/500 a/503 b/500 a/404 b",
            ),
            scene(
                "forced",
                &own("failonstatus=503"),
                &[ask(6, "GET /x?a=503&b=503")],
                "a/503 b/503 b/503 a/503 a/503 b/503",
            ),
            scene(
                "unforced",
                &own("failonstatus=503 forcerecovery=Off"),
                &[ask(4, "GET /x?a=503&b=503"), ask(1, "GET /x")],
                "a/503 b/503 503 503 503",
            ),
            scene(
                "disabledcounts",
                "{a} retry=600; {b} status=D; ProxySet failonstatus=503",
                &[ask(3, "GET /x?a=503"), ask(1, "GET /x")],
                "a/503 503 503 503",
            ),
            scene(
                "ignoring",
                "{a} status=I; {b}; ProxySet failonstatus=503",
                &[ask(4, "GET /x?a=503")],
                "a/503 b a/503 b",
            ),
            scene(
                "closing",
                FRESH,
                &[ask(2, "GET /x?a=close"), ask(3, "GET /x")],
                "502 b a b a",
            ),
            scene(
                "closingpost",
                FRESH,
                &[
                    with(2, "POST /x?a=close", "Content-Length: 0"),
                    ask(3, "GET /x"),
                ],
                "502 b a b a",
            ),
            scene(
                "halfway",
                FRESH,
                &[ask(2, "GET /x?a=half"), ask(3, "GET /x")],
                "a b a b a",
            ),
        ],
    );
}

/// Each member that says nothing costs a second.
#[test]
fn members_that_say_nothing_count_as_for_httpd() {
    const SLOW: &str = "{a} retry=600 timeout=1; {b} retry=600 timeout=1";
    Stage::play(
        &["a", "b"],
        &["x"],
        &[
            scene(
                "silent",
                SLOW,
                &[ask(2, "GET /x?a=hold"), ask(3, "GET /x")],
                "502 b a b a",
            ),
            scene(
                "failontimeout",
                &format!("{SLOW}; ProxySet failontimeout=On"),
                &[ask(2, "GET /x?a=hold"), ask(3, "GET /x")],
                "502 b b b b",
            ),
            // Waits a second for a member that is not going to come.
            scene(
                "patient",
                "{x} retry=600; {a} status=D; ProxySet timeout=1",
                &[ask(1, "GET /x")],
                "503",
            ),
        ],
    );
}

#[test]
fn bodies_are_sent_again_where_no_member_took_them() {
    let Some(stage) = Stage::start(
        &["a"],
        &["x", "y"],
        "<Proxy balancer://p>\nBalancerMember http://{x} retry=0\nBalancerMember http://{y} retry=0\n\
         BalancerMember http://{a}\n</Proxy>\nProxyPass /p/ balancer://p/\n",
    ) else {
        return;
    };
    let mut chunked = format!("{:x}\r\n", LARGE.len()).into_bytes();
    chunked.extend(LARGE);
    chunked.extend(b"\r\n0\r\n\r\n");
    let seen = stage.sides.each_ref().map(|side| {
        let plain = side.send("POST /p/x", &["Content-Length: 200000"], &LARGE);
        let chunked = side.send("POST /p/x", &["Transfer-Encoding: chunked"], &chunked);
        let small = side.send("PUT /p/x", &["Content-Length: 3"], b"abc");
        [plain, chunked, small]
    });
    let names = seen.each_ref().map(|seen| seen.each_ref().map(name_of));
    assert_eq!(names, [["a", "a", "a"]; 2]);
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn member_that_comes_up_is_used_after_retry() {
    let Some(stage) = Stage::start(
        &["a"],
        &["x", "y"],
        "<Proxy balancer://soon>\nBalancerMember http://{x} retry=1\nBalancerMember http://{a}\n</Proxy>\n\
         ProxyPass /soon/ balancer://soon/\n\
         <Proxy balancer://late>\nBalancerMember http://{y} retry=600\nBalancerMember http://{a}\n</Proxy>\n\
         ProxyPass /late/ balancer://late/\n\
         <Proxy balancer://forced>\nBalancerMember http://{y} retry=600\n</Proxy>\n\
         ProxyPass /forced/ balancer://forced/\n",
    ) else {
        return;
    };
    for side in &stage.sides {
        let get = |line: &str| name_of(&side.ask(line, &[]));
        let gets = |line: &str, times| (0..times).map(|_| get(line)).collect::<Vec<_>>();
        assert_eq!(gets("GET /late/x", 2), ["a", "a"], "{}", side.who);
        assert_eq!(gets("GET /forced/x", 2), ["503", "503"], "{}", side.who);
        assert_eq!(get("GET /soon/x"), "a", "{}", side.who);
        side.actor("x").rise();
        side.actor("y").rise();
        wait_until("x is tried again", || get("GET /soon/x") == "x");
        // Out for ten minutes; a balancer in which all are out recovers at once.
        assert_eq!(gets("GET /late/x", 4), ["a", "a", "a", "a"], "{}", side.who);
        assert_eq!(gets("GET /forced/x", 2), ["y", "y"], "{}", side.who);
    }
}
