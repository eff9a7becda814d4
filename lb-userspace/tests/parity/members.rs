//! Members of other kinds and what of them is kept: Unix sockets, connections that grow old, interim
//! answers, fields with several values, changes that outlive a restart (apache.md 3.14, 4, 6.3, 9).

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::Duration,
};

use super::{
    cast::field,
    peers::{exchange, is_here},
    stage::{Stage, name_of},
};

/// A member at a path, which answers with what it received.
fn socket(path: &Path) {
    let listener = UnixListener::bind(path).expect("bind");
    // httpd's user connects to it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("permissions");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Ends with the connection; its errors are the test's to notice at the client.
            thread::spawn(move || drop(tell(&stream)));
        }
    });
}

fn tell(stream: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut lines) = (String::new(), Vec::new());
        while reader.read_line(&mut head)? > 2 {
            lines.push(head.trim_end().to_owned());
            head.clear();
        }
        if lines.is_empty() {
            return Ok(());
        }
        let first = lines.remove(0);
        let length = field(&lines.join("\n"), "content-length").map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut fields: Vec<String> = (lines.iter().filter_map(|line| line.split_once(": ")))
            .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
            .filter(|field| !field.starts_with("connection:"))
            .collect();
        fields.sort();
        let text = format!("{first} {fields:?} {}", String::from_utf8_lossy(&body));
        write!(
            { stream },
            "HTTP/1.1 200 OK\r\nServer: actor\r\nX-Member: u\r\nLocation: http://sock.test/in/x\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )?;
    }
}

#[test]
fn members_at_unix_sockets_are_asked_alike() {
    if !is_here() {
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let path = dir.path().join("s");
    socket(&path);
    let (path, gone) = (path.display(), dir.path().join("gone"));
    let gone = gone.display();
    let stage = Stage::start(
        &["a"],
        &[],
        &format!(
            "ProxyPass /plain/ unix:{path}|http://sock.test/in/\nProxyPassReverse /plain/ http://sock.test/in/\n\
             ProxyPass /port/ unix:{path}|http://sock.test:8080/\nProxyPass /gone/ unix:{gone}|http://gone.test/ retry=0\n\
             <Proxy balancer://both>\nBalancerMember unix:{gone}|http://x.test retry=600\n\
             BalancerMember unix:{path}|http://y.test/base route=y\n</Proxy>\nProxyPass /both/ balancer://both/\n\
             <Proxy balancer://mixed>\nBalancerMember unix:{path}|http://z.test\nBalancerMember http://{{a}}\n</Proxy>\n\
             ProxyPass /mixed/ balancer://mixed/\n\
             <VirtualHost *:{{port}}>\nServerName keep.test\nProxyPreserveHost On\n</VirtualHost>\n"
        ),
    )
    .expect("httpd is here");
    let mut failures = Vec::new();
    for (line, fields) in [
        ("GET /plain/x?q", &[][..]),
        ("GET /plain/x", &["Host: keep.test"]),
        ("GET /plain/x", &["Host: keep.test:99"]),
        ("HEAD /plain/x", &[]),
        ("GET /port/x", &[]),
        ("GET /gone/x", &[]),
        ("GET /both/x", &[]),
        ("GET /both/x", &[]),
        ("GET /both/x", &["Host: keep.test"]),
        ("GET /mixed/x", &[]),
        ("GET /mixed/x", &[]),
        ("GET /mixed/x", &[]),
    ] {
        failures.extend(stage.differs(line, fields));
    }
    let [theirs, ours] = (stage.sides.each_ref())
        .map(|side| side.send("POST /plain/x", &["Content-Length: 3"], b"abc"));
    assert!(theirs.body.ends_with("abc"), "{theirs:?}");
    assert_eq!(theirs, ours);
    stage.end(&failures);
}

#[test]
fn connections_older_than_ttl_carry_no_request() {
    let Some(stage) = Stage::start(
        &["a", "b"],
        &[],
        "ProxyPass /young/ http://{a}/ ttl=60\nProxyPass /old/ http://{b}/ ttl=3\n",
    ) else {
        return;
    };
    let counts = stage.sides.each_ref().map(|side| {
        let ask = || {
            for path in ["GET /young/x", "GET /old/x"] {
                assert_eq!(side.ask(path, &[]).status, 200);
            }
            ["a", "b"].map(|name| side.actor(name).connections())
        };
        let before = (ask(), ask());
        // What is tested is the time that passes.
        thread::sleep(Duration::from_millis(3500));
        (before, ask())
    });
    assert_eq!(counts, [(([1, 1], [1, 1]), [1, 2]); 2]);
}

/// What comes before the final head, as statuses, and that head's status with the body.
fn heads(answer: &[u8]) -> (Vec<u16>, (u16, String)) {
    let mut rest = String::from_utf8_lossy(answer).into_owned();
    let mut interim = Vec::new();
    loop {
        let status = rest.get(9..12).and_then(|status| status.parse().ok());
        let status: u16 = status.unwrap_or(0);
        let (_, after) = rest.split_once("\r\n\r\n").unwrap_or_default();
        let after = after.to_owned();
        if !(100..200).contains(&status) {
            let body = if after.starts_with("<!") {
                String::new()
            } else {
                after
            };
            return (interim, (status, body));
        }
        interim.push(status);
        rest = after;
    }
}

/// The final answer of a member.
const LAST: &str = "HTTP/1.1 200 OK\r\nX-Member: a\r\nContent-Length: 4\r\n\r\nlast";

#[test]
fn answers_come_behind_interim_ones_alike() {
    let Some(stage) = Stage::start(&["a"], &[], "ProxyPass / http://{a}/\n") else {
        return;
    };
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
    let cases: [(&'static str, String, Vec<u16>); 6] = [
        ("go", "HTTP/1.1 100 Continue\r\n\r\n".to_owned(), vec![]),
        (
            "busy",
            "HTTP/1.1 102 Processing\r\n\r\n".to_owned(),
            vec![102],
        ),
        ("hints", hints.to_owned(), vec![103]),
        ("two", hints.repeat(2), vec![103; 2]),
        (
            "mixed",
            format!("HTTP/1.1 100 Continue\r\n\r\n{hints}"),
            vec![103],
        ),
        (
            "other",
            "HTTP/1.1 199 Odd\r\nX-Odd: 1\r\n\r\n".to_owned(),
            vec![199],
        ),
    ];
    for (name, before, passed) in cases {
        let [(theirs, last), (ours, our_last)] = stage.sides.each_ref().map(|side| {
            side.actor("a")
                .learn(name, format!("{before}{LAST}").as_bytes());
            let request =
                format!("GET /x?a={name} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n");
            heads(&exchange(("127.0.0.1", side.port), request.as_bytes()))
        });
        assert_eq!((last.0, &last.1[..]), (200, "last"), "{name}");
        assert_eq!(last, our_last, "{name}");
        // docs/differences.md: they are not sent on.
        assert_eq!((theirs, ours), (passed, vec![]), "{name}");
    }
}

#[test]
fn values_of_one_name_reach_members_in_their_order() {
    let Some(stage) = Stage::start(&["a"], &[], "ProxyPass / http://{a}/\n") else {
        return;
    };
    let requests: [&[&str]; 6] = [
        &["X-A: 1", "X-B: x", "X-A: 2", "x-a: 3"],
        &["X-A: 2", "X-A: 1"],
        &["X-A: 1, 2", "X-A:", "X-A: 3"],
        &[
            "Accept: a/b",
            "Accept: c/d;q=0.1",
            "Accept-Language: x",
            "Accept: */*",
        ],
        &["X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"],
        &[
            "Via: 1.0 one",
            "X-Forwarded-Host: h",
            "Via: 1.1 two",
            "X-Forwarded-Host: i",
        ],
    ];
    for fields in requests {
        let [theirs, ours] = stage.sides.each_ref().map(|side| {
            assert_eq!(side.ask("GET /x", fields).status, 200);
            let heads = side.actor("a").heads();
            let mut values: Vec<(String, String)> = Vec::new();
            for line in heads.last().expect("a request").lines().skip(1) {
                let (name, value) = line.split_once(':').expect("a field");
                let value = side.without_ports(value.trim());
                let name = name.to_ascii_lowercase();
                // One list, whichever way it is written (docs/differences.md).
                match values.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, list)) => *list = format!("{list}, {value}"),
                    None => values.push((name, value)),
                }
            }
            values.retain(|(name, _)| name != "connection");
            values.sort();
            values
        });
        assert_eq!(theirs, ours, "{fields:?}");
    }
}

