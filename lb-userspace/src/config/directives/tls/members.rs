//! TLS to members: SSLProxyEngine and what goes with it (apache.md 3.22), for a server or, in
//! `<Proxy>`, for one balancer or URL.

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Versions, named, row};
use crate::config::{
    directives::{Section, keys},
    draft::Mark,
    spec, value,
};

const PLACES: Contexts = Contexts::SERVER.and(Contexts::PROXY);

#[rustfmt::skip] // One row a line: it is read as a table.
pub(crate) const TABLE: &[Directive] = &[
    row("SSLProxyEngine", PLACES, Arity::One, "on|off", "TLS to members: without it https:// members are an error", Effect::Apply(engine)).or("off"),
    row("SSLProxyVerify", PLACES, Arity::One, "require|optional_no_ca|none", "whether members' certificates must be from a known authority; optional is as require. none is httpd's default: whoever is on the way can then read and change everything", Effect::Apply(verify)).or("require"),
    row("SSLProxyVerifyDepth", PLACES, Arity::One, "NUMBER", "certificates above the member's own, that of the authority included", Effect::Apply(depth)).or("as many as lead to an authority, 7 at most"),
    row("SSLProxyCACertificateFile", PLACES, Arity::One, "FILE", "PEM file with the certificates of authorities; a member's own certificate may be among them", Effect::Apply(ca_file)).or("the system's authorities"),
    row("SSLProxyCACertificatePath", PLACES, Arity::One, "DIRECTORY", "the same, by the links that openssl rehash makes (HASH.0)", Effect::Apply(ca_path)),
    row("SSLProxyCARevocationCheck", PLACES, Arity::OneOrTwo, "none|leaf|chain [no_crl_for_cert_ok]", "which certificates are looked up in revocation lists: the member's, or all up to the authority; one whose issuer has no valid list is refused without no_crl_for_cert_ok", Effect::Apply(revocation)).or("none"),
    row("SSLProxyCARevocationFile", PLACES, Arity::One, "FILE", "PEM file with revocation lists", Effect::Apply(crl_file)),
    row("SSLProxyCARevocationPath", PLACES, Arity::One, "DIRECTORY", "the same, by the links that openssl rehash makes (HASH.r0)", Effect::Apply(crl_path)),
    row("SSLProxyCheckPeerName", PLACES, Arity::Flag, "On|Off", "whether the member's certificate must be for its host name or IP address", Effect::Apply(check_name)).or("On"),
    row("SSLProxyCheckPeerCN", PLACES, Arity::Flag, "On|Off", "counts where SSLProxyCheckPeerName is not given: the same check", Effect::Apply(check_cn)).or("On"),
    row("SSLProxyCheckPeerExpire", PLACES, Arity::Flag, "On|Off", "whether the member's certificate must be in date even with SSLProxyVerify none", Effect::Apply(check_expiry)).or("On"),
    row("SSLProxyProtocol", PLACES, Arity::Any, "[+|-]all|TLSv1.2|TLSv1.3 ...", "versions of TLS to members", Effect::Apply(protocol)).or("all"),
    row("SSLProxyCipherSuite", PLACES, Arity::OneOrTwo, "[SSL|TLSv1.3] LIST", "cipher suites to members, as in SSLCipherSuite", Effect::Apply(cipher_suite)).or("all that sluice has"),
    row("SSLProxyMachineCertificateFile", PLACES, Arity::One, "FILE", "PEM file with certificates, each with its key without passphrase, to show to members that ask for one: the first from an authority that the member names", Effect::Apply(machine_file)),
    row("SSLProxyMachineCertificatePath", PLACES, Arity::One, "DIRECTORY", "the same, by every file of a directory", Effect::Apply(machine_path)),
    row("SSLProxyMachineCertificateChainFile", PLACES, Arity::One, "FILE", "PEM file with certificates that lead from those to an authority", Effect::Apply(machine_chain)),
];

