//! Where a request of a session goes (apache.md 5.2 and 5.4): how the route is found, drain, redirect,
//! nofailover, members that share a route. X-Told compares what the variables say of it.

use super::stage::{Stage, ask, scene, with};

/// Three members with routes.
const ABC: &str = "{a} route=a; {b} route=b; {c} route=c; ProxySet stickysession=S";

#[test]
fn route_is_found_where_httpd_finds_it() {
    const PATH: &str = "{a} route=a; {b} route=b; {c} route=c; ProxySet stickysession=COOKIE|path";
    Stage::play(
        &["a", "b", "c"],
        &[],
        &[
            scene(
                "cookie",
                ABC,
                &[
                    with(1, "GET /x", "Cookie: S=x.c"),
                    with(1, "GET /x", "Cookie: A=1; S=x.c; B=2"),
                    with(1, "GET /x", "Cookie: A=1,S=x.c,B=2"),
                    with(1, "GET /x", "Cookie: A=1 S=x.c"),
                    with(1, "GET /x", "Cookie: S =x.c"),
                    with(1, "GET /x", "Cookie: S= x.c"),
                    with(1, "GET /x", "Cookie: XS=x.c"),
                    with(1, "GET /x", "Cookie: XS=x.b; S=x.c"),
                    with(1, "GET /x", "Cookie: s=x.c"),
                    with(1, "GET /x", "Cookie: S=\"x.c\""),
                    with(1, "GET /x", "Cookie: S=c"),
                    with(1, "GET /x", "Cookie: S=.c"),
                    with(1, "GET /x", "Cookie: S=x."),
                    // Not `S=` and `S` at the end: httpd reads on behind the field there.
                    with(1, "GET /x", "Cookie: S=x.y.c"),
                    with(1, "GET /x", "Cookie: S=x.C"),
                    with(1, "GET /x", "Cookie: S=x.b; S=x.c"),
                    with(1, "GET /x", "Cookie: S=x; S=x.c"),
                    with(1, "GET /x", "Cookie: S=x.c z"),
                    with(1, "GET /x", "Cookie: T=S=x.c"),
                    ask(3, "GET /x"),
                ],
                "c c c c c c a c b a b c a b a b a b a b a b",
            ),
            scene(
                "url",
                ABC,
                &[
                    ask(1, "GET /x?S=x.b"),
                    ask(1, "GET /x;S=x.b"),
                    ask(1, "GET /x;S=x.b?q=1"),
                    ask(1, "GET /x;S=x.b;v=1"),
                    ask(1, "GET /x?q=1&S=x.c&r=2"),
                    ask(1, "GET /x?XS=x.c"),
                    ask(1, "GET /x?s=x.c"),
                    ask(1, "GET /x?S=c"),
                    ask(1, "GET /x?S=x.b&S=x.c"),
                    ask(1, "GET /x?S&S=x.c"),
                    ask(1, "GET /x?S=x%2Ec"),
                    ask(1, "GET /S=x.c/y"),
                    ask(1, "GET /S/x?S=x.c"),
                    with(1, "GET /x?S=x.b", "Cookie: S=x.c"),
                    with(1, "GET /x?S=b", "Cookie: S=x.c"),
                    with(1, "GET /x?S=", "Cookie: S=x.c"),
                    with(1, "GET /x?S=x.unknown", "Cookie: S=x.c"),
                ],
                "b b b a c c a a b c a c c b a c a",
            ),
            scene(
                "names",
                PATH,
                &[
                    ask(1, "GET /x;path=x.c"),
                    ask(1, "GET /x;COOKIE=x.c"),
                    with(1, "GET /x", "Cookie: COOKIE=x.c"),
                    with(1, "GET /x", "Cookie: path=x.c"),
                    with(1, "GET /x;path=x.b", "Cookie: COOKIE=x.c"),
                ],
                "c a c b b",
            ),
            scene(
                "semicolon",
                &format!("{ABC} scolonpathdelim=On"),
                &[ask(2, "GET /x;S=x.c;v=1"), ask(1, "GET /x;S=x.b?q")],
                "c c b",
            ),
            scene(
                "separator",
                &format!("{ABC} stickysessionsep=_"),
                &[
                    with(1, "GET /x", "Cookie: S=x_c"),
                    with(1, "GET /x", "Cookie: S=x.c"),
                    with(1, "GET /x", "Cookie: S=x.y_b"),
                ],
                "c a b",
            ),
            scene(
                "noseparator",
                &format!("{ABC} stickysessionsep=Off"),
                &[
                    with(2, "GET /x", "Cookie: S=c"),
                    with(1, "GET /x", "Cookie: S=x.c"),
                ],
                "c c a",
            ),
            scene(
                "unsticky",
                "{a} route=a; {b} route=b",
                &[with(3, "GET /x", "Cookie: S=x.b"), ask(1, "GET /x?S=x.b")],
                "a b a b",
            ),
            scene(
                "routeless",
                "{a}; {b}; ProxySet stickysession=S",
                &[
                    with(2, "GET /x", "Cookie: S=x.b"),
                    with(2, "GET /x", "Cookie: S=x."),
                ],
                "a b a b",
            ),
            scene(
                "bothroutes",
                "{a} route=r; {b} route=r; {c} route=s; ProxySet stickysession=S",
                &[with(4, "GET /x", "Cookie: S=x.r"), ask(3, "GET /x")],
                "a a a a b c b",
            ),
        ],
    );
}

