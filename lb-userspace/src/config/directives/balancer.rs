//! `<Proxy>`, BalancerMember and ProxySet (apache.md 1.3, 3.12, 3.13).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Scope, Section, keys, proxy, row};
use crate::config::{
    draft::Mark,
    spec::policy::{self, Matcher},
    syntax::glob,
    value,
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "<Proxy",
        Contexts::SERVER,
        Arity::Any,
        "balancer://NAME|URL [KEY=VALUE ...]",
        "defines a balancer, or settings of the worker of a URL; and settings for requests whose URL towards members begins so (with wildcards: matches; * matches slashes too)",
        Effect::Section(section),
    ),
    row(
        "<ProxyMatch",
        Contexts::SERVER,
        Arity::Any,
        "REGEX",
        "settings for requests whose URL towards members a regular expression matches",
        Effect::Section(proxy_match),
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
    row(
        "BalancerPersist",
        Contexts::SERVER,
        Arity::Flag,
        "On|Off",
        "whether changes made in the balancer-manager and by `member set` outlive a stop",
        Effect::Apply(persist),
    )
    .or("Off"),
    row(
        "BalancerGrowth",
        Contexts::SERVER,
        Arity::One,
        "NUMBER",
        "balancers that may be added while it runs, 0 to 1000: in httpd as here nothing adds any; members are added with growth=",
        Effect::Apply(growth),
    )
    .or("5"),
];

fn persist(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let flag = call.flag()?;
    call.host().balancer_persist = Some(flag);
    Ok(())
}

fn growth(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if (0..=1000).contains(&value::atoi(call.arg(0))) {
        return Ok(());
    }
    Err(Fault::new("BalancerGrowth must be between 0 and 1000").at(0))
}

fn section(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    if call.arg(0) == "~" && call.count() > 1 {
        // As httpd, whatever its manual says.
        let message = "<Proxy> arguments are not supported for non url.";
        return Err(Fault::new(message).at(0).help("write <ProxyMatch REGEX>"));
    }
    let url = call.arg(0).to_owned();
    let mark = call.mark(0);
    let params = match params(call, 1) {
        Ok(params) => params,
        Err(index) => {
            return Err(Fault::new("<Proxy Parameter must be in the form 'key=value'").at(index));
        }
    };
    if glob::is_pattern(&url) {
        if let Some((index, ..)) = params.first() {
            return Err(Fault::new("<Proxy> with wildcards takes no parameters").at(*index));
        }
        return Ok(open(call, Matcher::Wildcard(url), Section::Pattern));
    }
    if let Some((name, tail)) = proxy::balancer_name(&url) {
        // httpd compares the whole URL with what is proxied: with a path, a part of a balancer.
        let whole = tail.is_empty() || tail == "/";
        let draft = call.draft.balancer(call.scope.host, &name, &mark);
        draft.defined |= whole;
        keys::set_balancer_keys(call, call.scope.host, &name, &params, |fault| {
            format!("<Proxy {fault}")
        });
        let matcher = Matcher::Prefix(format!("balancer://{name}{tail}"));
        return Ok(open(call, matcher, Section::Balancer(name)));
    }
    let mut prefix = url.clone();
    if let Ok(parsed) = keys::worker_url(&url) {
        prefix = format!("{}{}", parsed.authority(), parsed.path);
        if !params.is_empty() {
            set_worker(call, &parsed, &mark, &params, true, "<Proxy")?;
        }
    } else if !params.is_empty() {
        let why = keys::worker_url(&url).err().unwrap_or_default();
        return Err(Fault::new(format!("<Proxy {why}")).at(0));
    }
    Ok(open(call, Matcher::Prefix(prefix), Section::Worker(url)))
}

fn proxy_match(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    let pattern = super::sections::pattern(call, 0)?;
    if call.count() > 1 {
        let message = "<ProxyMatch> with a regular expression takes no parameters";
        return Err(Fault::new(message).at(1));
    }
    Ok(open(call, Matcher::Pattern(pattern), Section::Pattern))
}

fn open(call: &mut Call<'_, '_>, matcher: Matcher, section: Section) -> Scope {
    let policy = call.draft.new_policy();
    call.host()
        .proxies
        .push(policy::Section { matcher, policy });
    Scope {
        host: call.scope.host,
        section,
        policy,
        limit: None,
    }
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
