//! HAProxy's file, and the map of routes that it reads beside it.

use std::{fmt::Write as _, net::SocketAddr};

use super::{At, INSIDE, SECURITY, lines};
use crate::bench::l7::{
    setup::{COOKIE, FACTORS, ROUTES, Work, host},
    tls::{GROUP, SUITE},
};

/// The map's name, in the peer's folder.
const ROUTES_FILE: &str = "routes";

/// It derives the most connections from the limit of descriptors, which it inherits.
pub(in super::super) fn haproxy(at: &At<'_>) -> String {
    let user = At::when(
        at.is_root,
        "    user nobody\n    group nogroup\n".to_owned(),
    );
    let target = at.with_log(|_| "    log stdout format raw local0\n".to_owned());
    let log = at.with_log(|is_combined| {
        let more = if is_combined {
            " %{+Q}[capture.req.hdr(0)] %{+Q}[capture.req.hdr(1)]"
        } else {
            ""
        };
        format!("    log global\n    log-format \"%ci - - [%trl] %{{+Q}}r %ST %B{more}\"\n")
    });
    let tls = at.with_tls(|address, certificates| {
        format!(
            "    bind {address} defer-accept ssl crt {}/both.pem alpn h2,http/1.1 \
             ssl-min-ver TLSv1.3 ciphersuites {SUITE} curves {GROUP}\n",
            certificates.display()
        )
    });
    // httpd's X-Forwarded-Server is the virtual host's name.
    let server = match at.setup.work {
        Work::Hosts { passes, .. } if passes > 1 => "%[req.hdr(host)]".to_owned(),
        Work::Hosts { .. } => host(0),
        Work::Pass | Work::Log | Work::Guide => "bench.test".to_owned(),
    };
    let (before, routed, members) = match at.setup.work {
        Work::Guide => (guide_fields(), guide_routes(at), guide_members(at.members)),
        Work::Hosts { passes, .. } if passes > 1 => {
            let file = at.dir.join(ROUTES_FILE);
            let routed = format!("    use_backend %[base,map_beg({})]\n", file.display());
            (String::new(), routed, equal_members(at.members))
        }
        Work::Pass | Work::Log | Work::Hosts { .. } => (
            String::new(),
            "    default_backend members\n".to_owned(),
            equal_members(at.members),
        ),
    };
    format!(
        "global\n    nbthread {}\n{user}{target}defaults\n    mode http\n{log}\
         \x20   timeout connect 5s\n    timeout client 600s\n    timeout server 600s\n\
         \x20   timeout http-keep-alive 600s\n    timeout http-request 60s\n\
         \x20   option http-keep-alive\n    http-reuse always\n    option forwardfor\n\
         frontend bench\n    bind {} defer-accept\n{tls}{before}\
         \x20   http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20   http-request set-header X-Forwarded-Server {server}\n\
         {routed}backend members\n    balance roundrobin\n{members}",
        at.setup.workers, at.address,
    )
}

/// A route for each host and path, by what their names begin with; `None`: there is one for all.
pub(in super::super) fn routes(at: &At<'_>) -> Option<(&'static str, String)> {
    let Work::Hosts { hosts, passes } = at.setup.work else {
        return None;
    };
    let mut text = String::new();
    for name in (0..hosts).map(host) {
        for path in 0..passes {
            let _ = writeln!(text, "{name}/p{path}/ members");
        }
    }
    (passes > 1).then_some((ROUTES_FILE, text))
}

fn equal_members(members: &[SocketAddr]) -> String {
    let numbered: Vec<_> = members.iter().enumerate().collect();
    lines(&numbered, |(number, member)| {
        format!("    server m{number} {member}")
    })
}

fn guide_fields() -> String {
    format!(
        "    http-request deny unless {{ src {} }}\n\
         \x20   http-request capture req.hdr(Referer) len 128\n\
         \x20   http-request capture req.hdr(User-Agent) len 128\n\
         \x20   http-request set-header X-Forwarded-Proto https\n\
         \x20   http-request del-header Proxy\n\
         \x20   http-response set-header Strict-Transport-Security {SECURITY}\n\
         \x20   http-response replace-header Location ^http://members/(.*) /\\1\n",
        INSIDE.join(" ")
    )
}

fn guide_routes(at: &At<'_>) -> String {
    let anybody = at.members.first().map(ToString::to_string);
    format!(
        "    use_backend manager if {{ path_beg /balancer-manager }}\n\
         \x20   use_backend sockets if {{ path_beg /ws/ }}\n    default_backend members\n\
         backend manager\n    stats enable\n    stats uri /balancer-manager\n\
         backend sockets\n    server m0 {}\n",
        anybody.unwrap_or_default()
    )
}

fn guide_members(members: &[SocketAddr]) -> String {
    let mut text = String::new();
    for route in ROUTES {
        let _ = writeln!(
            text,
            "    use-server {route} if {{ req.cook({COOKIE}) -m end .{route} }} or {{ path_end .{route} }}"
        );
    }
    for (number, (member, route)) in members.iter().zip(ROUTES).enumerate() {
        let _ = match FACTORS.get(number) {
            Some(factor) => writeln!(text, "    server {route} {member} weight {factor}"),
            None => writeln!(text, "    server {route} {member} backup"),
        };
    }
    text
}
