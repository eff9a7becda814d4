//! TLS to members: which settings each balancer's members have (apache.md 3.22).
//!
//! In httpd they are those of the server that a request came to, with those of its `<Proxy>`
//! sections over them. Here a balancer's members have one set: servers that use it must want the
//! same, else it is an error.

use rustls_pki_types::ServerName;

use super::super::Names;
use crate::config::{
    directives::tls::{MemberTlsDraft, Versions, ciphers},
    draft::{Draft, Mark, RouteDraft, TargetDraft},
    report::{Reports, Severity},
    spec::{Balancer, Host, MemberTls, PeerVerify, Place, Revocation, Scheme, Target},
};

/// Gives every https member its settings; returns them, each once.
pub(in super::super) fn resolve(
    draft: &mut Draft<'_>,
    hosts: &[Host],
    list: &mut [Balancer],
    names: &Names,
) -> Vec<MemberTls> {
    let mut all: Vec<MemberTls> = Vec::new();
    for (index, balancer) in list.iter_mut().enumerate() {
        let is_https = |member: &&mut crate::config::spec::Member| member.scheme == Scheme::Https;
        let mut members: Vec<_> = balancer.members.iter_mut().filter(is_https).collect();
        let Some(first) = members.first() else {
            continue;
        };
        let owned = names.about(index);
        let users = users(hosts, names, index);
        let about = owned.first().map_or("", |(_, about)| about.as_str());
        let views = users.iter().map(|host| view(draft, *host, about));
        // A server without SSLProxyEngine answers with 500 in httpd; one with it says what is meant.
        let views: Vec<_> = views.filter(MemberTlsDraft::is_on).collect();
        let Some(wanted) = views.first() else {
            let message = format!(
                "{} needs SSLProxyEngine on (AH00961: failed to enable ssl support)",
                first.url
            );
            let help = "write SSLProxyEngine on in the same server; members' certificates are verified then, unless SSLProxyVerify none is there too";
            fail(draft, &owned, &first.at, message, help);
            continue;
        };
        let Some(settings) = settings(&mut draft.reports, wanted) else {
            continue;
        };
        for other in &views[1..] {
            if self::settings(&mut Reports::default(), other)
                .is_none_or(|own| !own.is_same(&settings))
                && let Some((_, mark)) = &other.engine
            {
                let message = format!(
                    "{} with other SSLProxy settings in one virtual host than in another is not supported by this version of sluice",
                    balancer.name
                );
                let help =
                    "put them into its <Proxy> section, or define a balancer for each virtual host";
                draft
                    .reports
                    .push(Severity::Error, mark.at(), message, help);
            }
        }
        for member in &members {
            if ServerName::try_from(member.host.as_str()).is_err() {
                let message = format!(
                    "{}: '{}' is no name that a certificate can be for",
                    member.url, member.host
                );
                fail(draft, &owned, &member.at, message, "");
            }
        }
        let known = all.iter().position(|known| known.is_same(&settings));
        let at = known.unwrap_or_else(|| {
            all.push(settings);
            all.len() - 1
        });
        for member in &mut members {
            member.tls = Some(at);
        }
    }
    all
}

/// An error about a balancer or worker, where it was first named.
fn fail(draft: &mut Draft<'_>, owned: &[(usize, String)], at: &Place, message: String, help: &str) {
    let mark = owned.iter().find_map(|(host, about)| {
        let host = &draft.hosts[*host];
        let is = |route: &&RouteDraft| matches!(&route.target, TargetDraft::Worker { url, .. } if url == about);
        let mut routes = host.routes.iter().chain(&host.location_routes);
        let balancer = host
            .balancers
            .iter()
            .find(|own| about.strip_prefix("balancer://") == Some(&own.balancer.name));
        let mark = balancer.map(|own| &own.mark);
        mark.or_else(|| routes.find(is).map(|route| &route.mark)).cloned()
    });
    match mark {
        Some(mark) => draft
            .reports
            .push(Severity::Error, mark.at(), message, help),
        None => draft
            .reports
            .push_file(Severity::Error, &at.file, u32::MAX, message, help),
    }
}

/// Hosts that lead to a balancer; where none does, those that define it.
pub(in crate::config::resolve) fn users(hosts: &[Host], names: &Names, index: usize) -> Vec<usize> {
    let mut users: Vec<usize> = (0..hosts.len())
        .filter(|host| uses(&hosts[*host], index))
        .collect();
    if users.is_empty() {
        users.extend(names.about(index).iter().map(|(host, _)| *host));
    }
    users
}

fn uses(host: &Host, index: usize) -> bool {
    host.routes.iter().any(|route| match route.target {
        Target::Balancer { balancer, .. } => balancer == index,
        Target::Local => false,
    })
}

