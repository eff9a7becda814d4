//! `<Proxy>`, BalancerMember and ProxySet (apache.md 1.3, 3.12, 3.13).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Scope, Section, keys, proxy, row};
use crate::config::{draft::Mark, syntax::glob};

pub(super) const TABLE: &[Directive] = &[
    row(
        "<Proxy",
        Contexts::SERVER,
        Arity::Any,
        "balancer://NAME|URL [KEY=VALUE ...]",
        "defines a balancer, or settings of the worker of a URL",
        Effect::Section(section),
    ),
    row(
        "BalancerMember",
        Contexts::ALL,
        Arity::Any,
        "[balancer://NAME] URL [KEY=VALUE ...]",
        "adds a member; inside <Proxy balancer://> the balancer is left out",
        Effect::Apply(balancer_member),
    ),
    row(
        "ProxySet",
        Contexts::ALL,
        Arity::Any,
        "[balancer://NAME|URL] KEY=VALUE ...",
        "sets keys of a balancer, or of the worker of a URL; inside <Proxy> the name is left out",
        Effect::Apply(proxy_set),
    ),
];

fn section(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    let scope = |section| {
        Ok(Scope {
            host: call.scope.host,
            section,
        })
    };
    if call.arg(0) == "~" {
        return Err(super::not_yet("<Proxy ~ REGEX").at(0));
    }
    let url = call.arg(0).to_owned();
    let mark = call.mark(0);
    let params = match params(call, 1) {
        Ok(params) => params,
        Err(index) => {
            return Err(Fault::new("<Proxy Parameter must be in the form 'key=value'").at(index));
        }
    };
    if call.count() == 0 || glob::is_pattern(&url) {
        if let Some((index, ..)) = params.first() {
            return Err(Fault::new("<Proxy> with wildcards takes no parameters").at(*index));
        }
        return scope(Section::Pattern);
    }
    if let Some((name, tail)) = proxy::balancer_name(&url) {
        if !tail.is_empty() && tail != "/" {
            // httpd compares the whole URL with what is proxied: a part of a balancer.
            return Err(super::not_yet("<Proxy balancer:// with a path").at(0));
        }
        let draft = call.draft.balancer(call.scope.host, &name, &mark);
        draft.defined = true;
        keys::set_balancer_keys(call, call.scope.host, &name, &params, |fault| {
            format!("<Proxy {fault}")
        });
        return Ok(Scope {
            host: call.scope.host,
            section: Section::Balancer(name),
        });
    }
    if !params.is_empty() {
        let parsed =
            keys::worker_url(&url).map_err(|why| Fault::new(format!("<Proxy {why}")).at(0))?;
        set_worker(call, &parsed, &mark, &params, true, "<Proxy")?;
    }
    Ok(Scope {
        host: call.scope.host,
        section: Section::Worker(url),
    })
}

