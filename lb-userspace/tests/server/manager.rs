//! The balancer-manager over HTTP: who may change what, what a change does, how long it holds, and
//! its XML beside that of the installed httpd. Its page in a browser: `browser`.

use std::{fmt::Write as _, fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Client, Member, Sluice, fetch, wait_until};

#[path = "manager/browser.rs"]
mod browser;
#[path = "manager/httpd.rs"]
mod httpd;

/// `balancer://app` with a manager at `/manager`, and what else the balancer is to say.
pub(super) fn start(members: &[&Member], keys: &str, more: &str) -> Sluice {
    let mut sluice = Sluice::prepare(members);
    configure(&sluice, members, keys, more);
    sluice.run();
    sluice
}

pub(super) fn configure(sluice: &Sluice, members: &[&Member], keys: &str, more: &str) {
    let mut text = format!(
        "Listen 127.0.0.1:{}\nServerName test\n{more}\n",
        sluice.port
    );
    text.push_str("<Proxy balancer://app>\n");
    for member in members {
        writeln!(
            text,
            "  BalancerMember {} route={}",
            member.url(),
            member.name
        )
        .expect("text");
    }
    if !keys.is_empty() {
        writeln!(text, "  ProxySet {keys}").expect("text");
    }
    text.push_str("</Proxy>\nProxyPass /manager !\nProxyPass / balancer://app/\n");
    text.push_str(
        "<Location /manager>\n  SetHandler balancer-manager\n  Require ip 127.0.0.1\n</Location>\n",
    );
    text.push_str("<IfModule sluice_module>\n  SluiceShards 2\n</IfModule>\n");
    sluice.write(&text);
}

/// One request with these fields; status and body.
fn ask(port: u16, method: &str, path: &str, fields: &str, body: &str) -> (u16, String) {
    let mut client = Client::connect(port).expect("connect");
    let length = body.len();
    client
        .send_raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}Content-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}"
        ))
        .expect("send");
    let (answer, _) = client.receive().expect("answer");
    (answer.status, answer.body)
}

const REFERER: &str = "Referer: http://test/manager\r\n";

fn submit(sluice: &Sluice, body: &str) -> (u16, String) {
    ask(sluice.port, "POST", "/manager", REFERER, body)
}

fn page(sluice: &Sluice, query: &str) -> String {
    let (status, body) = ask(sluice.port, "GET", &format!("/manager{query}"), REFERER, "");
    assert_eq!(status, 200, "{body}");
    body
}

/// The nonce of a balancer, as scripts find it in the page.
fn nonce(sluice: &Sluice) -> String {
    let page = page(sluice, "");
    let (_, rest) = page.split_once("?b=app&amp;nonce=").expect("a link");
    rest.split('"').next().expect("split").to_owned()
}

/// The only balancer's members, by JSON.
fn workers(sluice: &Sluice) -> Vec<Value> {
    let (status, text) = ask(sluice.port, "GET", "/manager?json=1", "", "");
    assert_eq!(status, 200);
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all["balancers"][0]["workers"]
        .as_array()
        .expect("workers")
        .clone()
}

#[test]
fn change_needs_the_nonce_and_a_page_of_the_same_host() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "", "");
    let nonce = nonce(&sluice);
    let drain = |nonce: &str| format!("b=app&w={}&nonce={nonce}&w_status_N=1", a.url());
    let out = || workers(&sluice)[0]["out"] == true;
    for (fields, body) in [
        (REFERER, drain("")),
        (REFERER, drain("00000000-0000-0000-0000-000000000000")),
        (REFERER, drain(&format!("{nonce}0"))),
        ("", drain(&nonce)),
        ("Referer: http://evil.test/\r\n", drain(&nonce)),
        ("Referer: http://test.evil.test/\r\n", drain(&nonce)),
        ("Referer: test/\r\n", drain(&nonce)),
        (
            "Referer: http://test/\r\nOrigin: http://evil.test\r\n",
            drain(&nonce),
        ),
        (
            "Referer: http://test/\r\nSec-Fetch-Site: cross-site\r\n",
            drain(&nonce),
        ),
    ] {
        let (status, body) = ask(sluice.port, "POST", "/manager", fields, &body);
        assert_eq!(status, 200);
        assert!(body.contains("Nothing was changed"), "{fields}: it is said");
        assert!(!out(), "{fields}");
    }
    // A GET changes nothing whatever it carries.
    page(&sluice, &format!("?{}", drain(&nonce)));
    assert!(!out());
    let (status, _) = ask(sluice.port, "DELETE", "/manager", REFERER, &drain(&nonce));
    assert_eq!((status, out()), (405, false));

    let (status, body) = submit(&sluice, &drain(&nonce));
    assert_eq!(status, 200, "{body}");
    assert!(out() && body.contains("status is now N"), "{body}");
    assert!(
        sluice.log().contains("balancer-manager, client 127.0.0.1"),
        "who changed what"
    );
    assert!(sluice.log().contains("AH10187"));
    // Both layers see the one state.
    assert_eq!(sluice.status()["members"][0]["state"][0], "N");
    let seen: String = (0..6)
        .map(|_| fetch(sluice.port, "/").expect("answer").body)
        .collect();
    assert_eq!(seen, "bbbbbb");
}

