//! Who is elected (apache.md 5.3): weights, methods, sets, spares and standbys. Sequences of members
//! are compared, with what the members received and the variables about balancing.

use super::stage::{Ask, Stage, ask, scene, with};

const fn gets(times: usize) -> Ask {
    ask(times, "GET /x")
}

#[test]
fn weights_make_the_same_sequences() {
    Stage::play(
        &["a", "b", "c"],
        &[],
        &[
            scene("equal", "{a}; {b}; {c}", &[gets(7)], "a b c a b c a"),
            scene(
                "five",
                "{a} loadfactor=5; {b}",
                &[gets(14)],
                "a a a b a a a a a b a a a a",
            ),
            scene(
                "three",
                "{a} loadfactor=3; {b} loadfactor=2; {c}",
                &[gets(13)],
                "a b a c b a a b a c b a a",
            ),
            scene(
                "half",
                "{a} loadfactor=1.5; {b}",
                &[gets(15)],
                "a b a b a a b a b a a b a b a",
            ),
            scene(
                "fraction",
                "{c} loadfactor=2.33; {b} loadfactor=1.07; {a} loadfactor=4.999",
                &[gets(20)],
                "a c a b a c a a c a a b a c a a c a b a",
            ),
            scene(
                "ten",
                "{a} loadfactor=10; {b}",
                &[gets(22)],
                "a a a a a b a a a a a a a a a a b a a a a a",
            ),
            scene("alone", "{b} loadfactor=3", &[gets(3)], "b b b"),
            scene(
                "twice",
                "{a} loadfactor=2; {b}; {a} loadfactor=9",
                &[gets(6)],
                "a b a a b a",
            ),
            scene(
                "inherits",
                "{a} route=a; {b} route=b; ProxySet stickysession=S",
                &[
                    gets(1),
                    with(3, "GET /x", "Cookie: S=x.b"),
                    gets(4),
                    with(1, "GET /x", "Cookie: S=x.a"),
                    gets(3),
                ],
                "a b b b a a a b a b a b",
            ),
        ],
    );
}

#[test]
fn sets_spares_and_standbys_are_asked_in_httpds_order() {
    Stage::play(
        &["a", "b", "c", "d"],
        &["x", "y"],
        &[
            scene("lower", "{a} lbset=1; {b}; {c}", &[gets(4)], "b c b c"),
            scene(
                "anywhere",
                "{a} lbset=5; {b} lbset=2; {c} lbset=2",
                &[gets(4)],
                "b c b c",
            ),
            scene(
                "next",
                "{x} retry=600; {y} retry=600; {a} lbset=1; {b} lbset=1",
                &[gets(4)],
                "a b a b",
            ),
            scene(
                "disabledset",
                "{c} status=D; {a} lbset=1; {b} lbset=1 loadfactor=2",
                &[gets(6)],
                "b a b b a b",
            ),
            scene(
                "standby",
                "{x} retry=600; {y} retry=600; {a} status=H; {b} status=H",
                &[gets(5)],
                "a b a b a",
            ),
            scene(
                "notneeded",
                "{a}; {x} retry=600; {b} status=+H",
                &[gets(5)],
                "a a a a a",
            ),
            scene(
                "standbyfirst",
                "{x} retry=600; {a} status=+H; {b} lbset=1",
                &[gets(4)],
                "a a a a",
            ),
            scene(
                "spare",
                "{a}; {x} retry=600; {b} status=R; {c} status=R",
                &[gets(8)],
                "a a b a b a b a",
            ),
            scene(
                "spares",
                "{a}; {x} retry=600; {y} retry=600; {b} status=R; {c} status=R; {d} status=R",
                &[gets(9)],
                "a b a c b a c b a",
            ),
            scene(
                "sparedisabled",
                "{a}; {b} status=D; {c} status=R loadfactor=2; {d} status=H",
                &[gets(6)],
                "c a c c a c",
            ),
            scene(
                "sparedrain",
                "{a}; {b} status=N; {c} status=R; {d} status=R+N",
                &[gets(6)],
                "a c a c a c",
            ),
            scene(
                "drained",
                "{a} status=N; {b} status=+N",
                &[gets(2)],
                "503 503",
            ),
            scene(
                "disabled",
                "{a} status=D; {b} status=S",
                &[gets(2)],
                "503 503",
            ),
            scene(
                "empty",
                "ProxySet lbmethod=byrequests",
                &[gets(2)],
                "503 503",
            ),
            scene(
                "erroneous",
                "{a} status=E retry=600; {b}",
                &[gets(4)],
                "a b a b",
            ),
            scene(
                "taken",
                "{a} status=+H-H+D-D; {b} status=D; ProxySet lbmethod=byrequests",
                &[gets(2)],
                "a a",
            ),
        ],
    );
}

