//! nginx' file; its head is that of the members too, which run on it.

use std::{fmt::Write as _, net::SocketAddr};

use super::{At, INSIDE, SECURITY, lines};
use crate::bench::l7::{
    setup::{COOKIE, FACTORS, ROUTES, Work, host},
    tls::{GROUP, SUITE},
};

/// Everything of an nginx up to its servers.
pub(in super::super) fn nginx_head(at: &At<'_>) -> String {
    let dir = at.dir.display();
    let user = At::when(at.is_root, "user nobody nogroup;\n".to_owned());
    let log = at.with_log(|is_combined| {
        let more = if is_combined {
            " \"$http_referer\" \"$http_user_agent\""
        } else {
            ""
        };
        format!(
            "    log_format bench '$remote_addr - $remote_user [$time_local] \"$request\" $status \
             $body_bytes_sent{more}';\n    access_log {} bench buffer=64k flush=1s;\n",
            at.log()
        )
    });
    let log = if log.is_empty() {
        "    access_log off;\n".to_owned()
    } else {
        log
    };
    let temporary = lines(
        &["client_body", "proxy", "fastcgi", "uwsgi", "scgi"],
        |name| format!("    {name}_temp_path {dir}/{name};"),
    );
    format!(
        "daemon off;\nworker_processes {};\n{user}pid {dir}/pid;\nerror_log {dir}/error.log error;\n\
         events {{\n    worker_connections 32768;\n}}\nhttp {{\n{temporary}{log}\
         \x20   keepalive_requests 1000000000;\n    keepalive_timeout 600s;\n",
        at.setup.workers
    )
}

pub(in super::super) fn nginx(at: &At<'_>) -> String {
    let listen = format!(
        "        listen {} deferred;\n{}",
        at.address,
        at.with_tls(|address, certificates| {
            let dir = certificates.display();
            format!(
                "        listen {address} ssl http2 deferred;\n\
                 \x20       ssl_certificate {dir}/certificate.pem;\n\
                 \x20       ssl_certificate_key {dir}/key.pem;\n        ssl_protocols TLSv1.3;\n\
                 \x20       ssl_conf_command Ciphersuites {SUITE};\n        ssl_ecdh_curve {GROUP};\n\
                 \x20       ssl_session_tickets on;\n"
            )
        })
    );
    let servers = match at.setup.work {
        Work::Pass | Work::Log => format!(
            "    server {{\n{listen}        location / {{\n\
             \x20           proxy_pass http://members;\n        }}\n    }}\n"
        ),
        Work::Hosts { hosts, passes } => many(at.address, &listen, hosts, passes),
        Work::Guide => guide(at.members, &listen),
    };
    let members = match at.setup.work {
        Work::Guide => guide_members(at),
        Work::Pass | Work::Log | Work::Hosts { .. } => {
            let members = lines(at.members, |member| format!("        server {member};"));
            upstream(at, "members", &members)
        }
    };
    format!(
        "{}{members}    proxy_max_temp_file_size 0;\n    proxy_http_version 1.1;\n{}{servers}}}\n",
        nginx_head(at),
        fields(at.setup.work),
    )
}

/// What members are told. Where a location has fields of its own it has none of these.
fn fields(work: Work) -> String {
    // httpd's X-Forwarded-Server is the virtual host's name.
    let server = match work {
        Work::Hosts { .. } => "$server_name",
        Work::Pass | Work::Log | Work::Guide => "bench.test",
    };
    let edited = match work {
        Work::Guide => {
            "    proxy_set_header X-Forwarded-Proto https;\n    proxy_set_header Proxy \"\";\n"
        }
        Work::Pass | Work::Log | Work::Hosts { .. } => "",
    };
    format!(
        "    proxy_set_header Connection \"\";\n    proxy_set_header Host $http_host;\n\
         \x20   proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         \x20   proxy_set_header X-Forwarded-Host $http_host;\n\
         \x20   proxy_set_header X-Forwarded-Server {server};\n{edited}"
    )
}

fn upstream(at: &At<'_>, name: &str, members: &str) -> String {
    format!(
        "    upstream {name} {{\n{members}        keepalive {};\n\
         \x20       keepalive_requests 1000000000;\n        keepalive_timeout 600s;\n    }}\n",
        at.setup.kept()
    )
}

fn many(address: SocketAddr, listen: &str, hosts: u32, passes: u32) -> String {
    let mut text = "    server_names_hash_max_size 8192;\n".to_owned();
    for number in 0..hosts {
        // Options of a listener stand once.
        let listen = if number == 0 {
            listen.to_owned()
        } else {
            format!("        listen {address};\n")
        };
        let _ = write!(
            text,
            "    server {{\n{listen}        server_name {};\n",
            host(number)
        );
        if passes == 1 {
            text += "        location / { proxy_pass http://members; }\n";
        } else {
            for n in 0..passes {
                let _ = writeln!(
                    text,
                    "        location /p{n}/ {{ proxy_pass http://members; }}"
                );
            }
        }
        text += "    }\n";
    }
    text
}

/// One group for new sessions, and for each route one in which the others only stand in.
fn guide_members(at: &At<'_>) -> String {
    let limits = "max_fails=1 fail_timeout=30s";
    let mut all = String::new();
    let mut routed = String::new();
    for (number, (member, route)) in at.members.iter().zip(ROUTES).enumerate() {
        let _ = match FACTORS.get(number) {
            Some(factor) => writeln!(all, "        server {member} weight={factor} {limits};"),
            None => writeln!(all, "        server {member} backup;"),
        };
        let own = lines(at.members, |other| {
            let spare = if other == member { limits } else { "backup" };
            format!("        server {other} {spare};")
        });
        routed += &upstream(at, route, &own);
    }
    let ends = lines(&ROUTES, |route| format!("        ~\\.{route}$ {route};"));
    format!(
        "    map $request_uri $by_path {{\n        default members;\n{ends}    }}\n\
         \x20   map $cookie_{COOKIE} $to {{\n        default $by_path;\n{ends}    }}\n\
         {}{routed}",
        upstream(at, "members", &all)
    )
}

/// Without the commercial module sessions are a map to groups.
fn guide(members: &[SocketAddr], listen: &str) -> String {
    let inside = INSIDE.map(|network| format!("allow {network}; ")).concat();
    let anybody = members.first().map(ToString::to_string).unwrap_or_default();
    format!(
        "    server {{\n{listen}        server_name bench.test;\n        {inside}deny all;\n\
         \x20       add_header Strict-Transport-Security {SECURITY} always;\n\
         \x20       location /balancer-manager {{\n            stub_status;\n            {inside}deny all;\n        }}\n\
         \x20       location /ws/ {{\n            proxy_pass http://{anybody};\n\
         \x20           proxy_set_header Upgrade $http_upgrade;\n\
         \x20           proxy_set_header Connection upgrade;\n        }}\n\
         \x20       location / {{\n            proxy_pass http://$to;\n\
         \x20           proxy_read_timeout 10s;\n            proxy_redirect http://members/ /;\n        }}\n    }}\n"
    )
}
