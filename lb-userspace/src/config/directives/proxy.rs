//! ProxyPass and what goes with it (apache.md 3.1, 3.2, 3.4 to 3.7).

use std::time::Duration;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Section, connection, keys, row};
use crate::{
    config::{
        draft::{Mark, ReverseDraft, RouteDraft, TargetDraft, WorkerDraft},
        spec,
        url::WorkerUrl,
    },
    pattern::Pattern,
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "ProxyPass",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Any,
        "[~] PATH !|URL [KEY=VALUE ...] [nocanon]",
        "sends requests below PATH to a URL or a balancer://; the first that matches counts, ! sends them nowhere. In <Location> the path is left out. Keys are those of a member, for balancer:// those of a balancer",
        Effect::Apply(proxy_pass),
    ),
    row(
        "ProxyPassMatch",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Any,
        "REGEX !|URL [KEY=VALUE ...] [nocanon]",
        "as ProxyPass for paths that a regular expression matches anywhere; $1 in the path of URL is what its first group matched, without such the whole path is put behind URL. As ProxyPass ~",
        Effect::Apply(proxy_pass_match),
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
        "ProxyPassReverseCookiePath",
        Contexts::ALL,
        Arity::TwoOrThree,
        "INTERNAL PUBLIC",
        "cookies of responses whose path begins with INTERNAL get PUBLIC as their path",
        Effect::Apply(cookie_path),
    ),
    row(
        "ProxyPassReverseCookieDomain",
        Contexts::ALL,
        Arity::TwoOrThree,
        "INTERNAL PUBLIC",
        "cookies of responses whose domain begins with INTERNAL get PUBLIC as their domain",
        Effect::Apply(cookie_domain),
    ),
    row(
        "ProxyPreserveHost",
        Contexts::ALL,
        Arity::Flag,
        "On|Off",
        "whether members get the client's Host instead of their own",
        Effect::Apply(preserve_host),
    )
    .or("Off"),
    row(
        "ProxyAddHeaders",
        Contexts::ALL,
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
        "ProxyPassInherit",
        Contexts::SERVER,
        Arity::Flag,
        "On|Off",
        "in httpd whether a virtual host has the main server's ProxyRemote lines: those of ProxyPass it always has",
        Effect::Apply(inherit),
    )
    .or("On"),
    row(
        "BalancerInherit",
        Contexts::SERVER,
        Arity::Flag,
        "On|Off",
        "in httpd, with ProxyPassInherit Off too, whether a virtual host knows the main server's balancers: here it always does",
        Effect::Apply(inherit),
    )
    .or("On"),
    row(
        "ProxyPassInterpolateEnv",
        Contexts::ALL,
        Arity::Flag,
        "Off",
        "whether ${NAME} in a ProxyPass with interpolate is a variable of each request",
        Effect::Only(&["Off"]),
    )
    .or("Off"),
    row(
        "ProxyBadHeader",
        Contexts::SERVER,
        Arity::One,
        "IsError",
        "what a member's field without a colon is: an error, answered with 502",
        Effect::Only(&["IsError"]),
    )
    .or("IsError"),
    row(
        "Proxy100Continue",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Flag,
        "On",
        "whether Expect: 100-continue reaches members",
        Effect::Only(&["On"]),
    )
    .or("On"),
    row(
        "ProxyWebsocketFallbackToProxyHttp",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Flag,
        "On",
        "whether requests to ws:// members that ask for no WebSocket are plain requests",
        Effect::Only(&["On"]),
    )
    .or("On"),
    row(
        "ProxyIOBufferSize",
        Contexts::SERVER,
        Arity::One,
        "BYTES",
        "buffers of httpd's proxy",
        BUFFERS,
    ),
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
        "Off|On|Full|Block",
        "what becomes of Via: nothing; this host is added, Full with the software's name; those of requests are removed",
        Effect::Apply(proxy_via),
    )
    .or("Off"),
    row(
        "ProxyMaxForwards",
        Contexts::SERVER,
        Arity::One,
        "NUMBER",
        "Max-Forwards for requests without one; below 0: none",
        Effect::Apply(max_forwards),
    )
    .or("-1"),
];

const BUFFERS: Effect =
    Effect::Notice("buffers of httpd's proxy are not configured: responses stream as they come");

fn proxy_pass(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let is_pattern = call.is_for_server() && call.arg(0) == "~";
    pass(call, is_pattern, usize::from(is_pattern))
}

fn proxy_pass_match(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    pass(call, true, 0)
}

