//! Whether a peer's certificate is one that the operator wants: members' by SSLProxyVerify and its
//! kin, clients' by SSLVerifyClient. Chains are built by webpki; here is what httpd's directives
//! add to it.

use std::{collections::HashSet, fmt, sync::Arc, time::SystemTime};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_name,
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    server::ParsedCertificate,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{ClientFiles, Der, validity};
use crate::config::spec::{ClientVerify, PeerVerify, Revocation};

/// Whose word is taken, and how far.
pub(super) struct Chains {
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Vec<TrustAnchor<'static>>,
    /// DER of the authorities' certificates: one of these may be the peer's own, as with OpenSSL.
    pinned: HashSet<Vec<u8>>,
    crls: Vec<CertRevocationList<'static>>,
    revocation: Revocation,
    depth: Option<u32>,
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} authorities)", self.anchors.len())
    }
}

/// Of a file that is there for authorities or revocations.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unusable(String);

/// The trust anchor in an authority's certificate.
fn anchor(der: &Der) -> Result<TrustAnchor<'static>, webpki::Error> {
    let der = CertificateDer::from(der.0.as_slice());
    Ok(webpki::anchor_from_trusted_cert(&der)?.to_owned())
}

/// Whether an authority's certificate can be used.
pub(crate) fn check_authority(der: &Der) -> Result<(), Unusable> {
    anchor(der)
        .map(drop)
        .map_err(|error| Unusable(error.to_string()))
}

/// Whether a revocation list can be used.
pub(crate) fn check_list(der: &Der) -> Result<(), Unusable> {
    let list = OwnedCertRevocationList::from_der(&der.0);
    list.map(drop).map_err(|error| Unusable(error.to_string()))
}

impl Chains {
    /// Of what control has read and checked; what cannot be used is left out.
    pub(super) fn new(
        authorities: &[Der],
        crls: &[Der],
        revocation: Revocation,
        depth: Option<u32>,
    ) -> Self {
        Self {
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
            anchors: authorities
                .iter()
                .filter_map(|der| anchor(der).ok())
                .collect(),
            pinned: authorities.iter().map(|der| der.0.to_vec()).collect(),
            crls: crls
                .iter()
                .filter_map(|der| OwnedCertRevocationList::from_der(&der.0).ok())
                .map(CertRevocationList::Owned)
                .collect(),
            revocation,
            depth,
        }
    }

    /// Whether an authority vouches for the certificate.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if self.pinned.contains(certificate.as_ref()) {
            return check_validity(certificate, now);
        }
        let lists: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = match self.revocation {
            Revocation::None => None,
            Revocation::Leaf { lenient } => Some((RevocationCheckDepth::EndEntity, lenient)),
            Revocation::Chain { lenient } => Some((RevocationCheckDepth::Chain, lenient)),
        };
        let revocation = match (revocation, RevocationOptionsBuilder::new(&lists)) {
            (None, _) => None,
            (Some((depth, lenient)), Ok(options)) => Some(
                options
                    .with_depth(depth)
                    .with_status_policy(if lenient {
                        UnknownStatusPolicy::Allow
                    } else {
                        UnknownStatusPolicy::Deny
                    })
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build(),
            ),
            (Some(_), Err(_)) => return Err(CertificateError::UnknownRevocationStatus.into()),
        };
        let is_short = |path: &webpki::VerifiedPath<'_>| {
            let above = path.intermediate_certificates().count() + 1;
            match self.depth {
                Some(depth) if above > depth as usize => {
                    Err(webpki::Error::MaximumPathDepthExceeded)
                }
                _ => Ok(()),
            }
        };
        let parsed = EndEntityCert::try_from(certificate).map_err(|error| refusal(&error))?;
        parsed
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                others,
                now,
                usage,
                revocation,
                Some(&is_short),
            )
            .map(drop)
            .map_err(|error| refusal(&error))
    }
}

