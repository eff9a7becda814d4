//! sluice's and httpd's files: one language, so most of the text is the same.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use super::{At, INSIDE, SECURITY, lines};
use crate::bench::l7::{
    setup::{COOKIE, FACTORS, ROUTES, Work, host},
    tls::{GROUP, SUITE},
};

/// Its listeners defer accepting by default, as httpd's do (AcceptFilter).
pub(in super::super) fn sluice(at: &At<'_>) -> String {
    format!(
        "ServerName bench.test\nListen {}\n{}SluiceShards {}\n{}{}{}",
        at.address,
        at.with_tls(|address, _| format!("Listen {address} https\n")),
        at.setup.workers,
        user(at),
        log(at),
        hosts(at, ""),
    )
}

/// One child of the event MPM. AcceptFilter is left as it is: data.
pub(in super::super) fn httpd(at: &At<'_>) -> String {
    const MODULES: &str = "/usr/lib/apache2/modules";
    let dir = at.dir.display();
    let modules = lines(
        &[
            "mpm_event",
            "authz_core",
            "authz_host",
            "headers",
            "proxy",
            "proxy_http",
            "proxy_wstunnel",
            "proxy_balancer",
            "lbmethod_byrequests",
            "slotmem_shm",
            "ssl",
            "http2",
        ],
        |name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so"),
    );
    let buffered = at.with_log(|_| "BufferedLogs On\n".to_owned());
    format!(
        "{modules}ServerRoot {dir}\nServerName bench.test\nPidFile {dir}/pid\n\
         DefaultRuntimeDir {dir}\nErrorLog {dir}/error.log\n{}{buffered}{}Listen {}\n{}\
         StartServers 1\nServerLimit 1\nThreadLimit 128\n\
         ThreadsPerChild 128\nMaxRequestWorkers 128\nMinSpareThreads 1\nMaxSpareThreads 128\n\
         AsyncRequestWorkerFactor 200\n{}",
        user(at),
        log(at),
        at.address,
        at.with_tls(|address, _| format!("Listen {address} https\n")),
        hosts(at, &format!("    SSLOpenSSLConfCmd Groups {GROUP}\n")),
    )
}

fn user(at: &At<'_>) -> String {
    At::when(at.is_root, "User nobody\nGroup nogroup\n".to_owned())
}

fn log(at: &At<'_>) -> String {
    at.with_log(|is_combined| {
        let more = if is_combined {
            " \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\""
        } else {
            ""
        };
        format!(
            "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b{more}\" bench\nCustomLog \"{}\" bench\n",
            at.log()
        )
    })
}

/// What both are told alike: the members, and the hosts.
fn hosts(at: &At<'_>, of_httpd: &str) -> String {
    let body = match at.setup.work {
        Work::Guide => guide(),
        Work::Pass | Work::Log | Work::Hosts { .. } => EVERYTHING.to_owned(),
    };
    let members = match at.setup.work {
        Work::Guide => guide_members(at.members),
        Work::Pass | Work::Log | Work::Hosts { .. } => lines(at.members, |member| {
            format!("    BalancerMember \"http://{member}\"")
        }),
    };
    let cleartext = match at.setup.work {
        Work::Pass | Work::Log => EVERYTHING.to_owned(),
        Work::Guide => virtual_host(at.address, "bench.test", &body),
        Work::Hosts { hosts, passes } => many(at.address, hosts, passes),
    };
    let encrypted = at.with_tls(|address, certificates| {
        let tls = tls(certificates, of_httpd);
        virtual_host(address, "bench.test", &format!("{tls}{body}"))
    });
    format!(
        "KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 600\nProxyPreserveHost On\n\
         <Proxy \"balancer://members\">\n{members}</Proxy>\n{cleartext}{encrypted}"
    )
}

const EVERYTHING: &str = "    ProxyPass \"/\" \"balancer://members/\"\n";

/// The guide's host, with a field of an answer set and one of a request unset besides, and with all
/// that is asked for behind `Require ip`.
fn guide() -> String {
    let inside = INSIDE.join(" ");
    format!(
        r#"    ProxyRequests Off
    ProxyPreserveHost On
    RequestHeader set X-Forwarded-Proto "https"
    RequestHeader unset Proxy
    Header set Strict-Transport-Security "{SECURITY}"
    <Location "/">
        Require ip {inside}
    </Location>
    <Location "/balancer-manager">
        SetHandler balancer-manager
        Require ip {inside}
    </Location>
    ProxyPass        "/balancer-manager" "!"
    ProxyPass        "/ws/" "ws://192.0.2.24:8080/ws/"
    ProxyPass        "/" "balancer://members/"
    ProxyPassReverse "/" "balancer://members/"
"#
    )
}

fn guide_members(members: &[SocketAddr]) -> String {
    let mut text = String::new();
    for (number, (member, route)) in members.iter().zip(ROUTES).enumerate() {
        let _ = match FACTORS.get(number) {
            Some(factor) => writeln!(
                text,
                "    BalancerMember \"http://{member}\" route={route} loadfactor={factor} retry=30 \
                 timeout=10"
            ),
            None => writeln!(
                text,
                "    BalancerMember \"http://{member}\" route={route} status=+H"
            ),
        };
    }
    let _ = writeln!(
        text,
        "    ProxySet lbmethod=byrequests stickysession={COOKIE}|{}",
        COOKIE.to_ascii_lowercase()
    );
    text
}

fn many(address: SocketAddr, hosts: u32, passes: u32) -> String {
    let routes: String = if passes == 1 {
        EVERYTHING.to_owned()
    } else {
        let route = |n| format!("    ProxyPass \"/p{n}/\" \"balancer://members/p{n}/\"\n");
        (0..passes).map(route).collect()
    };
    (0..hosts)
        .map(|number| virtual_host(address, &host(number), &routes))
        .collect()
}

fn virtual_host(address: SocketAddr, name: &str, body: &str) -> String {
    format!("<VirtualHost {address}>\n    ServerName {name}\n{body}</VirtualHost>\n")
}

fn tls(certificates: &Path, of_httpd: &str) -> String {
    let dir = certificates.display();
    format!(
        "    Protocols h2 http/1.1\n    SSLEngine on\n\
         \x20   SSLCertificateFile {dir}/certificate.pem\n\
         \x20   SSLCertificateKeyFile {dir}/key.pem\n    SSLProtocol TLSv1.3\n\
         \x20   SSLCipherSuite TLSv1.3 {SUITE}\n    SSLSessionTickets On\n{of_httpd}\
         \x20   ProxyPreserveHost On\n"
    )
}