/// A ProxyPass whose words begin at `first`.
fn pass(call: &mut Call<'_, '_>, is_pattern: bool, first: usize) -> Result<(), Fault> {
    let location = match &call.scope.section {
        Section::Location(path) => Some((path.clone(), None)),
        Section::LocationMatch(pattern) => Some((pattern.text().to_owned(), Some(pattern.clone()))),
        Section::Wildcard => {
            return Err(super::not_yet("ProxyPass in a <Location> with wildcards"));
        }
        _ => None,
    };
    let mut words = first..call.count();
    let (path, pattern) = if let Some((path, pattern)) = &location {
        let second = call.arg(1);
        if call.count() > 1 && !second.contains('=') && !is_option(second) {
            let message =
                "ProxyPass|ProxyPassMatch can not have a path when defined in a location.";
            return Err(Fault::new(message).at(0));
        }
        let pattern = match (pattern, is_pattern) {
            // In a plain <Location> ProxyPassMatch takes its path as an expression.
            (None, true) => Some(compile(path, 0)?),
            (pattern, _) => pattern.clone(),
        };
        (path.clone(), pattern)
    } else {
        let index = words.next().unwrap_or_default();
        let path = call.arg(index).to_owned();
        let pattern = if is_pattern {
            Some(compile(&path, index)?)
        } else {
            None
        };
        (path, pattern)
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
    let mark = call.mark(if location.is_some() { url_index } else { first });
    let target = if url == "!" {
        if let Some((index, ..)) = params.first() {
            call.warn(Fault::new("parameters of a ProxyPass to ! do nothing").at(*index));
        }
        TargetDraft::Local
    } else if let Some((name, tail)) = balancer_name(&url) {
        // Groups of a pattern make up the path, with or without a slash before them.
        let (name, tail) = match name.split_once('$') {
            Some((plain, _)) if pattern.is_some() => {
                let from = url.find('$').unwrap_or(url.len());
                (plain.to_owned(), &url[from..])
            }
            _ => (name, tail),
        };
        if name.is_empty() {
            return Err(super::not_yet("a balancer named by a group of a pattern").at(url_index));
        }
        if pattern.is_none() {
            check_slashes(call, &path, tail, url_index);
        }
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
        let whole = url.split_once('$').filter(|_| pattern.is_some());
        let (base, groups) = match whole {
            Some((base, _)) => (base, &url[base.len()..]),
            None => (url.as_str(), ""),
        };
        let shown = if pattern.is_some() { "" } else { path.as_str() };
        let mut target = direct(call, shown, base, url_index, &params)?;
        if let TargetDraft::Worker { path, .. } = &mut target {
            path.push_str(groups);
        }
        target
    };
    if location.is_none() && pattern.is_none() && !path.starts_with('/') {
        let message = format!("ProxyPass {path} matches no request");
        call.warn(Fault::new(message).at(0).help("paths begin with a slash"));
    }
    let route = RouteDraft {
        path,
        pattern,
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

fn compile(text: &str, index: usize) -> Result<Pattern, Fault> {
    Pattern::new(text, false)
        .map_err(|_| Fault::new("Regular expression could not be compiled.").at(index))
}

fn cookie_path(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let pair = cookie_words(call)?;
    call.policy().cookie_paths.push(pair);
    Ok(())
}

fn cookie_domain(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let pair = cookie_words(call)?;
    call.policy().cookie_domains.push(pair);
    Ok(())
}

fn cookie_words(call: &Call<'_, '_>) -> Result<(String, String), Fault> {
    if call.count() == 3 {
        let name = call.row.name;
        return Err(super::not_yet(&format!("{name} interpolate")).at(2));
    }
    Ok((call.arg(0).to_owned(), call.arg(1).to_owned()))
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
pub(crate) fn covering(workers: &[WorkerDraft], url: &str, parsed: &WorkerUrl) -> Option<usize> {
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
        Section::LocationMatch(_) | Section::Wildcard => {
            return Err(super::not_yet(
                "ProxyPassReverse in a <Location> with a pattern",
            ));
        }
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
    let flag = Some(call.flag()?);
    if call.is_for_server() {
        call.host().preserve_host = flag;
    } else {
        call.policy().preserve_host = flag;
    }
    Ok(())
}

fn add_headers(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let flag = Some(call.flag()?);
    if call.is_for_server() {
        call.host().add_headers = flag;
    } else {
        call.policy().add_headers = flag;
    }
    Ok(())
}

fn inherit(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if !call.flag()? {
        let message = format!(
            "{} Off does nothing: virtual hosts have the main server's ProxyPass lines and balancers, in httpd 2.4 as well",
            call.row.name
        );
        let help = "to keep them from a virtual host, write them into the others";
        call.warn(Fault::new(message).at(0).help(help));
    }
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
    let via = match call.arg(0).to_ascii_lowercase().as_str() {
        "off" => spec::Via::Off,
        "on" => spec::Via::On,
        "full" => spec::Via::Full,
        "block" => spec::Via::Block,
        _ => {
            let message = "ProxyVia must be one of: off | on | full | block";
            return Err(Fault::new(message).at(0));
        }
    };
    call.host().via = Some(via);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn max_forwards(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let number = connection::number(call, 0);
    call.host().max_forwards = Some(number);
    Ok(())
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