/// `key=value` words from `first` on; the index of the first that is none.
fn params(call: &Call<'_, '_>, first: usize) -> Result<Vec<(usize, String, String)>, usize> {
    (first..call.count())
        .map(|index| {
            let (key, value) = call.arg(index).split_once('=').ok_or(index)?;
            Ok((index, key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn balancer_member(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let mut name = match &call.scope.section {
        Section::Balancer(name) => Some(name.clone()),
        Section::None => None,
        _ => {
            let message = "BalancerMember must stand in a <Proxy balancer://NAME> section, or name its balancer outside of sections";
            return Err(Fault::new(message));
        }
    };
    let inside = name.is_some();
    let mut url: Option<usize> = None;
    let mut params = Vec::new();
    for index in 0..call.count() {
        let word = call.arg(index);
        if let Some((key, value)) = word.split_once('=') {
            params.push((index, key.to_owned(), value.to_owned()));
        } else if name.is_none() {
            let Some((balancer, _)) = proxy::balancer_name(word) else {
                let message = "BalancerMember must define remote proxy server";
                return Err(Fault::new(message)
                    .at(index)
                    .help("usage: BalancerMember balancer://NAME URL [KEY=VALUE ...]"));
            };
            name = Some(balancer);
        } else if url.is_none() {
            url = Some(index);
        } else if inside {
            let message = "BalancerMember can not have a balancer name when defined in a location";
            return Err(Fault::new(message)
                .at(index)
                .help("usage inside <Proxy>: BalancerMember URL [KEY=VALUE ...]"));
        } else {
            let message =
                "Invalid BalancerMember parameter. Parameter must be in the form 'key=value'.";
            return Err(Fault::new(message).at(index));
        }
    }
    let (Some(name), Some(index)) = (name, url) else {
        return Err(Fault::new("BalancerMember must define remote proxy server")
            .help("usage: BalancerMember [balancer://NAME] URL [KEY=VALUE ...]"));
    };
    let fault = |why: String| Fault::new(format!("BalancerMember {why}")).at(index);
    let parsed = keys::member_url(call.arg(index)).map_err(fault)?;
    let mark = call.mark(index);
    let mut member = keys::member(&parsed, call.place());
    let host = call.scope.host;
    let draft = call.draft.balancer(host, &name, &mark);
    draft.defined = true;
    let known = draft
        .balancer
        .members
        .iter()
        .any(|known| known.url == member.url);
    if known {
        for (word, key, value) in &params {
            let message = format!(
                "Ignoring parameter '{key}={value}' for worker '{}' because of worker sharing",
                member.url
            );
            call.warn(Fault::new(message).at(*word));
        }
        let message = format!(
            "{} is already a member of balancer://{name}: one member, this line adds nothing",
            member.url
        );
        call.warn(Fault::new(message).at(index));
        return Ok(());
    }
    keys::set_member_keys(call, &mut member, &params, "BalancerMember");
    call.draft
        .balancer(host, &name, &mark)
        .balancer
        .members
        .push(member);
    Ok(())
}

fn proxy_set(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (target, first) = match &call.scope.section {
        Section::Balancer(name) => (format!("balancer://{name}"), 0),
        Section::Worker(url) => (url.clone(), 0),
        Section::None if call.count() == 0 => {
            return Err(Fault::new(
                "ProxySet needs a balancer or worker and parameters",
            ));
        }
        Section::None => (call.arg(0).to_owned(), 1),
        _ => {
            return Err(Fault::new(
                "ProxySet must stand in a <Proxy> section of a balancer or URL, or outside of sections",
            ));
        }
    };
    let params = match params(call, first) {
        Ok(params) => params,
        Err(index) => {
            let message = "Invalid ProxySet parameter. Parameter must be in the form 'key=value'";
            return Err(Fault::new(message).at(index));
        }
    };
    let inside = first == 0;
    let mark = call.mark(0);
    if let Some((name, _)) = proxy::balancer_name(&target) {
        let host = &call.draft.hosts[call.scope.host];
        let known = host
            .balancers
            .iter()
            .any(|draft| draft.balancer.name == name);
        if !known {
            return Err(
                Fault::new(format!("ProxySet can not find '{target}' Balancer."))
                    .at(0)
                    .help("define it before this line, in the same server"),
            );
        }
        let suffix = format!("balancer://{name}");
        keys::set_balancer_keys(call, call.scope.host, &name, &params, |fault| {
            format!("ProxySet: {fault}; {suffix}")
        });
        return Ok(());
    }
    let Ok(parsed) = keys::worker_url(&target) else {
        return Err(Fault::new(format!("ProxySet can not find '{target}' Worker.")).at(0));
    };
    set_worker(call, &parsed, &mark, &params, inside, "ProxySet:")
}

/// Sets keys of the worker that covers a URL.
fn set_worker(
    call: &mut Call<'_, '_>,
    url: &crate::config::url::WorkerUrl,
    mark: &Mark,
    params: &[(usize, String, String)],
    make: bool,
    directive: &str,
) -> Result<(), Fault> {
    let Some(index) = proxy::worker(call, url, mark, make) else {
        let name = format!("{}{}", url.authority(), url.path);
        return Err(
            Fault::new(format!("ProxySet can not find '{name}' Worker."))
                .at(0)
                .help("define it before this line, by ProxyPass in the same server"),
        );
    };
    let host = call.scope.host;
    let mut member = call.draft.hosts[host].workers[index].member.clone();
    keys::set_member_keys(call, &mut member, params, directive);
    call.draft.hosts[host].workers[index].member = member;
    Ok(())
}
