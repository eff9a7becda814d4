//! What an operator sees of requests: metrics, reasons in the logs, a virtual host's error log.

#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, which a float holds exactly"
)]

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    exposition::Page,
    harness::{Client, Member, PATIENCE, Sluice, fetch, free_port, send_signal, text, wait_until},
};

/// One request of any kind to the metrics' address; the whole answer.
fn ask(port: u16, head: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn scrape(port: u16) -> Page {
    let answer = ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("a page");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"));
    Page::parse(body)
}

/// A member that fails as its path says.
fn unreliable() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(fail(&stream)));
        }
    });
    address
}

fn fail(mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    if first.contains("garbage") {
        stream.write_all(b"nonsense\r\n\r\n")
    } else if first.contains("cut") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    } else {
        // Until the proxy gives up.
        reader.read_line(&mut line).map(drop)
    }
}

struct Scene {
    sluice: Sluice,
    metrics: u16,
}

impl Scene {
    /// `/app` to `a`, `/bad` to a member that fails, `/dead` to nobody, `/none` to no member.
    fn start(a: &Member, more: &str) -> Self {
        let mut sluice = Sluice::prepare(&[]);
        let metrics = free_port();
        sluice.write(&Self::config(&sluice, a, metrics, more));
        sluice.run();
        Self { sluice, metrics }
    }

    fn config(sluice: &Sluice, a: &Member, metrics: u16, more: &str) -> String {
        let dir = sluice.dir.path().display().to_string();
        format!(
            "Listen 127.0.0.1:{port}\n{more}\n\
             <Proxy balancer://app>\n BalancerMember {a} route=a\n</Proxy>\n\
             <Proxy balancer://bad>\n BalancerMember http://{bad}\n</Proxy>\n\
             <Proxy balancer://dead>\n BalancerMember http://127.0.0.1:{dead}\n \
             ProxySet forcerecovery=Off\n</Proxy>\n\
             <VirtualHost *:{port}>\n ServerName host.test\n ErrorLog {dir}/host.log\n \
             CustomLog {dir}/access.log \"%U %s %{{SLUICE_REASON}}e %L\"\n \
             ProxyPass /none !\n ProxyPass /app/ balancer://app/\n \
             ProxyPass /bad/ balancer://bad/\n ProxyPass /dead/ balancer://dead/\n\
             </VirtualHost>\n\
             <IfModule sluice_module>\n SluiceShards 2\n SluiceMetrics 127.0.0.1:{metrics}\n\
             </IfModule>\n",
            port = sluice.port,
            a = a.url(),
            bad = unreliable(),
            dead = free_port(),
        )
    }

    fn page(&self) -> Page {
        scrape(self.metrics)
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.sluice.dir.path().join(name)).unwrap_or_default()
    }

    fn wait_for(&self, key: &str, value: f64) {
        wait_until(&format!("{key} {value}"), || {
            self.page().value(key) == value
        });
    }

    fn get(&self, path: &str) -> u16 {
        fetch(self.sluice.port, path).expect("an answer").status
    }
}

fn reason(name: &str) -> String {
    format!("sluice_requests_failed_total{{reason=\"{name}\"}}")
}

