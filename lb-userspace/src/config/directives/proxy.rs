//! ProxyPass and what goes with it (apache.md 3.1, 3.2, 3.4 to 3.7).

use std::time::Duration;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Section, connection, keys, row};
use crate::config::{
    draft::{Mark, ReverseDraft, RouteDraft, TargetDraft, WorkerDraft},
    spec,
    url::WorkerUrl,
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "ProxyPass",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Any,
        "PATH !|URL [KEY=VALUE ...] [nocanon]",
        "sends requests below PATH to a URL or a balancer://; the first that matches counts, ! sends them nowhere. In <Location> the path is left out. Keys are those of a member, for balancer:// those of a balancer",
        Effect::Apply(proxy_pass),
    ),
    row(
        "ProxyPassReverse",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::OneToThree,
        "PATH URL",
        "rewrites Location, Content-Location and URI of responses that begin with URL; in <Location> the path is left out",
        Effect::Apply(proxy_pass_reverse),
    ),
    row(
        "ProxyPreserveHost",
        Contexts::SERVER,
        Arity::Flag,
        "On|Off",
        "whether members get the client's Host instead of their own",
        Effect::Apply(preserve_host),
    )
    .or("Off"),
    row(
        "ProxyAddHeaders",
        Contexts::SERVER,
        Arity::Flag,
        "On|Off",
        "whether members get X-Forwarded-For, -Host and -Server",
        Effect::Apply(add_headers),
    )
    .or("On"),
    row(
        "ProxyTimeout",
        Contexts::SERVER,
        Arity::One,
        "SECONDS",
        "longest wait for a member, at least 1",
        Effect::Apply(proxy_timeout),
    )
    .or("Timeout"),
    row(
        "ProxyRequests",
        Contexts::SERVER,
        Arity::Flag,
        "Off",
        "whether to be a forward proxy: sluice never is",
        Effect::Apply(proxy_requests),
    )
    .or("Off"),
    row(
        "ProxyVia",
        Contexts::SERVER,
        Arity::One,
        "Off",
        "what becomes of Via",
        Effect::Apply(proxy_via),
    )
    .or("Off"),
];

fn proxy_pass(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let location = match &call.scope.section {
        Section::Location(path) => Some(path.clone()),
        _ => None,
    };
    let mut words = 0..call.count();
    let path = if let Some(path) = &location {
        let second = call.arg(1);
        if call.count() > 1 && !second.contains('=') && !is_option(second) {
            let message =
                "ProxyPass|ProxyPassMatch can not have a path when defined in a location.";
            return Err(Fault::new(message).at(0));
        }
        path.clone()
    } else {
        if call.arg(0) == "~" {
            return Err(super::not_yet("ProxyPass ~ REGEX").at(0));
        }
        words.next();
        call.arg(0).to_owned()
    };
    let Some(url_index) = words.next() else {
        let message = "ProxyPass|ProxyPassMatch needs a path when not defined in a location";
        return Err(Fault::new(message).help("usage: ProxyPass PATH URL [KEY=VALUE ...]"));
    };
    let mut nocanon = false;
    let mut params = Vec::new();
    for index in words {
        let word = call.arg(index);
        match word.to_ascii_lowercase().as_str() {
            "nocanon" => nocanon = true,
            "interpolate" => return Err(super::not_yet("ProxyPass interpolate").at(index)),
            "noquery" => {
                let message = "noquery has no effect on the query, as in httpd";
                call.warn(Fault::new(message).at(index));
            }
            "mapping=servlet" | "mapping=encoded" => {
                return Err(super::not_yet(&format!("ProxyPass {word}")).at(index));
            }
            _ => {
                if let Some((key, value)) = word.split_once('=') {
                    params.push((index, key.to_owned(), value.to_owned()));
                } else {
                    let message = "Invalid ProxyPass|ProxyPassMatch parameter. Parameter must be in the form 'key=value'.";
                    return Err(Fault::new(message).at(index));
                }
            }
        }
    }
    let url = call.arg(url_index).to_owned();
    let mark = call.mark(if location.is_some() { url_index } else { 0 });
    let target = if url == "!" {
        if let Some((index, ..)) = params.first() {
            call.warn(Fault::new("parameters of a ProxyPass to ! do nothing").at(*index));
        }
        TargetDraft::Local
    } else if let Some((name, tail)) = balancer_name(&url) {
        check_slashes(call, &path, tail, url_index);
        let mark = call.mark(url_index);
        call.draft.balancer(call.scope.host, &name, &mark);
        keys::set_balancer_keys(call, call.scope.host, &name, &params, |fault| {
            format!("ProxyPass {fault}")
        });
        TargetDraft::Balancer {
            name,
            path: tail.to_owned(),
        }
    } else {
        direct(call, &path, &url, url_index, &params)?
    };
    if location.is_none() && !path.starts_with('/') {
        let message = format!("ProxyPass {path} matches no request");
        call.warn(Fault::new(message).at(0).help("paths begin with a slash"));
    }
    let route = RouteDraft {
        path,
        target,
        nocanon,
        mark,
    };
    if location.is_some() {
        call.host().location_routes.push(route);
    } else {
        call.host().routes.push(route);
    }
    Ok(())
}

