//! TLS as all peers speak it here: one suite, one group, one certificate; and the question to each
//! peer what it really negotiates.
//!
//! The clients offer nothing else, so that a library's newer defaults change no row: wrk, h2load and
//! `openssl s_client` by OpenSSL's configuration file, our own by rustls' provider.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{
    CipherSuite, ClientConfig, NamedGroup, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::TLS13,
};

/// The suite, by OpenSSL's name.
pub(super) const SUITE: &str = "TLS_AES_256_GCM_SHA384";
/// The group, by OpenSSL's name.
pub(super) const GROUP: &str = "X25519";
/// Sessions that one client keeps for later; it uses one at a time.
const SESSIONS: usize = 8;

/// Certificate, key and what clients need, in a folder of the run.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// `certificate.pem`, `key.pem`, and `both.pem` for who wants them together.
    pub(super) dir: PathBuf,
    roots: Arc<RootCertStore>,
}

impl Tls {
    /// Makes a P-256 key and a certificate for 127.0.0.1.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let dir = dir.join("tls");
        super::peers::make_dir(&dir)?;
        let request = "[req]\ndistinguished_name = name\nx509_extensions = fields\nprompt = no\n\
             [name]\nCN = bench.test\n[fields]\nbasicConstraints = critical, CA:FALSE\n\
             subjectAltName = DNS:bench.test, IP:127.0.0.1\n";
        fs::write(dir.join("request.cnf"), request)?;
        // What every program with OpenSSL inside offers, as client, in this run.
        let defaults = format!(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = defaults\n\
             [defaults]\nGroups = {GROUP}\nCiphersuites = {SUITE}\n"
        );
        fs::write(dir.join("clients.cnf"), defaults)?;
        let output = Command::new(lab::tool_path("openssl").context("openssl is not installed")?)
            .current_dir(&dir)
            .args(["req", "-x509", "-config", "request.cnf", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"])
            .args([
                "-days",
                "30",
                "-keyout",
                "key.pem",
                "-out",
                "certificate.pem",
            ])
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "openssl made no certificate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let certificate = dir.join("certificate.pem");
        let both = [fs::read(&certificate)?, fs::read(dir.join("key.pem"))?].concat();
        fs::write(dir.join("both.pem"), both)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificate)?)?;
        Ok(Self {
            dir,
            roots: Arc::new(roots),
        })
    }

    /// A client that resumes its sessions, or one that never does.
    pub(super) fn client(&self, resumes: bool) -> Result<Arc<ClientConfig>> {
        let mut provider = aws_lc_rs::default_provider();
        provider
            .cipher_suites
            .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_256_GCM_SHA384);
        provider
            .kx_groups
            .retain(|group| group.name() == NamedGroup::X25519);
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        client.resumption = if resumes {
            Resumption::in_memory_sessions(SESSIONS)
        } else {
            Resumption::disabled()
        };
        Ok(Arc::new(client))
    }

    /// Makes a command's OpenSSL offer what all offer.
    pub(super) fn restrict(&self, command: &mut Command) {
        command.env("OPENSSL_CONF", self.dir.join("clients.cnf"));
    }

    /// Asks a peer with `openssl s_client`.
    pub(super) fn ask(&self, address: SocketAddr) -> Result<Negotiated> {
        let mut command = Command::new(lab::tool_path("openssl").context("openssl")?);
        command
            .args(["s_client", "-connect", &address.to_string()])
            .args(["-alpn", "h2,http/1.1", "-CAfile"])
            .arg(self.dir.join("certificate.pem"))
            .stdin(Stdio::null());
        self.restrict(&mut command);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        Negotiated::parse(&said).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("openssl s_client said: {said}{errors}")
        })
    }
}

/// What a peer and OpenSSL agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Negotiated {
    version: String,
    suite: String,
    group: String,
    /// Of the certificate's key, bits.
    key: String,
    signature: String,
    /// `h2`, `http/1.1`, or nothing.
    pub(super) protocol: Option<String>,
}

impl Negotiated {
    fn parse(said: &str) -> Option<Self> {
        let line = |begin: &str| {
            said.lines()
                .find_map(|line| line.trim().strip_prefix(begin))
        };
        // `New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384`
        let (version, suite) = line("New, ")?.split_once(", Cipher is ")?;
        // `Server Temp Key: X25519, 253 bits` up to OpenSSL 3.4, `Peer Temp Key:` from 3.5 on.
        let group = line("Server Temp Key: ").or_else(|| line("Peer Temp Key: "))?;
        Some(Self {
            version: version.to_owned(),
            suite: suite.trim().to_owned(),
            group: group.split(',').next()?.to_owned(),
            key: line("Server public key is ")?.trim().to_owned(),
            signature: line("Peer signature type: ")?.trim().to_owned(),
            protocol: line("ALPN protocol: ").map(|name| name.trim().to_owned()),
        })
    }

    /// Fails unless it is what every peer has to negotiate.
    pub(super) fn check(&self) -> Result<()> {
        let wanted = ["TLSv1.3", SUITE, GROUP, "256 bit"];
        let found = [&self.version, &self.suite, &self.group, &self.key].map(String::as_str);
        if found == wanted && self.signature.to_ascii_uppercase().starts_with("ECDSA") {
            return Ok(());
        }
        bail!("negotiated {self}")
    }
}

impl std::fmt::Display for Negotiated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            version,
            suite,
            group,
            key,
            signature,
            protocol: _,
        } = self;
        write!(f, "{version} {suite} {group}, {signature} {key}")
    }
}

#[cfg(test)]
mod tests {
    use super::Negotiated;

    const SAID: &str = "CONNECTED(00000003)\n---\nPeer signing digest: SHA256\n\
        Peer signature type: ECDSA\nServer Temp Key: X25519, 253 bits\n---\n\
        New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384\nServer public key is 256 bit\n\
        Secure Renegotiation IS NOT supported\nALPN protocol: h2\n";

    #[test]
    fn another_suite_or_group_or_key_is_refused() {
        let check = |said: &str| Negotiated::parse(said).expect("complete").check();
        assert!(check(SAID).is_ok());
        for (was, becomes) in [
            ("AES_256_GCM_SHA384", "AES_128_GCM_SHA256"),
            ("X25519,", "ECDH, prime256v1,"),
            ("256 bit", "2048 bit"),
            ("type: ECDSA", "type: RSA-PSS"),
        ] {
            assert!(check(&SAID.replace(was, becomes)).is_err(), "{becomes}");
        }
    }

    #[test]
    fn protocol_is_what_was_agreed_on() {
        let protocol = |said: &str| Negotiated::parse(said).expect("complete").protocol;
        assert_eq!(protocol(SAID).as_deref(), Some("h2"));
        let none = SAID.replace("ALPN protocol: h2", "No ALPN negotiated");
        assert_eq!(protocol(&none), None);
    }

    #[test]
    fn no_handshake_is_no_answer() {
        assert_eq!(Negotiated::parse("New, (NONE), Cipher is (NONE)\n"), None);
    }
}
