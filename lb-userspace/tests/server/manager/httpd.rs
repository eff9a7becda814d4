//! The XML of both, for one configuration.

use std::{fmt::Write as _, fs, process::Command};

use super::{
    super::harness::{Sluice, free_port, wait_until},
    ask, has, outline,
};

/// A balancer that sets most of what the XML shows.
const BALANCERS: &str = "\
<Proxy balancer://app>
BalancerMember http://127.0.0.1:9 route=a loadfactor=2.5 retry=5 timeout=3 connectiontimeout=2 ttl=9 max=7 acquire=100 keepalive=On
BalancerMember http://127.0.0.1:10/x route=b redirect=a status=+D lbset=2 disablereuse=On
BalancerMember http://[::1]:11 status=+N
BalancerMember http://127.0.0.1:12 status=+HI connectiontimeout=200ms
ProxySet stickysession=JS|js timeout=3 maxattempts=2 nofailover=On scolonpathdelim=On nonce=some
</Proxy>
<Proxy balancer://two>
BalancerMember http://127.0.0.1:13
</Proxy>
ProxyPass /manager !
ProxyPass /two balancer://two/
ProxyPass / balancer://app/
<Location /manager>
SetHandler balancer-manager
Require ip 127.0.0.1
</Location>
";

#[test]
fn xml_is_that_of_httpd() {
    let program = "/usr/sbin/apache2";
    assert!(has(program), "needs apache2-bin: `cargo xtask setup`");
    let mut sluice = Sluice::prepare(&[]);
    sluice.write(&format!(
        "Listen 127.0.0.1:{}\nServerName test\n{BALANCERS}",
        sluice.port
    ));
    sluice.run();

    let dir = tempfile::tempdir().expect("directory");
    let (root, port) = (dir.path().display(), free_port());
    let mut text = format!(
        "ServerRoot {root}\nDefaultRuntimeDir {root}\nPidFile {root}/pid\nErrorLog {root}/log\n\
         Mutex file:{root} default\nServerName test\nListen 127.0.0.1:{port}\n"
    );
    if rustix::process::getuid().is_root() {
        text.push_str("User daemon\nGroup daemon\n");
    }
    for name in [
        "mpm_event",
        "authz_core",
        "authz_host",
        "proxy",
        "proxy_http",
        "proxy_balancer",
        "lbmethod_byrequests",
        "slotmem_shm",
        "unixd",
    ] {
        let file = format!("/usr/lib/apache2/modules/mod_{name}.so");
        if has(&file) {
            writeln!(text, "LoadModule {name}_module {file}").expect("text");
        }
    }
    text.push_str(BALANCERS);
    let file = dir.path().join("httpd.conf");
    fs::write(&file, text).expect("written");
    let mut httpd = Command::new(program)
        .arg("-DFOREGROUND")
        .arg("-f")
        .arg(&file)
        .spawn()
        .expect("httpd starts");
    wait_until("httpd listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let referer = "Referer: http://test/\r\n";
    let of = |port| ask(port, "GET", "/manager?xml=1", referer, "").1;
    let (theirs, ours) = (of(port), of(sluice.port));
    // In order: TERM stops its children too.
    super::super::harness::send_signal(httpd.id(), rustix::process::Signal::TERM);
    httpd.wait().expect("ended");

    // httpd's limit of connections is its number of threads, and random nonces differ.
    let keep = |name: &str| !["nonce", "max", "smax"].contains(&name);
    assert_eq!(
        outline(&ours, keep),
        outline(&theirs, keep),
        "\n{ours}\n{theirs}"
    );
}
