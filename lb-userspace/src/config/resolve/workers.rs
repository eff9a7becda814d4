//! Balancers and direct workers of all hosts, as one list in which names are unique.
//!
//! A name with a member's URL is the member's identity (DESIGN section 5), so two virtual hosts
//! that each define a balancer of one name get names with the virtual host's in them.

use std::collections::BTreeMap;

use super::Names;
use crate::config::{
    draft::{BalancerDraft, Draft, HostDraft, Mark},
    report::Severity,
    spec::{Balancer, LbMethod, Member},
};

/// Fills `list` and says which entry each host means by a name.
pub(super) fn collect(draft: &mut Draft<'_>, list: &mut Vec<Balancer>) -> Names {
    let mut names = Names {
        balancers: BTreeMap::new(),
        workers: BTreeMap::new(),
    };
    balancers(draft, list, &mut names);
    workers(draft, list, &mut names);
    names
}

fn balancers(draft: &mut Draft<'_>, list: &mut Vec<Balancer>, names: &mut Names) {
    // How many hosts have one of their own, by name.
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for balancer in draft.hosts.iter().flat_map(|host| &host.balancers) {
        *owners.entry(&balancer.balancer.name).or_default() += 1;
    }
    let owners: BTreeMap<String, usize> = owners
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    for index in 0..draft.hosts.len() {
        for number in 0..draft.hosts[index].balancers.len() {
            let own = draft.hosts[index].balancers[number].clone();
            let name = own.balancer.name.clone();
            let at = own.mark.at();
            if index > 0 && names.balancers.contains_key(&(0, name.clone())) {
                if own.defined {
                    let message = format!(
                        "balancer://{name} is already the main server's: what this virtual host says of it is not used"
                    );
                    draft
                        .reports
                        .push(Severity::Warning, at, message, "give it another name");
                } else if own.has_params {
                    let message = format!(
                        "parameters for balancer://{name} are not used: it is the main server's"
                    );
                    let help = format!("put them into its <Proxy balancer://{name}> section");
                    draft.reports.push(Severity::Warning, at, message, help);
                }
                continue;
            }
            if !own.defined {
                let message = format!(
                    "balancer://{name} is not defined: it has no members, and requests for it are answered with 503"
                );
                let help = format!("add <Proxy balancer://{name}> with BalancerMember lines");
                draft.reports.push(Severity::Warning, at, message, help);
            } else if own.balancer.members.is_empty() {
                let message = format!(
                    "balancer://{name} has no members: requests for it are answered with 503"
                );
                draft.reports.push(Severity::Warning, at, message, "");
            }
            let mut balancer = finish(&own);
            if index > 0 && owners.get(&name).is_some_and(|count| *count > 1) {
                balancer.name = qualified(&name, &draft.hosts[index], list);
                let message = format!(
                    "several virtual hosts have a balancer://{name} of their own: this one is called {} in status and commands",
                    balancer.name
                );
                let help = "define it once outside of the virtual hosts to share it";
                draft.reports.push(Severity::Notice, at, message, help);
            }
            names.balancers.insert((index, name), list.len());
            list.push(balancer);
        }
    }
}

/// With the parameters that belong together put together.
fn finish(draft: &BalancerDraft) -> Balancer {
    let mut balancer = draft.balancer.clone();
    if let Some(sticky) = &mut balancer.sticky {
        sticky.separator = draft.separator.unwrap_or(Some('.'));
        sticky.scolonpathdelim = draft.scolonpathdelim;
    }
    balancer
}

fn workers(draft: &mut Draft<'_>, list: &mut Vec<Balancer>, names: &mut Names) {
    let first = list.len();
    for index in 0..draft.hosts.len() {
        for worker in draft.hosts[index].workers.clone() {
            let url = worker.member.url.clone();
            // The main server's worker of the same URL is found first, whatever this one says.
            if let Some(&shared) = names.workers.get(&(0, url.clone())).filter(|_| index > 0) {
                names.workers.insert((index, url.clone()), shared);
                if differs(&list[shared].members[0], &worker.member) {
                    let message = format!(
                        "parameters for {url} are not used: the main server's ProxyPass to it has others"
                    );
                    draft
                        .reports
                        .push(Severity::Warning, worker.mark.at(), message, "");
                }
                continue;
            }
            let same = (first..list.len()).find(|at| {
                let member = &list[*at].members[0];
                member.url == url && !differs(member, &worker.member)
            });
            if let Some(at) = same {
                names.workers.insert((index, url), at);
                continue;
            }
            let name = if list.iter().any(|known| known.name == url) {
                qualified(&url, &draft.hosts[index], list)
            } else {
                url.clone()
            };
            names.workers.insert((index, url), list.len());
            list.push(direct(name, worker.member, &worker.mark));
        }
    }
}

/// Whether two workers of one URL have other parameters.
fn differs(a: &Member, b: &Member) -> bool {
    let mut b = b.clone();
    b.at = a.at.clone();
    *a != b
}

fn direct(name: String, member: Member, mark: &Mark) -> Balancer {
    Balancer {
        name,
        direct: true,
        members: vec![member],
        lbmethod: LbMethod::ByRequests,
        sticky: None,
        nofailover: false,
        timeout: std::time::Duration::ZERO,
        maxattempts: None,
        failonstatus: Vec::new(),
        failontimeout: false,
        forcerecovery: true,
        at: mark.place(),
    }
}

/// A name with the virtual host's in it, unlike every other.
fn qualified(name: &str, host: &HostDraft, list: &[Balancer]) -> String {
    let address = host.addresses.first();
    let server = match (&host.server_name, address.and_then(|a| a.ip)) {
        (Some(server), _) => server.clone(),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => "*".to_owned(),
    };
    let port = address.and_then(|address| address.port);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let base = format!("{name}@{server}{port}");
    let taken = |wanted: &str| list.iter().any(|known| known.name == wanted);
    if !taken(&base) {
        return base;
    }
    // At most one more than there are names.
    (2..)
        .map(|number| format!("{base}#{number}"))
        .find(|wanted| !taken(wanted))
        .unwrap_or(base)
}