#[test]
fn changes_outlive_a_restart_with_balancerpersist_alone() {
    for persist in ["On", "Off"] {
        let Some(mut stage) = Stage::start(
            &["a", "b", "c", "d"],
            &[],
            &format!(
                "BalancerPersist {persist}\n<Location /manager>\nSetHandler balancer-manager\n</Location>\n\
                 <Proxy balancer://x>\nBalancerMember http://{{a}}\nBalancerMember http://{{b}}\n\
                 BalancerMember http://{{c}}\nProxySet nonce=n growth=2\n</Proxy>\nProxyPass /x/ balancer://x/\n"
            ),
        ) else {
            return;
        };
        for side in &stage.sides {
            for form in [
                "w=http://{a}&w_lf=3",
                "w=http://{b}&w_status_D=1",
                "b_wyes=1&b_nwrkr=http://{d}",
                "w=http://{d}&w_status_D=0",
            ] {
                let form = side.with_ports(&format!("b=x&nonce=n&{form}"));
                let fields = [
                    format!("Content-Length: {}", form.len()),
                    "Content-Type: application/x-www-form-urlencoded".to_owned(),
                    "Referer: http://site.test/".to_owned(),
                ];
                let fields = fields.each_ref().map(String::as_str);
                let seen = side.send("POST /manager", &fields, form.as_bytes());
                assert_eq!(seen.status, 200, "{}", side.who);
            }
        }
        stage.restart();
        // Who is elected how often, whatever the order begins with.
        let shares = stage.sides.each_ref().map(|side| {
            let mut names: Vec<String> = (0..30)
                .map(|_| name_of(&side.ask("GET /x/", &[])))
                .collect();
            names.sort();
            names.concat()
        });
        let wanted = match persist {
            "On" => [["a"; 18].concat(), ["c"; 6].concat(), ["d"; 6].concat()],
            _ => ["a", "b", "c"].map(|name| name.repeat(10)),
        };
        assert_eq!(shares, [wanted.concat(), wanted.concat()], "{persist}");
        stage.end(&[]);
    }
}