/// What a host says of what `about` names.
fn view(draft: &Draft<'_>, host: usize, about: &str) -> MemberTlsDraft {
    let (main, own) = (&draft.hosts[0], &draft.hosts[host]);
    let mut view = main.member_tls.clone();
    if host > 0 {
        view.merge(&own.member_tls);
    }
    let layers = [Some(main), (host > 0).then_some(own)];
    for (section, said) in layers
        .into_iter()
        .flatten()
        .flat_map(|layer| &layer.member_tls_sections)
    {
        let is_url = !section.starts_with("balancer://");
        if section == about || is_url && about.starts_with(section) {
            view.merge(said);
        }
    }
    view
}

impl MemberTlsDraft {
    fn is_on(&self) -> bool {
        self.engine.as_ref().is_some_and(|(on, _)| *on)
    }
}

/// `None`: there is an error, and it was reported.
fn settings(reports: &mut Reports, said: &MemberTlsDraft) -> Option<MemberTls> {
    let mut fail = |mark: &Mark, message: &str, help: &str| {
        reports.push(Severity::Error, mark.at(), message, help);
        None
    };
    let both = Versions {
        v12: true,
        v13: true,
    };
    let Versions { v12, v13 } = said.protocols.as_ref().map_or(both, |(own, _)| *own);
    if let (false, false, Some((_, mark))) = (v12, v13, &said.protocols) {
        let message = "AH02231: No SSL protocols available for members";
        return fail(mark, message, "sluice has TLSv1.2 and TLSv1.3");
    }
    let mut suites = Vec::new();
    if v13 {
        suites.extend(said.suites13.as_deref().unwrap_or(&ciphers::MODERN));
    }
    if v12 {
        suites.extend(said.suites.as_deref().unwrap_or(&ciphers::CLASSIC));
    }
    if let (Some(false), Some((true, mark))) = (said.check_name, &said.check_cn) {
        let message = "SSLProxyCheckPeerCN On with SSLProxyCheckPeerName Off is not supported by this version of sluice";
        let help = "names are looked for in subjectAltName alone (RFC 9525): SSLProxyCheckPeerName On, or both Off";
        return fail(mark, message, help);
    }
    let revocation = said.revocation.as_ref();
    if let Some((check, mark)) = revocation
        && *check != Revocation::None
        && said.crl_file.is_none()
        && said.crl_path.is_none()
    {
        let message = "SSLProxyCARevocationCheck is on, but neither SSLProxyCARevocationFile nor SSLProxyCARevocationPath is configured";
        return fail(mark, message, "name the lists, or write none");
    }
    Some(MemberTls {
        v12,
        v13,
        suites,
        verify: match said.verify {
            // A server always shows one.
            None | Some(PeerVerify::Optional) => PeerVerify::Require,
            Some(verify) => verify,
        },
        depth: said.depth,
        ca_file: said.ca_file.clone(),
        ca_path: said.ca_path.clone(),
        revocation: revocation.map_or(Revocation::None, |(check, _)| *check),
        crl_file: said.crl_file.clone(),
        crl_path: said.crl_path.clone(),
        check_name: said.check_name.unwrap_or_else(|| {
            // As httpd since 2.4.21.
            said.check_cn.as_ref().is_none_or(|(on, _)| *on)
        }),
        check_expiry: said.check_expiry.unwrap_or(true),
        machine_file: said.machine_file.clone(),
        machine_path: said.machine_path.clone(),
        machine_chain: said.machine_chain.clone(),
        at: said
            .engine
            .as_ref()
            .map_or_else(Place::default, |(_, mark)| mark.place()),
    })
}

/// Says once that members are verified where httpd would not, and what does nothing.
pub(in super::super) fn warn(draft: &mut Draft<'_>, settings: &[MemberTls]) {
    for host in 0..draft.hosts.len() {
        let own = &draft.hosts[host];
        let sections = own.member_tls_sections.iter().map(|(_, said)| said);
        let said: Vec<MemberTlsDraft> = std::iter::once(&own.member_tls)
            .chain(sections)
            .cloned()
            .collect();
        for said in &said {
            let Some((true, mark)) = &said.engine else {
                continue;
            };
            let file = &draft.hosts[0].member_tls.ca_file;
            let silent = said.verify.is_none()
                && said.ca_file.is_none()
                && said.ca_path.is_none()
                && file.is_none()
                && draft.hosts[0].member_tls.verify.is_none();
            if silent && !settings.is_empty() {
                let notice = "certificates of https:// members are verified with the system's authorities, where httpd verifies none (SSLProxyVerify require is the default here)";
                let at = mark.at();
                draft.reports.push(
                    Severity::Notice,
                    at,
                    notice,
                    "name others with SSLProxyCACertificateFile, or switch it off with SSLProxyVerify none",
                );
                return;
            }
        }
    }
}
