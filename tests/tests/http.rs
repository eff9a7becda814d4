//! What members are sent and what clients get back: headers, rewriting, IPv6, malformed requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use lab::{
    Member, Scene,
    scene::{self, member, site, site_with, three},
    topology,
};
use serde_json::Value;

/// Values of a request header as the member received it.
fn sent<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    seen["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pair| {
            pair[0]
                .as_str()
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        })
        .filter_map(|pair| pair[1].as_str())
        .collect()
}

#[test]
fn forwarding_headers_say_who_asked_for_what() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let seen = scene.curl.get(&scene.url("/p?q=1"))?.json()?;
    ensure!(sent(&seen, "x-forwarded-for") == ["192.0.2.10"], "{seen}");
    ensure!(sent(&seen, "x-forwarded-host") == ["192.0.2.1"], "{seen}");
    ensure!(sent(&seen, "x-forwarded-server") == ["lab.test"], "{seen}");
    ensure!(sent(&seen, "host") == ["192.0.2.21:8080"], "{seen}");
    ensure!(seen["target"] == "/p?q=1" && seen["version"] == "HTTP/1.1");
    Ok(())
}

#[test]
fn forwarding_headers_are_appended_to_those_that_came() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let curl = scene.curl.clone().header("X-Forwarded-For: 203.0.113.7");
    let seen = curl.get(&scene.url("/"))?.json()?;
    ensure!(
        sent(&seen, "x-forwarded-for") == ["203.0.113.7, 192.0.2.10"],
        "{seen}"
    );
    Ok(())
}

#[test]
fn preserved_host_is_the_clients() -> Result<()> {
    let scene = Scene::start(&site_with(&member(0, ""), "", "ProxyPreserveHost On"))?;
    let curl = scene.curl.clone().header("Host: www.example.test:8000");
    let seen = curl.get(&scene.url("/"))?.json()?;
    ensure!(sent(&seen, "host") == ["www.example.test:8000"], "{seen}");
    Ok(())
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_stay_behind() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let curl = scene
        .curl
        .clone()
        .header("Connection: keep-alive, X-Secret")
        .header("X-Secret: 1")
        .header("Keep-Alive: timeout=5")
        .header("Proxy-Connection: keep-alive")
        .header("TE: trailers")
        .header("Upgrade: websocket")
        .header("X-Kept: 1");
    let seen = curl.get(&scene.url("/"))?.json()?;
    for name in [
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
    ] {
        ensure!(sent(&seen, name).is_empty(), "{name}: {seen}");
    }
    ensure!(sent(&seen, "x-kept") == ["1"]);
    Ok(())
}

#[test]
fn connection_header_cannot_strip_what_the_proxy_adds() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let curl = scene
        .curl
        .clone()
        .header("Connection: X-Forwarded-For, Host");
    let response = curl.get(&scene.url("/"))?;
    if response.status == 200 {
        let seen = response.json()?;
        ensure!(sent(&seen, "x-forwarded-for") == ["192.0.2.10"], "{seen}");
        ensure!(sent(&seen, "host").len() == 1, "{seen}");
    } else {
        ensure!(response.status == 400, "{response:?}");
    }
    Ok(())
}

#[test]
fn location_of_a_member_becomes_the_services() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let url = scene.url("/?status=302&location=http://192.0.2.21:8080/there");
    let response = scene.curl.get(&url)?;
    ensure!(
        response.header("location") == Some("http://192.0.2.1/there"),
        "{response:?}"
    );
    let response = scene
        .curl
        .get(&scene.url("/?status=302&location=http://elsewhere.test/there"))?;
    ensure!(
        response.header("location") == Some("http://elsewhere.test/there"),
        "{response:?}"
    );
    Ok(())
}

#[test]
fn bodies_of_every_framing_arrive_whole() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    for query in [
        "size=3000000",
        "size=3000000&chunked=1",
        "size=0",
        "size=10&close=1",
    ] {
        let response = scene.curl.get(&scene.url(&format!("/?{query}")))?;
        let wanted: usize = query
            .split(['=', '&'])
            .nth(1)
            .and_then(|size| size.parse().ok())
            .context("the query has a size")?;
        ensure!(
            response.exit == 0 && response.body.len() == wanted,
            "{query}"
        );
    }
    let curl = scene
        .curl
        .clone()
        .header("Transfer-Encoding: chunked")
        .option("-d")
        .option("hello");
    let seen = curl.get(&scene.url("/"))?.json()?;
    ensure!(seen["body"] == "hello", "{seen}");
    Ok(())
}