/// What a server or a `<Proxy>` section said, before inheritance.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberTlsDraft {
    /// `SSLProxyEngine`, and where.
    pub(crate) engine: Option<(bool, Mark)>,
    /// `SSLProxyVerify`
    pub(crate) verify: Option<spec::PeerVerify>,
    /// `SSLProxyVerifyDepth`
    pub(crate) depth: Option<u32>,
    /// `SSLProxyCACertificateFile`
    pub(crate) ca_file: Option<spec::NamedFile>,
    /// `SSLProxyCACertificatePath`
    pub(crate) ca_path: Option<spec::NamedFile>,
    /// `SSLProxyCARevocationCheck`, and where.
    pub(crate) revocation: Option<(spec::Revocation, Mark)>,
    /// `SSLProxyCARevocationFile`
    pub(crate) crl_file: Option<spec::NamedFile>,
    /// `SSLProxyCARevocationPath`
    pub(crate) crl_path: Option<spec::NamedFile>,
    /// `SSLProxyCheckPeerName`
    pub(crate) check_name: Option<bool>,
    /// `SSLProxyCheckPeerCN`, and where.
    pub(crate) check_cn: Option<(bool, Mark)>,
    /// `SSLProxyCheckPeerExpire`
    pub(crate) check_expiry: Option<bool>,
    /// `SSLProxyProtocol`, and where.
    pub(crate) protocols: Option<(Versions, Mark)>,
    /// `SSLProxyCipherSuite` for TLS 1.2.
    pub(crate) suites: Option<Vec<spec::CipherSuite>>,
    /// `SSLProxyCipherSuite TLSv1.3`
    pub(crate) suites13: Option<Vec<spec::CipherSuite>>,
    /// `SSLProxyMachineCertificateFile`
    pub(crate) machine_file: Option<spec::NamedFile>,
    /// `SSLProxyMachineCertificatePath`
    pub(crate) machine_path: Option<spec::NamedFile>,
    /// `SSLProxyMachineCertificateChainFile`
    pub(crate) machine_chain: Option<spec::NamedFile>,
}

impl MemberTlsDraft {
    /// Puts what `own` says over it.
    pub(crate) fn merge(&mut self, own: &Self) {
        macro_rules! merge {
            ($($field:ident),*) => {
                $(if own.$field.is_some() {
                    self.$field.clone_from(&own.$field);
                })*
            };
        }
        merge!(
            engine,
            verify,
            depth,
            ca_file,
            ca_path,
            revocation,
            crl_file,
            crl_path,
            check_name,
            check_cn,
            check_expiry,
            protocols,
            suites,
            suites13,
            machine_file,
            machine_path,
            machine_chain
        );
    }
}

/// Where what a directive says is kept: its server, or its `<Proxy>` section.
fn draft<'d>(call: &'d mut Call<'_, '_>) -> Result<&'d mut MemberTlsDraft, Fault> {
    let about = match &call.scope.section {
        Section::Balancer(name) => format!("balancer://{name}"),
        Section::Worker(url) => {
            let url = keys::worker_url(url)
                .map_err(|why| Fault::new(format!("{} in <Proxy {why}", call.row.name)))?;
            format!("{}{}", url.authority(), url.path)
        }
        Section::Pattern => {
            let what = format!("{} in <Proxy> with wildcards", call.row.name);
            let fault = super::super::not_yet(&what);
            return Err(fault.help("put it outside of <Proxy>: it is for every member then"));
        }
        _ => return Ok(&mut call.host().member_tls),
    };
    let sections = &mut call.host().member_tls_sections;
    let index = sections
        .iter()
        .position(|(known, _)| *known == about)
        .unwrap_or_else(|| {
            sections.push((about, MemberTlsDraft::default()));
            sections.len() - 1
        });
    Ok(&mut sections[index].1)
}

fn engine(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let on = value::flag(call.arg(0))
        .ok_or_else(|| Fault::new("SSLProxyEngine must be On or Off").at(0))?;
    let mark = call.mark(0);
    draft(call)?.engine = Some((on, mark));
    Ok(())
}

fn verify(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let verify = super::verify(call)?;
    draft(call)?.verify = Some(verify);
    Ok(())
}

fn depth(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let depth = super::depth(call)?;
    draft(call)?.depth = Some(depth);
    Ok(())
}

fn revocation(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let revocation = super::revocation(call)?;
    let mark = call.mark(0);
    draft(call)?.revocation = Some((revocation, mark));
    Ok(())
}

fn check_name(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let on = call.flag()?;
    draft(call)?.check_name = Some(on);
    Ok(())
}

fn check_cn(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let on = call.flag()?;
    let mark = call.mark(0);
    draft(call)?.check_cn = Some((on, mark));
    Ok(())
}

fn check_expiry(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let on = call.flag()?;
    draft(call)?.check_expiry = Some(on);
    Ok(())
}

fn protocol(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let versions = super::versions(call)?;
    let mark = call.mark(0);
    draft(call)?.protocols = Some((versions, mark));
    Ok(())
}

fn cipher_suite(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (modern, suites) = super::suites(call)?;
    let draft = draft(call)?;
    if modern {
        draft.suites13 = Some(suites);
    } else {
        draft.suites = Some(suites);
    }
    Ok(())
}

/// Handlers that do nothing but name a file.
macro_rules! files {
    ($($name:ident),*) => {
        $(fn $name(call: &mut Call<'_, '_>) -> Result<(), Fault> {
            let file = named(call)?;
            draft(call)?.$name = Some(file);
            Ok(())
        })*
    };
}

files!(
    ca_file,
    ca_path,
    crl_file,
    crl_path,
    machine_file,
    machine_path,
    machine_chain
);