/// webpki's word in rustls's, which decides the alert that is sent.
fn refusal(error: &webpki::Error) -> Error {
    use webpki::Error as Why;
    match error {
        Why::BadDer | Why::BadDerTime | Why::TrailingData(_) => CertificateError::BadEncoding,
        Why::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext {
            time: *time,
            not_before: *not_before,
        },
        Why::CertExpired { time, not_after } => CertificateError::ExpiredContext {
            time: *time,
            not_after: *not_after,
        },
        Why::InvalidCertValidity => CertificateError::Expired,
        Why::UnknownIssuer => CertificateError::UnknownIssuer,
        Why::CertRevoked => CertificateError::Revoked,
        Why::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Why::CrlExpired { time, next_update } => CertificateError::ExpiredRevocationListContext {
            time: *time,
            next_update: *next_update,
        },
        Why::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
    .into()
}

/// A refusal in words, for logs.
pub(crate) fn words(why: &CertificateError) -> String {
    let words = match why {
        CertificateError::UnknownIssuer => "its issuer is no known authority",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::Revoked => "it is revoked",
        CertificateError::UnknownRevocationStatus => "no revocation list covers it",
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the revocation list that covers it is out of date"
        }
        CertificateError::BadEncoding => "it cannot be read",
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(webpki::Error::MaximumPathDepthExceeded) => {
                "its chain is longer than the depth allows"
            }
            Some(webpki::Error::CaUsedAsEndEntity) => "it is an authority's (CA:TRUE)",
            Some(webpki::Error::UnsupportedCertVersion) => "it is not X.509 version 3",
            _ => return other.0.to_string(),
        },
        other => return other.to_string(),
    };
    words.to_owned()
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let valid = validity::of(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    match valid.complaint(now) {
        Some(complaint) if complaint.contains("expired") => Err(CertificateError::Expired.into()),
        Some(_) => Err(CertificateError::NotValidYet.into()),
        None => Ok(()),
    }
}

/// What clients have to show.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    chains: Chains,
    verify: PeerVerify,
    hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    pub(super) fn new(settings: &ClientVerify, authorities: &[Der], files: &ClientFiles) -> Self {
        let chains = Chains::new(
            authorities,
            &files.crls,
            settings.revocation,
            Some(settings.depth),
        );
        let hints = if files.hints.is_empty() {
            let subjects = chains.anchors.iter();
            subjects
                .map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
                .collect()
        } else {
            files
                .hints
                .iter()
                .filter_map(|name| Some(validity::element(&name.0)?.1))
                .map(DistinguishedName::in_sequence)
                .collect()
        };
        Self {
            chains,
            verify: settings.verify,
            hints,
        }
    }

    /// Whether there is nobody without a certificate.
    pub(crate) fn is_mandatory(&self) -> bool {
        self.verify == PeerVerify::Require
    }

    /// Whether an authority vouches for one that was let in.
    pub(super) fn vouches(&self, chain: &[CertificateDer<'_>]) -> bool {
        // Only here is anybody let in without.
        self.verify != PeerVerify::OptionalNoCa
            || chain.split_first().is_some_and(|(own, others)| {
                let usage = KeyUsage::client_auth();
                self.chains
                    .check(own, others, UnixTime::now(), usage)
                    .is_ok()
            })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usage = KeyUsage::client_auth();
        match self.chains.check(certificate, others, now, usage) {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
                if self.verify == PeerVerify::OptionalNoCa => {}
            checked => checked?,
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms.supported_schemes()
    }
}

/// What members have to show.
#[derive(Debug)]
pub(super) struct MemberVerifier {
    pub(super) chains: Chains,
    pub(super) verify: PeerVerify,
    pub(super) check_name: bool,
    pub(super) check_expiry: bool,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify != PeerVerify::None {
            let usage = KeyUsage::server_auth();
            match self.chains.check(certificate, others, now, usage) {
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
                    if self.verify == PeerVerify::OptionalNoCa => {}
                checked => checked?,
            }
        }
        if self.check_expiry {
            check_validity(certificate, now)?;
        }
        if self.check_name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.chains.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.algorithms.supported_schemes()
    }
}
