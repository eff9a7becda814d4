//! ProxyPass and ProxyPassMatch (apache.md 3.1).

use super::super::{Call, Fault, Section, keys};
use crate::{
    config::{
        draft::{RouteDraft, TargetDraft, WorkerDraft},
        spec::Mapping,
        url::WorkerUrl,
    },
    pattern::Pattern,
};

pub(super) fn proxy_pass(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let is_pattern = call.is_for_server() && call.arg(0) == "~";
    pass(call, is_pattern, usize::from(is_pattern))
}

pub(super) fn proxy_pass_match(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    pass(call, true, 0)
}

/// A ProxyPass whose words begin at `first`.
fn pass(call: &mut Call<'_, '_>, is_pattern: bool, first: usize) -> Result<(), Fault> {
    let location = match &call.scope.section {
        Section::Location(path) => Some((path.clone(), None)),
        Section::LocationMatch(pattern) => Some((pattern.text().to_owned(), Some(pattern.clone()))),
        Section::Wildcard(path) => Some((path.clone(), Some(wildcard(call, path)?))),
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
    let (mut nocanon, mut interpolate) = (false, false);
    let mut mapping = Mapping::default();
    let mut params = Vec::new();
    for index in words {
        let word = call.arg(index);
        match word.to_ascii_lowercase().as_str() {
            "nocanon" => nocanon = true,
            "interpolate" => interpolate = true,
            "noquery" => {
                let message = "noquery has no effect on the query, as in httpd";
                call.warn(Fault::new(message).at(index));
            }
            "mapping=servlet" => mapping = Mapping::Servlet,
            // As in httpd, servlet stays what it is.
            "mapping=encoded" if mapping == Mapping::Servlet => {}
            "mapping=encoded" => mapping = Mapping::Encoded,
            other if other.starts_with("mapping=") => {
                return Err(Fault::new("unknown mapping").at(index).help(
                    "expected mapping=encoded or mapping=servlet; without it paths are decoded",
                ));
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
    let filled = interpolate.then(|| filled(&path, &url)).transpose()?;
    if mapping != Mapping::Decoded && nocanon {
        let message =
            "nocanon does nothing with mapping=: paths are sent as they were received anyway";
        call.warn(Fault::new(message).at(url_index));
    }
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
            return Err(
                super::super::not_yet("a balancer named by a group of a pattern").at(url_index),
            );
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
        let base = match filled {
            Some(Some(at)) => at,
            _ if pattern.is_some() => url.find('$').unwrap_or(url.len()),
            _ => url.len(),
        };
        let (base, groups) = url.split_at(base);
        let is_plain = pattern.is_none() && groups.is_empty();
        let shown = if is_plain { path.as_str() } else { "" };
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
        mapping,
        interpolate,
        mark,
    };
    if location.is_some() {
        call.host().location_routes.push(route);
    } else {
        call.host().routes.push(route);
    }
    Ok(())
}

/// Where in a ProxyPass with `interpolate` a URL begins to be filled in, if it does.
fn filled(path: &str, url: &str) -> Result<Option<usize>, Fault> {
    if path.contains("${") {
        return Err(
            super::super::not_yet("a path of ProxyPass that a request makes up")
                .at(0)
                .help("write the path; what follows it is put behind the URL"),
        );
    }
    let Some(at) = url.find("${") else {
        return Ok(None);
    };
    let host = url.find("://").map_or(0, |at| at + "://".len());
    if at < host || !url[host..at].contains('/') {
        let message = "ProxyPass interpolate needs a URL whose scheme and host stand in the file";
        return Err(Fault::new(message).at(1).help(
            "write ${NAME} behind the slash after the host: a request must not choose whom sluice speaks to",
        ));
    }
    Ok(Some(at))
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

/// What a ProxyPass within `<Location>` with wildcards is for. As in httpd (measured) a path has to match
/// twice: as a shell pattern, for it is in the section, and as a regular expression.
fn wildcard(call: &mut Call<'_, '_>, path: &str) -> Result<Pattern, Fault> {
    let message = format!(
        "as in httpd this ProxyPass is for paths that {path} matches as a shell pattern and as a regular expression"
    );
    let help = "write <LocationMatch>, or ProxyPassMatch outside of sections";
    call.warn(Fault::new(message).help(help));
    compile(path, 0)?;
    compile(&format!("\\A(?={}\\z).*?(?:{path})", shell(path)), 0)
}

/// A shell pattern as a regular expression; its wildcards match no slash.
fn shell(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => {
                let text = rest.as_str();
                let inner = text.strip_prefix(['!', '^']).unwrap_or(text);
                // A bracket that comes first is one of the class.
                let first = inner.chars().next().map_or(0, char::len_utf8);
                let Some(end) = inner[first..].find(']') else {
                    out.push_str("\\[");
                    continue;
                };
                let class = &inner[..first + end];
                let negated = if inner.len() < text.len() { "^" } else { "" };
                let escaped = |c: char| {
                    if "\\[]^&~".contains(c) {
                        format!("\\{c}")
                    } else {
                        c.to_string()
                    }
                };
                let class: String = class.chars().map(escaped).collect();
                for part in ["(?!/)[", negated, &class, "]"] {
                    out.push_str(part);
                }
                let after = text.len() - inner.len() + first + end + 1;
                rest = text[after..].chars();
            }
            '\\' => {
                let escaped = rest.next().unwrap_or('\\');
                literal(&mut out, escaped);
            }
            c => literal(&mut out, c),
        }
    }
    out
}

fn literal(out: &mut String, c: char) {
    if ".+*?()[]{}|^$\\".contains(c) {
        out.push('\\');
    }
    out.push(c);
}

fn compile(text: &str, index: usize) -> Result<Pattern, Fault> {
    Pattern::new(text, false)
        .map_err(|_| Fault::new("Regular expression could not be compiled.").at(index))
}