#[test]
fn every_outcome_moves_its_counters_and_stands_in_the_logs() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    let before = scene.page();
    for _ in 0..3 {
        assert_eq!(scene.get("/app/"), 200);
    }
    assert_eq!(scene.get("/dead/"), 503);
    assert_eq!(scene.get("/dead/"), 503);
    assert_eq!(scene.get("/none"), 404);
    assert_eq!(scene.get("/bad/garbage"), 502);
    let mut raw = TcpStream::connect(("127.0.0.1", scene.sluice.port)).expect("connect");
    raw.write_all(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        .expect("send");
    let mut answer = String::new();
    raw.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut cut = Client::connect(scene.sluice.port).expect("connect");
    cut.send("/bad/cut").expect("send");
    assert!(cut.receive().is_err(), "the break is passed on");
    let mut gone = TcpStream::connect(("127.0.0.1", scene.sluice.port)).expect("connect");
    gone.write_all(b"GET /app/hold HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("send");
    // A reset: a client that closes its half alone still gets its answer.
    rustix::net::sockopt::set_socket_linger(&gone, Some(Duration::ZERO)).expect("linger");
    wait_until("the request is at the member", || a.count() == 4);
    drop(gone);

    let ends = [
        ("connect_failed", "503"),
        ("no_member", "503"),
        ("no_route", "404"),
        ("bad_response", "502"),
        ("bad_request", "400"),
        ("truncated", "200"),
    ];
    scene.wait_for(&reason("client_gone"), 1.0);
    for (name, _) in ends {
        scene.wait_for(&reason(name), 1.0);
    }
    let after = scene.page();
    assert_eq!(after.went_backwards(&before), Vec::<String>::new());
    let code = |code: &str| after.value(&format!("sluice_requests_total{{code=\"{code}\"}}"));
    let codes = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(code);
    assert_eq!(codes, [1.0, 0.0, 4.0, 0.0, 2.0, 3.0]);
    let labels = "balancer=\"app\"";
    for family in ["first_byte", "request"] {
        let count = after.value(&format!(
            "sluice_balancer_{family}_seconds_count{{{labels}}}"
        ));
        // The one whose client left had no response.
        assert_eq!(count, if family == "request" { 4.0 } else { 3.0 });
    }
    let member = format!(
        "sluice_member_requests_total{{{labels},member=\"{}\"",
        a.url()
    );
    assert_eq!(after.value(&format!("{member},code=\"2xx\"}}")), 3.0);
    assert_eq!(after.value(&format!("{member},code=\"none\"}}")), 1.0);

    wait_until("every line is in the access log", || {
        scene.file("access.log").lines().count() == 10
    });
    let (access, errors) = (scene.file("access.log"), scene.file("host.log"));
    for (name, status) in ends {
        let wanted = format!(" {status} {name} ");
        let line = access.lines().find(|line| line.contains(&wanted));
        let line = line.unwrap_or_else(|| panic!("{wanted} in\n{access}"));
        // 404 is of level info, below LogLevel warn: nothing is in the error log.
        let id = line.rsplit(' ').next().expect("an id");
        assert_eq!(id == "-", name == "no_route", "{line}");
        let tied = format!("reason={name} request={id}");
        assert!(id == "-" || errors.contains(&tied), "{tied} in\n{errors}");
    }
    assert!(access.contains("/app/hold 499 client_gone -"), "{access}");
    assert_eq!(access.matches(" 200 - -").count(), 3, "{access}");
    for id in [
        "AH01114", "AH00957", "AH00959", "AH01170", "AH01102", "AH01110",
    ] {
        assert!(errors.contains(id), "{id} in\n{errors}");
        assert!(!scene.sluice.log().contains(id), "{id} in the main log");
    }
    a.release();
}

#[test]
fn counters_outlive_the_proxy_and_gauges_do_not() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    let mut held = Client::connect(scene.sluice.port).expect("connect");
    held.send("/app/").expect("send");
    held.receive().expect("an answer");
    let mut other = Client::connect(scene.sluice.port).expect("connect");
    other.send("/app/").expect("send");
    other.receive().expect("an answer");
    scene.wait_for("sluice_client_connections", 2.0);
    let idle = "sluice_pool_connections{state=\"idle\"}";
    wait_until("connections are in the pool", || {
        scene.page().value(idle) >= 1.0
    });
    let done = "sluice_requests_total{code=\"2xx\"}";
    scene.wait_for(done, 2.0);
    let before = scene.page();
    let went_backwards = |page: &Page| -> Vec<String> {
        let mut names = page.went_backwards(&before);
        // Another process's.
        names
            .retain(|name| !name.starts_with("sluice_process_cpu_seconds_total{process=\"proxy\""));
        names
    };
    send_signal(scene.sluice.proxy_pid(), Signal::KILL);
    wait_until("the proxy was restarted", || {
        let page = scene.page();
        assert_eq!(went_backwards(&page), Vec::<String>::new());
        page.value("sluice_proxy_restarts_total") == 1.0
            && page.value("sluice_up{process=\"proxy\"}") == 1.0
    });
    scene.wait_for("sluice_client_connections", 0.0);
    assert_eq!(scene.page().value(idle), 0.0);
    assert_eq!(scene.get("/app/"), 200);
    scene.wait_for(done, 3.0);
    assert_eq!(went_backwards(&scene.page()), Vec::<String>::new());
}

