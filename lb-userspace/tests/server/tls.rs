//! TLS to clients, with curl and OpenSSL's s_client as clients and certificates made by openssl.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::harness::{Member, PATIENCE, Sluice, free_port, text, wait_until};

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/certificates.rs"]
mod certificates;
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/echo.rs"]
mod echo;
#[path = "tls/h2.rs"]
mod h2;
#[path = "tls/handshakes.rs"]
mod handshakes;
#[path = "tls/hostile.rs"]
mod hostile;
#[path = "tls/members.rs"]
mod members;
#[path = "tls/required.rs"]
mod required;
#[path = "tls/resumption.rs"]
mod resumption;
#[path = "tls/stock.rs"]
mod stock;
#[path = "tls/traffic.rs"]
mod traffic;

pub(super) use authority::{EC, issue, make};
use authority::{RSA, openssl};

/// A sluice with TLS on `port`.
struct Tls {
    sluice: Sluice,
    member: Member,
    port: u16,
}

impl Tls {
    /// Not running yet; certificates `a`, `b` are there.
    fn prepare() -> Self {
        let member = Member::start("m");
        let sluice = Sluice::prepare(&[&member]);
        make(sluice.dir.path(), "a", "DNS:a.test", EC);
        make(sluice.dir.path(), "b", "DNS:b.test,DNS:*.b.test", EC);
        Self {
            port: free_port(),
            sluice,
            member,
        }
    }

    /// Lines for a virtual host with the certificate of this name.
    fn host(&self, name: &str, certificate: &str, more: &str) -> String {
        format!(
            "<VirtualHost 127.0.0.1:{}>\nServerName {name}\nSSLEngine on\n\
             SSLCertificateFile {certificate}.pem\nSSLCertificateKeyFile {certificate}.key\n\
             {more}\n</VirtualHost>\n",
            self.port
        )
    }

    /// The whole configuration: what every test has and these hosts.
    fn text(&self, hosts: &[String]) -> String {
        format!(
            "{}Listen 127.0.0.1:{}\n{}",
            self.sluice.config(&[&self.member]),
            self.port,
            hosts.concat()
        )
    }

    fn write(&self, hosts: &[String]) {
        self.sluice.write(&self.text(hosts));
    }

    /// Running, with these hosts.
    fn start(hosts: impl FnOnce(&Self) -> Vec<String>) -> Self {
        let mut this = Self::prepare();
        this.write(&hosts(&this));
        this.sluice.run();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sluice.dir.path().join(name)
    }

    /// curl to a host by name, trusting `certificate` alone; what it wrote out and said.
    fn curl(&self, name: &str, certificate: &str, args: &[&str]) -> Output {
        Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.path(&format!("{certificate}.pem")))
            .args(["--resolve", &format!("{name}:{}:127.0.0.1", self.port)])
            .args(args)
            .arg(format!("https://{name}:{}/", self.port))
            .output()
            .expect("curl is installed")
    }

    /// The body that curl gets, the certificate being valid for the name.
    fn get(&self, name: &str, certificate: &str, args: &[&str]) -> String {
        let output = self.curl(name, certificate, args);
        assert!(
            output.status.success(),
            "{}\n{}",
            text(&output.stderr),
            self.sluice.log()
        );
        text(&output.stdout)
    }

    /// s_client that asks for `/` and reads to the end; all it says.
    fn s_client(&self, args: &[&str]) -> String {
        self.s_client_to(self.port, args)
    }

    /// The same on another port.
    #[expect(clippy::unused_self, reason = "of a family")]
    fn s_client_to(&self, port: u16, args: &[&str]) -> String {
        let mut child = Command::new("openssl")
            .args([
                "s_client",
                "-ign_eof",
                "-connect",
                &format!("127.0.0.1:{port}"),
            ])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        // Where the handshake fails nobody reads.
        let _ = child.stdin.take().expect("piped").write_all(request);
        let output = child.wait_with_output().expect("s_client ends");
        text(&output.stdout) + &text(&output.stderr)
    }
}