#[test]
fn parameters_without_a_referer_are_dropped() {
    let a = Member::start("a");
    let sluice = start(&[&a], "", "");
    let (status, body) = ask(sluice.port, "GET", "/manager?xml=1", "", "");
    assert_eq!(status, 200);
    assert!(
        body.starts_with("<!DOCTYPE html>"),
        "as httpd: the page, not the XML"
    );
    assert!(page(&sluice, "?xml=1").starts_with("<?xml"));
}

#[test]
fn every_field_does_what_it_says_or_says_that_it_does_not() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "nonce=x growth=1 stickysession=S", "");
    let member = |fields: &str| submit(&sluice, &format!("b=app&w={}&nonce=x&{fields}", a.url()));
    let (status, body) = member("w_lf=2.5&w_ls=3&w_wr=n%2520w&w_rr=b&w_status_H=1&w_hi=50");
    assert_eq!(status, 200, "{body}");
    assert!(
        body.contains("w_hi=50 was not used"),
        "httpd leaves it out silently"
    );
    let worker = &workers(&sluice)[0];
    for (key, value) in [
        ("factor", "2.50"),
        ("route", "n w"),
        ("redirect", "b"),
        ("status", "Init Stby Ok "),
    ] {
        assert_eq!(worker[key], value, "{key}");
    }
    assert_eq!(worker["lbset"], 3);
    let (_, body) = member("w_lf=0.5");
    assert!(body.contains("w_lf=0.5 was not used") && workers(&sluice)[0]["factor"] == "2.50");
    let (status, body) = member("w_lf=9&w_he=some");
    assert_eq!(
        status, 409,
        "an error page says what is not supported: {body}"
    );
    assert_eq!(workers(&sluice)[0]["factor"], "2.50", "all or nothing");

    let balancer = |fields: &str| submit(&sluice, &format!("b=app&nonce=x&{fields}"));
    let (_, body) = balancer("b_lbm=bybusyness&b_tmo=4&b_max=7&b_sforce=1&b_ss=A%7Cb");
    let xml = page(&sluice, "?xml=1");
    for element in [
        "lbmethod>bybusyness",
        "timeout>4",
        "maxattempts>7",
        "nofailover>On",
        "stickysession>A",
    ] {
        assert!(
            xml.contains(&format!("<httpd:{element}</httpd:")),
            "{element}: {body}"
        );
    }
    balancer("b_ss=-");
    assert!(!page(&sluice, "?xml=1").contains("stickysession"));

    let c = Member::start("c");
    let (status, body) = balancer(&format!("b_wyes=1&b_nwrkr={}", c.url()));
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        workers(&sluice)[2]["status"],
        "Init Dis ",
        "starts disabled"
    );
    let (status, _) = balancer(&format!("b_wyes=1&b_nwrkr={}", c.url()));
    assert_eq!(status, 400, "there already");
    let (status, _) = balancer("b_wyes=1&b_nwrkr=http://127.0.0.1:1");
    assert_eq!(status, 400, "growth=1 is used up");
    submit(
        &sluice,
        &format!("b=app&w={}&nonce=x&w_status_D=0", c.url()),
    );
    submit(
        &sluice,
        &format!("b=app&w={}&nonce=x&w_status_D=1", a.url()),
    );
    wait_until("the added member answers", || {
        fetch(sluice.port, "/").expect("answer").body == "c"
    });
    // A reload of the same file takes nothing back.
    sluice.ok(&["reload"]);
    assert_eq!(workers(&sluice).len(), 3);
    assert_eq!(workers(&sluice)[0]["route"], "n w");
}

