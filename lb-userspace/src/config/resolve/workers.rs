//! Balancers and direct workers of all hosts, as one list in which names are unique.
//!
//! A name with a member's URL is the member's identity (DESIGN section 5), so two virtual hosts
//! that each define a balancer of one name get names with the virtual host's in them.

use std::{collections::BTreeMap, hash::Hasher as _};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::Names;
use crate::balancer::outlier;
use crate::config::{
    draft::{BalancerDraft, Draft, HostDraft, Mark, TargetDraft},
    report::Severity,
    spec::{Balancer, LbMethod, Member, Sticky},
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
    let mut owners: BTreeMap<String, usize> = BTreeMap::new();
    for balancer in draft.hosts.iter().flat_map(|host| &host.balancers) {
        *owners.entry(balancer.balancer.name.clone()).or_default() += 1;
    }
    for index in 0..draft.hosts.len() {
        for number in 0..draft.hosts[index].balancers.len() {
            let mut own = draft.hosts[index].balancers[number].clone();
            let name = own.balancer.name.clone();
            if index == 0 {
                overlay(draft, &mut own);
            } else if names.balancers.contains_key(&(0, name.clone())) {
                if !own.balancer.members.is_empty() {
                    let message = format!(
                        "balancer://{name} is the main server's: members that this virtual host gives it are not used"
                    );
                    let help = "give it another name";
                    draft
                        .reports
                        .push(Severity::Warning, own.mark.at(), message, help);
                }
                continue;
            }
            warn_empty(draft, &own);
            check_cookie(draft, &own);
            check_beyond(draft, &own);
            let mut balancer = finish(&own);
            if index > 0 && owners.get(&name).is_some_and(|count| *count > 1) {
                balancer.manage.written = Some(name.clone());
                balancer.name = qualified(&name, &draft.hosts[index], list);
                let message = format!(
                    "several virtual hosts have a balancer://{name} of their own: this one is called {} in status, metrics and commands",
                    balancer.name
                );
                let help = "define it once outside of the virtual hosts to share it";
                draft
                    .reports
                    .push(Severity::Notice, own.mark.at(), message, help);
            }
            balancer.manage.host = index;
            let persist = draft.hosts[index].balancer_persist;
            balancer.manage.persist = persist.or(draft.hosts[0].balancer_persist).unwrap_or(false);
            names.balancers.insert((index, name), list.len());
            list.push(balancer);
        }
    }
}

fn warn_empty(draft: &mut Draft<'_>, own: &BalancerDraft) {
    let name = &own.balancer.name;
    let (what, help) = if !own.defined {
        let help = format!("add <Proxy balancer://{name}> with BalancerMember lines");
        ("is not defined: it has no members", help)
    } else if own.balancer.members.is_empty() {
        ("has no members", String::new())
    } else {
        return;
    };
    let message = format!("balancer://{name} {what}, and requests for it are answered with 503");
    draft
        .reports
        .push(Severity::Warning, own.mark.at(), message, help);
}

/// Applies what virtual hosts say of a balancer of the main server.
///
/// In httpd 2.4.71 each virtual host then has its own parameters over shared members (measured).
/// Here a balancer has one set: hosts that use it must want the same, else it is an error.
fn overlay(draft: &mut Draft<'_>, base: &mut BalancerDraft) {
    let name = base.balancer.name.clone();
    let uses = |host: &HostDraft| {
        let mut routes = host.routes.iter().chain(&host.location_routes);
        routes.any(
            |route| matches!(&route.target, TargetDraft::Balancer { name: n, .. } if *n == name),
        )
    };
    let everywhere = uses(&draft.hosts[0]);
    let mut wanted: Option<BalancerDraft> = everywhere.then(|| base.clone());
    let mut conflicts = Vec::new();
    for host in draft.hosts.iter().skip(1) {
        if !everywhere && !uses(host) {
            continue;
        }
        let own = host.balancers.iter().find(|own| own.balancer.name == name);
        let mut view = base.clone();
        if let Some(own) = own {
            merge(&mut view, own);
        }
        match &wanted {
            None => wanted = Some(view),
            Some(first) if finish(first) != finish(&view) => {
                conflicts.push(own.map_or_else(|| base.mark.clone(), |own| own.mark.clone()));
            }
            Some(_) => {}
        }
    }
    for mark in conflicts {
        let message = format!(
            "balancer://{name} with other parameters in one virtual host than in another is not supported by this version of sluice"
        );
        let help = format!(
            "put the parameters into <Proxy balancer://{name}>, or define a balancer for each virtual host"
        );
        draft
            .reports
            .push(Severity::Error, mark.at(), message, help);
    }
    if let Some(wanted) = wanted {
        *base = wanted;
    }
}

/// Puts what `own` was given over `base`.
fn merge(base: &mut BalancerDraft, own: &BalancerDraft) {
    for key in &own.given {
        let (to, from) = (&mut base.balancer, &own.balancer);
        match key.as_str() {
            "lbmethod" => to.lbmethod = from.lbmethod,
            "stickysession" => to.sticky.clone_from(&from.sticky),
            "stickysessionsep" => base.separator = own.separator,
            "scolonpathdelim" => base.scolonpathdelim = own.scolonpathdelim,
            "stickycookie" => base.cookie_written = own.cookie_written,
            "nofailover" => to.nofailover = from.nofailover,
            "timeout" => to.timeout = from.timeout,
            "maxattempts" => to.maxattempts = from.maxattempts,
            "failonstatus" => to.failonstatus.clone_from(&from.failonstatus),
            "failontimeout" => to.failontimeout = from.failontimeout,
            "forcerecovery" => to.forcerecovery = from.forcerecovery,
            "hashkey" => to.beyond.hash_key.clone_from(&from.beyond.hash_key),
            "retrybudget" => to.beyond.retry_budget = from.beyond.retry_budget,
            "ejectmax" => to.beyond.eject_max = from.beyond.eject_max,
            "growth" => to.manage.growth = from.manage.growth,
            "nonce" => to.manage.nonce.clone_from(&from.manage.nonce),
            other => debug_assert!(false, "{other} is set and not merged"),
        }
    }
}

