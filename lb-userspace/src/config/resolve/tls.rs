//! Which hosts speak TLS, and how: inheritance of mod_ssl's directives (apache.md 3.21).

use std::time::Duration;

use crate::config::{
    directives::tls::{TlsDraft, Versions, ciphers},
    draft::{Draft, HostDraft},
    report::Severity,
    spec::{CertificateFiles, Host, Listener, NamedFile, Tls},
};

mod clients;
pub(super) mod members;

/// Gives every host with TLS its settings.
pub(super) fn resolve(draft: &mut Draft<'_>, listeners: &[Listener], hosts: &mut [Host]) {
    for (index, host) in hosts.iter_mut().enumerate() {
        if is_on(draft, listeners, index) {
            host.tls = settings(draft, index, host.header_timeout.longest());
        }
    }
    warn_mixed(draft, hosts);
    warn_idle(draft, hosts);
}

/// `SSLEngine`, else whether a virtual host's port is one for https.
fn is_on(draft: &Draft<'_>, listeners: &[Listener], index: usize) -> bool {
    let (main, own) = (&draft.hosts[0].tls, &draft.hosts[index]);
    if let Some((on, _)) = own.tls.engine.as_ref().or(main.engine.as_ref()) {
        return *on;
    }
    // As measured with httpd 2.4.71: the main server needs its SSLEngine.
    own.mark.is_some() && is_https(draft, listeners, own)
}

fn is_https(draft: &Draft<'_>, listeners: &[Listener], host: &HostDraft) -> bool {
    let heard = |ip: Option<std::net::IpAddr>, own: std::net::IpAddr| {
        own.is_unspecified() || ip.is_none_or(|ip| ip == own)
    };
    host.addresses.iter().any(|address| {
        if draft.listens.is_empty() {
            // Derived listeners: what a bare Listen would be.
            return address.port == Some(443)
                && listeners.iter().any(|own| own.address.port() == 443);
        }
        draft.listens.iter().any(|listen| {
            listen.https
                && Some(listen.address.port()) == address.port
                && heard(address.ip, listen.address.ip())
        })
    })
}

fn settings(draft: &mut Draft<'_>, index: usize, head: Duration) -> Option<Tls> {
    let clients = clients::resolve(draft, index)?;
    let (main, own) = (&draft.hosts[0].tls, &draft.hosts[index].tls);
    let files = |list: fn(&TlsDraft) -> &Vec<NamedFile>| -> Vec<NamedFile> {
        // By rank: a host's first file takes the place of the main server's first.
        let (own, base) = (list(own), list(main));
        own.iter()
            .chain(base.iter().skip(own.len()))
            .cloned()
            .collect()
    };
    let certificates = files(|tls| &tls.certificates);
    let keys = files(|tls| &tls.keys);
    let versions = own.protocols.as_ref().or(main.protocols.as_ref());
    let Versions { v12, v13 } = versions.map_or(
        Versions {
            v12: true,
            v13: true,
        },
        |(versions, _)| *versions,
    );
    let classic = own.suites.as_ref().or(main.suites.as_ref());
    let modern = own.suites13.as_ref().or(main.suites13.as_ref());
    let mut suites = Vec::new();
    if v13 {
        suites.extend(modern.map_or(&ciphers::MODERN[..], Vec::as_slice));
    }
    if v12 {
        suites.extend(classic.map_or(&ciphers::CLASSIC[..], Vec::as_slice));
    }
    let tls = Tls {
        certificates: certificates
            .into_iter()
            .enumerate()
            .map(|(rank, certificate)| CertificateFiles {
                certificate,
                key: keys.get(rank).cloned(),
            })
            .collect(),
        chain: own.chain.as_ref().or(main.chain.as_ref()).cloned(),
        v12,
        v13,
        suites,
        honor_cipher_order: own.honor_order.or(main.honor_order).unwrap_or(false),
        session_tickets: own.tickets.or(main.tickets).unwrap_or(true),
        session_cache: main.session_cache,
        handshake_timeout: own
            .handshake_timeout
            .or(main.handshake_timeout)
            .unwrap_or(head),
        clients,
    };
    let host = &draft.hosts[index];
    let name = host
        .server_name
        .as_ref()
        .or(draft.hosts[0].server_name.as_ref());
    let shown = name.map_or("this server", String::as_str);
    if tls.certificates.is_empty() {
        let message =
            format!("AH02572: Failed to configure at least one certificate and key for {shown}");
        let help = "name them: SSLCertificateFile and SSLCertificateKeyFile; or SSLEngine off";
        let engine = own.engine.as_ref().map(|(_, mark)| mark);
        if let Some(mark) = engine.or(host.mark.as_ref()) {
            draft
                .reports
                .push(Severity::Error, mark.at(), message, help);
        }
        return None;
    }
    if !v12 && !v13 {
        let message = format!("AH02231: No SSL protocols available for {shown}");
        if let Some((_, mark)) = versions {
            let help = "sluice has TLSv1.2 and TLSv1.3";
            draft
                .reports
                .push(Severity::Error, mark.at(), message, help);
        }
        return None;
    }
    Some(tls)
}

/// The first host of an address decides whether a connection begins with TLS; one that differs is
/// never reached as it is written.
fn warn_mixed(draft: &mut Draft<'_>, hosts: &[Host]) {
    for index in 1..hosts.len() {
        let host = &hosts[index];
        let Some(mark) = &draft.hosts[index].mark else {
            continue;
        };
        let first = hosts[1..index].iter().find(|first| {
            first
                .addresses
                .iter()
                .any(|address| host.addresses.contains(address))
        });
        if let Some(first) = first
            && first.tls.is_some() != host.tls.is_some()
        {
            let (own, other) = if host.tls.is_some() {
                ("with TLS", "without")
            } else {
                ("without TLS", "with it")
            };
            let message = format!(
                "this virtual host is {own} and the first one of its address (line {}) {other}: the first decides for all connections",
                first.at.line
            );
            let help = "give it an address or port of its own, or the same SSLEngine";
            draft
                .reports
                .push(Severity::Warning, mark.at(), message, help);
        }
    }
}

/// Certificates that nobody will see.
fn warn_idle(draft: &mut Draft<'_>, hosts: &[Host]) {
    for (host, spec) in draft.hosts.iter().zip(hosts) {
        if let Some(mark) = &host.mark
            && spec.tls.is_none()
            && !host.tls.certificates.is_empty()
            && host.tls.engine.is_none()
            && !draft.reports.has_errors()
        {
            let message = "SSLCertificateFile without SSLEngine on: this virtual host is cleartext";
            draft
                .reports
                .push(Severity::Warning, mark.at(), message, "");
        }
    }
}