#[test]
fn excluded_path_is_not_proxied() -> Result<()> {
    let scene = Scene::start(&site_with(&member(0, ""), "", "ProxyPass \"/private\" !"))?;
    ensure!(scene.curl.get(&scene.url("/private/x"))?.status == 404);
    ensure!(scene.curl.get(&scene.url("/privately"))?.status == 200);
    ensure!(scene.members[0].requests() == 1);
    Ok(())
}

#[test]
fn virtual_hosts_are_told_apart_by_name() -> Result<()> {
    let hosts = "<VirtualHost *:80>\n ServerName one.test\n ProxyPass / http://192.0.2.21:8080/\n\
                 </VirtualHost>\n\
                 <VirtualHost *:80>\n ServerName two.test\n ServerAlias *.two.test\n \
                 ProxyPass / http://192.0.2.22:8080/\n</VirtualHost>\n";
    let text = site(&three(""), "").replace("ProxyPass ", "#ProxyPass ") + hosts;
    let scene = Scene::start(&text.replace("ProxyPassReverse", "#ProxyPassReverse"))?;
    for (host, name) in [
        ("one.test", "a"),
        ("TWO.test:99", "b"),
        ("x.two.test", "b"),
        ("other.test", "a"),
    ] {
        let response = scene
            .curl
            .clone()
            .header(format!("Host: {host}"))
            .get(&scene.url("/name"))?;
        ensure!(response.text() == name, "{host}: {response:?}");
    }
    Ok(())
}

#[test]
fn ipv6_works_on_both_sides() -> Result<()> {
    let far = SocketAddr::from((topology::address6(topology::MEMBERS), 9090));
    let balancer = format!("    BalancerMember \"http://{far}\" route=six\n");
    let scene = Scene::start(&site(&balancer, ""))?;
    let _six = Member::start(&scene.lab.members[0], "six", far)?;
    let url = format!("http://[{}]/", topology::address6(topology::BALANCER));
    let seen = scene.curl.get(&url)?.json()?;
    ensure!(seen["member"] == "six", "{seen}");
    ensure!(sent(&seen, "x-forwarded-for") == ["2001:db8::10"], "{seen}");
    ensure!(
        sent(&seen, "x-forwarded-host") == ["[2001:db8::1]"],
        "{seen}"
    );
    Ok(())
}

#[test]
fn malformed_requests_are_400_and_reach_no_member() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let cases: [(&str, &str); 13] = [
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (
            "both framings",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "both framings, other order",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        ),
        (
            "lengths that differ",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        ),
        (
            "unknown coding",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked not last",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        (
            "coding in 1.0",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("space before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        (
            "folded line",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        ),
        ("no request at all", "\u{1}\u{2}\u{3} nonsense\r\n\r\n"),
    ];
    for (name, text) in cases {
        let answer = raw(&scene, text.as_bytes()).with_context(|| name.to_owned())?;
        let line = answer.lines().next().unwrap_or_default();
        ensure!(line.contains(" 400 "), "{name}: {answer:?}");
        ensure!(
            answer.matches("HTTP/1.1 ").count() == 1,
            "one answer, then closed: {answer:?}"
        );
    }
    ensure!(
        scene.members[0].requests() == 0,
        "a member got a malformed request"
    );
    scene.expect(2, "a a")?;
    Ok(())
}

#[test]
fn bytes_after_a_refused_request_are_no_request() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\
                    \r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(&scene, smuggled.as_bytes())?;
    ensure!(answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    ensure!(scene.members[0].requests() == 0);
    Ok(())
}

#[test]
fn oversized_head_is_refused() -> Result<()> {
    let scene = Scene::start(&site(&member(0, ""), ""))?;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let answer = raw(&scene, long.as_bytes()).unwrap_or_default();
    ensure!(!answer.contains(" 200 "), "{answer}");
    let uri = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(10_000));
    let answer = raw(&scene, uri.as_bytes())?;
    ensure!(answer.contains(" 414 "), "{answer}");
    ensure!(scene.members[0].requests() == 0);
    Ok(())
}

/// Sends bytes as they are and reads until the service closes.
fn raw(scene: &Scene, bytes: &[u8]) -> Result<String> {
    scene.lab.client.inside(|| -> Result<String> {
        let mut stream = TcpStream::connect(scene::service())?;
        stream.set_read_timeout(Some(lab::wait::PATIENCE))?;
        stream.write_all(bytes)?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => answer.extend(&piece[..length]),
                // What was read before a reset counts.
                Err(error) if answer.is_empty() => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })?
}