fn is_option(word: &str) -> bool {
    ["nocanon", "interpolate", "noquery"]
        .iter()
        .any(|option| option.eq_ignore_ascii_case(word))
}

/// Name, lower case, and the rest of a `balancer://` URL.
pub(crate) fn balancer_name(url: &str) -> Option<(String, &str)> {
    let scheme = url.get(.."balancer://".len())?;
    if !scheme.eq_ignore_ascii_case("balancer://") {
        return None;
    }
    let rest = &url["balancer://".len()..];
    let end = rest.find('/').unwrap_or(rest.len());
    (end > 0).then(|| (rest[..end].to_ascii_lowercase(), &rest[end..]))
}

/// A ProxyPass to a URL: makes its worker, or shares the one whose URL covers it.
fn direct(
    call: &mut Call<'_, '_>,
    path: &str,
    url: &str,
    index: usize,
    params: &[(usize, String, String)],
) -> Result<TargetDraft, Fault> {
    let parsed =
        keys::worker_url(url).map_err(|why| Fault::new(format!("ProxyPass {why}")).at(index))?;
    let tail = parsed.path.clone();
    check_slashes(call, path, &tail, index);
    if tail.is_empty() && path.ends_with('/') {
        let message = "in httpd what follows the path would become part of the host's name; sluice puts a slash between";
        call.warn(Fault::new(message).at(index).help(format!("write {url}/")));
    }
    let full = format!("{}{tail}", parsed.authority());
    let mark = call.mark(index);
    if let Some(shared) = covering(&call.draft.hosts[call.scope.host].workers, &full, &parsed) {
        let name = call.draft.hosts[call.scope.host].workers[shared]
            .member
            .url
            .clone();
        for (word, key, value) in params {
            let message = format!(
                "Ignoring parameter '{key}={value}' for worker '{name}' because of worker sharing"
            );
            let help = "put the ProxyPass with the longer URL first";
            call.warn(Fault::new(message).at(*word).help(help));
        }
        return Ok(TargetDraft::Worker {
            url: name,
            path: tail,
        });
    }
    let mut member = keys::member(&parsed, call.place());
    member.url.clone_from(&full);
    // The route carries the path, for a worker can be shared by routes with longer ones.
    member.path = String::new();
    keys::set_member_keys(call, &mut member, params, "ProxyPass");
    call.host().workers.push(WorkerDraft { member, mark });
    Ok(TargetDraft::Worker {
        url: full,
        path: tail,
    })
}

/// The worker with the longest URL that `url` begins with, of the same scheme, host and port.
fn covering(workers: &[WorkerDraft], url: &str, parsed: &WorkerUrl) -> Option<usize> {
    let least = parsed.authority().len();
    let mut best: Option<usize> = None;
    for (index, worker) in workers.iter().enumerate() {
        let name = &worker.member.url;
        let longer = best.is_none_or(|b| name.len() > workers[b].member.url.len());
        if name.len() >= least && url.starts_with(name.as_str()) && longer {
            best = Some(index);
        }
    }
    best
}

