//! The peers' configuration files, made to do the same work. No process is started here.
//!
//! All have one worker, three members by equal turns, the same forwarding fields, the client's
//! Host, kept connections on both sides without a limit on their requests, a listener that defers
//! accepting until data has come, and one that speaks TLS 1.3 with one suite, one group, one
//! certificate, tickets on, and offers HTTP/2.

use std::{net::SocketAddr, path::Path};

use super::super::tls::{GROUP, SUITE};

/// What a configuration is made of.
pub(super) struct At<'a> {
    /// The peer's own folder.
    pub(super) dir: &'a Path,
    /// Where it accepts cleartext.
    pub(super) address: SocketAddr,
    /// Where it accepts TLS, and the folder with the certificate; members have none.
    pub(super) tls: Option<(SocketAddr, &'a Path)>,
    pub(super) members: &'a [SocketAddr],
    /// An access log in the common format.
    pub(super) is_logged: bool,
    /// Whether the peers have a user to become.
    pub(super) is_root: bool,
}

/// The access log's name.
pub(super) const LOG: &str = "access.log";

impl At<'_> {
    fn when(condition: bool, text: String) -> String {
        if condition { text } else { String::new() }
    }

    fn log(&self) -> String {
        self.dir.join(LOG).display().to_string()
    }

    /// Text about TLS, if this peer has it.
    fn with_tls(&self, text: impl FnOnce(SocketAddr, &Path) -> String) -> String {
        self.tls
            .map_or_else(String::new, |(address, certificates)| {
                text(address, certificates)
            })
    }
}

/// One line for each.
pub(super) fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    let lines: Vec<_> = items.iter().map(|item| line(item) + "\n").collect();
    lines.concat()
}

/// What sluice and httpd are told alike: the members, and the host that speaks TLS.
fn httpd_hosts(at: &At<'_>, of_httpd: &str) -> String {
    let host = at.with_tls(|address, certificates| {
        let dir = certificates.display();
        format!(
            "<VirtualHost {address}>\n    ServerName bench.test\n    Protocols h2 http/1.1\n\
             \x20   SSLEngine on\n    SSLCertificateFile {dir}/certificate.pem\n\
             \x20   SSLCertificateKeyFile {dir}/key.pem\n    SSLProtocol TLSv1.3\n\
             \x20   SSLCipherSuite TLSv1.3 {SUITE}\n    SSLSessionTickets On\n{of_httpd}\
             \x20   ProxyPreserveHost On\n    ProxyPass \"/\" \"balancer://members/\"\n\
             </VirtualHost>\n"
        )
    });
    format!(
        "KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 600\nProxyPreserveHost On\n\
         <Proxy \"balancer://members\">\n{}</Proxy>\n\
         ProxyPass \"/\" \"balancer://members/\"\n{host}",
        lines(at.members, |member| format!(
            "    BalancerMember \"http://{member}\""
        )),
    )
}

/// Its listeners defer accepting by default, as httpd's do (AcceptFilter).
pub(super) fn sluice(at: &At<'_>) -> String {
    let user = At::when(at.is_root, "User nobody\nGroup nogroup\n".to_owned());
    let log = At::when(
        at.is_logged,
        format!(
            "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b\" common\nCustomLog \"{}\" common\n",
            at.log()
        ),
    );
    format!(
        "ServerName bench.test\nListen {}\n{}SluiceShards 1\n{user}{log}{}",
        at.address,
        at.with_tls(|address, _| format!("Listen {address} https\n")),
        httpd_hosts(at, ""),
    )
}

/// Everything of an nginx up to its servers.
pub(super) fn nginx_head(at: &At<'_>) -> String {
    let dir = at.dir.display();
    let user = At::when(at.is_root, "user nobody nogroup;\n".to_owned());
    let log = if at.is_logged {
        format!(
            "    log_format common '$remote_addr - $remote_user [$time_local] \"$request\" $status \
             $body_bytes_sent';\n    access_log {} common buffer=64k flush=1s;\n",
            at.log()
        )
    } else {
        "    access_log off;\n".to_owned()
    };
    let temporary = lines(
        &["client_body", "proxy", "fastcgi", "uwsgi", "scgi"],
        |name| format!("    {name}_temp_path {dir}/{name};"),
    );
    format!(
        "daemon off;\nworker_processes 1;\n{user}pid {dir}/pid;\nerror_log {dir}/error.log error;\n\
         events {{\n    worker_connections 32768;\n}}\nhttp {{\n{temporary}{log}\
         \x20   keepalive_requests 1000000000;\n    keepalive_timeout 600s;\n"
    )
}

