//! Which clients have to show a certificate (apache.md 3.21).

use crate::config::{
    draft::Draft,
    report::Severity,
    spec::{ClientVerify, PeerVerify, Revocation},
};

/// A host's settings. `None`: there is an error, and it was reported.
#[expect(
    clippy::option_option,
    reason = "a host without client certificates is none with an error"
)]
pub(super) fn resolve(draft: &mut Draft<'_>, index: usize) -> Option<Option<ClientVerify>> {
    let (main, own) = (&draft.hosts[0].tls.clients, &draft.hosts[index].tls.clients);
    macro_rules! own {
        ($field:ident) => {
            own.$field.as_ref().or(main.$field.as_ref())
        };
    }
    let Some((verify, mark)) = own!(verify).filter(|(verify, _)| *verify != PeerVerify::None)
    else {
        return Some(None);
    };
    let revocation = own!(revocation);
    let settings = ClientVerify {
        verify: *verify,
        depth: own!(depth).copied().unwrap_or(1),
        ca_file: own!(ca_file).cloned(),
        ca_path: own!(ca_path).cloned(),
        request_file: own!(request_file).cloned(),
        request_path: own!(request_path).cloned(),
        revocation: revocation.map_or(Revocation::None, |(check, _)| *check),
        crl_file: own!(crl_file).cloned(),
        crl_path: own!(crl_path).cloned(),
    };
    let (at, message, help) = if settings.ca_file.is_none() && settings.ca_path.is_none() {
        let message =
            "AH01896: client certificates are asked for, but no authorities are known for them";
        (
            mark,
            message,
            "name them: SSLCACertificateFile or SSLCACertificatePath",
        )
    } else if let Some((check, mark)) = revocation
        && *check != Revocation::None
        && settings.crl_file.is_none()
        && settings.crl_path.is_none()
    {
        let message = "AH01899: CRL checking has been enabled, but neither SSLCARevocationFile nor SSLCARevocationPath is configured";
        (mark, message, "name the lists, or write none")
    } else {
        return Some(Some(settings));
    };
    let at = at.clone();
    draft.reports.push(Severity::Error, at.at(), message, help);
    None
}