#[test]
fn the_page_says_what_status_says() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    for _ in 0..5 {
        scene.get("/app/");
    }
    scene.get("/dead/");
    scene.sluice.ok(&["member", "drain", "app", "a"]);
    let mut open = Client::connect(scene.sluice.port).expect("connect");
    open.send("/bad/hang").expect("send");
    scene.wait_for("sluice_client_connections", 1.0);
    wait_until("the member is busy", || {
        scene.sluice.status()["members"][1]["busy"] == 1
    });
    let printed = Page::parse(&scene.sluice.ok(&["metrics"]));
    let status = scene.sluice.status();
    wait_until("a page made after that", || {
        let url = &status["members"][1]["url"];
        let key = format!("sluice_member_busy{{balancer=\"bad\",member={url}}}");
        scene.page().value(&key) == 1.0
    });
    let served = scene.page();
    assert_eq!(printed.families(), served.families());
    let members = status["members"].as_array().expect("members");
    assert_eq!(members.len(), 3);
    for page in [&printed, &served] {
        assert_eq!(
            page.value("sluice_client_connections"),
            status["connections"].as_f64().expect("a number")
        );
        assert_eq!(page.value("sluice_generation"), 1.0);
        assert_eq!(page.value("sluice_shards"), 2.0);
        for view in members {
            let labels = format!("balancer={},member={}", view["balancer"], view["url"]);
            for (metric, field) in [
                ("elected_total", "elected"),
                ("responses_total", "responses"),
                ("failed_total", "failed"),
                ("read_bytes_total", "read"),
                ("transferred_bytes_total", "transferred"),
                ("busy", "busy"),
                ("loadfactor", "lbfactor"),
            ] {
                let key = format!("sluice_member_{metric}{{{labels}}}");
                assert_eq!(
                    page.value(&key),
                    view[field].as_f64().expect("number"),
                    "{key}"
                );
            }
            for letter in ["I", "N", "D", "S", "E", "H", "R", "C"] {
                let key = format!("sluice_member_state{{{labels},state=\"{letter}\"}}");
                let set = view["state"].as_array().expect("letters");
                let set = set.iter().any(|known| known == letter);
                assert_eq!(page.value(&key), f64::from(u8::from(set)), "{key}");
            }
        }
    }
}

#[test]
fn metrics_are_read_only_and_nobody_can_hold_them_up() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    for (head, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("HELLO\r\n\r\n", "400"),
    ] {
        let answer = ask(scene.metrics, head).expect("an answer");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    let head = ask(scene.metrics, "HEAD /metrics HTTP/1.0\r\n\r\n").expect("an answer");
    assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: "));
    // More than are served at a time, all silent.
    let silent: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(("127.0.0.1", scene.metrics)).expect("connect"))
        .collect();
    assert_eq!(scene.sluice.status()["daemon"], true);
    assert_eq!(scene.get("/app/"), 200);
    drop(silent);
    scene.page();
}

