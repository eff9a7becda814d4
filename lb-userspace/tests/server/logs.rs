//! Logs of a running service: programs that read them, formats, levels.

use std::{fs, path::Path};

use rustix::process::Signal;

use super::harness::{Client, Member, Sluice, fetch, is_alive, send_signal, wait_until};

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A service with `/` to `a`, and these directives before that.
fn start(a: &Member, directives: impl Fn(&Path) -> String) -> Sluice {
    let mut sluice = Sluice::prepare(&[]);
    let text = format!(
        "Listen 127.0.0.1:{}\n{}\nProxyPass /none !\nProxyPass / {}/\n\
         <IfModule sluice_module>\nSluiceShards 2\n</IfModule>\n",
        sluice.port,
        directives(sluice.dir.path()),
        a.url()
    );
    sluice.write(&text);
    sluice.run();
    sluice
}

#[test]
fn program_gets_every_line_across_reload_and_death() {
    let a = Member::start("a");
    let sluice = start(&a, |dir| {
        let dir = dir.display();
        format!(
            "CustomLog \"|/usr/bin/tee -a '{dir}/access'\" %U\n\
             ErrorLog \"|$echo $$ >>{dir}/pids; exec cat >>{dir}/errors\"\nLogLevel info"
        )
    });
    let (access, pids) = (
        sluice.dir.path().join("access"),
        sluice.dir.path().join("pids"),
    );
    let get = |path: &str| fetch(sluice.port, path).expect("an answer").status;
    assert_eq!(get("/one"), 200);
    wait_until("the first line", || lines(&access) == ["/one"]);
    // Both processes write their error lines to one program.
    wait_until("it was started once", || lines(&pids).len() == 1);
    sluice.ok(&["reload"]);
    assert_eq!(get("/none"), 404);
    let errors = sluice.dir.path().join("errors");
    let said = |what: &str| lines(&errors).iter().any(|line| line.contains(what));
    wait_until("control's line", || said("resuming normal operations"));
    wait_until("the proxy's line", || said("no ProxyPass takes /none"));
    assert_eq!(lines(&pids).len(), 1, "a reload does not start it again");

    let pid: u32 = lines(&pids)[0].parse().expect("a pid");
    send_signal(pid, Signal::KILL);
    wait_until("another one", || lines(&pids).len() == 2);
    assert_eq!(get("/none/again"), 404);
    wait_until("its line", || said("no ProxyPass takes /none/again"));
    wait_until("control tells", || said("AH00106: piped log program"));

    // A log that the configuration has no more is let go, and its program ends.
    let second: u32 = lines(&pids)[1].parse().expect("a pid");
    let text = fs::read_to_string(sluice.file()).expect("configuration");
    let kept = text.lines().filter(|line| !line.starts_with("ErrorLog"));
    let text = kept.collect::<Vec<_>>().join("\n");
    sluice.write(&text);
    sluice.ok(&["reload"]);
    wait_until("it ends", || !is_alive(second));
    assert_eq!(get("/last"), 200);
    wait_until("the other log goes on", || {
        lines(&access).last().is_some_and(|line| line == "/last")
    });
}