#[test]
fn changes_outlive_a_stop_with_balancer_persist_alone() {
    for (persist, kept) in [("BalancerPersist On", true), ("BalancerPersist Off", false)] {
        let (a, b) = (Member::start("a"), Member::start("b"));
        let mut sluice = start(&[&a, &b], "nonce=x growth=2", persist);
        submit(
            &sluice,
            &format!("b=app&w={}&nonce=x&w_lf=7&w_status_D=1&w_rr=q", a.url()),
        );
        submit(
            &sluice,
            "b=app&nonce=x&b_tmo=9&b_wyes=1&b_nwrkr=http://127.0.0.1:9",
        );
        sluice.ok(&["member", "drain", "app", "b"]);
        sluice.signal(Signal::TERM);
        assert_eq!(sluice.wait(), Some(0));
        sluice.run();
        let all = workers(&sluice);
        assert_eq!(all.len(), if kept { 3 } else { 2 }, "{persist}");
        assert_eq!(all[0]["factor"], if kept { "7.00" } else { "1.00" });
        assert_eq!(
            all[0]["status"],
            if kept { "Init Dis " } else { "Init Ok " }
        );
        assert_eq!(all[0]["redirect"], if kept { "q" } else { "" });
        assert_eq!(
            all[1]["status"],
            if kept { "Init Drn Ok " } else { "Init Ok " }
        );
        assert_eq!(page(&sluice, "?xml=1").contains("timeout>9<"), kept);
    }
}

#[test]
fn changes_outlive_an_upgrade_unless_the_file_says_something_new() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "nonce=x growth=2", "");
    submit(&sluice, &format!("b=app&w={}&nonce=x&w_rr=q", a.url()));
    let add = "b=app&nonce=x&b_tmo=9&b_lbm=bybusyness&b_wyes=1&b_nwrkr=http://127.0.0.1:9";
    submit(&sluice, add);
    for _ in 0..2 {
        sluice.ok(&["upgrade"]);
        let all = workers(&sluice);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0]["redirect"], "q");
        let xml = page(&sluice, "?xml=1");
        assert!(
            xml.contains("timeout>9<") && xml.contains("lbmethod>bybusyness<"),
            "{xml}"
        );
    }
    configure(&sluice, &[&a, &b], "nonce=x growth=2 maxattempts=1", "");
    sluice.ok(&["upgrade"]);
    assert_eq!(workers(&sluice).len(), 2);
    assert!(page(&sluice, "?xml=1").contains("timeout>0<"));
    wait_until("it is said", || sluice.log().contains("is gone"));
}

#[test]
fn file_that_was_damaged_is_left_alone_and_said() {
    let a = Member::start("a");
    let mut sluice = start(&[&a], "nonce=x", "BalancerPersist On");
    submit(&sluice, &format!("b=app&w={}&nonce=x&w_lf=7", a.url()));
    sluice.signal(Signal::TERM);
    sluice.wait();
    let path = sluice.run_dir().join("default.balancers.json");
    fs::write(&path, b"{\"balancers\":").expect("write");
    sluice.run();
    assert_eq!(workers(&sluice)[0]["factor"], "1.00");
    assert!(
        sluice.log().contains("BalancerPersist:"),
        "{}",
        sluice.log()
    );
}

#[test]
fn file_that_changes_the_balancer_wins_at_a_reload() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let sluice = start(&[&a, &b], "nonce=x", "");
    submit(&sluice, "b=app&nonce=x&b_tmo=9");
    configure(&sluice, &[&a, &b], "nonce=x maxattempts=1", "");
    sluice.ok(&["reload"]);
    let xml = page(&sluice, "?xml=1");
    assert!(
        xml.contains("timeout>0<") && xml.contains("maxattempts>1<"),
        "{xml}"
    );
    assert!(sluice.log().contains("is gone"), "it is said");
}

