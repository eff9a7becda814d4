//! TLS of a Spec, to clients and to members.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::Place;

/// TLS to the clients of a host. Paths only: what is in the files is never part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// `SSLCertificateFile` with its key, in order; at least one.
    pub certificates: Vec<CertificateFiles>,
    /// `SSLCertificateChainFile`: sent after what each certificate file holds.
    pub chain: Option<NamedFile>,
    /// `SSLProtocol` has TLSv1.2.
    pub v12: bool,
    /// `SSLProtocol` has TLSv1.3; one of the two is set.
    pub v13: bool,
    /// `SSLCipherSuite`, in order of preference, for TLS 1.2 and 1.3.
    pub suites: Vec<CipherSuite>,
    /// `SSLHonorCipherOrder`: the order of `suites` beats the client's. Default off.
    pub honor_cipher_order: bool,
    /// `SSLSessionTickets`. Default on.
    pub session_tickets: bool,
    /// `SSLSessionCache` is not `none`: sessions of clients without tickets are kept.
    pub session_cache: bool,
    /// `RequestReadTimeout handshake=`, else as `header=`; zero: no limit.
    pub handshake_timeout: Duration,
    /// `SSLVerifyClient`; `None`: clients are not asked for a certificate.
    pub clients: Option<ClientVerify>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientVerify {
    /// `SSLVerifyClient`, not none.
    pub verify: PeerVerify,
    /// `SSLVerifyDepth`: certificates above the client's own, the authority's included. Default 1.
    pub depth: u32,
    /// `SSLCACertificateFile`
    pub ca_file: Option<NamedFile>,
    /// `SSLCACertificatePath`; one of the two is there.
    pub ca_path: Option<NamedFile>,
    /// `SSLCADNRequestFile`: authorities that clients are told of, instead of all of those.
    pub request_file: Option<NamedFile>,
    /// `SSLCADNRequestPath`
    pub request_path: Option<NamedFile>,
    /// `SSLCARevocationCheck`
    pub revocation: Revocation,
    /// `SSLCARevocationFile`
    pub crl_file: Option<NamedFile>,
    /// `SSLCARevocationPath`
    pub crl_path: Option<NamedFile>,
}

impl ClientVerify {
    /// Whether two come to the same, wherever they stand.
    pub fn is_same(&self, other: &Self) -> bool {
        self.unplaced() == other.unplaced()
    }

    /// The same as if it stood nowhere.
    #[must_use]
    pub fn unplaced(&self) -> Self {
        let mut one = self.clone();
        let files = [
            &mut one.ca_file,
            &mut one.ca_path,
            &mut one.request_file,
            &mut one.request_path,
            &mut one.crl_file,
            &mut one.crl_path,
        ];
        for file in files.into_iter().flatten() {
            file.at = Place::default();
        }
        one
    }
}

/// TLS to members: `SSLProxyEngine on` and what goes with it. Paths only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberTls {
    /// `SSLProxyProtocol` has TLSv1.2.
    pub v12: bool,
    /// `SSLProxyProtocol` has TLSv1.3; one of the two is set.
    pub v13: bool,
    /// `SSLProxyCipherSuite`, in order of preference.
    pub suites: Vec<CipherSuite>,
    /// `SSLProxyVerify`. Default require, unlike httpd.
    pub verify: PeerVerify,
    /// `SSLProxyVerifyDepth`: certificates above the member's own, the authority's included.
    /// `None`: not given.
    pub depth: Option<u32>,
    /// `SSLProxyCACertificateFile`. Without this and `ca_path`: the system's authorities.
    pub ca_file: Option<NamedFile>,
    /// `SSLProxyCACertificatePath`.
    pub ca_path: Option<NamedFile>,
    /// `SSLProxyCARevocationCheck`.
    pub revocation: Revocation,
    /// `SSLProxyCARevocationFile`.
    pub crl_file: Option<NamedFile>,
    /// `SSLProxyCARevocationPath`.
    pub crl_path: Option<NamedFile>,
    /// `SSLProxyCheckPeerName` (or `SSLProxyCheckPeerCN`). Default on.
    pub check_name: bool,
    /// `SSLProxyCheckPeerExpire`. Default on.
    pub check_expiry: bool,
    /// `SSLProxyMachineCertificateFile`.
    pub machine_file: Option<NamedFile>,
    /// `SSLProxyMachineCertificatePath`.
    pub machine_path: Option<NamedFile>,
    /// `SSLProxyMachineCertificateChainFile`.
    pub machine_chain: Option<NamedFile>,
    /// Where `SSLProxyEngine on` stands.
    pub at: Place,
}

impl MemberTls {
    /// Whether two come to the same, wherever they stand.
    pub fn is_same(&self, other: &Self) -> bool {
        let unplaced = |one: &Self| {
            let mut one = one.clone();
            one.at = Place::default();
            let files = [
                &mut one.ca_file,
                &mut one.ca_path,
                &mut one.crl_file,
                &mut one.crl_path,
                &mut one.machine_file,
                &mut one.machine_path,
                &mut one.machine_chain,
            ];
            for file in files.into_iter().flatten() {
                file.at = Place::default();
            }
            one
        };
        unplaced(self) == unplaced(other)
    }
}

/// How a peer's certificate is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerVerify {
    /// Its issuer does not matter.
    None,
    /// As `Require`, but of a client that shows none, nothing is wanted.
    Optional,
    /// As `Optional`, but its issuer need not be known.
    OptionalNoCa,
    /// There must be one, issued by a known authority.
    #[default]
    Require,
}

/// Which certificates are looked up in revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Revocation {
    /// None.
    #[default]
    None,
    /// The peer's own.
    Leaf {
        /// One whose issuer has no list is not refused.
        lenient: bool,
    },
    /// The peer's and all between it and the authority.
    Chain {
        /// As above.
        lenient: bool,
    },
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFiles {
    /// `SSLCertificateFile`.
    pub certificate: NamedFile,
    /// `SSLCertificateKeyFile`; `None`: the key is in the certificate's file.
    pub key: Option<NamedFile>,
}

/// A file and the directive that names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamedFile {
    /// Made absolute.
    pub path: PathBuf,
    /// Where it is named.
    pub at: Place,
}

/// A cipher suite that sluice has, TLS 1.3's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CipherSuite {
    /// `TLS_AES_256_GCM_SHA384`
    Tls13Aes256,
    /// `TLS_AES_128_GCM_SHA256`
    Tls13Aes128,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    Tls13Chacha20,
    /// `ECDHE-ECDSA-AES256-GCM-SHA384`
    EcdsaAes256,
    /// `ECDHE-ECDSA-AES128-GCM-SHA256`
    EcdsaAes128,
    /// `ECDHE-ECDSA-CHACHA20-POLY1305`
    EcdsaChacha20,
    /// `ECDHE-RSA-AES256-GCM-SHA384`
    RsaAes256,
    /// `ECDHE-RSA-AES128-GCM-SHA256`
    RsaAes128,
    /// `ECDHE-RSA-CHACHA20-POLY1305`
    RsaChacha20,
}