#[test]
fn program_that_cannot_be_started_is_an_error_of_the_configuration() {
    let a = Member::start("a");
    let sluice = start(&a, |_| String::new());
    let text = fs::read_to_string(sluice.file()).expect("configuration");
    sluice.write(&format!("{text}CustomLog \"|/nonexistent/x -y\" %U\n"));
    let output = sluice.cli(&["reload"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("log program cannot be started: /nonexistent/x -y: No such file"),
        "{told}"
    );
    assert_eq!(fetch(sluice.port, "/").expect("an answer").status, 200);
}

#[test]
fn formats_and_levels_are_the_hosts() {
    let a = Member::start("a");
    let sluice = start(&a, |dir| {
        let dir = dir.display();
        format!(
            "ServerName main.test\nErrorLog {dir}/main\n\
             <VirtualHost *:*>\nServerName loud.test\nErrorLog {dir}/loud\nLogLevel info\n\
             ErrorLogFormat \"[%l] [%m] %v [client\\ %a] %-{{c}}L %L %M\"\n\
             CustomLog {dir}/access \"%L %{{c}}L\"\n</VirtualHost>\n\
             <VirtualHost *:*>\nServerName quiet.test\nErrorLog {dir}/quiet\n\
             LogLevel debug proxy:error\n</VirtualHost>"
        )
    });
    let file = |name: &str| lines(&sluice.dir.path().join(name));
    let request = |host: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", sluice.port)).expect("connect");
        let head = format!("GET /none HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("sent");
        let answer = std::io::read_to_string(stream).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    };
    request("quiet.test");
    request("loud.test");
    wait_until("a line", || {
        file("loud").len() == 1 && file("access").len() == 1
    });
    let line = &file("loud")[0];
    let ids = &file("access")[0];
    let (id, connection) = ids.split_once(' ').expect("two ids");
    assert!(
        line.starts_with("[info] [proxy] loud.test [client 127.0.0.1:")
            && line.ends_with(&format!(
                "] {connection} {id} no ProxyPass takes /none reason=no_route"
            )),
        "{line}\n{ids}"
    );
    assert!(id.len() == 16 && connection.len() == 16 && id != connection);
    assert_eq!(file("quiet"), Vec::<String>::new());
}

#[test]
fn requests_that_a_variable_marks_have_no_line() {
    let a = Member::start("a");
    let sluice = start(&a, |dir| {
        let dir = dir.display();
        format!(
            "SetEnvIf Request_URI ^/health DontLog\nRewriteEngine On\nRewriteRule ^/quiet - [E=hush:1]\n\
             CustomLog {dir}/said \"%U %{{dontlog}}e\" env=!dontlog\n\
             CustomLog {dir}/marked \"%U %{{dontlog}}e\" env=dontlog\n\
             CustomLog {dir}/loud %U env=!HUSH\n"
        )
    });
    let told = String::from_utf8_lossy(&sluice.cli(&["configtest"]).stderr).into_owned();
    assert!(!told.contains("no request ever has"), "{told}");
    for path in ["/one", "/health/x", "/quiet", "/last"] {
        assert_eq!(fetch(sluice.port, path).expect("an answer").status, 200);
    }
    let file = |name: &str| {
        let mut lines = lines(&sluice.dir.path().join(name));
        lines.sort();
        lines
    };
    wait_until("all lines", || {
        file("said").len() == 3 && file("marked").len() == 1 && file("loud").len() == 3
    });
    assert_eq!(file("said"), ["/last -", "/one -", "/quiet -"]);
    assert_eq!(file("marked"), ["/health/x 1"]);
    assert_eq!(file("loud"), ["/health/x", "/last", "/one"]);
}

#[test]
fn a_session_that_a_rule_led_to_its_balancer_has_a_cookie_for_every_path() {
    let a = Member::start("a");
    let sluice = start(&a, |_| {
        let url = a.url();
        format!(
            "<Proxy balancer://b>\nBalancerMember {url} route=n\n\
             ProxySet stickysession=S stickycookie=On\n</Proxy>\nRewriteEngine On\n\
             RewriteRule ^/y(.*) balancer://b/x$1 [P]\nRewriteRule ^/z(.*) /x$1 [PT]\n\
             ProxyPass /x balancer://b/x\n"
        )
    });
    let cookie = |path: &str| {
        let mut client = Client::connect(sluice.port).expect("connect");
        client.send(path).expect("sent");
        let head = client.receive_head().expect("an answer");
        let set = head.lines().find(|line| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case("set-cookie")
        });
        set.unwrap_or_else(|| panic!("{path}: {head}")).to_owned()
    };
    assert!(cookie("/x/1").contains("; Path=/x;"));
    assert!(cookie("/y/1").contains("; Path=/;"));
    assert!(cookie("/z/1").contains("; Path=/;"));
}
