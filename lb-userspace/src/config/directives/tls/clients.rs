//! Certificates of clients: SSLVerifyClient and what goes with it (apache.md 3.21). In `<Location>`
//! httpd asks for one in the middle of a connection, which TLS 1.3 and rustls have no way for.

use super::{Arity, Call, Contexts, Directive, Effect, Fault, named, row};
use crate::config::{draft::Mark, spec};

#[rustfmt::skip] // One row a line: it is read as a table.
pub(crate) const TABLE: &[Directive] = &[
    row("SSLVerifyClient", Contexts::SERVER, Arity::One, "none|optional|require|optional_no_ca", "whether clients are asked for a certificate: optional takes who has none, require does not, optional_no_ca takes one of an unknown issuer too", Effect::Apply(verify)).or("none"),
    row("SSLVerifyDepth", Contexts::SERVER, Arity::One, "NUMBER", "certificates above the client's own, that of the authority included: 1 is an authority that signs clients itself", Effect::Apply(depth)).or("1"),
    row("SSLCACertificateFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with the certificates of the authorities that clients' certificates are from", Effect::Apply(ca_file)),
    row("SSLCACertificatePath", Contexts::SERVER, Arity::One, "DIRECTORY", "the same, by the links that openssl rehash makes (HASH.0)", Effect::Apply(ca_path)),
    row("SSLCADNRequestFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with the authorities that clients are told of, instead of those above", Effect::Apply(request_file)),
    row("SSLCADNRequestPath", Contexts::SERVER, Arity::One, "DIRECTORY", "the same, by every file of a directory", Effect::Apply(request_path)),
    row("SSLCARevocationCheck", Contexts::SERVER, Arity::OneOrTwo, "none|leaf|chain [no_crl_for_cert_ok]", "which certificates are looked up in revocation lists: the client's, or all up to the authority; one whose issuer has no valid list is refused without no_crl_for_cert_ok", Effect::Apply(revocation)).or("none"),
    row("SSLCARevocationFile", Contexts::SERVER, Arity::One, "FILE", "PEM file with revocation lists", Effect::Apply(crl_file)),
    row("SSLCARevocationPath", Contexts::SERVER, Arity::One, "DIRECTORY", "the same, by the links that openssl rehash makes (HASH.r0)", Effect::Apply(crl_path)),
    row("SSLOptions", Contexts::SERVER, Arity::Some, "[+|-]OPTION ...", "StdEnvVars, ExportCertData, StrictRequire and OptRenegotiate are accepted and change nothing: the SSL_ variables that sluice has (docs/tls.md; others are a warning) are there for logs, fields and rules without them", Effect::Apply(options)),
];

/// What a host's directives said, before inheritance.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientsDraft {
    /// `SSLVerifyClient`, and where.
    pub(crate) verify: Option<(spec::PeerVerify, Mark)>,
    /// `SSLVerifyDepth`
    pub(crate) depth: Option<u32>,
    /// `SSLCACertificateFile`
    pub(crate) ca_file: Option<spec::NamedFile>,
    /// `SSLCACertificatePath`
    pub(crate) ca_path: Option<spec::NamedFile>,
    /// `SSLCADNRequestFile`
    pub(crate) request_file: Option<spec::NamedFile>,
    /// `SSLCADNRequestPath`
    pub(crate) request_path: Option<spec::NamedFile>,
    /// `SSLCARevocationCheck`, and where.
    pub(crate) revocation: Option<(spec::Revocation, Mark)>,
    /// `SSLCARevocationFile`
    pub(crate) crl_file: Option<spec::NamedFile>,
    /// `SSLCARevocationPath`
    pub(crate) crl_path: Option<spec::NamedFile>,
}

fn verify(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let verify = super::verify(call)?;
    let mark = call.mark(0);
    call.host().tls.clients.verify = Some((verify, mark));
    Ok(())
}

fn depth(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().tls.clients.depth = Some(super::depth(call)?);
    Ok(())
}

fn revocation(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let revocation = super::revocation(call)?;
    let mark = call.mark(0);
    call.host().tls.clients.revocation = Some((revocation, mark));
    Ok(())
}

/// Handlers that do nothing but name a file.
macro_rules! files {
    ($($name:ident),*) => {
        $(fn $name(call: &mut Call<'_, '_>) -> Result<(), Fault> {
            call.host().tls.clients.$name = Some(named(call)?);
            Ok(())
        })*
    };
}

files!(
    ca_file,
    ca_path,
    request_file,
    request_path,
    crl_file,
    crl_path
);

fn options(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let word = call.arg(index).to_owned();
        let (on, name) = match word.as_bytes().first() {
            Some(b'-') => (false, &word[1..]),
            Some(b'+') => (true, &word[1..]),
            _ => (true, word.as_str()),
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if [
            "StdEnvVars",
            "ExportCertData",
            "StrictRequire",
            "OptRenegotiate",
        ]
        .into_iter()
        .any(is)
        {
            continue;
        }
        if [
            "FakeBasicAuth",
            "LegacyDNStringFormat",
            "ExportBothCertData",
        ]
        .into_iter()
        .any(is)
        {
            if on {
                return Err(super::super::not_yet(&format!("SSLOptions {name}")).at(index));
            }
            continue;
        }
        let message = format!("SSLOptions: Illegal option '{name}'");
        return Err(Fault::new(message).at(index));
    }
    Ok(())
}