macro_rules! concat_ten {
    ($start:literal, $text:literal) => {
        concat!(
            $start, $text, $text, $text, $text, $text, $text, $text, $text, $text, $text
        )
    };
}

/// A field of a thousand bytes.
const LONG: &str = concat_ten!(
    "X-Long: ",
    "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
);

#[test]
fn traffic_is_counted_alike() {
    Stage::play(
        &["a", "b", "c"],
        &[],
        &[
            scene(
                "two",
                "{a} loadfactor=2; {b}; ProxySet lbmethod=bytraffic",
                // Much more than what the two add to a request of their own, and than is lost where
                // bytes are divided by weights.
                &[with(11, "GET /x", LONG)],
                "a b a a b a a b a a b",
            ),
            scene(
                "equaltraffic",
                "{a}; {b}; {c}; ProxySet lbmethod=bytraffic",
                &[gets(6)],
                "a b c a b c",
            ),
            scene(
                "big",
                "{a}; {b}; ProxySet lbmethod=bytraffic",
                &[ask(1, "GET /x?a=big"), gets(8)],
                "a b b b b b b b b",
            ),
            scene(
                "sets",
                "{a} lbset=1; {b}; {c} status=H; ProxySet lbmethod=bytraffic",
                &[ask(2, "GET /x?b=big"), gets(2)],
                "b b b b",
            ),
        ],
    );
}

#[test]
fn busyness_is_counted_alike() {
    use super::{harness::wait_until, stage::name_of};

    let Some(stage) = Stage::start(
        &["a", "b", "c"],
        &[],
        "<Proxy balancer://busy>\nBalancerMember http://{a}\nBalancerMember http://{b}\n\
         ProxySet lbmethod=bybusyness\n</Proxy>\nProxyPass /busy/ balancer://busy/\n\
         <Proxy balancer://idle>\nBalancerMember http://{a}\nBalancerMember http://{b} loadfactor=2\n\
         BalancerMember http://{c}\nProxySet lbmethod=bybusyness\n</Proxy>\nProxyPass /idle/ balancer://idle/\n",
    ) else {
        return;
    };
    let sequences = stage.sides.each_ref().map(|side| {
        let run = |line: &str, times: usize| -> String {
            let names = (0..times).map(|_| name_of(&side.ask(line, &[])));
            names.collect::<Vec<_>>().join(" ")
        };
        let idle = run("GET /idle/x", 8);
        let (held, during) = std::thread::scope(|scope| {
            let held = scope.spawn(|| name_of(&side.ask("GET /busy/x?a=hold", &[])));
            wait_until("a has the request", || {
                let heads = side.actor("a").heads();
                heads.iter().any(|head| head.contains("a=hold"))
            });
            let during = run("GET /busy/x", 6);
            side.actor("a").release();
            (held.join().expect("answered"), during)
        });
        let after = run("GET /busy/x", 10);
        [idle, held, during, after]
    });
    let [theirs, ours] = &sequences;
    assert_eq!(theirs[1..3], ["a", "b b b b b b"], "httpd");
    stage.end(
        &(theirs != ours)
            .then(|| format!("httpd:  {theirs:?}\nsluice: {ours:?}"))
            .into_iter()
            .collect::<Vec<_>>(),
    );
}