pub(super) fn nginx(at: &At<'_>) -> String {
    let tls = at.with_tls(|address, certificates| {
        let dir = certificates.display();
        format!(
            "        listen {address} ssl http2 deferred;\n\
             \x20       ssl_certificate {dir}/certificate.pem;\n\
             \x20       ssl_certificate_key {dir}/key.pem;\n        ssl_protocols TLSv1.3;\n\
             \x20       ssl_conf_command Ciphersuites {SUITE};\n        ssl_ecdh_curve {GROUP};\n\
             \x20       ssl_session_tickets on;\n"
        )
    });
    format!(
        "{}    upstream members {{\n{}        keepalive 256;\n        keepalive_requests 1000000000;\n\
         \x20       keepalive_timeout 600s;\n    }}\n    proxy_max_temp_file_size 0;\n    server {{\n\
         \x20       listen {} deferred;\n{tls}        location / {{\n\
         \x20           proxy_pass http://members;\n\
         \x20           proxy_http_version 1.1;\n            proxy_set_header Connection \"\";\n\
         \x20           proxy_set_header Host $http_host;\n\
         \x20           proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         \x20           proxy_set_header X-Forwarded-Host $http_host;\n\
         \x20           proxy_set_header X-Forwarded-Server bench.test;\n        }}\n    }}\n}}\n",
        nginx_head(at),
        lines(at.members, |member| format!("        server {member};")),
        at.address,
    )
}

/// It derives the most connections from the limit of descriptors, which it inherits.
pub(super) fn haproxy(at: &At<'_>) -> String {
    let user = At::when(
        at.is_root,
        "    user nobody\n    group nogroup\n".to_owned(),
    );
    let target = At::when(
        at.is_logged,
        "    log stdout format raw local0\n".to_owned(),
    );
    let log = At::when(
        at.is_logged,
        "    log global\n    log-format \"%ci - - [%trl] %{+Q}r %ST %B\"\n".to_owned(),
    );
    let tls = at.with_tls(|address, certificates| {
        format!(
            "    bind {address} defer-accept ssl crt {}/both.pem alpn h2,http/1.1 \
             ssl-min-ver TLSv1.3 ciphersuites {SUITE} curves {GROUP}\n",
            certificates.display()
        )
    });
    format!(
        "global\n    nbthread 1\n{user}{target}defaults\n    mode http\n{log}\
         \x20   timeout connect 5s\n    timeout client 600s\n    timeout server 600s\n\
         \x20   timeout http-keep-alive 600s\n    timeout http-request 60s\n\
         \x20   option http-keep-alive\n    http-reuse always\n    option forwardfor\n\
         frontend bench\n    bind {} defer-accept\n{tls}\
         \x20   http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20   http-request set-header X-Forwarded-Server bench.test\n\
         \x20   default_backend members\nbackend members\n    balance roundrobin\n{}",
        at.address,
        lines(at.members, |member| {
            format!("    server m{} {member}", member.port())
        }),
    )
}

/// One child of the event MPM. AcceptFilter is left as it is: data.
pub(super) fn httpd(at: &At<'_>) -> String {
    const MODULES: &str = "/usr/lib/apache2/modules";
    let dir = at.dir.display();
    let modules = lines(
        &[
            "mpm_event",
            "authz_core",
            "proxy",
            "proxy_http",
            "proxy_balancer",
            "lbmethod_byrequests",
            "slotmem_shm",
            "ssl",
            "http2",
        ],
        |name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so"),
    );
    let user = At::when(at.is_root, "User nobody\nGroup nogroup\n".to_owned());
    let log = At::when(
        at.is_logged,
        format!(
            "BufferedLogs On\nLogFormat \"%h %l %u %t \\\"%r\\\" %>s %b\" common\nCustomLog \"{}\" common\n",
            at.log()
        ),
    );
    format!(
        "{modules}ServerRoot {dir}\nServerName bench.test\nPidFile {dir}/pid\n\
         DefaultRuntimeDir {dir}\nErrorLog {dir}/error.log\n{user}{log}Listen {}\n{}\
         StartServers 1\nServerLimit 1\nThreadLimit 128\n\
         ThreadsPerChild 128\nMaxRequestWorkers 128\nMinSpareThreads 1\nMaxSpareThreads 128\n\
         AsyncRequestWorkerFactor 200\n{}",
        at.address,
        at.with_tls(|address, _| format!("Listen {address} https\n")),
        httpd_hosts(at, &format!("    SSLOpenSSLConfCmd Groups {GROUP}\n")),
    )
}