#[test]
fn sessions_of_unusable_members_go_where_httpds_do() {
    const B: &str = "Cookie: S=x.b";
    const A: &str = "Cookie: S=x.a";
    let to = |times| with(times, "GET /x", B);
    let scenes = [
        scene(
            "drain",
            "{a} route=a; {b} route=b status=N; {c} route=c; ProxySet stickysession=S",
            &[ask(4, "GET /x"), to(3), ask(3, "GET /x")],
            "a c a c b b b a c a",
        ),
        scene(
            "off",
            "{a} route=a; {b} route=b status=D; {c} route=c; ProxySet stickysession=S",
            &[to(4), with(2, "GET /x", A), ask(2, "GET /x")],
            "a c a c a a c c",
        ),
        scene(
            "stopped",
            "{a} route=a; {b} route=b status=S; ProxySet stickysession=S",
            &[to(2)],
            "a a",
        ),
        scene(
            "dead",
            "{a} route=a; {x} route=b retry=600; {c} route=c; ProxySet stickysession=S",
            &[to(5), with(2, "GET /x", A), ask(2, "GET /x")],
            "a c a c a a a c c",
        ),
        scene(
            "redirected",
            "{a} route=a; {x} route=b redirect=c retry=600; {c} route=c; ProxySet stickysession=S",
            &[to(4), ask(3, "GET /x")],
            "c c c c a a a",
        ),
        scene(
            "chain",
            "{a} route=a; {d} route=b redirect=d status=D; {b} route=d redirect=c status=D; {c} route=c; ProxySet stickysession=S",
            &[to(4)],
            "c c c c",
        ),
        scene(
            "circle",
            "{a} route=a; {b} route=b redirect=c status=D; {c} route=c redirect=b status=D; ProxySet stickysession=S",
            &[to(2)],
            "a a",
        ),
        scene(
            "nowhere",
            "{a} route=a; {b} route=b redirect=zz status=D; {c} route=c; ProxySet stickysession=S",
            &[to(3)],
            "a c a",
        ),
        scene(
            "nofailover",
            "{a} route=a; {x} route=b retry=600; {c} route=c; ProxySet stickysession=S nofailover=On",
            &[
                to(3),
                with(2, "GET /x", "Cookie: S=x.zz"),
                with(1, "GET /x", A),
                ask(2, "GET /x"),
                to(1),
            ],
            "503 503 503 a c a c a 503",
        ),
        scene(
            "nofailoverdisabled",
            "{a} route=a; {b} route=b status=D; ProxySet stickysession=S nofailover=On",
            &[to(2), ask(2, "GET /x")],
            "503 503 a a",
        ),
        scene(
            "nofailoverredirect",
            "{a} route=a; {b} route=b status=D redirect=c; {c} route=c; ProxySet stickysession=S nofailover=On",
            &[to(2)],
            "c c",
        ),
        scene(
            "nofailoverdrain",
            "{a} route=a; {b} route=b status=N; ProxySet stickysession=S nofailover=On",
            &[to(2), ask(2, "GET /x")],
            "b b a a",
        ),
        scene(
            "designated",
            "{a} route=a; {x} route=b retry=600; {c} route=b status=H; {d} route=d; ProxySet stickysession=S",
            &[to(3), ask(4, "GET /x"), to(1)],
            "c c c a d a d c",
        ),
        scene(
            "ordinaryfirst",
            "{c} route=b status=H; {b} route=b; {a} route=a; ProxySet stickysession=S",
            &[to(3)],
            "b b b",
        ),
        scene(
            "spare",
            "{a} route=a; {b} route=b status=R; ProxySet stickysession=S",
            &[to(2), ask(3, "GET /x"), to(1)],
            "b b a a a b",
        ),
        scene(
            "otherset",
            "{a} route=a; {b} route=b lbset=1; ProxySet stickysession=S",
            &[to(2), ask(2, "GET /x")],
            "b b a a",
        ),
    ];
    Stage::play(&["a", "b", "c", "d"], &["x"], &scenes);
}
