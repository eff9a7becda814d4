//! ProxyPass and what goes with it (apache.md 3.1, 3.2, 3.4 to 3.7).

use std::time::Duration;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Section, connection, keys, row};
use crate::config::{
    draft::{Mark, ReverseDraft, WorkerDraft},
    spec::{self, BadHeader, policy::CookieRule},
    url::WorkerUrl,
    value,
};

mod pass;

pub(crate) use pass::{balancer_name, covering};

pub(super) const TABLE: &[Directive] = &[
    row(
        "ProxyPass",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Any,
        "[~] PATH !|URL [KEY=VALUE ...] [nocanon] [interpolate] [mapping=encoded|servlet]",
        "sends requests below PATH to a URL or a balancer://; the first that matches counts, ! sends them nowhere. In <Location> the path is left out. Keys are those of a member, for balancer:// those of a balancer. With mapping= paths are compared, and sent on, as they were received, before any other ProxyPass is asked; servlet leaves parameters of segments (;v=1) out of the comparison. interpolate: ${NAME} in the path of URL is a variable of the request",
        Effect::Apply(pass::proxy_pass),
    ),
    row(
        "ProxyPassMatch",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Any,
        "REGEX !|URL [KEY=VALUE ...] [nocanon] [interpolate] [mapping=encoded|servlet]",
        "as ProxyPass for paths that a regular expression matches anywhere; $1 in the path of URL is what its first group matched, without such the whole path is put behind URL. As ProxyPass ~",
        Effect::Apply(pass::proxy_pass_match),
    ),
    row(
        "ProxyPassReverse",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::OneToThree,
        "PATH URL [interpolate]",
        "rewrites Location, Content-Location, URI and Destination of responses that begin with URL; in <Location> the path is left out",
        Effect::Apply(proxy_pass_reverse),
    ),
    row(
        "ProxyPassReverseCookiePath",
        Contexts::ALL,
        Arity::TwoOrThree,
        "INTERNAL PUBLIC [interpolate]",
        "cookies of responses whose path begins with INTERNAL get PUBLIC as their path",
        Effect::Apply(cookie_path),
    ),
    row(
        "ProxyPassReverseCookieDomain",
        Contexts::ALL,
        Arity::TwoOrThree,
        "INTERNAL PUBLIC [interpolate]",
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
        "On|Off",
        "whether ${NAME} in lines with interpolate is a variable of each request: for ProxyPass one that SetEnvIf or RewriteRule outside of sections set, and other sections than <Location> do not count; for ProxyPassReverse and its kin those of sections too",
        Effect::Apply(interpolate_env),
    )
    .or("Off"),
    row(
        "ProxyBadHeader",
        Contexts::SERVER,
        Arity::One,
        "IsError|Ignore|StartBody",
        "what a line without a colon in the head of a member's response is: an error, answered with 502; nothing; the first of the body",
        Effect::Apply(bad_header),
    )
    .or("IsError"),
    row(
        "Proxy100Continue",
        Contexts::SERVER.and(Contexts::LOCATION),
        Arity::Flag,
        "On|Off",
        "whether Expect: 100-continue reaches members; Off: sluice answers it, and members get the body at once",
        Effect::Apply(forward_expect),
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
        "ProxyReceiveBufferSize",
        Contexts::SERVER,
        Arity::One,
        "BYTES",
        "default of receivebuffersize= of members: at least 512, or 0 for the system's",
        Effect::Apply(receive_buffer),
    )
    .or("0"),
    row(
        "ProxySourceAddress",
        Contexts::SERVER,
        Arity::One,
        "ADDRESS",
        "IP address of this host that connections to members come from, health checks included; those to members of the other family do not",
        Effect::Apply(source_address),
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

fn interpolate_env(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.policy().interpolate = Some(call.flag()?);
    Ok(())
}

fn bad_header(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let bad = match call.arg(0).to_ascii_lowercase().as_str() {
        "iserror" => BadHeader::IsError,
        "ignore" => BadHeader::Ignore,
        "startbody" => BadHeader::StartBody,
        _ => {
            let message = "ProxyBadHeader must be one of: IsError | Ignore | StartBody";
            return Err(Fault::new(message).at(0));
        }
    };
    call.host().bad_header = Some(bad);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn cookie_path(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let rule = cookie_rule(call);
    call.policy().cookie_paths.push(rule);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn cookie_domain(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let rule = cookie_rule(call);
    call.policy().cookie_domains.push(rule);
    Ok(())
}

fn cookie_rule(call: &Call<'_, '_>) -> CookieRule {
    CookieRule {
        internal: call.arg(0).to_owned(),
        public: call.arg(1).to_owned(),
        // As in httpd, whatever it is.
        interpolate: call.count() == 3,
    }
}

fn proxy_pass_reverse(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let location = match &call.scope.section {
        Section::Location(path) => Some(path.clone()),
        Section::LocationMatch(_) | Section::Wildcard(_) => {
            let message = "ProxyPassReverse does nothing in a section with a pattern: httpd puts the text of the pattern into places";
            let help = "write it outside of the section: ProxyPassReverse PATH URL";
            call.warn(Fault::new(message).help(help));
            return Ok(());
        }
        _ => None,
    };
    let last = call.count() - 1;
    let interpolate = last > 0 && call.arg(last).eq_ignore_ascii_case("interpolate");
    let (path, url_index) = match (&location, call.count() - usize::from(interpolate)) {
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
        interpolate,
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

fn receive_buffer(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let why = "ProxyReceiveBufferSize must be >= 512 bytes, or 0 for system default.";
    let given = value::atoi(call.arg(0));
    let bytes = u32::try_from(given).map_err(|_| Fault::new(why).at(0))?;
    if (1..512).contains(&bytes) {
        return Err(Fault::new(why).at(0));
    }
    let mark = call.mark(0);
    call.host().receive_buffer = Some(((bytes > 0).then_some(bytes), mark));
    Ok(())
}

fn source_address(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0).trim_matches(['[', ']']);
    let address = text.parse::<std::net::IpAddr>().map_err(|_| {
        Fault::new("ProxySourceAddress invalid value")
            .at(0)
            .help("sluice looks up no names here: give an IP address")
    })?;
    let mark = call.mark(0);
    call.host().source_address = Some((address, mark));
    Ok(())
}

fn forward_expect(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let flag = Some(call.flag()?);
    if call.is_for_server() {
        call.host().forwards_expect = flag;
    } else {
        call.policy().forwards_expect = flag;
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
        let message = if call.row.name == "BalancerInherit" {
            "BalancerInherit Off does nothing: virtual hosts have the main server's balancers, which httpd hides from them where ProxyPassInherit is Off as well"
        } else {
            "ProxyPassInherit Off does nothing: virtual hosts have the main server's ProxyPass lines, in httpd 2.4 as well"
        };
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