#[test]
fn a_reload_moves_the_address_and_counts_itself() {
    let a = Member::start("a");
    let mut scene = Scene::start(&a, "");
    assert_eq!(scene.get("/app/"), 200);
    scene.wait_for("sluice_requests_total{code=\"2xx\"}", 1.0);
    let before = scene.page();
    // Somebody's: the reload is refused and nothing has changed.
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port();
    scene
        .sluice
        .write(&Scene::config(&scene.sluice, &a, port, ""));
    let refused = scene.sluice.cli(&["reload"]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("SluiceMetrics 127.0.0.1:"));
    scene.wait_for("sluice_reloads_total{result=\"refused\"}", 1.0);
    assert_eq!(scene.page().value("sluice_config_last_reload_failed"), 1.0);

    let old = std::mem::replace(&mut scene.metrics, free_port());
    scene
        .sluice
        .write(&Scene::config(&scene.sluice, &a, scene.metrics, ""));
    scene.sluice.ok(&["reload"]);
    let page = scene.page();
    assert_eq!(page.value("sluice_reloads_total{result=\"done\"}"), 1.0);
    assert_eq!(page.value("sluice_config_last_reload_failed"), 0.0);
    assert_eq!(page.value("sluice_generation"), 2.0);
    let app = "sluice_balancer_request_seconds_count{balancer=\"app\"}";
    assert_eq!((before.value(app), page.value(app)), (1.0, 1.0));
    wait_until("the old address is closed", || {
        TcpStream::connect(("127.0.0.1", old)).is_err()
    });
}

#[test]
fn error_logs_can_be_json() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "ErrorLogFormat json");
    assert_eq!(scene.get("/dead/"), 503);
    wait_until("the access log has it", || {
        !scene.file("access.log").is_empty()
    });
    let access = scene.file("access.log");
    let id = access.trim_end().rsplit(' ').next().expect("an id");
    let lines: Vec<serde_json::Value> = scene
        .file("host.log")
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let failed = lines.iter().find(|line| line["id"] == "AH01114");
    let failed = failed.expect("the failed connection");
    assert_eq!(failed["reason"], "connect_failed");
    assert_eq!(failed["request"], id);
    assert_eq!(failed["module"], "proxy");
    assert!(
        failed["client"]
            .as_str()
            .is_some_and(|c| c.starts_with("127.0.0.1:"))
    );
}

#[test]
fn each_side_that_stops_is_told_apart() {
    let a = Member::start("a");
    let scene = Scene::start(
        &a,
        "RequestReadTimeout header=1\nTimeout 1\nProxyTimeout 1\nLogLevel info",
    );
    let exchange = |sent: &str, end: bool| {
        let mut stream = TcpStream::connect(("127.0.0.1", scene.sluice.port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.write_all(sent.as_bytes()).expect("send");
        if end {
            stream.shutdown(Shutdown::Write).expect("half close");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let upload = "POST /app/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc";
    let hang = "GET /bad/hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (sent, end, status, name) in [
        ("GET / HTTP/1.1\r\nHo", false, "408", "header_timeout"),
        (upload, false, "408", "body_timeout"),
        (upload, true, "400", "bad_body"),
        (hang, false, "502", "response_timeout"),
        (
            "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
            false,
            "405",
            "method_refused",
        ),
    ] {
        assert_eq!(exchange(sent, end), status, "{name}");
        scene.wait_for(&reason(name), 1.0);
        let tied = format!("reason={name} request=");
        wait_until(&tied, || scene.file("host.log").contains(&tied));
    }
    let page = scene.page();
    let all: f64 = ["4xx", "5xx"]
        .map(|code| page.value(&format!("sluice_requests_total{{code=\"{code}\"}}")))
        .iter()
        .sum();
    assert_eq!(all, 5.0);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    assert_eq!(scene.get("/app/"), 200);
    let answer = ask(scene.metrics, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("a page");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian: prometheus)");
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(body.as_bytes()).expect("taken");
    drop(input);
    let output = promtool.wait_with_output().expect("its end");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn processes_show_what_they_take() {
    let a = Member::start("a");
    let scene = Scene::start(&a, "");
    let before = scene.page();
    for process in ["control", "proxy"] {
        let value =
            |name: &str| before.value(&format!("sluice_process_{name}{{process=\"{process}\"}}"));
        assert!(value("resident_memory_bytes") > 1e6);
        assert!(value("open_fds") > 3.0);
        assert!(value("cpu_seconds_total") >= 0.0);
    }
    assert_eq!(before.value("sluice_pool_waiting"), 0.0);
    assert_eq!(before.value("sluice_log_lines_lost_total"), 0.0);
}