#[test]
fn hostile_names_stay_text() {
    let a = Member::start("a");
    let sluice = start(&[&a], "nonce=x", "");
    let evil = "%253Cscript%253Ealert(1)%253C/script%253E%2522'%2526";
    let (status, body) = submit(
        &sluice,
        &format!("b=app&w={}&nonce=x&w_wr={evil}&w_lf={evil}", a.url()),
    );
    assert_eq!(status, 200);
    let xml = page(&sluice, "?xml=1");
    for text in [&body, &xml, &page(&sluice, "")] {
        assert!(!text.contains("<script>alert"), "{text}");
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
    }
    let (_, body) = ask(
        sluice.port,
        "GET",
        "/manager/%3Cscript%3Ealert(1)",
        REFERER,
        "",
    );
    assert!(!body.contains("<script>alert"));
    assert!(
        serde_json::from_str::<Value>(&fetch(sluice.port, "/manager?json=1").expect("answer").body)
            .is_ok()
    );
}

#[test]
fn page_is_closed_to_others_and_to_frames_and_caches() {
    let a = Member::start("a");
    let sluice = start(&[&a], "", "");
    let mut client = Client::connect(sluice.port).expect("connect");
    client.send("/manager").expect("send");
    let head = client.receive_head().expect("head").to_ascii_lowercase();
    for field in [
        "cache-control: no-store",
        "x-frame-options: deny",
        "referrer-policy: same-origin",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "frame-ancestors 'none'",
    ] {
        assert!(head.contains(field), "{field}: {head}");
    }
    let text = fs::read_to_string(sluice.file()).expect("file");
    sluice.write(&text.replace("Require ip 127.0.0.1", "Require ip 192.0.2.1"));
    sluice.ok(&["reload"]);
    assert_eq!(fetch(sluice.port, "/manager").expect("answer").status, 403);
    assert_eq!(
        fetch(sluice.port, "/manager?json=1")
            .expect("answer")
            .status,
        403
    );
}

#[test]
fn change_without_control_is_refused_in_words() {
    let a = Member::start("a");
    let mut sluice = start(&[&a], "nonce=x", "");
    let proxy = sluice.proxy_pid();
    sluice.kill_control();
    wait_until("the orphan refuses", || {
        let (status, body) = submit(&sluice, &format!("b=app&w={}&nonce=x&w_lf=7", a.url()));
        status == 409 && body.contains("control is not there")
    });
    super::harness::send_signal(proxy, Signal::KILL);
}

/// Names of elements in order, with their values where `keep` wants them.
fn outline(xml: &str, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for part in xml.split("<httpd:").skip(1) {
        let (name, rest) = part.split_once('>').expect("an element");
        let value = rest.split('<').next().unwrap_or_default().trim();
        out.push(if keep(name) {
            format!("{name}={value}")
        } else {
            name.to_owned()
        });
    }
    out
}

fn has(path: &str) -> bool {
    Path::new(path).exists()
}

#[test]
fn balancers_of_one_name_are_called_as_their_virtual_hosts_call_them() {
    let (a, b) = (Member::start("a"), Member::start("b"));
    let mut sluice = Sluice::prepare(&[]);
    let host = |name: &str, member: &Member| {
        format!(
            "<VirtualHost *:*>\nServerName {name}\n<Proxy balancer://app>\n\
             BalancerMember {} route=r\nHeader set X-Section {name}\n</Proxy>\n\
             Header set X-Balancer %{{BALANCER_NAME}}e\nProxyPass / balancer://app/\n</VirtualHost>\n",
            member.url()
        )
    };
    sluice.write(&format!(
        "Listen 127.0.0.1:{}\n{}{}<IfModule sluice_module>\nSluiceShards 2\n</IfModule>\n",
        sluice.port,
        host("one.test", &a),
        host("two.test", &b)
    ));
    sluice.run();
    let get = |name: &str| {
        let mut client = Client::connect(sluice.port).expect("connect");
        client
            .send_raw(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"))
            .expect("send");
        client.receive_head().expect("answer").to_ascii_lowercase()
    };
    for name in ["one.test", "two.test"] {
        let head = get(name);
        assert!(head.contains("x-balancer: balancer://app\r\n"), "{head}");
        assert!(head.contains(&format!("x-section: {name}\r\n")), "{head}");
    }
    // Commands have to tell them apart.
    sluice.ok(&["member", "set", "app@one.test", &a.url(), "status=+D"]);
    assert!(get("one.test").starts_with("http/1.1 503"));
    wait_until("the error", || {
        sluice
            .log()
            .contains("AH01170: balancer://app: All workers are in error state")
    });
}