/// With the parameters that belong together put together.
fn finish(draft: &BalancerDraft) -> Balancer {
    let mut balancer = draft.balancer.clone();
    let is_said = |key: &str| draft.given.iter().any(|given| given == key);
    if balancer.sticky.is_none() && (is_said("stickysessionsep") || is_said("scolonpathdelim")) {
        balancer.manage.sticky = Some(Sticky {
            cookie: String::new(),
            path: String::new(),
            separator: draft.separator,
            scolonpathdelim: draft.scolonpathdelim,
            cookie_written: false,
        });
    }
    if let Some(sticky) = &mut balancer.sticky {
        sticky.separator = draft.separator;
        sticky.scolonpathdelim = draft.scolonpathdelim;
        sticky.cookie_written = draft.cookie_written;
        if sticky.cookie_written {
            for member in &mut balancer.members {
                if member.route.is_empty() {
                    member.route = stable_route(&balancer.name, &member.url);
                }
            }
        }
    }
    balancer
}

/// A route for a member that was given none: the same on every host and after every restart, as
/// long as balancer and member keep their names, whatever becomes of other members.
///
/// A hash keyed with the balancer's name, so that the cookie shows no address; who knows that name
/// can check a guess.
pub(crate) fn stable_route(balancer: &str, url: &str) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write(b"sluice session route\0");
    hasher.write(balancer.as_bytes());
    hasher.write_u8(0);
    let key = hasher.finish128().as_bytes();
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(url.as_bytes());
    format!("{:016x}", hasher.finish128().h1)
}

/// Keys that do nothing as they are given.
fn check_beyond(draft: &mut Draft<'_>, own: &BalancerDraft) {
    let (name, balancer) = (&own.balancer.name, &own.balancer);
    let mut warn = |message: String, help: &str| {
        draft
            .reports
            .push(Severity::Warning, own.mark.at(), message, help);
    };
    if let Some(percent) = balancer.beyond.eject_max
        && !balancer.members.is_empty()
        && !outlier::may_eject(percent, balancer.members.len(), 0)
    {
        let message = format!(
            "balancer://{name}: ejectmax={percent} of {} members is none: nobody is ever ejected",
            balancer.members.len()
        );
        warn(message, "a whole member has to fit into it");
    }
    if own.given.iter().any(|key| key == "hashkey") && balancer.lbmethod != LbMethod::Hash {
        let message = format!("balancer://{name}: hashkey is for lbmethod=hash, and does nothing");
        warn(message, "add lbmethod=hash");
    }
}

/// What `stickycookie` cannot write.
fn check_cookie(draft: &mut Draft<'_>, own: &BalancerDraft) {
    if !own.cookie_written {
        return;
    }
    let name = &own.balancer.name;
    let mut fail = |message: String, help: &str| {
        draft
            .reports
            .push(Severity::Error, own.mark.at(), message, help);
    };
    let Some(sticky) = &own.balancer.sticky else {
        let message = format!("balancer://{name}: stickycookie=On without stickysession");
        fail(message, "write stickysession=NAME: it is the cookie's name");
        return;
    };
    // RFC 6265 section 4.1.1: a name is a token, a value has neither blanks nor these.
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let is_value = |c: char| c.is_ascii_graphic() && !"\",;\\".contains(c);
    if sticky.cookie.is_empty() || !sticky.cookie.chars().all(is_token) {
        let message = format!(
            "stickycookie=On: '{}' is no name of a cookie",
            sticky.cookie
        );
        fail(message, "");
    }
    let routes = own.balancer.members.iter().map(|member| &member.route);
    for text in routes.cloned().chain(own.separator.map(String::from)) {
        if !text.chars().all(is_value) {
            let message = format!("stickycookie=On: a cookie cannot hold '{text}'");
            fail(message, "");
        }
    }
}

fn workers(draft: &mut Draft<'_>, list: &mut Vec<Balancer>, names: &mut Names) {
    // Workers in the list, by URL: a file may have many thousands.
    let mut known: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for index in 0..draft.hosts.len() {
        for worker in std::mem::take(&mut draft.hosts[index].workers) {
            let url = worker.member.url.clone();
            // The main server's worker of the same URL is found first, whatever this one says.
            if let Some(&shared) = names.workers.get(&(0, url.clone())).filter(|_| index > 0) {
                if differs(&list[shared].members[0], &worker.member) {
                    let message = format!(
                        "parameters for {url} are not used: the main server's ProxyPass to it has others"
                    );
                    draft
                        .reports
                        .push(Severity::Warning, worker.mark.at(), message, "");
                }
                names.workers.insert((index, url), shared);
                continue;
            }
            let equals = known.entry(url.clone()).or_default();
            let same = equals
                .iter()
                .find(|at| !differs(&list[**at].members[0], &worker.member));
            if let Some(at) = same {
                names.workers.insert((index, url), *at);
                continue;
            }
            let name = if equals.is_empty() {
                url.clone()
            } else {
                qualified(&url, &draft.hosts[index], list)
            };
            equals.push(list.len());
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
        beyond: crate::config::spec::Beyond::default(),
        manage: crate::config::spec::Manage::default(),
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
    let free = (2..=list.len() + 2)
        .map(|number| format!("{base}#{number}"))
        .find(|wanted| !taken(wanted));
    free.expect("one of more candidates than names is free")
}