/// Warns where what follows the match would be glued to the URL with no slash, or with two.
fn check_slashes(call: &mut Call<'_, '_>, path: &str, tail: &str, index: usize) {
    if tail.is_empty() || path == "/" && tail == "/" {
        return;
    }
    let message = match (path.ends_with('/'), tail.ends_with('/')) {
        (true, false) => {
            format!("{path} ends with a slash and the URL does not: {path}x becomes {tail}x")
        }
        (false, true) if tail != "/" || balancer_name(call.arg(index)).is_none() => {
            format!("the URL ends with a slash and {path} does not: {path}/x becomes {tail}/x")
        }
        _ => return,
    };
    let help = "end both with a slash, or neither";
    call.warn(Fault::new(message).at(index).help(help));
}

fn proxy_pass_reverse(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let location = match &call.scope.section {
        Section::Location(path) => Some(path.clone()),
        _ => None,
    };
    let last = call.count() - 1;
    let interpolate = call.arg(last).eq_ignore_ascii_case("interpolate");
    if interpolate && last > 0 {
        return Err(super::not_yet("ProxyPassReverse interpolate").at(last));
    }
    let (path, url_index) = match (&location, call.count()) {
        (Some(path), 1) => (path.clone(), 0),
        (Some(_), _) => {
            let message = "ProxyPassReverse can not have a path when defined in a location";
            return Err(Fault::new(message).at(0));
        }
        (None, 1) => {
            let message = "ProxyPassReverse needs a path when not defined in a location";
            return Err(Fault::new(message).at(0));
        }
        (None, 2) => (call.arg(0).to_owned(), 1),
        (None, _) => {
            let message = "ProxyPassReverse: the third argument can only be interpolate";
            return Err(Fault::new(message).at(2));
        }
    };
    let url = call.arg(url_index).to_owned();
    if !url.contains("://") && !url.starts_with('/') {
        let message = format!("ProxyPassReverse: no header begins with '{url}'");
        call.warn(
            Fault::new(message)
                .at(url_index)
                .help("expected a URL or a path"),
        );
    }
    let mark = call.mark(url_index);
    call.host().reverses.push(ReverseDraft {
        path,
        location,
        url,
        mark,
    });
    Ok(())
}

fn preserve_host(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().preserve_host = Some(call.flag()?);
    Ok(())
}

fn add_headers(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.host().add_headers = Some(call.flag()?);
    Ok(())
}

fn proxy_timeout(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let seconds = connection::number(call, 0);
    if seconds < 1 {
        return Err(Fault::new("Proxy Timeout must be at least 1 second.").at(0));
    }
    call.host().proxy_timeout = Some(Duration::from_secs(seconds.unsigned_abs()));
    Ok(())
}

fn proxy_requests(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.flag()? {
        return Err(Fault::new("ProxyRequests On: sluice is no forward proxy")
            .at(0)
            .help("what ProxyPass does needs no ProxyRequests; set it Off or remove it"));
    }
    Ok(())
}

fn proxy_via(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    match call.arg(0).to_ascii_lowercase().as_str() {
        "off" => Ok(()),
        "on" | "full" | "block" => Err(super::not_yet(&format!("ProxyVia {}", call.arg(0))).at(0)),
        _ => Err(Fault::new("ProxyVia must be one of: off | on | full | block").at(0)),
    }
}

/// The worker of a `<Proxy URL>` or `ProxySet URL`: covering it, or made where `make`.
pub(super) fn worker(
    call: &mut Call<'_, '_>,
    url: &WorkerUrl,
    mark: &Mark,
    make: bool,
) -> Option<usize> {
    let host = call.scope.host;
    let full = format!("{}{}", url.authority(), url.path);
    if let Some(index) = covering(&call.draft.hosts[host].workers, &full, url) {
        return Some(index);
    }
    if !make {
        return None;
    }
    let mut member: spec::Member = keys::member(url, call.place());
    member.url = full;
    member.path = String::new();
    let workers = &mut call.draft.hosts[host].workers;
    workers.push(WorkerDraft {
        member,
        mark: mark.clone(),
    });
    Some(workers.len() - 1)
}
